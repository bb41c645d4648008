"""The two formats inside the index of a TensorFlow checkpoint: a table of sorted keys, and protocol buffers.

The table is LevelDB's (https://github.com/google/leveldb/blob/main/doc/table_format.md): blocks of entries, each of
which has the beginning of its key in common with the one before it, and at the end of the file where they are. Its
checksums are not compared: what is read is checked against the files by its sizes.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_ENTRIES = 300_000
MAX_KEY_BYTES = 4096
MAX_ALL_KEYS = 1 << 26

_FOOTER_BYTES = 48
_MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
_TRAILER_BYTES = 5
_SNAPPY = 1
_MOST_UNPACKED = 64
"""Snappy makes no more than this of a byte: a copy of 64 bytes takes two, and three with a far offset."""


class MalformedTableError(ValueError):
    """The bytes contradict the format."""


def read_table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the entries of a table, in the order of their keys."""
    if len(data) < _FOOTER_BYTES or data[-8:] != _MAGIC:
        raise MalformedTableError("it does not end as such an index does")
    footer = data[-_FOOTER_BYTES:]
    _, at = _handle(footer, 0)
    index, _ = _handle(footer, at)
    n_entries = n_bytes = 0
    last: bytes | None = None
    for _, value in _entries(_block(data, index)):
        handle, _ = _handle(value, 0)
        for key, content in _entries(_block(data, handle)):
            n_entries += 1
            n_bytes += len(key)
            if n_entries > MAX_ENTRIES or n_bytes > MAX_ALL_KEYS:
                raise MalformedTableError(f"it has more than {MAX_ENTRIES} entries, or keys of {MAX_ALL_KEYS} bytes")
            if last is not None and key <= last:
                raise MalformedTableError("its keys are not in order")
            last = key
            yield key, content


def varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number of up to ten bytes, and where the next thing begins."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise MalformedTableError("a number does not end")


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the fields of a protocol buffer: their number and value, which is a number or bytes."""
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, at = varint(data, at)
            yield number, value
            continue
        length = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            length, at = varint(data, at)
        if length is None or at + length > len(data):
            raise MalformedTableError("a message is damaged")
        part = data[at : at + length]
        at += length
        yield number, part if kind == 2 else int.from_bytes(part, "little")


def unpack_snappy(data: bytes, most: int) -> bytes:
    """Undo the packing of Snappy (https://github.com/google/snappy/blob/main/format_description.txt)."""
    length, at = varint(data, 0)
    if length > most:
        raise MalformedTableError(f"a block claims {length} bytes")
    out = bytearray()
    while at < len(data) and len(out) <= length:
        tag = data[at]
        at += 1
        if tag & 3 == 0:
            n, at = _literal_length(data, at, tag >> 2)
            out += data[at : at + n]
            at += n
            continue
        if tag & 3 == 1:
            n, width, high = 4 + (tag >> 2 & 7), 1, tag >> 5 << 8
        else:
            n, width, high = (tag >> 2) + 1, 2 if tag & 3 == 2 else 4, 0
        offset = high + int.from_bytes(data[at : at + width], "little")
        at += width
        if not 0 < offset <= len(out):
            raise MalformedTableError("a block copies from before its beginning")
        pattern = bytes(out[-offset:])
        out += (pattern * (n // offset + 1))[:n]
    if len(out) != length:
        raise MalformedTableError("a block does not unpack to its size")
    return bytes(out)


def _literal_length(data: bytes, at: int, code: int) -> tuple[int, int]:
    if code < 60:
        return code + 1, at
    width = code - 59
    return int.from_bytes(data[at : at + width], "little") + 1, at + width


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    offset, at = varint(data, at)
    size, at = varint(data, at)
    return (offset, size), at


def _block(data: bytes, handle: tuple[int, int]) -> bytes:
    offset, size = handle
    if offset + size + _TRAILER_BYTES > len(data):
        raise MalformedTableError("a block ends outside the file")
    content, kind = data[offset : offset + size], data[offset + size]
    if kind == _SNAPPY:
        content = unpack_snappy(content, _MOST_UNPACKED * size)
    elif kind:
        raise MalformedTableError(f"a block is packed in a way that is not known ({kind})")
    return content


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    if len(block) < 4:
        raise MalformedTableError("a block is too short")
    (n_restarts,) = struct.unpack("<I", block[-4:])
    end = len(block) - 4 - 4 * n_restarts
    if end < 0:
        raise MalformedTableError("a block is damaged")
    key, at = b"", 0
    while at < end:
        n_shared, at = varint(block, at)
        n_new, at = varint(block, at)
        n_value, at = varint(block, at)
        if n_shared > len(key) or n_shared + n_new > MAX_KEY_BYTES or at + n_new + n_value > end:
            raise MalformedTableError("an entry is damaged")
        key = key[:n_shared] + block[at : at + n_new]
        at += n_new
        yield key, block[at : at + n_value]
        at += n_value
