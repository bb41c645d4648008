"""Weights of ZeRO stage 3: every process has a part of each parameter, in one flat tensor of its optimizer.

The rules are those of ``deepspeed/utils/zero_to_fp32.py``. ``param_shapes`` gives the parameters in the order in which
they were laid out. Each is padded to a multiple of the number of processes and cut into as many equal parts; the parts
of one process stand one after the other in its ``fp32_flat_groups``. Frozen parameters have no place there: their parts
are in ``frozen_param_fragments`` of every process, in the type that they compute with.

The values are the float32 copy that the optimizer works on, as ``zero_to_fp32.py`` gives them out: a model that
computes in 16 bits rounds them, and keeps no other copy in the checkpoint.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from spectral.errors import CorruptCheckpointError, UnsupportedModelError
from spectral.loaders.byte_runs import Run, RunSource
from spectral.loaders.dtypes import why_not_float
from spectral.loaders.inside import path_inside
from spectral.loaders.pickle_machine import Record
from spectral.loaders.protocol import TensorInfo
from spectral.loaders.state_dict import name_tensors
from spectral.loaders.torch_archive import TorchArchive, read_archive
from spectral.loaders.torch_pickle import ITEM_BYTES, StoredTensor

if TYPE_CHECKING:
    from pathlib import Path

    Shape = tuple[int, ...]

_OPTIMIZER = re.compile(r"(?:bf16_|fp16_)?zero_pp_rank_(\d+)_mp_rank_\d+_optim_states\.pt")

_UNEVEN = "its parameters are partitioned unevenly (experts)"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    """What the file of the first process says."""

    archive: TorchArchive = field(repr=False)
    stored: Mapping[str, StoredTensor] = field(repr=False)
    """Buffers, and parameters without values."""
    shapes: Mapping[str, Shape] = field(repr=False)
    """Of the parameters, in the order in which they are laid out."""
    frozen: Mapping[str, Shape] = field(repr=False)
    shared: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Flat:
    """The flat tensors of one process, as one: where each of them begins, and its bytes."""

    starts: tuple[int, ...]
    runs: tuple[Run, ...]
    n_values: int
    dtype: str

    def cut(self, begin: int, end: int) -> list[Run]:
        """Return the bytes of the values from one to another."""
        itemsize = ITEM_BYTES[self.dtype]
        found = []
        for start, run in zip(self.starts, self.runs, strict=True):
            n_values = (run.end - run.begin) // itemsize
            low, high = max(begin - start, 0), min(end - start, n_values)
            if low < high:
                found.append(Run(path=run.path, begin=run.begin + low * itemsize, end=run.begin + high * itemsize))
        return found


def open_stage3(path: Path, models: list[str]) -> RunSource:
    """Open the folder of a checkpoint of stage 3.

    Parameters
    ----------
    path : Path
        The folder.
    models : list of str
        Its files of model states, that of the first process first.

    Raises
    ------
    CorruptCheckpointError
        A file is missing or damaged, or the partitions do not fill the parameters.
    UnsupportedModelError
        The parameters are not partitioned evenly over all processes.
    """
    model = _read_model(path_inside(path, path, models[0]))
    flats = _read_flats(path, len(models))
    infos: dict[str, TensorInfo] = {}
    runs: dict[str, tuple[Run, ...]] = {}
    laid = _lay_out(path, model.shapes, flats)
    fragments = _read_fragments(path, models, model) if model.frozen else {}
    names = [*model.stored, *model.shapes, *model.frozen, *model.shared]
    for name in dict.fromkeys(names):
        if name in laid:
            infos[name] = TensorInfo(name=name, shape=model.shapes[name], dtype=flats[0].dtype)
            runs[name] = laid[name]
        elif name in fragments:
            dtype, runs[name] = fragments[name]
            infos[name] = TensorInfo(name=name, shape=model.frozen[name], dtype=dtype, refusal=why_not_float(dtype))
        elif model.shared.get(name) in laid:
            whole = model.shared[name]
            shape = model.shapes[whole]
            infos[name] = TensorInfo(
                name=name, shape=shape, dtype=flats[0].dtype, refusal=f"tied to {whole}", counted_in=whole
            )
        elif name in model.stored:
            infos[name], runs[name] = _stored(model.archive, name, model.stored[name])
        else:
            infos[name] = TensorInfo(name=name, shape=(), dtype="float32", refusal="shared with an unknown parameter")
    return RunSource(path=path, infos=infos, runs={name: found for name, found in runs.items() if found})


def _read_model(file: Path) -> _Model:
    archive = read_archive(file)
    content = archive.content
    module = content.get("module") if isinstance(content, Mapping) else None
    groups = content.get("param_shapes") if isinstance(content, Mapping) else None
    if not isinstance(module, Mapping) or not isinstance(groups, list):
        raise CorruptCheckpointError(f"{file}: holds no 'module' and 'param_shapes' of ZeRO stage 3")
    if archive.is_big_endian:
        raise UnsupportedModelError(f"{file}: was written on a machine of another byte order")
    if content.get("ds_autoep_layers") or content.get("autoep_layers"):
        raise UnsupportedModelError(f"{file}: {_UNEVEN}: convert it with deepspeed/checkpoint/ds_to_universal.py")
    shapes: dict[str, Shape] = {}
    for group in groups:
        shapes.update(_shapes(file, group))
    shared = content.get("shared_params")
    pairs = shared.items() if isinstance(shared, Mapping) else []
    return _Model(
        archive=archive,
        stored=name_tensors(file, module),
        shapes=shapes,
        frozen=_shapes(file, content.get("frozen_param_shapes") or {}),
        shared={name: whole for name, whole in pairs if isinstance(name, str) and isinstance(whole, str)},
    )


def _shapes(file: Path, group: Any) -> dict[str, Shape]:
    if not isinstance(group, Mapping):
        raise CorruptCheckpointError(f"{file}: 'param_shapes' are no shapes")
    for name, shape in group.items():
        is_shape = isinstance(shape, tuple) and all(type(n) is int and 0 <= n < 1 << 48 for n in shape)
        if not isinstance(name, str) or not is_shape or len(shape) > 64:
            raise CorruptCheckpointError(f"{file}: tensor {str(name)[:200]!r}: no shape in 'param_shapes'")
    return dict(group)


def _read_flats(path: Path, n_processes: int) -> list[_Flat]:
    """Return the flat tensors of every process, in the order of their ranks."""
    files = {int(match[1]): file.name for file in path.iterdir() if (match := _OPTIMIZER.fullmatch(file.name))}
    if sorted(files) != list(range(len(files))) or not files:
        raise CorruptCheckpointError(f"{path}: the files of the optimizers' states are not those of ranks 0, 1, ..")
    if len(files) != n_processes:
        raise CorruptCheckpointError(
            f"{path}: holds model states of {n_processes} processes and optimizer states of {len(files)}"
        )
    flats = [_read_flat(path_inside(path, path, files[rank]), len(files)) for rank in range(len(files))]
    for rank, flat in enumerate(flats):
        if (flat.n_values, flat.dtype) != (flats[0].n_values, flats[0].dtype):
            raise CorruptCheckpointError(
                f"{path}: the partition of rank {rank} has {flat.n_values} values, that of rank 0 {flats[0].n_values}"
            )
    return flats


def _read_flat(file: Path, n_processes: int) -> _Flat:
    archive = read_archive(file)
    content = archive.content
    state = content.get("optimizer_state_dict") if isinstance(content, Mapping) else None
    groups = state.get("fp32_flat_groups") if isinstance(state, Mapping) else None
    if not isinstance(state, Mapping) or not isinstance(groups, list) or not groups:
        raise CorruptCheckpointError(f"{file}: holds no 'fp32_flat_groups' of ZeRO stage 3")
    if archive.is_big_endian:
        raise UnsupportedModelError(f"{file}: was written on a machine of another byte order")
    count = state.get("partition_count")
    counts = count if isinstance(count, list) else [count]
    if any(type(n) is int and n != n_processes for n in counts) or state.get("ds_zero_partition_groups"):
        raise UnsupportedModelError(
            f"{file}: {_UNEVEN}, or files are missing: it was saved by {str(count)[:40]} processes, "
            f"and {n_processes} are here"
        )
    runs = [_flat_run(archive, file, group) for group in groups]
    dtypes = {group.dtype for group in groups}
    sizes = [group.n_values for group in groups]
    if len(dtypes) != 1:
        raise CorruptCheckpointError(f"{file}: its 'fp32_flat_groups' have {len(dtypes)} types")
    return _Flat(
        starts=tuple(accumulate(sizes, initial=0))[:-1], runs=tuple(runs), n_values=sum(sizes), dtype=dtypes.pop()
    )


def _flat_run(archive: TorchArchive, file: Path, tensor: Any) -> Run:
    if isinstance(tensor, Record) or not isinstance(tensor, StoredTensor):
        raise CorruptCheckpointError(f"{file}: its 'fp32_flat_groups' are no tensors")
    if tensor.storage is None or not tensor.is_contiguous or tensor.is_negative or why_not_float(tensor.dtype):
        raise CorruptCheckpointError(f"{file}: its 'fp32_flat_groups' are no flat tensors of float32")
    begin = archive.ranges[tensor.storage.key][0] + tensor.offset
    return Run(path=file, begin=begin, end=begin + tensor.n_values * tensor.itemsize)


def _lay_out(path: Path, shapes: Mapping[str, Shape], flats: list[_Flat]) -> dict[str, tuple[Run, ...]]:
    """Return where the parts of each parameter are: rank after rank, the padding at the end left out."""
    n_processes, n_values = len(flats), flats[0].n_values
    laid: dict[str, tuple[Run, ...]] = {}
    at = 0
    for name, shape in shapes.items():
        n_whole = math.prod(shape)
        n_part = -(-n_whole // n_processes)
        if at + n_part > n_values:
            raise CorruptCheckpointError(
                f"{path}: tensor {name[:200]!r} ends at value {at + n_part} of partitions of {n_values}"
            )
        parts: list[Run] = []
        for rank, flat in enumerate(flats):
            n_own = min(n_part, n_whole - rank * n_part)
            if n_own > 0:
                parts.extend(flat.cut(at, at + n_own))
        laid[name] = tuple(parts)
        at += n_part
    if at != n_values:
        raise CorruptCheckpointError(f"{path}: the parameters take {at} values of each partition of {n_values}")
    return laid


def _read_fragments(path: Path, models: list[str], first: _Model) -> dict[str, tuple[str, tuple[Run, ...]]]:
    """Return the type of each frozen parameter, and where its parts are."""
    archives = [first.archive, *(read_archive(path_inside(path, path, name)) for name in models[1:])]
    parts: dict[str, list[Run]] = {name: [] for name in first.frozen}
    dtypes: dict[str, str] = {}
    for archive in archives:
        held = archive.content.get("frozen_param_fragments") if isinstance(archive.content, Mapping) else None
        for name, shape in first.frozen.items():
            fragment = held.get(name) if isinstance(held, Mapping) else None
            if not isinstance(fragment, StoredTensor) or fragment.storage is None or not fragment.is_contiguous:
                raise CorruptCheckpointError(f"{archive.path}: tensor {name[:200]!r}: no part of it is there")
            if dtypes.setdefault(name, fragment.dtype) != fragment.dtype:
                raise CorruptCheckpointError(f"{archive.path}: tensor {name[:200]!r}: another type than at rank 0")
            n_left = math.prod(shape) - sum(run.end - run.begin for run in parts[name]) // fragment.itemsize
            begin = archive.ranges[fragment.storage.key][0] + fragment.offset
            n_own = min(fragment.n_values, n_left)
            parts[name].append(Run(path=archive.path, begin=begin, end=begin + n_own * fragment.itemsize))
    for name, shape in first.frozen.items():
        if sum(run.end - run.begin for run in parts[name]) != math.prod(shape) * ITEM_BYTES[dtypes[name]]:
            raise CorruptCheckpointError(
                f"{path}: tensor {name[:200]!r}: its parts do not fill its shape {list(shape)}"
            )
    return {name: (dtypes[name], tuple(parts[name])) for name in first.frozen}


def _stored(archive: TorchArchive, name: str, tensor: StoredTensor) -> tuple[TensorInfo, tuple[Run, ...]]:
    """Return a tensor whose values are in the file of the first process: a buffer."""
    info = tensor.describe(name)
    if tensor.storage is None:
        return info, ()
    if not tensor.is_contiguous or tensor.is_negative:
        return replace(info, refusal="a view of another tensor is not read here"), ()
    begin = archive.ranges[tensor.storage.key][0] + tensor.offset
    return info, (Run(path=archive.path, begin=begin, end=begin + tensor.n_values * tensor.itemsize),)
