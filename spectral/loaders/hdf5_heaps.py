"""The heaps and trees in which HDF5 files keep names, links and attributes.

Sections of the format: III.A.1 and III.A.2 (B-trees of both versions), III.D (local heap), III.E (global heap),
III.G (fractal heap).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from spectral.loaders.hdf5_bytes import UNDEFINED, MalformedHdf5Error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spectral.loaders.hdf5_bytes import Hdf5Bytes

_MAX_DEPTH = 64
_NODE_HEADER_BYTES = 24
_NODE_OVERHEAD_BYTES = 10


def tree_leaves(file: Hdf5Bytes, root: int, kind: int, key_bytes: int) -> Iterator[tuple[bytes, int]]:
    """Yield (key, address) of every leaf entry of a B-tree of version 1 (III.A.1)."""
    pending: list[tuple[int, int | None]] = [(root, None)]
    seen: set[int] = set()
    while pending:
        address, expected = pending.pop()
        if address in seen:
            raise MalformedHdf5Error(f"a tree leads back to byte {address}")
        seen.add(address)
        file.step()
        magic, node_kind, level, n = struct.unpack("<4sBBH", file.read(address, 8))
        if magic != b"TREE" or node_kind != kind or (expected is not None and level != expected):
            raise MalformedHdf5Error(f"there is no node of a tree at byte {address}")
        step = key_bytes + 8
        data = file.read(address + _NODE_HEADER_BYTES, n * step + key_bytes)
        children = []
        for at in range(0, n * step, step):
            file.step()
            (child,) = struct.unpack_from("<Q", data, at + key_bytes)
            if level:
                children.append((child, level - 1))
            else:
                yield data[at : at + key_bytes], child
        pending.extend(reversed(children))


def tree_records(file: Hdf5Bytes, header: int, kind: int) -> Iterator[bytes]:
    """Yield the records of a B-tree of version 2 (III.A.2), in no order of meaning."""
    magic, _, node_kind, n_node, n_record, depth = struct.unpack("<4sBBIHH", file.read(header, 14))
    root, n_root = struct.unpack("<QH", file.read(header + 16, 10))
    if magic != b"BTHD" or node_kind != kind or n_record < 1 or n_node < 32 or depth > _MAX_DEPTH:
        raise MalformedHdf5Error(f"there is no tree of kind {kind} at byte {header}")
    pointer_bytes = _pointer_bytes(n_node, n_record, depth)
    pending = [(root, n_root, depth)] if n_root else []
    seen: set[int] = set()
    while pending:
        address, n, level = pending.pop()
        if address in seen:
            raise MalformedHdf5Error(f"a tree leads back to byte {address}")
        seen.add(address)
        file.step(1 + n)
        n_pointer, n_count = pointer_bytes[level]
        data = file.read(address, 6 + n * n_record + ((n + 1) * n_pointer if level else 0))
        if data[:4] != (b"BTIN" if level else b"BTLF") or data[5] != kind:
            raise MalformedHdf5Error(f"there is no node of a tree at byte {address}")
        for index in range(n):
            yield data[6 + index * n_record : 6 + (index + 1) * n_record]
        for index in range(n + 1 if level else 0):
            at = 6 + n * n_record + index * n_pointer
            (child,) = struct.unpack_from("<Q", data, at)
            pending.append((child, int.from_bytes(data[at + 8 : at + 8 + n_count], "little"), level - 1))


def _pointer_bytes(n_node: int, n_record: int, depth: int) -> list[tuple[int, int]]:
    """Return for each level the size of a pointer to a child, and of the child's number of records in it."""
    most = (n_node - _NODE_OVERHEAD_BYTES) // n_record
    n_count = _limit_bytes(most)
    below, n_total = most, 0
    sizes = [(0, n_count)]
    for _ in range(depth):
        n_pointer = 8 + n_count + n_total
        sizes.append((n_pointer, n_count))
        most = max(0, (n_node - _NODE_OVERHEAD_BYTES - n_pointer) // (n_record + n_pointer))
        below = (most + 1) * below + most
        n_total = _limit_bytes(below)
    return sizes


def _limit_bytes(most: int) -> int:
    """Return how many bytes hold numbers up to this one."""
    return max(1, (most.bit_length() + 7) // 8)


def local_heap(file: Hdf5Bytes, address: int) -> bytes:
    """Return the names of a group of the older kind (III.D)."""
    magic, _, n, _, where = struct.unpack("<4s4sQQQ", file.read(address, 32))
    if magic != b"HEAP":
        raise MalformedHdf5Error(f"there is no heap of names at byte {address}")
    return file.read(where, n)


def heap_name(heap: bytes, offset: int) -> bytes:
    """Return the name that begins at an offset and ends with a zero."""
    end = heap.find(b"\0", offset)
    if offset >= len(heap) or end < 0:
        raise MalformedHdf5Error("a name lies outside the heap of its group")
    return heap[offset:end]


def global_object(file: Hdf5Bytes, address: int, index: int) -> bytes:
    """Return an object of a global heap, where texts of any length are kept (III.E)."""
    if address not in file.heaps:
        file.heaps[address] = _objects_of(file, address)
    place = file.heaps[address].get(index)
    if place is None:
        raise MalformedHdf5Error(f"the heap of texts at byte {address} has no object {index}")
    return file.read(*place)


def _objects_of(file: Hdf5Bytes, address: int) -> dict[int, tuple[int, int]]:
    """Return where each object of a global heap begins, and its length."""
    magic, _, end = struct.unpack("<4s4sQ", file.read(address, 16))
    if magic != b"GCOL":
        raise MalformedHdf5Error(f"there is no heap of texts at byte {address}")
    found: dict[int, tuple[int, int]] = {}
    at = 16
    while at + 16 <= end:
        file.step()
        number, _, _, length = struct.unpack("<HHIQ", file.read(address + at, 16))
        if number == 0 or at + 16 + length > end:
            break
        found[number] = (address + at + 16, length)
        at += 16 + (length + 7) // 8 * 8
    return found


class FractalHeap:
    """The heap of links and attributes of objects of the newer kind (III.G); its blocks double in size by rows."""

    def __init__(self, file: Hdf5Bytes, address: int) -> None:
        head = file.read(address, 142)
        if head[:4] != b"FRHP":
            raise MalformedHdf5Error(f"there is no heap at byte {address}")
        self._file = file
        _, n_filters, _, most = struct.unpack_from("<HHBI", head, 5)
        if n_filters:
            raise MalformedHdf5Error("a heap of links or attributes is packed, which is not read")
        _, self._huge = struct.unpack_from("<QQ", head, 14)
        self._width, self._first, self._largest, n_bits, _, self._root, self._n_rows = struct.unpack_from(
            "<HQQHHQH", head, 110
        )
        powers = (self._width, self._first, self._largest)
        if any(n < 1 or n & (n - 1) for n in powers) or n_bits > 64 or self._largest < self._first:
            raise MalformedHdf5Error(f"the heap at byte {address} has sizes that no heap has")
        self._n_offset = (n_bits + 7) // 8
        self._n_length = min((self._largest.bit_length() + 6) // 8, _limit_bytes(most))
        self._n_direct_rows = self._largest.bit_length() - self._first.bit_length() + 2

    def get(self, key: bytes) -> bytes:
        """Return the object that a heap ID stands for."""
        self._file.step()
        kind = key[0] >> 4 & 3
        if kind == 0:
            offset = int.from_bytes(key[1 : 1 + self._n_offset], "little")
            at = 1 + self._n_offset
            return self._managed(offset, int.from_bytes(key[at : at + self._n_length], "little"))
        if kind == 1:
            return self._large(int.from_bytes(key[1:], "little"))
        n = (key[0] & 15) + 1
        return key[1 : 1 + n]

    def _large(self, number: int) -> bytes:
        if self._huge != UNDEFINED:
            for record in tree_records(self._file, self._huge, 1):
                where, length, name = struct.unpack("<QQQ", record[:24].ljust(24, b"\0"))
                if name == number:
                    return self._file.read(where, length)
        raise MalformedHdf5Error("a heap does not hold what its index names")

    def _managed(self, offset: int, length: int) -> bytes:
        where, n_rows = self._root, self._n_rows
        size = self._first
        for _ in range(_MAX_DEPTH):
            if n_rows == 0:
                if offset + length > size or self._file.read(where, 4) != b"FHDB":
                    break
                return self._file.read(where + offset, length)
            if self._file.read(where, 4) != b"FHIB":
                break
            row = 0
            size = self._first
            while offset >= size * self._width:
                offset -= size * self._width
                size, row = (size * 2 if row else size), row + 1
                if row >= n_rows:
                    raise MalformedHdf5Error("an object lies outside its heap")
            column, offset = divmod(offset, size)
            index = row * self._width + column
            (where,) = struct.unpack("<Q", self._file.read(where + 13 + self._n_offset + 8 * index, 8))
            n_rows = 0
            if row >= self._n_direct_rows:
                n_rows = size.bit_length() - self._first.bit_length() - self._width.bit_length() + 2
        raise MalformedHdf5Error("there is no block of a heap where there should be one")
