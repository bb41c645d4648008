"""Put a tensor together from the boxes that its checkpoint keeps it in, one of them in memory at a time."""

from __future__ import annotations

import math
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from spectral.loaders.dtypes import numpy_dtype
from spectral.loaders.spans import read_span, stream_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from spectral.loaders.protocol import TensorInfo, TensorSource


class Box(Protocol):
    """Where a piece lies in its tensor."""

    @property
    def offsets(self) -> tuple[int, ...]:
        """Its first value."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Its shape."""


_Box = TypeVar("_Box", bound=Box)


def assemble(info: TensorInfo, boxes: Sequence[_Box], open_box: Callable[[_Box], TensorSource]) -> NDArray[Any]:
    """Return a tensor.

    Parameters
    ----------
    info : TensorInfo
        Its header.
    boxes : sequence of Box
        What fills it.
    open_box : callable
        Gives a source that has the values of a box under the name of the tensor.
    """
    import numpy as np

    filled = [box for box in boxes if 0 not in box.sizes]
    if len(filled) == 1:
        return open_box(filled[0]).load(info.name)
    whole = np.empty(info.shape, dtype=numpy_dtype(info.dtype))
    for box in filled:
        whole[window_of(box)] = open_box(box).load(info.name)
    return whole


def assemble_span(
    info: TensorInfo, boxes: Sequence[_Box], open_box: Callable[[_Box], TensorSource], begin: int, end: int
) -> NDArray[Any]:
    """Return the values from one flat position to another, reading no more where the boxes are blocks of rows."""
    import numpy as np

    if not _are_rows(info, boxes):
        return assemble(info, boxes, open_box).reshape(-1)[begin:end]
    n_inner = math.prod(info.shape[1:])
    parts = []
    for box in sorted(boxes, key=lambda box: box.offsets):
        first = box.offsets[0] * n_inner if box.offsets else 0
        low, high = max(begin, first), min(end, first + math.prod(box.sizes))
        if low < high:
            parts.append(read_span(open_box(box), info.name, low - first, high - first))
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty(0, dtype=numpy_dtype(info.dtype))


def assemble_stream(
    info: TensorInfo, boxes: Sequence[_Box], open_box: Callable[[_Box], TensorSource]
) -> Iterator[memoryview] | None:
    """Give the bytes of a tensor piece by piece, or None where its boxes are no blocks of rows."""
    if not _are_rows(info, boxes):
        return None
    filled = [box for box in sorted(boxes, key=lambda box: box.offsets) if 0 not in box.sizes]
    streams = [stream_of(open_box(box), info.name) for box in filled]
    given = [stream for stream in streams if stream is not None]
    return chain.from_iterable(given) if len(given) == len(streams) else None


def window_of(box: Box) -> tuple[slice, ...]:
    """Return the slices of a tensor that are a box."""
    return tuple(slice(begin, begin + length) for begin, length in zip(box.offsets, box.sizes, strict=True))


def _are_rows(info: TensorInfo, boxes: Sequence[Box]) -> bool:
    """Tell whether the boxes stand in the tensor one after the other, in C order."""
    return all(box.sizes[1:] == info.shape[1:] for box in boxes if 0 not in box.sizes)
