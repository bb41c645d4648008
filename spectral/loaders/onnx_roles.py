"""What a tensor of an ONNX file does, told by the operator that takes it: its layer type and its matrices.

Shapes and the order of gates are those of https://onnx.ai/onnx/operators/ and of onnxruntime's own operators.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spectral.attention import QKV, fused_attention
from spectral.loaders.protocol import LayerType
from spectral.parts import Part, equal_columns, kernel, stack

if TYPE_CHECKING:
    from collections.abc import Callable

    from spectral.loaders.onnx_graph import GraphIndex, Use, Value
    from spectral.loaders.onnx_proto import Node

MAX_STACK = 4096
"""More matrices in one tensor than any model multiplies at once."""

_MATMUL = frozenset(
    {"MatMul", "FusedMatMul", "TransposeMatMul", "QLinearMatMul", "MatMulInteger", "DynamicQuantizeMatMul"}
    | {"MatMulIntegerToFloat", "GemmFastGelu", "FusedMatMulActivation", "MatMulInteger16"}
)
_WEIGHT_INPUTS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(_MATMUL | {"Gemm", "FusedGemm", "GemmFloat8", "Einsum"}, (0, 1)),
    **dict.fromkeys(("QLinearMatMul", "QGemm"), (0, 3)),
    **dict.fromkeys(("Conv", "FusedConv", "ConvInteger", "ConvTranspose", "ConvTransposeWithDynamicPads"), (1,)),
    "QLinearConv": (3,),
    **dict.fromkeys(("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"), (1, 2, 3)),
    **dict.fromkeys(("EmbedLayerNormalization", "QEmbedLayerNormalization"), (2, 3, 4)),
    **dict.fromkeys(("Attention", "QAttention", "PackedAttention"), (1,)),
    "LongformerAttention": (1, 5),
    **dict.fromkeys(("MatMulNBits", "MatMulBnb4"), (1,)),
    "MatMulNBitsMlp": (3, 6),
    "MatMulNBitsQkv": (3, 6, 9),
    "MoE": (2, 4, 6),
    "QMoE": (2, 5, 8),
    **dict.fromkeys(("Gather", "GatherBlockQuantized"), (0,)),
}
"""Operator -> the inputs that are weights where the file holds them."""

_CONV = frozenset({"Conv", "FusedConv", "QLinearConv", "ConvInteger", "ConvTranspose", "ConvTransposeWithDynamicPads"})
_ATTENTION = frozenset({"Attention", "QAttention", "PackedAttention", "LongformerAttention"})
_TABLES = frozenset({"Gather", "GatherBlockQuantized", "EmbedLayerNormalization", "QEmbedLayerNormalization"})
_RECURRENT = {
    "LSTM": ("i", "o", "f", "g"),
    "DynamicQuantizeLSTM": ("i", "o", "f", "g"),
    "GRU": ("z", "r", "n"),
    "RNN": ("",),
}
"""Order of the gates, in torch's words."""

_RECURRENT_BIAS = 3
"""The input of a recurrent operator that holds biases."""

