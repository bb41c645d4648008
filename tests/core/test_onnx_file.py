"""Tensors in ONNX files: every type in every way of storing it, in graphs inside graphs, and in files beside."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from spectral import analyze, describe
from spectral.errors import CorruptCheckpointError, ModelError, ModelNotFoundError, UnsafeCheckpointError
from spectral.loaders.onnx_file import open_onnx
from spectral.loaders.opening import open_model
from spectral.loaders.protocol import LayerType
from tests.core.builders import heavy_tailed

RNG = np.random.default_rng(0)
FLOATS = ("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ")
LONGEST_SECONDS = 5.0


def model(
    nodes: list[onnx.NodeProto], tensors: list[onnx.TensorProto], *, inputs: tuple[str, ...] = ("x",), **options: Any
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        tensors,
        sparse_initializer=options.pop("sparse", None),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10, **options)


def write(
    path: Path, tensors: list[onnx.TensorProto], nodes: list[onnx.NodeProto] | None = None, **options: Any
) -> Path:
    path.write_bytes(model(nodes or [], tensors, **options).SerializeToString())
    return path


def matmul(name: str = "w") -> onnx.NodeProto:
    return helper.make_node("MatMul", ["x", name], ["y"])


def tensor_of(values: Any, kind: int, *, as_list: bool, name: str = "w") -> onnx.TensorProto:
    array = np.asarray(values).astype(helper.tensor_dtype_to_np_dtype(kind))
    if not as_list:
        return numpy_helper.from_array(array, name)
    made = helper.make_tensor(name, kind, array.shape, array.reshape(-1).tolist())
    assert not made.HasField("raw_data")
    return made


@pytest.mark.parametrize("as_list", [False, True], ids=["raw", "list"])
@pytest.mark.parametrize("kind", FLOATS)
def test_floats_come_back_as_they_were(kind: str, as_list: bool, tmp_path: Path) -> None:
    proto = tensor_of(RNG.normal(size=(5, 7)), getattr(TensorProto, kind), as_list=as_list)
    source = open_onnx(write(tmp_path / "m.onnx", [proto], [matmul()]))
    expected = numpy_helper.to_array(proto)
    (info,) = source.tensors()
    values = source.load("w")
    assert (info.name, info.shape, info.dtype, info.refusal) == ("w", (5, 7), values.dtype.name, None)
    assert info.role is LayerType.DENSE
    assert values.tobytes() == expected.tobytes()
    assert values.dtype.newbyteorder("<") == values.dtype
    assert source.load_span("w", 4, 11).tobytes() == expected.reshape(-1)[4:11].tobytes()
    pieces = source.stream("w")
    is_list_of_bits = as_list and kind not in ("FLOAT", "DOUBLE")
    assert (pieces is None) == is_list_of_bits
    if pieces is not None:
        assert b"".join(map(bytes, pieces)) == expected.tobytes()
    assert pickle.loads(pickle.dumps(source)).load("w").tobytes() == expected.tobytes()


OTHERS = ("INT8", "UINT8", "INT16", "UINT16", "INT32", "UINT32", "INT64", "UINT64", "BOOL", "COMPLEX64", "COMPLEX128")
SMALL = ("INT4", "UINT4", "INT2", "UINT2", "FLOAT4E2M1", "FLOAT8E8M0")


@pytest.mark.parametrize("as_list", [False, True], ids=["raw", "list"])
@pytest.mark.parametrize("kind", OTHERS + SMALL)
def test_other_types_are_listed_with_their_reason(kind: str, as_list: bool, tmp_path: Path) -> None:
    low = 0 if kind.startswith("U") or kind in ("BOOL", "FLOAT8E8M0") else -2
    proto = tensor_of(RNG.integers(low, 2, (3, 7)), getattr(TensorProto, kind), as_list=as_list)
    source = open_onnx(write(tmp_path / "m.onnx", [proto]))
    (info,) = source.tensors()
    assert info.shape == (3, 7)
    assert (info.refusal is None) == (kind == "FLOAT8E8M0")
    expected = numpy_helper.to_array(proto)
    loaded = source.load_all()["w"]
    assert loaded.astype(expected.dtype).tobytes() == expected.tobytes()
    half = source.stored["w"].read("w", 5, 16)
    assert half.tobytes() == loaded.reshape(-1)[5:16].tobytes()


@pytest.mark.parametrize("as_list", [False, True], ids=["raw", "list"])
@pytest.mark.parametrize("kind", ["float6_e2m3fn", "float6_e3m2fn"])
def test_floats_of_six_bits(kind: str, as_list: bool, tmp_path: Path) -> None:
    codes = RNG.integers(0, 64, 21).astype(np.uint8)
    proto = TensorProto(name="w", dims=[3, 7], data_type={"float6_e2m3fn": 27, "float6_e3m2fn": 28}[kind])
    if as_list:
        proto.int32_data.extend(codes.tolist())
    else:
        bits = np.unpackbits(codes[:, np.newaxis], axis=1, bitorder="little")[:, :6].reshape(-1)
        proto.raw_data = np.packbits(bits, bitorder="little").tobytes()
    source = open_onnx(write(tmp_path / "m.onnx", [proto]))
    expected = codes.view(getattr(ml_dtypes, kind)).astype(np.float32)
    np.testing.assert_array_equal(source.stored["w"].read("w"), expected)
    np.testing.assert_array_equal(source.stored["w"].read("w", 5, 14), expected[5:14])


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*data, value))


def tag(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def raw_model(*tensors: bytes, extra: bytes = b"") -> bytes:
    """Write a model by hand: version, and a graph of these tensors."""
    return varint(8) + varint(10) + tag(7, b"".join(tag(5, tensor) for tensor in tensors) + extra)


def tensor_bytes(*fields: bytes, name: str = "w", dims: tuple[int, ...] = (2, 3), kind: int = 1) -> bytes:
    head = b"".join(varint(8) + varint(n) for n in dims) + varint(16) + varint(kind)
    return head + tag(8, name.encode()) + b"".join(fields)


@pytest.mark.parametrize("kind", ["float", "double", "int32", "int64", "uint64"])
@pytest.mark.parametrize("pieces", [(6,), (2, 4), (1, 1, 4)])
@pytest.mark.parametrize("first_is_packed", [False, True])
def test_lists_that_are_not_packed(kind: str, pieces: tuple[int, ...], first_is_packed: bool, tmp_path: Path) -> None:
    """A list may come in pieces, packed and not; protobuf puts them together."""
    number, data_type, dtype = {
        "float": (4, 1, "<f4"), "double": (10, 11, "<f8"), "int32": (5, 10, "<f2"), "int64": (7, 7, "<i8"),
        "uint64": (11, 13, "<u8"),
    }[kind]  # fmt: skip
    values = (RNG.normal(size=6) * 1000).astype(dtype)

    def one(value: Any) -> bytes:
        return value.tobytes() if number in (4, 10) else varint(int(value.view("<u2") if dtype == "<f2" else value))

    wire = {4: 5, 10: 1}.get(number, 0)
    fields, place = [], 0
    for index, count in enumerate(pieces):
        chunk = values[place : place + count]
        place += count
        if (index == 0) == first_is_packed:
            fields.append(tag(number, b"".join(map(one, chunk))))
        else:
            fields.extend(varint(number << 3 | wire) + one(value) for value in chunk)
    path = tmp_path / "m.onnx"
    path.write_bytes(raw_model(tensor_bytes(*fields, kind=data_type)))
    onnx.load(path)
    source = open_onnx(path)
    assert source.load_all()["w"].tobytes() == values.tobytes()
    np.testing.assert_array_equal(numpy_helper.to_array(onnx.load(path).graph.initializer[0]).reshape(-1), values)


def test_long_lists(tmp_path: Path) -> None:
    """Longer than a window and than a piece, so that numbers lie across their ends."""
    values = RNG.integers(-(2**60), 2**60, 300_000) >> RNG.integers(0, 60, 300_000)
    fields = [varint(7 << 3) + varint(int(value)) for value in values]
    path = tmp_path / "m.onnx"
    half = np.abs(values[:100_000] % 60_000).astype("<u2")
    packed = tag(5, b"".join(varint(int(value)) for value in half))
    path.write_bytes(
        raw_model(
            tensor_bytes(*fields, dims=(300, 1000), kind=7),
            tensor_bytes(packed, name="h", dims=(100, 1000), kind=10),
        )
    )
    source = open_onnx(path)
    np.testing.assert_array_equal(source.load_all()["w"].reshape(-1), values)
    assert source.load("h").tobytes() == half.tobytes()


def test_the_same_numbers_as_from_memory(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"a.weight": heavy_tailed(80, 60), "b.weight": heavy_tailed(60, 70, seed=1)}
    path = write(tmp_path / "m.onnx", [numpy_helper.from_array(array, name) for name, array in arrays.items()])
    assert analyze(path).details.equals(analyze(arrays).details)


def test_constants_of_nodes_graphs_and_functions(tmp_path: Path) -> None:
    """Two branches have a tensor of one name; a function and a loop have others."""

    def branch(seed: int) -> onnx.GraphProto:
        weight = numpy_helper.from_array(np.full((4, 5), seed, np.float32), "w")
        out = helper.make_tensor_value_info("o", TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["o"])], "b", [], [out], [weight])

    table = numpy_helper.from_array(np.ones((6, 4), np.float32), "ignored")
    nodes = [
        helper.make_node("Constant", [], ["table"], value=table),
        helper.make_node("Constant", [], ["number"], value_float=1.0),
        helper.make_node("Constant", [], ["row"], value_floats=[1.0, 2.0, 3.0]),
        helper.make_node("Gather", ["table", "x"], ["e"]),
        helper.make_node("If", ["c"], ["y"], name="cond", then_branch=branch(1), else_branch=branch(2)),
        helper.make_node("Inner", ["e", "head"], ["z"], domain="mine"),
    ]
    function = helper.make_function(
        "mine", "Inner", ["a", "b"], ["r"],
        [helper.make_node("Transpose", ["b"], ["t"]), helper.make_node("Gemm", ["a", "t"], ["r"], transB=1),
         helper.make_node("Constant", [], ["k"], value=table)],
        [helper.make_opsetid("", 21)],
    )  # fmt: skip
    head = numpy_helper.from_array(np.ones((4, 3), np.float32), "head")
    path = write(tmp_path / "m.onnx", [head], nodes, functions=[function], inputs=("x", "c"))
    source = open_onnx(path)
    infos = {info.name: info for info in source.tensors()}
    assert list(infos) == ["number", "row", "table", "cond.else_branch.w", "cond.then_branch.w", "head", "k"]
    assert infos["table"].role is LayerType.EMBEDDING
    assert source.load("cond.else_branch.w").max() == 2
    assert source.load("row").tolist() == [1, 2, 3]
    assert infos["number"].refusal == "a number of the computation, not a weight"
    assert infos["head"].role is LayerType.DENSE


def test_graphs_of_training(tmp_path: Path) -> None:
    """They see the weights of the model, and may hold tensors of their own."""
    made = model([matmul()], [numpy_helper.from_array(np.ones((4, 5), np.float32), "w")])
    step = helper.make_graph([], "step", [], [], [numpy_helper.from_array(np.ones((4, 5), np.float32), "momentum")])
    made.training_info.add().algorithm.CopyFrom(step)
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    assert [info.name for info in open_onnx(tmp_path / "m.onnx").tensors()] == ["w", "momentum"]


def test_initialisers_that_are_inputs_too(tmp_path: Path) -> None:
    """Before version 4 of the format, all of them were."""
    proto = numpy_helper.from_array(np.ones((4, 5), np.float32), "w")
    source = open_onnx(write(tmp_path / "m.onnx", [proto], [matmul()], inputs=("x", "w")))
    assert [info.role for info in source.tensors()] == [LayerType.DENSE]


@pytest.mark.parametrize("op_type", ["Conv", "ConvTranspose"])
def test_grouped_convolutions(op_type: str, tmp_path: Path) -> None:
    proto = numpy_helper.from_array(RNG.normal(size=(8, 3, 3, 3)).astype(np.float32), "w")
    node = helper.make_node(op_type, ["x", "w"], ["y"], group=2)
    (spec,) = describe(write(tmp_path / "m.onnx", [proto], [node])).matrices
    assert (spec.layer_type, spec.rf, spec.rows, spec.columns) == (LayerType.CONV2D, 18, 4, 3)


@pytest.mark.parametrize(
    ("equation", "shape", "expected"),
    [
        ("abc,cd->abd", (6, 4), (1, 6, 4)),
        ("abc,cde->abde", (6, 2, 3), (1, 6, 6)),
        ("bik,bkj->bij", (5, 4, 3), (5, 3, 4)),
    ],
)
def test_einsum(equation: str, shape: tuple[int, ...], expected: tuple[int, ...], tmp_path: Path) -> None:
    proto = numpy_helper.from_array(RNG.normal(size=shape).astype(np.float32), "w")
    node = helper.make_node("Einsum", ["x", "w"], ["y"], equation=equation)
    (spec,) = describe(write(tmp_path / "m.onnx", [proto], [node])).matrices
    assert (spec.rf, *sorted((spec.rows, spec.columns), reverse=True)) == (
        expected[0], *sorted(expected[1:], reverse=True),
    )  # fmt: skip


def test_products_of_many_matrices(tmp_path: Path) -> None:
    values = RNG.normal(size=(3, 8, 5)).astype(np.float32)
    path = write(tmp_path / "m.onnx", [numpy_helper.from_array(values, "w")], [matmul()])
    assert [(spec.name, spec.rows, spec.columns) for spec in describe(path).matrices] == [
        ("w.0", 8, 5), ("w.1", 8, 5), ("w.2", 8, 5),
    ]  # fmt: skip


def test_what_is_no_weight(tmp_path: Path) -> None:
    tensors = [
        numpy_helper.from_array(np.array(-np.inf, np.float32), "val_1"),
        numpy_helper.from_array(np.full((8, 8), -np.inf, np.float32), "val_2"),
        numpy_helper.from_array(np.array(["a", "b"], object), "words"),
        numpy_helper.from_array(np.ones((8, 8), np.float32), "w"),
    ]
    nodes = [
        helper.make_node("Where", ["x", "val_2", "m"], ["a"]),
        helper.make_node("Mul", ["a", "val_1"], ["b"]),
        matmul(),
    ]
    source = open_onnx(write(tmp_path / "m.onnx", tensors, nodes))
    reasons = {info.name: info.refusal for info in source.tensors()}
    assert reasons == {
        "val_2": "one of the operands that Where chooses from, not a weight",
        "val_1": "a number of the computation, not a weight",
        "w": None,
        "words": "holds texts, not numbers",
    }


def test_sparse_tensors_are_listed(tmp_path: Path) -> None:
    values = numpy_helper.from_array(np.ones(2, np.float32), "w")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([1, 5]), "i"), [4, 4])
    (info,) = open_onnx(write(tmp_path / "m.onnx", [], sparse=[sparse])).tensors()
    assert (info.name, info.shape) == ("w", (4, 4))
    assert info.refusal == "is stored sparse, which is not read"


def external(path: Path, arrays: dict[str, Any], files: dict[str, str], **options: Any) -> Path:
    """Write a model whose tensors lie in files beside it."""
    made = model(
        [matmul(name) for name in arrays], [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    )
    for tensor in made.graph.initializer:
        onnx.external_data_helper.set_external_data(tensor, files[tensor.name], **options)
    offsets: dict[str, int] = {}
    for tensor in made.graph.initializer:
        location, data = files[tensor.name], tensor.raw_data
        offset = offsets.get(location, 0)
        if not options:
            onnx.external_data_helper.set_external_data(tensor, location, offset, len(data))
        tensor.ClearField("raw_data")
        file = path.parent / location
        if ".." not in location and not location.startswith("/"):
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("ab") as stream:
                stream.write(data)
        offsets[location] = offset + len(data)
    path.write_bytes(made.SerializeToString())
    return path


ARRAYS = {name: RNG.normal(size=(4, n)).astype(np.float32) for name, n in (("a", 3), ("b", 5), ("c", 7))}


def test_tensors_in_other_files(tmp_path: Path) -> None:
    path = external(tmp_path / "m.onnx", ARRAYS, {"a": "m.onnx.data", "b": "m.onnx.data", "c": "sub/c.bin"})
    for source in (open_onnx(path), open_model(path)):
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(source.load(name), array)
    loaded = onnx.load(path).graph.initializer
    assert all(np.array_equal(numpy_helper.to_array(tensor), ARRAYS[tensor.name]) for tensor in loaded)


def test_one_place_for_two_tensors(tmp_path: Path) -> None:
    same = {"a": ARRAYS["a"], "b": ARRAYS["a"], "c": ARRAYS["a"].reshape(3, 4)}
    path = external(tmp_path / "m.onnx", same, dict.fromkeys(same, "d"), offset=0, length=48)
    infos = {info.name: info for info in open_onnx(path).tensors()}
    assert [(info.refusal, info.counted_in) for info in infos.values()] == [
        (None, None), ("tied to a", "a"), ("tied to a, in another shape or order", "a"),
    ]  # fmt: skip


def test_a_snapshot_of_the_hub(tmp_path: Path) -> None:
    """The cache of Hugging Face has links to blobs; no other link leaves the folder."""
    (tmp_path / "blobs").mkdir()
    folder = tmp_path / "snapshots" / "1"
    folder.mkdir(parents=True)
    path = external(folder / "m.onnx", ARRAYS, dict.fromkeys(ARRAYS, "d"))
    for name in ("m.onnx", "d"):
        (folder / name).rename(tmp_path / "blobs" / f"{name}0")
        (folder / name).symlink_to(tmp_path / "blobs" / f"{name}0")
    np.testing.assert_array_equal(open_onnx(path).load("c"), ARRAYS["c"])
    np.testing.assert_array_equal(open_model(folder).load("c"), ARRAYS["c"])


def refused(path: Path, kind: type[ModelError], match: str) -> None:
    begin = time.perf_counter()
    with pytest.raises(kind, match=match) as caught:
        open_model(path)
    assert time.perf_counter() - begin < LONGEST_SECONDS
    assert type(caught.value) is kind
    message = str(caught.value)
    assert message.startswith(f"{path}")
    assert message.isprintable()
    assert len(message) < 2500


@pytest.mark.parametrize(
    "location",
    [
        "../d",
        "/etc/passwd",
        "a/../../d",
        "*/_ORT_MEM_ADDR_/*",
        "C:\\d",
        "..\\d",
        "a\nb",
        "link",
        "links/passwd",
        "fifo",
        ".",
    ],
)
def test_files_outside_the_folder(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "d").write_bytes(bytes(1000))
    (folder / "link").symlink_to(tmp_path / "d")
    (folder / "links").symlink_to("/etc")
    os.mkfifo(folder / "fifo")
    tensor = tensor_bytes(
        tag(13, tag(1, b"location") + tag(2, location.encode())), varint(14 << 3) + varint(1), dims=(2, 3)
    )
    path = folder / "m.onnx"
    path.write_bytes(raw_model(tensor))
    refused(path, UnsafeCheckpointError, "tensor 'w': its values are in")


@pytest.mark.parametrize(
    ("entries", "kind", "match"),
    [
        ({}, CorruptCheckpointError, "which is not named"),
        ({"location": "missing"}, ModelNotFoundError, "its values are in 'missing' beside it, which is missing"),
        ({"location": "x" * 3000}, ModelNotFoundError, "missing"),
        ({"location": "d", "offset": "980"}, CorruptCheckpointError, "ends at byte 1004, outside the file 'd' of 1000"),
        ({"location": "d", "offset": "-1"}, CorruptCheckpointError, "offset of its values is '-1'"),
        ({"location": "d", "offset": "9" * 5000}, CorruptCheckpointError, "offset"),
        ({"location": "d", "length": "25"}, CorruptCheckpointError, "24 bytes by its shape, 25"),
        ({"location": "d", "length": "²"}, CorruptCheckpointError, "length of its values"),
    ],
    ids=["no name", "missing", "long", "beyond", "negative", "digits", "length", "no digit"],
)
def test_what_is_said_of_other_files(entries: dict[str, str], kind: Any, match: str, tmp_path: Path) -> None:
    (tmp_path / "d").write_bytes(bytes(1000))
    said = [tag(13, tag(1, key.encode()) + tag(2, value.encode())) for key, value in entries.items()]
    path = tmp_path / "m.onnx"
    path.write_bytes(raw_model(tensor_bytes(*said, varint(14 << 3) + varint(1))))
    refused(path, kind, match)


def test_tensors_that_overlap_in_another_file(tmp_path: Path) -> None:
    path = external(tmp_path / "m.onnx", {"a": ARRAYS["a"], "b": ARRAYS["b"]}, {"a": "d", "b": "d"})
    made = onnx.load(path, load_external_data=False)
    next(said for said in made.graph.initializer[1].external_data if said.key == "offset").value = "44"
    path.write_bytes(made.SerializeToString())
    (tmp_path / "d").write_bytes(bytes(1000))
    refused(path, CorruptCheckpointError, "tensor 'b' at byte 44 of 'd' overlaps the tensor 'a', which ends at byte 48")


GOOD = tensor_bytes(tag(9, bytes(24)))
HUGE = tensor_bytes(tag(9, bytes(24)), dims=(2**31, 2**31))


def nested(depth: int) -> bytes:
    graph = b""
    for _ in range(depth):
        graph = tag(1, tag(4, b"If") + tag(5, tag(1, b"then_branch") + tag(6, graph)))
    return graph


def node(op_type: bytes, inputs: list[bytes], output: bytes) -> bytes:
    return tag(1, b"".join(tag(1, name) for name in inputs) + tag(2, output) + tag(4, op_type))


HUB = [tensor_bytes(dims=(0,), name=str(i)) for i in range(5000)]


def hub() -> bytes:
    """Five thousand tensors that all go to one place, and from there to four thousand."""
    chain = node(b"Concat", [b"%d" % i for i in range(5000)], b"a0")
    for i in range(64):
        chain += node(b"Identity", [b"a%d" % i], b"a%d" % (i + 1)) + node(b"Abs", [b"a%d" % i], b"b") * 64
    return chain


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the file is empty"),
    "zeros": (bytes(100), "not a readable ONNX file"),
    "text": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n", "not a readable ONNX file"),
    "ones": (b"\xff" * 100, "more than ten bytes"),
    "no graph": (varint(8) + varint(10), "it has 0 graphs"),
    "two graphs": (raw_model(GOOD) + tag(7, tag(5, GOOD)), "it has 2 graphs"),
    "no version": (tag(7, tag(5, GOOD)), "version 0"),
    "no name": (raw_model(tensor_bytes(tag(9, bytes(24)), name="")), "a tensor without a name"),
    "one name": (raw_model(GOOD, GOOD), "two tensors are named 'w'"),
    "no UTF-8": (raw_model(tag(8, b"\xff\xfe")), "no UTF-8"),
    "surrogate": (raw_model(tag(8, b"\xed\xa0\x80")), "no UTF-8"),
    "long name": (raw_model(tensor_bytes(tag(9, bytes(24)), name="w" * 5000)), "a name of 5000 bytes"),
    "no type": (raw_model(tensor_bytes(tag(9, bytes(24)), kind=0)), "tensor 'w': has no element type"),
    "negative type": (raw_model(tensor_bytes(tag(9, bytes(24)), kind=-5)), "tensor 'w': has no element type"),
    "terabytes": (raw_model(HUGE), "18446744073709551616 bytes by its shape, 24 in the file"),
    "negative": (raw_model(tensor_bytes(tag(9, bytes(24)), dims=(-1, 6))), "a shape that no tensor has"),
    "many axes": (raw_model(tensor_bytes(tag(9, bytes(4)), dims=(1,) * 100)), "a shape that no tensor has"),
    "many packed axes": (raw_model(tag(1, bytes(100_000))), "a shape that no tensor has"),
    "short": (raw_model(tensor_bytes(tag(9, bytes(23)))), "24 bytes by its shape, 23 in the file"),
    "long": (raw_model(tensor_bytes(tag(9, bytes(25)))), "24 bytes by its shape, 25 in the file"),
    "nothing": (raw_model(tensor_bytes()), "6 values by its shape, none in the file"),
    "twice": (raw_model(tensor_bytes(tag(9, bytes(24)), tag(4, bytes(24)))), "given twice, in fields"),
    "wrong list": (raw_model(tensor_bytes(tag(7, bytes(6)))), "in field 7, those of its type belong in field 4"),
    "short list": (raw_model(tensor_bytes(tag(4, bytes(20)))), "6 numbers by its shape, 20 bytes in the file"),
    "torn list": (raw_model(tensor_bytes(tag(4, bytes(23)))), "6 numbers by its shape, 23 bytes"),
    "list of the wrong kind": (raw_model(tensor_bytes(varint(4 << 3) + varint(1))), "another kind than their field"),
    "pieces": (raw_model(tensor_bytes(*[tag(4, bytes(4))] * 2000, dims=(2000,))), "more than 1024 pieces"),
    "group": (varint(8) + varint(10) + bytes([0x3B]), "wire type 3"),
    "field zero": (varint(8) + varint(10) + bytes([0x02, 0x00]), "a field without number"),
    "beyond": (varint(8) + varint(10) + bytes([0x3A, 0x7F]), "outside its message"),
    "far beyond": (varint(8) + varint(10) + bytes([0x3A]) + varint(2**60), "outside its message"),
    "graph as a number": (varint(8) + varint(10) + varint(7 << 3) + varint(1), "wire type 0, which it has not"),
    "deep": (varint(8) + varint(10) + tag(7, nested(100)), "nested more than 32 deep"),
    "many tensors": (raw_model(*[tensor_bytes(dims=(0,), name=str(i)) for i in range(60_001)]), "more than 60000"),
    "many nodes": (varint(8) + varint(10) + tag(7, tag(1, b"") * 100_001), "more than 100000 nodes"),
    "many graphs": (raw_model(extra=tag(1, tag(5, tag(1, b"g") + tag(11, b"") * 20_000))), "more than 10000 graphs"),
    "many fields": (varint(8) + varint(10) + bytes([0x50, 0]) * 1_050_000, "more than 1000000 fields"),
    "hub": (raw_model(*HUB, extra=hub()), "go to more than 750000 places"),
    "no tensors": (varint(8) + varint(10) + tag(7, b""), "holds no tensors"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_damaged_and_hostile_files(case: str, tmp_path: Path) -> None:
    data, match = HOSTILE[case]
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    refused(path, CorruptCheckpointError, match)


def test_truncation_at_every_byte(tmp_path: Path) -> None:
    data = raw_model(GOOD, tensor_bytes(tag(5, bytes(6)), name="q", kind=3), extra=tag(1, tag(1, b"x") + tag(1, b"w")))
    path = tmp_path / "m.onnx"
    for n_bytes in range(len(data)):
        path.write_bytes(data[:n_bytes])
        refused(path, CorruptCheckpointError, r"m\.onnx")


def test_a_list_that_lies(tmp_path: Path) -> None:
    """The size of varints does not tell how many there are: that is found when they are read."""
    path = tmp_path / "m.onnx"
    for data in (bytes(7), bytes([0x80] * 5 + [1] * 4), bytes([1] * 6 + [0x80]), bytes([0x80] * 11 + [1] * 6)):
        path.write_bytes(raw_model(tensor_bytes(tag(5, data), kind=10)))
        with pytest.raises(CorruptCheckpointError, match=r"m\.onnx: tensor 'w': "):
            open_onnx(path).load("w")


def seeds() -> list[bytes]:
    """Return small models that hold every kind of message."""
    codes = helper.make_tensor("w", TensorProto.INT4, (6, 8), RNG.integers(-8, 7, 48).tolist())
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["d"], axis=1, block_size=4),
        helper.make_node("Transpose", ["d"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "t"], ["y"], name="/a/MatMul"),
        helper.make_node(
            "MatMulNBits", ["x", "b", "bs", "bz"], ["v"], domain="com.microsoft", K=32, N=4, bits=4, block_size=16
        ),
        helper.make_node("LSTM", ["x", "l", "r"], ["u"], hidden_size=2),
        helper.make_node("MatMulInteger", ["x", "i"], ["mi"]),
        helper.make_node("Cast", ["mi"], ["mc"], to=1),
        helper.make_node("Mul", ["mc", "is"], ["mm"]),
        helper.make_node("Cast", ["i"], ["ic"], to=1),
        helper.make_node("Gather", ["f", "x"], ["g"]),
        helper.make_node("Conv", ["x", "k"], ["kk"], group=2),
    ]
    arrays: dict[str, Any] = {
        "s": np.ones((6, 2), np.float32), "b": np.ones((4, 2, 8), np.uint8), "bs": np.ones((4, 2), np.float32),
        "bz": np.ones((4, 1), np.uint8), "l": np.ones((1, 8, 3), np.float32), "r": np.ones((1, 8, 2), np.float32),
        "i": np.ones((4, 3), np.int8), "is": np.ones(3, np.float32), "f": np.ones((4, 3), np.float16),
        "k": np.ones((4, 2, 3), np.float32), "sh": np.array([2, 3]),
    }  # fmt: skip
    tensors = [codes, helper.make_tensor("z", TensorProto.INT4, (6, 2), [1] * 12)]
    tensors += [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    tensors.append(helper.make_tensor("h", TensorProto.FLOAT16, (3, 4), np.arange(12).astype(np.float16).tolist()))
    return [model(nodes, tensors).SerializeToString()]


def read_all(path: Path) -> None:
    """Read what can be read; anything but a ModelError is a fault."""
    said = str(path)
    try:
        source = open_model(path)
        describe(source)
        for info in source.tensors():
            assert info.n_values < 1_000_000
            if info.refusal is None:
                assert source.load(info.name).shape == info.shape
    except ModelError as error:
        said = str(error)
    assert said.startswith(str(path))
    assert said.isprintable()
    assert len(said) < 2500


def test_flipped_bytes(tmp_path: Path) -> None:
    (good,) = seeds()
    path = tmp_path / "m.onnx"
    path.write_bytes(good)
    assert {info.refusal for info in open_onnx(path).tensors() if info.name in "wbilrfkh"} == {None}
    chance = random.Random(0)
    for _ in range(800):
        data = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        path.write_bytes(data)
        read_all(path)


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=200))
def test_any_graph(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("onnx") / "m.onnx"
    path.write_bytes(varint(8) + varint(10) + tag(7, data))
    read_all(path)


PEAK = """
import resource, sys
from pathlib import Path
import numpy, ml_dtypes
from spectral.loaders.onnx_file import open_onnx
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
source = open_onnx(Path(sys.argv[1]))
opened = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in sys.argv[2:]:
    source.load(name)
