"""Safetensors files of ``torch.distributed.checkpoint`` in each of which every process has its pieces of the tensors.

``HuggingFaceStorageWriter(save_distributed=True)`` of ``torch/distributed/checkpoint/hf_storage.py`` writes one file
for each process, with the offsets of its pieces as JSON in the header: ``DCP_SHARDING_INFO`` in ``__metadata__``, there
``saved_offsets`` for each name. The shape of a whole is how far its pieces reach.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from spectral.errors import CorruptCheckpointError, ModelError
from spectral.loaders.assembly import assemble, assemble_span, assemble_stream
from spectral.loaders.naming import natural_order
from spectral.loaders.safetensors import MAX_COUNT, SafetensorsFile
from spectral.loaders.tiling import Budget, why_not_tiled

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from spectral.loaders.protocol import TensorInfo, TensorSource

INFO_KEY, OFFSETS_KEY = "DCP_SHARDING_INFO", "saved_offsets"

_SHARD = re.compile(r"shard-(\d{1,9})-model-\d+-of-\d+\.safetensors")


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePiece:
    """A box of one tensor, which one of the files has under the name of the tensor."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: SafetensorsFile = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSafetensors:
    """Tensors in pieces, each piece in another safetensors file."""

    path: Path
    infos: dict[str, TensorInfo] = field(repr=False)
    pieces: Mapping[str, tuple[FilePiece, ...]] = field(repr=False)

    @property
    def label(self) -> str:
        return str(self.path)

    def tensors(self) -> tuple[TensorInfo, ...]:
        return tuple(self.infos.values())

    def load(self, name: str) -> NDArray[Any]:
        return assemble(self._require(name), self.pieces[name], _file_of)

    def load_span(self, name: str, begin: int, end: int) -> NDArray[Any]:
        return assemble_span(self._require(name), self.pieces[name], _file_of, begin, end)

    def stream(self, name: str) -> Iterator[memoryview] | None:
        return assemble_stream(self._require(name), self.pieces[name], _file_of)

    def _require(self, name: str) -> TensorInfo:
        info = self.infos[name]
        if info.refusal is not None:
            raise ModelError(f"{self.path}: tensor {name!r}: {info.refusal}")
        return info


def join_pieces(path: Path, opened: Mapping[str, TensorSource]) -> SplitSafetensors | None:
    """Return the tensors of a folder whose files say that they hold pieces, or None where they do not.

    Parameters
    ----------
    path : Path
        The folder.
    opened : mapping of str to TensorSource
        Its safetensors files by name.

    Raises
    ------
    CorruptCheckpointError
        A file of the row is missing, or pieces do not fit together.
    """
    files = {name: source for name, source in opened.items() if isinstance(source, SafetensorsFile)}
    if len(files) < len(opened) or not any(INFO_KEY in file.metadata for file in files.values()):
        return None
    _require_all(path, files)
    pieces: dict[str, list[FilePiece]] = {}
    for file in files.values():
        offsets_of = _read_offsets(file)
        for info in file.tensors():
            offsets = _checked_offsets(file, info, offsets_of.get(info.name))
            pieces.setdefault(info.name, []).append(FilePiece(offsets=offsets, sizes=info.shape, file=file))
    budget = Budget()
    infos = {name: _whole(path, name, pieces[name], budget) for name in sorted(pieces, key=natural_order)}
    return SplitSafetensors(path=path, infos=infos, pieces={name: tuple(found) for name, found in pieces.items()})


def _file_of(piece: FilePiece) -> SafetensorsFile:
    return piece.file


def _require_all(path: Path, files: Mapping[str, SafetensorsFile]) -> None:
    """Demand that no file is missing in the row: a tensor without its last piece would look like a smaller one."""
    found = [_SHARD.fullmatch(name) for name in files]
    numbers = {int(match[1]) for match in found if match is not None}
    missing = sorted(set(range(1, len(numbers) + 1)) - numbers)
    if None not in found and missing:
        raise CorruptCheckpointError(f"{path}: the shard of process {missing[0]} of {max(numbers)} is missing")


def _read_offsets(file: SafetensorsFile) -> dict[str, Any]:
    try:
        payload = json.loads(file.metadata.get(INFO_KEY, "{}"))
    except (ValueError, RecursionError) as error:
        raise CorruptCheckpointError(f"{file.path}: {INFO_KEY} is not valid JSON ({str(error)[:200]})") from error
    if not isinstance(payload, dict):
        raise CorruptCheckpointError(f"{file.path}: {INFO_KEY} names no tensors")
    return payload


def _checked_offsets(file: SafetensorsFile, info: TensorInfo, entry: Any) -> tuple[int, ...]:
    offsets: Any = entry.get(OFFSETS_KEY) if isinstance(entry, dict) else [0] * len(info.shape)
    is_list = isinstance(offsets, list) and len(offsets) == len(info.shape)
    if not is_list or not all(type(value) is int and 0 <= value <= MAX_COUNT for value in offsets):
        raise CorruptCheckpointError(f"{file.path}: tensor {info.name[:200]!r}: {OFFSETS_KEY} are no place in it")
    return tuple(offsets)


def _whole(path: Path, name: str, pieces: list[FilePiece], budget: Budget) -> TensorInfo:
    first = pieces[0].file.infos[name]
    where = f"{path}: tensor {name[:200]!r}"
    for piece in pieces:
        info = piece.file.infos[name]
        if info.dtype != first.dtype or len(info.shape) != len(first.shape):
            raise CorruptCheckpointError(
                f"{where} is {first.dtype} {list(first.shape)} in {pieces[0].file.path.name} "
                f"and {info.dtype} {list(info.shape)} in {piece.file.path.name}"
            )
    reach = [[o + n for o, n in zip(piece.offsets, piece.sizes, strict=True)] for piece in pieces]
    shape = tuple(max(ends) for ends in zip(*reach, strict=True))
    problem = why_not_tiled(shape, [(piece.offsets, piece.sizes) for piece in pieces], budget)
    if problem is not None:
        raise CorruptCheckpointError(f"{where}: {problem}")
    return replace(first, shape=shape)
