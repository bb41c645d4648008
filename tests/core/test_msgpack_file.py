"""Flax's msgpack files: the arrays as flax.serialization wrote them, one at a time, and no trust in counts."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import resource
import time
from typing import TYPE_CHECKING, Any

import ml_dtypes
import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral import analyze, describe
from spectral.errors import CorruptCheckpointError, ModelError, ModelNotFoundError, UnsupportedModelError
from spectral.loaders import msgpack_walk
from spectral.loaders.msgpack_file import open_msgpack
from spectral.loaders.msgpack_walk import Bytes, MalformedMsgpackError, walk
from spectral.loaders.opening import open_model
from spectral.loaders.protocol import LayerType
from tests.core.builders import heavy_tailed
from tests.core.test_bad_files import check_refused

if TYPE_CHECKING:
    from pathlib import Path

ARRAY, COMPLEX, SCALAR = 1, 2, 3


def packed_array(values: Any, **changed: Any) -> bytes:
    """Return what ``_ndarray_to_bytes`` of flax/serialization.py does."""
    parts = {"shape": values.shape, "dtype": values.dtype.name, "data": values.tobytes("C")} | changed
    return bytes(msgpack.packb(tuple(parts.values()), use_bin_type=True))


def _pack(value: Any) -> Any:
    """As ``_msgpack_ext_pack`` there."""
    if isinstance(value, np.ndarray):
        return msgpack.ExtType(ARRAY, packed_array(value))
    if isinstance(value, np.generic):
        return msgpack.ExtType(SCALAR, packed_array(np.asarray(value)))
    if isinstance(value, complex):
        return msgpack.ExtType(COMPLEX, msgpack.packb((value.real, value.imag)))
    return value


def chunked(values: Any, size: int) -> dict[str, Any]:
    """As ``_chunk`` there, with smaller chunks."""
    flat = values.reshape(-1)
    chunks = [flat[begin : begin + size] for begin in range(0, flat.size, size)]
    return {
        "__msgpack_chunked_array__": True,
        "shape": {str(index): length for index, length in enumerate(values.shape)},
        "chunks": {str(index): chunk for index, chunk in enumerate(chunks)},
    }


def serialize(tree: Any) -> bytes:
    """As ``msgpack_serialize`` there."""
    return bytes(msgpack.packb(tree, default=_pack, strict_types=True))


def write(path: Path, tree: Any) -> Path:
    path.write_bytes(serialize(tree))
    return path


RNG = np.random.default_rng(0)
ARRAYS: dict[str, Any] = {
    "double": RNG.normal(size=(5, 7)),
    "single": RNG.normal(size=(5, 7)).astype(np.float32),
    "half": RNG.normal(size=(5, 7)).astype(np.float16),
    "brain": RNG.normal(size=(5, 7)).astype(ml_dtypes.bfloat16),
    "eight": RNG.normal(size=(5, 7)).astype(ml_dtypes.float8_e4m3fn),
    "vector": RNG.normal(size=7),
    "empty": np.zeros((0, 3)),
    "none": np.zeros(()),
    "long": RNG.normal(size=(300, 300)),
}


def test_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    source = open_msgpack(write(tmp_path / "m.msgpack", {"params": {"inner": ARRAYS, "scale": np.float32(2.5)}}))
    names = {f"params/inner/{name}" for name in ARRAYS} | {"params/scale"}
    assert {info.name for info in source.tensors()} == names
    for name, expected in ARRAYS.items():
        values = source.load(f"params/inner/{name}")
        assert (values.dtype, values.shape) == (expected.dtype, expected.shape)
        assert values.tobytes() == expected.tobytes()
        assert b"".join(map(bytes, source.stream(f"params/inner/{name}"))) == expected.tobytes()
        span = source.load_span(f"params/inner/{name}", expected.size // 3, expected.size)
        assert span.tobytes() == expected.reshape(-1)[expected.size // 3 :].tobytes()
    assert source.load("params/scale") == np.float32(2.5)
    assert pickle.loads(pickle.dumps(source)).load("params/inner/half").tobytes() == ARRAYS["half"].tobytes()


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_chunked_arrays(size: int, tmp_path: Path) -> None:
    values = RNG.normal(size=(12, 11)).astype(np.float32)
    source = open_msgpack(write(tmp_path / "m.msgpack", {"a": {"kernel": chunked(values, size)}, "b": values}))
    (info, _) = source.tensors()
    assert (info.name, info.shape, info.dtype) == ("a/kernel", (12, 11), "float32")
    np.testing.assert_array_equal(source.load("a/kernel"), values)
    for begin, end in ((0, 132), (5, 6), (6, 100), (131, 132), (50, 50)):
        np.testing.assert_array_equal(source.load_span("a/kernel", begin, end), values.reshape(-1)[begin:end])
    assert b"".join(map(bytes, source.stream("a/kernel"))) == values.tobytes()
    assert source.load_all()["b"].tobytes() == values.tobytes()


def test_the_same_numbers_as_from_memory(tmp_path: Path) -> None:
    tensors = {"a": heavy_tailed(80, 60), "b": heavy_tailed(60, 70, seed=1)}
    path = write(tmp_path / "m.msgpack", tensors)
    assert analyze(path).details.equals(analyze(tensors).details)


def test_the_layers_of_flax(tmp_path: Path) -> None:
    block = {
        name: {"kernel": RNG.normal(size=(24, 4, 6)), "bias": np.zeros((4, 6))} for name in ("query", "key", "value")
    }
    tree: dict[str, Any] = {
        "params": {
            "Embed_0": {"embedding": RNG.normal(size=(50, 24))},
            "Attention_0": {**block, "out": {"kernel": RNG.normal(size=(4, 6, 30)), "bias": np.zeros(30)}},
            "Dense_0": {"kernel": RNG.normal(size=(24, 12)), "bias": np.zeros(12)},
            "Conv_0": {"kernel": RNG.normal(size=(7, 7, 3, 4))},
            "Conv_1": {"kernel": RNG.normal(size=(9, 5, 6))},
            "Conv_2": {"kernel": RNG.normal(size=(2, 3, 4, 5, 6))},
            "ScanBlock_0": {"Dense_0": {"kernel": RNG.normal(size=(3, 12, 10))}},
            "LayerNorm_0": {"scale": np.ones(12), "bias": np.zeros(12)},
        },
        "batch_stats": {"mean": np.zeros(4)},
    }
    path = write(tmp_path / "m.msgpack", tree)
    found = {spec.name: (str(spec.layer_type), spec.rows, spec.columns, spec.rf) for spec in describe(path).matrices}
    assert found == {
        "params/Embed_0/embedding": ("embedding", 50, 24, 1),
        "params/Attention_0/query": ("dense", 24, 24, 1),
        "params/Attention_0/key": ("dense", 24, 24, 1),
        "params/Attention_0/value": ("dense", 24, 24, 1),
        "params/Attention_0/out": ("dense", 24, 30, 1),
        "params/Dense_0": ("dense", 24, 12, 1),
        "params/Conv_0": ("conv2d", 3, 4, 49),
        "params/Conv_1": ("conv1d", 5, 6, 9),
        "params/Conv_2": ("conv3d", 5, 6, 24),
        "params/ScanBlock_0/Dense_0.0": ("dense", 12, 10, 1),
        "params/ScanBlock_0/Dense_0.1": ("dense", 12, 10, 1),
        "params/ScanBlock_0/Dense_0.2": ("dense", 12, 10, 1),
    }
    # What the layers compute with: x · kernel, over the axes that are contracted.
    source = open_model(path)
    (spec,) = (spec for spec in describe(path).matrices if spec.name == "params/Attention_0/out")
    cut = spec.part.cut(source.load(spec.tensor))[0]
    out: Any = tree["params"]["Attention_0"]["out"]["kernel"]
    np.testing.assert_allclose(np.einsum("hd,hdo->o", np.ones((4, 6)), out), np.ones(24) @ cut, atol=1e-12)
    roles = {info.name: info.role for info in source.tensors()}
    assert roles["params/Embed_0/embedding"] is LayerType.EMBEDDING


@pytest.mark.parametrize(
    ("tree", "key"),
    [
        (
            {"params": {"w": np.ones((3, 4))}, "opt_state": {"0": {"mu": {"w": np.ones((3, 4))}}}, "step": 3},
            "opt_state",
        ),
        ({"model": {"w": np.ones((3, 4))}, "optimizer": {"w": np.ones((3, 4))}}, "optimizer"),
        ({"target": {"w": np.ones((3, 4))}, "state": {"step": 3, "param_states": {"w": np.ones((3, 4))}}}, "state"),
    ],
)
def test_the_state_of_the_training_is_listed_as_that(tree: Any, key: str, tmp_path: Path) -> None:
    source = open_msgpack(write(tmp_path / "m.msgpack", tree))
    (info,) = (info for info in source.tensors() if info.refusal is not None)
    assert (info.refusal, info.counted_in) == (f"state of the training ({key}), not a weight", key)
    assert describe(source).coverage == 1.0
    with pytest.raises(ModelError, match="state of the training"):
        source.load(info.name)


def test_what_is_not_read_is_listed(tmp_path: Path) -> None:
    tree = {
        "w": np.ones((3, 4)), "ids": np.arange(3), "mask": np.ones(3, bool), "q": np.ones((3, 3), np.int8),
        "c": np.ones((3, 3), np.complex64), "text": np.array(["a"]), "four": np.ones((3, 3), ml_dtypes.int4),
        "ext": msgpack.ExtType(9, b"abc"), "number": 1 + 2j, "raw": b"bytes", "list": [1, 2.5, None, True, -7, "x"],
    }  # fmt: skip
    reasons = {info.name: info.refusal or "" for info in open_msgpack(write(tmp_path / "m.msgpack", tree)).tensors()}
    assert set(reasons) == {"w", "ids", "mask", "q", "c", "text", "four", "ext"}
    assert reasons["ids"].startswith("holds positions")
    assert reasons["q"].startswith("quantised")
    assert reasons["four"].startswith("quantised")
    assert reasons["c"].startswith("complex")
    assert reasons["text"].startswith("an element type that is not read (str")
    assert reasons["ext"] == "an extension of the unknown type 9"


def test_a_folder_and_shards(tmp_path: Path) -> None:
    write(tmp_path / "flax_model.msgpack", {"a": {"kernel": np.ones((3, 4))}})
    assert [info.name for info in open_model(tmp_path).tensors()] == ["a/kernel"]
    (tmp_path / "flax_model.msgpack").rename(tmp_path / "flax_model-00001-of-00002.msgpack")
    write(tmp_path / "flax_model-00002-of-00002.msgpack", {"b": {"kernel": np.ones((3, 4))}})
    index = {"a/kernel": "flax_model-00001-of-00002.msgpack", "b/kernel": "flax_model-00002-of-00002.msgpack"}
    (tmp_path / "flax_model.msgpack.index.json").write_text(json.dumps({"weight_map": index}))
    assert [info.name for info in open_model(tmp_path).tensors()] == ["a/kernel", "b/kernel"]


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats(width=32) | st.text(),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text() | st.integers(-9, 9), inner, max_size=20),
    max_leaves=30,
)


@settings(max_examples=80)
@given(value=PLAIN, single=st.booleans())
def test_plain_values_are_those_of_msgpack(value: Any, single: bool) -> None:
    data = msgpack.packb(value, use_single_float=single)
    expected = msgpack.unpackb(data, strict_map_key=False)
    assert repr(walk(io.BytesIO(data), 0, len(data))) == repr(expected)


@pytest.mark.parametrize("n", [0, 15, 16, 31, 32, 255, 256, 65535, 65536, 70000])
def test_every_length_has_its_code(n: int) -> None:
    plain: list[Any] = [["x"] * n, {str(index): index for index in range(n)}, "x" * min(n, 65536)]
    for value in plain:
        data = msgpack.packb(value)
        assert walk(io.BytesIO(data), 0, len(data)) == value
    for content, kind in ((b"x" * n, None), (b"x" * n, 5), (b"x" * (n % 17), 5)):
        value = content if kind is None else msgpack.ExtType(kind, content)
        data = msgpack.packb(value)
        found = walk(io.BytesIO(data), 0, len(data))
        assert isinstance(found, Bytes)
        assert data[found.begin : found.end] == content
        assert (found.kind, found.end) == (kind, len(data))


def ext(data: bytes, kind: int = ARRAY) -> bytes:
    return bytes(msgpack.packb({"w": msgpack.ExtType(kind, data)}))


W = np.ones((3, 4), np.float32)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "the file is empty"),
        (b"\xc1", "no value begins with the byte 0xc1"),
        (b"\x81", "2 bytes are announced at byte 1 where 0 are left"),
        (b"\x81\xa1w", "2 bytes are announced|1 bytes are announced"),
        (b"\xdf\xff\xff\xff\xff\xa1w\xc0", "8589934590 bytes are announced at byte 5"),
        (b"\xdd\xff\xff\xff\xff\xc0", "4294967295 bytes are announced"),
        (b"\xc6\xff\xff\xff\xff\xc0", "4294967295 bytes are announced"),
        (b"\xc9\xff\xff\xff\xff\x01\xc0", "4294967295 bytes are announced"),
        (b"\xdb\xff\xff\xff\xff\xc0", "a text of 4294967295 bytes"),
        (b"\xa1\xff", "a text that is not UTF-8"),
        (b"\x91" * 100_000 + b"\xc0", "nested more than 64 deep"),
        (b"\x81\xc0\xc0", "a NoneType as a key"),
        (b"\x81\x90\xc0", "a list as a key"),
        (b"\x82\xa1w\xc0\xa1w\xc0", "the key 'w' is there twice"),
        (b"\xc0\xc0", "1 bytes follow its end"),
        (b"\xdc\xff\xff" + b"\x90" * 65536, "1 bytes follow its end"),
        (ext(b""), "'w': 1 bytes are announced"),
        (ext(b"\xc0"), "'w' has no shape, type and bytes"),
        (ext(b"\x93\xc0\xc0\xc0"), "'w' has a shape that is none"),
        (ext(packed_array(W) + b"\0"), "'w': 1 bytes follow its end"),
        (ext(packed_array(W)[:-1]), "'w': 48 bytes are announced"),
        (ext(packed_array(W, shape=(3, 5))), r"'w' has 48 bytes where float32 \[3, 5\] takes 60"),
        (ext(packed_array(W, shape=(-3, 4))), "'w' has a shape that is none"),
        (ext(packed_array(W, shape=(3.0, 4))), "'w' has a shape that is none"),
        (ext(packed_array(W, shape=(True, 12))), "'w' has a shape that is none"),
        (ext(packed_array(W, shape=(1 << 47,) * 60)), "'w' has 48 bytes where float32"),
        (ext(packed_array(W, shape=(1 << 60,))), "'w' has a shape that is none"),
        (ext(packed_array(W, shape=(1,) * 65)), "'w' has a shape that is none"),
        (ext(packed_array(W, dtype=3)), "'w' has no type and bytes"),
        (ext(packed_array(W, data="text")), "'w' has no type and bytes"),
        (serialize({"a/b": W, "a": {"b": W}}), "two arrays would be named 'a/b'"),
        (serialize({"x" * 1001: {"b": W}}), "a name of more than 1000 characters"),
        (serialize({"a": {**chunked(W, 5), "shape": {"0": 13}}}), "'a': its chunks do not fill its shape"),
        (serialize({"a": {**chunked(W, 5), "shape": {"1": 12}}}), "'a' has no numbered shape and chunks"),
        (serialize({"a": {**chunked(W, 5), "shape": 12}}), "'a' has no numbered shape and chunks"),
        (serialize({"a": {**chunked(W, 5), "chunks": {}}}), "'a': its chunks do not fill its shape"),
        (serialize({"a": {**chunked(W, 5), "chunks": {"0": 3}}}), "'a' has a shape or chunks that are none"),
        (
            serialize({"a": {**chunked(W, 5), "chunks": {"0": W[:2], "1": W[:1].astype(float)}}}),
            "do not fill its shape",
        ),
    ],
)
def test_files_that_lie(data: bytes, match: str, tmp_path: Path) -> None:
    path = tmp_path / "m.msgpack"
    path.write_bytes(data)
    check_refused(path, CorruptCheckpointError, match)


def test_no_arrays(tmp_path: Path) -> None:
    for tree in ({}, {"a": {"b": 3}}, [1, 2], 3, "text"):
        check_refused(write(tmp_path / "m.msgpack", tree), UnsupportedModelError, "holds no arrays of Flax")
    with pytest.raises(ModelNotFoundError, match="gone"):
        open_msgpack(tmp_path / "gone.msgpack")


def test_names_without_end(tmp_path: Path) -> None:
    """A key of a thousand characters stands before very many names."""
    tiny = msgpack.ExtType(9, b"")
    tree = {"x" * 1000: {str(index): tiny for index in range(60_000)}}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    check_refused(write(tmp_path / "m.msgpack", tree), CorruptCheckpointError, "characters in their names")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


def test_values_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(msgpack_walk, "MAX_ITEMS", 1000)
    path = write(tmp_path / "m.msgpack", [None] * 2000)
    check_refused(path, CorruptCheckpointError, "more than 1000 values")


def test_ten_thousand_arrays_open_at_once(tmp_path: Path) -> None:
    tree = {f"layer_{index}": {"kernel": np.ones((2, 2), np.float32)} for index in range(10_000)}
    path = write(tmp_path / "m.msgpack", tree)
    begin = time.perf_counter()
    assert len(open_model(path).tensors()) == 10_000
    assert time.perf_counter() - begin < 30.0, "half a second on an idle machine"


def test_a_large_array_is_not_read_at_opening(tmp_path: Path) -> None:
    path = write(tmp_path / "m.msgpack", {"w": np.ones(10_000_000), "v": np.ones((10, 10))})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    source = open_model(path)
    assert source.load("v").shape == (10, 10)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


def test_a_file_that_becomes_shorter(tmp_path: Path) -> None:
    path = write(tmp_path / "m.msgpack", {"w": np.ones((10, 10))})
    source = open_msgpack(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CorruptCheckpointError, match=r"m\.msgpack: tensor 'w': the file gave only \d+ of 800 bytes"):
        source.load("w")
    path.unlink()
    with pytest.raises(ModelError, match=r"m\.msgpack: tensor 'w' cannot be read: No such file"):
        source.load("w")


def test_cut_short_at_every_byte(tmp_path: Path) -> None:
    data = serialize({"params": {"kernel": W, "bias": chunked(W, 5)}, "step": 3})
    for n in range(len(data)):
        (tmp_path / "m.msgpack").write_bytes(data[:n])
        check_refused(tmp_path / "m.msgpack", CorruptCheckpointError, r"m\.msgpack: ")


@settings(max_examples=300)
@given(data=st.data())
def test_any_damage_ends_in_an_error_of_ours(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("flax") / "m.msgpack"
    changed = bytearray(serialize({"params": {"kernel": W, "bias": chunked(W, 5)}, "step": 3}))
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(changed)
    said = "m.msgpack"
    try:
        source = open_model(path)
        for info in source.tensors():
            if info.refusal is None:
                assert source.load(info.name).shape == info.shape
    except ModelError as error:
        said = str(error)
    assert "m.msgpack" in said


@settings(max_examples=300)
@given(data=st.binary(max_size=60))
def test_any_bytes_end_in_one_error(data: bytes) -> None:
    with contextlib.suppress(MalformedMsgpackError):
        walk(io.BytesIO(data), 0, len(data))
