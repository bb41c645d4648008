"""Where the weights are inside what a training framework saved: the state dict, among epochs, options and optimizers.

It works on what a pickle describes, whose tensors are not read: those of one file, or of a folder of pieces.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from spectral.errors import CorruptCheckpointError, UnsupportedModelError
from spectral.loaders.pickle_machine import Name, Record
from spectral.loaders.torch_pickle import StoredTensor, Wrapped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from spectral.loaders.protocol import TensorInfo

CONTAINER_KEYS = ("state_dict", "model_state_dict", "model", "module", "params", "net", "ema", "weights")
"""Where training frameworks put the weights inside what they save, in the order they are tried."""

TRAINING_STATE = re.compile(
    r"(optim(izers?)?(_states?(_dict)?)?|(lr_)?schedulers?(_states?(_dict)?)?|(grad_)?scaler(_state(_dict)?)?"
    r"|amp(_state)?|(\w+_)?rng(_states?)?)(_[0-9]+)?"
)
"""Top-level entries of one of these names hold the state of the training, not weights."""

OUTSIDE = "lies outside the state dict that is analysed"

PARTITIONED = "partitioned by ZeRO stage 3 over the files of the folder: open the folder"

_MAX_NESTING = 64

_MAX_NAMES = 50_000_000
"""Characters in the names of all tensors: a key of a megabyte could be part of a hundred thousand of them."""


def is_training_state(key: object) -> bool:
    """Tell whether an entry of this name holds the state of the training."""
    return TRAINING_STATE.fullmatch(str(key).lower()) is not None


def find_weights(path: Path, content: Any, depth: int = 0) -> Mapping[Any, Any]:
    """Return the mapping that holds the weights inside what was saved.

    Raises
    ------
    UnsupportedModelError
        There is none with tensors.
    """
    if isinstance(content, StoredTensor):
        return {"tensor": content}
    if not isinstance(content, Mapping):
        kind = str(content) if isinstance(content, Record) else type(content).__name__
        raise UnsupportedModelError(f"{path}: holds a {kind}, expected a state dict (names to tensors)")
    for key in CONTAINER_KEYS if depth < _MAX_NESTING else ():
        inner = content.get(key)
        if isinstance(inner, Mapping) and _holds_tensors(path, inner):
            return find_weights(path, inner, depth + 1)
    parts = {
        key: value for key, value in content.items() if isinstance(value, StoredTensor) or not is_training_state(key)
    }
    if _holds_tensors(path, parts):
        return parts
    keys = ", ".join(str(key)[:40] for key in list(content)[:8]) or "none"
    raise UnsupportedModelError(
        f"{path}: no state dict found: its top-level keys are {keys!r}; looked for tensors, then for "
        f"{', '.join(CONTAINER_KEYS)}"
    )


def name_tensors(
    path: Path, content: Mapping[Any, Any], wrapped: dict[str, str] | None = None
) -> dict[str, StoredTensor]:
    """Return the tensors of nested mappings and lists by their dotted names.

    What is made of several is described in ``wrapped`` under its own name, as torchao does in safetensors files.

    Raises
    ------
    CorruptCheckpointError
        Two have one name.
    """
    tensors: dict[str, StoredTensor] = {}
    for name, tensor in _flatten(path, content, wrapped):
        if name in tensors:
            raise CorruptCheckpointError(f"{path}: two tensors would be named {name[:200]!r}")
        tensors[name] = tensor
    return tensors


def list_outside(path: Path, content: Any, taken: Mapping[str, StoredTensor]) -> Iterator[TensorInfo]:
    """Yield what was saved beside the weights that were taken: a second container, lists of tensors.

    Their values are not read, but they are listed with a reason, and count against coverage.
    """
    if not isinstance(content, Mapping):
        return
    known = {id(tensor) for tensor in taken.values()}
    rest = {key: value for key, value in content.items() if not is_training_state(key)}
    for name, tensor in _flatten(path, rest):
        if id(tensor) not in known:
            free_name = name if name not in taken else f"(outside) {name}"
            yield replace(tensor.describe(free_name), refusal=OUTSIDE)


def mark_partitioned(content: Any, infos: dict[str, TensorInfo]) -> None:
    """Refuse parameters that a file of ZeRO stage 3 only names: their values are in other files of its folder."""
    groups = content.get("param_shapes") if isinstance(content, Mapping) else None
    for group in groups if isinstance(groups, list) else []:
        for name, shape in group.items() if isinstance(group, Mapping) else []:
            info = infos.get(name) if isinstance(name, str) else None
            if (
                info is not None
                and info.n_values == 0
                and isinstance(shape, tuple)
                and all(type(n) is int and n > 0 for n in shape)
            ):
                infos[info.name] = replace(info, shape=shape, refusal=PARTITIONED)


def _holds_tensors(path: Path, content: Mapping[Any, Any]) -> bool:
    return any(True for _ in _flatten(path, content))


def _flatten(
    path: Path, content: Mapping[Any, Any], wrapped: dict[str, str] | None = None
) -> Iterator[tuple[str, StoredTensor]]:
    """Yield every tensor of nested mappings, lists and records under its dotted name.

    Each of them is entered once: a file can hold one that contains itself, or is contained a billion times.
    """
    seen = {id(content)}
    n_characters = 0
    pending: list[tuple[str, int, Any]] = [("", 0, content)]
    while pending:
        name, depth, value = pending.pop()
        if isinstance(value, StoredTensor):
            yield name, value
        elif isinstance(value, Wrapped):
            module, dot, leaf = name.rpartition(".")
            if wrapped is not None:
                wrapped[name] = value.description
            # As torchao names them in safetensors files.
            yield from ((f"{module}{dot}_{leaf}_{part}", tensor) for part, tensor in value.parts.items())
        elif (
            isinstance(value, (Mapping, list, tuple, Record))
            and depth <= _MAX_NESTING
            and (depth == 0 or id(value) not in seen)
        ):
            seen.add(id(value))
            array = _pickled_array(value) if isinstance(value, Record) else None
            if array is not None:
                yield name, array
                continue
            prefix = f"{name}." if depth else ""
            inside = _inside(value)
            n_characters += len(prefix) * len(inside)
            if n_characters > _MAX_NAMES:
                raise CorruptCheckpointError(f"{path}: the names in it have more than {_MAX_NAMES} characters together")
            pending.extend((f"{prefix}{key}", depth + 1, inner) for key, inner in reversed(inside))


def _inside(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, Record):
        value = value.state if isinstance(value.state, (Mapping, list, tuple)) else value.arguments
    return list(value.items() if isinstance(value, Mapping) else enumerate(value))


def _pickled_array(record: Record) -> StoredTensor | None:
    """Return an array of numpy as a tensor without values: they stand within the pickle.

    Its state is a version, the shape, the element type, the order of axes, and the values.
    """
    if isinstance(record.state, StoredTensor):
        return record.state
    if record.name.name != "_reconstruct" or type(record.state) is not tuple or len(record.state) != 5:
        return None
    _, shape, kind, _, _ = record.state
    dtype = _array_type(kind)
    if dtype is None or type(shape) is not tuple or any(type(length) is not int or length < 0 for length in shape):
        return None
    reason = "a numpy array inside the pickle is not read: save a tensor"
    # Kept in place of its state: it is the same tensor when it is met again.
    tensor = StoredTensor(dtype=dtype, shape=shape, strides=(0,) * len(shape), refusal=reason)
    record.state = tensor
    return tensor


def _array_type(kind: Any) -> str | None:
    code = kind.arguments[0] if isinstance(kind, Record) and kind.arguments else None
    return _ARRAY_TYPES.get(code) if type(code) is str and isinstance(kind.name, Name) else None


_ARRAY_TYPES = {
    "f2": "float16",
    "f4": "float32",
    "f8": "float64",
    "i8": "int64",
    "i4": "int32",
    "i2": "int16",
    "i1": "int8",
    "u1": "uint8",
    "b1": "bool",
}
"""What numpy calls the element types of arrays in a pickle; the others are of no interest here."""
