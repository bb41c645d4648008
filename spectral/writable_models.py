"""Models whose weights can be written back: a copy of the caller's model, or the model itself where asked for.

Of a checkpoint on disk the copy is its state dict, in memory: nothing is written to a file here.

What a model is, its framework says; no framework is imported here, and one that is not loaded cannot have made it.
"""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from spectral.errors import ModelError, OptionError, UnsupportedModelError
from spectral.loaders import open_model
from spectral.loaders.keras_model import KerasVariable, is_keras_layer
from spectral.loaders.protocol import CheckpointSource
from spectral.loaders.ties import region_of
from spectral.loaders.torch_module import is_torch_module
from spectral.loaders.torch_tensor import is_torch_tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from numpy.typing import NDArray

    from spectral.loaders.protocol import TensorSource


@dataclass(frozen=True, slots=True, kw_only=True)
class WritableModel:
    """A model in memory whose tensors can be read and replaced by name.

    Attributes
    ----------
    model : object
        The model to hand to the user: of the kind that was given.
    source : TensorSource
        Its tensors, as the analysis sees them.
    held : mapping of str to object
        What the model itself holds under these names: torch tensors, arrays, Keras variables.
    """

    model: Any = field(repr=False)
    source: TensorSource
    held: Mapping[str, Any] = field(repr=False)

    def why_fixed(self, name: str) -> str | None:
        """Return why a tensor cannot be written back, or None where it can."""
        value = self.held.get(name)
        if is_torch_tensor(value) or isinstance(value, (np.ndarray, KerasVariable)):
            return None
        return "the model computes this weight from other tensors: it cannot be written back"

    def storage_key(self, name: str) -> Hashable:
        """Return what two names have in common exactly if they are the same values in memory (tied weights)."""
        value = self.held[name]
        return region_of(value) or id(value)

    def write(self, name: str, values: NDArray[Any]) -> None:
        """Replace the values of one tensor, which keeps its type, its device and its place in memory.

        Raises
        ------
        ModelError
            A read-only array.
        """
        value = self.held[name]
        if is_torch_tensor(value):
            value.detach().copy_(_as_torch(values, value))
        elif isinstance(value, KerasVariable):
            value.variable.assign(values)
        elif value.flags.writeable:
            value[...] = values
        else:
            raise ModelError(f"{self.source.label}: {name!r} is a read-only array and cannot be changed in place")


def open_for_writing(model: object, *, inplace: bool = False) -> WritableModel:
    """Open a model so that its weights can be replaced.

    Parameters
    ----------
    model : torch.nn.Module, Keras model or layer, mapping of str to torch tensor or ndarray, or path
        A checkpoint on disk is read as :func:`spectral.loaders.open_model` does, with nothing in it executed. Its copy
        is a dict of all its tensors: arrays from safetensors, torch tensors from torch files.
    inplace : bool
        Write to the caller's own tensors, those of a mapping too, instead of those of a deep copy.

    Raises
    ------
    OptionError
        ``inplace`` for a path: files are not written to.
    UnsupportedModelError
        The object is none of these.
    ModelError
        The model cannot be copied, or the checkpoint not be read.
    """
    if isinstance(model, (str, os.PathLike)):
        return _open_checkpoint(model, inplace=inplace)
    make_copy: Callable[[Any], Any]
    if is_keras_layer(model):  # Before torch: on that backend a Keras model is a torch module, too.
        make_copy = _clone_keras
    elif is_torch_module(model):
        make_copy = copy.deepcopy
    elif isinstance(model, Mapping):
        make_copy = _copy_mapping
    else:
        raise UnsupportedModelError(
            f"cannot change the weights of a {type(model).__module__}.{type(model).__qualname__}: expected a torch "
            "module, a Keras model, a state dict, a dict of numpy arrays or a path"
        )
    target = model if inplace else _copied(model, make_copy)
    source = open_model(target)
    # Weights that are multiplied out of their factors stand before the tensors of the model itself.
    held: Any = getattr(source, "inner", source)
    return WritableModel(model=target, source=source, held=held.values)


def _open_checkpoint(path: object, *, inplace: bool) -> WritableModel:
    if inplace:
        raise OptionError("inplace is for a model in memory: a file is never written to, save .model instead")
    source = open_model(path)
    stored: Any = source
    # What multiplies out factors and what reads the configuration stand before the checkpoint itself.
    while hasattr(stored, "inner"):
        stored = stored.inner
    if not isinstance(stored, CheckpointSource):
        raise UnsupportedModelError(f"{source.label}: cannot be brought into memory as a whole; load it first")
    tensors = stored.load_all()
    return WritableModel(model=tensors, source=source, held=tensors)


def _clone_keras(model: Any) -> Any:
    # tf.keras is the same package under another name, and a layer alone has no weights before it is built.
    keras = sys.modules.get("keras") or sys.modules["tf_keras"]
    if not isinstance(model, keras.Model):
        raise TypeError("a layer alone is not cloned")
    clone = keras.models.clone_model(model)
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
