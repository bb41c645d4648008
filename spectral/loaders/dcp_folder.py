"""Folders of ``torch.distributed.checkpoint``: FSDP, tensor parallel, torchtitan, Lightning's sharded ``.ckpt``.

``.metadata`` says which tensors there are and in which pieces (:mod:`spectral.loaders.dcp_metadata`); in the files
``*.distcp`` each piece is an archive of ``torch.save`` between two bytes. A tensor is put together when it is loaded,
from its pieces one after the other. Opening reads ``.metadata`` and the sizes of the files.

The tensors of optimizers are listed and not read: they are the state of the training, and no parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from spectral.errors import CorruptCheckpointError, ModelError, UnsafeCheckpointError, UnsupportedModelError
from spectral.loaders.assembly import assemble, assemble_span, assemble_stream, window_of
from spectral.loaders.dcp_metadata import MAX_METADATA_BYTES, Piece, SplitTensor, read_metadata
from spectral.loaders.inside import path_inside
from spectral.loaders.naming import natural_order
from spectral.loaders.pickle_machine import ForbiddenPickleError, LongPickleError, MalformedPickleError
from spectral.loaders.protocol import TensorInfo
from spectral.loaders.state_dict import CONTAINER_KEYS, find_weights, is_training_state, list_outside, name_tensors
from spectral.loaders.tiling import Budget, why_not_tiled
from spectral.loaders.torch_archive import read_archive
from spectral.loaders.torch_file import TorchFile, tensors_of
from spectral.loaders.torch_legacy import unsafe
from spectral.loaders.torch_pickle import ITEM_BYTES, StoredTensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

METADATA_FILE, PIECES_SUFFIX = ".metadata", ".distcp"

MAX_KEYS = 64

TRAINING_TENSOR = "state of the training ({key}), not a weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributedFolder:
    """A checkpoint of ``torch.distributed.checkpoint``, whose tensors are put together when they are loaded."""

    path: Path
    infos: dict[str, TensorInfo] = field(repr=False)
    values: Mapping[str, SplitTensor] = field(repr=False)

    @property
    def label(self) -> str:
        return str(self.path)

    def tensors(self) -> tuple[TensorInfo, ...]:
        return tuple(self.infos.values())

    def load(self, name: str) -> NDArray[Any]:
        return assemble(self._require(name), self.values[name].pieces, partial(self._piece, name))

    def load_span(self, name: str, begin: int, end: int) -> NDArray[Any]:
        return assemble_span(self._require(name), self.values[name].pieces, partial(self._piece, name), begin, end)

    def stream(self, name: str) -> Iterator[memoryview] | None:
        return assemble_stream(self._require(name), self.values[name].pieces, partial(self._piece, name))

    def load_all(self) -> dict[str, torch.Tensor]:
        """Return the weights as tensors of torch, those without a spectrum too."""
        import torch

        found: dict[str, torch.Tensor] = {}
        for name, tensor in self.values.items():
            whole = torch.empty(tensor.shape, dtype=getattr(torch, tensor.dtype))
            for piece in tensor.pieces:
                if 0 not in piece.sizes:
                    whole[window_of(piece)] = self._piece(name, piece).load_all()[name]
            found[name] = whole
        return found

    def _require(self, name: str) -> TensorInfo:
        """Return the header of a tensor that can be analysed."""
        info = self.infos[name]
        if info.refusal is not None:
            raise ModelError(f"{self.path}: tensor {name!r}: {info.refusal}")
        return info

    def _piece(self, name: str, piece: Piece) -> TorchFile:
        """Open the archive that is one piece of a tensor."""
        tensor = self.values[name]
        where = f"{self.path}: tensor {name!r}: the piece at {list(piece.offsets)}"
        file = path_inside(self.path, self.path / METADATA_FILE, piece.file)
        try:
            archive = read_archive(file, (piece.begin, piece.end))
        except (CorruptCheckpointError, UnsafeCheckpointError) as error:
            raise type(error)(f"{where}, from byte {piece.begin} on: {error}") from error
        held = archive.content
        if not isinstance(held, StoredTensor) or held.shape != piece.sizes or held.dtype != tensor.dtype:
            what = f"{held.dtype} {list(held.shape)}" if isinstance(held, StoredTensor) else "something else"
            raise CorruptCheckpointError(
                f"{where} should be {tensor.dtype} {list(piece.sizes)}, and {piece.file} holds {what} there"
            )
        return tensors_of(archive, {name: held})


def open_distributed(path: Path) -> DistributedFolder:
    """Open a folder with a ``.metadata`` file of ``torch.distributed.checkpoint``, without torch.

    Returns
    -------
    DistributedFolder
        The weights under the names that they have in the state dict, without the key of the container that it was
        saved in (``model``, ``app.model``); then what was saved beside them.

    Raises
    ------
    CorruptCheckpointError
        The description is damaged, or contradicts itself or the files: pieces that overlap, leave a hole or lie
        outside.
    UnsafeCheckpointError
        It asks for more than names of torch, or for a file outside the folder.
    ModelNotFoundError, UnsupportedModelError
        A file is missing; there are no weights.
    """
    described = _read_description(path)
    _check_pieces(path, described)
    weights, training = _parted(path, described)
    leaves = {id(leaf): tensor for leaf, tensor in weights}
    content = _nested(path, [(tensor.keys, leaf) for leaf, tensor in weights])
    names = name_tensors(path, find_weights(path, _unwrapped(content)))
    infos = {name: names[name].describe(name) for name in sorted(names, key=natural_order)}
    values = {name: leaves[id(leaf)] for name, leaf in names.items()}
    for name, info in infos.items():
        packing = next((piece.packing for piece in values[name].pieces if piece.packing is not None), None)
        if packing is not None:
            reason = f"packed by {packing}, which is not read: save without extensions"
            infos[name] = TensorInfo(name=name, shape=info.shape, dtype=info.dtype, refusal=reason)
    infos.update({info.name: info for info in list_outside(path, content, names)})
    for tensor, key in training:
        name = tensor.name if tensor.name not in infos else f"(training) {tensor.name}"
        reason = TRAINING_TENSOR.format(key=key)
        infos[name] = TensorInfo(name=name, shape=tensor.shape, dtype=tensor.dtype, refusal=reason, counted_in=key)
    return DistributedFolder(path=path, infos=infos, values=values)


def _read_description(path: Path) -> tuple[SplitTensor, ...]:
    file = path_inside(path, path / METADATA_FILE, METADATA_FILE)
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_METADATA_BYTES + 1)
    except OSError as error:
        raise ModelError(f"{file}: cannot be read: {error.strerror}") from error
    if len(data) > MAX_METADATA_BYTES:
        raise CorruptCheckpointError(f"{file}: larger than {MAX_METADATA_BYTES} bytes")
    try:
        return read_metadata(data)
    except LongPickleError as error:
        raise UnsupportedModelError(
            f"{file}: describes more pieces than are read ({error}): put them together with "
            "torch.distributed.checkpoint.format_utils.dcp_to_torch_save"
        ) from error
    except MalformedPickleError as error:
        raise CorruptCheckpointError(
            f"{file}: not a readable description of a distributed checkpoint ({error})"
        ) from error
    except ForbiddenPickleError as error:
        raise unsafe(file, error) from error


def _check_pieces(path: Path, tensors: tuple[SplitTensor, ...]) -> None:
    """Demand that pieces fill their tensors, lie in their files, and share no bytes there."""
    budget = Budget()
    places: dict[str, list[tuple[int, int, str]]] = {}
    for tensor in tensors:
        boxes = [(piece.offsets, piece.sizes) for piece in tensor.pieces]
        problem = why_not_tiled(tensor.shape, boxes, budget)
        if problem is not None:
            raise CorruptCheckpointError(f"{path}: tensor {tensor.name[:200]!r}: {problem}")
        for piece in tensor.pieces:
            n_bytes = math.prod(piece.sizes) * ITEM_BYTES[tensor.dtype]
            if piece.packing is None and n_bytes > piece.end - piece.begin:
                raise CorruptCheckpointError(
                    f"{path}: tensor {tensor.name[:200]!r}: the piece at {list(piece.offsets)} has {n_bytes} bytes "
                    f"of values in {piece.end - piece.begin} of the file {piece.file[:100]!r}"
                )
            places.setdefault(piece.file, []).append((piece.begin, piece.end, tensor.name))
    for file, ranges in places.items():
        _check_ranges(path, file, ranges)


def _check_ranges(path: Path, file: str, ranges: list[tuple[int, int, str]]) -> None:
    inside = path_inside(path, path / METADATA_FILE, file)
    try:
        n_file = inside.stat().st_size
    except OSError as error:
        raise ModelError(f"{path / METADATA_FILE}: {file[:100]!r} cannot be read: {error.strerror}") from error
    reached, last = 0, ""
    for begin, end, name in sorted(ranges):
        if begin < reached:
            raise CorruptCheckpointError(
                f"{path}: tensors {last[:200]!r} and {name[:200]!r} share bytes of {file[:100]!r}"
            )
        if end > n_file:
            raise CorruptCheckpointError(
                f"{path}: tensor {name[:200]!r} ends at byte {end}, outside the {n_file} bytes of {file[:100]!r} "
                "(truncated, or a damaged description)"
            )
        reached, last = end, name


def _parted(
    path: Path, tensors: tuple[SplitTensor, ...]
) -> tuple[list[tuple[StoredTensor, SplitTensor]], list[tuple[SplitTensor, str]]]:
    """Return the weights, each with the tensor that stands for it in a state dict, and the state of the training."""
    weights: list[tuple[StoredTensor, SplitTensor]] = []
    training: list[tuple[SplitTensor, str]] = []
    for tensor in tensors:
        key = _training_key(tensor)
        if key is not None:
            training.append((tensor, key))
        else:
            strides = (0,) * len(tensor.shape)
            weights.append((StoredTensor(dtype=tensor.dtype, shape=tensor.shape, strides=strides), tensor))
    if not weights:
        raise UnsupportedModelError(
            f"{path}: holds no weights, only {len(training)} tensors of the state of the training"
            if training
            else f"{path}: holds no tensors"
        )
    return weights, training


def _training_key(tensor: SplitTensor) -> str | None:
    """Return the key under which a tensor belongs to the training, as an optimizer's moments do, or None.

    The parts of a module's name are one key: a layer called ``scaler`` is none.
    """
    keys = [str(key) for key in tensor.keys[:-1]]
    if tensor.keys == (tensor.name,):
        # No keys are known. What an optimizer's state dict holds, is called state.
        parts = tensor.name.split(".")
        keys = parts[:1] if len(parts) > 1 else []
        keys += [part for part, inner in pairwise(parts) if inner == "state"]
    return next((key for key in keys if is_training_state(key)), None)


def _nested(path: Path, leaves: list[tuple[tuple[Any, ...], StoredTensor]]) -> dict[Any, Any]:
    """Return the state dict that the keys of its tensors describe."""
    content: dict[Any, Any] = {}
    for keys, leaf in leaves:
        inner: Any = content
        for key in keys[:-1]:
            inner = inner.setdefault(_key(key), {}) if isinstance(inner, dict) else None
        if len(keys) > MAX_KEYS or not isinstance(inner, dict) or _key(keys[-1]) in inner:
            shown = ".".join(str(key)[:40] for key in keys[:8])
            raise CorruptCheckpointError(f"{path}: two tensors, or too many keys, at {shown!r}")
        inner[_key(keys[-1])] = leaf
    return content


def _key(key: Any) -> Any:
    return key if type(key) in (str, int) else str(key)


def _unwrapped(content: dict[Any, Any]) -> dict[Any, Any]:
    """Return what lies in a wrapper of one key (``app``), where the container of the weights is inside."""
    while len(content) == 1:
        key, inner = next(iter(content.items()))
        if key in CONTAINER_KEYS or not isinstance(inner, dict):
            return content
        if not any(isinstance(inner.get(name), dict) for name in CONTAINER_KEYS):
            return content
        content = inner
    return content
