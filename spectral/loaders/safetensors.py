"""Read ``.safetensors`` files: the header as JSON, each tensor by its byte range.

Written here rather than taken from the ``safetensors`` package because the core needs the byte ranges
themselves, the types that numpy lacks (BF16, F8), and errors that name the tensor. The format is given in
https://github.com/huggingface/safetensors#format: eight bytes of header length N, N bytes of JSON, the data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from spectral.errors import CorruptCheckpointError, ModelError, ModelNotFoundError
from spectral.loaders.byte_ranges import read_range, size_of, stream_range
from spectral.loaders.dtypes import numpy_dtype, stored_dtype, why_not_float
from spectral.loaders.json_text import parse_json
from spectral.loaders.naming import natural_order
from spectral.loaders.protocol import TensorInfo

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

MAX_HEADER_BYTES = 100_000_000
"""The format's own limit on the JSON header."""

MAX_COUNT = 2**63 - 1
"""No dimension and no offset of a real file is larger; also keeps the arithmetic on hostile headers cheap."""

MAX_DIMENSIONS = 64
"""More than any array library can hold."""

_LENGTH_BYTES = 8

_DTYPES: dict[str, tuple[str, int]] = {
    "BOOL": ("bool", 8),
    "F4": ("float4_e2m1", 4),
    "F6_E2M3": ("float6_e2m3", 6),
    "F6_E3M2": ("float6_e3m2", 6),
    "U8": ("uint8", 8),
    "I8": ("int8", 8),
    "F8_E4M3": ("float8_e4m3fn", 8),
    "F8_E5M2": ("float8_e5m2", 8),
    "F8_E8M0": ("float8_e8m0fnu", 8),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 8),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 8),
    "I16": ("int16", 16),
    "U16": ("uint16", 16),
    "F16": ("float16", 16),
    "BF16": ("bfloat16", 16),
    "I32": ("int32", 32),
    "U32": ("uint32", 32),
    "F32": ("float32", 32),
    "C64": ("complex64", 64),
    "I64": ("int64", 64),
    "U64": ("uint64", 64),
    "F64": ("float64", 64),
}
"""Format name -> (our name, bits per value)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SafetensorsFile:
    """One ``.safetensors`` file, opened by :func:`open_safetensors`."""

    path: Path
    infos: dict[str, TensorInfo] = field(repr=False)
    offsets: dict[str, tuple[int, int]] = field(repr=False)
    metadata: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What the header says beside the tensors, as text."""

    @property
    def label(self) -> str:
        return str(self.path)

    def tensors(self) -> tuple[TensorInfo, ...]:
        return tuple(self.infos.values())

    def load(self, name: str) -> NDArray[Any]:
        info = self._require(name)
        return self._read(info, *self.offsets[name]).reshape(info.shape)

    def load_span(self, name: str, begin: int, end: int) -> NDArray[Any]:
        info = self._require(name)
        n_bytes = numpy_dtype(info.dtype).itemsize
        first_byte = self.offsets[name][0]
        return self._read(info, first_byte + begin * n_bytes, first_byte + end * n_bytes)

    def load_stored(self, name: str, begin: int, end: int) -> NDArray[Any]:
        info, (first_byte, last_byte) = self.infos[name], self.offsets[name]
        dtype = stored_dtype(info.dtype)
        if dtype is None:
            # Two to a byte, which is as numpy has them.
            return self._read(replace(info, dtype="uint8"), first_byte, last_byte)
        return self._read(info, first_byte + begin * dtype.itemsize, first_byte + end * dtype.itemsize)

    def stream(self, name: str) -> Iterator[memoryview]:
        self._require(name)
        return stream_range(self.path, name, *self.offsets[name])

    def load_all(self) -> dict[str, NDArray[Any]]:
        return {name: self._read(info, *self.offsets[name]).reshape(info.shape) for name, info in self.infos.items()}

    def _require(self, name: str) -> TensorInfo:
        """Return the header of a tensor that can be analysed."""
        info = self.infos[name]
        if info.refusal is not None:
            raise ModelError(f"{self.path}: tensor {name!r}: {info.refusal}")
        return info

    def _read(self, info: TensorInfo, begin: int, end: int) -> NDArray[Any]:
        import numpy as np

        name, dtype = info.name, stored_dtype(info.dtype)
        if dtype is None:
            raise ModelError(f"{self.path}: tensor {name!r}: no array has the type {info.dtype}")
        return np.frombuffer(read_range(self.path, name, begin, end), dtype=dtype)


