"""Take correlation traps out of a model: lower the elements that make them, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spectral.analysis import analyze
from spectral.noise import level_of_each
from spectral.options import FALSE_ALARM_RATE
from spectral.permutation import generator_for, scrambled
from spectral.sharpness import clip_permuted
from spectral.transforms import Replacement, transform_model
from spectral.traps import MAX_TRAPS, PURPOSE, find_strays, leading_of, permuted_slice, trap_test

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from spectral.analysis import Analysis
    from spectral.transforms import TransformedModel
    from spectral.weights import WeightMatrix


def remove_traps(
    model: object,
    *,
    layers: Iterable[int | str] = (),
    seed: int = 0,
    false_alarm_rate: float = FALSE_ALARM_RATE,
    spread: bool = False,
    inplace: bool = False,
    n_workers: int | None = None,
) -> TransformedModel:
    """Lower the elements that make correlation traps, and leave everything else as it is.

    The traps are those of :func:`analyze_traps` with the same options. An element makes one where the distribution of
    the others does not make it likely and it is large enough for an eigenvalue of its own. It gets the median magnitude
    of the elements of its slice that are not zero, and keeps its sign: what it should have been is not known, and a
    typical value does the least harm.

    Parameters
    ----------
    model : torch.nn.Module, keras.Model, mapping of str to torch tensor or ndarray, or path
        Left as it is, unless ``inplace``. A checkpoint on disk is read, nothing in it is executed, and no file written.
    layers, seed, false_alarm_rate, n_workers
        As for :func:`analyze_traps`. Without ``layers`` every outlier of the model is lowered, also those that it
        needs: many language models have weights a hundred times larger than the others.
    spread : bool
        Also lower traps that no few elements make (an offset, many elements a little too large): in the permutation in
        which it was found, the singular value of such a trap is lowered to the largest one that is no trap. This
        changes nearly every weight of the layer.
    inplace : bool
        Change the model itself.

    Returns
    -------
    TransformedModel
        ``.model``, of a path its state dict; and ``.changes`` with the number of weights that changed in each layer,
        and the reason where a trap was left.

    Raises
    ------
    ModelError, OptionError
        As :func:`spectral.analyze` and :func:`spectral.transform_model`.
    """
    analysis = analyze(
        model, layers=layers, seed=seed, traps=True, false_alarm_rate=false_alarm_rate, n_workers=n_workers
    )
    transform = RemoveTraps(levels=_levels(analysis), seed=seed, spread=spread)
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
    spread : bool
        Also those that no few elements make.
    """

    levels: Mapping[str, float]
    seed: int
    spread: bool = False

    def __call__(self, matrix: WeightMatrix) -> Replacement:
        name = matrix.spec.name
        tested = [place for place, block in enumerate(matrix.slices) if bool(np.any(block))]
        slices, n_left = np.array(matrix.slices, order="C"), 0
        for index, place in enumerate(tested if name in self.levels else ()):
            level = level_of_each(self.levels[name], len(tested))
            slices[place], n_spread = _lower_strays(slices[place], self._draw(name, index), level)
            if n_spread and self.spread:
                slices[place] = _clip(slices[place], self._draw(name, index), n_spread)
            else:
                n_left += n_spread
        return Replacement(
            slices=slices, n_changed=int(np.count_nonzero(slices != matrix.slices)), reason=_why_left(n_left)
        )

    def _draw(self, name: str, index: int) -> _Draw:
        return _Draw(name=name, seed=self.seed, index=index)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draw:
    """What decides the permutation of a slice."""

    name: str
    seed: int
    index: int

    def origin(self, shape: tuple[int, ...]) -> NDArray[np.intp]:
        """Return for each place of the permuted slice, in C order, where its element comes from."""
        places = np.arange(int(np.prod(shape))).reshape(shape)
        return scrambled(places, generator_for(self.seed, self.name, PURPOSE, self.index)).ravel()


def _lower_strays(block: NDArray[Any], draw: _Draw, level: float) -> tuple[NDArray[Any], int]:
    """Return a slice without elements that make traps, and the number of traps that are left.

    Where the largest are gone others may stand out: the test is made anew until it finds none.
    """
    values = np.array(block, order="C")
    was_lowered = np.zeros(block.size, dtype=bool)
    while True:
        permuted = permuted_slice(values, name=draw.name, seed=draw.seed, index=draw.index)
        n_traps = trap_test(permuted, leading_of(permuted)).n_traps(level)
        # A count that is full may stand for any number.
        n_most = n_traps if n_traps < MAX_TRAPS else block.size
        strays = draw.origin(block.shape)[find_strays(permuted, level, n_most)]
        strays = strays[~was_lowered[strays]]
        if not len(strays):
            return values, n_traps
        was_lowered[strays] = True
        values.ravel()[strays] = np.copysign(_typical_magnitude(values), values.ravel()[strays].astype(np.float64))


def _typical_magnitude(values: NDArray[Any]) -> float:
    magnitudes = np.abs(values.astype(np.float64))
    return float(np.median(magnitudes[magnitudes > 0.0]))


def _clip(block: NDArray[Any], draw: _Draw, n_traps: int) -> NDArray[Any]:
    return clip_permuted(block, permutation=draw.origin(block.shape), n_traps=n_traps)


def _why_left(n_left: int) -> str | None:
    if not n_left:
        return None
    are = "1 trap is" if n_left == 1 else f"{n_left} traps are"
    return f"{are} made by no few weights and left as found (spread=True lowers such, and changes nearly every weight)"


def _levels(analysis: Analysis) -> dict[str, float]:
    """Layer name -> level of significance that the run leaves it, for the layers that have traps."""
    run = analysis.trap_p_values
    return {
        layer.name: run.level_of(position, layer.traps.p_value)
        for position, layer in enumerate(analysis.layers)
        if layer.traps is not None and run.is_alarm(position)
    }
