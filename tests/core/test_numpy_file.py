"""Arrays in .npy and .npz files: every type and order as numpy wrote it, no pickle, and no trust in sizes."""

from __future__ import annotations

import io
import pickle
import resource
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral import analyze, describe
from spectral.errors import CorruptCheckpointError, ModelError, ModelNotFoundError
from spectral.loaders.numpy_file import open_npy, open_npz
from tests.core.builders import heavy_tailed

RNG = np.random.default_rng(0)
ARRAYS: dict[str, Any] = {
    "double": RNG.normal(size=(5, 7)),
    "single": RNG.normal(size=(5, 7)).astype(np.float32),
    "half": RNG.normal(size=(5, 7)).astype(np.float16),
    "big": RNG.normal(size=(5, 7)).astype(">f4"),
    "fortran": np.asfortranarray(RNG.normal(size=(5, 7))),
    "kernel": np.asfortranarray(RNG.normal(size=(2, 3, 4, 5)).astype(np.float32)),
    "vector": RNG.normal(size=7),
    "number": np.float64(3.5),
    "empty": np.zeros((0, 3)),
    "layers/0/w": RNG.normal(size=(3, 4)),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "packed"])
def test_arrays_come_back_as_they_were(save: Any, tmp_path: Path) -> None:
    save(tmp_path / "m.npz", **ARRAYS)
    source = open_npz(tmp_path / "m.npz")
    assert {info.name for info in source.tensors()} == set(ARRAYS)
    for info in source.tensors():
        expected = np.asarray(ARRAYS[info.name])
        values = source.load(info.name)
        np.testing.assert_array_equal(values, expected)
        assert values.shape == info.shape == expected.shape
        assert values.flags.c_contiguous
        assert values.dtype == expected.dtype.newbyteorder("<")
        half = expected.size // 2
        np.testing.assert_array_equal(source.load_span(info.name, half, expected.size), expected.reshape(-1)[half:])
        pieces = source.stream(info.name)
        if pieces is not None:
            assert b"".join(map(bytes, pieces)) == values.tobytes()
    is_streamed = {info.name for info in source.tensors() if source.stream(info.name) is not None}
    assert is_streamed == (set(ARRAYS) - {"big", "fortran", "kernel"} if save is np.savez else set())
    assert pickle.loads(pickle.dumps(source)).load("fortran").tobytes() == source.load("fortran").tobytes()


@pytest.mark.parametrize("order", ["C", "F"])
def test_one_array(order: Any, tmp_path: Path) -> None:
    values = np.asarray(RNG.normal(size=(6, 4)), order=order)
    np.save(tmp_path / "kernel.npy", values)
    source = open_npy(tmp_path / "kernel.npy")
    (info,) = source.tensors()
    assert (info.name, info.shape, info.dtype) == ("kernel", (6, 4), "float64")
    np.testing.assert_array_equal(source.load("kernel"), values)


def test_the_same_numbers_as_from_memory(tmp_path: Path) -> None:
    tensors: dict[str, Any] = {"a.weight": heavy_tailed(80, 60), "b.weight": heavy_tailed(60, 70, seed=1)}
    np.savez(tmp_path / "m.npz", **tensors)
    np.savez_compressed(tmp_path / "packed.npz", **tensors)
    for name in ("m.npz", "packed.npz"):
        assert analyze(tmp_path / name).details.equals(analyze(tensors).details)


def test_what_holds_no_numbers_is_listed(tmp_path: Path) -> None:
    objects = np.array([{"a": 1}], dtype=object)
    np.savez(
        tmp_path / "m.npz", w=ARRAYS["double"], ids=np.arange(5), names=np.array(["a", "b"]), o=objects,
        q=np.ones((3, 3), np.int8), c=np.ones((3, 3), complex), t=np.zeros(2, "datetime64[s]"),
        s=np.zeros(2, [("x", "f4")]),
    )  # fmt: skip
    reasons = {info.name: info.refusal or "" for info in open_npz(tmp_path / "m.npz").tensors()}
    assert [spec.name for spec in describe(tmp_path / "m.npz").matrices] == ["w"]
    assert reasons["o"] == "holds Python objects, which are a pickle and not read"
    assert reasons["ids"].startswith("holds positions or a mask")
    assert reasons["q"].startswith("quantised or packed")
    assert reasons["c"].startswith("complex")
    for name in ("names", "t", "s"):
        assert reasons[name].startswith("holds no numbers")
    with pytest.raises(ModelError, match="'o': holds Python objects"):
        open_npz(tmp_path / "m.npz").load("o")


