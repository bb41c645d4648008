"""Values of quantised weights as an ONNX model computes them: (code - zero point) · scale, a piece at a time.

The arithmetic is that of the operators, in float32 as onnxruntime has it, rounded once to the type of the result:
https://github.com/onnx/onnx/blob/main/docs/Operators.md#DequantizeLinear.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from spectral.loaders.dtypes import numpy_dtype
from spectral.loaders.onnx_tensor import unpack_bits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from spectral.loaders.onnx_tensor import StoredValues
    from spectral.loaders.protocol import Quantization

CHUNK_VALUES = 1 << 20
"""How many values are computed at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Factor:
    """Scales or zero points: one for each block of values.

    Attributes
    ----------
    tensor : str
        The tensor that holds them.
    grid : tuple of int
        How many blocks there are along each axis of the values; 1 is for all.
    block : tuple of int
        Length of a block along each axis.
    bits : int
        Bits of one of them where they are packed into bytes; otherwise 0.
    n_stored : int
        How many of them a row takes that is packed, to whole bytes.
    order : tuple of int
        For each axis of the values, which one of the scales as stored it is; empty where they are the same.
    index : str
        A tensor that gives the block of each place along the last axis; empty where they follow one another.
    """

    tensor: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    bits: int = 0
    n_stored: int = 0
    order: tuple[int, ...] = ()
    index: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How the values of a tensor come from its codes.

    Attributes
    ----------
    codes : str
        The tensor that holds the codes.
    shape : tuple of int
        Shape of the values.
    view : tuple of int
        Shape with as many values along whose axes the blocks lie.
    dtype : str
        Type of the values.
    quantization : Quantization
        What to say of it.
    scales : tuple of Factor
        Factors of each value, multiplied one after the other.
    zero : Factor, optional
        Zero points.
    zero_value : int
        The zero point where there is no tensor of them.
    is_division : bool
        Whether values are divided by the scales.
    code_bits : int
        Bits of a code where the tensor holds bytes that several share; otherwise 0.
    n_stored : int
        Codes that a row takes which is filled up to whole blocks; 0 where it is not.
    levels : tuple of float
        What codes stand for, where not for themselves.
    is_high_first : bool
        Whether of the two codes of a byte the one in the high bits comes first.
    rounded_to : str
        The type that float values are rounded to first, as a model does that was trained so; otherwise empty.
    clip : (low, high), optional
        What codes are clipped to after they were rounded.
    """

    codes: str
    shape: tuple[int, ...]
    view: tuple[int, ...]
    dtype: str
    quantization: Quantization
    scales: tuple[Factor, ...] = ()
    zero: Factor | None = None
    zero_value: int = 0
    is_division: bool = False
    code_bits: int = 0
    n_stored: int = 0
    levels: tuple[float, ...] = field(default=(), repr=False)
    is_high_first: bool = False
    rounded_to: str = ""
    clip: tuple[float, float] | None = None

    @property
    def n_values(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


def dequantize(
    recipe: Recipe, tensors: Mapping[str, StoredValues], begin: int = 0, end: int | None = None
) -> NDArray[Any]:
    """Return values from one flat position to another, one-dimensional.

    Parameters
    ----------
    recipe : Recipe
        How they are computed.
    tensors : mapping of str to StoredValues
        All tensors of the file.
    begin, end : int
        Flat positions in the result.
    """
    import numpy as np

    end = recipe.n_values if end is None else end
    result = np.empty(end - begin, dtype=numpy_dtype(recipe.dtype))
    kind = np.float64 if recipe.dtype == "float64" else np.float32
    read_codes = _code_reader(recipe, tensors)
    scales = [(factor, *_read_factor(factor, tensors)) for factor in recipe.scales]
    zero = None if recipe.zero is None else (recipe.zero, *_read_factor(recipe.zero, tensors))
    for first, ranges in _chunks(recipe.view, begin, end):
        last = first + math.prod(high - low for low, high in ranges)
        shape = tuple(high - low for low, high in ranges)
        # What is outside the model's range is infinite or NaN in the model as here: a finding of its layer.
        with np.errstate(all="ignore"):
            values = read_codes(first, last).astype(kind).reshape(shape)
            zeros: Any = recipe.zero_value if zero is None else _spread(zero, ranges).astype(kind)
            if recipe.rounded_to:
                values = _round(values, _spread(scales[0], ranges).astype(kind), zeros, recipe)
            values = np.subtract(values, zeros, out=values)
            for scale in scales:
                spread = _spread(scale, ranges).astype(kind)
                values = (
                    np.divide(values, spread, out=values)
                    if recipe.is_division
                    else np.multiply(values, spread, out=values)
                )
            kept = values.reshape(-1)[max(0, begin - first) : min(last, end) - first]
            result[max(0, first - begin) : max(0, first - begin) + kept.size] = kept
    return result


def _chunks(view: tuple[int, ...], begin: int, end: int) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Yield the pieces in which values are computed: the first flat position, and the range along each axis."""
    if begin >= end:
        return
    axis = 0
    while axis < len(view) - 1 and math.prod(view[axis + 1 :]) > CHUNK_VALUES:
        axis += 1
    inner = math.prod(view[axis + 1 :]) if view else 1
    length = view[axis] if view else 1
    n_steps = max(1, CHUNK_VALUES // inner)
    row = length * inner
    position = begin
    while position < end:
        outer, within = divmod(position, row)
        low = within // inner
        high = min(length, low + n_steps, -(-(end - outer * row) // inner))
        ranges = [(low, high), *((0, size) for size in view[axis + 1 :])] if view else []
        for size in reversed(view[:axis]):
            outer, place = divmod(outer, size)
            ranges.insert(0, (place, place + 1))
        first = position - within + low * inner
        yield first, ranges
        position = first + (high - low) * inner


def _code_reader(recipe: Recipe, tensors: Mapping[str, StoredValues]) -> Callable[[int, int], NDArray[Any]]:
    """Return a function that gives the codes from one flat position of the values to another."""
    import numpy as np

    stored = tensors[recipe.codes]
    whole = None if stored.is_raw else stored.read(recipe.codes)
    table = np.array(recipe.levels, dtype=np.float32)

    def read(begin: int, end: int) -> NDArray[Any]:
        if recipe.code_bits == 0:
            return stored.read(recipe.codes, begin, end) if whole is None else whole[begin:end]
        n_row, n_stored = recipe.view[-1], recipe.n_stored or recipe.view[-1]
        row, skipped = divmod(begin, n_row)
        last_row, rest = divmod(end, n_row)
        if n_stored == n_row:
            first, last = begin, end
        else:
            first, last = row * n_stored, (last_row + (rest > 0)) * n_stored
        per_byte = 8 // recipe.code_bits
        aligned = first // per_byte * per_byte
        until = -(-last // per_byte) * per_byte
        codes = _codes_of(stored, recipe, whole, aligned, until)[first - aligned : last - aligned]
        if n_stored != n_row:
            codes = codes.reshape(-1, n_stored)[:, :n_row].reshape(-1)[skipped : skipped + end - begin]
        return table[codes] if table.size else codes

    return read


def _codes_of(stored: StoredValues, recipe: Recipe, whole: NDArray[Any] | None, begin: int, end: int) -> NDArray[Any]:
    """Return codes that bytes share, from the beginning of one byte to the end of another."""
    import numpy as np

    bits = recipe.code_bits
    first, last = begin * bits // 8, end * bits // 8
    data = (stored.read(recipe.codes, first, last) if whole is None else whole[first:last]).view(np.uint8)
    codes = unpack_bits(data, bits)
    return codes.reshape(-1, 2)[:, ::-1].reshape(-1) if recipe.is_high_first else codes


def _read_factor(factor: Factor, tensors: Mapping[str, StoredValues]) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return scales or zero points in the shape of their grid, and the block of each place where that is given."""
    import numpy as np

    stored = tensors[factor.tensor]
    if factor.bits:
        codes = unpack_bits(stored.read(factor.tensor).view(np.uint8), factor.bits)
        values = codes.reshape(*factor.grid[:-1], factor.n_stored)[..., : factor.grid[-1]]
    else:
        order = factor.order or tuple(range(len(factor.grid)))
        as_stored = [factor.grid[order.index(axis)] for axis in range(len(order))]
        values = stored.read(factor.tensor).reshape(as_stored).transpose(order)
    index = tensors[factor.index].read(factor.index).astype(np.int64) if factor.index else None
    if index is not None and index.size:
        # A place outside names no block; onnxruntime checks it, too.
        index = index.clip(0, factor.grid[-1] - 1)
    return values, index


def _spread(read: tuple[Factor, NDArray[Any], NDArray[Any] | None], ranges: list[tuple[int, int]]) -> NDArray[Any]:
    """Return scales or zero points for a range of values, one for each or such that numpy spreads them."""
    import numpy as np

    factor, values, index = read
    for axis, (low, high) in enumerate(ranges):
        if index is not None and axis == len(ranges) - 1:
            values = np.take(values, index[low:high], axis=axis)
        elif factor.grid[axis] > 1:
            values = np.take(values, np.arange(low, high) // factor.block[axis], axis=axis)
    return values


def _round(values: NDArray[Any], scale: NDArray[Any], zeros: Any, recipe: Recipe) -> NDArray[Any]:
    """Return what QuantizeLinear makes of float values: to the nearest code, even ones first, within its range."""
    import numpy as np

    values, dtype = values / scale, recipe.rounded_to
    if dtype.startswith("float"):
        import ml_dtypes

        kind = numpy_dtype(dtype)
        most = float(ml_dtypes.finfo(kind).max)  # type: ignore[no-untyped-call]  # as ml_dtypes has it
        rounded: NDArray[Any] = np.clip(values, -most, most).astype(kind).astype(values.dtype)
        return rounded
    bits = int(dtype.lstrip("uint"))
    low, high = (0, (1 << bits) - 1) if dtype.startswith("u") else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    codes: NDArray[Any] = np.clip(np.rint(values) + zeros, low, high)
    return codes if recipe.clip is None else np.clip(codes, *recipe.clip)
