"""Torch modules in memory: what each parameter is, by the module that holds it."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeGuard

from spectral.attention import attention_config, with_fused_attention
from spectral.loaders.memory import MemorySource
from spectral.loaders.protocol import LayerType, TensorInfo
from spectral.loaders.ties import mark_ties
from spectral.loaders.torch_tensor import describe_torch_tensor
from spectral.parts import Part, kernel, pool, stack

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

_CLASS_WORDS = (
    ("bilinear", LayerType.BILINEAR),
    ("linear", LayerType.DENSE),
    ("conv1d", LayerType.CONV1D),
    ("conv2d", LayerType.CONV2D),
    ("conv3d", LayerType.CONV3D),
    ("convtranspose1d", LayerType.CONV1D),
    ("convtranspose2d", LayerType.CONV2D),
    ("convtranspose3d", LayerType.CONV3D),
    ("embedding", LayerType.EMBEDDING),
)
"""Words in the class name of a torch module -> what its ``weight`` is, the first match wins."""

_KERNEL_DIMENSIONS = {LayerType.CONV1D: 3, LayerType.CONV2D: 4, LayerType.CONV3D: 5}
_WEIGHT_NAMES = ("weight", "weight_orig", "weight_v")
"""The weight of a layer, and the factor that has its shape under spectral norm or pruning, and under weight norm."""

_PROJECTIONS = ("q_proj_weight", "k_proj_weight", "v_proj_weight")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parametrized:
    """A weight that its module computes anew whenever it is asked for (``torch.nn.utils.parametrize``).

    Attributes
    ----------
    parametrization : torch.nn.Module
        The ParametrizationList of the weight.
    """

    parametrization: torch.nn.Module = field(repr=False)

    def compute(self) -> torch.Tensor:
        """Return the effective weight; the module, its buffers and its training state stay as they are.

        This runs the caller's own module, already alive in this process; nothing from a file gets here. In
        training mode a spectral norm would take a step of its power iteration, hence the copy.
        """
        import torch

        with torch.no_grad():
            weight: torch.Tensor = copy.deepcopy(self.parametrization).eval()()
        return weight.detach()

    def originals(self) -> Iterator[torch.Tensor]:
        """Yield the tensors that the weight is computed from."""
        yield from self.parametrization.parameters(recurse=False)
        yield from self.parametrization.buffers(recurse=False)


def is_torch_module(value: object) -> TypeGuard[torch.nn.Module]:
    """Tell whether ``value`` is a torch module, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def open_module(module: torch.nn.Module) -> MemorySource:
    """Open a torch module: every parameter and buffer, with the role its module gives it.

    A parametrized weight is the one that the module computes, not the tensors it is computed from. A weight
    that several layers share is analysed once. One that cannot be computed is listed with what was raised.
    """
    values: dict[str, Any] = {}
    norm_axes: dict[str, int] = {}
    infos: dict[str, TensorInfo] = {}
    for prefix, child in _walk(module, "", ()):
        for short_name, value in _values_of(child):
            name = prefix + short_name
            values[name] = value
            describe = _describe_computed if isinstance(value, Parametrized) else _describe
            infos[name] = describe(name, short_name, value, child)
        norm_axes.update(_norm_axes(prefix, child))
    config = attention_config(_attributes_of(getattr(module, "config", None)))
    # A layer that shares the original of a parametrized weight uses it as it is: that is no second name.
    infos = _refuse_originals(with_fused_attention(infos, config), values)
    return MemorySource(
        label=type(module).__name__,
        infos=mark_ties(infos, values),
        values=values,
        norm_axes=norm_axes,
    )


def _walk(
    module: torch.nn.Module, prefix: str, above: tuple[torch.nn.Module, ...]
) -> Iterator[tuple[str, torch.nn.Module]]:
    """Yield every module under every name it has, as a state dict does; one inside itself is entered once."""
    if any(module is other for other in above):
        return
    yield prefix, module
    for name, child in module._modules.items():  # noqa: SLF001 (named_children() hides second names)
        if child is not None:
            yield from _walk(child, f"{prefix}{name}.", (*above, module))


