"""Read the header of a GGUF file: the few of its values that are needed, and the tensors; no library, no recursion.

The format is given in https://github.com/ggml-org/ggml/blob/master/docs/gguf.md: the magic, a version, two counts,
pairs of key and value, the descriptions of the tensors, and behind a pad their bytes. Most of it is vocabulary, which
is passed over: a few hundred thousand strings cost some tens of milliseconds. Version 2 differs from 3 only in that
the byte order was not yet said; it is known from the version's own bytes. Version 1 counted with 32 bits and is not
read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

from spectral.errors import CorruptCheckpointError, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32

MAX_HEADER_BYTES = 1 << 28
"""Ten times what the largest vocabularies take."""

MAX_KEYS = 1 << 16
MAX_KEY_BYTES = (1 << 16) - 1
"""The format's own limit on a key; names of tensors are held to it, too."""

MAX_TENSORS = 1 << 17
"""Ten times what the largest models have."""

MAX_STRINGS = 1 << 22
"""Strings, and arrays within arrays, of the whole header."""

MAX_DIMENSIONS = 4
"""What ggml itself allows."""

MAX_VALUES = 1 << 59
"""Their bytes can be counted in 64 bits, as numpy demands even where another axis is empty."""

MAX_KEPT_STRING = 256
MAX_KEPT_VALUES = 1 << 14

_PIECE_BYTES = 1 << 20
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
"""Number of a type -> its code in the module struct; all but 6 and 12 are integers."""

_FLOATS = (6, 12)
_OLD_MAGICS = (b"lmgg", b"tjgg", b"algg", b"fmgg", b"ggml", b"ggjt", b"ggla", b"ggmf")

_KEPT_KEYS = frozenset({"general.architecture", "general.alignment", "split.no", "split.count", "split.tensors.count"})
_KEPT_ENDINGS = (
    ".attention.head_count",
    ".attention.head_count_kv",
    ".attention.key_length",
    ".attention.value_length",
    ".embedding_length",
)
ORIGINAL_SHAPE = "comfy.gguf.orig_shape."
"""Prefix of a key by which image models, whose tensors may have more axes than ggml, say what shape one had."""

Value = int | str | tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedTensor:
    """A tensor as the header has it.

    Attributes
    ----------
    name : str
        Its name.
    shape : tuple of int
        In the order of numpy: the axis that varies fastest, which the file gives first, is last.
    kind : int
        Number of its type in ggml.
    offset : int
        Of its first byte, from where the data begin.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What is kept of the header of a file.

    Attributes
    ----------
    is_big_endian : bool
        Byte order of the whole file.
    alignment : int
        Every tensor begins at a multiple of it, from where the data begin.
    values : mapping
        The values that are needed, by key.
    tensors : tuple of DescribedTensor
        In the order of the file.
    data_begin : int
        Where the data begin.
    n_file : int
        Length of the file.
    """

    is_big_endian: bool
    alignment: int
    values: Mapping[str, Value] = field(repr=False)
    tensors: tuple[DescribedTensor, ...] = field(repr=False)
    data_begin: int
    n_file: int


