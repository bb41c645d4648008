"""The safetensors loader: files of the real libraries come back bit for bit, and opening reads the header alone."""

from __future__ import annotations

import json
import pickle
import time
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from spectral.analysis import analyze, describe
from spectral.errors import CorruptCheckpointError, ModelError
from spectral.loaders.naming import natural_order
from spectral.loaders.opening import open_model
from spectral.loaders.safetensors import open_safetensors
from tests.core.builders import entry, heavy_tailed, safetensors_bytes, write_safetensors

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

TORCH_FLOATS = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
}
TORCH_OTHERS = {
    "int64": torch.int64,
    "int32": torch.int32,
    "int16": torch.int16,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "bool": torch.bool,
}


def raw(values: NDArray[Any]) -> bytes:
    return values.tobytes()


def any_bits(dtype: Any, n_rows: int = 64, n_columns: int = 64) -> Any:
    """Return a torch tensor of random bytes: subnormals, infinities and NaN with payloads included."""
    n_bytes = n_rows * n_columns * torch.empty((), dtype=dtype).element_size()
    data = torch.from_numpy(np.random.default_rng(0).integers(0, 256, n_bytes, dtype=np.uint8))
    return data.view(dtype).reshape(n_rows, n_columns)


@pytest.mark.parametrize("dtype", TORCH_FLOATS)
def test_floats_of_torch_come_back_bit_for_bit(dtype: str, tmp_path: Path) -> None:
    tensor = any_bits(TORCH_FLOATS[dtype])
    safetensors.torch.save_file({"w": tensor}, tmp_path / "m.safetensors")
    source = open_safetensors(tmp_path / "m.safetensors")
    (info,) = source.tensors()
    values = source.load("w")
    assert (info.name, info.shape, info.dtype, info.refusal) == ("w", (64, 64), dtype, None)
    assert (values.dtype.name, values.shape) == (dtype, (64, 64))
    assert raw(values) == raw(tensor.view(torch.uint8).numpy())


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_floats_of_numpy_come_back_bit_for_bit(dtype: Any, tmp_path: Path) -> None:
    values = heavy_tailed(7, 5).astype(dtype)
    safetensors.numpy.save_file({"a.weight": values}, tmp_path / "m.safetensors", metadata={"format": "np"})
    loaded = open_safetensors(tmp_path / "m.safetensors").load("a.weight")
    assert loaded.dtype == values.dtype
    assert raw(loaded) == raw(values)


@pytest.mark.parametrize("dtype", TORCH_OTHERS)
def test_other_types_are_listed_and_refused(dtype: str, tmp_path: Path) -> None:
    safetensors.torch.save_file({"w": torch.ones(4, 4).to(TORCH_OTHERS[dtype])}, tmp_path / "m.safetensors")
    source = open_safetensors(tmp_path / "m.safetensors")
    (info,) = source.tensors()
    assert (info.dtype, info.shape) == (dtype, (4, 4))
    assert info.refusal is not None
    assert info.refusal.endswith(f"({dtype})")
    with pytest.raises(ModelError, match=r"m\.safetensors: tensor 'w': (holds positions|quantised or packed)"):
        source.load("w")
    (unanalysed,) = describe(source).unanalysed
    assert unanalysed.reason == info.refusal


