"""What a tensor is, told by its name, its shape and the tensors beside it: the rules for files."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from spectral.attention import fused_attention
from spectral.loaders.protocol import LayerType, TensorInfo
from spectral.parts import Part, channels_last_kernel, equal_columns, equal_rows, kernel, matrix, pool, stack

if TYPE_CHECKING:
    from collections.abc import Mapping

_KEPT_ROLES = (LayerType.EMBEDDING, LayerType.ATTENTION, LayerType.LORA, LayerType.STACKED, LayerType.INTRA)
"""Two-dimensional tensors with another role than these are dense."""

EMBEDDING_WORDS = ("embed", "wte", "wpe", "lookup_table")
"""A two-dimensional tensor with one of these in its name is an embedding."""

MAX_KERNEL = 16
"""A trailing axis up to this length reads as a convolution kernel where nothing else tells."""

TORCH_GATES = {4: ("i", "f", "g", "o"), 3: ("r", "z", "n"), 1: ("",)}
"""Number of gates -> their names in torch's order: LSTM, GRU, plain."""

KERAS_GATES = {4: ("i", "f", "c", "o"), 3: ("z", "r", "h"), 1: ("",)}
"""The same in Keras's order and words."""

_EXPERTS = re.compile(r"(^|[._/])(experts?|ffn_\w+_(ch)?exps)([._/]|$)")
"""A part of the name that says so (the second as GGUF has it); an "expertise" or an "experts_norm" is none."""

MAX_EXPERTS = 4096
"""More experts than any model has: such a tensor is something else."""

_CONVOLUTIONS = {3: LayerType.CONV1D, 4: LayerType.CONV2D, 5: LayerType.CONV3D}

_TORCH_RECURRENT = re.compile(r"(?P<stem>(?:.*\.)?weight_)(?P<kind>ih|hh|hr)(?P<which>(?:_l[0-9]+(?:_reverse)?)?)")
_KERAS_RECURRENT = re.compile(r"(?P<stem>(?:.*[./])?)(?:recurrent_)?kernel")


def parts_of(info: TensorInfo, tensors: Mapping[str, TensorInfo]) -> tuple[Part, ...] | str:
    """Return the matrices that a tensor of two or more dimensions consists of, or why it has none.

    Parameters
    ----------
    info : TensorInfo
        The tensor. What its source says of it (``refusal``, ``parts``, ``role``) comes before any rule.
    tensors : mapping of str to TensorInfo
        All tensors of the model: the gates of a recurrent layer are counted from the weight beside it.
    """
    if info.refusal is not None:
        return info.refusal
    if info.n_values == 0:
        return "an empty tensor"
    if info.parts is not None:
        return info.parts
    last_part = re.split(r"[./]", info.name.lower())[-1]
    if last_part.endswith("bias") or "mask" in last_part:
        return "named as a bias or a mask, not as a weight"
    return _by_name(info, tensors) or _by_shape(info)


def _by_name(info: TensorInfo, tensors: Mapping[str, TensorInfo]) -> tuple[Part, ...] | None:
    shape = info.shape
    if len(shape) == 2:
        return _recurrent(info, tensors) or fused_attention(info.name, shape)
    if len(shape) == 3 and info.role is None:
        name = info.name.lower()
        if shape[0] <= MAX_EXPERTS and _EXPERTS.search(name) and "conv" not in name:
            return stack(LayerType.EXPERT, (shape[0], shape[1], shape[2]))
        if "bilinear" in name:
            return pool(LayerType.BILINEAR, (shape[0], shape[1], shape[2]))
    return None


def _recurrent(info: TensorInfo, tensors: Mapping[str, TensorInfo]) -> tuple[Part, ...] | None:
    n_rows, n_columns = info.shape
    found = _TORCH_RECURRENT.fullmatch(info.name)
    if found is not None:
        names = _torch_gates(info, found, tensors)
        return None if names is None else equal_rows(LayerType.RECURRENT, (n_rows, n_columns), names)
    found = _KERAS_RECURRENT.fullmatch(info.name)
    recurrent = tensors.get(f"{found['stem']}recurrent_kernel") if found is not None else None
    if recurrent is None or len(recurrent.shape) != 2:
        return None
    names = _names_of_gates(KERAS_GATES, n_columns, recurrent.shape[0])
    return None if names is None else equal_columns(LayerType.RECURRENT, info.shape, names)


def _torch_gates(info: TensorInfo, found: re.Match[str], tensors: Mapping[str, TensorInfo]) -> tuple[str, ...] | None:
    """Return the gates from the size of the hidden state: the columns of weight_hr, or else of weight_hh."""
    if found["kind"] == "hr":
        return ("",)
    for kind in ("hr", "hh"):
        other = tensors.get(f"{found['stem']}{kind}{found['which']}")
        if other is not None and len(other.shape) == 2:
            return _names_of_gates(TORCH_GATES, info.shape[0], other.shape[1])
    return None


def _names_of_gates(gates: Mapping[int, tuple[str, ...]], n_total: int, n_hidden: int) -> tuple[str, ...] | None:
    return next((names for n_gates, names in gates.items() if n_total == n_gates * n_hidden), None)


def _by_shape(info: TensorInfo) -> tuple[Part, ...] | str:
    shape = info.shape
    if len(shape) == 2:
        return matrix(_two_dimensional_type(info), *shape)
    if len(shape) == 3:
        return _three_dimensional(info)
    if len(shape) in _CONVOLUTIONS:
        return _convolution(info, _CONVOLUTIONS[len(shape)])
    return f"tensors of {len(shape)} dimensions are not analysed"


def _two_dimensional_type(info: TensorInfo) -> LayerType:
    if info.role is not None:
        return info.role if info.role in _KEPT_ROLES else LayerType.DENSE
    is_embedding = any(word in info.name.lower() for word in EMBEDDING_WORDS)
    return LayerType.EMBEDDING if is_embedding else LayerType.DENSE


def _three_dimensional(info: TensorInfo) -> tuple[Part, ...] | str:
    first, second, third = info.shape
    name = info.name.lower()
    if info.role is LayerType.CONV1D:
        return kernel(LayerType.CONV1D, info.shape)
    if name.endswith("kernel") and first <= min(second, third):
        return channels_last_kernel(LayerType.CONV1D, info.shape)
    if first == 1 and third > MAX_KERNEL and "conv" not in name:
        return matrix(_two_dimensional_type(info), second, third)
    is_short = third <= MAX_KERNEL or third <= min(first, second) // 2
    if info.role is None and ("conv" in name or is_short):
        return kernel(LayerType.CONV1D, info.shape)
    return "three dimensions whose meaning neither the name nor the shape tells"


def _convolution(info: TensorInfo, layer_type: LayerType) -> tuple[Part, ...]:
    # Channels are many, kernels are small: the rule by which the incumbent tells the two orders apart.
    is_torch = sum(info.shape[:2]) >= sum(info.shape[-2:])
    if info.role is layer_type or is_torch:
        return kernel(layer_type, info.shape)
    return channels_last_kernel(layer_type, info.shape)
