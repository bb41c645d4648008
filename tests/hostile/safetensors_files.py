"""Hostile safetensors files."""

from __future__ import annotations

import json
import os
import pickle
import struct
from typing import TYPE_CHECKING

from tests.hostile.payloads import Run
from tests.hostile.registry import TRACE, add, case, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def safetensors_bytes(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    """Return a file with this header, and perhaps another length than it has."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _entry(begin: int, end: int, shape: object = None, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


def _many_tensors() -> bytes:
    return safetensors_bytes({f"t{i}": _entry(4 * i, 4 * i + 8) for i in range(1_000_000)})


_SAFETENSORS: dict[str, Callable[[], bytes]] = {
    "header of 2^60 bytes": lambda: safetensors_bytes({"w": _entry(0, 16)}, bytes(16), length=1 << 60),
    "shape of 2^60 values": lambda: safetensors_bytes({"w": _entry(0, 16, [1 << 30, 1 << 30])}, bytes(16)),
    "shape of endless product": lambda: safetensors_bytes({"w": _entry(0, 16, [1 << 62] * 60)}, bytes(16)),
    "a million tensors that overlap": _many_tensors,
    "overlap": lambda: safetensors_bytes({"a": _entry(0, 16), "b": _entry(8, 24)}, bytes(24)),
    "outside the file": lambda: safetensors_bytes({"w": _entry(1 << 40, (1 << 40) + 16)}, bytes(16)),
    "negative offset": lambda: safetensors_bytes({"w": _entry(-16, 0)}, bytes(16)),
    "wrong dtype": lambda: safetensors_bytes({"w": _entry(0, 16, dtype="F31")}, bytes(16)),
    "name twice": lambda: safetensors_bytes(b'{"w":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"w":{}}'),
    "deep nesting": lambda: safetensors_bytes(b'{"w":' * 200_000 + b"1" + b"}" * 200_000),
    "digits without end": lambda: safetensors_bytes(b'{"w":' + b"9" * 5_000_000 + b"}"),
    "name of ten megabytes": lambda: safetensors_bytes({"n" * 10_000_000: _entry(0, 16)}, bytes(12)),
    "half a surrogate": lambda: safetensors_bytes({"\ud800": _entry(0, 16)}, bytes(16)),
    "empty": lambda: b"",
    "a pickle": lambda: pickle.dumps(Run(os.system, f"touch ../{TRACE}")),
}


for _name, _make in _SAFETENSORS.items():
    add(f"safetensors {_name}", "model.safetensors", _make)


@case("safetensors truncated at every boundary")
def _(place: Path) -> Path:
    whole = safetensors_bytes({"a": _entry(0, 16), "b": _entry(16, 24)}, bytes(24))
    for n_bytes in range(len(whole)):
        write(place, f"model-{n_bytes:03}.safetensors", whole[:n_bytes])
    return place
