"""Checkpoints that are folders: shards named by an index file, or one weight file among other things."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from spectral.errors import (
    CorruptCheckpointError,
    ModelError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from spectral.loaders.inside import path_inside
from spectral.loaders.json_text import parse_json
from spectral.loaders.naming import natural_order
from spectral.loaders.protocol import CheckpointSource, StoredSource
from spectral.loaders.spans import read_span, stream_of
from spectral.loaders.split_safetensors import join_pieces
from spectral.loaders.training_folders import open_inside, open_training

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from spectral.loaders.protocol import TensorInfo, TensorSource

MAX_INDEX_BYTES = 100_000_000
"""Far above any real index (a few MB for the largest models); a guard against a file made to fill memory."""

MAX_SHARDS = 10_000
"""The largest checkpoints have some hundreds."""

INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json", "flax_model.msgpack.index.json")
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin", "flax_model.msgpack")
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".jit", ".gguf", ".onnx", ".msgpack")

_GGUF_PART = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf")
"""A part of a split GGUF file: the first opens all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardedFolder:
    """A checkpoint spread over several files of one folder."""

    path: Path
    infos: dict[str, TensorInfo] = field(repr=False)
    shards: dict[str, TensorSource] = field(repr=False)
    """Tensor name -> the shard that holds it."""
    metadata: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What the headers of the shards say beside the tensors."""

    @property
    def label(self) -> str:
        return str(self.path)

    def tensors(self) -> tuple[TensorInfo, ...]:
        return tuple(self.infos.values())

    def load(self, name: str) -> NDArray[Any]:
        return self.shards[name].load(name)

    def load_span(self, name: str, begin: int, end: int) -> NDArray[Any]:
        return read_span(self.shards[name], name, begin, end)

    def load_stored(self, name: str, begin: int, end: int) -> NDArray[Any]:
        shard = self.shards[name]
        if not isinstance(shard, StoredSource):
            raise ModelError(f"{shard.label}: tensor {name!r}: {self.infos[name].refusal}")
        return shard.load_stored(name, begin, end)

    def stream(self, name: str) -> Iterator[memoryview] | None:
        return stream_of(self.shards[name], name)

    def load_all(self) -> dict[str, Any]:
        loaded: dict[int, dict[str, Any]] = {}
        for shard in self.shards.values():
            if id(shard) not in loaded:
                assert isinstance(shard, CheckpointSource), "shards are files"
                loaded[id(shard)] = shard.load_all()
        return {name: loaded[id(shard)][name] for name, shard in self.shards.items()}


def open_folder(path: Path, open_file: Callable[[Path], TensorSource]) -> TensorSource:
    """Open the checkpoint inside a folder.

    A folder that a distributed training wrote is read as one. Otherwise an index file is followed first, then
    ``model.safetensors`` or ``pytorch_model.bin``, then the ``.safetensors`` files of the folder together, then the
    newest checkpoint of a training inside, then a single file of another weight format.

    Parameters
    ----------
    path : Path
        The folder.
    open_file : callable
        Opens one weight file.

    Raises
    ------
    ModelNotFoundError
        The folder holds no weights, or the index names a shard that is not there.
    UnsafeCheckpointError
        The index names a file outside the folder.
    CorruptCheckpointError
        Index and shards contradict each other.
    UnsupportedModelError
        Several unrelated weight files, or a single one beside an index that does not name it.
    """
    return open_training(path) or _open_named(path, open_file) or _open_candidates(path, open_file)


def _open_named(path: Path, open_file: Callable[[Path], TensorSource]) -> TensorSource | None:
    """Open what an index or the name of a file says to be the model, or return None."""
    for index_name, weight_name in zip(INDEX_FILES, WEIGHT_FILES, strict=True):
        if (path / index_name).is_file():
            return _open_index(path, path / index_name, path / weight_name, open_file)
    for weight_name in WEIGHT_FILES:
        if (path / weight_name).is_file():
            return open_file(path / weight_name)
    return None


def _open_candidates(path: Path, open_file: Callable[[Path], TensorSource]) -> TensorSource:
    """Open the files whose suffix says that they are weights."""
    try:
        candidates = sorted(file for file in path.iterdir() if file.suffix in WEIGHT_SUFFIXES and file.is_file())
    except OSError as error:
        raise ModelError(f"{path}: cannot be listed: {error.strerror}") from error
    shards = [file for file in candidates if file.suffix == ".safetensors"]
    if not shards:
        # Before the other files: beside them are those of schedulers and random numbers.
        inside = open_inside(path)
        if inside is not None:
            return inside
        shards = candidates
    if not shards:
        raise ModelNotFoundError(
            f"{path}: the folder holds no weights (looked for {', '.join(INDEX_FILES + WEIGHT_FILES)} "
            f"and *{', *'.join(WEIGHT_SUFFIXES)})"
        )
    shards = [file for file in candidates if file.suffix == ".safetensors"] or _without_later_parts(candidates)
    if len(shards) == 1:
        source = open_file(shards[0])
        return join_pieces(path, {shards[0].name: source}) or source
    if shards[0].suffix != ".safetensors":
        raise UnsupportedModelError(
            f"{path}: several weight files and no index: name one of {', '.join(file.name for file in shards)}"
        )
    opened = {file.name: open_file(file) for file in shards}
    return join_pieces(path, opened) or _join(path, opened)


def _without_later_parts(files: list[Path]) -> list[Path]:
    """Keep of a split GGUF file the first part that is there: it opens the others, or names the one that is missing."""
    kept: dict[str, Path] = {}
    for file in files:
        found = _GGUF_PART.fullmatch(file.name)
        kept.setdefault(f"{found['stem']} of {found['count']}" if found else file.name, file)
    return list(kept.values())


def _open_index(path: Path, index: Path, single: Path, open_file: Callable[[Path], TensorSource]) -> TensorSource:
    weight_map = _read_weight_map(index)
    if single.exists() and single.name not in weight_map.values():
        # transformers would load the single file, others follow the index: judging one says nothing of the other.
        raise UnsupportedModelError(f"{path}: holds {single.name} and {index.name}, which does not name it: remove one")
    opened: dict[str, TensorSource] = {}
    for shard in sorted(set(weight_map.values()), key=natural_order):
        opened[shard] = open_file(path_inside(path, index, shard))
    held = {shard: {info.name for info in source.tensors()} for shard, source in opened.items()}
    for name, shard in weight_map.items():
        if name not in held[shard]:
            raise CorruptCheckpointError(f"{index}: names the tensor {name[:200]!r} in {shard}, which does not hold it")
    return _join(path, opened)


def _read_weight_map(index: Path) -> dict[str, str]:
    try:
        with index.open("rb") as stream:
            text = stream.read(MAX_INDEX_BYTES + 1)
    except OSError as error:
        raise ModelError(f"{index}: cannot be read: {error.strerror}") from error
    if len(text) > MAX_INDEX_BYTES:
        raise CorruptCheckpointError(f"{index}: larger than {MAX_INDEX_BYTES} bytes, which no index is")
    try:
        payload = parse_json(text)
    except ValueError as error:
        raise CorruptCheckpointError(f"{index}: not valid JSON ({error})") from error
    weight_map = payload.get("weight_map") if isinstance(payload, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CorruptCheckpointError(f"{index}: has no weight_map that names shards")
    for name, shard in weight_map.items():
        if not isinstance(shard, str):
            raise CorruptCheckpointError(f"{index}: weight_map[{name[:200]!r}] is not a file name")
    if len(set(weight_map.values())) > MAX_SHARDS:
        raise CorruptCheckpointError(f"{index}: names more than {MAX_SHARDS} shards, which no checkpoint has")
    return weight_map


def _join(path: Path, opened: dict[str, TensorSource]) -> ShardedFolder:
    infos: dict[str, TensorInfo] = {}
    holders: dict[str, TensorSource] = {}
    for shard, source in opened.items():
        for info in source.tensors():
            if info.name in infos:
                raise CorruptCheckpointError(
                    f"{path}: the tensor {info.name[:200]!r} is in two shards, {holders[info.name].label} and {shard}"
                )
            infos[info.name] = info
            holders[info.name] = source
    ordered = sorted(infos, key=natural_order)
    metadata: dict[str, str] = {}
    for source in opened.values():
        metadata |= getattr(source, "metadata", {})
    return ShardedFolder(path=path, infos={name: infos[name] for name in ordered}, shards=holders, metadata=metadata)
