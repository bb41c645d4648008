"""Names that tensors had before they were exported to ONNX, told by what exporters and quantisers make of them.

torch's exporters keep the names of parameters, but a weight that they transposed is a new constant
(``onnx::MatMul_123``, ``val_49``): its module stands in the name of the operator
(``/encoder/layer.0/attention/self/query/MatMul``), in the operator's metadata, and in the name of the bias beside it.
tf2onnx keeps the path of the variable, and onnxruntime-genai the path of the module with the operator in it. Quantisers
add a suffix.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_GENERATED = re.compile(
    r"onnx::.*|([\w.]*_)?val_\d+(_\w+)?|\d+(_\w+)?|_v_\d+|_?const_fold_opt_*\d+\w*|[Cc]onst(ant)?\w*(:0)?|new_\w+"
    r"|/.*|.*_output_\d+(_\w+)?|node_.*|tmp_?\d*|t(_\d+)?|__\w+|initializer_?\d*|ortshared_\w+|_inlfunc\w*"
    r"|transpose(_\d+)?|permute(_\d+)?",
    re.DOTALL,
)
"""Names that exporters and optimisers make up."""

MAX_LENGTH = 512
"""Longer names than any parameter has are not taken apart."""

_INLINE = re.compile(r"(?:\w+?_)??_?Inline_\d+__(?=\w+\.)")
"""What spox puts before the names of a graph that it takes into another."""

_QUANT_SUFFIX = re.compile(
    r"(_quantized|_QuantizeLinear\w*|_DequantizeLinear\w*|_dequantized|_quant|_Q\d+(G\d+)?|_DQ_Q\d+\w*|_[Tt]ransposed"
    r"|_Bnb4|[._]qweight)$"
)
_TURNED = re.compile(r"_(DQ_)?Q\d+(G\d+)?$|_Bnb4$|_[Tt]ransposed")
"""What onnxruntime's quantisers put behind a weight that they transpose."""

_QUANT_OPERATOR = re.compile(r"(_quant|_Q\d+(G\d+)?|_Bnb4|_DQ\w*|_QLinear\w*|_fused\w*)$")
_OPERATOR = re.compile(r"(_quant|_Q\d+|_Bnb4|_DQ\w*|_QLinear\w*|_token_\d+|_fused\w*)+$")
_OPERATOR = re.compile(r"[A-Z]\w*")
_SCOPE = re.compile(r"'((?:[^'\\]|\\.)*)'")
_GENAI = re.compile(r"(?P<module>[\w.]+)\.(MatMul|Gemm)(NBits)?\.(?P<rest>weight|bias)")
_TENSORFLOW = re.compile(r"(?:StatefulPartitionedCall/|PartitionedCall/)*(?P<path>.+?)(/ReadVariableOp)?(:\d+)?")
_TENSORFLOW_OPERATORS = {
    "MatMul": "kernel",
    "Conv2D": "kernel",
    "Conv1D": "kernel",
    "Conv3D": "kernel",
    "BiasAdd": "bias",
    "embedding_lookup": "embeddings",
}

