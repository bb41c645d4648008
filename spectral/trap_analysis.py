"""The correlation traps of a whole model: find them, name the elements that carry them, remove them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from spectral.analysis import analyze
from spectral.noise import level_of_each
from spectral.options import FALSE_ALARM_RATE
from spectral.permutation import generator_for, scrambled
from spectral.places import stored_index
from spectral.sharpness import clip_permuted
from spectral.transforms import Replacement, transform_model
from spectral.trap_report import describe_traps
from spectral.traps import PURPOSE, leading_of, permuted_slice, trap_test

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pandas as pd

    from spectral.analysis import Analysis
    from spectral.transforms import TransformedModel
    from spectral.trap_details import Trap
    from spectral.weights import MatrixSpec, WeightMatrix


@dataclass(frozen=True, kw_only=True, eq=False)
class TrapAnalysis:
    """Every correlation trap of a model.

    Attributes
    ----------
    analysis : Analysis
        Of the whole model, with ``traps``: also the layers without traps, and those that could not be tested.
    traps : mapping of str to tuple of Trap
        Layer name -> its traps, largest eigenvalue first within a slice; layers without traps are absent.
    """

    analysis: Analysis
    traps: Mapping[str, tuple[Trap, ...]]

    @cached_property
    def details(self) -> pd.DataFrame:
        """One row per trap; ``row``, ``column`` and ``value`` are those of the element that carries most of it.

        ``tensor`` and ``tensor_index`` are its place in the checkpoint: ``state_dict[tensor][tensor_index]`` is the
        value.
        """
        import pandas as pd

        specs = {layer.name: layer.spec for layer in self.analysis.layers}
        rows = [
            {
                "layer_id": specs[name].index,
                "longname": name,
                "slice_id": trap.slice_id,
                "eigenvalue": trap.eigenvalue,
                "p_value": trap.p_value,
                "cause": trap.cause,
                "share_top5": trap.share_top5,
                "share_top10": trap.share_top10,
                "inverse_participation_ratio": trap.inverse_participation_ratio,
                "overlap": trap.overlap,
                "row": trap.elements[0].row,
                "column": trap.elements[0].column,
                "value": trap.elements[0].value,
                "share": trap.elements[0].share,
                "tensor": specs[name].tensor,
                "tensor_index": _index(specs[name], trap),
            }
            for name, traps in self.traps.items()
            for trap in traps
        ]
        return pd.DataFrame(rows, columns=list(_COLUMNS))


_COLUMNS = (
    "layer_id",
    "longname",
    "slice_id",
    "eigenvalue",
    "p_value",
    "cause",
    "share_top5",
    "share_top10",
    "inverse_participation_ratio",
    "overlap",
    "row",
    "column",
    "value",
    "share",
    "tensor",
    "tensor_index",
)


def _index(spec: MatrixSpec, trap: Trap) -> tuple[int, ...]:
    """Return where the heaviest element of a trap stands in the stored tensor."""
    heaviest = trap.elements[0]
    return stored_index(spec, slice_id=trap.slice_id, row=heaviest.row, column=heaviest.column)


def analyze_traps(
    model: object,
    *,
    layers: Iterable[int | str] = (),
    seed: int = 0,
    false_alarm_rate: float = FALSE_ALARM_RATE,
    n_workers: int | None = None,
) -> TrapAnalysis:
    """Find the correlation traps of a model, and what carries them.

    Parameters
    ----------
    model : anything :func:`spectral.analyze` takes
        Nothing in a file is executed.
    layers : iterable of int and str
        Which layers; see :class:`spectral.Selection`.
    seed : int
        Of the permutations.
    false_alarm_rate : float
        Share of runs over models without traps that name one, over all layers together.
    n_workers : int, optional
        Number of threads; default one per core.

    Raises
    ------
    ModelError, OptionError
        As :func:`spectral.analyze`.
    """
    analysis = analyze(
        model, layers=layers, seed=seed, traps=True, false_alarm_rate=false_alarm_rate, n_workers=n_workers
    )
    traps = describe_traps(analysis, n_workers=n_workers)
    return TrapAnalysis(
        analysis=analysis, traps={analysis.layers[position].name: found for position, found in traps.items()}
    )


def remove_traps(
    model: object,
    *,
    layers: Iterable[int | str] = (),
    seed: int = 0,
    false_alarm_rate: float = FALSE_ALARM_RATE,
    inplace: bool = False,
    n_workers: int | None = None,
) -> TransformedModel:
    """Lower the elements that carry correlation traps until these are gone; leave everything else as it is.

    The traps are those of :func:`analyze_traps` with the same options. In the permutation in which it was found, the
    singular value of a trap is lowered to the largest one that is no trap, and the elements are put back.

    Parameters
    ----------
    model : torch.nn.Module, keras.Model or mapping of str to torch tensor or ndarray
        Left as it is, unless ``inplace``. Load a file first.
    layers, seed, false_alarm_rate, n_workers
        As for :func:`analyze_traps`.
    inplace : bool
        Change the model itself.

    Returns
    -------
    TransformedModel
        ``.model``, and ``.changes`` with the number of traps removed from each layer.

    Raises
    ------
    ModelError, OptionError
        As :func:`spectral.analyze` and :func:`spectral.transform_model`.
    """
    analysis = analyze(
        model, layers=layers, seed=seed, traps=True, false_alarm_rate=false_alarm_rate, n_workers=n_workers
    )
    transform = RemoveTraps(levels=_levels(analysis), seed=seed)
    return transform_model(model, transform, layers=layers, inplace=inplace, n_workers=n_workers)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveTraps:
    """Take the traps out of one layer; a :data:`~spectral.transforms.MatrixTransform`.

    Parameters
    ----------
    levels : mapping of str to float
        Layer name -> level at which its traps are counted; other layers have none.
    seed : int
        Of the permutations.
    """

    levels: Mapping[str, float]
    seed: int

    def __call__(self, matrix: WeightMatrix) -> Replacement:
        spec = matrix.spec
        if spec.name not in self.levels:
            return Replacement(slices=matrix.slices, n_changed=0)
        level = level_of_each(self.levels[spec.name], len(_tested(matrix)))
        slices = np.array(matrix.slices)
        n_changed = 0
        for index, place in enumerate(_tested(matrix)):
            block = matrix.slices[place]
            permuted = permuted_slice(block, name=spec.name, seed=self.seed, index=index)
            n_traps = trap_test(permuted, leading_of(permuted)).n_traps(level)
            if n_traps:
                origin = scrambled(
                    np.arange(block.size).reshape(block.shape), generator_for(self.seed, spec.name, PURPOSE, index)
                )
                slices[place] = clip_permuted(block, permutation=origin.ravel(), n_traps=n_traps)
                n_changed += n_traps
        return Replacement(slices=slices, n_changed=n_changed)


def _levels(analysis: Analysis) -> dict[str, float]:
    """Layer name -> level of significance that the run leaves it, for the layers that have traps."""
    run = analysis.trap_p_values
    return {
        layer.name: run.level_of(position, layer.traps.p_value)
        for position, layer in enumerate(analysis.layers)
        if layer.traps is not None and run.is_alarm(position)
    }


def _tested(matrix: WeightMatrix) -> list[int]:
    """Return the slices that were tested: those that are not all zero."""
    return [place for place, block in enumerate(matrix.slices) if bool(np.any(block))]
