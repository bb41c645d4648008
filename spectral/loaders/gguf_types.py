"""The element types of ggml: how many values a block holds in how many bytes, and what its codes stand for.

Sizes and meanings are those of https://github.com/ggml-org/llama.cpp, ``ggml/src/ggml-common.h`` and
``ggml-quants.c``. Blocks are turned into numbers by the package ``gguf``, which carries the reference for that in
numpy. It is fast enough (50 to 900 million values a second on one core, in pieces that fit the cache; a spectrum
takes far longer), so nothing of it is written again here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spectral.errors import MissingDependencyError, ModelError
from spectral.loaders.dtypes import FLOAT_DTYPES, numpy_dtype, why_not_float
from spectral.loaders.protocol import Quantization

if TYPE_CHECKING:
    from numpy.typing import NDArray

PIECE_VALUES = 1 << 18
"""So many values are dequantised at a time: the fastest size, and what takes a few megabytes while it is done."""

_LATTICE = "lattice"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One element type.

    Attributes
    ----------
    number : int
        Its number in the file.
    name : str
        Its name in ggml.
    n_values, n_bytes : int
        Values and bytes of a block; 1 and the size of a value where it is not quantised.
    dtype : str
        Type of what is read: that of the file, or float32 for what is dequantised.
    bits : float
        Bits of the code of one value, scales not counted; 0 where it is not quantised.
    code : str
        What codes stand for, as in :class:`Quantization`; ``iq4_nl`` are sixteen levels at unequal steps.
    n_scaled : int
        How many values share a scale.
    is_symmetric : bool
        Whether zero is always a level.
    swapped : tuple of int, optional
        Where numbers of two bytes begin in a block: their bytes are exchanged in a file of the other byte order. None
        where that is not known.
    refusal : str, optional
        Why values are not read.
    """

    number: int
    name: str
    n_values: int
    n_bytes: int
    dtype: str = "float32"
    bits: float = 0.0
    code: str = "int"
    n_scaled: int = 0
    is_symmetric: bool = True
    swapped: tuple[int, ...] | None = None
    refusal: str | None = None

    @property
    def is_quantized(self) -> bool:
        """Whether the package ``gguf`` is needed to read values."""
        return self.bits > 0

    def quantization(self, n_dimensions: int) -> Quantization | None:
        """Return how a tensor of this type and so many axes is stored, or None where it is not quantised."""
        if not self.is_quantized:
            return None
        return Quantization(
            scheme=f"gguf {self.name}",
            bits=self.bits,
            code=self.code,
            block=(*(1,) * (n_dimensions - 1), self.n_scaled),
            is_symmetric=self.is_symmetric,
        )


def _plain(number: int, name: str, n_bytes: int, dtype: str) -> Kind:
    return Kind(number=number, name=name, n_values=1, n_bytes=n_bytes, dtype=dtype, refusal=why_not_float(dtype))


def _unread(number: int, name: str, n_values: int, n_bytes: int) -> Kind:
    reason = f"the package gguf does not dequantise the type {name}"
    return Kind(number=number, name=name, n_values=n_values, n_bytes=n_bytes, refusal=reason)


def _coded(
    number: int,
    name: str,
    block: tuple[int, int],
    bits: float,
    n_scaled: int,
    *,
    code: str = "int",
    has_zero: bool = True,
    swapped: tuple[int, ...] | None = None,
) -> Kind:
    return Kind(
        number=number,
        name=name,
        n_values=block[0],
        n_bytes=block[1],
        bits=bits,
        code=code,
        n_scaled=n_scaled,
        is_symmetric=has_zero,
        swapped=swapped,
    )


