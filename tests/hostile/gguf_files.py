"""Hostile GGUF files."""

from __future__ import annotations

import struct
from functools import partial

from tests.hostile.registry import add

HUGE = 1 << 60


def _text(text: bytes, *, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text


def _tensor(name: bytes, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def gguf_bytes(
    *, n_tensors: int = 1, n_keys: int = 0, keys: bytes = b"", tensors: bytes | None = None, data: int = 64
) -> bytes:
    """Return a file of version 3, whatever it claims."""
    infos = _tensor(b"w", (4, 4), 0, 0) if tensors is None else tensors
    head = b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_keys) + keys + infos
    return head + bytes(-len(head) % 32) + bytes(data)


_STRING, _ARRAY, _UINT32 = 8, 9, 4

_FILES = {
    "2^60 tensors": gguf_bytes(n_tensors=HUGE),
    "2^60 keys": gguf_bytes(n_keys=HUGE),
    "a name of 2^60 bytes": gguf_bytes(tensors=_text(b"w", length=HUGE)),
    "a value of 2^60 bytes": gguf_bytes(
        n_keys=1, keys=_text(b"k") + struct.pack("<I", _STRING) + _text(b"v", length=HUGE)
    ),
    "an array of 2^60": gguf_bytes(n_keys=1, keys=_text(b"k") + struct.pack("<IIQ", _ARRAY, _UINT32, HUGE)),
    "arrays in arrays": gguf_bytes(
        n_keys=1, keys=_text(b"k") + struct.pack("<I", _ARRAY) + struct.pack("<IQ", _ARRAY, 1) * 100_000
    ),
    "2^60 values": gguf_bytes(tensors=_tensor(b"w", (1 << 30, 1 << 30), 0, 0)),
    "shape that overflows": gguf_bytes(tensors=_tensor(b"w", (1 << 63, 1 << 63), 0, 0)),
    "a million axes": gguf_bytes(tensors=_text(b"w") + struct.pack("<I", 1_000_000)),
    "unknown type": gguf_bytes(tensors=_tensor(b"w", (4, 4), 12345, 0)),
    "offset outside": gguf_bytes(tensors=_tensor(b"w", (4, 4), 0, 1 << 40)),
    "offset off the alignment": gguf_bytes(tensors=_tensor(b"w", (4, 4), 0, 4)),
    "overlap": gguf_bytes(n_tensors=2, tensors=_tensor(b"a", (4, 4), 0, 0) + _tensor(b"b", (4, 4), 0, 32), data=96),
    "name twice": gguf_bytes(n_tensors=2, tensors=_tensor(b"a", (4, 4), 0, 0) + _tensor(b"a", (4, 4), 0, 64), data=128),
    "alignment of zero": gguf_bytes(n_keys=1, keys=_text(b"general.alignment") + struct.pack("<II", _UINT32, 0)),
    "block cut in two": gguf_bytes(tensors=_tensor(b"w", (33, 4), 2, 0), data=96),
    "version of the future": b"GGUF" + struct.pack("<IQQ", 77, 1, 0) + bytes(64),
    "half a header": gguf_bytes()[:30],
    "truncated data": gguf_bytes()[:-4],
}
for _name, _data in _FILES.items():
    add(f"gguf {_name}", "model.gguf", partial(bytes, _data))
