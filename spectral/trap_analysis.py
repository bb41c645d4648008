"""The correlation traps of a whole model: find them, and name the elements that carry them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from spectral.analysis import analyze
from spectral.options import FALSE_ALARM_RATE
from spectral.places import stored_index
from spectral.trap_report import describe_traps

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pandas as pd

    from spectral.analysis import Analysis
    from spectral.trap_details import Trap
    from spectral.weights import MatrixSpec


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
