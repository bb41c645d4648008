"""Checkpoints and SavedModels of TensorFlow, read without it.

Installing TensorFlow in every run would cost minutes, so the files in ``tensorflow_checkpoints`` were made with it
once, with what it reads from them, by tests/generation/tensorflow_checkpoints.py.
"""

from __future__ import annotations

import pickle
import random
import shutil
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral import describe
from spectral.errors import CorruptCheckpointError, ModelError, ModelNotFoundError, UnsafeCheckpointError
from spectral.loaders.opening import open_model
from spectral.loaders.tensor_table import MalformedTableError, fields, read_table, unpack_snappy, varint
from spectral.loaders.tensorflow_file import TensorFlowFile
from tests.core.test_hdf5_file import read_all

FOLDER = Path(__file__).parent / "tensorflow_checkpoints"
PREFIXES = {
    "objects-1": "objects-1.index",
    "types": "types.index",
    "session.ckpt": "session.ckpt",
    "variables": "exported",
}
ENDING = "/.ATTRIBUTES/VARIABLE_VALUE"


@pytest.fixture(scope="module")
def expected() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    with np.load(FOLDER / "expected.npz") as arrays:
        for key in arrays:
            prefix, _, name = key.partition(":")
            found.setdefault(prefix, {})[name.removesuffix(ENDING)] = arrays[key]
    return found


@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_tensor_is_what_tensorflow_reads(prefix: str, expected: dict[str, dict[str, Any]]) -> None:
    source = open_model(FOLDER / PREFIXES[prefix])
    assert isinstance(source, TensorFlowFile)
    infos = {info.name: info for info in source.tensors()}
    numbers = {name for name, info in infos.items() if "text" not in info.dtype}
    assert numbers == set(expected[prefix])
    for name, found in expected[prefix].items():
        values = found.view(ml_dtypes.bfloat16) if infos[name].dtype == "bfloat16" else found
        assert infos[name].shape == values.shape
        if source.entries[name].is_sliced:
            continue
        stored = source.load_stored(name, 0, values.size).reshape(values.shape)
        assert (stored.dtype, stored.tobytes()) == (values.dtype, values.tobytes())
        if infos[name].refusal is None:
            assert source.load(name).tobytes() == values.tobytes()
            half = values.size // 2
            assert source.load_span(name, half, values.size).tobytes() == values.reshape(-1)[half:].tobytes()
            assert b"".join(map(bytes, source.stream(name) or ())) == values.tobytes()
    copy = pickle.loads(pickle.dumps(source))
    assert copy.tensors() == source.tensors()


def test_what_is_a_weight_and_what_is_state() -> None:
    source = open_model(FOLDER / "objects-1")
    assert isinstance(source, TensorFlowFile)
    weights = {source.original_names[info.name] for info in source.tensors() if not info.is_state}
    layers = {
        "lstm/lstm_cell": ("kernel", "recurrent_kernel", "bias"),
        "conv": ("kernel", "bias"),
        "dense": ("kernel", "bias"),
    }
    assert weights == {f"model/{layer}/{name}" for layer, names in layers.items() for name in names}
    reasons = {info.name: info.refusal for info in source.tensors() if info.is_state}
    assert reasons["save_counter"] == reasons["optimizer/_variables/3"] == "state of the training, no weight"
    assert reasons["_CHECKPOINTABLE_OBJECT_GRAPH"] == "describes the checkpoint"


def test_matrices_by_the_full_names_of_variables() -> None:
    """The names of the tensors say nothing: a kernel of three axes would be refused, and no gate would be found."""
    for path in (FOLDER / "objects-1.index", FOLDER / "exported"):
        matrices = {(spec.layer_type.value, spec.rows, spec.columns, spec.rf) for spec in describe(path).matrices}
        assert matrices == {("recurrent", 6, 5, 1), ("recurrent", 5, 5, 1), ("conv1d", 5, 4, 2), ("dense", 4, 3, 1)}
        assert len(describe(path).matrices) == 10


def test_an_exported_model_holds_its_weights_twice() -> None:
    description = describe(FOLDER / "exported")
    reasons = {item.reason for item in description.unanalysed}
    assert all(reason.startswith("tied to variables/") for reason in reasons)
    assert description.coverage == describe(FOLDER / "objects-1.index").coverage


def test_a_session_of_tensorflow_1() -> None:
    source = open_model(FOLDER / "session.ckpt")
    states = {info.name for info in source.tensors() if info.is_state}
    assert states == {
        "beta1_power", "beta2_power", "global_step", "layer/biases/Adam", "layer/biases/Adam_1", "layer/weights/Adam",
        "layer/weights/Adam_1",
    }  # fmt: skip
    description = describe(source)
    assert [spec.name for spec in description.matrices] == ["layer/weights"]
    assert {item.name: item.reason for item in description.unanalysed} == {
        "pieces": "is stored in pieces, which are not put together"
    }
    with pytest.raises(ModelError, match=r"session\.ckpt\.index: tensor 'pieces': is stored in pieces"):
        source.load("pieces")


def test_what_holds_no_weights_is_listed() -> None:
    reasons = {info.name: info.refusal for info in open_model(FOLDER / "types.index").tensors()}
    assert reasons["text"] == "holds text, no numbers"
    assert reasons["bool"] == "holds positions or a mask, not weights (bool)"
    assert reasons["int8"] == "quantised or packed values are not decoded (int8)"
    assert reasons["complex64"] == "complex values are not analysed (complex64)"
    assert reasons["bfloat16"] is None


