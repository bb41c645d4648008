"""Read ``.msgpack`` files of Flax (``flax.serialization.to_bytes``, Hugging Face's ``flax_model.msgpack``).

A state dict is nested maps; an array is extension 1, a scalar of numpy extension 3, both again msgpack: (shape, name of
the element type, bytes in C order); what has more than a gigabyte is a map of flat chunks under
``__msgpack_chunked_array__`` (``flax/serialization.py``). The file is walked over once, and each array read by its byte
range when it is loaded.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO

from spectral.errors import CorruptCheckpointError, ModelError, ModelNotFoundError, UnsupportedModelError
from spectral.loaders.byte_ranges import size_of
from spectral.loaders.byte_runs import Run, RunSource
from spectral.loaders.dtypes import FLOAT_DTYPES, why_not_float
from spectral.loaders.flax_layout import parts_of_flax, role_of_flax
from spectral.loaders.msgpack_walk import Bytes, MalformedMsgpackError, walk
from spectral.loaders.naming import natural_order
from spectral.loaders.protocol import TensorInfo
from spectral.loaders.state_dict import is_training_state

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

MAX_AXES = 64
MAX_NAME = 1000

MAX_ARRAYS, MAX_NAMES = 200_000, 50_000_000
"""Arrays of a file, and characters in their names: a few keys could be part of very many names."""

CHUNKED = "__msgpack_chunked_array__"

_ARRAY, _SCALAR = 1, 3

_TRAINING = re.compile(r"opt_state|opt_states|optimizer_state")
"""What Flax's train states call the state of the optimizer, beside what others call it."""

_OLD_OPTIMIZER = {"target", "state"}
"""A state of ``flax.optim``, which Flax had before 0.6: the weights and the moments."""

TRAINING_ARRAY = "state of the training ({key}), not a weight"

_ITEM_BYTES = {
    **dict.fromkeys(("bool", "int8", "uint8", "int4", "uint4", "int2", "uint2"), 1),
    **dict.fromkeys(("int16", "uint16"), 2),
    **dict.fromkeys(("int32", "uint32"), 4),
    **dict.fromkeys(("int64", "uint64", "complex64"), 8),
    "complex128": 16,
}


def open_msgpack(path: Path) -> RunSource:
    """Open a msgpack file of Flax by its maps; no values are read.

    Returns
    -------
    RunSource
        Its arrays, named by the keys that lead to them, joined by slashes: ``params/Dense_0/kernel``.

    Raises
    ------
    ModelNotFoundError, CorruptCheckpointError
        The file is missing, is no msgpack, or contradicts itself.
    UnsupportedModelError
        It holds no arrays of Flax.
    """
    try:
        with path.open("rb") as stream:
            n_file = size_of(stream)
            if not n_file:
                raise CorruptCheckpointError(f"{path}: the file is empty")
            content = walk(stream, 0, n_file)
            found = _arrays(path, stream, content)
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"{path}: no such file") from error
    except MalformedMsgpackError as error:
        raise CorruptCheckpointError(f"{path}: not a readable msgpack file ({error})") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    if not found:
        raise UnsupportedModelError(f"{path}: holds no arrays of Flax (flax.serialization.to_bytes)")
    names = sorted(found, key=natural_order)
    shapes = {name: found[name][0].shape for name in names}
    infos = {name: _described(found[name][0], shapes) for name in names}
    return RunSource(path=path, infos=infos, runs={name: found[name][1] for name in names if found[name][1]})


def _described(info: TensorInfo, shapes: dict[str, tuple[int, ...]]) -> TensorInfo:
    if info.refusal is not None:
        return info
    return replace(info, role=role_of_flax(info), parts=parts_of_flax(info.name, shapes))


def _arrays(path: Path, stream: BinaryIO, content: Any) -> dict[str, tuple[TensorInfo, tuple[Run, ...]]]:
    found: dict[str, tuple[TensorInfo, tuple[Run, ...]]] = {}
    n_characters = 0
    for name, value in _leaves(content):
        n_characters += len(name)
        if len(found) >= MAX_ARRAYS or n_characters > MAX_NAMES:
            raise MalformedMsgpackError(f"more than {MAX_ARRAYS} arrays, or {MAX_NAMES} characters in their names")
        if name in found:
            raise MalformedMsgpackError(f"two arrays would be named {name[:200]!r}")
        if isinstance(value, dict):
            info, runs = _joined(path, stream, name, value)
        else:
            info, runs = _array(path, stream, name, value)
        key = _training_key(content, name)
        if key is not None:
            info = replace(info, refusal=TRAINING_ARRAY.format(key=key), counted_in=key)
        found[name] = (info, runs)
    return found


