"""Write checkpoints as DeepSpeed 0.19 does, without it: the dictionaries are those of its own source.

The file of the model is ``_common_checkpoint_state`` of ``deepspeed/runtime/engine.py``; those of the optimizers are
``state_dict`` of ``runtime/zero/stage_1_and_2.py``, ``_rigid_state_dict`` of ``runtime/zero/stage3.py`` and
``state_dict`` of ``runtime/bf16_optimizer.py``. Classes of DeepSpeed are imitated by classes that are pickled under its
names.
"""

from __future__ import annotations

import math
import sys
from argparse import Namespace
from collections import OrderedDict
from enum import IntEnum
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Tensors = Mapping[str, torch.Tensor]


class LossScaler:
    """``deepspeed.runtime.fp16.loss_scaler.LossScaler``."""

    def __init__(self) -> None:
        self.cur_scale, self.dynamic = 1.0, False


class FragmentAddress:
    """``deepspeed.utils.tensor_fragment.fragment_address``."""

    def __init__(self, numel: int, start: int) -> None:
        self.numel, self.start = numel, start


class ZeroStageEnum(IntEnum):
    """``deepspeed.runtime.zero.config.ZeroStageEnum``."""

    optimizer_states = 1
    gradients = 2
    weights = 3


_PLACES = {
    LossScaler: ("deepspeed.runtime.fp16.loss_scaler", "LossScaler"),
    FragmentAddress: ("deepspeed.utils.tensor_fragment", "fragment_address"),
    ZeroStageEnum: ("deepspeed.runtime.zero.config", "ZeroStageEnum"),
}


def deepspeed_modules() -> Iterator[None]:
    """Let the classes here be pickled as those of DeepSpeed, as long as a test runs."""
    kept = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "deepspeed"}
    own = {kind: (kind.__module__, kind.__qualname__) for kind in _PLACES}
    for kind, (place, name) in _PLACES.items():
        parts = place.split(".")
        for n in range(1, len(parts) + 1):
            sys.modules.setdefault(".".join(parts[:n]), ModuleType(".".join(parts[:n])))
        setattr(sys.modules[place], name, kind)
        kind.__module__, kind.__qualname__ = place, name
    yield
    for kind, (place, name) in own.items():
        kind.__module__, kind.__qualname__ = place, name
    for name in [name for name in sys.modules if name.partition(".")[0] == "deepspeed"]:
        del sys.modules[name]
    sys.modules.update(kept)


def model_state(
    module: Tensors | None,
    *,
    shapes: list[OrderedDict[str, torch.Size]] | None = None,
    buffers: tuple[str, ...] = (),
    frozen: Tensors | None = None,
    frozen_shapes: Mapping[str, torch.Size] | None = None,
    shared: Mapping[str, str] | None = None,
    **client_state: Any,
) -> dict[str, Any]:
    """Return what the file of the model holds."""
    return {
        "module": None if module is None else OrderedDict(module),
        "buffer_names": list(buffers),
        "optimizer": None,
        "param_shapes": shapes,
        "frozen_param_shapes": None if frozen_shapes is None else OrderedDict(frozen_shapes),
        "shared_params": None if shared is None else dict(shared),
        "frozen_param_fragments": None if frozen is None else OrderedDict(frozen),
        "lr_scheduler": {"last_batch_iteration": 9, "min_lrs": [0.0]},
        "data_sampler": None,
        "random_ltd": None,
        "skipped_steps": 0,
        "global_steps": 10,
        "global_samples": 160,
        "dp_world_size": 1,
        "mp_world_size": 1,
        "ds_config": {"train_batch_size": 16, "zero_optimization": {"stage": 3}},
        "ds_version": "0.19.8",
        "args": Namespace(lr=0.1, dtype=torch.bfloat16),
        **client_state,
    }


def write_stage_1_or_2(folder: Path, module: Tensors, *, stage: int = 2, prefix: str = "") -> Path:
    """Write a checkpoint of one process whose optimizer is partitioned."""
    folder.mkdir(parents=True)
    shapes = OrderedDict((name, tensor.shape) for name, tensor in module.items())
    torch.save(model_state(module, shapes=[shapes], shared={}), folder / "mp_rank_00_model_states.pt")
    flat = torch.cat([tensor.reshape(-1).float() for tensor in module.values()])
    state = {
        "loss_scaler": LossScaler(),
        "dynamic_loss_scale": False,
        "overflow": False,
        "clip_grad": 0.0,
        "base_optimizer_state": {"state": {0: {"exp_avg": torch.zeros_like(flat), "step": 10}}, "param_groups": []},
        "single_partition_of_fp32_groups": [flat],
        "zero_stage": ZeroStageEnum(stage),
        "group_paddings": [0],
        "param_alignment_paddings": [[0] * len(shapes)],
        "partition_count": [1],
        "ds_version": "0.19.8",
        "param_slice_mappings": [OrderedDict(w=FragmentAddress(3, 0))],
    }
    saved = {"optimizer_state_dict": state, "ds_config": {}, "ds_version": "0.19.8"}
    torch.save(saved, folder / f"{prefix}zero_pp_rank_0_mp_rank_00_optim_states.pt")
    return folder


def write_stage_3(
    folder: Path,
    parameters: Tensors,
    *,
    n_processes: int = 2,
    n_groups: int = 2,
    frozen: Tensors | None = None,
    buffers: Tensors | None = None,
    shared: Mapping[str, str] | None = None,
    prefix: str = "bf16_",
) -> Path:
    """Write a checkpoint of several processes whose parameters are partitioned, cut into groups of parameters."""
    folder.mkdir(parents=True)
    frozen, buffers, shared = frozen or {}, buffers or {}, shared or {}
    names = list(parameters)
    groups = [names[begin::n_groups] for begin in range(n_groups)]
    order = [name for group in groups for name in group]
    shapes = [OrderedDict((name, parameters[name].shape) for name in group) for group in groups]
    placeholders = {name: torch.empty(0, dtype=torch.bfloat16) for name in [*order, *frozen, *shared]}
    for rank in range(n_processes):
        state = model_state(
            {**placeholders, **buffers},
            shapes=shapes,
            buffers=tuple(buffers),
            frozen={name: part(tensor, rank, n_processes) for name, tensor in frozen.items()},
            frozen_shapes={name: tensor.shape for name, tensor in frozen.items()},
            shared=shared,
        )
        torch.save(state, folder / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt")
        flats = [torch.cat([part(parameters[name].float(), rank, n_processes) for name in group]) for group in groups]
        optimizer = {
            "zero_stage": ZeroStageEnum.weights,
            "loss_scaler": LossScaler(),
            "dynamic_loss_scale": False,
            "overflow": False,
            "partition_count": n_processes,
            "optimizer_state_dict": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []},
            "fp32_flat_groups": flats,
        }
        saved = {"optimizer_state_dict": optimizer, "ds_config": {}, "ds_version": "0.19.8"}
        torch.save(saved, folder / f"{prefix}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    return folder


def part(tensor: torch.Tensor, rank: int, n_processes: int) -> torch.Tensor:
    """Return what one process has of a parameter: padded, and cut into equal parts."""
    n_part = math.ceil(tensor.numel() / n_processes)
    padded = torch.full((n_part * n_processes,), 7.0, dtype=tensor.dtype)
    padded[: tensor.numel()] = tensor.reshape(-1)
    return padded[rank * n_part : (rank + 1) * n_part].clone()
