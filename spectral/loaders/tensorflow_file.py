"""Read checkpoints of TensorFlow and the variables of SavedModels, without TensorFlow.

A checkpoint is an index, which names every tensor with its type, shape and place, and one or several files of values
(tensorflow/core/protobuf/tensor_bundle.proto and trackable_object_graph.proto). The graph of a SavedModel is not read.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from spectral.errors import CorruptCheckpointError, ModelError, ModelNotFoundError
from spectral.layouts import parts_of
from spectral.loaders.byte_ranges import read_range, stream_range
from spectral.loaders.dtypes import FLOAT_DTYPES, numpy_dtype, why_not_float
from spectral.loaders.folder import MAX_INDEX_BYTES
from spectral.loaders.inside import path_inside
from spectral.loaders.naming import natural_order
from spectral.loaders.protocol import TensorInfo
from spectral.loaders.tensor_table import MalformedTableError, fields, read_table, varint

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

SAVED_MODEL = "saved_model.pb"
VARIABLES_INDEX = "variables/variables.index"

_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_MAX_GRAPH_BYTES = 1 << 26
_MAX_SHARDS = 10_000
_MAX_AXES = 64
_MAX_LENGTH = 1 << 48

_DTYPES = {
    1: ("float32", 4), 2: ("float64", 8), 3: ("int32", 4), 4: ("uint8", 1), 5: ("int16", 2), 6: ("int8", 1),
    8: ("complex64", 8), 9: ("int64", 8), 10: ("bool", 1), 14: ("bfloat16", 2), 17: ("uint16", 2),
    18: ("complex128", 16), 19: ("float16", 2), 22: ("uint32", 4), 23: ("uint64", 8), 24: ("float8_e5m2", 1),
    25: ("float8_e4m3fn", 1), 26: ("float8_e4m3fnuz", 1), 28: ("float8_e5m2fnuz", 1),
}  # fmt: skip
"""Number of a type in types.proto -> its name, and the bytes of a value."""

_STRING = 7

_OPTIMIZER = re.compile(
    # The variables that an optimizer trains are the model's own, which may stand nowhere else.
    r"(^|.*/)_?optimizer/(?!_trainable_variables/).*|.*/\.OPTIMIZER_SLOT/.*|(^|.*/)keras_api/metrics/.*"
)
_COUNTERS = ("save_counter", "global_step", "beta1_power", "beta2_power")
_SLOTS = re.compile(r"(.+)/(Adam|AdamW|Momentum|RMSProp|Adagrad|Adadelta|Ftrl|Adamax|LARS|LAMB)(_[0-9]+)?")
_STATE = "state of the training, no weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleEntry:
    """One tensor as the index describes it.

    Attributes
    ----------
    dtype : str
        Its type.
    itemsize : int
        Bytes of a value; 0 where the type holds no numbers.
    shape : tuple of int
        Its shape.
    shard, offset, size : int
        The file of its values, and where they are in it.
    checksum : int
        Checksum of its values.
    is_sliced : bool
        Whether it is stored in pieces.
    """

    dtype: str
    itemsize: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int
    is_sliced: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFlowFile:
    """One checkpoint, or the variables of one SavedModel.

    Attributes
    ----------
    path : Path
        The index.
    infos : dict of str to TensorInfo
        The headers. The ending that all names of object-based checkpoints have is left out.
    entries : mapping of str to BundleEntry
        Where the values are.
    shards : mapping of int to Path
        The files of values.
    is_big_endian : bool
        Their byte order.
    original_names : mapping of str to str
        Tensor name -> full name of the variable, where the checkpoint gives one.
    """

    path: Path
    infos: dict[str, TensorInfo] = field(repr=False)
    entries: Mapping[str, BundleEntry] = field(repr=False)
    shards: Mapping[int, Path] = field(repr=False)
    is_big_endian: bool = False
    original_names: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def label(self) -> str:
        return str(self.path)

    def tensors(self) -> tuple[TensorInfo, ...]:
        return tuple(self.infos.values())

    def load(self, name: str) -> NDArray[Any]:
        self._require(name)
        info = self.infos[name]
        return self.load_stored(name, 0, info.n_values).reshape(info.shape)

    def load_span(self, name: str, begin: int, end: int) -> NDArray[Any]:
        self._require(name)
        return self.load_stored(name, begin, end)

    def load_stored(self, name: str, begin: int, end: int) -> NDArray[Any]:
        import numpy as np

        entry = self.entries[name]
        if not entry.itemsize or entry.is_sliced:
            raise ModelError(f"{self.path}: tensor {name[:200]!r}: {self.infos[name].refusal}")
        first = entry.offset
        data = read_range(self.shards[entry.shard], name, first + begin * entry.itemsize, first + end * entry.itemsize)
        dtype = numpy_dtype(entry.dtype) if entry.dtype in FLOAT_DTYPES else np.dtype(entry.dtype)
        values: NDArray[Any] = np.frombuffer(data, dtype=dtype)
        return values.byteswap() if self.is_big_endian else values

    def stream(self, name: str) -> Iterator[memoryview] | None:
        self._require(name)
        entry = self.entries[name]
        if self.is_big_endian and entry.itemsize > 1:
            return None
        return stream_range(self.shards[entry.shard], name, entry.offset, entry.offset + entry.size)

    def _require(self, name: str) -> None:
        refusal = self.infos[name].refusal
        if refusal is not None:
            raise ModelError(f"{self.path}: tensor {name[:200]!r}: {refusal}")


def open_saved_model(path: Path) -> TensorFlowFile:
    """Open the variables of a SavedModel, a folder with ``saved_model.pb``."""
    return open_checkpoint(path_inside(path, path / SAVED_MODEL, VARIABLES_INDEX))


def open_checkpoint(path: Path) -> TensorFlowFile:
    """Open a checkpoint by its ``.index`` file.

    Raises
    ------
    ModelNotFoundError, CorruptCheckpointError, UnsafeCheckpointError, ModelError
        A file is missing, contradicts another, or lies outside the folder.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_INDEX_BYTES + 1)
        if len(data) > MAX_INDEX_BYTES:
            raise MalformedTableError(f"it is larger than {MAX_INDEX_BYTES} bytes, which no index is")
        n_shards, is_big, entries = _read_index(data)
        shards = _find_shards(path, n_shards, entries)
        names = _full_names(shards, entries)
    except ModelError:
        raise
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"{path}: no such file") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    except MalformedTableError as error:
        raise CorruptCheckpointError(f"{path}: not a readable index of a checkpoint ({error})") from error
    return _assembled(path, shards, entries, names, is_big=is_big)