_CONVOLUTIONS = {3: LayerType.CONV1D, 4: LayerType.CONV2D, 5: LayerType.CONV3D}
_MOVES = frozenset({"Identity", "Cast", "CastLike", "Dropout", "QuantizeLinear", "DequantizeLinear"})
_RESHAPES = frozenset({"Reshape", "Flatten", "Unsqueeze", "Squeeze", "Slice", "Split", "Concat"})
_MAX_STEPS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightUse:
    """The operator that a weight is made for.

    Attributes
    ----------
    node : Node
        The operator.
    index : int
        Which of its inputs the weight is.
    axes : tuple of int, optional
        For each axis of that input, which one of the stored tensor it is; None where it was reshaped on the way.
    """

    node: Node
    index: int
    axes: tuple[int, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """What is said of a weight."""

    layer_type: LayerType | None = None
    parts: tuple[Part, ...] | None = None


def find_use(index: GraphIndex, value: Value, axes: tuple[int, ...] | None) -> WeightUse | None:
    """Return the first operator with a known role that a value reaches through ones that only move it."""
    pending = deque([(value, axes)])
    n_steps = 0
    while pending and n_steps < _MAX_STEPS:
        n_steps += 1
        value, axes = pending.popleft()
        for use in index.uses_of(value):
            node = use.node
            if is_weight_input(node, use.place):
                return WeightUse(node=node, index=use.place, axes=axes)
            after = index.output_of(node)
            if after is None or (use.place != 0 and node.op_type != "Concat"):
                continue
            if node.op_type in _MOVES:
                pending.append((after, axes))
            elif node.op_type == "Transpose" and axes is not None:
                order = node.ints.get("perm", tuple(reversed(range(len(axes)))))
                is_order = sorted(order) == list(range(len(axes)))
                pending.append((after, tuple(axes[place] for place in order) if is_order else None))
            elif node.op_type in _RESHAPES or node.op_type == "Transpose":
                pending.append((after, None))
    return None


def last_uses(index: GraphIndex, value: Value) -> list[Use]:
    """Return where a value is computed with, behind operators that only move it."""
    pending, found = deque([value]), []
    n_steps = 0
    while pending and n_steps < _MAX_STEPS:
        n_steps += 1
        for use in index.uses_of(pending.popleft()):
            after = index.output_of(use.node)
            if (
                use.node.op_type in _MOVES | _RESHAPES | {"Transpose", "Expand"}
                and use.place == 0
                and after is not None
            ):
                pending.append(after)
            else:
                found.append(use)
    return found


def is_weight_input(node: Node, place: int) -> bool:
    """Tell whether an operator takes a weight there."""
    # ONNX has an operator called Attention, too, that takes no weights.
    is_other = node.op_type == "Attention" and node.domain != "com.microsoft"
    return place in _WEIGHT_INPUTS.get(node.op_type, ()) and not is_other


def describe_role(use: WeightUse, shape: tuple[int, ...], name: str, *, is_turned: bool) -> Role:
    """Return layer type and matrices of a weight.

    Parameters
    ----------
    use : WeightUse
        The operator that takes it.
    shape : tuple of int
        Its stored shape.
    name : str
        Its name in the original framework where that is known, otherwise in the file.
    is_turned : bool
        Whether the original has the other axis first: then rows and columns are those of the original.
    """
    if 0 in shape or (use.axes is not None and sorted(use.axes) != list(range(len(shape)))):
        return Role()
    for operators, describe in _DESCRIBED:
        if use.node.op_type in operators:
            return describe(use, shape)
    if len(shape) == 2:
        return _matrix(shape, name, is_turned=is_turned)
    return _stacked(use, shape) if use.axes is not None and len(shape) > 2 else Role()


def _is_whole(use: WeightUse, shape: tuple[int, ...]) -> bool:
    """Tell whether a weight comes to its operator as it is stored."""
    return use.axes == tuple(range(len(shape)))


def _table(use: WeightUse, shape: tuple[int, ...]) -> Role:
    return Role(layer_type=LayerType.EMBEDDING) if len(shape) == 2 and use.node.number("axis") == 0 else Role()


def _experts(use: WeightUse, shape: tuple[int, ...]) -> Role:
    if len(shape) != 3 or shape[0] > MAX_STACK or not _is_whole(use, shape):
        return Role()
    return Role(layer_type=LayerType.EXPERT, parts=stack(LayerType.EXPERT, (shape[0], shape[1], shape[2])))


def _matrix(shape: tuple[int, ...], name: str, *, is_turned: bool) -> Role:
    original = shape[::-1] if is_turned else shape
    found = fused_attention(name, original)
    if found is None:
        if not is_turned:
            return Role(layer_type=LayerType.DENSE)
        whole = Part(layer_type=LayerType.DENSE, fold=(shape[0], shape[1]), row_axes=(1,), column_axes=(0,))
        return Role(layer_type=LayerType.DENSE, parts=(whole,))
    parts = tuple(_turned(part) for part in found) if is_turned else found
    return Role(layer_type=LayerType.ATTENTION, parts=parts)


def _turned(part: Part) -> Part:
    """Return the same matrix as a part of the transposed tensor: the axes of the columns come first there."""
    n_row_axes = next(n for n in range(len(part.fold)) if n >= len(part.row_axes) - 1 and _splits(part, n))
    n_axes = len(part.fold)

    def moved(axis: int) -> int:
        return axis - n_row_axes if axis >= n_row_axes else axis + n_axes - n_row_axes

    window = part.window
    return Part(
        layer_type=part.layer_type,
        fold=part.fold[n_row_axes:] + part.fold[:n_row_axes],
        row_axes=tuple(moved(axis) for axis in part.row_axes),
        column_axes=tuple(moved(axis) for axis in part.column_axes),
        window=None if window is None else (moved(window[0]), *window[1:]),
        name=part.name,
    )


def _splits(part: Part, n_row_axes: int) -> bool:
    """Tell whether the first axes of the fold are all those of the rows."""
    return 0 < n_row_axes < len(part.fold) and set(part.column_axes) == set(range(n_row_axes, len(part.fold)))


def _convolution(use: WeightUse, shape: tuple[int, ...]) -> Role:
    layer_type = _CONVOLUTIONS.get(len(shape))
    n_groups = use.node.number("group", 1)
    if layer_type is None or n_groups < 1 or shape[0] % n_groups or not _is_whole(use, shape):
        return Role(layer_type=layer_type)
    return Role(layer_type=layer_type, parts=kernel(layer_type, shape, n_groups))


def _recurrent(use: WeightUse, shape: tuple[int, ...]) -> Role:
    """Cut (directions, gates · hidden, in), or for DynamicQuantizeLSTM (directions, in, gates · hidden)."""
    if use.index == _RECURRENT_BIAS:
        return Role(parts=_vectors(shape)) if len(shape) == 2 else Role()
    gates = _RECURRENT[use.node.op_type]
    is_last = use.node.op_type == "DynamicQuantizeLSTM"
    if not _is_whole(use, shape):
        return Role()
    if len(shape) != 3 or shape[0] not in (1, 2) or shape[2 if is_last else 1] % len(gates):
        return Role()
    if is_last:
        # Both directions of a gate are slices of one pool: no single run of one axis has one of them alone.
        return Role(layer_type=LayerType.RECURRENT, parts=equal_columns(LayerType.RECURRENT, shape, gates))
    n_directions, n_rows, n_columns = shape
    fold = (n_directions * len(gates), n_rows // len(gates), n_columns)
    parts = tuple(
        Part(
            layer_type=LayerType.RECURRENT,
            fold=fold,
            window=(0, place, place + 1),
            row_axes=(0, 1),
            column_axes=(2,),
            name=gate_name(direction, gate),
        )
        for direction in range(n_directions)
        for place, gate in enumerate(gates, start=direction * len(gates))
    )
    return Role(layer_type=LayerType.RECURRENT, parts=parts)


def _vectors(shape: tuple[int, ...]) -> tuple[Part, ...]:
    """Cut (directions, biases): each row is a vector, and together they are no matrix."""
    fold = (shape[0], shape[1])
    return tuple(
        Part(
            layer_type=LayerType.RECURRENT,
            fold=fold,
            window=(0, row, row + 1),
            row_axes=(0,),
            column_axes=(1,),
            name=gate_name(row, ""),
        )
        for row in range(min(shape[0], 2))
    )


def is_initial_state(node: Node, place: int) -> bool:
    """Tell whether a recurrent operator takes its state before the first step there."""
    return node.op_type in _RECURRENT and place in (5, 6)


def gate_name(direction: int, gate: str) -> str:
    """Return what the part of a recurrent layer is called: the second direction runs backwards."""
    return ".".join(word for word in ("reverse" if direction else "", gate) if word)


def _attention(use: WeightUse, shape: tuple[int, ...]) -> Role:
    """Cut (in, out) into Q, K and V, one beside the other; LongformerAttention keeps its three in thirds, too."""
    if len(shape) != 2 or not _is_whole(use, shape):
        return Role()
    sizes = use.node.ints.get("qkv_hidden_sizes") or (shape[1] // 3,) * 3
    if len(sizes) != 3 or min(sizes) < 1 or sum(sizes) != shape[1]:
        return Role(layer_type=LayerType.DENSE)
    parts = []
    begin = 0
    for name, size in zip(QKV, sizes, strict=True):
        window = (1, begin, begin + size)
        fold = (shape[0], shape[1])
        parts.append(
            Part(layer_type=LayerType.ATTENTION, fold=fold, window=window, row_axes=(1,), column_axes=(0,), name=name)
        )
        begin += size
    return Role(layer_type=LayerType.ATTENTION, parts=tuple(parts))


def _stacked(use: WeightUse, shape: tuple[int, ...]) -> Role:
    """Cut a product of many matrices at once: (.., in, out)."""
    if use.axes is None:
        return Role()
    if use.node.op_type == "Einsum":
        return _einsum(use, shape)
    rows, columns = use.axes[-2:]
    outer = use.axes[:-2]
    n_stack = math.prod(shape[axis] for axis in outer)
    if use.node.op_type not in _MATMUL or n_stack > MAX_STACK or outer != tuple(range(len(outer))):
        return Role()
    is_plain = (rows, columns) == (len(shape) - 2, len(shape) - 1)
    inner = (shape[-2], shape[-1])
    parts = tuple(
        Part(
            layer_type=LayerType.DENSE,
            fold=(n_stack, *inner),
            window=(0, place, place + 1),
            row_axes=(0, 1) if is_plain else (0, 2),
            column_axes=(2,) if is_plain else (1,),
            name=str(place) if n_stack > 1 else "",
        )
        for place in range(n_stack)
    )
    return Role(layer_type=LayerType.DENSE, parts=parts)


def _einsum(use: WeightUse, shape: tuple[int, ...]) -> Role:
    """Cut a tensor by the letters of its axes: those that are summed over are columns, those that stay are rows."""
    terms, arrow, result = use.node.texts.get("equation", "").replace(" ", "").partition("->")
    sides = terms.split(",")
    if not arrow or "." in terms or len(sides) != 2 or use.axes is None:
        return Role()
    own, other = sides[use.index], sides[1 - use.index]
    if len(own) != len(shape) or len(set(own)) != len(own):
        return Role()
    axis_of = dict(zip(own, use.axes, strict=True))
    columns = tuple(axis_of[letter] for letter in own if letter not in result)
    rows = tuple(axis_of[letter] for letter in own if letter in result and letter not in other)
    shared = tuple(axis_of[letter] for letter in own if letter in result and letter in other)
    if not rows or not columns or any(letter not in other for letter in own if letter not in result):
        return Role()
    part = Part(layer_type=LayerType.DENSE, fold=shape, row_axes=rows, column_axes=columns, slice_axes=shared)
    return Role(layer_type=LayerType.DENSE, parts=(part,))


_DESCRIBED: tuple[tuple[frozenset[str], Callable[[WeightUse, tuple[int, ...]], Role]], ...] = (
    (_CONV, _convolution),
    (_TABLES, _table),
    (frozenset(_RECURRENT), _recurrent),
    (frozenset({"MoE", "QMoE"}), _experts),
    (_ATTENTION, _attention),
)
