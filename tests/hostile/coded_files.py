"""Hostile weights in codes."""

from __future__ import annotations

import json
import struct
from functools import partial
from typing import TYPE_CHECKING

from tests.hostile.registry import add, case, write
from tests.hostile.safetensors_files import safetensors_bytes

if TYPE_CHECKING:
    from pathlib import Path


def _coded(tensors: dict[str, tuple[str, tuple[int, ...], bytes]]) -> bytes:
    header, data = {}, b""
    for name, (dtype, shape, values) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    return safetensors_bytes(header, data)


def _state(**said: object) -> tuple[str, tuple[int, ...], bytes]:
    text = json.dumps(said).encode()
    return "U8", (len(text),), text


_CODES = {
    "bitsandbytes shape of 2^60": _coded(
        {
            "w": ("U8", (64, 1), bytes(64)),
            "w.absmax": ("F32", (2,), bytes(8)),
            "w.quant_map": ("F32", (16,), bytes(64)),
            "w.quant_state.bitsandbytes__nf4": _state(shape=[1 << 30, 1 << 30], blocksize=64),
        }
    ),
    "compressed-tensors shape of 2^60": _coded(
        {
            "w_packed": ("I32", (4, 4), bytes(64)),
            "w_scale": ("F32", (4, 1), bytes(16)),
            "w_shape": ("I64", (2,), struct.pack("<2q", 4, 1 << 60)),
        }
    ),
    "negative shape": _coded(
        {
            "w_packed": ("I32", (4, 4), bytes(64)),
            "w_scale": ("F32", (4, 1), bytes(16)),
            "w_shape": ("I64", (2,), struct.pack("<2q", -4, -32)),
        }
    ),
    "mask of a shape of 2^60": _coded(
        {
            "w.compressed": ("F32", (4,), bytes(16)),
            "w.bitmask": ("U8", (4, 1), b"\xff" * 4),
            "w.shape": ("I64", (2,), struct.pack("<2q", 4, 1 << 39)),
        }
    ),
    "mask with more values than there are": _coded(
        {
            "w.compressed": ("F32", (4,), bytes(16)),
            "w.bitmask": ("U8", (4, 1), b"\xff" * 4),
            "w.shape": ("I64", (2,), struct.pack("<2q", 4, 8)),
        }
    ),
    "groups that do not exist": _coded(
        {
            "l.qweight": ("I32", (4, 32), b"\x55" * 512),
            "l.qzeros": ("I32", (1, 4), bytes(16)),
            "l.scales": ("F32", (1, 32), b"\0\0\x80?" * 32),
            "l.g_idx": ("I32", (32,), struct.pack("<32i", *range(-16, 1 << 20, 1 << 15)[:32])),
        }
    ),
}
for _name, _data in _CODES.items():
    add(f"codes {_name}", "model.safetensors", partial(bytes, _data))


@case("codes with a hostile configuration")
def _(place: Path) -> Path:
    write(place, "config.json", b'{"quantization_config":' + b"[" * 400_000)
    write(place, "model.safetensors", _CODES["negative shape"])
    return place