def _values_of(module: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    for name, parametrization in getattr(module, "parametrizations", {}).items():
        yield name, Parametrized(parametrization=parametrization)
    yield from module.named_parameters(recurse=False, remove_duplicate=False)
    yield from module.named_buffers(recurse=False, remove_duplicate=False)


def _norm_axes(prefix: str, module: torch.nn.Module) -> Iterator[tuple[str, int]]:
    """Yield the weights that an old spectral norm divides before each forward pass, with the axis it takes for rows."""
    for hook in module._forward_pre_hooks.values():  # noqa: SLF001 (where torch.nn.utils.spectral_norm puts itself)
        if type(hook).__name__ == "SpectralNorm" and isinstance(getattr(hook, "dim", None), int):
            name = f"{prefix}{hook.name}_orig"
            yield name, hook.dim


def _describe_computed(name: str, short_name: str, value: Parametrized, module: torch.nn.Module) -> TensorInfo:
    """Describe a weight that must be computed for that; where this fails, by what it is computed from."""
    try:
        tensor = value.compute()
    except Exception as error:  # The module's own code may raise anything.
        reason = f"its parametrization raised {_one_line(error)}"
        largest = max(value.originals(), key=lambda original: original.numel(), default=None)
        if largest is None:
            return TensorInfo(name=name, shape=(), dtype="float32", refusal=reason)
        return replace(_describe(name, short_name, largest, module), refusal=reason)
    return _describe(name, short_name, tensor, module)


def _one_line(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0][:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _describe(name: str, short_name: str, tensor: torch.Tensor, module: torch.nn.Module) -> TensorInfo:
    class_names = " ".join(cls.__name__.lower() for cls in type(module).__mro__)
    is_weight = short_name in _WEIGHT_NAMES
    role = next((role for word, role in _CLASS_WORDS if word in class_names), None) if is_weight else None
    if "multiheadattention" in class_names and short_name in _PROJECTIONS:
        role = LayerType.ATTENTION
    info = describe_torch_tensor(name, tensor, role)
    return replace(info, parts=_parts_of(info, class_names, getattr(module, "groups", 1)))


def _parts_of(info: TensorInfo, class_names: str, n_groups: object) -> tuple[Part, ...] | None:
    """Return the parts that only the module knows of: groups, bilinear forms, experts."""
    shape = info.shape
    if info.role is not None and _KERNEL_DIMENSIONS.get(info.role) == len(shape) and isinstance(n_groups, int):
        return kernel(info.role, shape, n_groups) if shape[0] % n_groups == 0 else None
    if len(shape) != 3:
        return None
    if info.role is LayerType.BILINEAR:
        return pool(LayerType.BILINEAR, (shape[0], shape[1], shape[2]))
    if "expert" in class_names:
        return stack(LayerType.EXPERT, (shape[0], shape[1], shape[2]))
    return None


def _attributes_of(config: object) -> Mapping[Any, Any]:
    return config if isinstance(config, Mapping) else getattr(config, "__dict__", {})


def _refuse_originals(infos: Mapping[str, TensorInfo], values: Mapping[str, Any]) -> dict[str, TensorInfo]:
    """Refuse what parametrized weights are computed from, and such a weight under a second name."""
    refused = dict(infos)
    first_names: dict[int, str] = {}
    for name, value in values.items():
        if not isinstance(value, Parametrized):
            continue
        first = first_names.setdefault(id(value.parametrization), name)
        if first != name:
            refused[name] = replace(infos[name], refusal=f"tied to {first}", counted_in=first)
        module, _, short_name = name.rpartition(".")
        stem = f"{module}." if module else ""
        for other in infos:
            if other.startswith(f"{stem}parametrizations.{short_name}."):
                reason = f"{name} is computed from it"
                refused[other] = replace(infos[other], refusal=reason, counted_in=name)
    return refused
