"""The contract between the loaders and the rest of the core."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from spectral.parts import Part


class LayerType(str, Enum):
    """What a weight tensor does, in the field's own words."""

    DENSE = "dense"
    EMBEDDING = "embedding"
    CONV1D = "conv1d"
    CONV2D = "conv2d"
    CONV3D = "conv3d"
    RECURRENT = "recurrent"
    ATTENTION = "attention"
    EXPERT = "expert"
    BILINEAR = "bilinear"
    LORA = "lora"
    STACKED = "stacked"
    INTRA = "intra"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """How a tensor is stored that is read dequantised: the values are those that the model computes with.

    Parameters
    ----------
    scheme : str
        The format in its own words, for messages: ``gguf Q4_K``, ``onnx int8``, ``gptq``, ``bitsandbytes nf4``.
    bits : float
        Bits of the code of one value, scales and zero points not counted.
    code : str
        The levels that codes stand for: ``int`` (equal steps), ``nf4``, ``fp4``, the name of a small float
        (``float8_e4m3fn``, ``float4_e2m1fn``), ``iq4_nl`` (ggml's sixteen unequal steps), or ``lattice`` where several
        values share one code.
    block : tuple of int, optional
        Shape of the values that share one scale, in the axes of the tensor as it is read: ``(1, 32)`` groups of 32
        along a row, ``(1, n)`` one scale for each row, the shape of the tensor one scale in all. None where the
        levels are not scales times a code.
    is_symmetric : bool
        Whether zero is always a level (no zero points or minima).
    """

    scheme: str
    bits: float
    code: str
    block: tuple[int, ...] | None = None
    is_symmetric: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """One tensor as its header describes it; its values are not read.

    Parameters
    ----------
    name : str
        Name inside the checkpoint, for example ``encoder.layer.0.attention.self.query.weight``.
    shape : tuple of int
        Stored shape.
    dtype : str
        Element type by its numpy or ml_dtypes name (``float32``, ``bfloat16``, ``float8_e4m3fn``).
    role : LayerType, optional
        What the framework says the tensor is. ``None`` where only names and shapes are known (files).
    refusal : str, optional
        Why the values cannot be analysed although the header is sound (a packed or quantised type).
    max_rank : int, optional
        The rank cannot exceed this (a product B·A of two thin factors): only so many eigenvalues are taken.
    parts : tuple of Part, optional
        How the framework, or the model's configuration, cuts the tensor into matrices. ``None`` where names and
        shapes must tell.
    counted_in : str, optional
        Another tensor that has these values already: the one it is tied to or a part of, or the product that it is a
        factor of. Such a tensor is no parameter of its own, and has a refusal, unless the other one is a vector that
        matrices are cut from.
    quantization : Quantization, optional
        How the values are stored, where ``dtype`` is not the stored type but what they are dequantised to.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: LayerType | None = None
    refusal: str | None = None
    max_rank: int | None = None
    parts: tuple[Part, ...] | None = None
    counted_in: str | None = None
    quantization: Quantization | None = None

    @property
    def n_values(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@runtime_checkable
class TensorSource(Protocol):
    """Where tensors come from: a file, a folder of shards, or a model in memory.

    Opening a source reads headers only; :meth:`load` brings one tensor into memory. Both may be called
    from several threads at once.
    """

    @property
    def label(self) -> str:
        """What to call the source in messages: a path, or the class of a model."""

    def tensors(self) -> tuple[TensorInfo, ...]:
        """Return every tensor in the source's own order."""

    def load(self, name: str) -> NDArray[Any]:
        """Return the values of one tensor in its own dtype, C-ordered and little-endian."""


@runtime_checkable
class SpanSource(Protocol):
    """A source that can read a piece of a tensor: one expert of a fused stack, one gate."""

    def load_span(self, name: str, begin: int, end: int) -> NDArray[Any]:
        """Return the values from one flat C-order position to another, one-dimensional."""


@runtime_checkable
class StoredSource(Protocol):
    """A source of files that gives what is stored, also what is no weight as it stands: codes, scales, indices."""

    @property
    def label(self) -> str:
        """As that of :class:`TensorSource`."""

    def tensors(self) -> tuple[TensorInfo, ...]:
        """As that of :class:`TensorSource`."""

    def load(self, name: str) -> NDArray[Any]:
        """As that of :class:`TensorSource`."""

    def load_stored(self, name: str, begin: int, end: int) -> NDArray[Any]:
        """Return the values from one flat C-order position to another in their stored type, one-dimensional."""


@runtime_checkable
class StreamSource(Protocol):
    """A source that can pass over a tensor without bringing all of it into memory."""

    def stream(self, name: str) -> Iterator[memoryview] | None:
        """Give the bytes of one tensor as :meth:`TensorSource.load` has them, piece by piece.

        A piece is good until the next one is asked for. None where this source has no such way to the tensor.
        """


@runtime_checkable
class CheckpointSource(Protocol):
    """A source on disk, all of which can be brought into memory: also what has no spectrum, as integers."""

    def load_all(self) -> dict[str, Any]:
        """Return every tensor of the checkpoint in its stored type, as arrays or torch tensors of the caller's own."""


@runtime_checkable
class FactoredSource(Protocol):
    """A source some of whose tensors are products of two thin matrices: the updates of a LoRA adapter."""

    def factors(self, name: str) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """Return (left, right) with left · right = the tensor, or None where it is no such product."""


def as_little_endian(array: NDArray[Any]) -> NDArray[Any]:
    """Return ``array`` C-contiguous and in little-endian byte order, copying only where it must."""
    import numpy as np

    if array.dtype.byteorder == ">" or (array.dtype.byteorder == "=" and not np.little_endian):
        array = array.astype(array.dtype.newbyteorder("<"))
    # np.ascontiguousarray would give an array without dimensions one.
    return np.asarray(array, order="C")
