"""Models whose weights can be written back: a copy of the caller's model, or the model itself where asked for.

What a model is, its framework says; no framework is imported here, and one that is not loaded cannot have made it.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from spectral.errors import ModelError, UnsupportedModelError
from spectral.loaders.dtypes import why_not_float
from spectral.loaders.memory import MemorySource, is_torch_module, is_torch_tensor, open_mapping, open_module
from spectral.loaders.protocol import LayerType, TensorInfo, as_little_endian
from spectral.loaders.torch_tensor import torch_to_numpy

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from numpy.typing import NDArray

    from spectral.loaders.protocol import TensorSource


class WritableModel(Protocol):
    """A model in memory whose tensors can be read and replaced by name."""

    @property
    def model(self) -> Any:
        """The model to hand to the user: of the kind that was given."""

    @property
    def source(self) -> TensorSource:
        """Its tensors, as the analysis sees them."""

    def write(self, name: str, values: NDArray[Any]) -> None:
        """Replace the values of one tensor; shape and dtype are those that ``source`` loads."""

    def storage_key(self, name: str) -> Hashable:
        """Return what two names have in common exactly if they are the same values in memory (tied weights)."""


def open_for_writing(model: object, *, inplace: bool = False) -> WritableModel:
    """Open a model so that its weights can be replaced.

    Parameters
    ----------
    model : torch.nn.Module, keras.Model or mapping of str to torch tensor or ndarray
        A checkpoint on disk has to be loaded first, and saved afterwards, by the package that made it.
    inplace : bool
        Write to the caller's own tensors, those of a mapping too, instead of those of a deep copy.

    Raises
    ------
    UnsupportedModelError
        The object is none of these.
    ModelError
        The model cannot be copied, or an array to be written in place is read-only.
    """
    # On its torch backend a Keras model is a torch module, too.
    if _is_keras_model(model):
        return _open_keras(model if inplace else _copied(model, _clone_keras))
    if is_torch_module(model):
        module = model if inplace else _copied(model, copy.deepcopy)
        return _WritableTensors(model=module, source=open_module(module))
    if isinstance(model, Mapping):
        tensors = model if inplace else _copied(model, _copy_mapping)
        return _WritableTensors(model=tensors, source=open_mapping(tensors, label=type(model).__name__))
    raise UnsupportedModelError(
        f"cannot change the weights of a {type(model).__module__}.{type(model).__qualname__}: expected a torch module, "
        "a Keras model, a state dict or a dict of numpy arrays (load a checkpoint first)"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _WritableTensors:
    """A torch module, or a mapping of torch tensors and arrays: what ``source.values`` holds is written to."""

    model: Any
    source: MemorySource = field(repr=False)

    def write(self, name: str, values: NDArray[Any]) -> None:
        held = self.source.values[name]
        if is_torch_tensor(held):
            held.detach().copy_(_as_torch(values, held))
        elif held.flags.writeable:
            held[...] = values
        else:
            raise ModelError(f"{self.source.label}: {name!r} is a read-only array and cannot be changed in place")

    def storage_key(self, name: str) -> Hashable:
        held = self.source.values[name]
        if is_torch_tensor(held):
            return held.device, held.data_ptr(), tuple(held.shape), held.stride()
        return held.__array_interface__["data"][0], held.shape, held.strides


@dataclass(frozen=True, slots=True, kw_only=True)
class _KerasSource:
    """The variables of a Keras model, kernels of convolutions in the order (out, in, k1, .., kd)."""

    label: str
    infos: dict[str, TensorInfo] = field(repr=False)
    variables: dict[str, Any] = field(repr=False)
    is_kernel: frozenset[str] = field(repr=False)

    def tensors(self) -> tuple[TensorInfo, ...]:
        return tuple(self.infos.values())

    def load(self, name: str) -> NDArray[Any]:
        held = self.variables[name].value
        values = torch_to_numpy(self.label, name, held) if is_torch_tensor(held) else np.asarray(held)
        return as_little_endian(_channels_first(values) if name in self.is_kernel else values)


@dataclass(frozen=True, slots=True, kw_only=True)
class _WritableKeras:
    model: Any
    source: _KerasSource = field(repr=False)

    def write(self, name: str, values: NDArray[Any]) -> None:
        self.source.variables[name].assign(_channels_last(values) if name in self.source.is_kernel else values)

    def storage_key(self, name: str) -> Hashable:
        return id(self.source.variables[name])


_KERAS_ROLES = {
    "Dense": LayerType.DENSE,
    "Embedding": LayerType.EMBEDDING,
    "Conv1D": LayerType.CONV1D,
    "Conv2D": LayerType.CONV2D,
}
"""Class of a Keras layer -> what its ``kernel`` or ``embeddings`` is."""


def _open_keras(model: Any) -> _WritableKeras:
    """List the variables of every layer; a layer that appears twice is one layer."""
    infos: dict[str, TensorInfo] = {}
    variables: dict[str, Any] = {}
    kernels: set[str] = set()
    roles = {
        id(variable): _KERAS_ROLES.get(type(layer).__name__)
        for layer in _walk_layers(model)
        for variable in layer.weights
        if variable.name in ("kernel", "embeddings")
    }
    for variable in model.weights:
        path = variable.path.removeprefix(f"{model.name}/")
        name = path if path not in infos else f"{path}#{len(infos)}"
        role = roles.get(id(variable))
        shape = tuple(variable.shape)
        if role in (LayerType.CONV1D, LayerType.CONV2D):
            kernels.add(name)
            shape = (shape[-1], shape[-2], *shape[:-2])
        dtype = str(variable.dtype)
        infos[name] = TensorInfo(name=name, shape=shape, dtype=dtype, role=role, refusal=why_not_float(dtype))
        variables[name] = variable
    source = _KerasSource(label=type(model).__name__, infos=infos, variables=variables, is_kernel=frozenset(kernels))
    return _WritableKeras(model=model, source=source)


def _walk_layers(layer: Any) -> Iterator[Any]:
    """Yield a layer before those it contains, so that of a variable the innermost layer has the last word."""
    yield layer
    for inner in (*getattr(layer, "layers", ()), *filter(None, [getattr(layer, "layer", None)])):
        yield from _walk_layers(inner)


def _is_keras_model(value: object) -> bool:
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(value, keras.Model)


def _clone_keras(model: Any) -> Any:
    clone = sys.modules["keras"].models.clone_model(model)
    for new, old in zip(clone.weights, model.weights, strict=True):
        new.assign(old.value)
    return clone


def _copy_mapping(tensors: Mapping[Any, Any]) -> Any:
    # A read-only proxy cannot be copied; a dict, and what derives from it (with its metadata), can.
    return copy.deepcopy(tensors if isinstance(tensors, dict) else dict(tensors))


def _copied(model: Any, make_copy: Callable[[Any], Any]) -> Any:
    try:
        return make_copy(model)
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        cause = str(error).partition("\n")[0]
        raise ModelError(
            f"{type(model).__name__}: cannot be copied ({cause}); give a copy of your own with inplace=True"
        ) from error


def _as_torch(values: NDArray[Any], held: Any) -> Any:
    import torch

    if values.dtype.name in ("float64", "float32", "float16"):
        return torch.from_numpy(values)
    # Types that numpy lacks cross as integers of the same width, so that no bit changes.
    return torch.from_numpy(values.view({1: np.uint8, 2: np.int16}[values.dtype.itemsize])).view(held.dtype)


def _channels_first(kernel: NDArray[Any]) -> NDArray[Any]:
    """(k1, .., kd, in, out) -> (out, in, k1, .., kd)."""
    return np.moveaxis(kernel, (-1, -2), (0, 1))


def _channels_last(kernel: NDArray[Any]) -> NDArray[Any]:
    """(out, in, k1, .., kd) -> (k1, .., kd, in, out)."""
    return np.moveaxis(kernel, (0, 1), (-1, -2))