def npy(values: Any, **changes: Any) -> bytes:
    """Write an array whose header says something else."""
    stream = io.BytesIO()
    np.save(stream, values)
    data = stream.getvalue()
    for old, new in changes.get("replaced", ()):
        assert old in data
        data = data.replace(old, new)
    return data


def write(path: Path, entries: dict[str, bytes], *, packed: bool = False) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


LARGE = b"(4, 5), }" + b" " * 20, b"(4, 1152921504606846976), }  "


@pytest.mark.parametrize("packed", [False, True], ids=["stored", "packed"])
@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "no header of an array"),
        (b"\x93NUMPY", "no header of an array"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "no header of an array"),
        (npy(np.zeros((4, 5)), replaced=[(b"(4, 5)", b"(4, 6)")]), "has 288 bytes where its header announces 320"),
        (npy(np.zeros((4, 5)), replaced=[(b"(4, 5)", b"(-4,5)")]), "a shape that no array has|announces"),
        (npy(np.zeros((4, 5)), replaced=[(b"(4, 5), }      ", b"(9**9999999), }")]), "no header of an array"),
        (
            npy(np.zeros((4, 5)), replaced=[LARGE]),
            "announces|no array",
        ),
        (npy(np.zeros((4, 5)))[:-8], "has 280 bytes where its header announces 288"),
        (npy(np.zeros((4, 5))) + b"\0", "has 289 bytes"),
    ],
    ids=["empty", "magic", "cut", "larger", "negative", "power", "terabytes", "short", "long"],
)
def test_a_header_that_lies(data: bytes, match: str, packed: bool, tmp_path: Path) -> None:
    path = write(tmp_path / "m.npz", {"w.npy": data}, packed=packed)
    with pytest.raises(CorruptCheckpointError, match=rf"m\.npz: not a readable npz file \(entry 'w\.npy'.*({match})"):
        open_npz(path)
    if not packed:
        (tmp_path / "w.npy").write_bytes(data)
        with pytest.raises(CorruptCheckpointError, match=r"w\.npy: not a readable npy file"):
            open_npy(tmp_path / "w.npy")


def test_a_bomb_is_never_unpacked(tmp_path: Path) -> None:
    """Two hundred kilobytes claim two hundred megabytes of values: as a tensor they are read, as a lie they are not."""
    header = npy(np.zeros((5, 5)))
    path = write(tmp_path / "m.npz", {"w.npy": header + bytes(200_000_000)}, packed=True)
    assert path.stat().st_size < 300_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CorruptCheckpointError, match="has 200000328 bytes where its header announces 328"):
        open_npz(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


def test_packed_bytes_that_are_damaged(tmp_path: Path) -> None:
    path = write(tmp_path / "m.npz", {"w.npy": npy(RNG.normal(size=(40, 50)))}, packed=True)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    source = open_npz(path)
    said = ""
    try:
        source.load("w")
    except CorruptCheckpointError as error:
        said = str(error)
    assert "m.npz: tensor 'w' " in said


def test_missing_files(tmp_path: Path) -> None:
    for opener, name in ((open_npz, "m.npz"), (open_npy, "m.npy")):
        with pytest.raises(ModelNotFoundError, match=name):
            opener(tmp_path / name)


@settings(max_examples=150)
@given(data=st.data(), packed=st.booleans())
def test_any_damage_ends_in_an_error_of_ours(
    data: st.DataObject, packed: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("npz")
    path = write(folder / "m.npz", {"w.npy": npy(np.ones((6, 5))), "b.npy": npy(np.ones(5, ">f2"))}, packed=packed)
    changed = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(changed)
    said = "m.npz"
    try:
        source = open_npz(path)
        for info in source.tensors():
            if info.refusal is None:
                assert source.load(info.name).shape == info.shape
    except ModelError as error:
        said = str(error)
    assert "m.npz" in said