def _leaves(content: Any) -> Iterator[tuple[str, Any]]:
    """Yield extensions and chunked arrays under the keys that lead to them."""
    pending: list[Iterator[tuple[str, Any]]] = [iter([("", content)])]
    while pending:
        name, value = next(pending[-1], ("", None))
        if value is None:
            pending.pop()
        elif isinstance(value, Bytes):
            if value.kind not in (None, 2):  # Plain bytes; a complex number.
                yield name or "array", value
        elif isinstance(value, dict) and CHUNKED in value:
            yield name or "array", value
        elif isinstance(value, (dict, list)):
            inside = value.items() if isinstance(value, dict) else enumerate(value)
            if len(name) > MAX_NAME:
                raise MalformedMsgpackError(f"a name of more than {MAX_NAME} characters")
            pending.append(_named(f"{name}/" if name else "", inside))


def _named(prefix: str, inside: Iterable[tuple[Any, Any]]) -> Iterator[tuple[str, Any]]:
    return ((f"{prefix}{key}", inner) for key, inner in inside if inner is not None)


def _training_key(content: Any, name: str) -> str | None:
    """Return the key at the top under which an array belongs to the training, or None."""
    key, _, rest = name.partition("/")
    if not rest:
        return None
    is_old = key == "state" and isinstance(content, dict) and set(content) == _OLD_OPTIMIZER
    return key if is_old or _TRAINING.fullmatch(key) or is_training_state(key) else None


def _array(path: Path, stream: BinaryIO, name: str, value: Bytes) -> tuple[TensorInfo, tuple[Run, ...]]:
    """Return the header of an array, and where its values are."""
    if value.kind not in (_ARRAY, _SCALAR):
        reason = f"an extension of the unknown type {value.kind}"
        return TensorInfo(name=name, shape=(value.end - value.begin,), dtype="uint8", refusal=reason), ()
    try:
        inner = walk(stream, value.begin, value.end)
    except MalformedMsgpackError as error:
        raise MalformedMsgpackError(f"array {name[:200]!r}: {error}") from error
    if not isinstance(inner, list) or len(inner) != 3:
        raise MalformedMsgpackError(f"array {name[:200]!r} has no shape, type and bytes")
    shape, dtype, data = inner
    if not isinstance(shape, list) or len(shape) > MAX_AXES or not all(map(_is_length, shape)):
        raise MalformedMsgpackError(f"array {name[:200]!r} has a shape that is none")
    if not isinstance(dtype, str) or not isinstance(data, Bytes) or data.kind is not None:
        raise MalformedMsgpackError(f"array {name[:200]!r} has no type and bytes")
    itemsize, n_bytes = _item_bytes(dtype), data.end - data.begin
    if itemsize is None:
        reason = f"an element type that is not read ({dtype[:40]})"
        return TensorInfo(name=name, shape=tuple(shape), dtype=dtype[:40], refusal=reason), ()
    n_expected = math.prod(shape) * itemsize
    if n_expected != n_bytes:
        raise MalformedMsgpackError(
            f"array {name[:200]!r} has {n_bytes} bytes where {dtype} {str(shape)[:200]} takes {str(n_expected)[:40]}"
        )
    info = TensorInfo(name=name, shape=tuple(shape), dtype=dtype, refusal=why_not_float(dtype))
    return info, (Run(path=path, begin=data.begin, end=data.end),)


def _joined(path: Path, stream: BinaryIO, name: str, value: dict[Any, Any]) -> tuple[TensorInfo, tuple[Run, ...]]:
    """Return the header of an array in flat chunks, and where these are."""
    lengths, chunks = (_counted(name, value.get(key)) for key in ("shape", "chunks"))
    if not all(map(_is_length, lengths)) or len(lengths) > MAX_AXES or not all(isinstance(c, Bytes) for c in chunks):
        raise MalformedMsgpackError(f"array {name[:200]!r} has a shape or chunks that are none")
    parts = [_array(path, stream, name, chunk) for chunk in chunks]
    kinds = {info.dtype for info, _ in parts}
    if len(kinds) != 1 or sum(info.n_values for info, _ in parts) != math.prod(lengths):
        raise MalformedMsgpackError(f"array {name[:200]!r}: its chunks do not fill its shape")
    return replace(parts[0][0], shape=tuple(lengths)), tuple(run for _, runs in parts for run in runs)


def _counted(name: str, value: Any) -> list[Any]:
    """Return the values of a map whose keys are "0", "1", and so on."""
    keys = [str(number) for number in range(len(value))] if isinstance(value, dict) else []
    if not isinstance(value, dict) or set(keys) != set(value):
        raise MalformedMsgpackError(f"array {name[:200]!r} has no numbered shape and chunks")
    return [value[key] for key in keys]


def _is_length(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 48


def _item_bytes(dtype: str) -> int | None:
    if dtype in FLOAT_DTYPES:
        from spectral.loaders.dtypes import numpy_dtype

        return numpy_dtype(dtype).itemsize
    return _ITEM_BYTES.get(dtype)
