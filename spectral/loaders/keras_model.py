"""Keras models and layers in memory, of Keras 3 on any backend and of tf.keras. Imports neither."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from spectral.errors import UnsupportedModelError
from spectral.layouts import KERAS_GATES
from spectral.loaders.dtypes import why_not_float
from spectral.loaders.memory import MemorySource
from spectral.loaders.protocol import LayerType, TensorInfo
from spectral.loaders.torch_tensor import describe_torch_tensor, is_torch_tensor
from spectral.parts import Part, channels_last_kernel, equal_columns, matrix

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_GATES = (("lstm", KERAS_GATES[4]), ("gru", KERAS_GATES[3]), ("rnn", KERAS_GATES[1]))
"""Words in the class name of a recurrent cell -> its gates, the first match wins."""

_CONVOLUTIONS = {3: LayerType.CONV1D, 4: LayerType.CONV2D, 5: LayerType.CONV3D}


@dataclass(frozen=True, slots=True, kw_only=True)
class KerasVariable:
    """A variable of a backend other than torch; it becomes an array when it is asked for."""

    variable: Any = field(repr=False)

    def compute(self) -> NDArray[Any]:
        import numpy as np

        return np.asarray(self.variable.numpy())


def is_keras_layer(value: object) -> bool:
    """Tell whether ``value`` is a Keras layer (a model is one), of the keras package or of tf.keras."""
    return any(
        cls.__name__ == "Layer" and ({"keras", "tf_keras"} & set(cls.__module__.split(".")))
        for cls in type(value).__mro__
    )


def open_keras(model: Any) -> MemorySource:
    """Open a Keras model or layer: every weight, under its path (``encoder/dense/kernel``), with its layer's role.

    Raises
    ------
    UnsupportedModelError
        The model has no weights because it has not been built.
    """
    if not getattr(model, "built", True) and not model.weights:
        raise UnsupportedModelError(
            f"{type(model).__name__} {model.name!r} is not built: call it once, so that its weights have shapes"
        )
    values: dict[str, Any] = {}
    infos: dict[str, TensorInfo] = {}
    for variable, owner in _owners(model):
        name = _free_name(_path_of(variable, model), values)
        value = getattr(variable, "value", None)
        if is_torch_tensor(value):
            values[name], info = value, describe_torch_tensor(name, value)
        else:
            values[name], info = KerasVariable(variable=variable), _describe(name, variable)
        infos[name] = replace(info, parts=_parts_of(info, owner))
    return MemorySource(label=f"{type(model).__name__} {model.name!r}", infos=infos, values=values)


def _owners(model: Any) -> list[tuple[Any, Any]]:
    """Return every variable once, with the innermost layer that holds it."""
    owners: dict[int, tuple[int, Any]] = {}
    for layer in model._flatten_layers():  # noqa: SLF001 (the public list of layers ends at wrappers and cells)
        weights = layer.weights
        for variable in weights:
            known = owners.get(id(variable))
            # A layer comes after those that hold it: of two that hold the same, the later is inside.
            if known is None or len(weights) <= known[0]:
                owners[id(variable)] = (len(weights), layer)
    variables = {id(variable): variable for variable in model.weights}
    return [(variable, owners[key][1]) for key, variable in variables.items()]


def _path_of(variable: Any, model: Any) -> str:
    """Return the path of a variable (its name before Keras 3), without that of the model as a whole.

    Only some models stand in it, and an unnamed one is numbered anew in each process.
    """
    path = str(getattr(variable, "path", None) or variable.name).removesuffix(":0")
    return path.removeprefix(f"{model.name}/") if hasattr(model, "layers") else path


def _free_name(path: str, taken: Mapping[str, Any]) -> str:
    """Return a path, numbered where two layers share a name."""
    name = path
    number = 1
    while name in taken:
        layer, slash, leaf = path.rpartition("/")
        name = f"{layer}_{number}{slash}{leaf}"
        number += 1
    return name


def _describe(name: str, variable: Any) -> TensorInfo:
    dtype = str(getattr(variable.dtype, "name", variable.dtype))
    shape = tuple(int(size) for size in variable.shape)
    return TensorInfo(name=name, shape=shape, dtype=dtype, refusal=why_not_float(dtype))


def _parts_of(info: TensorInfo, layer: Any) -> tuple[Part, ...] | None:
    """Return the matrices of a weight by the class of its layer; None leaves it to names and shapes."""
    shape = info.shape
    class_names = " ".join(cls.__name__.lower() for cls in type(layer).__mro__)
    leaf = info.name.rpartition("/")[2]
    is_kernel = leaf in ("kernel", "pointwise_kernel")
    if info.n_values == 0 or len(shape) < 2:
        return None
    if "cell" in class_names and leaf in ("kernel", "recurrent_kernel"):
        return _gates(shape, class_names)
    if "conv" in class_names and len(shape) in _CONVOLUTIONS:
        return _convolution(shape, leaf, "depthwise" in class_names, getattr(layer, "groups", 1))
    if is_kernel and isinstance(getattr(layer, "equation", None), str):
        return _einsum(shape, layer.equation)
    if len(shape) == 2 and (is_kernel or "embedding" in class_names):
        return matrix(LayerType.DENSE if is_kernel else LayerType.EMBEDDING, *shape)
    return None


def _convolution(shape: tuple[int, ...], leaf: str, is_depthwise: bool, n_groups: int) -> tuple[Part, ...] | None:
    layer_type = _CONVOLUTIONS[len(shape)]
    if leaf == "depthwise_kernel" or (leaf == "kernel" and is_depthwise):
        # Every input channel has its own outputs: a block of one row.
        *positions, n_in, n_multiples = shape
        return channels_last_kernel(layer_type, (*positions, 1, n_in * n_multiples), n_in)
    if leaf in ("kernel", "pointwise_kernel"):
        return channels_last_kernel(layer_type, shape, n_groups if leaf == "kernel" else 1)
    return None


def _gates(shape: tuple[int, ...], class_names: str) -> tuple[Part, ...] | None:
    names = next((names for word, names in _GATES if word in class_names), None)
    return None if names is None or shape[-1] % len(names) else equal_columns(LayerType.RECURRENT, shape, names)


def _einsum(shape: tuple[int, ...], equation: str) -> tuple[Part, ...] | None:
    """Cut the kernel of an EinsumDense: axes summed over are rows, axes of input and output slices, others columns.

    ``abc,cde->abde``, the query of an attention with d heads, is c x de; ``abcd,cde->abe``, its output, cd x e.
    """
    inputs, _, output = equation.replace(" ", "").partition("->")
    data, _, kernel = inputs.partition(",")
    if len(kernel) != len(shape):
        return None
    slices = tuple(axis for axis, letter in enumerate(kernel) if letter in data and letter in output)
    rows = tuple(axis for axis, letter in enumerate(kernel) if letter not in output)
    columns = tuple(axis for axis, letter in enumerate(kernel) if letter not in data)
    if not rows or not columns or len({*slices, *rows, *columns}) != len(slices) + len(rows) + len(columns):
        return None
    return (Part(layer_type=LayerType.DENSE, fold=shape, slice_axes=slices, row_axes=rows, column_axes=columns),)
