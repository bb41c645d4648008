"""Models that are already in memory: a mapping of names to arrays or torch tensors, or a torch module."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeGuard

from spectral.errors import ModelError, UnsupportedModelError
from spectral.loaders.dtypes import why_not_float
from spectral.loaders.protocol import LayerType, TensorInfo, as_little_endian
from spectral.loaders.torch_tensor import describe_torch_tensor, torch_to_numpy

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from numpy.typing import NDArray

_CLASS_WORDS = (
    ("linear", LayerType.DENSE),
    ("conv1d", LayerType.CONV1D),
    ("conv2d", LayerType.CONV2D),
    ("embedding", LayerType.EMBEDDING),
)
"""Words in the class name of a torch module -> what its ``weight`` is, the first match wins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySource:
    """Tensors held by the caller; nothing is copied before :meth:`load`."""

    label: str
    infos: dict[str, TensorInfo] = field(repr=False)
    values: Mapping[str, Any] = field(repr=False)

    def tensors(self) -> tuple[TensorInfo, ...]:
        return tuple(self.infos.values())

    def load(self, name: str) -> NDArray[Any]:
        value = self.values[name]
        if is_torch_tensor(value):
            return torch_to_numpy(self.label, name, value)
        info = self.infos[name]
        if info.refusal is not None:
            raise ModelError(f"{self.label}: tensor {name!r}: {info.refusal}")
        return as_little_endian(value)


def is_torch_tensor(value: object) -> TypeGuard[torch.Tensor]:
    """Tell whether ``value`` is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_torch_module(value: object) -> TypeGuard[torch.nn.Module]:
    """Tell whether ``value`` is a torch module, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


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
    return MemorySource(label=label, infos=infos, values=tensors)


def open_module(module: torch.nn.Module) -> MemorySource:
    """Open a torch module: every parameter and buffer, with the role its module gives it."""
    values: dict[str, Any] = {}
    infos: dict[str, TensorInfo] = {}
    label = type(module).__name__
    for prefix, child in module.named_modules():
        own = [*child.named_parameters(recurse=False), *child.named_buffers(recurse=False)]
        for short_name, tensor in own:
            name = f"{prefix}.{short_name}" if prefix else short_name
            role = _role_of(child) if short_name == "weight" else None
            values[name] = tensor
            infos[name] = describe_torch_tensor(name, tensor, role)
    return MemorySource(label=label, infos=infos, values=values)


def _describe(label: str, name: str, value: Any) -> TensorInfo:
    if is_torch_tensor(value):
        return describe_torch_tensor(name, value)
    import numpy as np

    if not isinstance(value, np.ndarray):
        raise UnsupportedModelError(
            f"{label}: {name!r} is a {type(value).__name__}, expected a numpy array or a torch tensor"
        )
    dtype = value.dtype.name
    return TensorInfo(name=name, shape=value.shape, dtype=dtype, refusal=why_not_float(dtype))


def _role_of(module: torch.nn.Module) -> LayerType | None:
    names = " ".join(cls.__name__.lower() for cls in type(module).__mro__)
    if "transpose" in names:
        return None
    return next((role for word, role in _CLASS_WORDS if word in names), None)
