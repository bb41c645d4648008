"""Keras models and layers in memory, of Keras 3 on any backend and of tf.keras. Imports neither."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from spectral.errors import UnsupportedModelError
from spectral.loaders.dtypes import numpy_dtype, why_not_float
from spectral.loaders.keras_layers import KerasLayer, parts_of_variable
from spectral.loaders.keras_quantized import KerasWeight, dequantized
from spectral.loaders.memory import MemorySource
from spectral.loaders.naming import free_name
from spectral.loaders.protocol import TensorInfo
from spectral.loaders.torch_tensor import describe_torch_tensor, is_torch_tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_MODES = ("int8", "int4", "float8", "gptq", "awq")


@dataclass(frozen=True, slots=True, kw_only=True)
class KerasVariable:
    """A variable of a backend other than torch; it becomes an array when it is asked for."""

    variable: Any = field(repr=False)

    def compute(self) -> NDArray[Any]:
        import numpy as np

        return np.asarray(self.variable.numpy())


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputedWeight:
    """A weight that a layer computes from several variables: a quantised one, one with the update of a LoRA.

    Attributes
    ----------
    variables : mapping of str to object
        The layer's own variables, by what it calls them.
    recipe : KerasWeight, optional
        How a quantised weight is computed.
    weight : str
        Name of the weight.
    update : (str, str), optional
        The factors of a LoRA.
    scale : float
        What their product is multiplied by.
    dtype : str
        Type of the result.
    """

    variables: Mapping[str, Any] = field(repr=False)
    recipe: KerasWeight | None
    weight: str
    update: tuple[str, str] | None = None
    scale: float = 1.0
    dtype: str

    def compute(self) -> NDArray[Any]:
        values = self._read(self.weight) if self.recipe is None else self.recipe.compute(self._read)
        if self.update is not None:
            left, right = (self._read(name) for name in self.update)
            values = values + left.dtype.type(self.scale) * (left @ right)
        return values.astype(numpy_dtype(self.dtype), copy=False)

    def _read(self, name: str) -> NDArray[Any]:
        value = _value_of(self.variables[name])
        if isinstance(value, KerasVariable):
            return value.compute()
        return _stored(value)


def is_keras_layer(value: object) -> bool:
    """Tell whether ``value`` is a Keras layer (a model is one), of the keras package or of tf.keras."""
    return any(
        cls.__name__ == "Layer" and ({"keras", "tf_keras"} & set(cls.__module__.split(".")))
        for cls in type(value).__mro__
    )


def open_keras(model: Any) -> MemorySource:
    """Open a Keras model or layer: every weight, named by the layers that it lies in (``encoder/dense/kernel``).

    The names are those of the layers from the model (without its own) to the innermost that holds the variable. They
    are not ``variable.path``, which goes back only as far as the model was built in one piece: it differs between a
    model and the same one loaded from its file, and gives two nested models' layers one name.

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
    layers: dict[int, tuple[Any, dict[str, str], dict[str, Any]]] = {}
    numbers: dict[str, int] = {}
    for variable, owner, names in _owners(model):
        leaf = _leaf_of(variable)
        name = free_name("/".join((*names, leaf)), values, numbers)
        value = _value_of(variable)
        values[name] = value
        infos[name] = describe_torch_tensor(name, value) if is_torch_tensor(value) else _describe(name, variable)
        _, own, variables = layers.setdefault(id(owner), (owner, {}, {}))
        leaf = free_name(leaf, own, {})
        own[leaf], variables[leaf] = name, variable
    for owner, own, variables in layers.values():
        found, computed = _with_meaning(owner, {leaf: infos[name] for leaf, name in own.items()}, variables)
        infos.update({info.name: info for info in found.values()})
        values.update({own[leaf]: weight for leaf, weight in computed.items()})
    return MemorySource(label=f"{type(model).__name__} {model.name!r}", infos=infos, values=values)


