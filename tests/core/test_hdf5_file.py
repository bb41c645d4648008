"""HDF5 files as h5py writes them, read without it: every layout, every version of the format, no trust in the file."""

from __future__ import annotations

import pickle
import random
import struct
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral import analyze
from spectral.errors import CorruptCheckpointError, ModelError, ModelNotFoundError, UnsafeCheckpointError
from spectral.loaders.hdf5_bytes import MalformedHdf5Error
from spectral.loaders.hdf5_chunks import unpack_lzf
from spectral.loaders.hdf5_file import open_hdf5
from spectral.loaders.opening import open_model
from tests.core.builders import heavy_tailed

RNG = np.random.default_rng(0)
VERSIONS: list[Any] = [None, ("v108", "v108"), ("v110", "v110"), "latest"]


def write(path: Path, arrays: dict[str, Any], libver: Any = None, **options: Any) -> Path:
    with h5py.File(path, "w", libver=libver) as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values, **options)
    return path


def of_file(path: Path) -> dict[str, Any]:
    """What h5py reads, by name."""
    found: dict[str, Any] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[...]}) if isinstance(item, h5py.Dataset) else None)
    return found


def agree(path: Path) -> None:
    source = open_hdf5(path)
    expected = of_file(path)
    assert {info.name for info in source.tensors()} == set(expected)
    for info in source.tensors():
        values = expected[info.name]
        assert info.refusal is None, info
        assert info.shape == values.shape
        loaded = source.load(info.name)
        assert loaded.flags.c_contiguous
        assert loaded.dtype == values.dtype.newbyteorder("<")
        np.testing.assert_array_equal(loaded, values)
        half = values.size // 2
        np.testing.assert_array_equal(source.load_span(info.name, half, values.size), values.reshape(-1)[half:])
        pieces = source.stream(info.name)
        assert pieces is None or b"".join(map(bytes, pieces)) == loaded.tobytes()


@pytest.mark.parametrize("libver", VERSIONS, ids=str)
def test_arrays_of_every_type_in_groups_of_every_size(libver: Any, tmp_path: Path) -> None:
    arrays: dict[str, Any] = {f"many/x{index}": np.float32(index) for index in range(300)}
    arrays |= {f"g{index}/a_rather_long_name_{index}/vars/0": RNG.normal(size=(3, 2)) for index in range(30)}
    arrays |= {dtype: RNG.normal(size=(4, 3)).astype(dtype) for dtype in ("<f2", "<f4", "<f8", ">f2", ">f4", ">f8")}
    arrays["none"] = np.zeros((0, 3), dtype=np.float32)
    agree(write(tmp_path / "m.h5", arrays, libver))


@pytest.mark.parametrize("libver", VERSIONS, ids=str)
@pytest.mark.parametrize("compression", [None, "gzip", "lzf"])
@pytest.mark.parametrize("shuffle", [False, True], ids=["plain", "shuffled"])
@pytest.mark.parametrize("fletcher32", [False, True], ids=["", "checked"])
def test_chunks(libver: Any, compression: Any, shuffle: bool, fletcher32: bool, tmp_path: Path) -> None:
    arrays = {
        "edges": np.round(RNG.normal(size=(33, 17)), 1),
        "flat": np.zeros((40, 17)),
        "noise": RNG.normal(size=(21, 18)).astype(np.float32),
        "big": RNG.normal(size=(21, 18)).astype(">f4"),
    }
    options = {"compression": compression, "shuffle": shuffle, "fletcher32": fletcher32, "chunks": (10, 6)}
    agree(write(tmp_path / "m.h5", arrays, libver, **options))
    one = {"one": RNG.normal(size=(7, 5)).astype(np.float32)}
    agree(write(tmp_path / "one.h5", one, libver, **options | {"chunks": (7, 5)}))


@pytest.mark.parametrize("libver", VERSIONS, ids=str)
def test_many_chunks_and_a_growing_array(libver: Any, tmp_path: Path) -> None:
    agree(write(tmp_path / "m.h5", {"w": RNG.normal(size=(70, 60))}, libver, chunks=(2, 2)))
    path = write(tmp_path / "g.h5", {"w": RNG.normal(size=(7, 6))}, libver, chunks=(2, 2), maxshape=(None, 6))
    (info,) = open_hdf5(path).tensors()
    if libver in (None, VERSIONS[1]):
        agree(path)
    else:
        assert "indexed in a way of HDF5 1.10 and later that is not read" in str(info.refusal)


