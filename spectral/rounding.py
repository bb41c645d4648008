"""What a quantised layer lost beside what its codes had to lose: rounding to the nearest level, and nothing else.

A weight w on levels that lie a step Δ apart is off by at most Δ/2, and in the mean of squares by Δ²/12 (Widrow and
Kollár, Quantization Noise, 2008, eq. 4.4). Rather than by this formula, which knows neither levels of unequal distance
nor small blocks, the floor is found by rounding the original itself: each block is scaled so that its largest weight
fits, and every weight goes to the nearest level. A quantiser that chose its scales well stays near that floor; one with
a wrong scale, a wrong order of codes or a lost block lies far above it, though its weights may still look small.

A channel is a row or a column. One with far larger weights than the others (an outlier channel: Dettmers et al. 2022,
arXiv 2208.07339, section 4) is what a quantiser clips first, and what a network misses most.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from spectral.loaders.protocol import Quantization

OUTLIER = 3.0
"""A channel is an outlier where its norm is so many times the median of all; never 0."""

KEPT = 0.9
"""Share of its norm that an outlier channel must keep."""

SCALE_NOISE = 2.0**-9
"""Relative error of a scale in bfloat16."""

_BLOCK_VALUES = 1 << 21

_NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
"""Levels of NF4 (Dettmers et al. 2023, arXiv 2305.14314, appendix E)."""

_FP4 = (0.0, 0.0052083333, 0.16666667, 0.25, 0.33333333, 0.5, 0.66666667, 1.0)
"""Magnitudes of bitsandbytes' FP4, as shares of the largest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """A quantised layer beside its original.

    Attributes
    ----------
    error : float
        ‖W - W'‖ / ‖W'‖, W' the original; >= 0.
    floor : float or None
        The same of W' rounded to the nearest levels of the stated kind; None where ``reason`` says why.
    reason : str
        Why there is no floor.
    row_excess : float or None
        The same ratio of the row that is worst; None without a floor.
    row : int
        Which one that is.
    n_clipped : int
        Outlier channels that lost more than a tenth of their norm.
    clipped : str
        The worst of them: ``column 12 kept 41% of its norm``; empty where there is none.
    """

    error: float
    floor: float | None
    reason: str = ""
    row_excess: float | None = None
    row: int = 0
    n_clipped: int = 0
    clipped: str = ""

    @property
    def excess(self) -> float | None:
        """Error over floor, about 1 for rounding to the nearest level; None without a floor.

        Scales of two bytes are rounded, too: a floor below :data:`SCALE_NOISE` counts as that.
        """
        return None if self.floor is None else self.error / max(self.floor, SCALE_NOISE)


def compare_rounding(
    weights: NDArray[Any], original: NDArray[Any], quantization: Quantization | None
) -> Rounding | None:
    """Compare the values of a quantised tensor with those of its original.

    Parameters
    ----------
    weights, original : ndarray, of one shape, two or more axes
        The tensor as the model computes with it, and as it was.
    quantization : Quantization or None
        How it is stored; None where the file does not say.

    Returns
    -------
    Rounding or None
        None where the original is zero, or either is not finite.
    """
    reason = why_no_floor(quantization)
    n_rows, n_columns = original.shape[0], math.prod(original.shape[1:])
    # Sums of squares by row: of what was lost, of what rounding loses.
    lost, floor = np.zeros(n_rows), np.zeros(n_rows)
    # By column and by row: of the original, of the weights, of the original rounded.
    columns, kept = np.zeros((3, n_columns)), np.zeros((3, n_rows))
    for rows in _blocks(original.shape, quantization):
        before = np.asarray(original[rows], dtype=np.float32)
        after = np.asarray(weights[rows], dtype=np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            rounded = before if reason or quantization is None else round_to_nearest(before, quantization)
            lost[rows], floor[rows] = (_energies(side) for side in (after - before, rounded - before))
            for index, side in enumerate((before, after, rounded)):
                flat = side.reshape(len(side), -1)
                columns[index] += np.einsum("ij,ij->j", flat, flat)
                kept[index, rows] = _energies(side)
    total = kept[0]
    if not (np.isfinite(total).all() and np.isfinite(lost).all() and total.sum() > 0.0):
        return None
    n_clipped, clipped = _clipped_channels({"row": np.sqrt(kept), "column": np.sqrt(columns)})
    # A row is measured in what rounding costs it, and in no less than what the scales of a typical row cost.
    least = np.maximum(floor, SCALE_NOISE**2 * np.maximum(total, np.median(total)))
    excess = np.sqrt(np.divide(lost, least, out=np.zeros(n_rows), where=least > 0.0))
    return Rounding(
        error=math.sqrt(lost.sum() / total.sum()),
        floor=None if reason else math.sqrt(floor.sum() / total.sum()),
        reason=reason,
        row_excess=None if reason else float(excess.max()),
        row=int(excess.argmax()),
        n_clipped=n_clipped,
        clipped=clipped,
    )


def why_no_floor(quantization: Quantization | None) -> str:
    """Return why the noise of rounding cannot be predicted; empty where it can."""
    if quantization is None:
        return "the checkpoint does not say that the layer is quantised"
    if quantization.block is None:
        return f"{quantization.scheme}: which weights share a scale is not a block of rows and columns"
    if _levels(quantization) is None and quantization.code != "int":
        return f"{quantization.scheme}: its levels are not known ({quantization.code})"
    if quantization.code == "int" and not float(quantization.bits).is_integer():
        return f"{quantization.scheme}: {quantization.bits:g} bits are no number of levels"
    return ""


def round_to_nearest(original: NDArray[np.float32], quantization: Quantization) -> NDArray[np.float32]:
    """Return values rounded to the nearest level, each block scaled so that its largest weight fits.

    Parameters
    ----------
    original : ndarray of float32
        Whole blocks along the first axis, but for the last.
    quantization : Quantization
        With a block, and levels that are known.
    """
    block = quantization.block
    assert block is not None, "whoever asks has seen to it"
    values, shape = original, original.shape
    lengths = [min(length, n) for length, n in zip(block, shape, strict=True)]
    padding = [(0, -n % length) for length, n in zip(lengths, shape, strict=True)]
    if any(after for _, after in padding):
        # Repeated values change neither the largest nor the smallest of a block.
        values = np.pad(values, padding, mode="edge")
    split = [part for length, n in zip(lengths, values.shape, strict=True) for part in (n // length, length)]
    blocks = values.reshape(split)
    inside = tuple(range(1, blocks.ndim, 2))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        rounded = (
            _round_integers(blocks, inside, quantization)
            if quantization.code == "int"
            else _round_to_levels(blocks, inside, quantization)
        )
    whole = rounded.reshape(values.shape)
    return whole[tuple(slice(0, n) for n in shape)]


def _round_integers(
    blocks: NDArray[np.float32], inside: tuple[int, ...], quantization: Quantization
) -> NDArray[np.float32]:
    n_steps = (1 << int(quantization.bits)) - 1
    if quantization.is_symmetric:
        largest = np.max(np.abs(blocks), axis=inside, keepdims=True)
        step = _no_zeros(largest / np.float32(max(n_steps // 2, 1)))
        symmetric: NDArray[np.float32] = np.rint(blocks / step) * step
        return symmetric
    low = np.minimum(np.min(blocks, axis=inside, keepdims=True), np.float32(0.0))
    high = np.maximum(np.max(blocks, axis=inside, keepdims=True), np.float32(0.0))
    step = _no_zeros((high - low) / np.float32(n_steps))
    zero = np.rint(-low / step)
    rounded: NDArray[np.float32] = (np.clip(np.rint(blocks / step) + zero, 0, n_steps) - zero) * step
    return rounded


def _round_to_levels(
    blocks: NDArray[np.float32], inside: tuple[int, ...], quantization: Quantization
) -> NDArray[np.float32]:
    levels = _levels(quantization)
    assert levels is not None, "whoever asks has seen to it"
    largest = np.max(np.abs(blocks), axis=inside, keepdims=True)
    scale: NDArray[np.float32]
    if "mxfp" in quantization.scheme.lower():
        # Powers of two, chosen by the exponents alone (OCP MX 1.0, section 6.3): the largest weight may be cut off.
        exponents = np.floor(np.log2(_no_zeros(largest))) - math.floor(math.log2(float(levels[-1])))
        scale = np.exp2(exponents).astype(np.float32)
    else:
        scale = _no_zeros(largest / levels[-1])
    middles = (levels[1:] + levels[:-1]) / np.float32(2.0)
    rounded: NDArray[np.float32] = levels[np.searchsorted(middles, blocks / scale)] * scale
    return rounded


def _levels(quantization: Quantization) -> NDArray[np.float32] | None:
    """Return the levels of a code in ascending order, symmetric or not; None where they are not known."""
    if quantization.code == "nf4":
        return np.array(_NF4, dtype=np.float32)
    if quantization.code == "fp4":
        return np.array(sorted({*_FP4, *(-level for level in _FP4)}), dtype=np.float32)
    return _small_float_levels(quantization.code)


def _small_float_levels(name: str) -> NDArray[np.float32] | None:
    import ml_dtypes

    dtype = getattr(ml_dtypes, name, None)
    if dtype is None or not name.startswith(("float8", "float6", "float4")) or "e8m0" in name:
        return None
    codes = np.arange(1 << int(name[len("float")]), dtype=np.uint8).view(dtype).astype(np.float32)
    return np.unique(codes[np.isfinite(codes)])


def _no_zeros(step: NDArray[np.float32]) -> NDArray[np.float32]:
    """Let a block of zeros be rounded to itself."""
    return np.where(step > 0.0, step, np.float32(1.0))


def _blocks(shape: tuple[int, ...], quantization: Quantization | None) -> Iterator[slice]:
    """Yield rows in groups that hold whole blocks."""
    n_each = max(1, math.prod(shape[1:]))
    height = 1 if quantization is None or quantization.block is None else quantization.block[0]
    step = max(1, _BLOCK_VALUES // (n_each * height)) * height
    for begin in range(0, shape[0], step):
        yield slice(begin, begin + step)


def _energies(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the sum of squares of every row."""
    flat = values.reshape(len(values), -1)
    energies: NDArray[np.float32] = np.einsum("ij,ij->i", flat, flat)
    return energies


def _clipped_channels(norms: Mapping[str, NDArray[np.float64]]) -> tuple[int, str]:
    """Count the outlier channels that were cut off, from norms of the original, the weights, the original rounded."""
    n_clipped, worst, text = 0, 1.0, ""
    for kind, (before, after, rounded) in norms.items():
        is_outlier = before > OUTLIER * np.median(before)
        # What the format cuts off by itself is no finding.
        share = np.divide(
            after, np.minimum(before, rounded), out=np.ones_like(before), where=is_outlier & (rounded > 0)
        )
        n_clipped += int(np.count_nonzero(share < KEPT))
        index = int(np.argmin(share))
        if share[index] < min(KEPT, worst):
            worst = float(share[index])
            text = f"{kind} {index} kept {after[index] / before[index]:.0%} of its norm"
    return n_clipped, text
