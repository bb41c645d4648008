"""GPTQ: ``qweight``, ``qzeros``, ``scales`` and ``g_idx`` (Frantar et al. 2023, arXiv 2210.17323).

The layout is that of AutoGPTQ and GPTQModel. A column of the int32 ``qweight`` holds one output's codes, without a gap,
the lowest bits first; ``qzeros`` is packed alike along the outputs. W[o, i] = scales[g, o]·(q[i, o] - z[g, o]), g the
group of the input i. Files of the first version hold z less one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spectral.loaders.protocol import Quantization, TensorInfo
from spectral.loaders.quantized.codes import as_bytes, unpack_bits

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from spectral.loaders.quantized.recipe import Reader
    from spectral.loaders.quantized.settings import Settings

_WORD_BITS = 32
_BITS = (4, 8, 3, 2)
_FORMATS = ("", "gptq", "gptq_v2")
"""Layouts of the configuration that are this one; those of single kernels (marlin, bitblas) are others."""

_FLOATS = ("float16", "bfloat16", "float32")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gptq:
    """One layer.

    Attributes
    ----------
    info : TensorInfo
        The weight, shape (outputs, inputs).
    stem : str
        Its parts are named by this and ``qweight`` and so on.
    bits : int
        Of a code.
    group_size : int
        Inputs that share a scale, where no ``g_idx`` says which.
    has_order : bool
        Whether there is a ``g_idx``.
    zero_shift : int
        What is to be added to stored zero points.
    """

    info: TensorInfo
    stem: str
    bits: int
    group_size: int
    has_order: bool
    zero_shift: int

    @property
    def parts(self) -> Mapping[str, str]:
        names = {"qweight": "codes", "qzeros": "zero points", "scales": "scales"}
        return {self.stem + name: text for name, text in names.items()} | (
            {f"{self.stem}g_idx": "groups"} if self.has_order else {}
        )

    def slab(self, read: Reader, begin: int, end: int) -> NDArray[np.float32]:
        import numpy as np

        n_out, n_in = self.info.shape
        packed = read.whole(f"{self.stem}qweight")[:, begin:end].T
        values = unpack_bits(as_bytes(packed), self.bits, n_in).astype(np.float32)
        zeros = unpack_bits(as_bytes(read.whole(f"{self.stem}qzeros")), self.bits, n_out)[:, begin:end]
        zeros = (zeros + np.uint8(self.zero_shift)) & np.uint8((1 << self.bits) - 1)
        scales = read.whole(f"{self.stem}scales")[:, begin:end].astype(np.float32)
        groups = read.whole(f"{self.stem}g_idx") if self.has_order else np.arange(n_in) // self.group_size
        # A group beyond the last one would be read as another's: its weights are no numbers.
        is_known = (groups >= 0) & (groups < len(scales))
        groups = np.where(is_known, groups, 0)
        values -= zeros.T.astype(np.float32)[:, groups]
        with np.errstate(over="ignore", invalid="ignore"):
            values *= scales.T[:, groups]
        values[:, ~is_known] = np.nan
        return values


def find(infos: Mapping[str, TensorInfo], settings: Settings, _read: Reader) -> Iterator[Gptq]:
    """Yield the layers of a checkpoint that are stored so."""
    for name in infos:
        if not name.endswith(".qweight") and name != "qweight":
            continue
        made = _layer(name.removesuffix("qweight"), infos, settings)
        if made is not None:
            yield made


def _layer(stem: str, infos: Mapping[str, TensorInfo], settings: Settings) -> Gptq | None:
    packed, zeros, scales = infos.get(f"{stem}qweight"), infos.get(f"{stem}qzeros"), infos.get(f"{stem}scales")
    if packed is None or zeros is None or scales is None or settings.checkpoint_format not in _FORMATS:
        return None
    are_words = packed.dtype == zeros.dtype == "int32" and scales.dtype in _FLOATS
    if not are_words or not len(packed.shape) == len(zeros.shape) == len(scales.shape) == 2:
        return None
    n_groups, n_out = scales.shape
    if packed.shape[1] != n_out or zeros.shape[0] != n_groups or not n_groups or not n_out:
        return None
    order = infos.get(f"{stem}g_idx")
    if order is not None and (len(order.shape) != 1 or not order.dtype.startswith(("int", "uint"))):
        order = None
    bits = _bits(zeros.shape[1], n_out, settings)
    if bits is None:
        return None
    n_in = order.shape[0] if order is not None and order.n_values else packed.shape[0] * _WORD_BITS // bits
    if not n_in or packed.shape[0] * _WORD_BITS < n_in * bits:
        return None
    group_size = settings.group_size or -(-n_in // n_groups)
    if -(-n_in // group_size) > n_groups:
        group_size = -(-n_in // n_groups)
    info = TensorInfo(
        name=f"{stem}weight",
        shape=(n_out, n_in),
        dtype="float32",
        quantization=Quantization(
            scheme=f"gptq int{bits}", bits=bits, code="int", block=(1, group_size), is_symmetric=False
        ),
    )
    return Gptq(
        info=info,
        stem=stem,
        bits=bits,
        group_size=group_size,
        has_order=order is not None and order.n_values > 0,
        zero_shift=0 if settings.checkpoint_format == "gptq_v2" else 1,
    )


def _bits(n_words: int, n_out: int, settings: Settings) -> int | None:
    """Return the bits of a code by the number of words that the zero points of all outputs take."""
    fitting = [bits for bits in _BITS if -(-n_out * bits // _WORD_BITS) == n_words]
    if settings.bits in fitting:
        return settings.bits
    return fitting[0] if fitting else None