def _read_index(data: bytes) -> tuple[int, bool, dict[str, BundleEntry]]:
    n_shards, is_big = 0, False
    entries: dict[str, BundleEntry] = {}
    for key, value in read_table(data):
        if not key:
            header = dict(fields(value))
            shards, order = header.get(1, 0), header.get(2, 0)
            n_shards, is_big = (shards if isinstance(shards, int) else 0), order == 1
        elif key[0]:
            # Keys that begin with a zero are pieces of tensors, which are entries of their own, too.
            name = _text(key)
            entries[name] = _entry(name, value)
    if not 0 < n_shards <= _MAX_SHARDS:
        raise MalformedTableError(f"it names {n_shards} files of values")
    return n_shards, is_big, entries


def _entry(name: str, data: bytes) -> BundleEntry:
    shape: list[int] = []
    numbers = {1: 0, 3: 0, 4: 0, 5: 0, 6: 0}
    is_sliced = False
    for number, value in fields(data):
        if number == 2 and isinstance(value, bytes):
            shape = _shape(value)
        elif number == 7:
            is_sliced = True
        elif number in numbers and isinstance(value, int):
            numbers[number] = value
    dtype, itemsize = _DTYPES.get(numbers[1], ("text" if numbers[1] == _STRING else f"type {numbers[1]}", 0))
    entry = BundleEntry(
        dtype=dtype, itemsize=itemsize, shape=tuple(shape), shard=numbers[3], offset=numbers[4], size=numbers[5],
        checksum=numbers[6], is_sliced=is_sliced,
    )  # fmt: skip
    n_bytes = math.prod(shape) * itemsize
    if itemsize and not is_sliced and n_bytes != entry.size:
        raise MalformedTableError(f"the tensor {name[:100]!r} has {entry.size} bytes where its shape needs {n_bytes}")
    return entry


def _shape(data: bytes) -> list[int]:
    shape: list[int] = []
    for number, value in fields(data):
        if number == 2 and isinstance(value, bytes):
            length = dict(fields(value)).get(1, 0)
            if not isinstance(length, int) or length > _MAX_LENGTH or len(shape) >= _MAX_AXES:
                raise MalformedTableError("a shape is damaged")
            shape.append(length)
    return shape


def _find_shards(path: Path, n_shards: int, entries: Mapping[str, BundleEntry]) -> dict[int, Path]:
    """Return the files of values that are needed, with every place in them checked."""
    spans: dict[int, list[tuple[int, int, str]]] = {}
    for name, entry in entries.items():
        if not entry.is_sliced:
            if entry.shard >= n_shards:
                raise MalformedTableError(f"the tensor {name[:100]!r} is in file {entry.shard} of {n_shards}")
            spans.setdefault(entry.shard, []).append((entry.offset, entry.offset + entry.size, name))
    shards: dict[int, Path] = {}
    for shard, places in sorted(spans.items()):
        shards[shard] = path_inside(path.parent, path, f"{path.stem}.data-{shard:05d}-of-{n_shards:05d}")
        n_file = shards[shard].stat().st_size
        reached = 0
        for begin, end, name in sorted(places):
            if end > n_file:
                raise MalformedTableError(f"the tensor {name[:100]!r} ends at byte {end} of a file of {n_file} bytes")
            if begin < reached and begin < end:
                raise MalformedTableError(f"the tensor {name[:100]!r} shares bytes with another")
            reached = max(reached, end)
    return shards


