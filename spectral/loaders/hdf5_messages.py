"""What the messages of an HDF5 object say: shape, type, place and packing of its values, links, attributes.

Section IV.A.2 of the format; the letters there are those of the functions here. Anything that refers to another file
(external links and values, virtual datasets) is refused as unsafe before it is looked at any further.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from spectral.loaders.hdf5_bytes import UNDEFINED, MalformedHdf5Error, Message, UnsafeHdf5Error, read_messages
from spectral.loaders.hdf5_heaps import FractalHeap, global_object, heap_name, local_heap, tree_leaves, tree_records

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spectral.loaders.hdf5_bytes import Hdf5Bytes

DATASPACE, LINK_INFO, DATATYPE, LINK, EXTERNAL_FILES, LAYOUT = 0x01, 0x02, 0x03, 0x06, 0x07, 0x08
FILTERS, ATTRIBUTE, GROUP, ATTRIBUTE_INFO = 0x0B, 0x0C, 0x11, 0x15

MAX_AXES = 32
"""The format's own limit."""

_FLOATS = {
    # size, then where exponent and fraction begin and how long they are, and the bias
    (2, 10, 5, 0, 10, 15): "float16",
    (4, 23, 8, 0, 23, 127): "float32",
    (8, 52, 11, 0, 52, 1023): "float64",
    (2, 7, 8, 0, 7, 127): "bfloat16",
    (1, 3, 4, 0, 3, 7): "float8_e4m3fn",
    (1, 2, 5, 0, 2, 15): "float8_e5m2",
}
_CLASSES = (
    "integers", "floats", "times", "text", "bits", "opaque bytes", "records", "references", "an enumeration",
    "lists of any length", "arrays", "complex",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Datatype:
    """The type of a dataset's values.

    Attributes
    ----------
    name : str
        As numpy or ml_dtypes call it; for what holds no numbers, what it does hold.
    size : int
        Bytes of a value.
    is_number : bool
        Whether the values can be read.
    is_big_endian : bool
        Their byte order in the file.
    is_text, is_variable : bool
        Whether they are texts, and whether these stand in a heap of their own.
    """

    name: str
    size: int
    is_number: bool = False
    is_big_endian: bool = False
    is_text: bool = False
    is_variable: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the values of a dataset are.

    Attributes
    ----------
    kind : str
        ``contiguous`` in one run, ``compact`` in the header itself, ``chunked`` in blocks.
    address, n_bytes : int
        Of the run; of the index of the chunks.
    data : bytes
        The values of a compact dataset.
    chunk : tuple of int
        Shape of a chunk.
    index : str
        How chunks are found: ``tree`` (before HDF5 1.10), ``single``, ``implicit``, ``array``, or another.
    skipped : int
        Of a single chunk: the filters that it did not go through.
    """

    kind: str
    address: int = UNDEFINED
    n_bytes: int = 0
    data: bytes = field(default=b"", repr=False)
    chunk: tuple[int, ...] = ()
    index: str = ""
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class Link:
    """One name in a group: of an object, or of another name."""

    name: str
    address: int = UNDEFINED
    target: str | None = None


@dataclass(frozen=True, slots=True)
class Filter:
    """One step of how chunks are packed, by the number that the HDF Group gave it."""

    number: int
    values: tuple[int, ...]


def shape_of(data: bytes) -> tuple[int, ...] | None:
    """Read a dataspace (IV.A.2.b); None is one without values."""
    version, n_axes, kind = _take(data, 0, 4)[0], _take(data, 0, 4)[1], _take(data, 0, 4)[3]
    if version not in (1, 2) or n_axes > MAX_AXES:
        raise MalformedHdf5Error("a shape is damaged")
    if version == 2 and kind == 2:
        return None
    shape = struct.unpack(f"<{n_axes}Q", _take(data, 8 if version == 1 else 4, 8 * n_axes))
    if any(length > 1 << 62 for length in shape):
        raise MalformedHdf5Error("a shape is larger than any array")
    return shape


def datatype_of(file: Hdf5Bytes, message: Message) -> Datatype:
    """Read a type (IV.A.2.d), one with a name of its own where it is defined."""
    if not message.is_shared:
        return _datatype(message.data)
    version, kind = _take(message.data, 0, 2)
    (address,) = struct.unpack("<Q", _take(message.data, 8 if version == 1 else 2, 8))
    if version not in (1, 2, 3) or (version == 3 and kind != 2):
        raise MalformedHdf5Error("a type is kept in a table of types, which is not read")
    for found in read_messages(file, address):
        if found.kind == DATATYPE and not found.is_shared:
            return _datatype(found.data)
    raise MalformedHdf5Error("a type is not where it should be defined")


def _datatype(data: bytes) -> Datatype:
    kind, first, second, _, size = struct.unpack("<BBBBI", _take(data, 0, 8))
    is_big = bool(first & 1)
    kind &= 15
    if kind == 1:
        fields = _take(data, 8, 12)
        offset, precision, *parts = struct.unpack("<HHBBBBI", fields)
        is_plain = offset == 0 and precision == 8 * size and second == precision - 1 and not first & 0x40
        name = _FLOATS.get((size, *parts)) if is_plain else None
        return Datatype(name or f"floats of {size} bytes", size, name is not None, is_big)
    if kind == 0:
        offset, precision = struct.unpack("<HH", _take(data, 8, 4))
        is_plain = offset == 0 and precision == 8 * size and size in (1, 2, 4, 8)
        name = f"{'int' if first & 8 else 'uint'}{8 * size}" if is_plain else f"integers of {precision} bits"
        return Datatype(name, size, is_plain, is_big)
    if kind == 8 and size == 1:
        return Datatype("bool", 1, is_number=True)
    is_text = kind == 3 or (kind == 9 and first & 15 == 1)
    name = _CLASSES[kind] if kind < len(_CLASSES) else "values of an unknown type"
    return Datatype("text" if is_text else name, size, is_text=is_text, is_variable=kind == 9)


def layout_of(data: bytes) -> Layout:
    """Read where the values are (IV.A.2.i)."""
    version = _take(data, 0, 2)[0]
    if version in (1, 2):
        n_axes, kind = _take(data, 1, 2)
        return _old_layout(data, n_axes, kind)
    kind = _take(data, 0, 2)[1]
    if version not in (3, 4, 5):
        raise MalformedHdf5Error(f"a layout has version {version}")
    if kind == 0:
        (n,) = struct.unpack("<H", _take(data, 2, 2))
        return Layout("compact", n_bytes=n, data=_take(data, 4, n))
    if kind == 1:
        return Layout("contiguous", *struct.unpack("<QQ", _take(data, 2, 16)))
    if kind == 3:
        raise UnsafeHdf5Error("a dataset is virtual: its values are in other files")
    if kind != 2:
        raise MalformedHdf5Error(f"a layout has class {kind}")
    if version == 3:
        n_axes = _take(data, 2, 1)[0]
        (address,) = struct.unpack("<Q", _take(data, 3, 8))
        chunk = struct.unpack(f"<{n_axes}I", _take(data, 11, 4 * n_axes))
        return Layout("chunked", address, chunk=chunk[:-1], index="tree")
    return _new_chunks(data)


def _old_layout(data: bytes, n_axes: int, kind: int) -> Layout:
    at = 8 if kind == 0 else 16
    lengths = struct.unpack(f"<{n_axes}I", _take(data, at, 4 * n_axes))
    if kind == 0:
        (n,) = struct.unpack("<I", _take(data, at + 4 * n_axes, 4))
        return Layout("compact", n_bytes=n, data=_take(data, at + 4 * n_axes + 4, n))
    (address,) = struct.unpack("<Q", _take(data, 8, 8))
    if kind == 1:
        return Layout("contiguous", address, math.prod(lengths))
    if kind != 2:
        raise MalformedHdf5Error(f"a layout has class {kind}")
    return Layout("chunked", address, chunk=lengths[:-1], index="tree")


def _new_chunks(data: bytes) -> Layout:
    flags, n_axes, width = _take(data, 2, 3)
    if not 1 <= width <= 8:
        raise MalformedHdf5Error("the shape of a chunk is damaged")
    at = 5 + n_axes * width
    chunk = tuple(int.from_bytes(_take(data, 5 + axis * width, width), "little") for axis in range(n_axes))
    kind = _take(data, at, 1)[0]
    index = {1: "single", 2: "implicit", 3: "array"}.get(kind, "newer")
    n_extra = {1: 12 if flags & 2 else 0, 2: 0, 3: 1}.get(kind, 0)
    if index == "newer":
        return Layout("chunked", chunk=chunk[:-1], index=index)
    n_bytes = skipped = 0
    if kind == 1 and flags & 2:
        n_bytes, skipped = struct.unpack("<QI", _take(data, at + 1, 12))
    (address,) = struct.unpack("<Q", _take(data, at + 1 + n_extra, 8))
    return Layout("chunked", address, n_bytes=n_bytes, chunk=chunk[:-1], index=index, skipped=skipped)


def filters_of(data: bytes) -> tuple[Filter, ...]:
    """Read how chunks are packed (IV.A.2.l), in the order in which it was done."""
    version, n = _take(data, 0, 2)
    at = 8 if version == 1 else 2
    if version not in (1, 2) or n > 32:
        raise MalformedHdf5Error("the filters of a dataset are damaged")
    found = []
    for _ in range(n):
        (number,) = struct.unpack("<H", _take(data, at, 2))
        has_name = version == 1 or number >= 256
        n_name = struct.unpack("<H", _take(data, at + 2, 2))[0] if has_name else 0
        at += 4 if has_name else 2
        _, n_values = struct.unpack("<HH", _take(data, at, 4))
        at += 4 + ((n_name + 7) // 8 * 8 if version == 1 else n_name)
        found.append(Filter(number, struct.unpack(f"<{n_values}I", _take(data, at, 4 * n_values))))
        at += 4 * n_values + (4 if version == 1 and n_values % 2 else 0)
    return tuple(found)


def links_of(file: Hdf5Bytes, messages: list[Message]) -> Iterator[Link]:
    """Yield what a group holds, however it keeps its links."""
    for message in messages:
        if message.kind == LINK:
            yield _link(message.data)
        elif message.kind == GROUP:
            yield from _old_links(file, *struct.unpack("<QQ", _take(message.data, 0, 16)))
        elif message.kind == LINK_INFO:
            at = 2 + (8 if _take(message.data, 0, 2)[1] & 1 else 0)
            heap, names = struct.unpack("<QQ", _take(message.data, at, 16))
            if heap != UNDEFINED:
                objects = FractalHeap(file, heap)
                for record in tree_records(file, names, 5):
                    yield _link(objects.get(_take(record, 4, 7)))


def _old_links(file: Hdf5Bytes, tree: int, heap: int) -> Iterator[Link]:
    """Read the table of a group of the older kind (III.B, III.C)."""
    names = local_heap(file, heap)
    for _, node in tree_leaves(file, tree, 0, 8):
        magic, _, n = struct.unpack("<4sHH", file.read(node, 8))
        if magic != b"SNOD":
            raise MalformedHdf5Error(f"there is no table of a group at byte {node}")
        entries = file.read(node + 8, 40 * n)
        for at in range(0, 40 * n, 40):
            file.step()
            name, address, kind, _ = struct.unpack_from("<QQII", entries, at)
            target = None
            if kind == 2:
                (where,) = struct.unpack_from("<I", entries, at + 24)
                target = _text(heap_name(names, where))
            yield Link(_text(heap_name(names, name)), address, target)


def _link(data: bytes) -> Link:
    """Read one link (IV.A.2.g)."""
    version, flags = _take(data, 0, 2)
    if version != 1:
        raise MalformedHdf5Error("a link is damaged")
    at = 2
    kind = 0
    if flags & 8:
        kind, at = _take(data, at, 1)[0], at + 1
    at += (8 if flags & 4 else 0) + (1 if flags & 16 else 0)
    width = 1 << (flags & 3)
    n = int.from_bytes(_take(data, at, width), "little")
    name = _text(_take(data, at + width, n))
    at += width + n
    if kind == 0:
        return Link(name, struct.unpack("<Q", _take(data, at, 8))[0])
    if kind != 1:
        raise UnsafeHdf5Error(f"{name[:100]!r} is a link to another file")
    (n,) = struct.unpack("<H", _take(data, at, 2))
    return Link(name, target=_text(_take(data, at + 2, n)))


def attributes_of(file: Hdf5Bytes, messages: list[Message], wanted: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the texts in those attributes whose names begin with one of ``wanted``."""
    found: dict[str, list[str]] = {}
    for data in _attribute_messages(file, messages):
        name, texts = _attribute(file, data, wanted)
        if texts is not None:
            found[name] = texts
    return found


def _attribute_messages(file: Hdf5Bytes, messages: list[Message]) -> Iterator[bytes]:
    for message in messages:
        if message.kind == ATTRIBUTE and not message.is_shared:
            yield message.data
        elif message.kind == ATTRIBUTE_INFO:
            at = 2 + (2 if _take(message.data, 0, 2)[1] & 1 else 0)
            heap, names = struct.unpack("<QQ", _take(message.data, at, 16))
            if heap != UNDEFINED:
                objects = FractalHeap(file, heap)
                for record in tree_records(file, names, 8):
                    yield objects.get(_take(record, 0, 8))


def _attribute(file: Hdf5Bytes, data: bytes, wanted: tuple[str, ...]) -> tuple[str, list[str] | None]:
    """Read one attribute (IV.A.2.m) if it is wanted and holds texts."""
    version, flags, n_name, n_type, n_space = struct.unpack("<BBHHH", _take(data, 0, 8))
    if version not in (1, 2, 3):
        raise MalformedHdf5Error("an attribute is damaged")
    at = 9 if version == 3 else 8
    name = _text(_take(data, at, n_name).partition(b"\0")[0])
    if not name.startswith(wanted):
        return name, None
    pad = 8 if version == 1 else 1
    at += -(-n_name // pad) * pad
    kind = datatype_of(file, Message(DATATYPE, version > 1 and bool(flags & 1), _take(data, at, n_type)))
    at += -(-n_type // pad) * pad
    shape = shape_of(_take(data, at, n_space))
    at += -(-n_space // pad) * pad
    if not kind.is_text or shape is None:
        return name, None
    n = math.prod(shape)
    if kind.size < 1 or n * kind.size > len(data) - at:
        raise MalformedHdf5Error(f"the attribute {name[:100]!r} ends outside its place")
    values = [data[at + index * kind.size : at + (index + 1) * kind.size] for index in range(n)]
    file.step(n)
    if kind.is_variable:
        values = [_variable_text(file, value) for value in values]
    return name, [_text(value.partition(b"\0")[0]) for value in values]


def _variable_text(file: Hdf5Bytes, value: bytes) -> bytes:
    n, address, index = struct.unpack("<IQI", _take(value, 0, 16))
    return global_object(file, address, index)[:n] if n and index else b""


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedHdf5Error(f"the name {data[:100]!r} is not valid Unicode") from error


def _take(data: bytes, at: int, n: int) -> bytes:
    part = data[at : at + n]
    if len(part) != n:
        raise MalformedHdf5Error("a message is too short")
    return part