def test_a_compact_array_a_user_s_block_and_a_named_type(tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    with h5py.File(path, "w", userblock_size=1024) as file:
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((3,))
        made = h5py.h5d.create(file.id, b"compact", h5py.h5t.IEEE_F32LE, space, layout)
        made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.arange(3, dtype=np.float32))
        file["type"] = np.dtype("<f4")
        file.create_dataset("named", data=np.ones((2, 2)), dtype=file["type"])
        file.create_dataset("chunks", data=np.ones((4, 4)), chunks=(2, 2))
    agree(path)


def test_what_holds_no_weights_is_listed(tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        file["weights"] = np.ones((3, 3))
        file["text"] = "abc"
        file["texts"] = np.array([b"abc"])
        file["records"] = np.zeros(3, [("a", "f4")])
        file["mask"] = np.ones((3, 3), dtype=bool)
        file["ids"] = np.arange(3)
        file["codes"] = np.ones((3, 3), dtype=np.int8)
        file["half"] = np.ones((3, 3), dtype=ml_dtypes.bfloat16)
        file["reference"] = file["weights"].ref
        file["nothing"] = h5py.Empty("f4")
        file.create_dataset("never", shape=(1 << 30, 1 << 30), dtype="f4")
        file.create_dataset("part", shape=(20, 5), dtype="f4", chunks=(5, 5))[0] = 1
        file["again"] = file["weights"]
        file["soft"] = h5py.SoftLink("/weights")
        file["circle"] = h5py.SoftLink("/circle")
        file["group/up"] = file["/"]
    source = open_hdf5(path)
    reasons = {info.name: info.refusal for info in source.tensors()}
    assert reasons == {
        "weights": "tied to again" if reasons["weights"] else None,
        "again": None if reasons["weights"] else "tied to weights",
        "text": "holds text, no numbers",
        "texts": "holds text, no numbers",
        "records": "holds records, no numbers",
        "mask": "holds positions or a mask, not weights (bool)",
        "ids": "holds positions or a mask, not weights (int64)",
        "codes": "quantised or packed values are not decoded (int8)",
        "half": "holds opaque bytes, no numbers",
        "reference": "holds references, no numbers",
        "nothing": None,
        "never": "its values were never written",
        "part": None,
        "soft": reasons["soft"],
        "circle": "a link that leads nowhere",
    }
    assert reasons["soft"] in ("tied to again", "tied to weights")
    with pytest.raises(CorruptCheckpointError, match=r"'part': 1 of its 4 chunks were written$"):
        source.load("part")
    with pytest.raises(ModelError, match=r"'never': its values were never written$"):
        source.load("never")


def test_other_files_are_not_touched(tmp_path: Path) -> None:
    write(tmp_path / "secret.h5", {"w": np.ones((3, 3))})
    (tmp_path / "secret.bin").write_bytes(bytes(100))
    link, outside, virtual = (tmp_path / f"{name}.h5" for name in ("link", "outside", "virtual"))
    with h5py.File(link, "w") as file:
        file["w"] = h5py.ExternalLink("secret.h5", "/w")
    with h5py.File(outside, "w") as file:
        file.create_dataset("w", (3, 3), "f4", external=[(str(tmp_path / "secret.bin"), 0, 36)])
    with h5py.File(virtual, "w", libver="latest") as file:
        layout = h5py.VirtualLayout((3, 3), "f8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "w", (3, 3))
        file.create_virtual_dataset("w", layout)
    for path, match in (
        (link, "'w' is a link to another file"),
        (outside, "the values of 'w' are in other files"),
        (virtual, "a dataset is virtual: its values are in other files"),
    ):
        with pytest.raises(UnsafeCheckpointError, match=rf"{path.name}: reaches outside itself: {match}$"):
            open_hdf5(path)


def test_a_filter_of_others_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "m.h5", {"w": np.ones((8, 8))}, chunks=(4, 4), scaleoffset=2)
    (info,) = open_hdf5(path).tensors()
    assert info.refusal == "packed by a filter that is not read (number 6)"


def test_chunks_that_do_not_unpack_to_their_size(tmp_path: Path) -> None:
    path = write(tmp_path / "m.h5", {"w": np.zeros((64, 64))}, chunks=(64, 64), compression="gzip")
    data = path.read_bytes()
    at = data.index(b"\x78\x5e") if b"\x78\x5e" in data else data.index(b"\x78\x9c")
    import zlib

    bomb = zlib.compress(bytes(30_000))
    path.write_bytes(data[:at] + bomb[: len(data) - at] + data[at + len(bomb) :])
    with pytest.raises(CorruptCheckpointError, match=r"m\.h5: tensor 'w': a chunk has 30000 bytes where 32768 belong$"):
        open_hdf5(path).load("w")


def test_a_checksum_that_does_not_hold(tmp_path: Path) -> None:
    path = write(tmp_path / "m.h5", {"w": RNG.normal(size=(8, 8))}, chunks=(8, 8), fletcher32=True)
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptCheckpointError, match="a chunk is damaged: its checksum is another"):
        open_hdf5(path).load("w")


