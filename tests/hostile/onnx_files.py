"""Hostile ONNX files: messages that lie about their lengths, and tensors that lie elsewhere."""

from __future__ import annotations

from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

from tests.hostile.registry import SECRET, add, case, write

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_LENGTHS = 2
"""Wire type of a field that says its length."""


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def _field(number: int, data: bytes, *, length: int | None = None) -> bytes:
    return _varint(number << 3 | _LENGTHS) + _varint(len(data) if length is None else length) + data


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _tensor(*fields: bytes, shape: tuple[int, ...] = (2, 3), name: bytes = b"w") -> bytes:
    return _field(5, b"".join(_number(1, n) for n in shape) + _number(2, 1) + _field(8, name) + b"".join(fields))


def onnx_bytes(graph: bytes) -> bytes:
    """Return a model with this graph."""
    return _number(1, 10) + _field(7, graph)


def _nested(depth: int) -> bytes:
    graph = b""
    for _ in range(depth):
        attribute = _field(1, b"then_branch") + _field(6, graph)
        graph = _field(1, _field(4, b"If") + _field(5, attribute))
    return graph


_RAW = _field(9, bytes(24))

_FILES = {
    "2^60 values": onnx_bytes(_tensor(_RAW, shape=(1 << 30, 1 << 30))),
    "a message of 2^60 bytes": _number(1, 10) + _field(7, b"", length=1 << 60),
    "a number of a hundred bytes": b"\x08" + b"\xff" * 100,
    "deep nesting": onnx_bytes(_nested(20_000)),
    "a million nodes": onnx_bytes(_field(1, b"") * 1_000_000),
    "ten million fields": _number(1, 10) + bytes([0x50, 0]) * 10_000_000,
    "name twice": onnx_bytes(_tensor(_RAW) * 2),
    "a hundred thousand axes": onnx_bytes(_tensor(_RAW, shape=(1,) * 100_000)),
    "fewer bytes than its shape": onnx_bytes(_tensor(_field(9, bytes(20)))),
    "a pickle for a graph": onnx_bytes(b"cos\nsystem\n(S'ls'\ntR."),
    "a group that never ends": _number(1, 10) + bytes([0x3B]),
    "half a file": onnx_bytes(_tensor(_RAW))[:20],
}
for _name, _data in _FILES.items():
    add(f"onnx {_name}", "model.onnx", partial(bytes, _data))


def _external(place: Path, location: str, said: Mapping[str, int] = MappingProxyType({})) -> Path:
    entries = {"location": location, **said}
    pairs = (_field(13, _field(1, key.encode()) + _field(2, str(value).encode())) for key, value in entries.items())
    return write(place, "model.onnx", onnx_bytes(_tensor(*pairs, _number(14, 1))))


_PLACES: dict[str, tuple[str, dict[str, int]]] = {
    "above": (f"../{SECRET}", {}),
    "by an absolute path": ("/etc/passwd", {}),
    "in a process": ("/proc/self/environ", {}),
    "with a null": ("a\0b", {}),
    "beyond the file": ("data.bin", {"offset": 1 << 60, "length": 24}),
    "with a negative offset": ("data.bin", {"offset": -8, "length": 24}),
}
for _name, (_location, _said) in _PLACES.items():
    case(f"onnx data {_name}")(partial(_external, location=_location, said=_said))


@case("onnx data by a link out")
def _(place: Path) -> Path:
    (place / "out.bin").symlink_to(f"../{SECRET}")
    return _external(place, "out.bin")