print(opened - before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
assert not {"onnx", "google.protobuf", "onnxruntime", "torch"} & set(sys.modules)
"""


def peak(path: Path, *names: str) -> tuple[int, int]:
    """Return kilobytes that opening takes, and loading one tensor after the other, in a process without onnx."""
    arguments = [sys.executable, "-c", PEAK, str(path), *names]
    out = subprocess.run(arguments, check=True, capture_output=True, text=True, timeout=60)
    opened, loaded = out.stdout.split()
    return int(opened), int(loaded)


def test_memory(tmp_path: Path) -> None:
    """Four tensors of 16 million values; no more than one of them is in memory, and opening reads none."""
    n = 1 << 24
    nodes = [helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], axis=1, block_size=32)]
    shape = (1 << 12, 1 << 12)
    tensors = [
        TensorProto(name="f", data_type=1, dims=shape, raw_data=bytes(4 * n)),
        TensorProto(name="q", data_type=21, dims=shape, raw_data=bytes(n // 2)),
        TensorProto(name="s", data_type=1, dims=(1 << 12, 1 << 7), raw_data=bytes(4 * n // 32)),
        TensorProto(name="z", data_type=21, dims=(1 << 12, 1 << 7), raw_data=bytes(n // 64)),
    ]
    path = write(tmp_path / "m.onnx", tensors, nodes)
    opened, loaded = peak(path, "f", "q")
    assert opened < 10_000
    assert loaded < 8 * n // 1024 + 30_000


def test_a_model_of_more_than_two_gigabytes(tmp_path: Path) -> None:
    """protobuf writes none; a file with a hole is made by hand, and a tensor behind the hole is read."""
    first = tensor_bytes(name="big", dims=(3, 1 << 30), kind=2) + varint(9 << 3 | 2) + varint(3 << 30)
    last = tag(5, tensor_bytes(tag(9, np.arange(6, dtype="<f4").tobytes())))
    n_tensor = len(first) + (3 << 30)
    head = varint(8) + varint(10) + varint(7 << 3 | 2)
    item = varint(5 << 3 | 2) + varint(n_tensor)
    path = tmp_path / "m.onnx"
    with path.open("wb") as stream:
        stream.write(head + varint(len(item) + n_tensor + len(last)) + item + first)
        stream.seek(3 << 30, os.SEEK_CUR)
        stream.write(last)
    begin = time.perf_counter()
    source = open_onnx(path)
    assert time.perf_counter() - begin < 30.0
    np.testing.assert_array_equal(source.load("w").reshape(-1), np.arange(6))
    assert source.load_span("w", 2, 4).tolist() == [2, 3]


def test_ten_thousand_tensors_open_fast(tmp_path: Path) -> None:
    tensors = [numpy_helper.from_array(np.ones((8, 8), np.float32), f"layers.{i}.weight") for i in range(10_000)]
    nodes = [helper.make_node("MatMul", ["x", tensor.name], [f"y{i}"]) for i, tensor in enumerate(tensors)]
    path = write(tmp_path / "m.onnx", tensors, nodes)
    begin = time.perf_counter()
    assert len(open_onnx(path).tensors()) == 10_000
    assert time.perf_counter() - begin < 30.0
