"""Entries of an archive as ranges of bytes: those that Python's zipfile finds, and a directory that lies."""

from __future__ import annotations

import contextlib
import io
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral.loaders import stored_zip
from spectral.loaders.stored_zip import BadArchiveError, find_ranges, read_directory


def write(path: Path, entries: dict[str, bytes], *, comment: bytes = b"", large: bool = False) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.comment = comment
        for name, data in entries.items():
            with archive.open(name, "w", force_zip64=large) as stream:
                stream.write(data)
    return path


def contents(path: Path) -> dict[str, bytes]:
    data = path.read_bytes()
    return {name: data[begin:end] for name, (begin, end) in find_ranges(path, read_directory(path).values()).items()}


@settings(max_examples=40)
@given(
    entries=st.dictionaries(st.text("abc/é", min_size=1, max_size=8), st.binary(max_size=50), max_size=6),
    comment=st.binary(max_size=80),
    large=st.booleans(),
)
def test_the_entries_that_zipfile_wrote(
    entries: dict[str, bytes], comment: bytes, large: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write(tmp_path_factory.mktemp("zip") / "a.zip", entries, comment=comment, large=large)
    assert contents(path) == entries


def test_a_directory_beyond_four_gigabytes_is_understood(tmp_path: Path) -> None:
    """Its end says so with a record of its own, and the entries with a field behind their names."""
    path = write(tmp_path / "a.zip", {"a": b"12345"})
    data = path.read_bytes()
    at = data.index(b"PK\x01\x02")
    entry = bytearray(data[at : data.index(b"PK\x05\x06")])
    struct.pack_into("<2I", entry, 20, 0xFFFFFFFF, 0xFFFFFFFF)
    struct.pack_into("<I", entry, 42, 0xFFFFFFFF)
    extra = struct.pack("<2H3Q", 1, 24, 5, 5, 0)
    struct.pack_into("<H", entry, 30, len(extra))
    directory = bytes(entry) + extra
    where = at + len(directory)
    end64 = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, len(directory), at)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, where, 1)
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(data[:at] + directory + end64 + locator + end)
    assert zipfile.ZipFile(path).read("a") == b"12345"
    assert contents(path) == {"a": b"12345"}


def test_compressed_and_encrypted_entries_are_no_ranges(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", bytes(1000))
    with pytest.raises(BadArchiveError, match="entry 'a' is compressed or encrypted"):
        contents(path)
    data = bytearray(write(path, {"a": b"1"}).read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(BadArchiveError, match="entry 'a' is compressed or encrypted"):
        contents(path)


def patched(data: bytes, magic: bytes, at: int, form: str, value: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into(form, changed, data.index(magic) + at, value)
    return bytes(changed)


def test_a_directory_that_lies(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zip", {"a": b"12345", "b": b"67890"})
    data = path.read_bytes()
    entry, end = b"PK\x01\x02", b"PK\x05\x06"
    second = data.index(entry, data.index(entry) + 1)
    twice = data[: second + 46] + b"a" + data[second + 47 :]
    shared = bytearray(data)
    struct.pack_into("<I", shared, second + 42, 0)
    for bad, match in (
        (b"", "no directory at its end"),
        (data[:-1], "no directory at its end"),
        (data[:-30], "no directory at its end"),
        (patched(data, end, 12, "<I", 1 << 30), "claims 2 entries in 1073741824 bytes|outside the file"),
        (patched(data, end, 16, "<I", 1 << 30), "outside the file"),
        (patched(data, end, 10, "<H", 60_000), "ends early"),
        (patched(data, end, 10, "<H", 3), "ends early"),
        (patched(data, entry, 20, "<I", 1 << 30), "compressed"),
        (patched(patched(data, entry, 20, "<I", 1 << 30), entry, 24, "<I", 1 << 30), "'a' ends outside the file"),
        (patched(data, entry, 42, "<I", 7), "no entry 'a' where"),
        (patched(data, entry, 42, "<I", 1 << 30), "no entry 'a' where"),
        (patched(data, entry, 28, "<H", 60_000), "damaged"),
        (patched(data, entry, 20, "<I", 0xFFFFFFFF), "leaves a size out"),
        (twice, "two entries are named 'a'"),
        (bytes(shared), "share bytes"),
    ):
        path.write_bytes(bad)
        with pytest.raises(BadArchiveError, match=match):
            contents(path)


def test_a_directory_of_millions_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_zip, "MAX_ENTRIES", 2)
    path = write(tmp_path / "a.zip", {"a": b"", "b": b"", "c": b""})
    with pytest.raises(BadArchiveError, match="its directory claims 3 entries"):
        read_directory(path)


@settings(max_examples=200)
@given(data=st.data())
def test_any_damage_ends_in_one_error(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", b"N.")
        archive.writestr("archive/data/0", bytes(64))
    changed = bytearray(stream.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("zip") / "a.zip"
    path.write_bytes(changed[: data.draw(st.integers(len(changed) // 2, len(changed)))])
    with contextlib.suppress(BadArchiveError):
        contents(path)