@pytest.mark.parametrize(
    ("dtype", "n_bytes", "reason"),
    [
        ("F4", 8, "quantised or packed"),
        ("F6_E2M3", 12, "quantised or packed"),
        ("C64", 128, "complex values"),
        ("U16", 32, "quantised or packed"),
    ],
)
def test_types_without_numpy_equal_are_listed(dtype: str, n_bytes: int, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(safetensors_bytes({"w": entry(0, n_bytes, shape=[4, 4], dtype=dtype)}, bytes(n_bytes)))
    (unanalysed,) = describe(path).unanalysed
    assert unanalysed.reason.startswith(reason)


@pytest.mark.parametrize("name", ["float8_e8m0fnu", "float8_e4m3fnuz", "float8_e5m2fnuz"])
def test_rarer_eight_bit_floats(name: str, tmp_path: Path) -> None:
    code = {"float8_e8m0fnu": "F8_E8M0", "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ"}[name]
    data = bytes(range(256))
    path = tmp_path / "m.safetensors"
    path.write_bytes(safetensors_bytes({"w": entry(0, 256, shape=[16, 16], dtype=code)}, data))
    values = open_safetensors(path).load("w")
    assert values.dtype == np.dtype(getattr(ml_dtypes, name))
    assert raw(values) == data


def test_scalars_and_empty_tensors(tmp_path: Path) -> None:
    tensors = {"scalar": torch.tensor(2.5), "empty": torch.empty(0, 3), "w": torch.ones(2, 2)}
    safetensors.torch.save_file(tensors, tmp_path / "m.safetensors")
    source = open_safetensors(tmp_path / "m.safetensors")
    assert {info.name: info.shape for info in source.tensors()} == {"empty": (0, 3), "scalar": (), "w": (2, 2)}
    assert (source.load("scalar").shape, float(source.load("scalar"))) == ((), 2.5)
    assert source.load("empty").shape == (0, 3)


def test_natural_order_of_names(tmp_path: Path) -> None:
    names = ["layer.10.w", "layer.9.w", "layer.2.w", "layer.02.w", "a", "layer.2.b"]
    write_safetensors(tmp_path / "m.safetensors", {name: np.ones((2, 2), np.float32) for name in names})
    found = [info.name for info in open_safetensors(tmp_path / "m.safetensors").tensors()]
    assert found == ["a", "layer.02.w", "layer.2.b", "layer.2.w", "layer.9.w", "layer.10.w"]


@pytest.mark.parametrize(
    "names", [("a1", "a01"), ("1" * 19, "1" * 20), ("x" + "9" * 5000, "x1"), ("", "0"), ("٣", "3")]
)
def test_natural_order_tells_any_two_names_apart(names: tuple[str, str]) -> None:
    first, second = map(natural_order, names)
    assert first != second
    assert (first < second) is not (second < first)


def test_order_in_the_file_does_not_matter(tmp_path: Path) -> None:
    tensors = {name: heavy_tailed(30, 20, seed=seed).astype(np.float32) for seed, name in enumerate("abc")}
    one = write_safetensors(tmp_path / "one.safetensors", tensors)
    two = write_safetensors(tmp_path / "two.safetensors", dict(reversed(tensors.items())))
    assert [layer.content_hash for layer in analyze(one).layers] == [
        layer.content_hash for layer in analyze(two).layers
    ]


def test_opening_reads_the_header_alone(tmp_path: Path) -> None:
    # Eight gigabytes that are not there: whoever reads them takes seconds and the memory of the machine.
    path = tmp_path / "sparse.safetensors"
    header = safetensors_bytes({"w": entry(0, 2**33, shape=[2**15, 2**16])})
    with path.open("wb") as stream:
        stream.write(header)
        stream.truncate(len(header) + 2**33)
    begin = time.perf_counter()
    description = describe(path)
    assert time.perf_counter() - begin < 0.5
    assert [spec.shape for spec in description.matrices] == [(2**15, 2**16)]
    assert description.coverage == 1.0


def test_values_are_read_when_loaded(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "m.safetensors", {"w": np.zeros((2, 2), np.float32)})
    source = open_model(path)
    with path.open("r+b") as stream:
        stream.seek(-4, 2)
        stream.write(np.float32(7.0).tobytes())
    assert source.load("w").tolist() == [[0.0, 0.0], [0.0, 7.0]]


def test_one_tensor_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_safetensors(tmp_path / "m.safetensors", {name: np.ones((9, 9), np.float32) for name in "abc"})
    source = open_safetensors(path)
    loaded: list[bytearray] = []
    frombuffer = np.frombuffer

    def counted(data: bytearray, **options: Any) -> NDArray[Any]:
        loaded.append(data)
        return frombuffer(data, **options)

    monkeypatch.setattr(np, "frombuffer", counted)
    source.load("b")
    assert [len(data) for data in loaded] == [9 * 9 * 4]


def test_a_file_that_shrinks_after_opening(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "m.safetensors", {"w": np.ones((9, 9), np.float32)})
    source = open_safetensors(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(
        CorruptCheckpointError, match=r"m\.safetensors: tensor 'w' ends at .* only 314 of its 324 bytes"
    ):
        source.load("w")


def test_a_file_that_vanishes_after_opening(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "m.safetensors", {"w": np.ones((9, 9), np.float32)})
    source = open_safetensors(path)
    path.unlink()
    with pytest.raises(ModelError, match=r"m\.safetensors: tensor 'w' cannot be read: No such file"):
        source.load("w")


def test_metadata_is_no_tensor(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(safetensors_bytes({"__metadata__": {"format": "pt"}, "w": entry(0, 16, shape=[2, 2])}, bytes(16)))
    assert [info.name for info in open_safetensors(path).tensors()] == ["w"]


def test_padding_after_the_json_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    text = json.dumps({"w": entry(0, 16, shape=[2, 2])}).encode() + b"   "
    path.write_bytes(safetensors_bytes(text, bytes(16)))
    assert open_safetensors(path).load("w").shape == (2, 2)


def test_pickles_as_path_and_header(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "m.safetensors", {"w": heavy_tailed(9, 9).astype(np.float32)})
    source = open_safetensors(path)
    data = pickle.dumps(source)
    assert len(data) < 1000
    assert raw(pickle.loads(data).load("w")) == raw(source.load("w"))
