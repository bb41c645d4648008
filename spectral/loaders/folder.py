"""Checkpoints that are folders: shards named by an index file, or one weight file among other things."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from spectral.errors import (
    CorruptCheckpointError,
    ModelError,
    ModelNotFoundError,
    UnsafeCheckpointError,
    UnsupportedModelError,
)
from spectral.loaders.naming import natural_order, unique_keys
from spectral.loaders.protocol import CheckpointSource
from spectral.loaders.spans import stream_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from spectral.loaders.protocol import TensorInfo, TensorSource

MAX_INDEX_BYTES = 100_000_000
"""Far above any real index (a few MB for the largest models); a guard against a file made to fill memory."""

INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".jit", ".keras", ".h5", ".hdf5", ".index")
KERAS_INDEX = "*.weights.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardedFolder:
    """A checkpoint spread over several files of one folder."""

    path: Path
    infos: dict[str, TensorInfo] = field(repr=False)
    shards: dict[str, TensorSource] = field(repr=False)
    """Tensor name -> the shard that holds it."""

    @property
    def label(self) -> str:
        return str(self.path)

    def tensors(self) -> tuple[TensorInfo, ...]:
        return tuple(self.infos.values())

    def load(self, name: str) -> NDArray[Any]:
        return self.shards[name].load(name)

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

    An index file is followed first, then ``model.safetensors`` or ``pytorch_model.bin``, then the index of Keras's
    shards (``*.weights.json``), then the ``.safetensors`` files of the folder together, then a single file of another
    weight format.

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
    for index_name, weight_name in zip(INDEX_FILES, WEIGHT_FILES, strict=True):
        if (path / index_name).is_file():
            return _open_index(path, path / index_name, path / weight_name, open_file)
    for weight_name in WEIGHT_FILES:
        if (path / weight_name).is_file():
            return open_file(path / weight_name)
    indexes = sorted(path.glob(KERAS_INDEX))
    if len(indexes) == 1:
        return open_file(indexes[0])
    try:
        candidates = sorted(file for file in path.iterdir() if file.suffix in WEIGHT_SUFFIXES and file.is_file())
    except OSError as error:
        raise ModelError(f"{path}: cannot be listed: {error.strerror}") from error
    if not candidates:
        raise ModelNotFoundError(
            f"{path}: the folder holds no weights (looked for {', '.join(INDEX_FILES + WEIGHT_FILES)} "
            f"and *{', *'.join(WEIGHT_SUFFIXES)})"
        )
    shards = [file for file in candidates if file.suffix == ".safetensors"] or candidates
    if len(shards) == 1:
        return open_file(shards[0])
    if shards[0].suffix != ".safetensors":
        raise UnsupportedModelError(
            f"{path}: several weight files and no index: name one of {', '.join(file.name for file in shards)}"
        )
    return _join(path, {file.name: open_file(file) for file in shards})


def _open_index(path: Path, index: Path, single: Path, open_file: Callable[[Path], TensorSource]) -> TensorSource:
    weight_map = _read_weight_map(index)
    if single.exists() and single.name not in weight_map.values():
        # transformers would load the single file, others follow the index: judging one says nothing of the other.
        raise UnsupportedModelError(f"{path}: holds {single.name} and {index.name}, which does not name it: remove one")
    opened: dict[str, TensorSource] = {}
    for shard in sorted(set(weight_map.values()), key=natural_order):
        opened[shard] = open_file(inside_folder(path, index, shard))
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
        payload = json.loads(text.decode("utf-8"), object_pairs_hook=unique_keys)
    except RecursionError as error:
        raise CorruptCheckpointError(f"{index}: nested too deeply") from error
    except ValueError as error:
        raise CorruptCheckpointError(f"{index}: not valid JSON ({error})") from error
    weight_map = payload.get("weight_map") if isinstance(payload, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CorruptCheckpointError(f"{index}: has no weight_map that names shards")
    for name, shard in weight_map.items():
        if not isinstance(shard, str):
            raise CorruptCheckpointError(f"{index}: weight_map[{name[:200]!r}] is not a file name")
    return weight_map


def inside_folder(path: Path, index: Path, shard: str) -> Path:
    """Return the path of a shard, which must lie in the folder of its index, links resolved."""
    relative = PurePosixPath(shard)
    is_plain = shard.isprintable() and "\\" not in shard
    if not relative.parts or relative.is_absolute() or ".." in relative.parts or not is_plain:
        raise UnsafeCheckpointError(f"{index}: names the shard {shard[:200]!r}, outside its folder")
    file = path / relative
    try:
        folder, target = path.resolve(), file.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        # Not there, a name too long for the file system, or a circle of links (RuntimeError before Python 3.13).
        raise ModelNotFoundError(f"{index}: names the shard {shard[:200]!r}, which is missing") from error
    if folder not in target.parents and not _is_cache_blob(folder, target):
        raise UnsafeCheckpointError(f"{index}: the shard {shard[:200]!r} is a link that leaves its folder")
    return file


def _is_cache_blob(folder: Path, target: Path) -> bool:
    """Tell whether ``target`` is where a Hugging Face cache keeps the files of the snapshot ``folder``.

    There ``snapshots/<revision>/[<subfolder>/]<file>`` are links to ``blobs/<hash>`` beside ``snapshots``.
    """
    return any(parent.name == "snapshots" and target.parent == parent.with_name("blobs") for parent in folder.parents)


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
    return ShardedFolder(path=path, infos={name: infos[name] for name in ordered}, shards=holders)
