"""All datasets of an HDF5 file: their names, shapes, types and places, from the headers alone."""

from __future__ import annotations

import functools
import io
import math
import struct
import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, BinaryIO

from spectral.loaders.hdf5_bytes import (
    UNDEFINED,
    Hdf5Bytes,
    MalformedHdf5Error,
    Message,
    UnsafeHdf5Error,
    find_root,
    read_messages,
)
from spectral.loaders.hdf5_chunks import MOST_UNPACKED, why_not_chunks
from spectral.loaders.hdf5_messages import (
    DATASPACE,
    DATATYPE,
    EXTERNAL_FILES,
    FILTERS,
    GROUP,
    LAYOUT,
    LINK,
    LINK_INFO,
    Datatype,
    Filter,
    Layout,
    attributes_of,
    datatype_of,
    filters_of,
    layout_of,
    links_of,
    shape_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAX_OBJECTS = 300_000
"""Groups and datasets of one file."""

MAX_PATH = 4096
MAX_DEPTH = 128

_WANTED = ("name", "dtype", "model_config", "keras_version", "layer_names", "weight_names")
"""Attributes that are read, by how their names begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hdf5Place:
    """Where an HDF5 file is: a file of its own, or an entry of an archive.

    Attributes
    ----------
    path : Path
        The file.
    begin, end : int
        Its bytes there.
    unpacked : int
        Bytes when unpacked, for an entry that is packed; otherwise -1.
    checksum : int
        CRC-32 of what is packed.
    """

    path: Path
    begin: int = 0
    end: int
    unpacked: int = -1
    checksum: int = 0

    @property
    def is_packed(self) -> bool:
        """Whether it must be unpacked before anything in it can be read."""
        return self.unpacked >= 0

    def open(self) -> tuple[BinaryIO, Hdf5Bytes]:
        """Return the open file, to be closed, and the HDF5 file in it."""
        if self.is_packed:
            data = io.BytesIO(self.content())
            return data, Hdf5Bytes(data, 0, self.unpacked)
        stream = self.path.open("rb")
        return stream, Hdf5Bytes(stream, self.begin, self.end)

    def content(self) -> bytes:
        """Return the unpacked entry, which the last one to ask left in memory."""
        return _unpacked(self, self.path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _unpacked(place: Hdf5Place, _: int) -> bytes:
    with place.path.open("rb") as stream:
        stream.seek(place.begin)
        packed = stream.read(place.end - place.begin)
    try:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, place.unpacked)
    except zlib.error as error:
        raise MalformedHdf5Error(f"it cannot be unpacked: {error}") from error
    if len(data) != place.unpacked or zlib.crc32(data) != place.checksum:
        raise MalformedHdf5Error("what is packed in the archive is damaged")
    return data


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDataset:
    """One dataset as its header describes it.

    Attributes
    ----------
    path : str
        Its name in the file, without the first slash.
    shape : tuple of int
        Its shape.
    datatype : Datatype
        Type of the values.
    dtype : str
        The type's name; that of Keras for what HDF5 has no type for (bfloat16).
    place : Hdf5Place
        The file.
    base : int
        What addresses in it count from.
    begin : int
        Byte of the values, in the file that is opened, for those that are in one run; otherwise -1.
    layout : Layout
        How the values are kept.
    filters : tuple of Filter
        How chunks of them are packed.
    refusal : str, optional
        Why they cannot be read.
    """

    path: str
    shape: tuple[int, ...]
    datatype: Datatype
    dtype: str
    place: Hdf5Place = field(repr=False)
    base: int = field(default=0, repr=False)
    begin: int = -1
    layout: Layout = field(repr=False)
    filters: tuple[Filter, ...] = field(default=(), repr=False)
    refusal: str | None = None

    @property
    def n_bytes(self) -> int:
        """Bytes of all values."""
        return math.prod(self.shape) * self.datatype.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Hdf5Scan:
    """What an HDF5 file holds.

    Attributes
    ----------
    datasets : dict of str to StoredDataset
        By path.
    links : dict of str to str
        Further names -> what they stand for, which need not be there.
    groups : set of str
        Paths of all groups; empty for the root.
    attributes : dict of str to (dict of str to list of str)
        Path of a group (empty for the root) -> its attributes that hold texts, and that Keras writes.
    """

    datasets: dict[str, StoredDataset]
    links: dict[str, str]
    groups: set[str]
    attributes: dict[str, dict[str, list[str]]]


def scan_hdf5(place: Hdf5Place) -> Hdf5Scan:
    """Walk through all groups of a file.

    Raises
    ------
    MalformedHdf5Error, UnsafeHdf5Error, OSError
        See there.
    """
    stream, file = place.open()
    with stream:
        try:
            scan = _walk(place, file)
        except struct.error as error:
            raise MalformedHdf5Error("a structure is too short") from error
    _require_apart(scan.datasets)
    return scan


def _walk(place: Hdf5Place, file: Hdf5Bytes) -> Hdf5Scan:
    scan = Hdf5Scan(datasets={}, links={}, groups=set(), attributes={})
    pending = [("", find_root(file), 0)]
    paths: dict[int, str] = {}
    while pending:
        path, address, depth = pending.pop()
        if address in paths:
            scan.links[path] = paths[address]
            continue
        paths[address] = path
        if len(paths) > MAX_OBJECTS or depth > MAX_DEPTH:
            raise MalformedHdf5Error(f"it has more than {MAX_OBJECTS} objects, or groups nested {MAX_DEPTH} deep")
        messages = read_messages(file, address)
        kinds = {message.kind for message in messages}
        if LAYOUT in kinds:
            scan.datasets[path] = _dataset(place, file, path, messages)
        elif kinds & {GROUP, LINK, LINK_INFO} or not path:
            scan.groups.add(path)
            attributes = attributes_of(file, messages, _WANTED)
            if attributes:
                scan.attributes[path] = attributes
            inside = _inside(file, path, depth, messages, scan.links)
            pending.extend(reversed(inside))
    return scan


def _inside(
    file: Hdf5Bytes, path: str, depth: int, messages: list[Message], links: dict[str, str]
) -> list[tuple[str, int, int]]:
    found: list[tuple[str, int, int]] = []
    names: set[str] = set()
    for link in links_of(file, messages):
        name = f"{path}/{link.name}" if path else link.name
        if not link.name or "/" in link.name or len(name) > MAX_PATH or link.name in names:
            raise MalformedHdf5Error(f"the name {name[:100]!r} is too long, not one name, or there twice")
        names.add(link.name)
        if len(names) > MAX_OBJECTS or len(links) > MAX_OBJECTS:
            raise MalformedHdf5Error(f"it has more than {MAX_OBJECTS} objects")
        if link.target is not None:
            links[name] = (
                link.target.lstrip("/") if link.target.startswith("/") else f"{path}/{link.target}".lstrip("/")
            )
        else:
            found.append((name, link.address, depth + 1))
    return found


def _dataset(place: Hdf5Place, file: Hdf5Bytes, path: str, messages: list[Message]) -> StoredDataset:
    by_kind = {message.kind: message for message in messages if message.kind != 0x0C}
    if EXTERNAL_FILES in by_kind:
        raise UnsafeHdf5Error(f"the values of {path[:100]!r} are in other files")
    if not {DATASPACE, DATATYPE} <= by_kind.keys() or by_kind[DATASPACE].is_shared or by_kind[LAYOUT].is_shared:
        raise MalformedHdf5Error(f"the dataset {path[:100]!r} has no shape, type or place")
    shape = shape_of(by_kind[DATASPACE].data)
    datatype = datatype_of(file, by_kind[DATATYPE])
    layout = layout_of(by_kind[LAYOUT].data)
    packing = by_kind.get(FILTERS)
    filters = () if packing is None or packing.is_shared else filters_of(packing.data)
    dtype = datatype.name
    is_opaque = not datatype.is_number and datatype.size == 2
    # Keras writes bfloat16 as opaque bytes, and says so beside them (saving_lib.H5IOStore).
    if is_opaque and attributes_of(file, messages, ("dtype",)).get("dtype") == ["bfloat16"]:
        datatype, dtype = Datatype("bfloat16", 2, is_number=True), "bfloat16"
    dataset = StoredDataset(
        path=path, shape=(0,) if shape is None else shape, datatype=datatype, dtype=dtype, place=place, base=file.base,
        layout=layout, filters=filters,
    )  # fmt: skip
    return _placed(file, dataset)


def _placed(file: Hdf5Bytes, dataset: StoredDataset) -> StoredDataset:
    """Return a dataset with where its values are, or with why they cannot be read."""
    layout, n = dataset.layout, dataset.n_bytes
    if not dataset.datatype.is_number:
        is_whole = layout.kind == "contiguous" and layout.address != UNDEFINED and 0 < n <= layout.n_bytes
        begin = file.place(layout.address, n)[0] if is_whole else -1
        return replace(dataset, begin=begin, refusal=f"holds {dataset.dtype}, no numbers")
    if n == 0:
        return dataset
    if layout.kind == "compact":
        if layout.n_bytes != n:
            raise MalformedHdf5Error(f"the dataset {dataset.path[:100]!r} has {layout.n_bytes} bytes where {n} belong")
        return dataset
    if layout.kind == "chunked":
        refusal = why_not_chunks(dataset.shape, dataset.datatype.size, layout, dataset.filters)
        if refusal is None and n > (MOST_UNPACKED if dataset.filters else 1) * file.size:
            refusal = f"claims {n} bytes of values, which a file of {file.size} cannot hold"
        return replace(dataset, refusal=refusal)
    if layout.address == UNDEFINED:
        return replace(dataset, refusal="its values were never written")
    if layout.n_bytes < n:
        raise MalformedHdf5Error(
            f"the dataset {dataset.path[:100]!r} has {layout.n_bytes} bytes where its shape needs {min(n, UNDEFINED)}"
        )
    begin, _ = file.place(layout.address, n)
    return replace(dataset, begin=begin)


def as_bfloat16(dataset: StoredDataset) -> StoredDataset:
    """Return a dataset of opaque pairs of bytes as what they are in a layer of that type."""
    if dataset.datatype.is_number or dataset.datatype.size != 2 or dataset.begin < 0:
        return dataset
    return replace(dataset, datatype=Datatype("bfloat16", 2, is_number=True), dtype="bfloat16", refusal=None)


def _require_apart(datasets: Mapping[str, StoredDataset]) -> None:
    last, reached = "", 0
    for begin, end, path in sorted(
        (item.begin, item.begin + item.n_bytes, path) for path, item in datasets.items() if item.begin >= 0
    ):
        if begin < reached:
            raise MalformedHdf5Error(f"the datasets {last[:100]!r} and {path[:100]!r} share bytes")
        last, reached = path, end
