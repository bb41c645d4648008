"""Every hostile checkpoint by name, and how it is written.

A builder writes into a folder of its own and returns what a user would name as the model. Whatever would run, read or
write where it must not is aimed at ``TRACE`` (a file that must not appear) or at ``SECRET`` (a file outside the folder
that must not be read).
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    Builder = Callable[[Path], Path]

TRACE = "trace-of-execution"
SECRET = "secret.bin"
"""Names in the folder above that of the case."""

CASES: dict[str, Builder] = {}
"""Name -> builder; those of a format begin with its name."""


def case(name: str) -> Callable[[Builder], Builder]:
    """Register a builder."""

    def register(builder: Builder) -> Builder:
        assert name not in CASES, name
        CASES[name] = builder
        return builder

    return register


def write_case(name: str, folder: Path) -> Path:
    """Write one case into a folder of its own below ``folder``, beside the secret that it must not reach."""
    place = folder / name.replace(" ", "-").replace("/", "-")
    place.mkdir(parents=True, exist_ok=True)
    if not (folder / SECRET).exists():
        (folder / SECRET).write_bytes(np.ones(1 << 12, dtype=np.float32).tobytes())
    return CASES[name](place)


def _write(place: Path, name: str, data: bytes) -> Path:
    path = place / name
    path.write_bytes(data)
    return path


def _add(name: str, file: str, make: Callable[[], bytes]) -> None:
    """Register a case of one file."""

    def build(place: Path) -> Path:
        return _write(place, file, make())

    case(name)(build)


# --- safetensors ------------------------------------------------------------------------------------------------------


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
    "a pickle": lambda: pickle.dumps(_Run(os.system, f"touch ../{TRACE}")),
}


for _name, _make in _SAFETENSORS.items():
    _add(f"safetensors {_name}", "model.safetensors", _make)


@case("safetensors truncated at every boundary")
def _(place: Path) -> Path:
    whole = safetensors_bytes({"a": _entry(0, 16), "b": _entry(16, 24)}, bytes(24))
    for n_bytes in range(len(whole)):
        _write(place, f"model-{n_bytes:03}.safetensors", whole[:n_bytes])
    return place


# --- pickles ----------------------------------------------------------------------------------------------------------


class _Run:
    """Unpickles by calling a function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def _lines(*parts: str) -> bytes:
    return "\n".join(parts).encode()


def _bomb(n_levels: int) -> bytes:
    """Return a list of two lists of two lists ..: short, and endless to whoever goes through it."""
    doubled = b"".join(b"]q%c(h%ch%ce" % (level + 1, level, level) for level in range(n_levels))
    return b"\x80\x02]q\x00(K\x01K\x01e" + doubled + b"."


_COMMAND = f"touch ../{TRACE}"
_PYTHON = f"open('../{TRACE}', 'w').close()"

PICKLES: dict[str, bytes] = {
    "global and reduce": _lines("cos", "system", f"(S'{_COMMAND}'", "tR."),
    "posix": _lines("cposix", "system", f"(S'{_COMMAND}'", "tR."),
    "eval": _lines("cbuiltins", "eval", f'(S"{_PYTHON}"', "tR."),
    "exec of python 2": _lines("c__builtin__", "exec", f'(S"{_PYTHON}"', "tR."),
    "inst": _lines(f"(S'{_COMMAND}'", "ios", "system", "."),
    "obj": _lines("(cos", "system", f"S'{_COMMAND}'", "o."),
    "stack global": pickle.dumps(_Run(os.system, _COMMAND), protocol=4),
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
        "ccollections", "OrderedDict", "((cos", "system", f"(S'{_COMMAND}'", "tRlt(tR."
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
    _add(f"torch zip {_name}", "model.pt", partial(torch_zip, _pickled))
    _add(f"torch bare {_name}", "model.bin", partial(bytes, _pickled))


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
    _add(f"torch tensor {_name}", "model.pt", partial(torch_zip, _pickled, {"0": bytes(64)}))


@case("torch zip bomb")
def _(place: Path) -> Path:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(400_000_000))
    return _write(place, "model.pt", stream.getvalue())


@case("torch entries that overlap")
def _(place: Path) -> Path:
    data = bytearray(torch_zip(_tensor("0", 16, 0, (4, 4), (4, 1)), {"0": bytes(64), "1": bytes(64)}))
    first, second = (data.rindex(f"archive/data/{key}".encode()) for key in "01")
    # Both entries of the directory point at one place.
    data[second - 4 : second] = data[first - 4 : first]
    return _write(place, "model.pt", bytes(data))


