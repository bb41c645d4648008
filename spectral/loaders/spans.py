"""Read a tensor of any source in pieces, as far as the source can."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spectral.loaders.protocol import SpanSource, StreamSource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from spectral.loaders.protocol import TensorSource


def read_span(source: TensorSource, name: str, begin: int, end: int) -> NDArray[Any]:
    """Return the values from one flat C-order position to another, one-dimensional."""
    if isinstance(source, SpanSource):
        return source.load_span(name, begin, end)
    return source.load(name).reshape(-1)[begin:end]


def stream_of(source: TensorSource, name: str) -> Iterator[memoryview] | None:
    """Give the bytes of one tensor piece by piece, or None where the source can only load it."""
    return source.stream(name) if isinstance(source, StreamSource) else None