def patched(path: Path, old: bytes, new: bytes) -> Path:
    data = path.read_bytes()
    assert data.count(old) == 1, data.count(old)
    path.write_bytes(data.replace(old, new))
    return path


def test_sizes_that_the_file_does_not_have(tmp_path: Path) -> None:
    claim = struct.pack("<2Q", 1 << 40, 1 << 40)
    shape = struct.pack("<2Q", 37, 41)
    plain = write(tmp_path / "plain.h5", {"w": np.ones((37, 41))}, maxshape=None)
    with h5py.File(plain) as file:
        assert file["w"].maxshape == (37, 41)
    data = plain.read_bytes()
    plain.write_bytes(data.replace(shape, claim))
    with pytest.raises(
        CorruptCheckpointError, match=r"plain\.h5: not a readable HDF5 file \(the dataset 'w' has 12136"
    ):
        open_hdf5(plain)
    chunked = write(tmp_path / "chunks.h5", {"w": np.ones((37, 41))}, chunks=(37, 41), compression="gzip")
    chunked.write_bytes(chunked.read_bytes().replace(shape, struct.pack("<2Q", 37 << 12, 41 << 4)))
    (info,) = open_hdf5(chunked).tensors()
    assert "which a file of" in str(info.refusal)


def test_two_arrays_that_share_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "m.h5", {"a": np.ones((30, 30)), "b": np.zeros((30, 30))})
    with h5py.File(path) as file:
        first, second = (file[name].id.get_offset() for name in "ab")
    patched(path, struct.pack("<QQ", second, 7200), struct.pack("<QQ", first + 8, 7200))
    with pytest.raises(CorruptCheckpointError, match="the datasets 'a' and 'b' share bytes"):
        open_hdf5(path)