@case("torch truncated at every boundary")
def _(place: Path) -> Path:
    whole = torch_zip(_tensor("0", 16, 0, (4, 4), (4, 1)), {"0": bytes(64)})
    for n_bytes in range(0, len(whole), 7):
        _write(place, f"model-{n_bytes:04}.pt", whole[:n_bytes])
    return place


# --- arrays of numpy --------------------------------------------------------------------------------------------------


def npy_bytes(header: bytes, data: bytes = b"") -> bytes:
    """Return an array file with this header."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


_NPY = {
    "2^60 values": npy_bytes(b"{'descr':'<f4','fortran_order':False,'shape':(1152921504606846976,)}\n", bytes(16)),
    "objects": npy_bytes(
        b"{'descr':'|O','fortran_order':False,'shape':(1,)}\n", pickle.dumps(_Run(os.system, _COMMAND))
    ),
    "code for a header": npy_bytes(f"__import__('os').system('{_COMMAND}')\n".encode()),
    "deep header": npy_bytes(b"(" * 60_000),
    "negative shape": npy_bytes(b"{'descr':'<f4','fortran_order':False,'shape':(-4,)}\n", bytes(16)),
    "unknown type": npy_bytes(b"{'descr':'<f9999999999','fortran_order':False,'shape':(4,)}\n", bytes(16)),
}
for _name, _data in _NPY.items():
    _add(f"npy {_name}", "model.npy", partial(bytes, _data))


@case("npz bomb")
def _(place: Path) -> Path:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        header = b"{'descr':'<f4','fortran_order':False,'shape':(4,)}\n"
        archive.writestr("w.npy", npy_bytes(header, bytes(400_000_000)))
    return _write(place, "model.npz", stream.getvalue())


@case("npz entry with a path")
def _(place: Path) -> Path:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(f"../../{TRACE}.npy", npy_bytes(b"{'descr':'|O','fortran_order':False,'shape':(1,)}\n"))
    return _write(place, "model.npz", stream.getvalue())


# --- folders ----------------------------------------------------------------------------------------------------------


def _index(place: Path, payload: object, name: str = "model.safetensors.index.json") -> Path:
    text = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    _write(place, name, text)
    return place


_INDICES: dict[str, object] = {
    "shard above": {"weight_map": {"w": f"../{SECRET}"}},
    "shard by an absolute path": {"weight_map": {"w": "/etc/passwd"}},
    "shard with a backslash": {"weight_map": {"w": f"..\\{SECRET}"}},
    "shard of a device": {"weight_map": {"w": "/dev/zero"}},
    "shard of a process": {"weight_map": {"w": "/proc/self/environ"}},
    "missing shard": {"weight_map": {"w": "gone.safetensors"}},
    "a million shards": {"weight_map": {f"w{i}": f"s{i}.safetensors" for i in range(200_000)}},
    "nested too deeply": b"[" * 500_000,
    "no map": {"weight_map": []},
    "names twice": b'{"weight_map": {"w": "a", "w": "b"}}',
    "a shard that is an index": {"weight_map": {"w": "model.safetensors.index.json"}},
}
for _name, _payload in _INDICES.items():
    case(f"folder {_name}")(partial(_index, payload=_payload))


@case("folder shard that is a link out")
def _(place: Path) -> Path:
    (place / "out.safetensors").symlink_to(f"../{SECRET}")
    return _index(place, {"weight_map": {"w": "out.safetensors"}})


@case("folder links in a circle")
def _(place: Path) -> Path:
    (place / "a.safetensors").symlink_to("b.safetensors")
    (place / "b.safetensors").symlink_to("a.safetensors")
    return _index(place, {"weight_map": {"w": "a.safetensors"}})


@case("folder with a pipe for weights")
def _(place: Path) -> Path:
    os.mkfifo(place / "model.safetensors")
    return place / "model.safetensors"


@case("folder with a code module beside the pickle")
def _(place: Path) -> Path:
    _write(place, "payload.py", f"def run():\n    {_PYTHON}\n".encode())
    _write(place, "conftest.py", _PYTHON.encode())
    return _write(place, "model.bin", PICKLES["import of a module beside it"])


# --- weights in codes -------------------------------------------------------------------------------------------------


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
    _add(f"codes {_name}", "model.safetensors", partial(bytes, _data))


@case("codes with a hostile configuration")
def _(place: Path) -> Path:
    _write(place, "config.json", b'{"quantization_config":' + b"[" * 400_000)
    _write(place, "model.safetensors", _CODES["negative shape"])
    return place
