"""Models that are already in memory, and the simplest of them: a mapping of names to arrays or torch tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from spectral.errors import ModelError, UnsupportedModelError
from spectral.loaders.dtypes import PLAIN_DTYPES, why_not_float
from spectral.loaders.protocol import TensorInfo, as_little_endian
from spectral.loaders.ties import mark_ties
from spectral.loaders.torch_tensor import describe_torch_tensor, is_torch_tensor, torch_to_numpy

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from numpy.typing import NDArray


@runtime_checkable
class ComputedTensor(Protocol):
    """A weight that exists only when it is asked for."""

    def compute(self) -> torch.Tensor | NDArray[Any]:
        """Return the weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySource:
    """Tensors held by the caller; nothing is copied before :meth:`load`.

    Attributes
    ----------
    label : str
        What to call it.
    infos : dict of str to TensorInfo
        The headers.
    values : mapping of str to object
        Torch tensors, arrays, and :class:`ComputedTensor`.
    norm_axes : mapping of str to int
        Weights under spectral norm -> the axis that makes the rows of the matrix, where a module tells.
    """

    label: str
    infos: dict[str, TensorInfo] = field(repr=False)
    values: Mapping[str, Any] = field(repr=False)
    norm_axes: Mapping[str, int] = field(default_factory=dict, repr=False)

    def tensors(self) -> tuple[TensorInfo, ...]:
        return tuple(self.infos.values())

    def load(self, name: str) -> NDArray[Any]:
        return self._load(name, None)

    def load_span(self, name: str, begin: int, end: int) -> NDArray[Any]:
        return self._load(name, (begin, end))

    def load_stored(self, name: str, begin: int, end: int) -> NDArray[Any]:
        import numpy as np

        value = self.values[name]
        if is_torch_tensor(value):
            return torch_to_numpy(self.label, name, value, (begin, end), as_stored=True)
        if not isinstance(value, np.ndarray) or value.dtype.name not in PLAIN_DTYPES:
            raise ModelError(f"{self.label}: tensor {name!r}: {self.infos[name].refusal}")
        return as_little_endian(value.reshape(-1)[begin:end])

    def _load(self, name: str, span: tuple[int, int] | None) -> NDArray[Any]:
        value = self.values[name]
        if isinstance(value, ComputedTensor):
            value = value.compute()
        if is_torch_tensor(value):
            return torch_to_numpy(self.label, name, value, span)
        info = self.infos[name]
        if info.refusal is not None:
            raise ModelError(f"{self.label}: tensor {name!r}: {info.refusal}")
        return as_little_endian(value if span is None else value.reshape(-1)[span[0] : span[1]])


def open_mapping(tensors: Mapping[Any, Any], label: str) -> MemorySource:
    """Open a state dict or a dict of arrays; entries that are no tensors raise.

    Raises
    ------
    UnsupportedModelError
        A key is not a string, or a value is neither a numpy array nor a torch tensor.
    """
    infos: dict[str, TensorInfo] = {}
    for name, value in tensors.items():
        if not isinstance(name, str):
            raise UnsupportedModelError(f"{label}: tensor names must be strings, got {type(name).__name__}")
        infos[name] = _describe(label, name, value)
    return MemorySource(label=label, infos=mark_ties(infos, tensors), values=tensors)


def _describe(label: str, name: str, value: Any) -> TensorInfo:
    if is_torch_tensor(value):
        return describe_torch_tensor(name, value)
    import numpy as np

    if not isinstance(value, np.ndarray):
        raise UnsupportedModelError(
            f"{label}: {name!r} is a {type(value).__name__}, expected a numpy array or a torch tensor"
        )
    if isinstance(value, np.ma.MaskedArray):
        raise UnsupportedModelError(f"{label}: {name!r} is a masked array: fill it or take its .data")
    dtype = value.dtype.name
    refusal = why_not_float(dtype)
    if value.size and any(
        stride == 0 and length > 1 for stride, length in zip(value.strides, value.shape, strict=True)
    ):
        # A few bytes can claim terabytes this way.
        refusal = "an expanded view: it repeats values that are stored once"
    return TensorInfo(name=name, shape=value.shape, dtype=dtype, refusal=refusal)
