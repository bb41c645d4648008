"""Read files that ``torch.save`` and ``torch.jit.save`` wrote, without torch, and executing nothing.

The file is a ZIP archive. Its pickle describes the tensors, and is read as data
(:mod:`spectral.loaders.pickle_machine`); a storage is an entry, and a tensor a range of bytes in the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from spectral.errors import (
    CorruptCheckpointError,
    ModelError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from spectral.loaders.byte_ranges import read_range, stream_range
from spectral.loaders.dtypes import PLAIN_DTYPES, numpy_dtype, stored_dtype
from spectral.loaders.pickle_machine import ForbiddenPickleError, MalformedPickleError, read_pickle
from spectral.loaders.stored_zip import MAGIC, BadArchiveError, Entry, find_ranges, read_directory
from spectral.loaders.ties import mark_ties
from spectral.loaders.torch_legacy import unsafe, why_no_archive
from spectral.loaders.torch_pickle import StoredTensor, TorchVocabulary, Wrapped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
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

MAX_PICKLE_BYTES = 1 << 25
"""A hundred thousand tensors take twenty million bytes."""

_MAX_NESTING = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchFile:
    """One archive of ``torch.save`` or ``torch.jit.save``; a tensor is read when it is loaded."""

    path: Path
    infos: dict[str, TensorInfo] = field(repr=False)
    values: Mapping[str, StoredTensor] = field(repr=False)
    ranges: Mapping[str, tuple[int, int]] = field(repr=False)
    """Key of a storage -> where it lies in the file."""
    is_big_endian: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What the file says of tensors that are made of several."""

    @property
    def label(self) -> str:
        return str(self.path)

    def tensors(self) -> tuple[TensorInfo, ...]:
        return tuple(self.infos.values())

    def load(self, name: str) -> NDArray[Any]:
        tensor, begin = self._located(name)
        return self._whole(name, tensor, begin, numpy_dtype(tensor.dtype))

    def load_stored(self, name: str, begin: int, end: int) -> NDArray[Any]:
        tensor = self.values.get(name)
        dtype = None if tensor is None else _plain_dtype(tensor)
        if tensor is None or tensor.storage is None or dtype is None:
            raise ModelError(f"{self.path}: tensor {name!r}: {self.infos[name].refusal}")
        if not tensor.is_contiguous:
            first = self.ranges[tensor.storage.key][0] + tensor.offset
            return self._whole(name, tensor, first, dtype).reshape(-1)[begin:end]
        return self._span(name, tensor, begin, end, dtype)

    def _whole(self, name: str, tensor: StoredTensor, begin: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        import numpy as np
        from numpy.lib.stride_tricks import as_strided

        data = read_range(self.path, name, begin, begin + tensor.reach)
        values = self._decode(tensor, np.frombuffer(data, dtype=dtype))
        if not tensor.is_contiguous:
            steps = as_strided(values, tensor.shape, tensor.strides, writeable=False)
            values = np.ascontiguousarray(steps)
        return values.reshape(tensor.shape)

    def load_span(self, name: str, begin: int, end: int) -> NDArray[Any]:
        tensor, _ = self._located(name)
        if not tensor.is_contiguous:
            return self.load(name).reshape(-1)[begin:end]
        return self._span(name, tensor, begin, end, numpy_dtype(tensor.dtype))

    def _span(self, name: str, tensor: StoredTensor, begin: int, end: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        import numpy as np

        assert tensor.storage is not None, "whoever asks has seen to it"
        first, n_bytes = self.ranges[tensor.storage.key][0] + tensor.offset, tensor.itemsize
        data = read_range(self.path, name, first + begin * n_bytes, first + end * n_bytes)
        return self._decode(tensor, np.frombuffer(data, dtype=dtype))

    def stream(self, name: str) -> Iterator[memoryview] | None:
        tensor, begin = self._located(name)
        if self.is_big_endian or tensor.is_negative or not tensor.is_contiguous:
            return None
        return stream_range(self.path, name, begin, begin + tensor.reach)

    def load_all(self) -> dict[str, torch.Tensor]:
        """Return the tensors as torch's own; names that share their memory still share it."""
        import torch

        if self.is_big_endian:
            raise UnsupportedModelError(f"{self.path}: was written on a machine of another byte order")
        storages: dict[str, torch.Tensor] = {}
        found: dict[str, torch.Tensor] = {}
        for name, tensor in self.values.items():
            storage = tensor.storage
            if storage is None:
                raise UnsupportedModelError(f"{self.path}: tensor {name!r}: {tensor.refusal}")
            if storage.key not in storages:
                begin, _ = self.ranges[storage.key]
                data = read_range(self.path, name, begin, begin + storage.n_bytes)
                storages[storage.key] = torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0)
            whole = torch.empty(0, dtype=getattr(torch, tensor.dtype))
            steps = tuple(stride // tensor.itemsize for stride in tensor.strides)
            memory = storages[storage.key].untyped_storage()
            whole.set_(memory, tensor.offset // tensor.itemsize, tensor.shape, steps)
            found[name] = torch._neg_view(whole) if tensor.is_negative else whole  # noqa: SLF001 (no public way)
        return found

    def _located(self, name: str) -> tuple[StoredTensor, int]:
        """Return a tensor and the byte of the file at which it begins."""
        refusal = self.infos[name].refusal
        tensor = self.values.get(name)
        if tensor is None or tensor.storage is None or tensor.describe(name).refusal is not None:
            raise ModelError(f"{self.path}: tensor {name!r}: {refusal}")
        return tensor, self.ranges[tensor.storage.key][0] + tensor.offset

    def _decode(self, tensor: StoredTensor, values: NDArray[Any]) -> NDArray[Any]:
        if self.is_big_endian:
            values = values.byteswap()
        return -values if tensor.is_negative else values


def _plain_dtype(tensor: StoredTensor) -> np.dtype[Any] | None:
    """Return the type of numbers as numpy has them, also of those that are no weights as they stand, or None."""
    if tensor.dtype not in PLAIN_DTYPES or tensor.refusal is not None:
        return None
    return stored_dtype(tensor.dtype)


def open_torch_file(path: Path) -> TorchFile:
    """Open a file of ``torch.save`` or ``torch.jit.save``, without torch and without executing anything in it.

    Parameters
    ----------
    path : Path
        The file, in the format since torch 1.6: an archive with a pickle, and with a file for every storage.

    Raises
    ------
    ModelNotFoundError, CorruptCheckpointError
        The file is missing, empty, truncated, or no torch file.
    UnsafeCheckpointError
        Its pickle asks for more than the names that describe tensors.
    UnsupportedModelError
        It holds no tensors where a state dict is expected, or has the format before torch 1.6.
    """
    try:
        with path.open("rb") as stream:
            magic = stream.read(16)
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"{path}: no such file") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    if not magic:
        raise CorruptCheckpointError(f"{path}: the file is empty")
    try:
        if not magic.startswith(MAGIC):
            raise why_no_archive(path)
        return _open_archive(path)
    except (BadArchiveError, MalformedPickleError) as error:
        raise CorruptCheckpointError(f"{path}: not a readable torch file ({error})") from error
    except ForbiddenPickleError as error:
        raise unsafe(path, error) from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error


def _open_archive(path: Path) -> TorchFile:
    entries = read_directory(path)
    prefix = _prefix_of(entries)
    is_script = any(name.startswith(f"{prefix}code/") for name in entries) or f"{prefix}constants.pkl" in entries
    held = {
        name: entry
        for name, entry in entries.items()
        if name.startswith(f"{prefix}data/") or name in (f"{prefix}data.pkl", f"{prefix}byteorder")
    }
    pickle_entry = held[f"{prefix}data.pkl"]
    if pickle_entry.size > MAX_PICKLE_BYTES:
        raise BadArchiveError(f"its pickle claims {pickle_entry.size} bytes")
    ranges = find_ranges(path, held.values())
    keys = {name.removeprefix(f"{prefix}data/"): place for name, place in ranges.items() if "data/" in name}
    sizes = {key: end - begin for key, (begin, end) in keys.items()}
    data = bytes(read_range(path, "data.pkl", *ranges[pickle_entry.name]))
    content = read_pickle(data, TorchVocabulary(sizes, is_script=is_script))
    order = ranges.get(f"{prefix}byteorder")
    is_big_endian = order is not None and bytes(read_range(path, "byteorder", *order)[:8]).strip() == b"big"
    tensors: dict[str, StoredTensor] = {}
    metadata: dict[str, str] = {}
    for name, tensor in _flatten(content if is_script else _weights_of(path, content), metadata):
        if name in tensors:
            raise CorruptCheckpointError(f"{path}: two tensors would be named {name[:200]!r}")
        tensors[name] = tensor
    if not tensors:
        raise UnsupportedModelError(f"{path}: holds no tensors")
    infos = mark_ties({name: tensor.describe(name) for name, tensor in tensors.items()}, tensors)
    if not is_script:
        infos.update({info.name: info for info in _outside(content, tensors)})
    return TorchFile(
        path=path, infos=infos, values=tensors, ranges=keys, is_big_endian=is_big_endian, metadata=metadata
    )


def _prefix_of(entries: Mapping[str, Entry]) -> str:
    """Return the folder of the archive in which torch put everything, with its slash."""
    found = [name.removesuffix("data.pkl") for name in entries if name.endswith("data.pkl")]
    prefixes = [prefix for prefix in found if prefix == "" or (prefix.endswith("/") and prefix.count("/") == 1)]
    if len(prefixes) != 1:
        raise BadArchiveError(f"an archive with {len(prefixes)} files data.pkl")
    return prefixes[0]


def _weights_of(path: Path, content: Any, depth: int = 0) -> Mapping[Any, Any]:
    """Return the mapping that holds the weights inside what was saved."""
    if isinstance(content, StoredTensor):
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
        if isinstance(value, StoredTensor) or not TRAINING_STATE.fullmatch(str(key).lower())
    }
    if _holds_tensors(parts):
        return parts
    keys = ", ".join(str(key)[:40] for key in list(content)[:8]) or "none"
    raise UnsupportedModelError(
        f"{path}: no state dict found: its top-level keys are {keys!r}; looked for tensors, then for "
        f"{', '.join(CONTAINER_KEYS)}"
    )


def _outside(content: Any, taken: Mapping[str, StoredTensor]) -> Iterator[TensorInfo]:
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
            info = tensor.describe(free_name)
            yield replace(info, refusal="lies outside the state dict that is analysed")


def _holds_tensors(content: Mapping[Any, Any]) -> bool:
    return any(True for _ in _flatten(content))


def _flatten(content: Mapping[Any, Any], wrapped: dict[str, str] | None = None) -> Iterator[tuple[str, StoredTensor]]:
    """Yield every tensor of nested mappings and lists under its dotted name.

    Each of them is entered once: a file can hold one that contains itself, or is contained a billion times. What is
    made of several is described in ``wrapped`` under its own name, as torchao does in safetensors files.
    """
    seen = {id(content)}
    pending: list[tuple[str, int, Any]] = [("", 0, content)]
    while pending:
        name, depth, value = pending.pop()
        if isinstance(value, StoredTensor):
            yield name, value
        elif isinstance(value, Wrapped):
            module, dot, leaf = name.rpartition(".")
            if wrapped is not None:
                wrapped[name] = value.description
            yield from ((f"{module}{dot}_{leaf}_{part}", tensor) for part, tensor in value.parts.items())
        elif (
            isinstance(value, (Mapping, list, tuple))
            and depth <= _MAX_NESTING
            and (depth == 0 or id(value) not in seen)
        ):
            seen.add(id(value))
            prefix = f"{name}." if depth else ""
            inside = list(value.items() if isinstance(value, Mapping) else enumerate(value))
            pending.extend((f"{prefix}{key}", depth + 1, inner) for key, inner in reversed(inside))
