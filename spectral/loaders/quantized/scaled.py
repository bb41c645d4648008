"""Weights of one byte each, with scales beside them: fp8 and int8, by tensor, channel, group or block.

The same few names serve many quantisers: ``weight_scale`` of compressed-tensors, ModelOpt, fbgemm and AutoFP8;
``weight_scale_inv`` of DeepSeek, which multiplies all the same; ``SCB`` of bitsandbytes, the largest magnitude of a
row; ``scale_weight`` of ComfyUI; ``_data`` and ``_scale`` of optimum-quanto; experts in one tensor with ``_scale``
behind its name. W = (codes - zero point)·scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from spectral.loaders.protocol import Quantization, TensorInfo
from spectral.loaders.quantized.codes import power_of_two
from spectral.loaders.quantized.recipe import spread

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from spectral.loaders.quantized.recipe import Reader
    from spectral.loaders.quantized.settings import Settings

_LENGTHS = (16, 32, 64, 128, 256, 512, 1024)
"""Lengths of blocks in use."""

CODES = frozenset({"int8", "uint8", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"})
SCALES = frozenset({"float32", "float16", "bfloat16", "float64", "float8_e8m0fnu"})

_SCALE_ENDINGS = ("_scale", "_scale_inv", "_scales")
_LARGEST_INT8 = 127.0

BLOCK = 128
"""Rows and columns that share a scale, where several lengths fit (DeepSeek-V3, arXiv 2412.19437, section 3.3.2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """One weight of bytes with scales.

    Attributes
    ----------
    info : TensorInfo
        The weight.
    codes, scales : str
        Names of tensors.
    zeros : str, optional
        Name of the zero points, which have the shape of the scales.
    block : tuple of int
        Lengths of what shares a scale.
    grid : tuple of int
        Number of blocks along each axis.
    divisor : float
        Of the scales: 127 where they are largest magnitudes.
    are_exponents : bool
        Scales are powers of two, stored as exponents in bytes.
    """

    info: TensorInfo
    codes: str
    scales: str
    block: tuple[int, ...]
    grid: tuple[int, ...]
    zeros: str | None = None
    divisor: float = 1.0
    are_exponents: bool = False
    beside: tuple[str, ...] = field(default=())

    @property
    def parts(self) -> Mapping[str, str]:
        found = {self.codes: "codes", self.scales: "scales"} | dict.fromkeys(self.beside, "mark of the format")
        return found | ({} if self.zeros is None else {self.zeros: "zero points"})

    def slab(self, read: Reader, begin: int, end: int) -> NDArray[np.float32]:
        import numpy as np

        codes = read.rows(self.codes, begin, end)
        values: NDArray[np.float32] = codes.astype(np.float32)
        if self.zeros is not None:
            values -= self._placed(read.floats(self.zeros), begin, values.shape)
        stored = read.whole(self.scales)
        scales = power_of_two(stored) if self.are_exponents else stored.astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            # Scales that are not finite are a finding of the layer.
            values *= self._placed(scales / np.float32(self.divisor), begin, values.shape)
        return values

    def _placed(self, scales: NDArray[np.float32], begin: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return what belongs to some rows, in a shape that numpy spreads over them."""
        grid = scales.reshape(self.grid)
        first = 0
        if self.grid[0] > 1:
            first, last = begin // self.block[0], -(-(begin + shape[0]) // self.block[0])
            grid = grid[first:last]
        if len(grid) == 1:
            return spread(grid, (1, *self.block[1:]), shape)
        return spread(grid, self.block, shape, offset=begin - first * self.block[0])


def find(infos: Mapping[str, TensorInfo], settings: Settings, read: Reader) -> Iterator[Scaled]:
    """Yield the weights of a checkpoint that are stored so."""
    for info in infos.values():
        if info.dtype in CODES and len(info.shape) >= 2 and info.n_values:
            made = _find_one(info, infos, settings, read)
            if made is not None:
                yield made


def _find_one(info: TensorInfo, infos: Mapping[str, TensorInfo], settings: Settings, read: Reader) -> Scaled | None:
    name = info.name
    stem = name.removesuffix("weight")
    target, divisor = name, 1.0
    scale_names = [name + ending for ending in _SCALE_ENDINGS]
    if stem != name:
        scale_names += [f"{stem}SCB", f"{stem}scale_weight"]
    elif name.endswith("._data"):
        target = name.removesuffix("._data")
        scale_names = [f"{target}._scale"]
    # By whichever scales fit: a tensor of scales for activations may have a name like these.
    for scale_name in scale_names:
        scale = infos.get(scale_name)
        is_exponent = scale is not None and scale.dtype == "uint8" and info.dtype.startswith("float8")
        if scale is None or not (scale.dtype in SCALES or is_exponent):
            continue
        placed = place_scales(info.shape, scale.shape, settings)
        if placed is None:
            continue
        block, grid = placed
        if scale_name.endswith("SCB"):
            if info.dtype != "int8":
                continue
            divisor = _LARGEST_INT8
            layout = infos.get(f"{stem}weight_format")
            if layout is not None and (layout.n_values != 1 or read.whole(layout.name).reshape(-1)[0] != 0):
                continue  # Tiles of a GPU: bitsandbytes' other formats.
        zero_name = next((f"{name}{ending}" for ending in ("_zero_point", "_zero") if f"{name}{ending}" in infos), None)
        zeros = infos.get(zero_name) if zero_name is not None else None
        if zeros is not None and zeros.shape != scale.shape:
            continue
        # Bytes without a sign are as often something else: half bytes, or fp8 by another name.
        if (info.dtype == "uint8" and zeros is None) or f"{name}_g_idx" in infos:
            continue
        beside = tuple(other for other in (f"{stem}weight_format",) if stem != name and other in infos)
        made = TensorInfo(
            name=target,
            shape=info.shape,
            dtype="float32",
            role=info.role,
            quantization=Quantization(
                scheme=_scheme(info.dtype, scale_name, settings),
                bits=_bits(info.dtype, settings),
                code="int" if info.dtype in ("int8", "uint8") else info.dtype,
                block=block,
                is_symmetric=zeros is None,
            ),
        )
        return Scaled(
            info=made,
            codes=name,
            scales=scale_name,
            zeros=zero_name,
            block=block,
            grid=grid,
            divisor=divisor,
            are_exponents=is_exponent,
            beside=beside,
        )
    return None


def _bits(dtype: str, settings: Settings) -> int:
    """Return the bits of a code: fewer than its byte where the configuration says so."""
    return settings.bits if settings.bits is not None and settings.bits < 8 and "int" in dtype else 8


def _scheme(dtype: str, scale_name: str, settings: Settings) -> str:
    short = {"int8": "int8", "uint8": "uint8"}.get(dtype, dtype.replace("float8", "fp8"))
    maker = "bitsandbytes" if scale_name.endswith("SCB") else settings.method
    return f"{maker} {short}".strip()


def place_scales(
    shape: tuple[int, ...], scales: tuple[int, ...], settings: Settings
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Return (block, grid): lengths of what shares a scale, and the number of blocks along each axis.

    None where scales of this shape do not fit.
    """
    n_scales = math.prod(scales)
    if n_scales == 0:
        return None
    if n_scales == 1:
        return shape, (1,) * len(shape)
    if len(scales) == 1:
        # One for each row; where experts are stacked, one for each of them.
        if scales[0] != shape[0]:
            return None
        return (1, *shape[1:]), (shape[0], *(1,) * (len(shape) - 1))
    if len(scales) < len(shape):
        # Kernels have one for each output, experts one for each of their rows.
        scales = (*scales, *(1,) * (len(shape) - len(scales)))
    if len(scales) != len(shape):
        return None
    hints = (None,) * (len(shape) - 2) + (settings.block or (None, None))
    block = tuple(_length(n, count, hint) for n, count, hint in zip(shape, scales, hints, strict=True))
    return None if any(length == 0 for length in block) else (block, scales)


def _length(n: int, count: int, hint: int | None) -> int:
    """Return how many of n values in a row share one of so many scales, or 0 where no length fits."""
    if count in (1, n):
        return n // count if n else 0
    if hint is not None:
        return hint if -(-n // hint) == count else 0
    fitting = [length for length in _LENGTHS if -(-n // length) == count]
    if BLOCK in fitting:
        return BLOCK
    if fitting:
        # Two lengths that fit say nothing.
        return fitting[0] if len(fitting) == 1 else 0
    length, rest = divmod(n, count)
    return length if rest == 0 and length >= _LENGTHS[0] else 0
