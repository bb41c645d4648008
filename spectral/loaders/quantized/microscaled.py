"""Small floats in blocks with a scale each: MXFP4, MXFP6, NVFP4 (OCP Microscaling Formats 1.0; NVIDIA ModelOpt).

Two codes of four bits lie in a byte, the lower half first; six bits without a gap. The scale of a block along a row is
a power of two in a byte (E8M0, blocks of 32) or, for NVFP4, an fp8 number (blocks of 16) beside one scale for the
tensor, by which compressed-tensors divides (``weight_global_scale``) and ModelOpt multiplies (``weight_scale_2``).
gpt-oss stores experts as ``<name>_blocks`` (experts, outputs, blocks, bytes) and ``<name>_scales``, and computes with
the transpose of each (transformers, ``integrations/mxfp4.py``): W (experts, inputs, outputs).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from spectral.loaders.protocol import Quantization, TensorInfo
from spectral.loaders.quantized.codes import power_of_two, small_float_levels, unpack_bits

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from spectral.loaders.quantized.recipe import Reader
    from spectral.loaders.quantized.settings import Settings

LEVELS = {4: (2, 1), 6: (2, 3)}
"""Bits of a code -> of its exponent and its mantissa."""

_EXPONENTS = ("uint8", "float8_e8m0fnu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Microscaled:
    """One weight, or a stack of experts.

    Attributes
    ----------
    info : TensorInfo
        The weight as the model computes with it.
    codes, scales : str
        Names of tensors.
    bits : int
        Of a code.
    block : int
        Values along a row that share a scale.
    factor, divisor : str, optional
        Scale of the whole tensor.
    is_turned : bool
        Whether the last two axes are exchanged.
    """

    info: TensorInfo
    codes: str
    scales: str
    bits: int
    block: int
    factor: str | None = None
    divisor: str | None = None
    is_turned: bool = False

    @property
    def parts(self) -> Mapping[str, str]:
        found = {self.codes: "codes", self.scales: "scales"}
        return found | {name: "scale of the whole" for name in (self.factor, self.divisor) if name is not None}

    def slab(self, read: Reader, begin: int, end: int) -> NDArray[np.float32]:
        import numpy as np

        shape = self.info.shape
        inner = (*shape[1:-2], shape[-1], shape[-2]) if self.is_turned else shape[1:]
        packed = read.rows(self.codes, begin, end).view(np.uint8).reshape(end - begin, *inner[:-1], -1)
        levels = small_float_levels(*LEVELS[self.bits])
        values = levels[unpack_bits(packed, self.bits, inner[-1])]
        stored = read.rows(self.scales, begin, end)
        is_exponent = stored.dtype == np.uint8
        scales = power_of_two(stored) if is_exponent else stored.astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            if self.factor is not None:
                scales = scales * read.floats(self.factor).reshape(-1)[0]
            if self.divisor is not None:
                scales = scales / read.floats(self.divisor).reshape(-1)[0]
            blocks = values.reshape(end - begin, *inner[:-1], -1, self.block)
            blocks *= scales[..., np.newaxis]
        values = blocks.reshape(end - begin, *inner)
        return np.ascontiguousarray(np.swapaxes(values, -1, -2)) if self.is_turned else values


def find(infos: Mapping[str, TensorInfo], _settings: Settings, _read: Reader) -> Iterator[Microscaled]:
    """Yield the weights of a checkpoint that are stored so."""
    for name, info in infos.items():
        if info.dtype not in ("uint8", "float4_e2m1", "float4_e2m1fn_x2") or not info.n_values:
            continue
        if name.endswith("_blocks"):
            made = _experts(name, info, infos)
        elif len(info.shape) >= 2:
            made = _rows(name, info, infos)
        else:
            made = None
        if made is not None:
            yield made


def _experts(name: str, codes: TensorInfo, infos: Mapping[str, TensorInfo]) -> Microscaled | None:
    target = name.removesuffix("_blocks")
    scales = infos.get(f"{target}_scales")
    if scales is None or scales.dtype not in _EXPONENTS or len(codes.shape) != 4 or scales.shape != codes.shape[:-1]:
        return None
    n_experts, n_out, n_blocks, n_bytes = codes.shape
    block = 2 * n_bytes
    shape = (n_experts, n_blocks * block, n_out)
    return Microscaled(
        info=_described(
            TensorInfo(name=target, shape=shape, dtype="float32", role=codes.role), "mxfp4", 4, (1, block, 1)
        ),
        codes=name,
        scales=scales.name,
        bits=4,
        block=block,
        is_turned=True,
    )


def _rows(name: str, codes: TensorInfo, infos: Mapping[str, TensorInfo]) -> Microscaled | None:
    target = name.removesuffix("_packed")
    scales = infos.get(f"{target}_scale")
    if scales is None or len(scales.shape) != len(codes.shape) or scales.shape[:-1] != codes.shape[:-1]:
        return None
    n_bytes, n_blocks = codes.shape[-1], scales.shape[-1]
    bits = next(
        (
            bits
            for bits in LEVELS
            if n_blocks and n_bytes * 8 % (bits * n_blocks) == 0 and n_bytes * 8 // (bits * n_blocks) in (16, 32)
        ),
        None,
    )
    if bits is None:
        return None
    block = n_bytes * 8 // (bits * n_blocks)
    divisor, factor = infos.get(f"{target}_global_scale"), infos.get(f"{target}_scale_2")
    whole = divisor or factor
    is_nv = scales.dtype == "float8_e4m3fn" and whole is not None and whole.n_values == 1
    if not is_nv and (scales.dtype not in _EXPONENTS or whole is not None):
        return None
    shape = (*codes.shape[:-1], n_bytes * 8 // bits)
    kind = "nvfp4" if is_nv else f"mxfp{bits}"
    return Microscaled(
        info=_described(
            TensorInfo(name=target, shape=shape, dtype="float32", role=codes.role),
            kind,
            bits,
            (*(1,) * (len(shape) - 1), block),
        ),
        codes=name,
        scales=scales.name,
        bits=bits,
        block=block,
        divisor=divisor.name if is_nv and divisor is not None else None,
        factor=factor.name if is_nv and divisor is None and factor is not None else None,
    )


def _described(info: TensorInfo, scheme: str, bits: int, block: tuple[int, ...]) -> TensorInfo:
    code = "float4_e2m1fn" if bits == 4 else "float6_e2m3fn"
    return replace(info, quantization=Quantization(scheme=scheme, bits=bits, code=code, block=block))
