"""Read a piece of a tensor from any source, by way of the whole where the source cannot do better."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spectral.loaders.protocol import SpanSource

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spectral.loaders.protocol import TensorSource


def read_span(source: TensorSource, name: str, begin: int, end: int) -> NDArray[Any]:
    """Return the values from one flat C-order position to another, one-dimensional."""
    if isinstance(source, SpanSource):
        return source.load_span(name, begin, end)
    return source.load(name).reshape(-1)[begin:end]
