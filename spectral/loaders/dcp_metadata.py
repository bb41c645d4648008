"""The file ``.metadata`` of ``torch.distributed.checkpoint``: which tensors a folder holds, and in which pieces.

It is a pickle of the class ``Metadata`` in torch's ``torch/distributed/checkpoint/metadata.py``, and is read as data:
the classes become inert records. ``state_dict_metadata`` gives for each name the element type, the shape and the
pieces (offsets and sizes), ``storage_data`` where each piece lies (``_StorageInfo`` in ``filesystem.py``), and
``planner_data`` the keys that led to the name in the state dict that was saved.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeGuard

from spectral.loaders.pickle_machine import MalformedPickleError, Name, Record, read_pickle
from spectral.loaders.torch_pickle import TorchVocabulary, dtype_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_METADATA_BYTES = 1 << 28

MAX_AXES = 64

_METADATA_MODULES = (
    "torch.distributed.checkpoint.metadata",
    "torch.distributed._shard.checkpoint.metadata",
    "torch.distributed._shard.sharded_tensor.metadata",
)
_STORAGE_MODULES = ("torch.distributed.checkpoint.filesystem", "torch.distributed._shard.checkpoint.filesystem")
"""Where the classes are, and where they were before torch 2.2."""

_CLASSES = {
    **dict.fromkeys(
        _METADATA_MODULES,
        (
            "BytesStorageMetadata",
            "ChunkStorageMetadata",
            "MEM_FORMAT_ENCODING",
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorProperties",
            "TensorStorageMetadata",
            "_MEM_FORMAT_ENCODING",
        ),
    ),
    **dict.fromkeys(_STORAGE_MODULES, ("_StorageInfo",)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A box of one tensor, and the bytes that hold it.

    Attributes
    ----------
    offsets, sizes : tuple of int
        Where it lies in the tensor, and its shape.
    file : str
        Relative to the folder.
    begin, end : int
        Bytes of that file: an archive of ``torch.save``.
    packing : str or None
        By what the bytes are packed, if they are.
    """

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    begin: int
    end: int
    packing: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitTensor:
    """One tensor of a distributed checkpoint.

    Attributes
    ----------
    name : str
        As torch calls it: the keys that lead to it, joined by dots.
    keys : tuple
        These keys; the name alone where the file does not tell them.
    dtype : str
        torch's name of the element type.
    shape : tuple of int
        Of the whole.
    pieces : tuple of Piece
        What it is put together from, in the order of their offsets.
    """

    name: str
    keys: tuple[Any, ...]
    dtype: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...] = field(repr=False)


class _DistributedVocabulary(TorchVocabulary):
    """Knows the classes of the description, too; there are no storages."""

    def __init__(self) -> None:
        super().__init__({})

    def knows(self, name: Name) -> bool:
        return name.name in _CLASSES.get(name.module, ()) or super().knows(name)

    def call(self, name: Name, arguments: tuple[Any, ...]) -> Any:
        if name.name in _CLASSES.get(name.module, ()):
            return Record(name, arguments)
        return super().call(name, arguments)


def read_metadata(data: bytes) -> tuple[SplitTensor, ...]:
    """Return the tensors that a ``.metadata`` file describes, in its order; other values are left out.

    Raises
    ------
    MalformedPickleError
        It is no such description, or contradicts itself.
    ForbiddenPickleError
        It asks for a name that is none of torch's.
    """
    content = _record(read_pickle(data, _DistributedVocabulary()), "Metadata")
    described = content.get("state_dict_metadata")
    if type(described) is not dict:
        raise MalformedPickleError("it describes no state dict")
    stored = _stored_pieces(content.get("storage_data"))
    planned = content.get("planner_data")
    paths = planned if type(planned) is dict else {}
    return tuple(_tensors(described, stored, paths))