def test_deep_nesting_and_circles(tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        group = file
        for _ in range(200):
            group = group.create_group("g")
        group["w"] = np.ones((3, 3))
    with pytest.raises(CorruptCheckpointError, match="groups nested 128 deep"):
        open_hdf5(path)


def test_a_tree_one_of_whose_branches_is_there_twice(tmp_path: Path) -> None:
    path = write(tmp_path / "m.h5", {f"x{index}": np.float32(index) for index in range(300)})
    data = bytearray(path.read_bytes())
    at = data.index(b"TREE\x00\x01")
    data[at + 48 : at + 56] = data[at + 32 : at + 40]
    path.write_bytes(data)
    with pytest.raises(CorruptCheckpointError, match="a tree leads back to byte"):
        open_hdf5(path)


@pytest.mark.parametrize("data", [b"", b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + bytes(100), b"PK" * 4000])
def test_no_such_file(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    path.write_bytes(data)
    with pytest.raises(CorruptCheckpointError, match=r"m\.h5: not a readable HDF5 file \("):
        open_model(path)
    with pytest.raises(ModelNotFoundError):
        open_hdf5(tmp_path / "none.h5")


def everything(path: Path, libver: Any = None) -> bytes:
    with h5py.File(path, "w", libver=libver) as file:
        file.attrs["model_config"] = '{"class_name": "Sequential", "config": {"name": "m", "layers": []}}'
        file.attrs["layer_names"] = np.array([b"one", b"two"])
        for index in range(12):
            file[f"layers/dense_{index}/vars/0"] = np.ones((3, 4), dtype=np.float32)
        file.create_dataset(
            "z", data=np.ones((12, 9)), chunks=(5, 5), compression="gzip", shuffle=True, fletcher32=True
        )
        file.create_dataset("l", data=np.ones((12, 9)), chunks=(5, 5), compression="lzf")
        file["soft"] = h5py.SoftLink("/layers")
    return path.read_bytes()


def read_all(path: Path) -> None:
    """Open a file and load all of it; where that fails, one line of text must name the file."""
    said = str(path)
    try:
        source = open_model(path)
        for info in source.tensors():
            if info.refusal is None:
                assert source.load(info.name).shape == info.shape
    except ModelError as error:
        said = str(error)
    assert said.startswith(str(path))
    assert said.isprintable()
    assert len(said) < 2500


@pytest.mark.parametrize("libver", VERSIONS, ids=str)
def test_cut_anywhere(libver: Any, tmp_path: Path) -> None:
    data = everything(tmp_path / "m.h5", libver)
    path = tmp_path / "cut.h5"
    for end in {*range(300), *range(300, len(data), 97)}:
        path.write_bytes(data[:end])
        read_all(path)


@pytest.mark.parametrize("libver", VERSIONS, ids=str)
def test_bytes_changed_anywhere(libver: Any, tmp_path: Path) -> None:
    data = everything(tmp_path / "m.h5", libver)
    path = tmp_path / "changed.h5"
    chance = random.Random(0)
    for _ in range(300):
        changed = bytearray(data)
        for _ in range(chance.choice([1, 1, 2, 8, 30])):
            changed[chance.randrange(min(len(data), chance.choice([200, 3000, 1 << 20])))] = chance.choice(
                [0, 255, 127, 128, chance.randrange(256)]
            )
        path.write_bytes(changed)
        read_all(path)


@settings(max_examples=100)
@given(data=st.data(), version=st.sampled_from(VERSIONS))
def test_any_damage_ends_in_an_error_of_ours(
    data: st.DataObject, version: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("h5") / "m.h5"
    changed = bytearray(everything(path, version))
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(changed)
    read_all(path)


@given(data=st.binary(max_size=60))
def test_lzf_of_anything(data: bytes) -> None:
    said = "a chunk cannot be unpacked"
    try:
        assert len(unpack_lzf(data, 1000)) <= 1000
    except MalformedHdf5Error as error:
        said = str(error)
    assert said.startswith("a chunk cannot be unpacked")


def test_memory_of_opening_and_of_loading(tmp_path: Path) -> None:
    path = write(tmp_path / "m.h5", {f"w{index}": np.ones((500, 1000)) for index in range(8)})
    tracemalloc.start()
    try:
        source = open_hdf5(path)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
        for info in source.tensors():
            source.load(info.name)
        assert tracemalloc.get_traced_memory()[1] < 2 * 4_000_000
    finally:
        tracemalloc.stop()


def test_a_source_travels_and_is_shared(tmp_path: Path) -> None:
    path = write(tmp_path / "m.h5", {f"w{index}": RNG.normal(size=(40, 40)) for index in range(9)}, chunks=(20, 20))
    source = pickle.loads(pickle.dumps(open_hdf5(path)))
    expected = of_file(path)
    with ThreadPoolExecutor(4) as pool:
        for name, values in zip(list(expected) * 5, pool.map(source.load, list(expected) * 5), strict=True):
            np.testing.assert_array_equal(values, expected[name])


def test_the_same_numbers_as_from_memory(tmp_path: Path) -> None:
    tensors: dict[str, Any] = {"a.weight": heavy_tailed(80, 60), "b.weight": heavy_tailed(60, 70, seed=1)}
    write(tmp_path / "m.h5", tensors)
    write(tmp_path / "packed.hdf5", tensors, compression="gzip", chunks=(20, 20))
    for name in ("m.h5", "packed.hdf5"):
        assert analyze(tmp_path / name).details.equals(analyze(tensors).details)


def test_nothing_but_numpy_is_imported(tmp_path: Path) -> None:
    path = write(tmp_path / "m.h5", {"w": np.ones((8, 8))}, compression="gzip")
    code = (
        "import sys\nfor name in ('h5py', 'keras', 'torch', 'tensorflow'): sys.modules[name] = None\n"
        "from spectral.loaders.opening import open_model\n"
        f"print(open_model({str(path)!r}).load('w').sum())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "64.0"
