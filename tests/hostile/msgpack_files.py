"""Hostile msgpack files, in the manner of Flax."""

from __future__ import annotations

import struct
from functools import partial

from tests.hostile.registry import add

_ARRAY = 1
"""Flax' extension type of an array."""


def _extension(kind: int, data: bytes, *, length: int | None = None) -> bytes:
    return b"\xc9" + struct.pack(">IB", len(data) if length is None else length, kind) + data


def _array(shape: bytes, data: bytes, *, length: int | None = None) -> bytes:
    packed = (
        b"\x93" + shape + b"\xa7float32" + b"\xc6" + struct.pack(">I", len(data) if length is None else length) + data
    )
    return _extension(_ARRAY, packed)


def _model(value: bytes) -> bytes:
    return b"\x81\xa1w" + value


_HUGE = b"\xcf" + struct.pack(">Q", 1 << 60)

_FILES = {
    "map of 2^32": b"\xdf\xff\xff\xff\xff",
    "array of 2^32": _model(b"\xdd\xff\xff\xff\xff"),
    "text of 2^32 bytes": b"\x81\xdb\xff\xff\xff\xffw",
    "deep nesting": b"\x81\xa1a" * 200_000 + b"\xc0",
    "shape of 2^60": _model(_array(b"\x91" + _HUGE, bytes(16))),
    "fewer bytes than its shape": _model(_array(b"\x91\x08", bytes(16))),
    "bytes beyond its extension": _model(_array(b"\x91\x04", bytes(16), length=1 << 30)),
    "extension beyond the file": _model(_extension(_ARRAY, bytes(8), length=1 << 31)),
    "name twice": b"\x82\xa1w" + _array(b"\x91\x04", bytes(16)) + b"\xa1w" + _array(b"\x91\x04", bytes(16)),
    "a key that is a map": b"\x81\x80\xc0",
    "empty": b"",
}
for _name, _data in _FILES.items():
    add(f"msgpack {_name}", "model.msgpack", partial(bytes, _data))