class _Cursor:
    """A place in the header; what lies before it is forgotten."""

    def __init__(self, path: Path, stream: BinaryIO, n_file: int) -> None:
        self.path = path
        self.stream = stream
        self.limit = min(n_file, MAX_HEADER_BYTES)
        self.data = b""
        self.begin = 0
        self.at = 0
        self.order = "<"
        self.n_strings = 0

    @property
    def position(self) -> int:
        """Byte of the file."""
        return self.begin + self.at

    def fail(self, problem: str) -> CorruptCheckpointError:
        return CorruptCheckpointError(f"{self.path}: {problem}")

    def require(self, n_bytes: int, what: str) -> None:
        """Have so many bytes at hand."""
        if len(self.data) - self.at >= n_bytes:
            return
        if self.position + n_bytes > self.limit:
            raise self.fail(f"truncated, or a damaged header: it ends within {what}, at byte {self.position}")
        rest = self.data[self.at :]
        self.begin, self.at = self.position, 0
        self.data = rest + self.stream.read(max(_PIECE_BYTES, n_bytes - len(rest)))
        if len(self.data) < n_bytes:
            raise self.fail(f"ends within {what} (it changed while it was read)")

    def skip(self, n_bytes: int, what: str) -> None:
        if self.position + n_bytes > self.limit:
            raise self.fail(
                f"truncated, or a damaged header: {what} of {n_bytes} bytes at byte {self.position} ends outside it"
            )
        self.at += n_bytes
        if self.at > len(self.data):
            self.begin, self.at, self.data = self.position, 0, b""
            self.stream.seek(self.begin)

    def unpack(self, code: str, what: str) -> tuple[int, ...]:
        code = self.order + code
        n_bytes = struct.calcsize(code)
        self.require(n_bytes, what)
        values = struct.unpack_from(code, self.data, self.at)
        self.at += n_bytes
        return values

    def count(self, what: str, most: int) -> int:
        (number,) = self.unpack("Q", what)
        if number > most:
            raise self.fail(f"{what} is {number}, which no file has (at most {most})")
        return number

    def text(self, what: str, most: int = MAX_KEY_BYTES) -> str:
        n_bytes = self.count(f"the length of {what}", most)
        self.require(n_bytes, what)
        raw = self.data[self.at : self.at + n_bytes]
        self.at += n_bytes
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.fail(f"{what} is not valid UTF-8 ({raw[:40]!r})") from error

    def charge(self, n_strings: int, what: str) -> None:
        self.n_strings += n_strings
        if self.n_strings > MAX_STRINGS:
            raise self.fail(f"{what} brings the strings of the header above {MAX_STRINGS}, which no vocabulary has")

    def skip_strings(self, n_strings: int, what: str) -> None:
        """Pass over strings: the only loop whose length is that of a vocabulary, so it counts by itself."""
        self.charge(n_strings, what)
        unpack = struct.Struct(self.order + "Q").unpack_from
        while n_strings:
            self.require(8, what)
            data, at = self.data, self.at
            try:
                for left in range(n_strings, 0, -1):
                    n_strings = left
                    at += 8 + unpack(data, at)[0]
                n_strings = 0
            except (struct.error, OverflowError):
                # Beyond what is at hand, or beyond any file: the latter is found where it is gone to.
                pass
            self.skip(at - self.at, what)


