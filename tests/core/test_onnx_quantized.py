"""Quantised weights in ONNX files: what the loader reads is what onnxruntime computes with."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization as ortq

from spectral.loaders.onnx_file import OnnxFile, open_onnx
from spectral.loaders.protocol import LayerType

RNG = np.random.default_rng(0)
MS = "com.microsoft"
Nodes = list[onnx.NodeProto]


def save(path: Path, nodes: Nodes, tensors: dict[str, Any], **options: Any) -> Path:
    """Write a model of one input x and one output y."""
    initializers = [
        value if isinstance(value, onnx.TensorProto) else numpy_helper.from_array(np.asarray(value), name)
        for name, value in tensors.items()
    ]
    for name, value in zip(tensors, initializers, strict=True):
        value.name = name
    kind = options.get("kind", TensorProto.FLOAT)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", options.get("input_kind", kind), None)],
        [helper.make_tensor_value_info("y", options.get("output_kind", kind), None)],
        initializers,
    )
    opsets = [helper.make_opsetid("", options.get("opset", 21)), helper.make_opsetid(MS, 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def run(path: Path, x: Any) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})
    return y


def check_factors(source: OnnxFile, name: str, *factors: str) -> None:
    """Demand that scales and zero points are counted in the weight, and in nothing else."""
    infos = {info.name: info for info in source.tensors()}
    for factor in factors:
        assert infos[factor].counted_in == name
        assert (infos[factor].refusal or "").endswith(f"of {name}")
    assert infos[name].refusal is None
    assert infos[name].quantization is not None
    values = source.load(name)
    assert values.shape == infos[name].shape
    assert values.dtype.name == infos[name].dtype
    flat = values.reshape(-1)
    for begin, end in ((0, 1), (3, flat.size - 2), (flat.size - 1, flat.size), (5, 5)):
        np.testing.assert_array_equal(source.load_span(name, begin, end), flat[begin:end])


def packed(kind: int, codes: Any, name: str = "w", *, as_list: bool = False) -> onnx.TensorProto:
    if as_list:
        return helper.make_tensor(name, kind, codes.shape, codes.reshape(-1).tolist())
    array = codes.astype(helper.tensor_dtype_to_np_dtype(kind))
    return numpy_helper.from_array(array, name)


INTEGERS = {
    "int8": (TensorProto.INT8, -128, 127),
    "uint8": (TensorProto.UINT8, 0, 255),
    "int16": (TensorProto.INT16, -32768, 32767),
    "uint16": (TensorProto.UINT16, 0, 65535),
    "int4": (TensorProto.INT4, -8, 7),
    "uint4": (TensorProto.UINT4, 0, 15),
}
GRIDS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "tensor": ((), {}),
    "axis 0": ((7,), {"axis": 0}),
    "axis 1": ((70,), {"axis": 1}),
}
GRIDS["blocks"] = ((7, 3), {"axis": 1, "block_size": 32})
GRIDS["blocks of rows"] = ((4, 70), {"axis": 0, "block_size": 2})


@pytest.mark.parametrize("as_list", [False, True], ids=["raw", "list"])
@pytest.mark.parametrize("has_zero", [False, True], ids=["symmetric", "zero points"])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("kind", INTEGERS)
def test_dequantize_linear(kind: str, grid: str, has_zero: bool, as_list: bool, tmp_path: Path) -> None:
    number, low, high = INTEGERS[kind]
    shape, attributes = GRIDS[grid]
    codes = RNG.integers(low, high, (7, 70), endpoint=True)
    tensors: dict[str, Any] = {
        "w": packed(number, codes, as_list=as_list),
        "s": RNG.uniform(0.01, 0.1, shape).astype(np.float32),
    }
    if has_zero:
        zeros = RNG.integers(low, high, shape, endpoint=True)
        # Whatever was drawn: all zero would be as good as none.
        tensors["z"] = packed(number, np.where(zeros == 0, high, zeros))
    nodes = [
        helper.make_node("DequantizeLinear", list(tensors), ["d"], **attributes),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    path = save(tmp_path / "m.onnx", nodes, tensors)
    source = open_onnx(path)
    np.testing.assert_array_equal(source.load("w"), run(path, np.eye(7, dtype=np.float32)))
    check_factors(source, "w", *[name for name in tensors if name != "w"])
    info = next(info for info in source.tensors() if info.name == "w")
    assert info.role is LayerType.DENSE
    assert info.quantization is not None
    assert info.quantization.bits == int(kind.lstrip("uint"))
    blocks = {"tensor": (7, 70), "axis 0": (1, 70), "axis 1": (7, 1), "blocks": (1, 32), "blocks of rows": (2, 1)}
    assert info.quantization.block == blocks[grid]
    assert info.quantization.is_symmetric is not has_zero


@pytest.mark.parametrize("kind", ["FLOAT8E4M3FN", "FLOAT8E5M2", "FLOAT8E4M3FNUZ", "FLOAT8E5M2FNUZ", "FLOAT4E2M1"])
def test_small_floats(kind: str, tmp_path: Path) -> None:
    number = getattr(TensorProto, kind)
    values = RNG.normal(size=(5, 12)).astype(helper.tensor_dtype_to_np_dtype(number))
    tensors: dict[str, Any] = {"w": numpy_helper.from_array(values, "w")}
    tensors["s"] = RNG.uniform(0.1, 1, (5, 1)).astype(np.float32)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["d"], axis=1, block_size=12),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    source = open_onnx(save(tmp_path / "m.onnx", nodes, tensors, opset=23))
    np.testing.assert_array_equal(source.load("w"), values.astype(np.float32) * tensors["s"])
    check_factors(source, "w", "s")


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_the_type_of_the_scales_is_that_of_the_values(kind: Any, tmp_path: Path) -> None:
    tensors = {"w": RNG.integers(-128, 127, (6, 9), dtype=np.int8), "s": np.asarray(0.0371, kind)}
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["d"]),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    number = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    path = save(tmp_path / "m.onnx", nodes, tensors, kind=number)
    values = open_onnx(path).load("w")
    assert values.dtype == kind
    np.testing.assert_array_equal(values, run(path, np.eye(6, dtype=kind)))


def test_codes_that_are_moved_before_they_are_dequantised(tmp_path: Path) -> None:
    """Blocks along the rows of the transposed codes are blocks along their columns as stored."""
    codes = RNG.integers(-128, 127, (6, 32), dtype=np.int8)
    tensors = {"w": codes, "s": RNG.uniform(0.01, 0.1, (2, 6)).astype(np.float32)}
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
        helper.make_node("DequantizeLinear", ["t", "s"], ["d"], axis=0, block_size=16),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    path = save(tmp_path / "m.onnx", nodes, tensors)
    source = open_onnx(path)
    np.testing.assert_array_equal(source.load("w").T, run(path, np.eye(32, dtype=np.float32)))
    check_factors(source, "w", "s")


@pytest.mark.parametrize("way", ["Mul", "Div", "Sub Mul", "Reshape"])
def test_codes_that_are_cast_and_scaled_by_hand(way: str, tmp_path: Path) -> None:
    tensors: dict[str, Any] = {
        "w": RNG.integers(0, 255, (8, 6), dtype=np.uint8),
        "s": RNG.uniform(1, 2, (1, 6)).astype(np.float32),
    }
    nodes = [helper.make_node("Cast", ["w"], ["c"], to=TensorProto.FLOAT)]
    last = "c"
    if way == "Sub Mul":
        tensors["z"] = np.float32(128)
        nodes.append(helper.make_node("Sub", ["c", "z"], ["u"]))
        last = "u"
    if way == "Reshape":
        tensors |= {"shape": np.array([16, -1]), "back": np.array([8, 6]), "s": np.ones((16, 1), np.float32) * 3}
        nodes.append(helper.make_node("Reshape", ["c", "shape"], ["r"]))
        nodes.append(helper.make_node("Mul", ["s", "r"], ["p"]))
        nodes.append(helper.make_node("Reshape", ["p", "back"], ["v"]))
    else:
        nodes.append(helper.make_node("Div" if way == "Div" else "Mul", [last, "s"], ["v"]))
    nodes.append(helper.make_node("MatMul", ["x", "v"], ["y"]))
    path = save(tmp_path / "m.onnx", nodes, tensors)
    source = open_onnx(path)
    np.testing.assert_array_equal(source.load("w"), run(path, np.eye(8, dtype=np.float32)))
    check_factors(source, "w", *({"s", "z"} & set(tensors)))


@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_values_that_the_model_rounds_as_it_was_trained(kind: str, tmp_path: Path) -> None:
    """QuantizeLinear and DequantizeLinear on float weights: what is analysed are the rounded ones."""
    values = RNG.normal(size=(9, 11)).astype(np.float32)
    tensors = {"w": values, "s": RNG.uniform(0.01, 0.02, 11).astype(np.float32)}
    tensors["z"] = np.full(11, 0 if kind == "int8" else 120, kind)
    nodes = [
        helper.make_node("QuantizeLinear", ["w", "s", "z"], ["q"], axis=1),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], axis=1),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    path = save(tmp_path / "m.onnx", nodes, tensors)
    source = open_onnx(path)
    rounded = source.load("w")
    np.testing.assert_array_equal(rounded, run(path, np.eye(9, dtype=np.float32)))
    assert not np.array_equal(rounded, values)
    check_factors(source, "w", "s", "z")


@pytest.mark.parametrize("has_zero", [False, True], ids=["symmetric", "zero points"])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("n_in", [64, 80])
def test_matmul_nbits(bits: int, n_in: int, has_zero: bool, tmp_path: Path) -> None:
    n_out, block = 12, 32
    n_blocks = -(-n_in // block)
    tensors: dict[str, Any] = {
        "w": RNG.integers(0, 255, (n_out, n_blocks, block * bits // 8), dtype=np.uint8),
        "s": RNG.uniform(0.01, 0.1, (n_out, n_blocks)).astype(np.float32),
    }
    if has_zero:
        tensors["z"] = RNG.integers(0, 255, (n_out, -(-n_blocks * bits // 8)), dtype=np.uint8)
    node = helper.make_node(
        "MatMulNBits", ["x", *tensors], ["y"], domain=MS, K=n_in, N=n_out, bits=bits, block_size=block
    )
    path = save(tmp_path / "m.onnx", [node], tensors)
    source = open_onnx(path)
    np.testing.assert_allclose(source.load("w").T, run(path, np.eye(n_in, dtype=np.float32)), rtol=1e-6, atol=1e-7)
    check_factors(source, "w", *[name for name in tensors if name != "w"])
    (info,) = (info for info in source.tensors() if info.name == "w")
    assert (info.shape, info.role) == ((n_out, n_in), LayerType.DENSE)


def test_blocks_in_another_order(tmp_path: Path) -> None:
    """With g_idx a column of the input says which block it is in (as GPTQ orders them by activation)."""
    tensors: dict[str, Any] = {
        "w": RNG.integers(0, 255, (6, 4, 8), dtype=np.uint8),
        "s": RNG.uniform(0.01, 0.1, (6, 4)).astype(np.float32),
        "z": RNG.uniform(0, 15, (6, 4)).astype(np.float32),
        "g": RNG.integers(0, 4, 64).astype(np.int32),
    }
    node = helper.make_node("MatMulNBits", ["x", *tensors], ["y"], domain=MS, K=64, N=6, bits=4, block_size=16)
    source = open_onnx(save(tmp_path / "m.onnx", [node], tensors))
    flat = tensors["w"].reshape(6, 32)
    codes = np.stack([flat & 15, flat >> 4], axis=-1).reshape(6, 64).astype(np.float32)
    expected = (codes - tensors["z"][:, tensors["g"]]) * tensors["s"][:, tensors["g"]]
    np.testing.assert_array_equal(source.load("w"), expected)
    check_factors(source, "w", "s", "z", "g")


def test_blockwise_weights_as_onnxruntime_makes_them(tmp_path: Path) -> None:
    values = RNG.normal(size=(96, 40)).astype(np.float32)
    path = save(tmp_path / "m.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"], name="mm")], {"w": values})
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    for symmetric in (True, False):
        logging.disable(logging.INFO)
        quantizer = MatMulNBitsQuantizer(onnx.load(path), block_size=32, is_symmetric=symmetric)
        quantizer.process()
        logging.disable(logging.NOTSET)
        quantizer.model.save_model_to_file(str(tmp_path / "q.onnx"))
        source = open_onnx(tmp_path / "q.onnx")
        (name,) = source.recipes
        read = source.load(name).T
        np.testing.assert_allclose(read, run(tmp_path / "q.onnx", np.eye(96, dtype=np.float32)), rtol=1e-6, atol=1e-7)
        step = source.stored[source.recipes[name].scales[0].tensor].read("s").reshape(40, 3)
        assert (np.abs(read - values) <= np.abs(np.repeat(step, 32, axis=1).T) * (1.01 if symmetric else 0.51)).all()
        assert source.original_names[name] == "w"
        assert name in source.transposed_names


@pytest.mark.parametrize("kind", [0, 1], ids=["fp4", "nf4"])
def test_bitsandbytes(kind: int, tmp_path: Path) -> None:
    tensors = {
        "w": RNG.integers(0, 255, 24 * 32 // 2, dtype=np.uint8),
        "s": RNG.uniform(0.1, 1, 24 * 32 // 16).astype(np.float32),
    }
    node = helper.make_node("MatMulBnb4", ["x", "w", "s"], ["y"], domain=MS, K=32, N=24, block_size=16, quant_type=kind)
    path = save(tmp_path / "m.onnx", [node], tensors)
    source = open_onnx(path)
    np.testing.assert_allclose(source.load("w").T, run(path, np.eye(32, dtype=np.float32)), rtol=1e-6, atol=1e-9)
    check_factors(source, "w", "s")


@pytest.mark.parametrize("kind", ["int4", "uint4", "uint8 of 4", "uint8 of 8", "uint8 of 2"])
def test_gathered_blocks(kind: str, tmp_path: Path) -> None:
    n_rows, n_columns, block = 9, 64, 16
    bits = int(kind[-1])
    if kind.startswith("uint8"):
        codes: Any = RNG.integers(0, 255, (n_rows, n_columns * bits // 8), dtype=np.uint8)
        zero: Any = RNG.integers(0, 255, (n_rows, 4 * bits // 8), dtype=np.uint8)
    else:
        number, low, high = INTEGERS[kind]
        codes = packed(number, RNG.integers(low, high, (n_rows, n_columns), endpoint=True))
        zero = packed(number, RNG.integers(low, high, (n_rows, 4), endpoint=True))
    tensors = {"w": codes, "s": RNG.uniform(0.01, 0.1, (n_rows, 4)).astype(np.float32), "z": zero}
    attributes: dict[str, Any] = {"bits": bits} if kind.startswith("uint8") else {}
    node = helper.make_node(
        "GatherBlockQuantized",
        ["w", "x", "s", "z"],
        ["y"],
        domain=MS,
        block_size=block,
        gather_axis=0,
        quantize_axis=1,
        **attributes,
    )
    path = save(tmp_path / "m.onnx", [node], tensors, input_kind=TensorProto.INT64)
    source = open_onnx(path)
    np.testing.assert_array_equal(source.load("w"), run(path, np.arange(n_rows)))
    check_factors(source, "w", "s", "z")
    (info,) = (info for info in source.tensors() if info.name == "w")
    assert (info.shape, info.role) == ((n_rows, n_columns), LayerType.EMBEDDING)


def float_model(path: Path) -> dict[str, Any]:
    """Write a model with an embedding, a convolution, two products and a Gemm."""
    values = {
        "embed.weight": RNG.normal(size=(20, 16)),
        "conv.weight": RNG.normal(size=(16, 16, 3)),
        "onnx::MatMul_9": RNG.normal(size=(16, 24)),
        "fc.bias": RNG.normal(size=24),
        "head.weight": RNG.normal(size=(10, 24)),
        "head.bias": RNG.normal(size=10),
    }
    values = {name: value.astype(np.float32) for name, value in values.items()}
    nodes = [
        helper.make_node("Gather", ["embed.weight", "x"], ["e"], name="/embed/Gather"),
        helper.make_node("Transpose", ["e"], ["t"], perm=[0, 2, 1]),
        helper.make_node("Conv", ["t", "conv.weight"], ["c"], name="/conv/Conv", pads=[1, 1]),
        helper.make_node("Transpose", ["c"], ["u"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["u", "onnx::MatMul_9"], ["m"], name="/fc/MatMul"),
        helper.make_node("Add", ["fc.bias", "m"], ["a"], name="/fc/Add"),
        helper.make_node("ReduceMean", ["a"], ["r"], axes=[1], keepdims=0),
        helper.make_node("Gemm", ["r", "head.weight", "head.bias"], ["y"], name="/head/Gemm", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.INT64, [2, 7])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 10])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return values


ORIGINALS = {
    "embed.weight": "embed.weight",
    "conv.weight": "conv.weight",
    "onnx::MatMul_9": "fc.weight",
    "head.weight": "head.weight",
}


class Calibration(ortq.CalibrationDataReader):  # type: ignore[misc]  # onnxruntime carries no types
    def __init__(self) -> None:
        self._left = iter([{"x": RNG.integers(0, 20, (2, 7))} for _ in range(3)])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._left, None)


@pytest.mark.parametrize("per_channel", [False, True], ids=["tensor", "channel"])
@pytest.mark.parametrize("weights", [ortq.QuantType.QInt8, ortq.QuantType.QUInt8], ids=str)
@pytest.mark.parametrize("way", ["dynamic", "QDQ", "QOperator"])
def test_models_that_onnxruntime_quantised(way: str, weights: Any, per_channel: bool, tmp_path: Path) -> None:
    values = float_model(tmp_path / "f.onnx")
    options: dict[str, Any] = {"per_channel": per_channel, "weight_type": weights}
    static = {"activation_type": ortq.QuantType.QUInt8}
    logging.disable(logging.WARNING)
    if way == "dynamic":
        ortq.quantize_dynamic(tmp_path / "f.onnx", tmp_path / "q.onnx", **options)
    else:
        ortq.quantize_static(
            tmp_path / "f.onnx",
            tmp_path / "q.onnx",
            Calibration(),
            quant_format=ortq.QuantFormat[way],
            **options,
            **static,
        )
    logging.disable(logging.NOTSET)
    source = open_onnx(tmp_path / "q.onnx")
    named = {original: name for name, original in source.original_names.items()}
    infos = {info.name: info for info in source.tensors()}
    graph = onnx.load(tmp_path / "q.onnx").graph
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    n_quantised = 0
    for name, original in ORIGINALS.items():
        read = infos[named[original]]
        assert read.refusal is None, (name, read.refusal)
        loaded, scale_axes = source.load(read.name), (0, 1, 2)[: values[name].ndim]
        if name == "head.weight" and read.name in source.transposed_names:
            loaded, scale_axes = loaded.T, (1, 0)  # quantize_dynamic turns the weight of a Gemm.
        assert loaded.shape == values[name].shape
        if read.quantization is None:
            np.testing.assert_array_equal(loaded, values[name])
            continue
        n_quantised += 1
        (factor,) = source.recipes[read.name].scales
        scale = held[factor.tensor].reshape(factor.grid).transpose(scale_axes)
        assert (np.abs(loaded - values[name]) <= 0.5001 * scale * 1.0001).all(), name
        assert per_channel or scale.size == 1
    assert n_quantised >= 3
    assert named["fc.weight"] in source.transposed_names
    unread = [info for info in source.tensors() if len(info.shape) > 1 and info.refusal and not info.counted_in]
    assert not unread


def test_q_attention_and_its_kin(tmp_path: Path) -> None:
    """Operators that onnxruntime fuses a transformer into: scales by column, Q, K and V beside one another."""
    tensors: dict[str, Any] = {
        "w": RNG.integers(-128, 127, (8, 24), dtype=np.int8),
        "s": RNG.uniform(0.01, 0.1, 24).astype(np.float32),
        "z": RNG.integers(-5, 5, 24, dtype=np.int8),
        "b": RNG.normal(size=24).astype(np.float32),
        "xs": np.float32(0.1),
        "xz": np.uint8(3),
    }
    inputs = ["x", "w", "b", "xs", "s", "", "xz", "z"]
    nodes = [helper.make_node("QAttention", inputs, ["y"], domain=MS, num_heads=2)]
    source = open_onnx(save(tmp_path / "m.onnx", nodes, tensors, input_kind=TensorProto.UINT8))
    expected = (tensors["w"].astype(np.float32) - tensors["z"].astype(np.float32)) * tensors["s"]
    np.testing.assert_array_equal(source.load("w"), expected)
    check_factors(source, "w", "s", "z")
    (info,) = (info for info in source.tensors() if info.name == "w")
    assert info.parts is not None
    assert [part.name for part in info.parts] == ["q", "k", "v"]
    np.testing.assert_array_equal(info.parts[1].cut(source.load("w"))[0], expected[:, 8:16].T)


@pytest.mark.parametrize("op_type", ["DynamicQuantizeMatMul", "MatMulIntegerToFloat"])
def test_fused_integer_products(op_type: str, tmp_path: Path) -> None:
    tensors: dict[str, Any] = {
        "w": RNG.integers(-128, 127, (8, 6), dtype=np.int8),
        "s": RNG.uniform(0.01, 0.1, 6).astype(np.float32),
        "z": RNG.integers(-5, 5, 6, dtype=np.int8),
    }
    inputs = ["x", "w", "s", "z"]
    kind = TensorProto.FLOAT
    if op_type == "MatMulIntegerToFloat":
        tensors |= {"xs": np.float32(1), "xz": np.uint8(0)}
        inputs, kind = ["x", "w", "xs", "s", "xz", "z"], TensorProto.UINT8
    path = save(tmp_path / "m.onnx", [helper.make_node(op_type, inputs, ["y"], domain=MS)], tensors, input_kind=kind)
    source = open_onnx(path)
    eye = np.eye(8, dtype=np.float32 if op_type == "DynamicQuantizeMatMul" else np.uint8)
    np.testing.assert_allclose(source.load("w"), run(path, eye), rtol=1e-5)
    check_factors(source, "w", "s", "z")


def test_quantised_gemm_and_its_bias(tmp_path: Path) -> None:
    tensors = {
        "w": RNG.integers(-128, 127, (6, 8), dtype=np.int8),
        "s": RNG.uniform(0.01, 0.1, 6).astype(np.float32),
        "z": RNG.integers(-5, 5, 6, dtype=np.int8),
        "b": RNG.integers(-5000, 5000, 6, dtype=np.int32),
        "xs": np.float32(0.25),
        "xz": np.uint8(0),
    }
    inputs = ["x", "xs", "xz", "w", "s", "z", "b"]
    node = helper.make_node("QGemm", inputs, ["y"], domain=MS, transB=1)
    path = save(tmp_path / "m.onnx", [node], tensors, input_kind=TensorProto.UINT8)
    source = open_onnx(path)
    x = np.vstack([np.eye(8), np.zeros(8)]).astype(np.uint8)
    expected = 0.25 * x.astype(np.float32) @ source.load("w").T + source.load("b")
    np.testing.assert_allclose(run(path, x), expected, rtol=1e-5, atol=1e-5)
    check_factors(source, "w", "s", "z")


def test_quantised_recurrent_layer(tmp_path: Path) -> None:
    """DynamicQuantizeLSTM has its weights transposed, and a scale for each column."""
    shapes = {"w": (2, 5, 16), "r": (2, 4, 16)}
    tensors: dict[str, Any] = {name: RNG.integers(-128, 127, shape, dtype=np.int8) for name, shape in shapes.items()}
    for name in shapes:
        tensors[f"{name}s"] = RNG.uniform(0.01, 0.1, (2, 16)).astype(np.float32)
        tensors[f"{name}z"] = np.zeros((2, 16), np.int8)
    inputs = ["x", "w", "r", "", "", "", "", "", "ws", "wz", "rs", "rz"]
    node = helper.make_node("DynamicQuantizeLSTM", inputs, ["y"], domain=MS, hidden_size=4, direction="bidirectional")
    source = open_onnx(save(tmp_path / "m.onnx", [node], tensors))
    for name in shapes:
        np.testing.assert_array_equal(
            source.load(name), tensors[name].astype(np.float32) * tensors[f"{name}s"][:, np.newaxis]
        )
        check_factors(source, name, f"{name}s", f"{name}z")
        (info,) = (info for info in source.tensors() if info.name == name)
        assert info.parts is not None
        assert [part.name for part in info.parts] == ["i", "o", "f", "g"]


@pytest.mark.parametrize("bits", [4, 8])
def test_experts(bits: int, tmp_path: Path) -> None:
    n_experts, n_hidden, n_inter = 3, 32, 16
    tensors = {
        "w1": RNG.integers(0, 255, (n_experts, n_inter, n_hidden * bits // 8), dtype=np.uint8),
        "s1": RNG.uniform(0.01, 0.1, (n_experts, n_inter)).astype(np.float32),
        "w2": RNG.integers(0, 255, (n_experts, n_hidden, n_inter * bits // 8), dtype=np.uint8),
        "s2": RNG.uniform(0.01, 0.1, (n_experts, n_hidden)).astype(np.float32),
        "router": np.eye(3, dtype=np.float32)[[1]] * 50,
    }
    inputs = ["x", "router", "w1", "s1", "", "w2", "s2", ""]
    node = helper.make_node(
        "QMoE",
        inputs,
        ["y"],
        domain=MS,
        weights_prepacked=0,
        k=1,
        expert_weight_bits=bits,
        activation_type="identity",
        normalize_routing_weights=1,
    )
    path = save(tmp_path / "m.onnx", [node], tensors)
    source = open_onnx(path)
    first, second = source.load("w1"), source.load("w2")
    assert first.shape == (3, 16, 32)
    x = RNG.normal(size=(1, n_hidden)).astype(np.float32)
    np.testing.assert_allclose(run(path, x)[0], second[1] @ (first[1] @ x[0]), rtol=2e-2, atol=2e-2)
    check_factors(source, "w1", "s1")
    (info,) = (info for info in source.tensors() if info.name == "w1")
    assert info.parts is not None
    assert [part.name for part in info.parts] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("nodes", "match"),
    [
        ([helper.make_node("DequantizeLinear", ["w", "x"], ["y"])], "its scales are computed"),
        ([helper.make_node("DequantizeLinear", ["w", "bad"], ["y"], axis=0)], r"its scales have the shape \(3,\)"),
        ([helper.make_node("DequantizeLinear", ["w", "w"], ["y"])], "its scales are of the type uint8"),
        (
            [
                helper.make_node("Gather", ["w", "x"], ["g"]),
                helper.make_node("DequantizeLinear", ["g", "eight"], ["y"], axis=0),
            ],
            "its rows are picked before they are scaled",
        ),
        ([helper.make_node("MatMulInteger", ["x", "w"], ["y"])], "no multiplication by its scales"),
        (
            [helper.make_node("MatMulNBits", ["x", "w", "one"], ["y"], domain=MS, K=8, N=8, bits=3, block_size=16)],
            "codes of 3 bits",
        ),
        (
            [helper.make_node("MatMulNBits", ["x", "w", "one"], ["y"], domain=MS, K=1 << 40, N=1 << 40, block_size=16)],
            "bytes of codes do not fit",
        ),
        ([helper.make_node("Identity", ["w"], ["y"])], "^quantised or packed values are not decoded"),
    ],
)
def test_what_is_not_dequantised_says_why(nodes: Nodes, match: str, tmp_path: Path) -> None:
    tensors = {
        "w": RNG.integers(0, 255, (8, 8), dtype=np.uint8),
        "bad": np.ones(3, np.float32),
        "one": np.float32(1),
        "eight": np.ones(8, np.float32),
    }
    source = open_onnx(save(tmp_path / "m.onnx", nodes, tensors))
    info = next(info for info in source.tensors() if info.name == "w")
    assert info.refusal is not None
    assert re.search(match, info.refusal), info.refusal
