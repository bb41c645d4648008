"""Checkpoint folders of DeepSpeed: every ZeRO stage, and universal checkpoints.

``engine.save_checkpoint`` (``deepspeed/runtime/engine.py``) writes ``latest`` with the name of a subfolder, and there

- ``mp_rank_00_model_states.pt`` with the state dict of the module under ``module`` (no ZeRO, stages 1 and 2). That is
  what the model computes with, and what is read; the float32 copy that the optimizer keeps is not opened;
- at stage 3 ``zero_pp_rank_<n>_mp_rank_00_model_states.pt``, whose ``module`` has no values: they are put together
  from the optimizers' files (:mod:`spectral.loaders.deepspeed_stage3`);
- ``layer_<l>_expert_<e>_mp_rank_00_model_states.pt`` for each expert, and ``layer_<n>-model_00-model_states.pt`` for
  each layer of a pipeline.

A universal checkpoint (``deepspeed/checkpoint/ds_to_universal.py``) has ``zero/<parameter>/fp32.pt`` for each
parameter, and the buffers in ``mp_rank_00_model_states.pt``. The weights of tensor-parallel training are cut in ways
that the files do not tell: they are refused, with the way out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from spectral.errors import CorruptCheckpointError, ModelError, UnsupportedModelError
from spectral.loaders.deepspeed_stage3 import open_stage3
from spectral.loaders.inside import path_inside
from spectral.loaders.naming import natural_order
from spectral.loaders.spans import read_span, stream_of
from spectral.loaders.state_dict import list_outside, name_tensors
from spectral.loaders.torch_archive import read_archive
from spectral.loaders.torch_file import TorchFile, tensors_of, weights_in
from spectral.loaders.torch_pickle import StoredTensor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from spectral.loaders.protocol import TensorInfo, TensorSource
    from spectral.loaders.torch_archive import TorchArchive

LATEST_FILES = ("latest", "latest_universal")
"""Each holds the name of the subfolder with the newest checkpoint."""

UNIVERSAL_FOLDER, UNIVERSAL_WEIGHT = "zero", "fp32.pt"

FROZEN_COPIES = "frozen_param_fragments"

MAX_FILES = 200_000
MAX_TAG = 1000

_MODEL = re.compile(r"mp_rank_(\d+)(_\d+)?_model_states\.pt")
_STAGE3 = re.compile(r"zero_pp_rank_(\d+)_mp_rank_(\d+)_model_states\.pt")
_EXPERT = re.compile(r"(layer_\d+_)?expert_\d+_mp_rank_(\d+)_model_states\.pt")
_LAYER = re.compile(r"layer_(\d+)(?:-model_(\d+))?-model_states\.pt")

_WAY_OUT = (
    "convert it with deepspeed/checkpoint/ds_to_universal.py, or save the model with engine.save_16bit_model(folder)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedFiles:
    """Tensors of several files of torch under names of their own."""

    path: Path
    infos: dict[str, TensorInfo] = field(repr=False)
    places: Mapping[str, TorchFile] = field(repr=False)
    """Name -> the file that holds it, under the same name."""

    @property
    def label(self) -> str:
        return str(self.path)

    def tensors(self) -> tuple[TensorInfo, ...]:
        return tuple(self.infos.values())

    def load(self, name: str) -> NDArray[Any]:
        return self._place(name).load(name)

    def load_span(self, name: str, begin: int, end: int) -> NDArray[Any]:
        return read_span(self._place(name), name, begin, end)

    def stream(self, name: str) -> Iterator[memoryview] | None:
        return stream_of(self._place(name), name)

    def _place(self, name: str) -> TorchFile:
        refusal = self.infos[name].refusal
        if refusal is not None:
            raise ModelError(f"{self.path}: tensor {name!r}: {refusal}")
        return self.places[name]


def is_deepspeed(path: Path) -> bool:
    """Tell whether a folder holds the files of a checkpoint of DeepSpeed."""
    try:
        if any((path / UNIVERSAL_FOLDER).glob(f"*/{UNIVERSAL_WEIGHT}")):
            return True
        return any(
            pattern.fullmatch(file.name) for file in path.iterdir() for pattern in (_MODEL, _STAGE3, _LAYER, _EXPERT)
        )
    except OSError:
        return False


def find_latest(path: Path) -> Path | None:
    """Return the folder inside that a training with DeepSpeed calls its latest, or None.

    Raises
    ------
    UnsafeCheckpointError, ModelNotFoundError
        ``latest`` names a folder outside, or one that is not there.
    """
    for name in LATEST_FILES:
        file = path / name
        if not file.is_file():
            continue
        try:
            with file.open("rb") as stream:
                tag = stream.read(MAX_TAG).decode("utf-8", "replace").strip()
        except OSError as error:
            raise ModelError(f"{file}: cannot be read: {error.strerror}") from error
        folder = path_inside(path, file, tag)
        if is_deepspeed(folder):
            return folder
    return None


def open_deepspeed(path: Path) -> TensorSource:
    """Open the folder with the files of a DeepSpeed checkpoint.

    Raises
    ------
    UnsupportedModelError
        Its weights are cut by tensor parallelism, or in another way that the files do not tell.
    CorruptCheckpointError, UnsafeCheckpointError
        A file is damaged or asks for more than data; files contradict each other.
    """
    names = _listed(path)
    if (path / UNIVERSAL_FOLDER).is_dir():
        return _open_universal(path, names)
    models = _of_one_rank(path, names, _MODEL, 1)
    stage3 = _of_one_rank(path, names, _STAGE3, 2)
    if stage3 and models:
        raise UnsupportedModelError(f"{path}: holds files of two checkpoints, {models[0]} and {stage3[0]}: remove one")
    experts = _of_one_rank(path, names, _EXPERT, 2)
    if stage3:
        if experts:
            raise UnsupportedModelError(f"{path}: experts at ZeRO stage 3 are not read: {_WAY_OUT}")
        return open_stage3(path, stage3)
    layers = _of_one_rank(path, names, _LAYER, 2)
    if layers:
        return _open_layers(path, layers)
    if len(models) != 1:
        raise UnsupportedModelError(f"{path}: the model is cut into {len(models)} files: {_WAY_OUT}")
    return _open_module(path, models[0], experts)


def _of_one_rank(path: Path, names: list[str], pattern: re.Pattern[str], group: int) -> list[str]:
    """Return the files of a kind, which are all of the first rank of tensor parallelism."""
    found = [(name, match) for name in names if (match := pattern.fullmatch(name))]
    ranks = sorted({int(match[group] or 0) for _, match in found})
    if ranks not in ([], [0]):
        raise UnsupportedModelError(
            f"{path}: its weights are cut over {len(ranks)} ranks of tensor parallelism (ranks {str(ranks)[:100]}), "
            f"how, the files do not say: {_WAY_OUT}"
        )
    return [name for name, _ in found]


def _listed(path: Path) -> list[str]:
    try:
        names = sorted((file.name for file in path.iterdir()), key=natural_order)
    except OSError as error:
        raise ModelError(f"{path}: cannot be listed: {error.strerror}") from error
    if len(names) > MAX_FILES:
        raise CorruptCheckpointError(f"{path}: holds more than {MAX_FILES} files")
    return names


def _open_module(path: Path, model: str, experts: list[str]) -> TensorSource:
    """Return the state dict of the module, and the experts, which have files of their own."""
    source = module_of(read_archive(path_inside(path, path, model)))
    if not experts:
        return source
    return _join(path, [source, *(weights_in(read_archive(path_inside(path, path, name))) for name in experts)])


def module_of(archive: TorchArchive) -> TorchFile:
    """Return the tensors under ``module``, and what lies beside them; copies of frozen ones are not counted again.

    Raises
    ------
    UnsupportedModelError
        There is no state dict: a pipeline keeps it in other files.
    """
    path, content = archive.path, archive.content
    module = content.get("module") if isinstance(content, Mapping) else None
    if not isinstance(module, Mapping):
        raise UnsupportedModelError(f"{path}: holds no state dict under 'module'")
    tensors = name_tensors(path, module)
    source = tensors_of(archive, tensors)
    for info in list_outside(path, content, tensors):
        original = info.name.removeprefix(f"{FROZEN_COPIES}.")
        is_copy = original != info.name and original in tensors
        source.infos[info.name] = (
            replace(info, refusal=f"a copy of {original}, which is frozen", counted_in=original) if is_copy else info
        )
    return source


def _open_layers(path: Path, layers: list[str]) -> JoinedFiles:
    """Return the layers of a pipeline, each in its file; the number of the layer begins the names."""
    sources = []
    for name in layers:
        archive = read_archive(path_inside(path, path, name))
        match = _LAYER.fullmatch(name)
        assert match is not None, "it was found by this pattern"
        tensors = name_tensors(archive.path, {f"layer_{match[1]}": archive.content})
        sources.append(tensors_of(archive, tensors))
    return _join(path, sources)


def _open_universal(path: Path, names: list[str]) -> JoinedFiles:
    folder = path / UNIVERSAL_FOLDER
    parameters = _listed(folder)
    sources = [
        _universal_parameter(folder, parameter)
        for parameter in parameters
        if (folder / parameter / UNIVERSAL_WEIGHT).is_file()
    ]
    models = [name for name in names if _MODEL.fullmatch(name)]
    if len(models) == 1:
        sources.append(_buffers(path, models[0], set(parameters)))
    return _join(path, sources)


def _universal_parameter(folder: Path, parameter: str) -> TorchFile:
    file = path_inside(folder, folder, f"{parameter}/{UNIVERSAL_WEIGHT}")
    archive = read_archive(file)
    content = archive.content
    value = content.get("param") if isinstance(content, Mapping) else content
    if not isinstance(value, StoredTensor):
        raise CorruptCheckpointError(f"{file}: holds no tensor under 'param'")
    return tensors_of(archive, {parameter: value})


def _buffers(path: Path, model: str, parameters: set[str]) -> TorchFile:
    """Return what only the file of the module has."""
    source = module_of(read_archive(path_inside(path, path, model)))
    for name in parameters:
        source.infos.pop(name, None)
    return source


def _join(path: Path, sources: list[TorchFile]) -> JoinedFiles:
    infos: dict[str, TensorInfo] = {}
    places: dict[str, TorchFile] = {}
    for source in sources:
        for info in source.tensors():
            if info.name in infos:
                raise CorruptCheckpointError(
                    f"{path}: the tensor {info.name[:200]!r} is in two files, {places[info.name].path.name} and "
                    f"{source.path.name}"
                )
            infos[info.name] = info
            places[info.name] = source
    if not infos:
        raise UnsupportedModelError(f"{path}: holds no tensors")
    return JoinedFiles(path=path, infos=infos, places=places)
