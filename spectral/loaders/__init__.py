"""One file per checkpoint format behind one contract, :class:`~spectral.loaders.protocol.TensorSource`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spectral.loaders.protocol import LayerType, TensorInfo, TensorSource

if TYPE_CHECKING:
    from spectral.loaders.opening import open_model

__all__ = ["LayerType", "TensorInfo", "TensorSource", "open_model"]


def __getattr__(name: str) -> Any:
    # The loaders need the parts of a tensor, and these the types above: loaded at once, one would wait for the other.
    if name == "open_model":
        from spectral.loaders.opening import open_model

        return open_model
    raise AttributeError(f"module 'spectral.loaders' has no attribute {name!r}")