def copied(folder: Path, name: str = "types") -> Path:
    for file in FOLDER.glob(f"{name}.*"):
        shutil.copy(file, folder)
    return folder / f"{name}.index"


def test_a_folder_with_one_checkpoint(tmp_path: Path) -> None:
    copied(tmp_path)
    assert [spec.name for spec in describe(tmp_path).matrices] == ["bfloat16", "float16", "float64"]


def test_a_file_of_values_that_is_missing_or_short(tmp_path: Path) -> None:
    path = copied(tmp_path)
    values = tmp_path / "types.data-00000-of-00001"
    values.write_bytes(values.read_bytes()[:50])
    with pytest.raises(CorruptCheckpointError, match=r"types\.index: .*ends at byte [0-9]+ of a file of 50 bytes"):
        open_model(path)
    values.unlink()
    with pytest.raises(ModelNotFoundError, match=r"names the shard 'types\.data-00000-of-00001', which is missing"):
        open_model(path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "values").write_bytes(bytes(5000))
    values.symlink_to(tmp_path / "other" / "values")
    inside = tmp_path / "inside"
    inside.mkdir()
    shutil.copy(path, inside)
    (inside / values.name).symlink_to(tmp_path / "other" / "values")
    with pytest.raises(UnsafeCheckpointError, match="is a link that leaves its folder"):
        open_model(inside / "types.index")
    with pytest.raises(ModelNotFoundError):
        open_model(tmp_path / "none.ckpt")


def test_variables_that_are_a_link_to_elsewhere(tmp_path: Path) -> None:
    shutil.copytree(FOLDER / "exported" / "variables", tmp_path / "elsewhere")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "saved_model.pb").write_bytes(b"")
    (tmp_path / "model" / "variables").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeCheckpointError, match="is a link that leaves its folder"):
        open_model(tmp_path / "model")


@pytest.mark.parametrize("name", ["types", "objects-1", "session.ckpt"])
def test_cut_anywhere_and_changed_anywhere(name: str, tmp_path: Path) -> None:
    path = copied(tmp_path, name)
    data = path.read_bytes()
    for end in range(0, len(data), 3):
        path.write_bytes(data[:end])
        with pytest.raises(CorruptCheckpointError, match="not a readable index of a checkpoint"):
            open_model(path)
    chance = random.Random(0)
    for _ in range(200):
        changed = bytearray(data)
        for _ in range(chance.choice([1, 1, 2, 8])):
            changed[chance.randrange(len(data))] = chance.choice([0, 255, 127, 128, chance.randrange(256)])
        path.write_bytes(changed)
        read_all(path)


def entry(key: bytes, value: bytes, n_shared: int = 0) -> bytes:
    return bytes((n_shared, len(key), len(value))) + key + value


def table(*entries: bytes, kind: int = 0, packed: bytes | None = None) -> bytes:
    """Write a table of one block."""
    ending = struct.pack("<2I", 0, 1)
    block = b"".join(entries) + ending if packed is None else packed
    handle = bytes((0, len(block)))
    index = entry(b"z", handle) + ending
    at = len(block) + 5
    meta = at + len(index) + 5
    footer = bytes((meta, len(ending), at, len(index))).ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    return block + bytes((kind, 0, 0, 0, 0)) + index + bytes(5) + ending + bytes(5) + footer


def test_keys_have_their_beginning_in_common() -> None:
    data = table(entry(b"", b"h"), entry(b"layer/a", b"1"), entry(b"b", b"2", n_shared=6))
    assert list(read_table(data)) == [(b"", b"h"), (b"layer/a", b"1"), (b"layer/b", b"2")]


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (table(entry(b"a", b"1"), entry(b"a", b"2")), "not in order"),
        (table(entry(b"b", b"1", n_shared=9)), "an entry is damaged"),
        (table(b"\x00\x05\x00a"), "an entry is damaged"),
        (table(entry(b"a", b""), kind=7), "packed in a way that is not known"),
        (table(b"\xff" * 12), "a number does not end|an entry is damaged"),
        (b"no table" * 10, "does not end as such an index does"),
    ],
)
def test_tables_that_are_none(data: bytes, match: str) -> None:
    with pytest.raises(MalformedTableError, match=match):
        list(read_table(data))


def test_blocks_packed_by_snappy() -> None:
    plain = entry(b"aaaaaaaa", b"1") + struct.pack("<2I", 0, 1)
    # A literal of four bytes, a copy of seven from one byte before, and the rest as a literal.
    packed = (
        bytes((len(plain),)) + bytes((3 << 2,)) + plain[:4] + bytes((1 | 3 << 2, 1)) + bytes((8 << 2,)) + plain[11:]
    )
    assert unpack_snappy(packed, 100) == plain
    assert list(read_table(table(kind=1, packed=packed))) == [(b"aaaaaaaa", b"1")]


@given(data=st.binary(max_size=80))
def test_anything_as_snappy_or_a_message(data: bytes) -> None:
    for parse in (lambda: unpack_snappy(data, 1000), lambda: list(fields(data)), lambda: varint(data, 0)):
        try:
            result = parse()
        except MalformedTableError:
            continue
        assert not isinstance(result, bytes) or len(result) <= 1000


@settings(max_examples=100)
@given(data=st.data())
def test_any_damage_ends_in_an_error_of_ours(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = copied(tmp_path_factory.mktemp("tf"), data.draw(st.sampled_from(["types", "objects-1", "session.ckpt"])))
    files = [path, path.with_name(f"{path.stem}.data-00000-of-00001")]
    file = data.draw(st.sampled_from(files))
    changed = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(changed)
    read_all(path)