_WEIGHT_OF_RECURRENT = {1: "weight_ih_l", 2: "weight_hh_l"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """What a tensor was called.

    Attributes
    ----------
    name : str
        Its name.
    is_turned : bool
        Whether it was stored with its axes in the other order.
    is_derived : bool
        Whether the name is that of the module with the usual name of a parameter behind it, not the tensor's own.
    """

    name: str
    is_turned: bool = False
    is_derived: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumer:
    """The operator that takes a weight.

    Attributes
    ----------
    op_type : str
        For example ``MatMul``.
    index : int
        Which input the weight is.
    node : str
        Name of the operator.
    scopes : str
        Its metadata ``pkg.torch.onnx.name_scopes``: the text of a list of module paths and of its own name.
    bias : str
        Name of the bias that is added; empty where there is none with a name of its own.
    layer : int
        Of a recurrent operator: the how manieth it is of its module.
    is_right_way : bool
        Whether rows of the weight are outputs, as a linear layer of torch has them.
    """

    op_type: str
    index: int
    node: str = ""
    scopes: str = ""
    bias: str = ""
    layer: int = 0
    is_right_way: bool = False


def original_name(names: tuple[str, ...], consumer: Consumer | None) -> Original | None:
    """Return the name of a tensor in the framework that it was exported from, or None where nothing tells.

    Parameters
    ----------
    names : tuple of str
        What the values are called that only this tensor makes (dequantised), and the tensor itself.
    consumer : Consumer, optional
        The operator that takes it.
    """
    is_turned = consumer is not None and consumer.op_type not in _KEEPS_AXES and not consumer.is_right_way
    for name in names:
        found = _of_parameter(name, is_turned=is_turned)
        if found is not None:
            return found
    short = "" if consumer is None else _short_name(consumer)
    if consumer is None or not short:
        return None
    bias = _of_parameter(consumer.bias, is_turned=False) if consumer.bias and short == "weight" else None
    if bias is not None and bias.name.endswith("bias"):
        return Original(name=bias.name.removesuffix("bias") + "weight", is_turned=is_turned, is_derived=True)
    module = _module_of(consumer)
    return None if module is None else Original(name=f"{module}.{short}", is_turned=is_turned, is_derived=True)


_KEEPS_AXES = frozenset(
    {
        "Conv",
        "FusedConv",
        "QLinearConv",
        "ConvInteger",
        "ConvTranspose",
        "Gather",
        "GatherBlockQuantized",
        "LSTM",
        "GRU",
    }
    | {"RNN", "MatMulNBits", "MatMulBnb4", "Attention", "QAttention", "MoE", "QMoE", "EmbedLayerNormalization"}
    | {"QEmbedLayerNormalization", "MatMulNBitsMlp", "MatMulNBitsQkv", "DynamicQuantizeLSTM"}
)


def is_generated(name: str) -> bool:
    """Tell whether an exporter made a name up."""
    return _GENERATED.fullmatch(name) is not None


def _of_parameter(name: str, *, is_turned: bool) -> Original | None:
    """Return what a name says by itself: that of a parameter, without what was put behind it."""
    stripped = _stripped(name)
    if not stripped or len(name) > MAX_LENGTH or is_generated(name) or is_generated(stripped):
        return None
    genai = _GENAI.fullmatch(stripped)
    if genai is not None:
        module = genai["module"].replace(".attn.", ".self_attn.")
        return Original(name=f"{module}.{genai['rest']}", is_turned=is_turned and genai["rest"] == "weight")
    if "ReadVariableOp" in name or name.startswith(("StatefulPartitionedCall/", "PartitionedCall/")):
        return _of_variable(stripped)
    stripped = _INLINE.sub("", stripped, count=1) if _INLINE.match(stripped) else stripped
    return Original(name=stripped, is_turned=_TURNED.search(name) is not None)


def _stripped(name: str) -> str:
    for _ in range(4 if len(name) <= MAX_LENGTH else 0):
        shorter = _QUANT_SUFFIX.sub("", name)
        if shorter == name or not shorter:
            break
        name = shorter
    return name


def _of_variable(name: str) -> Original | None:
    """Return the variable of Keras that tf2onnx named a constant after, by the operator that read it."""
    found = _TENSORFLOW.fullmatch(name)
    if found is None:
        return None
    *path, operator = found["path"].split("/")
    variable = _TENSORFLOW_OPERATORS.get(operator)
    return Original(name="/".join((*path, variable))) if variable is not None and path else None


def _short_name(consumer: Consumer) -> str:
    """Return what the parameter is called inside its module."""
    if consumer.op_type in ("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"):
        stem = _WEIGHT_OF_RECURRENT.get(consumer.index)
        return "" if stem is None else f"{stem}{consumer.layer}"
    return "weight"


def _module_of(consumer: Consumer) -> str | None:
    """Return the path of the module that an operator came from."""
    scopes: list[str] = [scope for scope in _SCOPE.findall(consumer.scopes[:20_000]) if scope]
    if len(scopes) > 1:
        return scopes[-2]
    path, slash, operator = consumer.node[:MAX_LENGTH].rpartition("/")
    operator = _QUANT_OPERATOR.sub("", operator)
    if not slash or not path.startswith("/") or _OPERATOR.fullmatch(operator) is None:
        return None
    return _joined(path) or None


def _joined(path: str) -> str:
    """Join the steps of a path; a step may begin with all of the one before it, as in ``/layer1/layer1.0``."""
    names: list[str] = []
    for step in path.split("/"):
        if not step:
            continue
        if names and step.startswith(f"{names[-1]}."):
            names[-1] = step
        else:
            names.append(step)
    return ".".join(names)
