"""The layers of a model as ``weightwatcher`` 0.7.7 counts, names and classifies them.

It numbers torch modules in the order of ``named_modules()``, the model itself first, whether they have weights or not;
``.weight`` entries of a state dict from 1; the layers of a Keras model from 0.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from spectral.dropin_names import FRAMEWORK
from spectral.loaders.folder import ShardedFolder
from spectral.loaders.keras_model import KerasVariable, is_keras_layer
from spectral.loaders.locations import as_location
from spectral.loaders.protocol import LayerType, TensorInfo, TensorSource
from spectral.loaders.safetensors import SafetensorsFile
from spectral.loaders.torch_module import is_torch_module
from spectral.loaders.torch_tensor import is_torch_tensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_WEIGHT = ".weight"

_TORCH_WORDS = (
    ("linear", LayerType.DENSE),
    ("conv1d", LayerType.CONV1D),
    ("conv2d", LayerType.CONV2D),
    ("embedding", LayerType.EMBEDDING),
)
"""Words in the full class name of a torch module -> its type there; the first match wins."""

_KERAS_WORDS = (
    ("dense", LayerType.DENSE),
    ("conv1d", LayerType.CONV1D),
    ("conv2d", LayerType.CONV2D),
    ("embedding", LayerType.EMBEDDING),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedLayer:
    """A layer that has a number there.

    Attributes
    ----------
    layer_id : int
        Its number.
    name, longname : str
        As the columns show them: for a torch module the last part and the whole path.
    layer_type : LayerType or None
        The type there, None where it has no rows for the layer.
    tensor : str or None
        The weight that its row is about.
    """

    layer_id: int
    name: str
    longname: str
    layer_type: LayerType | None = None
    tensor: str | None = None


@dataclass(frozen=True, kw_only=True)
class LayerTable:
    """All layers that have a number, in their order."""

    layers: tuple[CountedLayer, ...] = field(repr=False)

    @cached_property
    def by_tensor(self) -> Mapping[str, CountedLayer]:
        """Tensor name -> the layer whose row is about it."""
        return {layer.tensor: layer for layer in self.layers if layer.tensor is not None}

    @cached_property
    def by_path(self) -> Mapping[str, CountedLayer]:
        """Long name -> the layer."""
        return {layer.longname: layer for layer in self.layers}

    @property
    def next_id(self) -> int:
        """The first number that no layer has."""
        return max((layer.layer_id for layer in self.layers), default=-1) + 1

    def owner(self, tensor: str) -> CountedLayer | None:
        """Return the layer that a tensor belongs to: its own, or the innermost whose path begins its name."""
        path = tensor
        found = self.by_tensor.get(tensor)
        while found is None and path:
            path = path.rpartition(".")[0]
            found = self.by_path.get(path)
        return found


def count_layers(model: object, source: TensorSource, start_ids: int = 0) -> LayerTable:
    """Count the layers of a model.

    Parameters
    ----------
    model : object
        What the user handed in.
    source : TensorSource
        The same, opened.
    start_ids : int
        Number of the first layer; 0 means the default of the kind of model, which is 1 for state dicts.
    """
    infos = {info.name: info for info in source.tensors()}
    if is_keras_layer(model):
        layers = _keras_layers(model, source, start_ids)
    elif is_torch_module(model):
        layers = _torch_layers(model, infos, start_ids)
    else:
        is_folder = isinstance(model, (str, os.PathLike)) and as_location(model).is_dir()
        # The keys of the checkpoint count, not the weights that are multiplied out of several of them.
        layers = _named_weights(_names_in_order(_innermost(source)), infos, start_ids or (0 if is_folder else 1))
    return LayerTable(layers=tuple(layers))


def _torch_layers(module: Any, infos: Mapping[str, TensorInfo], start: int) -> Iterator[CountedLayer]:
    for layer_id, (path, child) in enumerate(module.named_modules(), start):
        # The whole path of the class counts there, so that Bilinear, of torch.nn.modules.linear, is dense.
        words = str(type(child)).lower()
        layer_type = next((layer_type for word, layer_type in _TORCH_WORDS if word in words), None)
        tensor = f"{path}{_WEIGHT}" if path else _WEIGHT[1:]
        name = path.rpartition(".")[2] or type(child).__name__
        yield CountedLayer(
            layer_id=layer_id,
            name=name,
            longname=path or name,
            layer_type=layer_type if tensor in infos else None,
            tensor=tensor if layer_type is not None and tensor in infos else None,
        )


def _named_weights(names: Iterable[str], infos: Mapping[str, TensorInfo], start: int) -> Iterator[CountedLayer]:
    weights = [name for name in names if name.endswith(_WEIGHT)]
    for layer_id, tensor in enumerate(weights, start):
        layer = tensor.removesuffix(_WEIGHT)
        # Shapes tell there, and nothing else: an embedding is dense.
        layer_type = {2: LayerType.DENSE, 4: LayerType.CONV2D}.get(len(infos[tensor].shape))
        yield CountedLayer(
            layer_id=layer_id,
            name=layer,
            longname=layer,
            layer_type=layer_type,
            tensor=None if layer_type is None else tensor,
        )


def _names_in_order(source: TensorSource) -> list[str]:
    """Return the names shard by shard; a safetensors file lists them in the order of their characters."""
    names = [info.name for info in source.tensors()]
    if isinstance(source, SafetensorsFile):
        return sorted(names)
    if not isinstance(source, ShardedFolder):
        return names
    shards = {shard.label: shard for shard in source.shards.values()}
    return [name for label in sorted(shards) for name in _names_in_order(shards[label])]


def _innermost(source: TensorSource) -> TensorSource:
    """Return the source behind those that multiply factors out, or split what is fused."""
    while True:
        inner = getattr(source, "inner", None)
        if inner is None:
            return source
        source = inner


def _keras_layers(model: Any, source: TensorSource, start: int) -> Iterator[CountedLayer]:
    names = _names_of_variables(source)
    for layer_id, layer in enumerate(_flat_keras_layers(model), start):
        words = str(type(layer)).lower()
        layer_type = next((layer_type for word, layer_type in _KERAS_WORDS if word in words), None)
        weights = list(getattr(layer, "weights", ()))
        tensor = names.get(_identity(weights[0])) if layer_type is not None and weights else None
        yield CountedLayer(
            layer_id=layer_id,
            name=layer.name,
            longname=layer.name,
            layer_type=layer_type if tensor is not None else None,
            tensor=tensor,
        )


def keras_layer(model: Any, number: int) -> Any:
    """Return the layer of a Keras model that comes at a place among all, from 0."""
    return list(_flat_keras_layers(model))[number]


def _flat_keras_layers(model: Any) -> Iterator[Any]:
    for layer in getattr(model, "layers", [model]):
        submodules = tuple(getattr(layer, "submodules", ()))
        yield from submodules or (layer,)


def _names_of_variables(source: TensorSource) -> dict[int, str]:
    values: Mapping[str, Any] = getattr(source, "values", {})
    return {
        id(value.variable) if isinstance(value, KerasVariable) else id(value): name for name, value in values.items()
    }


def _identity(variable: Any) -> int:
    value = getattr(variable, "value", None)
    return id(value) if is_torch_tensor(value) else id(variable)


def framework_of(model: object) -> str:
    """Return which of ``FRAMEWORK`` a model is of, ``unknown`` where none fits."""
    if is_keras_layer(model):
        return FRAMEWORK.KERAS
    if is_torch_module(model):
        return FRAMEWORK.PYTORCH
    if isinstance(model, Mapping):
        return FRAMEWORK.PYSTATEDICT
    if isinstance(model, (str, os.PathLike)):
        return FRAMEWORK.PYSTATEDICT_DIR
    is_onnx = any(cls.__module__.partition(".")[0] == "onnx" for cls in type(model).__mro__)
    return FRAMEWORK.ONNX if is_onnx else FRAMEWORK.UNKNOWN
