"""One file per checkpoint format behind one contract, :class:`~spectral.loaders.protocol.TensorSource`."""

from spectral.loaders.opening import open_model
from spectral.loaders.protocol import LayerType, TensorInfo, TensorSource

__all__ = ["LayerType", "TensorInfo", "TensorSource", "open_model"]