def _tensors(
    described: Mapping[Any, Any], stored: Mapping[tuple[str, tuple[int, ...]], Record], paths: Mapping[Any, Any]
) -> Iterator[SplitTensor]:
    for name, value in described.items():
        if type(name) is not str or type(value) is not Record:
            raise MalformedPickleError("an entry of the state dict that is none")
        if value.name.name != "TensorStorageMetadata":
            continue
        dtype = _dtype(name, value.attributes.get("properties"))
        shape = _counts(name, value.attributes.get("size"))
        chunks = value.attributes.get("chunks")
        if type(chunks) is not list:
            raise MalformedPickleError(f"tensor {name[:200]!r}: no list of pieces")
        pieces = sorted((_piece(name, chunk, stored) for chunk in chunks), key=lambda piece: piece.offsets)
        keys = paths.get(name)
        yield SplitTensor(
            name=name,
            keys=keys if type(keys) is tuple and keys else (name,),
            dtype=dtype,
            shape=shape,
            pieces=tuple(pieces),
        )


def _stored_pieces(storage: Any) -> dict[tuple[str, tuple[int, ...]], Record]:
    if type(storage) is not dict:
        raise MalformedPickleError("it does not say where its tensors are")
    found: dict[tuple[str, tuple[int, ...]], Record] = {}
    for index, place in storage.items():
        place_of = _record(index, "MetadataIndex")
        name, offset = place_of.get("fqn"), place_of.get("offset")
        if type(name) is not str:
            raise MalformedPickleError("a piece of a tensor without a name")
        if offset is None:
            continue  # Bytes, which are no tensor.
        key = (name, _counts(name, offset))
        if key in found:
            raise MalformedPickleError(f"tensor {name[:200]!r}: two pieces begin at {list(key[1])}")
        if type(place) is not Record:
            raise MalformedPickleError(f"tensor {name[:200]!r}: a piece without a place")
        found[key] = place
    return found


def _piece(name: str, chunk: Any, stored: Mapping[tuple[str, tuple[int, ...]], Record]) -> Piece:
    box = _record(chunk, "ChunkStorageMetadata")
    offsets, sizes = _counts(name, box.get("offsets")), _counts(name, box.get("sizes"))
    place = stored.get((name, offsets))
    if place is None:
        raise MalformedPickleError(f"tensor {name[:200]!r}: it does not say where the piece at {list(offsets)} is")
    where = _record(place, "_StorageInfo")
    file, begin, length = where.get("relative_path"), where.get("offset"), where.get("length")
    if type(file) is not str or not _is_count(begin) or not _is_count(length):
        raise MalformedPickleError(
            f"tensor {name[:200]!r}: the piece at {list(offsets)} has no file, offset and length"
        )
    packing: Any = where.get("transform_descriptors")
    names = [str(part)[:40] for part in packing[:4]] if type(packing) in (list, tuple) else []
    return Piece(
        offsets=offsets,
        sizes=sizes,
        file=file,
        begin=begin,
        end=begin + length,
        packing=", ".join(names[:4]) or None,
    )


def _record(value: Any, kind: str) -> dict[Any, Any]:
    if type(value) is not Record or value.name.name != kind:
        raise MalformedPickleError(f"no {kind} where one is expected")
    return value.attributes


def _dtype(name: str, properties: Any) -> str:
    """Return the element type; the properties are pickled as a tuple that begins with it."""
    state = properties.state if type(properties) is Record else None
    kind = state[0] if type(state) is tuple and state else None
    if type(state) is dict:
        kind = state.get("dtype")
    dtype = dtype_of(kind) if type(kind) is Name else None
    if dtype is None:
        raise MalformedPickleError(f"tensor {name[:200]!r}: an unknown element type")
    return dtype


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 1 << 62


def _counts(name: str, values: Any) -> tuple[int, ...]:
    if type(values) not in (tuple, list) or len(values) > MAX_AXES or not all(map(_is_count, values)):
        raise MalformedPickleError(f"tensor {name[:200]!r}: a shape or a place that is none")
    return tuple(values)