def read_header(path: Path, stream: BinaryIO, n_file: int) -> Header:
    """Read and check the header at the beginning of an open file.

    Raises
    ------
    CorruptCheckpointError
        It is cut short, contradicts itself, or holds numbers that no file has.
    UnsupportedModelError
        The version, or the format that came before this one, is not read.
    """
    cursor = _Cursor(path, stream, n_file)
    _read_version(cursor)
    n_tensors = cursor.count("the number of tensors", MAX_TENSORS)
    n_keys = cursor.count("the number of keys", MAX_KEYS)
    values = _read_values(cursor, n_keys)
    tensors: dict[str, DescribedTensor] = {}
    for index in range(n_tensors):
        tensor = _read_tensor(cursor, index)
        if tensor.name in tensors:
            raise cursor.fail(f"the tensor {tensor.name[:200]!r} appears twice")
        tensors[tensor.name] = tensor
    alignment = values.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise cursor.fail(f"general.alignment is {alignment!r}, which must be a power of two")
    return Header(
        is_big_endian=cursor.order == ">",
        alignment=alignment,
        values=values,
        tensors=tuple(tensors.values()),
        data_begin=-(-cursor.position // alignment) * alignment,
        n_file=n_file,
    )


def _read_version(cursor: _Cursor) -> None:
    if cursor.limit == 0:
        raise cursor.fail("the file is empty")
    cursor.require(min(4, cursor.limit), "the magic")
    magic = cursor.data[:4]
    if magic in _OLD_MAGICS:
        raise UnsupportedModelError(
            f"{cursor.path}: written in the format that came before GGUF: convert it with a llama.cpp of its time"
        )
    if magic != MAGIC:
        raise cursor.fail(f"not a GGUF file: begins with {magic!r}, expected {MAGIC!r}")
    cursor.at = 4
    (version,) = cursor.unpack("I", "the version")
    if version & 0xFFFF == 0:
        cursor.order = ">"
        version = int.from_bytes(version.to_bytes(4, "little"), "big")
    if version not in VERSIONS:
        raise UnsupportedModelError(
            f"{cursor.path}: version {version} of GGUF is not read; versions {VERSIONS[0]} and {VERSIONS[1]} are"
        )


def _read_values(cursor: _Cursor, n_keys: int) -> dict[str, Value]:
    seen: set[str] = set()
    values: dict[str, Value] = {}
    for index in range(n_keys):
        key = cursor.text(f"key {index}")
        if key in seen:
            raise cursor.fail(f"the key {key[:200]!r} appears twice")
        seen.add(key)
        value = _read_value(cursor, key, is_kept=_is_kept(key))
        if value is not None:
            values[key] = value
    return values


def _is_kept(key: str) -> bool:
    return key in _KEPT_KEYS or key.endswith(_KEPT_ENDINGS) or key.startswith(ORIGINAL_SHAPE)


def _read_value(cursor: _Cursor, key: str, *, is_kept: bool) -> Value | None:
    """Read or pass over one value; None where it is not kept, or of a kind that is not needed."""
    what = f"the value of {key[:100]!r}"
    (kind,) = cursor.unpack("I", what)
    if kind == _ARRAY:
        return _read_array(cursor, what, is_kept=is_kept)
    if kind == _STRING:
        if is_kept:
            return cursor.text(what, MAX_KEPT_STRING)
        cursor.skip_strings(1, what)
        return None
    if kind not in _SCALARS:
        raise cursor.fail(f"{what} has the type {kind}, which the format does not know")
    (value,) = cursor.unpack(_SCALARS[kind], what)
    return value if is_kept and kind not in _FLOATS else None


def _read_array(cursor: _Cursor, what: str, *, is_kept: bool) -> tuple[int, ...] | None:
    """Read an array of integers, or pass over one of any kind.

    An array of arrays is followed by these, one after the other: how many are still to come is all that must be known.
    """
    n_arrays = 1
    kept: tuple[int, ...] | None = None
    while n_arrays:
        n_arrays -= 1
        (kind,) = cursor.unpack("I", what)
        (length,) = cursor.unpack("Q", what)
        if kind == _ARRAY:
            cursor.charge(length, what)
            n_arrays += length
            is_kept = False
        elif kind == _STRING:
            cursor.skip_strings(length, what)
        elif kind not in _SCALARS:
            raise cursor.fail(f"{what} holds the type {kind}, which the format does not know")
        elif is_kept and kind not in _FLOATS and length <= MAX_KEPT_VALUES:
            kept = cursor.unpack(f"{length}{_SCALARS[kind]}", what)
        else:
            cursor.skip(length * struct.calcsize("=" + _SCALARS[kind]), what)
    return kept


def _read_tensor(cursor: _Cursor, index: int) -> DescribedTensor:
    name = cursor.text(f"the name of tensor {index}")
    what = f"tensor {name[:200]!r}"
    (n_dimensions,) = cursor.unpack("I", what)
    if n_dimensions > MAX_DIMENSIONS:
        raise cursor.fail(f"{what} has {n_dimensions} dimensions, the format allows {MAX_DIMENSIONS}")
    *lengths, kind, offset = cursor.unpack(f"{n_dimensions}QIQ", what)
    n_values = 1
    for length in lengths:
        n_values *= max(length, 1)
    if n_values > MAX_VALUES:
        raise cursor.fail(f"{what}: its shape {tuple(reversed(lengths))} has more than {MAX_VALUES} values")
    return DescribedTensor(name=name, shape=tuple(reversed(lengths)), kind=kind, offset=offset)