def _full_names(shards: Mapping[int, Path], entries: Mapping[str, BundleEntry]) -> dict[str, str]:
    """Return key -> full name of its variable, as the description of the objects beside the tensors has them."""
    entry = entries.get(_GRAPH)
    if entry is None or entry.dtype != "text" or entry.size > _MAX_GRAPH_BYTES or entry.is_sliced:
        return {}
    data = bytes(read_range(shards[entry.shard], _GRAPH, entry.offset, entry.offset + entry.size))
    length, at = varint(data, 0)
    names: dict[str, str] = {}
    # A text is its length, four bytes of checksum, and itself.
    for number, node in fields(data[at + 4 : at + 4 + length]):
        for kind, attribute in fields(node) if number == 1 and isinstance(node, bytes) else ():
            if kind == 2 and isinstance(attribute, bytes):
                found = dict(fields(attribute))
                full, key = found.get(2, b""), found.get(3, b"")
                if isinstance(full, bytes) and isinstance(key, bytes) and full:
                    names[_text(key)] = _text(full)
    return names


def _assembled(
    path: Path, shards: dict[int, Path], entries: dict[str, BundleEntry], full_names: Mapping[str, str], *, is_big: bool
) -> TensorFlowFile:
    short = {key.removesuffix(_SUFFIX) for key in entries}
    is_unique = len(short) == len(entries)
    infos: dict[str, TensorInfo] = {}
    named: dict[str, BundleEntry] = {}
    keys: dict[str, str] = {}
    for key in sorted(entries, key=natural_order):
        name = key.removesuffix(_SUFFIX) if is_unique else key
        named[name] = entries[key]
        infos[name] = _described(name, entries[key], entries)
        keys[name] = key
    _tie_exported(infos, named)
    found = {name: full_names[key] for name, key in keys.items() if key in full_names}
    # Variables without a name of their own are all called the same.
    n_named = Counter(full for name, full in found.items() if infos[name].counted_in is None)
    originals = {name: full for name, full in found.items() if n_named[full] == 1 and infos[name].counted_in is None}
    _add_parts(infos, originals)
    return TensorFlowFile(
        path=path, infos=infos, entries=named, shards=shards, is_big_endian=is_big, original_names=originals
    )


def _described(name: str, entry: BundleEntry, entries: Mapping[str, BundleEntry]) -> TensorInfo:
    refusal = why_not_float(entry.dtype) if entry.itemsize else f"holds {entry.dtype}, no numbers"
    if entry.is_sliced:
        refusal = "is stored in pieces, which are not put together"
    info = TensorInfo(name=name, shape=entry.shape, dtype=entry.dtype, refusal=refusal)
    slot = _SLOTS.fullmatch(name)
    base = entries.get(slot[1]) if slot is not None else None
    is_slot = base is not None and base.shape == entry.shape
    if name == _GRAPH:
        return replace(info, refusal="describes the checkpoint", is_state=True)
    if is_slot or _OPTIMIZER.fullmatch(name) or name.rpartition("/")[2] in _COUNTERS:
        return replace(info, refusal=_STATE, is_state=True)
    return info


def _tie_exported(infos: dict[str, TensorInfo], entries: Mapping[str, BundleEntry]) -> None:
    """Mark the second copy of all variables that Keras's ``model.export`` writes, by the checksums of their values."""
    first = {
        (entry.checksum, entry.shape, entry.dtype): name
        for name, entry in entries.items()
        if name.startswith("variables/")
    }
    for name, entry in entries.items():
        other = first.get((entry.checksum, entry.shape, entry.dtype))
        if name.startswith("_all_variables/") and other is not None and infos[name].refusal is None:
            infos[name] = replace(infos[name], refusal=f"tied to {other}", counted_in=other)


def _add_parts(infos: dict[str, TensorInfo], originals: Mapping[str, str]) -> None:
    """Cut tensors into matrices by the full names of their variables, where their own say nothing."""
    by_full_name = {full: replace(infos[name], name=full) for name, full in originals.items()}
    for name, full in originals.items():
        info = infos[name]
        if len(info.shape) >= 2 and info.refusal is None and full != name:
            parts = parts_of(by_full_name[full], by_full_name)
            if not isinstance(parts, str):
                infos[name] = replace(info, parts=parts)


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedTableError(f"the name {data[:100]!r} is not valid Unicode") from error