def open_safetensors(path: Path) -> SafetensorsFile:
    """Read and check the header of a ``.safetensors`` file.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    SafetensorsFile
        Its tensors in natural order of their names (the order inside the file carries no meaning).

    Raises
    ------
    ModelNotFoundError
        No such file.
    CorruptCheckpointError
        The header is not what the format demands, or points outside the file; the message says where.
    """
    try:
        with path.open("rb") as stream:
            n_file = size_of(stream)
            header = _read_header(path, stream.read(_LENGTH_BYTES), n_file, stream.read)
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"{path}: no such file") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    n_header, entries = header
    first_byte = _LENGTH_BYTES + n_header
    infos: list[TensorInfo] = []
    offsets: dict[str, tuple[int, int]] = {}
    for name, entry in entries.items():
        if name == "__metadata__":
            continue
        info, begin, end = _check_entry(path, name, entry)
        infos.append(info)
        offsets[name] = (first_byte + begin, first_byte + end)
    _check_layout(path, offsets, first_byte, n_file)
    infos.sort(key=lambda info: natural_order(info.name))
    return SafetensorsFile(
        path=path,
        infos={info.name: info for info in infos},
        offsets=offsets,
        metadata=_metadata(entries.get("__metadata__")),
    )


def _metadata(said: Any) -> dict[str, str]:
    """Return the texts among what a header says beside its tensors."""
    return {key: text for key, text in said.items() if isinstance(text, str)} if isinstance(said, dict) else {}


def _read_header(path: Path, prefix: bytes, n_file: int, read: Any) -> tuple[int, dict[str, Any]]:
    if n_file == 0:
        raise CorruptCheckpointError(f"{path}: the file is empty")
    if len(prefix) < _LENGTH_BYTES:
        raise CorruptCheckpointError(
            f"{path}: truncated: {n_file} bytes, but a safetensors file begins with {_LENGTH_BYTES} bytes of length"
        )
    n_header = int.from_bytes(prefix, "little")
    if n_header > n_file - _LENGTH_BYTES:
        raise CorruptCheckpointError(
            f"{path}: truncated, or not a safetensors file: its header claims {n_header} bytes, "
            f"the file has {n_file - _LENGTH_BYTES} after the length"
        )
    if n_header > MAX_HEADER_BYTES:
        raise CorruptCheckpointError(
            f"{path}: wrong header length: {n_header} bytes, the format allows at most {MAX_HEADER_BYTES}"
        )
    try:
        entries = parse_json(read(n_header))
    except ValueError as error:
        raise CorruptCheckpointError(
            f"{path}: wrong header length, or a damaged header: the {n_header} bytes after the length are not "
            f"valid JSON ({error})"
        ) from error
    if not isinstance(entries, dict):
        raise CorruptCheckpointError(f"{path}: the header is a JSON {type(entries).__name__}, expected an object")
    return n_header, entries


def _check_entry(path: Path, name: str, entry: Any) -> tuple[TensorInfo, int, int]:
    where = f"{path}: tensor {name[:200]!r}"
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise CorruptCheckpointError(f"{where}: the header gives no dtype, shape and data_offsets for it")
    shape, span = entry["shape"], entry["data_offsets"]
    if not _are_counts(shape) or len(shape) > MAX_DIMENSIONS:
        raise CorruptCheckpointError(
            f"{where}: the shape must be a list of at most {MAX_DIMENSIONS} integers from 0 to {MAX_COUNT}"
        )
    if not _are_counts(span) or len(span) != 2 or span[0] > span[1]:
        raise CorruptCheckpointError(f"{where}: data_offsets must be two integers, begin <= end")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in _DTYPES:
        raise CorruptCheckpointError(f"{where}: unknown dtype {str(entry['dtype'])[:40]!r}")
    dtype, n_bits = _DTYPES[entry["dtype"]]
    n_expected = (math.prod(shape) * n_bits + 7) // 8
    if n_expected != span[1] - span[0]:
        raise CorruptCheckpointError(
            f"{where}: shape {shape} of {entry['dtype']} takes {_in_words(n_expected)} bytes, "
            f"data_offsets give {span[1] - span[0]}"
        )
    info = TensorInfo(name=name, shape=tuple(shape), dtype=dtype, refusal=why_not_float(dtype))
    return info, span[0], span[1]


def _in_words(count: int) -> str:
    return str(count) if count <= MAX_COUNT else f"more than {MAX_COUNT}"


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value <= MAX_COUNT for value in values)


def _check_layout(path: Path, offsets: dict[str, tuple[int, int]], first_byte: int, n_file: int) -> None:
    """Demand that the tensors tile the data exactly: no overlap, no hole, nothing outside the file."""
    position = first_byte
    for name, (begin, end) in sorted(offsets.items(), key=lambda item: item[1]):
        if end > n_file:
            raise CorruptCheckpointError(
                f"{path}: tensor {name[:200]!r} ends at byte {end}, outside the file of {n_file} bytes "
                "(truncated, or a damaged header)"
            )
        if begin != position:
            problem = "overlaps the tensor before it" if begin < position else "leaves a hole before it"
            raise CorruptCheckpointError(f"{path}: tensor {name[:200]!r} at byte {begin} {problem} (byte {position})")
        position = end
    if position != n_file:
        raise CorruptCheckpointError(f"{path}: {n_file - position} bytes follow the last tensor")
