"""Read ``.pt``, ``.pth`` and ``.bin`` files that ``torch.save`` wrote, through torch's restricted unpickler."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from spectral.errors import (
    CorruptCheckpointError,
    MissingDependencyError,
    ModelError,
    ModelNotFoundError,
    UnsafeCheckpointError,
    UnsupportedModelError,
)
from spectral.loaders.memory import is_torch_tensor
from spectral.loaders.torch_tensor import describe_torch_tensor, torch_to_numpy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    from spectral.loaders.protocol import TensorInfo

CONTAINER_KEYS = ("state_dict", "model_state_dict", "model", "module", "params", "net", "ema", "weights")
"""Where training frameworks put the weights inside what they save, in the order they are tried."""

TRAINING_STATE_WORDS = ("optim", "sched", "scaler", "rng")
"""Top-level entries with one of these in their name hold the state of the training, not weights."""

_ZIP_MAGIC = b"PK\x03\x04"
_MAX_NESTING = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchFile:
    """One file of ``torch.save``; tensors are mapped from it and read when loaded."""

    path: Path
    infos: dict[str, TensorInfo] = field(repr=False)
    values: Mapping[str, Any] = field(repr=False)

    @property
    def label(self) -> str:
        return str(self.path)

    def tensors(self) -> tuple[TensorInfo, ...]:
        return tuple(self.infos.values())

    def load(self, name: str) -> NDArray[Any]:
        return torch_to_numpy(self.label, name, self.values[name])

    def __reduce__(self) -> tuple[Any, ...]:
        return (open_torch_file, (self.path,))


def open_torch_file(path: Path) -> TorchFile:
    """Open a file of ``torch.save`` without executing anything in it.

    Parameters
    ----------
    path : Path
        The file. Zip files are memory-mapped, the legacy format is read whole.

    Raises
    ------
    ModelNotFoundError, CorruptCheckpointError
        The file is missing, empty, truncated, or no torch file.
    UnsafeCheckpointError
        Unpickling it would run code that is not on torch's list of safe names.
    UnsupportedModelError
        It holds no tensors where a state dict is expected.
    MissingDependencyError
        torch is not installed.
    """
    try:
        with path.open("rb") as stream:
            magic = stream.read(len(_ZIP_MAGIC))
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"{path}: no such file") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    if not magic:
        raise CorruptCheckpointError(f"{path}: the file is empty")
    content = _unpickle(path, is_zip=magic == _ZIP_MAGIC)
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in _flatten(_weights_of(path, content), prefix="", depth=0):
        if name in tensors:
            raise CorruptCheckpointError(f"{path}: two tensors would be named {name[:200]!r}")
        tensors[name] = tensor
    if not tensors:
        raise UnsupportedModelError(f"{path}: holds no tensors")
    infos = {name: describe_torch_tensor(name, tensor) for name, tensor in tensors.items()}
    return TorchFile(path=path, infos=infos, values=tensors)


def _unpickle(path: Path, *, is_zip: bool) -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError(
            f"{path}: reading torch files needs torch: pip install 'pytest-weightwatcher[torch]'"
        ) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise _explain(path, error) from error
    except (RuntimeError, ValueError, EOFError, KeyError, TypeError, AttributeError, IndexError, OSError) as error:
        # torch reports damaged archives through whatever its readers raise.
        raise CorruptCheckpointError(f"{path}: not a readable torch file ({_first_line(error)})") from error


def _explain(path: Path, error: pickle.UnpicklingError) -> ModelError:
    text = str(error)
    for needle in ("Unsupported global: GLOBAL ", "Trying to load unsupported GLOBAL ", "unsupported GLOBAL "):
        if needle in text:
            name = text.split(needle, 1)[1].split(maxsplit=1)[0]
            return UnsafeCheckpointError(
                f"{path}: unsafe: its pickle asks for {name}, which is code and not weights; nothing was run. "
                "Save the state dict alone, or convert it to safetensors"
            )
    if "TorchScript" in text:
        return UnsupportedModelError(f"{path}: a TorchScript archive, which is not read yet; save its state dict")
    if "Unsupported" in text or "not allowed" in text or "Can only" in text:
        return UnsafeCheckpointError(f"{path}: unsafe: its pickle does more than hold weights; nothing was run")
    return CorruptCheckpointError(f"{path}: not a readable torch file ({_first_line(error)})")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _weights_of(path: Path, content: Any) -> Mapping[Any, Any]:
    """Return the mapping that holds the weights inside what was saved."""
    if is_torch_tensor(content):
        return {"tensor": content}
    if not isinstance(content, Mapping):
        raise UnsupportedModelError(
            f"{path}: holds a {type(content).__name__}, expected a state dict (names to tensors)"
        )
    if any(is_torch_tensor(value) for value in content.values()):
        return content
    for key in CONTAINER_KEYS:
        inner = content.get(key)
        if isinstance(inner, Mapping) and any(True for _ in _flatten(inner, prefix="", depth=0)):
            return _weights_of(path, inner)
    parts = {
        key: value
        for key, value in content.items()
        if isinstance(value, Mapping) and not any(word in str(key).lower() for word in TRAINING_STATE_WORDS)
    }
    if any(True for _ in _flatten(parts, prefix="", depth=0)):
        return parts
    keys = ", ".join(str(key)[:40] for key in list(content)[:8]) or "none"
    raise UnsupportedModelError(
        f"{path}: no state dict found: its top-level keys are {keys}; looked for tensors, then for "
        f"{', '.join(CONTAINER_KEYS)}"
    )


def _flatten(content: Mapping[Any, Any], *, prefix: str, depth: int) -> Iterator[tuple[str, torch.Tensor]]:
    if depth > _MAX_NESTING:
        return
    for key, value in content.items():
        name = f"{prefix}{key}"
        if is_torch_tensor(value):
            yield name, value
        elif isinstance(value, Mapping):
            yield from _flatten(value, prefix=f"{name}.", depth=depth + 1)
