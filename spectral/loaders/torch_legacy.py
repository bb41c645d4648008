"""Files of torch that are no archive: the formats before torch 1.6 are refused, with the way out.

What their pickles would run is looked for all the same: nobody should be told to load such a file with torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spectral.errors import CorruptCheckpointError, ModelError, UnsafeCheckpointError, UnsupportedModelError
from spectral.loaders.pickle_machine import ForbiddenPickleError, MalformedPickleError, Name, read_next_pickle
from spectral.loaders.torch_pickle import TorchVocabulary

if TYPE_CHECKING:
    from pathlib import Path

MAX_LOOKED_AT = 1 << 25
"""Bytes from the beginning: the pickles come before the values."""

_N_PICKLES = 5
"""A magic number, a version, the machine, the content, the names of the storages."""

_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_TAR_MAGIC, _TAR_MAGIC_AT = b"ustar", 257

_WAY_OUT = "save it again with torch.save(torch.load(path, weights_only=True), path), or convert it to safetensors"


class _Names(TorchVocabulary):
    """Knows the same names; what they would build is of no interest."""

    def call(self, name: Name, arguments: tuple[Any, ...]) -> Any:
        del name, arguments
        return {}

    def persistent(self, reference: Any) -> Any:
        del reference
        return {}

    def set_state(self, value: Any, state: Any) -> None:
        del value, state


def why_no_archive(path: Path) -> ModelError:
    """Return the error that a torch file which is no archive deserves.

    Raises
    ------
    OSError
        It cannot be read.
    """
    with path.open("rb") as stream:
        data = stream.read(MAX_LOOKED_AT)
    if data[_TAR_MAGIC_AT:].startswith(_TAR_MAGIC):
        return UnsupportedModelError(
            f"{path}: a tar archive, the format of torch before 0.1.10, is not read: {_WAY_OUT}"
        )
    at = 0
    try:
        for _ in range(_N_PICKLES):
            _, at = read_next_pickle(data, _Names({}), at)
    except ForbiddenPickleError as error:
        return unsafe(path, error)
    except MalformedPickleError as error:
        if not data.startswith(_MAGIC):
            return CorruptCheckpointError(f"{path}: not a readable torch file ({error})")
    if data.startswith(_MAGIC):
        return UnsupportedModelError(f"{path}: the format of torch before 1.6 is not read: {_WAY_OUT}")
    return CorruptCheckpointError(f"{path}: not a readable torch file (a pickle that torch did not write)")


def unsafe(path: Path, error: ForbiddenPickleError) -> UnsafeCheckpointError:
    """Return the error of a file whose pickle does more than describe tensors."""
    does = f"asks for {error.name}, which is code and not weights" if error.name else "does more than hold weights"
    return UnsafeCheckpointError(
        f"{path}: unsafe: its pickle {does}; nothing was run. Save the state dict alone, or convert it to safetensors"
    )
