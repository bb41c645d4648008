"""Folders that trainings leave: which of them hold weights that are read, and what to do about the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spectral.errors import ModelError, UnsupportedModelError
from spectral.loaders.dcp_folder import METADATA_FILE, PIECES_SUFFIX, open_distributed
from spectral.loaders.deepspeed_folder import find_latest, is_deepspeed, open_deepspeed

if TYPE_CHECKING:
    from pathlib import Path

    from spectral.loaders.protocol import TensorSource

ACCELERATE_FOLDER = "pytorch_model_fsdp_0"
"""Where Accelerate, and so the trainer of transformers, puts the weights of a sharded training."""

RANK_METADATA_FILE = "__0.metadata"
"""What ``torch.distributed.checkpoint`` writes for each process where these do not talk to each other."""

ORBAX_FILES = ("_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt")
"""What Orbax (``orbax.checkpoint``) writes in the folder of a checkpoint, some of them in those inside it."""

MAX_LOOKED_AT = 100


def open_training(path: Path) -> TensorSource | None:
    """Open a folder that is itself a checkpoint of a distributed training, or return None where it is none."""
    if (path / METADATA_FILE).is_file() and any(path.glob(f"*{PIECES_SUFFIX}")):
        return open_distributed(path)
    return open_deepspeed(path) if is_deepspeed(path) else None


def open_inside(path: Path) -> TensorSource | None:
    """Open the checkpoint inside the folder of a training that has no weights of its own, or return None.

    Raises
    ------
    UnsupportedModelError
        It is of a kind that is not read; the message says what to do.
    UnsafeCheckpointError, ModelNotFoundError
        It names a folder outside, or one that is not there.
    """
    latest = find_latest(path)
    if latest is not None:
        return open_deepspeed(latest)
    if (path / ACCELERATE_FOLDER / METADATA_FILE).is_file():
        return open_distributed(path / ACCELERATE_FOLDER)
    if (path / RANK_METADATA_FILE).is_file():
        raise UnsupportedModelError(
            f"{path}: a distributed checkpoint with a description for each process is not read: "
            "save with torch.distributed.checkpoint.save(.., use_collectives=True)"
        )
    if _is_orbax(path):
        raise UnsupportedModelError(
            f"{path}: a checkpoint of Orbax is not read: restore it with orbax.checkpoint and write its params with "
            "flax.serialization.to_bytes to a .msgpack file, or with numpy.savez"
        )
    return None


def _is_orbax(path: Path) -> bool:
    """Tell whether a folder is a checkpoint of Orbax, or has some as its steps."""
    try:
        inner = [folder for _, folder in zip(range(MAX_LOOKED_AT), path.iterdir(), strict=False)]
    except OSError as error:
        raise ModelError(f"{path}: cannot be listed: {error.strerror}") from error
    return any((folder / name).is_file() for folder in (path, *inner) for name in ORBAX_FILES)
