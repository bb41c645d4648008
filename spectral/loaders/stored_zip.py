"""Where the entries of a ZIP archive lie in its file, for archives whose entries stand there as they are.

Files of ``torch.save`` and ``.npz`` files are such archives: an uncompressed entry is a range of bytes, and can be
read in part without the rest. Python's ``zipfile`` builds an object for every entry that a directory claims, before
anything can be checked; a file of a few megabytes can claim millions. The format is that of PKWARE's APPNOTE 6.3.10,
sections 4.3.7 (local header), 4.3.12 (directory), 4.3.14 to 4.3.16 (its end).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

from spectral.errors import CorruptCheckpointError
from spectral.loaders.byte_ranges import read_range

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

MAX_ENTRIES = 300_000
"""A tensor is an entry; no checkpoint has so many."""

MAGIC = b"PK\x03\x04"

_END = struct.Struct("<4s4H2IH")
_END_MAGIC = b"PK\x05\x06"
_LOCATOR = struct.Struct("<4sIQI")
_LOCATOR_MAGIC = b"PK\x06\x07"
_END64 = struct.Struct("<4sQ2H2I4Q")
_END64_MAGIC = b"PK\x06\x06"
_ENTRY = struct.Struct("<4s4B4H3I5H2I")
_ENTRY_MAGIC = b"PK\x01\x02"
_LOCAL = struct.Struct("<4s5H3I2H")
_MAX_COMMENT = 0xFFFF
_LARGE = 0xFFFFFFFF
_ENCRYPTED = 0x1
_STORED, _DEFLATED = 0, 8
_MOST_UNPACKED = 1032


class BadArchiveError(ValueError):
    """The file is no ZIP archive, or its directory contradicts the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry as the directory describes it.

    Attributes
    ----------
    name : str
        Name in the archive.
    size : int
        Bytes when unpacked.
    packed_size : int
        Bytes in the file.
    is_stored : bool
        Whether its bytes stand in the file as they are: neither packed nor encrypted.
    is_deflated : bool
        Whether they are packed by the usual method, and not encrypted.
    checksum : int
        CRC-32 of its content.
    header : int
        Where its local header begins in the file.
    """

    name: str
    size: int
    packed_size: int
    is_stored: bool
    is_deflated: bool = False
    checksum: int = 0
    header: int = field(repr=False)


def read_directory(path: Path, span: tuple[int, int] | None = None) -> dict[str, Entry]:
    """Return the entries of an archive by name.

    Parameters
    ----------
    path : Path
        The file.
    span : (begin, end), optional
        Bytes of the file that are the archive; None where all of them are.

    Raises
    ------
    BadArchiveError
        See there.
    OSError
        The file cannot be read.
    """
    with path.open("rb") as stream:
        first, n_archive = _extent(stream, span)
        n_entries, n_bytes, begin = _find_directory(stream, first, n_archive)
        if n_entries > MAX_ENTRIES or n_bytes > MAX_ENTRIES * (_ENTRY.size + 1024):
            raise BadArchiveError(f"its directory claims {n_entries} entries in {n_bytes} bytes")
        if begin + n_bytes > n_archive:
            raise BadArchiveError("its directory lies outside the file")
        stream.seek(first + begin)
        return _read_entries(stream.read(n_bytes), n_entries)


def find_ranges(
    path: Path, entries: Iterable[Entry], *, may_be_packed: bool = False, span: tuple[int, int] | None = None
) -> dict[str, tuple[int, int]]:
    """Return for each entry the first and past-the-last byte of its content in the file.

    Parameters
    ----------
    path, span
        As for :func:`read_directory`.
    entries : iterable of Entry
        What to find.
    may_be_packed : bool
        Whether entries may be packed by the usual method.

    Raises
    ------
    BadArchiveError
        An entry is packed (and may not be), encrypted, lies outside the file, or two share bytes.
    OSError
        The file cannot be read.
    """
    ranges: dict[str, tuple[int, int]] = {}
    in_order = sorted(entries, key=lambda entry: entry.header)
    prefetch = getattr(path, "prefetch", None)
    if prefetch is not None:
        first = 0 if span is None else span[0]
        prefetch([first + entry.header for entry in in_order])
    with path.open("rb") as stream:
        first, n_archive = _extent(stream, span)
        for entry in in_order:
            if not (entry.is_stored or (may_be_packed and entry.is_deflated)):
                raise BadArchiveError(f"entry {entry.name[:100]!r} is compressed or encrypted")
            if entry.header + _LOCAL.size > n_archive:
                raise BadArchiveError(f"there is no entry {entry.name[:100]!r} where the directory says")
            stream.seek(first + entry.header)
            begin, end = _range_of(entry, stream.read(_LOCAL.size), n_archive)
            ranges[entry.name] = (first + begin, first + end)
    _require_apart(ranges)
    return ranges


def _range_of(entry: Entry, header: bytes | bytearray, end: int) -> tuple[int, int]:
    """Return the first and past-the-last byte of an entry's content, which is to lie before ``end``."""
    if len(header) < _LOCAL.size or header[:4] != MAGIC:
        raise BadArchiveError(f"there is no entry {entry.name[:100]!r} where the directory says")
    *_, n_name, n_extra = _LOCAL.unpack(header)
    begin = entry.header + _LOCAL.size + n_name + n_extra
    if begin + entry.packed_size > end:
        raise BadArchiveError(f"entry {entry.name[:100]!r} ends outside the file")
    return begin, begin + entry.packed_size


