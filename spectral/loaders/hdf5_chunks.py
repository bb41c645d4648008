"""Values of HDF5 datasets that are kept in chunks, packed or not: where they are, and how they are unpacked.

The four filters of every build of h5py are read: deflate (1), shuffle (2), Fletcher's checksum (3) and LZF (32000).
None is looked up anywhere, and none makes more of a chunk than the chunk's shape allows.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spectral.loaders.hdf5_bytes import UNDEFINED, MalformedHdf5Error
from spectral.loaders.hdf5_heaps import tree_leaves

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from spectral.loaders.hdf5_bytes import Hdf5Bytes
    from spectral.loaders.hdf5_messages import Filter, Layout

DEFLATE, SHUFFLE, FLETCHER, LZF = 1, 2, 3, 32000
KNOWN_FILTERS = frozenset({DEFLATE, SHUFFLE, FLETCHER, LZF})

MOST_UNPACKED = 1032
"""Deflate makes no more than this of a byte; the others make less."""

MAX_CHUNKS = 1_000_000

_MAX_SMALL_CHUNK = 1 << 24
_FLETCHER_BYTES = 4
_FLETCHER_BASE = 0xFFFF


@dataclass(frozen=True, slots=True)
class Chunk:
    """Where one chunk is, and which of the filters it went through (a bit is set for each that it did not)."""

    corner: tuple[int, ...]
    address: int
    n_bytes: int
    skipped: int


def why_not_chunks(shape: tuple[int, ...], itemsize: int, layout: Layout, filters: tuple[Filter, ...]) -> str | None:
    """Return why values in chunks cannot be read, by the headers alone."""
    unknown = [step.number for step in filters if step.number not in KNOWN_FILTERS]
    if unknown:
        return f"packed by a filter that is not read (number {unknown[0]})"
    if layout.index == "newer":
        return "its chunks are indexed in a way of HDF5 1.10 and later that is not read: rewrite the file with h5repack"
    if len(layout.chunk) != len(shape) or min(layout.chunk, default=0) < 1:
        return "its chunks do not have the axes of its shape"
    n_chunk, n_all = math.prod(layout.chunk) * itemsize, math.prod(shape) * itemsize
    if n_chunk > max(n_all, _MAX_SMALL_CHUNK):
        return f"its chunks claim {min(n_chunk, UNDEFINED)} bytes, all of it has {n_all}"
    if _n_chunks(shape, layout.chunk) > MAX_CHUNKS:
        return f"it has more than {MAX_CHUNKS} chunks"
    return None


def read_chunks(
    file: Hdf5Bytes, shape: tuple[int, ...], dtype: str, layout: Layout, filters: tuple[Filter, ...]
) -> NDArray[Any]:
    """Return all values of a dataset, C-ordered.

    Raises
    ------
    MalformedHdf5Error
        A chunk is missing, outside the file, or does not unpack to its size.
    """
    import numpy as np

    itemsize = np.dtype(dtype).itemsize
    n_chunk = math.prod(layout.chunk) * itemsize
    chunks = {chunk.corner: chunk for chunk in _find_chunks(file, shape, n_chunk, layout, bool(filters))}
    n_expected = _n_chunks(shape, layout.chunk)
    if len(chunks) != n_expected:
        raise MalformedHdf5Error(f"{len(chunks)} of its {n_expected} chunks were written")
    n_stored = sum(chunk.n_bytes for chunk in chunks.values())
    if math.prod(shape) * itemsize > MOST_UNPACKED * n_stored:
        raise MalformedHdf5Error(f"its chunks have {n_stored} bytes, too few for a shape of {list(shape)}")
    values = np.empty(shape, dtype=dtype)
    for chunk in chunks.values():
        begin, end = file.place(chunk.address, chunk.n_bytes)
        packed = file.read(chunk.address, end - begin)
        block = np.frombuffer(unpack_chunk(packed, filters, chunk.skipped, n_chunk, itemsize), dtype=dtype)
        inside = tuple(
            min(step, length - at) for at, step, length in zip(chunk.corner, layout.chunk, shape, strict=True)
        )
        place = tuple(slice(at, at + n) for at, n in zip(chunk.corner, inside, strict=True))
        values[place] = block.reshape(layout.chunk)[tuple(slice(n) for n in inside)]
    return values


def unpack_chunk(packed: bytes, filters: tuple[Filter, ...], skipped: int, n_chunk: int, itemsize: int) -> bytes:
    """Undo the filters of a chunk, the last first; the result has exactly the chunk's size."""
    data = packed
    for position in reversed(range(len(filters))):
        step = filters[position]
        if skipped >> position & 1:
            continue
        if step.number == FLETCHER:
            data = _checked(data)
        elif step.number == DEFLATE:
            data = _inflate(data, n_chunk + _FLETCHER_BYTES)
        elif step.number == LZF:
            data = unpack_lzf(data, n_chunk + _FLETCHER_BYTES)
        else:
            data = _unshuffle(data, step.values[0] if step.values else itemsize)
    if len(data) != n_chunk:
        raise MalformedHdf5Error(f"a chunk has {len(data)} bytes where {n_chunk} belong")
    return data


def _inflate(data: bytes, most: int) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, most)
    except zlib.error as error:
        raise MalformedHdf5Error(f"a chunk cannot be unpacked: {error}") from error


def _unshuffle(data: bytes, size: int) -> bytes:
    """Put the bytes of each value together again."""
    import numpy as np

    if size < 2:
        return data
    n = len(data) // size
    whole = np.frombuffer(data, dtype=np.uint8, count=n * size).reshape(size, n)
    return np.ascontiguousarray(whole.T).tobytes() + data[n * size :]


