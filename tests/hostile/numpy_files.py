"""Hostile files of numpy."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from functools import partial
from typing import TYPE_CHECKING

from tests.hostile.payloads import COMMAND, Run
from tests.hostile.registry import TRACE, add, case, write

if TYPE_CHECKING:
    from pathlib import Path


def npy_bytes(header: bytes, data: bytes = b"") -> bytes:
    """Return an array file with this header."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


_NPY = {
    "2^60 values": npy_bytes(b"{'descr':'<f4','fortran_order':False,'shape':(1152921504606846976,)}\n", bytes(16)),
    "objects": npy_bytes(b"{'descr':'|O','fortran_order':False,'shape':(1,)}\n", pickle.dumps(Run(os.system, COMMAND))),
    "code for a header": npy_bytes(f"__import__('os').system('{COMMAND}')\n".encode()),
    "deep header": npy_bytes(b"(" * 60_000),
    "negative shape": npy_bytes(b"{'descr':'<f4','fortran_order':False,'shape':(-4,)}\n", bytes(16)),
    "unknown type": npy_bytes(b"{'descr':'<f9999999999','fortran_order':False,'shape':(4,)}\n", bytes(16)),
}
for _name, _data in _NPY.items():
    add(f"npy {_name}", "model.npy", partial(bytes, _data))


@case("npz bomb")
def _(place: Path) -> Path:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        header = b"{'descr':'<f4','fortran_order':False,'shape':(4,)}\n"
        archive.writestr("w.npy", npy_bytes(header, bytes(400_000_000)))
    return write(place, "model.npz", stream.getvalue())


@case("npz entry with a path")
def _(place: Path) -> Path:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(f"../../{TRACE}.npy", npy_bytes(b"{'descr':'|O','fortran_order':False,'shape':(1,)}\n"))
    return write(place, "model.npz", stream.getvalue())