@dataclass(frozen=True, slots=True)
class LazyRanges(Mapping[str, tuple[int, int]]):
    """What :func:`find_ranges` returns, for a file behind a URL: a local header is read when its entry is asked for.

    That entries share no byte is seen from the directory: each must end before the next one's header.

    Attributes
    ----------
    path : Path
        The archive.
    entries : mapping of str to Entry
        Entries, none of them packed, by the names they are asked for.
    ends : mapping of str to int
        Where the content of each must end.
    first : int
        Where the archive begins in the file; all else counts from there.
    """

    path: Path
    entries: Mapping[str, Entry] = field(repr=False)
    ends: Mapping[str, int] = field(repr=False)
    first: int = 0
    _found: dict[str, tuple[int, int]] = field(default_factory=dict, repr=False)

    def __getitem__(self, key: str) -> tuple[int, int]:
        if key not in self._found:
            entry, end = self.entries[key], self.ends[key]
            header = read_range(
                self.path, entry.name, self.first + entry.header, self.first + entry.header + _LOCAL.size
            )
            try:
                found = _range_of(entry, header, end)
            except BadArchiveError as error:
                raise CorruptCheckpointError(f"{self.path}: not a readable archive ({error})") from error
            self._found[key] = (self.first + found[0], self.first + found[1])
        return self._found[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def find_ranges_lazily(path: Path, entries: Mapping[str, Entry], *, span: tuple[int, int] | None = None) -> LazyRanges:
    """Return the ranges of entries by their keys here, without reading their headers.

    Raises
    ------
    BadArchiveError
        An entry is packed or encrypted, or two share bytes.
    OSError
        The file cannot be read.
    """
    with path.open("rb") as stream:
        first, n_archive = _extent(stream, span)
    in_order = sorted(entries, key=lambda key: entries[key].header)
    headers = [entries[key].header for key in in_order]
    ends = dict(zip(in_order, [*headers[1:], n_archive], strict=True)) if in_order else {}
    for key, end in ends.items():
        entry = entries[key]
        if not entry.is_stored:
            raise BadArchiveError(f"entry {entry.name[:100]!r} is compressed or encrypted")
        if entry.header + _LOCAL.size + entry.packed_size > end:
            raise BadArchiveError(f"entry {entry.name[:100]!r} shares bytes with the next, or ends outside the file")
    return LazyRanges(path, entries, ends, first)


def _require_apart(ranges: Mapping[str, tuple[int, int]]) -> None:
    last, reached = "", 0
    for name, (begin, end) in sorted(ranges.items(), key=lambda item: item[1]):
        if begin < reached and begin < end:
            raise BadArchiveError(f"entries {last[:100]!r} and {name[:100]!r} share bytes")
        if end > reached:
            last, reached = name, end


def _extent(stream: BinaryIO, span: tuple[int, int] | None) -> tuple[int, int]:
    """Return where the archive begins in the file, and its length."""
    n_file = stream.seek(0, os.SEEK_END)
    begin, end = span or (0, n_file)
    if end > n_file:
        raise BadArchiveError(f"it ends at byte {end} of a file of {n_file}")
    return begin, end - begin


def _find_directory(stream: BinaryIO, first: int, n_archive: int) -> tuple[int, int, int]:
    """Return how many entries the directory has, its length and where it begins in the archive."""
    n_tail = min(n_archive, _END.size + _MAX_COMMENT)
    stream.seek(first + n_archive - n_tail)
    tail = stream.read(n_tail)
    at = _end_record(tail)
    *_, n_entries, n_bytes, begin, _ = _END.unpack_from(tail, at)
    if at >= _LOCATOR.size and tail[at - _LOCATOR.size :][:4] == _LOCATOR_MAGIC:
        _, _, where, _ = _LOCATOR.unpack_from(tail, at - _LOCATOR.size)
        if where + _END64.size > n_archive:
            raise BadArchiveError("the end of its directory lies outside the file")
        stream.seek(first + where)
        magic, *_, n_entries, n_bytes, begin = _END64.unpack(stream.read(_END64.size))
        if magic != _END64_MAGIC:
            raise BadArchiveError("the end of its directory is not where it says")
    return n_entries, n_bytes, begin


def _end_record(tail: bytes) -> int:
    """Return where the last record begins that ends with the file; its comment may look like another."""
    at = tail.rfind(_END_MAGIC)
    while at >= 0:
        if at + _END.size <= len(tail) and at + _END.size + _END.unpack_from(tail, at)[-1] == len(tail):
            return at
        at = tail.rfind(_END_MAGIC, 0, at + len(_END_MAGIC) - 1)
    raise BadArchiveError("it has no directory at its end")


def _read_entries(data: bytes, n_entries: int) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    at = 0
    for _ in range(n_entries):
        if at + _ENTRY.size > len(data):
            raise BadArchiveError("its directory ends early")
        magic, *_, flags, method, _, _, checksum, n_packed, n_unpacked, n_name, n_extra, n_comment, _, _, _, header = (
            _ENTRY.unpack_from(data, at)
        )
        name_at = at + _ENTRY.size
        at = name_at + n_name + n_extra + n_comment
        if magic != _ENTRY_MAGIC or at > len(data):
            raise BadArchiveError("its directory is damaged")
        name = data[name_at : name_at + n_name].decode("utf-8", "replace")
        extra = data[name_at + n_name : name_at + n_name + n_extra]
        n_unpacked, n_packed, header = _large(extra, n_unpacked, n_packed, header)
        if name in entries:
            raise BadArchiveError(f"two entries are named {name[:100]!r}")
        is_plain = not flags & _ENCRYPTED
        entries[name] = Entry(
            name=name,
            size=n_unpacked,
            packed_size=n_packed,
            is_stored=is_plain and method == _STORED and n_packed == n_unpacked,
            # No packer of this kind makes more than this of a byte: what claims more lies.
            is_deflated=is_plain and method == _DEFLATED and n_unpacked <= _MOST_UNPACKED * n_packed,
            header=header,
            checksum=checksum,
        )
    return entries


def _large(extra: bytes, *values: int) -> tuple[int, ...]:
    """Return values of the directory, those that its 32 bits cannot hold from the field behind the name (4.5.3)."""
    if _LARGE not in values:
        return values
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            given = extra[at + 4 : at + 4 + length]
            n_missing = values.count(_LARGE)
            if len(given) < 8 * n_missing:
                break
            large = iter(struct.unpack_from(f"<{n_missing}Q", given))
            return tuple(next(large) if value == _LARGE else value for value in values)
        at += 4 + length
    raise BadArchiveError("its directory leaves a size out")
