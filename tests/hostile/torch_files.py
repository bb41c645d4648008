"""Hostile files of torch: pickles by every way that an unpickler takes, archives and tensors that lie."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from functools import partial
from typing import TYPE_CHECKING

from tests.hostile.payloads import COMMAND, PYTHON, Run
from tests.hostile.registry import SECRET, TRACE, add, case, write

if TYPE_CHECKING:
    from pathlib import Path


def _lines(*parts: str) -> bytes:
    return "\n".join(parts).encode()


def _bomb(n_levels: int) -> bytes:
    """Return a list of two lists of two lists ..: short, and endless to whoever goes through it."""
    doubled = b"".join(b"]q%c(h%ch%ce" % (level + 1, level, level) for level in range(n_levels))
    return b"\x80\x02]q\x00(K\x01K\x01e" + doubled + b"."


PICKLES: dict[str, bytes] = {
    "global and reduce": _lines("cos", "system", f"(S'{COMMAND}'", "tR."),
    "posix": _lines("cposix", "system", f"(S'{COMMAND}'", "tR."),
    "eval": _lines("cbuiltins", "eval", f'(S"{PYTHON}"', "tR."),
    "exec of python 2": _lines("c__builtin__", "exec", f'(S"{PYTHON}"', "tR."),
    "inst": _lines(f"(S'{COMMAND}'", "ios", "system", "."),
    "obj": _lines("(cos", "system", f"S'{COMMAND}'", "o."),
    "stack global": pickle.dumps(Run(os.system, COMMAND), protocol=4),
    "newobj": b"\x80\x02csubprocess\nPopen\n(]X"
    + struct.pack("<I", 5)
    + b"touchaX"
    + struct.pack("<I", len(TRACE) + 3)
    + f"../{TRACE}".encode()
    + b"at\x81.",
    "newobj_ex": b"\x80\x04\x8c\x0asubprocess\x8c\x05Popen\x93)}\x92.",
    "build": _lines("ccollections", "OrderedDict", "(tR(dS'__reduce__'", "cos", "system", "sb."),
    "extension code": b"\x80\x02\x82\x01.",
    "persistent id": _lines("Pcos.system", "."),
    "binary persistent id": b"\x80\x02(X\x07\x00\x00\x00storageXx\x00\x00\x00tQ.",
    "nested in a tuple of a call": _lines(
        "ccollections", "OrderedDict", "((cos", "system", f"(S'{COMMAND}'", "tRlt(tR."
    ),
    "getattr": _lines("cbuiltins", "getattr", "(cos", "path", "S'system'", "tR."),
    "torch's own loader": _lines("ctorch", "load", f"(S'../{SECRET}'", "tR."),
    "numpy's loader": _lines("cnumpy", "load", f"(S'../{SECRET}'", "tR."),
    "pickle in a pickle": _lines("cpickle", "loads", "(S'cos\\nsystem\\n.'", "tR."),
    "import of a module beside it": _lines("cpayload", "run", "(tR."),
    "dotted name": b"\x80\x04\x8c\x02os\x8c\x0bpath.system\x93)R.",
    "memo far away": b"\x80\x02}r\xff\xff\xff\xffh\x00.",
    "marks without end": b"\x80\x02" + b"(" * 5_000_000 + b".",
    "text of four gigabytes": b"\x80\x02X\xff\xff\xff\xffabc.",
    "frame of 2^63": b"\x80\x04\x95" + struct.pack("<Q", (1 << 63) - 1) + b"}.",
    "doubled lists": _bomb(100),
    "deep nesting": b"\x80\x02" + b"(l" * 0 + b"]" * 200_000 + b"a" * 199_999 + b".",
    "a list in itself": b"\x80\x02]q\x00h\x00a.",
    "a dictionary in itself": b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.",
    "a key that is a list": b"\x80\x02}]K\x01s.",
    "a number of a million digits": b"I" + b"9" * 1_000_000 + b"\n.",
    "long of 2^31 bytes": b"\x80\x02\x8b\xff\xff\xff\x7f1.",
    "stops at once": b".",
    "no stop": b"\x80\x02}",
}
"""Malicious and broken pickles, by the way they take."""


def torch_zip(pickled: bytes, storages: dict[str, bytes] | None = None) -> bytes:
    """Return an archive as torch.save writes it."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
        for key, data in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", data)
    return stream.getvalue()


for _name, _pickled in PICKLES.items():
    add(f"torch zip {_name}", "model.pt", partial(torch_zip, _pickled))
    add(f"torch bare {_name}", "model.bin", partial(bytes, _pickled))


def _tensor(key: str, n_values: int, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    """Return the pickle of {"w": a tensor}, whatever it claims."""

    def number(value: int) -> bytes:
        return b"\x8a\x0a" + value.to_bytes(10, "little", signed=True)

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    text = key.encode()
    return (
        b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX"
        + struct.pack("<I", len(text))
        + text
        + b"X\x03\x00\x00\x00cpu"
        + number(n_values)
        + b"tQ"
        + number(offset)
        + numbers(shape)
        + numbers(strides)
        + b"\x89ccollections\nOrderedDict\n(tRtRs."
    )


_TENSORS = {
    "2^60 values in a storage": _tensor("0", 1 << 60, 0, (1 << 60,), (1,)),
    "shape beyond the storage": _tensor("0", 16, 0, (5, 5), (5, 1)),
    "offset beyond the storage": _tensor("0", 16, 1 << 40, (4, 4), (4, 1)),
    "negative offset": _tensor("0", 16, -4, (4, 4), (4, 1)),
    "negative stride": _tensor("0", 16, 15, (4, 4), (-4, -1)),
    "expanded to a terabyte": _tensor("0", 16, 0, (1 << 20, 1 << 20), (0, 0)),
    "a path for a key": _tensor(f"../../../{SECRET}", 16, 0, (4, 4), (4, 1)),
    "a key that is not there": _tensor("1", 16, 0, (4, 4), (4, 1)),
    "a hundred axes": _tensor("0", 16, 0, (1,) * 100, (1,) * 100),
}
for _name, _pickled in _TENSORS.items():
    add(f"torch tensor {_name}", "model.pt", partial(torch_zip, _pickled, {"0": bytes(64)}))


@case("torch zip bomb")
def _(place: Path) -> Path:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(400_000_000))
    return write(place, "model.pt", stream.getvalue())


@case("torch entries that overlap")
def _(place: Path) -> Path:
    data = bytearray(torch_zip(_tensor("0", 16, 0, (4, 4), (4, 1)), {"0": bytes(64), "1": bytes(64)}))
    first, second = (data.rindex(f"archive/data/{key}".encode()) for key in "01")
    # Both entries of the directory point at one place.
    data[second - 4 : second] = data[first - 4 : first]
    return write(place, "model.pt", bytes(data))


@case("torch truncated at every boundary")
def _(place: Path) -> Path:
    whole = torch_zip(_tensor("0", 16, 0, (4, 4), (4, 1)), {"0": bytes(64)})
    for n_bytes in range(0, len(whole), 7):
        write(place, f"model-{n_bytes:04}.pt", whole[:n_bytes])
    return place
