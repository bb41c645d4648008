"""Read ``.pt``, ``.pth`` and ``.bin`` files that ``torch.save`` wrote, through torch's restricted unpickler."""

from __future__ import annotations

import copy
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from spectral.errors import (
    CorruptCheckpointError,
    MissingDependencyError,
    ModelError,
    ModelNotFoundError,
    UnsafeCheckpointError,
    UnsupportedModelError,
)
from spectral.loaders.ties import mark_ties
from spectral.loaders.torch_tensor import describe_torch_tensor, is_torch_tensor, torch_to_numpy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    from spectral.loaders.protocol import TensorInfo

CONTAINER_KEYS = ("state_dict", "model_state_dict", "model", "module", "params", "net", "ema", "weights")
"""Where training frameworks put the weights inside what they save, in the order they are tried."""

TRAINING_STATE = re.compile(
    r"optim(izers?)?(_states?(_dict)?)?|(lr_)?schedulers?(_states?(_dict)?)?|(grad_)?scaler(_state(_dict)?)?"
    r"|amp(_state)?|(\w+_)?rng(_states?)?"
)
"""Top-level entries of one of these names hold the state of the training, not weights."""

MIN_TORCH = (2, 10)
"""Earlier torch can be made to run code by a file, ``weights_only`` or not: CVE-2025-32434, CVE-2026-24747."""

_ZIP_MAGIC = b"PK\x03\x04"
_MAX_NESTING = 8

_DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
)
"""What torch and zipfile raise for damaged files: whatever the reader that stumbles happens to raise."""


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

    def load_span(self, name: str, begin: int, end: int) -> NDArray[Any]:
        return torch_to_numpy(self.label, name, self.values[name], (begin, end))

    def load_all(self) -> dict[str, torch.Tensor]:
        # All at once: names that share their memory still share it in the copy.
        return copy.deepcopy(dict(self.values))

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
    for name, tensor in _flatten(_weights_of(path, content)):
        if name in tensors:
            raise CorruptCheckpointError(f"{path}: two tensors would be named {name[:200]!r}")
        tensors[name] = tensor
    if not tensors:
        raise UnsupportedModelError(f"{path}: holds no tensors")
    infos = mark_ties({name: describe_torch_tensor(name, tensor) for name, tensor in tensors.items()}, tensors)
    infos.update({info.name: info for info in _outside(content, tensors)})
    return TorchFile(path=path, infos=infos, values=tensors)


def _unpickle(path: Path, *, is_zip: bool) -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError(
            f"{path}: reading torch files needs torch: pip install 'pytest-weightwatcher[torch]'"
        ) from error
    if tuple(int(part) for part in str(torch.__version__).split(".")[:2]) < MIN_TORCH:
        raise MissingDependencyError(
            f"{path}: torch {torch.__version__} cannot read files safely: update to "
            f"{'.'.join(map(str, MIN_TORCH))} or later, or convert the file to safetensors"
        )
    try:
        if is_zip:
            _check_archive(path)
        with warnings.catch_warnings():
            # Of odd pickle protocols and of TorchScript; what is wrong with those becomes an error of ours.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise _explain(path, error) from error
    except _DAMAGE as error:
        if "TorchScript" in str(error):
            raise _torchscript(path) from error
        raise CorruptCheckpointError(f"{path}: not a readable torch file ({_first_line(error)})") from error


def _check_archive(path: Path) -> None:
    """Demand that entries stand in the archive as they are: torch maps them, and a few bytes cannot claim much."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            kind = "TorchScript: " if any(other.filename.endswith("/constants.pkl") for other in entries) else ""
            raise zipfile.BadZipFile(f"{kind}entry {entry.filename[:100]!r} is compressed, unlike any of torch.save")


def _torchscript(path: Path) -> ModelError:
    return UnsupportedModelError(f"{path}: a TorchScript archive, which is not read yet; save its state dict")


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
        return _torchscript(path)
    if any(needle in text for needle in ("Unsupported class", "unrecognized function", "Can only", "not allowed")) or (
        _names_an_opcode(text)
    ):
        return UnsafeCheckpointError(f"{path}: unsafe: its pickle does more than hold weights; nothing was run")
    return CorruptCheckpointError(f"{path}: not a readable torch file ({_first_line(error)})")


def _names_an_opcode(text: str) -> bool:
    """Tell whether torch stopped at an opcode that it refuses, not at a byte that is none."""
    found = re.search(r"Unsupported operand ([0-9]+)", text)
    return found is not None and chr(int(found[1])) in {opcode.code for opcode in pickletools.opcodes}


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _weights_of(path: Path, content: Any, depth: int = 0) -> Mapping[Any, Any]:
    """Return the mapping that holds the weights inside what was saved."""
    if is_torch_tensor(content):
        return {"tensor": content}
    if not isinstance(content, Mapping):
        raise UnsupportedModelError(
            f"{path}: holds a {type(content).__name__}, expected a state dict (names to tensors)"
        )
    for key in CONTAINER_KEYS if depth < _MAX_NESTING else ():
        inner = content.get(key)
        if isinstance(inner, Mapping) and _holds_tensors(inner):
            return _weights_of(path, inner, depth + 1)
    parts = {
        key: value
        for key, value in content.items()
        if is_torch_tensor(value) or not TRAINING_STATE.fullmatch(str(key).lower())
    }
    if _holds_tensors(parts):
        return parts
    keys = ", ".join(str(key)[:40] for key in list(content)[:8]) or "none"
    raise UnsupportedModelError(
        f"{path}: no state dict found: its top-level keys are {keys!r}; looked for tensors, then for "
        f"{', '.join(CONTAINER_KEYS)}"
    )


def _outside(content: Any, taken: Mapping[str, torch.Tensor]) -> Iterator[TensorInfo]:
    """Yield what the file holds beside the weights that were taken: a second container, lists of tensors.

    Their values are not read, but they are listed with a reason, and count against coverage.
    """
    if not isinstance(content, Mapping):
        return
    known = {id(tensor) for tensor in taken.values()}
    rest = {key: value for key, value in content.items() if not TRAINING_STATE.fullmatch(str(key).lower())}
    for name, tensor in _flatten(rest):
        if id(tensor) not in known:
            free_name = name if name not in taken else f"(outside) {name}"
            info = describe_torch_tensor(free_name, tensor)
            yield replace(info, refusal="lies outside the state dict that is analysed")


def _holds_tensors(content: Mapping[Any, Any]) -> bool:
    return any(True for _ in _flatten(content))


def _flatten(content: Mapping[Any, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every tensor of nested mappings and lists under its dotted name.

    Each of them is entered once: a file can hold one that contains itself, or is contained a billion times.
    """
    seen = {id(content)}
    pending: list[tuple[str, int, Any]] = [("", 0, content)]
    while pending:
        name, depth, value = pending.pop()
        if is_torch_tensor(value):
            yield name, value
        elif (
            isinstance(value, (Mapping, list, tuple))
            and depth <= _MAX_NESTING
            and (depth == 0 or id(value) not in seen)
        ):
            seen.add(id(value))
            prefix = f"{name}." if depth else ""
            inside = list(value.items() if isinstance(value, Mapping) else enumerate(value))
            pending.extend((f"{prefix}{key}", depth + 1, inner) for key, inner in reversed(inside))