KINDS: dict[int, Kind] = {
    kind.number: kind
    for kind in (
        _plain(0, "F32", 4, "float32"),
        _plain(1, "F16", 2, "float16"),
        _plain(24, "I8", 1, "int8"),
        _plain(25, "I16", 2, "int16"),
        _plain(26, "I32", 4, "int32"),
        _plain(27, "I64", 8, "int64"),
        _plain(28, "F64", 8, "float64"),
        _plain(30, "BF16", 2, "bfloat16"),
        _coded(2, "Q4_0", (32, 18), 4, 32, swapped=(0,)),
        _coded(3, "Q4_1", (32, 20), 4, 32, has_zero=False),
        _coded(6, "Q5_0", (32, 22), 5, 32),
        _coded(7, "Q5_1", (32, 24), 5, 32, has_zero=False),
        _coded(8, "Q8_0", (32, 34), 8, 32, swapped=(0,)),
        _coded(10, "Q2_K", (256, 84), 2, 16, has_zero=False),
        _coded(11, "Q3_K", (256, 110), 3, 16),
        _coded(12, "Q4_K", (256, 144), 4, 32, has_zero=False, swapped=(0, 2)),
        _coded(13, "Q5_K", (256, 176), 5, 32, has_zero=False),
        _coded(14, "Q6_K", (256, 210), 6, 16, swapped=(208,)),
        # A point of a lattice for 8 or 4 values (8 to 11 bits), and their signs (7 or 8 bits for 8 values).
        _coded(16, "IQ2_XXS", (256, 66), 15 / 8, 32, code=_LATTICE, has_zero=False),
        _coded(17, "IQ2_XS", (256, 74), 16 / 8, 16, code=_LATTICE, has_zero=False),
        _coded(22, "IQ2_S", (256, 82), 18 / 8, 16, code=_LATTICE, has_zero=False),
        _coded(18, "IQ3_XXS", (256, 98), 23 / 8, 32, code=_LATTICE, has_zero=False),
        _coded(21, "IQ3_S", (256, 110), 26 / 8, 32, code=_LATTICE, has_zero=False),
        # A point for 8 values, and which way all of 32, or of 8, are shifted.
        _coded(19, "IQ1_S", (256, 50), 11 / 8 + 1 / 32, 32, code=_LATTICE, has_zero=False),
        _coded(29, "IQ1_M", (256, 56), 12 / 8, 16, code=_LATTICE, has_zero=False),
        _coded(20, "IQ4_NL", (32, 18), 4, 32, code="iq4_nl", has_zero=False),
        _coded(23, "IQ4_XS", (256, 136), 4, 32, code="iq4_nl", has_zero=False),
        _coded(34, "TQ1_0", (256, 54), 8 / 5, 256),
        _coded(35, "TQ2_0", (256, 66), 2, 256),
        _coded(39, "MXFP4", (32, 17), 4, 32, code="float4_e2m1fn", swapped=()),
        _coded(40, "NVFP4", (64, 36), 4, 16, code="float4_e2m1fn", swapped=()),
        _unread(9, "Q8_1", 32, 40),
        _unread(15, "Q8_K", 256, 292),
        _unread(41, "Q1_0", 128, 18),
    )
}
"""Number in the file -> type; every type of the package gguf 0.19."""


def decode(kind: Kind, data: bytearray, *, is_big_endian: bool) -> NDArray[Any]:
    """Return the values that the bytes of whole blocks stand for: one-dimensional, little-endian, of ``kind.dtype``.

    Raises
    ------
    MissingDependencyError, ModelError
        The package gguf is not installed, or too old for this type. The message names no file.
    """
    import numpy as np

    if not kind.is_quantized:
        assert kind.dtype in FLOAT_DTYPES, "integers are refused"
        values = np.frombuffer(data, dtype=numpy_dtype(kind.dtype))
        # In place: a second array of the largest tensor would be more than reading may take.
        return values.byteswap(inplace=True) if is_big_endian else values
    blocks = np.frombuffer(data, dtype=np.uint8)
    if is_big_endian and kind.swapped:
        whole = blocks.reshape(-1, kind.n_bytes)
        for place in kind.swapped:
            whole[:, [place, place + 1]] = whole[:, [place + 1, place]]
    values = np.empty(len(blocks) // kind.n_bytes * kind.n_values, dtype=np.float32)
    step = max(1, PIECE_VALUES // kind.n_values)
    for first in range(0, len(blocks) // kind.n_bytes, step):
        piece = blocks[first * kind.n_bytes : (first + step) * kind.n_bytes]
        values[first * kind.n_values : (first + step) * kind.n_values] = _dequantize(kind, piece)
    return values


def _dequantize(kind: Kind, blocks: NDArray[Any]) -> NDArray[Any]:
    import numpy as np

    try:
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize
    except ImportError as error:
        raise MissingDependencyError(needs_package(kind.name)) from error
    try:
        # Scales of damaged blocks may be infinite; what comes of them is a finding of the layer. As a single row, it is
        # computed at once and not by sixteen rows at a time.
        with np.errstate(all="ignore"):
            values: NDArray[Any] = dequantize(blocks.reshape(1, -1), GGMLQuantizationType(kind.number))
    except (NotImplementedError, ValueError) as error:
        raise ModelError(f"the installed gguf does not read the type {kind.name}: upgrade it") from error
    return values.reshape(-1)


def needs_package(kinds: str) -> str:
    """Return the sentence that says which extra is missing."""
    return f'reading the types {kinds} needs the package gguf: pip install "pytest-weightwatcher[gguf]"'