def _owners(model: Any) -> list[tuple[Any, Any, tuple[str, ...]]]:
    """Return every variable once, with the innermost layer that holds it and the names of those down to it."""
    owners: dict[int, tuple[Any, tuple[Any, ...]]] = {}
    is_model = hasattr(model, "layers")
    pending: list[tuple[Any, ...]] = [(model,)]
    seen: set[int] = set()
    while pending:
        chain = pending.pop()
        layer = chain[-1]
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        for variable in layer.weights:
            known = owners.get(id(variable))
            if known is None or any(known[1][-1] is outer for outer in chain):
                owners[id(variable)] = (layer, chain)
        inside = layer._flatten_layers(include_self=False, recursive=False)  # noqa: SLF001 (the public list of layers ends at wrappers and cells)
        pending.extend((*chain, child) for child in reversed(list(inside)))
    found = []
    for variable in {id(variable): variable for variable in model.weights}.values():
        owner, chain = owners[id(variable)]
        found.append((variable, owner, tuple(str(layer.name) for layer in chain[1 if is_model else 0 :])))
    return found


def _leaf_of(variable: Any) -> str:
    """Return what a layer calls its variable; before Keras 3 this is the end of a path."""
    return str(variable.name).removesuffix(":0").rpartition("/")[2]


def _value_of(variable: Any) -> Any:
    value = getattr(variable, "value", None)
    return value if is_torch_tensor(value) else KerasVariable(variable=variable)


def _stored(tensor: Any) -> NDArray[Any]:
    """Return a torch tensor's values in their own type, integers too."""
    import numpy as np
    import torch

    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return np.asarray(tensor.view(torch.int16).numpy()).view(numpy_dtype("bfloat16"))
    return np.asarray(tensor.numpy())


def _describe(name: str, variable: Any) -> TensorInfo:
    dtype = str(getattr(variable.dtype, "name", variable.dtype))
    shape = tuple(int(size) for size in variable.shape)
    return TensorInfo(name=name, shape=shape, dtype=dtype, refusal=why_not_float(dtype))


def _with_meaning(
    owner: Any, own: dict[str, TensorInfo], variables: Mapping[str, Any]
) -> tuple[dict[str, TensorInfo], dict[str, ComputedWeight]]:
    """Return a layer's variables as they compute, and those of them that are computed."""
    layer = _as_keras_layer(owner)
    found, recipes = dequantized(layer, own)
    computed = {
        leaf: ComputedWeight(variables=variables, recipe=recipe, weight=leaf, dtype=recipe.dtype)
        for leaf, recipe in recipes.items()
    }
    _add_update(owner, found, computed, variables)
    cut = {
        leaf: replace(info, parts=parts_of_variable(leaf, info.shape, layer)) if info.refusal is None else info
        for leaf, info in found.items()
    }
    return cut, computed


def _add_update(
    owner: Any, found: dict[str, TensorInfo], computed: dict[str, ComputedWeight], variables: Mapping[str, Any]
) -> None:
    """Add the update of an enabled LoRA to its weight, as the layer does whenever it is called."""
    for weight in ("kernel", "embeddings"):
        factors = (f"lora_{weight}_a", f"lora_{weight}_b")
        if not getattr(owner, "lora_enabled", False) or not {weight, *factors} <= found.keys():
            continue
        info, rank = found[weight], getattr(owner, "lora_rank", None)
        if info.refusal is not None or not rank:
            continue
        base = computed.get(weight)
        computed[weight] = ComputedWeight(
            variables=variables, recipe=None if base is None else base.recipe, weight=weight, update=factors,
            scale=float(getattr(owner, "lora_alpha", rank)) / rank, dtype=info.dtype,
        )  # fmt: skip
        for factor in factors:
            found[factor] = replace(found[factor], refusal=f"a factor of {info.name}", counted_in=info.name)


def _as_keras_layer(owner: Any) -> KerasLayer:
    equation, groups = getattr(owner, "equation", None), getattr(owner, "groups", 1)
    mode = getattr(owner, "quantization_mode", None)
    shape: Any = getattr(owner, "original_kernel_shape", None)
    n_outputs = getattr(owner, "output_dim", None)
    return KerasLayer(
        class_names=" ".join(cls.__name__.lower() for cls in type(owner).__mro__),
        n_groups=groups if type(groups) is int and groups > 0 else 1,
        equation=equation if isinstance(equation, str) else None,
        mode=mode if mode in _MODES else None,
        # TensorFlow wraps the lists and tuples of a layer in a class of its own.
        kernel_shape=tuple(int(n) for n in shape) if hasattr(shape, "__iter__") else None,
        n_outputs=n_outputs if type(n_outputs) is int else None,
    )