def _checked(data: bytes) -> bytes:
    """Take Fletcher's checksum off the end of a chunk, and compare it: words of two bytes, big-endian."""
    import numpy as np

    if len(data) < _FLETCHER_BYTES:
        raise MalformedHdf5Error("a chunk ends before its checksum")
    content = data[:-_FLETCHER_BYTES]
    words = np.frombuffer(content + b"\0" * (len(content) % 2), dtype=">u2").astype(np.uint64)
    first = second = 0
    for begin in range(0, len(words), 1 << 16):
        part = words[begin : begin + (1 << 16)]
        weights = np.arange(len(part), 0, -1, dtype=np.uint64)
        second = (second + len(part) * first + int((part * weights).sum())) % _FLETCHER_BASE
        first = (first + int(part.sum())) % _FLETCHER_BASE
    (stored,) = struct.unpack("<I", data[-_FLETCHER_BYTES:])
    if (stored & 0xFFFF) % _FLETCHER_BASE != first or (stored >> 16) % _FLETCHER_BASE != second:
        raise MalformedHdf5Error("a chunk is damaged: its checksum is another")
    return content


def unpack_lzf(data: bytes, most: int) -> bytes:
    """Undo the packing of LibLZF: runs of new bytes, and copies of what came before."""
    out = bytearray()
    at, n = 0, len(data)
    while at < n:
        control = data[at]
        at += 1
        if control < 32:
            out += data[at : at + control + 1]
            at += control + 1
        else:
            length = control >> 5
            if length == 7 and at < n:
                length += data[at]
                at += 1
            begin = len(out) - ((control & 31) << 8) - 1 - (data[at] if at < n else 0)
            at += 1
            length += 2
            if begin < 0:
                raise MalformedHdf5Error("a chunk cannot be unpacked: it copies from before its beginning")
            if len(out) - begin >= length:
                out += out[begin : begin + length]
            else:
                pattern = bytes(out[begin:])
                out += (pattern * (length // len(pattern) + 1))[:length]
        if at > n or len(out) > most:
            raise MalformedHdf5Error("a chunk cannot be unpacked: it ends early or is too long")
    return bytes(out)


def _n_chunks(shape: tuple[int, ...], chunk: tuple[int, ...]) -> int:
    return math.prod(-(-length // step) for length, step in zip(shape, chunk, strict=True))


def _find_chunks(
    file: Hdf5Bytes, shape: tuple[int, ...], n_chunk: int, layout: Layout, is_packed: bool
) -> Iterator[Chunk]:
    if layout.address == UNDEFINED:
        return
    if layout.index == "tree":
        yield from _tree_chunks(file, shape, layout)
        return
    corners = _corners(shape, layout.chunk)
    if layout.index == "single":
        yield Chunk(next(corners), layout.address, layout.n_bytes or n_chunk, layout.skipped)
    elif layout.index == "implicit":
        for index, corner in enumerate(corners):
            yield Chunk(corner, layout.address + index * n_chunk, n_chunk, 0)
    else:
        for corner, (address, n_bytes, skipped) in zip(
            corners, _array(file, layout.address, n_chunk, is_packed), strict=False
        ):
            if address != UNDEFINED:
                yield Chunk(corner, address, n_bytes, skipped)


def _corners(shape: tuple[int, ...], chunk: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield the first positions of all chunks, the last axis fastest."""
    import itertools

    yield from itertools.product(*(range(0, length, step) for length, step in zip(shape, chunk, strict=True)))


def _tree_chunks(file: Hdf5Bytes, shape: tuple[int, ...], layout: Layout) -> Iterator[Chunk]:
    n_axes = len(shape)
    for key, address in tree_leaves(file, layout.address, 1, 8 + 8 * (n_axes + 1)):
        n_bytes, skipped, *corner = struct.unpack(f"<II{n_axes}Q", key[: 8 + 8 * n_axes])
        if any(at % step for at, step in zip(corner, layout.chunk, strict=True)):
            raise MalformedHdf5Error("a chunk lies between others")
        # A dataset that was made smaller keeps chunks outside its shape.
        if all(at < length for at, length in zip(corner, shape, strict=True)):
            yield Chunk(tuple(corner), address, n_bytes, skipped)


def _array(file: Hdf5Bytes, address: int, n_chunk: int, is_packed: bool) -> Iterator[tuple[int, int, int]]:
    """Yield (address, bytes, skipped filters) of each chunk of a fixed array (VII.C)."""
    magic, _, _, n_entry, n_bits, n = struct.unpack("<4sBBBBQ", file.read(address, 16))
    (block,) = struct.unpack("<Q", file.read(address + 16, 8))
    if magic != b"FAHD" or n > MAX_CHUNKS or not 8 <= n_entry <= 20 or n_bits > 32:
        raise MalformedHdf5Error(f"there is no index of chunks at byte {address}")
    if block == UNDEFINED:
        return
    if file.read(block, 4) != b"FADB":
        raise MalformedHdf5Error(f"there is no index of chunks at byte {block}")
    at, n_page, gap = block + 14, n, 0
    if n > 1 << n_bits:
        n_page, gap = 1 << n_bits, 4
        at += (-(-n // n_page) + 7) // 8 + 4
    for begin in range(0, n, max(1, n_page)):
        n_here = min(n_page, n - begin)
        data = file.read(at, n_here * n_entry)
        at += n_here * n_entry + gap
        for index in range(n_here):
            file.step()
            entry = data[index * n_entry : (index + 1) * n_entry]
            where = int.from_bytes(entry[:8], "little")
            if is_packed:
                yield where, int.from_bytes(entry[8:-4], "little"), int.from_bytes(entry[-4:], "little")
            else:
                yield where, n_chunk, 0
