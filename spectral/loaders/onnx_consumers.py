"""What the graph tells of a weight's name: the operator that takes it, the bias beside it, the number of its layer."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from spectral.loaders.onnx_names import Consumer

if TYPE_CHECKING:
    from spectral.loaders.onnx_graph import GraphIndex, Value
    from spectral.loaders.onnx_proto import Model, Node
    from spectral.loaders.onnx_roles import WeightUse

_BIAS_INPUTS = {
    "Gemm": 2,
    "FusedGemm": 2,
    "QGemm": 6,
    "Conv": 2,
    "FusedConv": 2,
    "ConvTranspose": 2,
    "QLinearConv": 8,
    "DynamicQuantizeMatMul": 4,
    "MatMulIntegerToFloat": 6,
    "MatMulNBits": 5,
    "GemmFastGelu": 2,
}
_RECURRENT = frozenset({"LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"})
_BETWEEN = frozenset({"Cast", "Mul", "Reshape", "Squeeze", "DequantizeLinear", "QuantizeLinear", "Identity"})
"""What may stand between a product and the bias that is added to it."""

_MAX_STEPS = 6
Place = tuple[int, ...]


def recurrent_layers(model: Model) -> dict[Place, int]:
    """Return the number of each recurrent operator within its module, as torch numbers layers.

    The operators of a module are told by their names: ``/lstm/LSTM``, ``/lstm/LSTM_1``; in metadata, by the module.
    """
    counts: dict[str, int] = defaultdict(int)
    numbers: dict[Place, int] = {}
    for graph in model.graphs:
        for node in graph.nodes:
            if node.op_type in _RECURRENT:
                module = node.scopes.rpartition(",")[0] or node.name.rpartition("/")[0] or node.name
                numbers[node.order] = counts[module]
                counts[module] += 1
    return numbers


def consumer_of(index: GraphIndex, use: WeightUse, shape: tuple[int, ...], layers: dict[Place, int]) -> Consumer:
    """Return what is known of the operator that takes a weight.

    Parameters
    ----------
    index : GraphIndex
        The graphs.
    use : WeightUse
        The operator, and how the weight comes to it.
    shape : tuple of int
        Stored shape of the weight.
    layers : dict
        The number of each recurrent operator.
    """
    node = use.node
    return Consumer(
        op_type=node.op_type,
        index=use.index,
        node=node.name,
        scopes=node.scopes,
        bias=_bias_of(index, node),
        layer=layers.get(node.order, 0),
        is_right_way=len(shape) != 2 or _rows_are_outputs(use),
    )


def _rows_are_outputs(use: WeightUse) -> bool:
    """Tell whether the first stored axis of a matrix is that of the outputs."""
    node, place = use.node, use.index
    is_swapped = use.axes is not None and use.axes == (1, 0)
    if node.op_type in ("Gemm", "FusedGemm", "QGemm", "GemmFloat8", "FusedMatMul", "TransposeMatMul"):
        is_swapped ^= bool(node.number("transA" if place == 0 else "transB"))
    # The left side of a product has its outputs first, the right side its inputs.
    return is_swapped ^ (place == 0)


def _bias_of(index: GraphIndex, node: Node) -> str:
    place = _BIAS_INPUTS.get(node.op_type)
    if place is not None:
        name = _constant_name(index, index.input_of(node, place))
        if name:
            return name
    value = index.output_of(node)
    for _ in range(_MAX_STEPS):
        uses = list(index.uses_of(value)) if value is not None else []
        if len(uses) != 1:
            return ""
        after = uses[0].node
        if after.op_type == "Add":
            return _constant_name(index, index.input_of(after, 1 - uses[0].place))
        if after.op_type not in _BETWEEN:
            return ""
        value = index.output_of(after)
    return ""


def _constant_name(index: GraphIndex, value: Value | None) -> str:
    """Return the name of a vector that the file holds, dequantised on the way or not."""
    for _ in range(_MAX_STEPS):
        constant = index.constant_of(value)
        if constant is not None:
            return constant.value.name
        producer = index.producers.get(value) if value is not None else None
        if producer is None or producer.node.op_type not in ("DequantizeLinear", "Mul", "Cast"):
            return ""
        value = index.input_of(producer.node, 0)
    return ""
