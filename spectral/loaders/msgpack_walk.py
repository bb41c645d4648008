"""Walk over a msgpack file and say what is where: the ``msgpack`` package would build every array in memory.

The format is https://github.com/msgpack/msgpack/blob/master/spec.md. Maps, arrays, texts and numbers are read as they
are met; binary data and extensions are passed over, and only their place is kept. Nothing is nested in Python's own
stack, and the memory is bounded by the number of values.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_ITEMS = 1_000_000
"""Values in a file; an array is one."""

MAX_NESTING = 64
MAX_TEXT_BYTES = 1 << 16


class MalformedMsgpackError(ValueError):
    """The bytes are no complete msgpack value, or one that is too deep, too long or too wide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bytes:
    """Binary data that stays in the file.

    Attributes
    ----------
    begin, end : int
        Its bytes.
    kind : int or None
        The type of an extension; None for plain binary data.
    """

    begin: int
    end: int
    kind: int | None = None


@dataclass(slots=True)
class _Open:
    """A map or an array whose values are still to come; in a map keys and values take turns."""

    container: dict[Any, Any] | list[Any]
    n_left: int
    key: Any = None

    def add(self, value: Any) -> bool:
        """Take the next value; tell whether it was the last."""
        self.n_left -= 1
        if isinstance(self.container, list):
            self.container.append(value)
        elif self.n_left % 2:
            if type(value) not in (str, int):
                raise MalformedMsgpackError(f"a {type(value).__name__} as a key")
            if value in self.container:
                raise MalformedMsgpackError(f"the key {str(value)[:200]!r} is there twice")
            self.key = value
        else:
            self.container[self.key] = value
        return self.n_left == 0


class Reader:
    """Reads numbers and texts from a range of a file, and never beyond it."""

    def __init__(self, stream: BinaryIO, begin: int, end: int) -> None:
        self._stream = stream
        self._end = end
        self.at = begin
        stream.seek(begin)

    def take(self, n_bytes: int) -> bytes:
        """Return the next bytes."""
        self.require(n_bytes)
        data = self._stream.read(n_bytes)
        if len(data) != n_bytes:
            raise MalformedMsgpackError("it became shorter while it was read")
        self.at += n_bytes
        return data

    def skip(self, n_bytes: int) -> int:
        """Pass over bytes; return where they begin."""
        self.require(n_bytes)
        begin = self.at
        self.at += n_bytes
        self._stream.seek(self.at)
        return begin

    @property
    def n_left(self) -> int:
        """Bytes that are left."""
        return self._end - self.at

    def require(self, n_bytes: int) -> None:
        """Demand that so many bytes are left."""
        if n_bytes > self.n_left:
            raise MalformedMsgpackError(f"{n_bytes} bytes are announced at byte {self.at} where {self.n_left} are left")

    def number(self, code: str) -> Any:
        """Return a number, big-endian."""
        return struct.unpack(">" + code, self.take(struct.calcsize(">" + code)))[0]


def walk(stream: BinaryIO, begin: int, end: int) -> Any:
    """Return the one value between two bytes of a file, runs of bytes as :class:`Bytes`.

    Returns
    -------
    object
        Made of dict, list, str, int, float, bool, None and :class:`Bytes`.

    Raises
    ------
    MalformedMsgpackError
        See there.
    OSError
        The file cannot be read.
    """
    reader = Reader(stream, begin, end)
    pending: list[_Open] = []
    for _ in range(MAX_ITEMS):
        value = _next(reader)
        if isinstance(value, _Open) and value.n_left:
            if len(pending) >= MAX_NESTING:
                raise MalformedMsgpackError(f"nested more than {MAX_NESTING} deep")
            pending.append(value)
            continue
        value = value.container if isinstance(value, _Open) else value
        while pending and pending[-1].add(value):
            value = pending.pop().container
        if not pending:
            if reader.n_left:
                raise MalformedMsgpackError(f"{reader.n_left} bytes follow its end")
            return value
    raise MalformedMsgpackError(f"more than {MAX_ITEMS} values")


def _next(reader: Reader) -> Any:
    """Return the next value; a map or an array without what is in it."""
    code = reader.take(1)[0]
    if code < 0x80:
        return code
    if code < 0x90:
        return _map(reader, code & 0x0F)
    if code < 0xA0:
        return _array(reader, code & 0x0F)
    if code < 0xC0:
        return _text(reader, code & 0x1F)
    if code >= 0xE0:
        return code - 0x100
    read = _CODES.get(code)
    if read is None:
        raise MalformedMsgpackError(f"no value begins with the byte {code:#x}")
    return read(reader)


def _map(reader: Reader, n: int) -> _Open:
    # Each entry takes two bytes at least: no count makes memory be set aside.
    reader.require(2 * n)
    return _Open(container={}, n_left=2 * n)


def _array(reader: Reader, n: int) -> _Open:
    reader.require(n)
    return _Open(container=[], n_left=n)


def _text(reader: Reader, n_bytes: int) -> str:
    if n_bytes > MAX_TEXT_BYTES:
        raise MalformedMsgpackError(f"a text of {n_bytes} bytes")
    try:
        return reader.take(n_bytes).decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedMsgpackError("a text that is not UTF-8") from error


def _binary(reader: Reader, n_bytes: int) -> Bytes:
    begin = reader.skip(n_bytes)
    return Bytes(begin=begin, end=begin + n_bytes)


def _extension(reader: Reader, n_bytes: int) -> Bytes:
    kind = reader.number("b")
    begin = reader.skip(n_bytes)
    return Bytes(begin=begin, end=begin + n_bytes, kind=kind)


_CODES: dict[int, Callable[[Reader], Any]] = {
    0xC0: lambda _: None,
    0xC2: lambda _: False,
    0xC3: lambda _: True,
    0xC4: lambda reader: _binary(reader, reader.number("B")),
    0xC5: lambda reader: _binary(reader, reader.number("H")),
    0xC6: lambda reader: _binary(reader, reader.number("I")),
    0xC7: lambda reader: _extension(reader, reader.number("B")),
    0xC8: lambda reader: _extension(reader, reader.number("H")),
    0xC9: lambda reader: _extension(reader, reader.number("I")),
    0xCA: lambda reader: reader.number("f"),
    0xCB: lambda reader: reader.number("d"),
    0xCC: lambda reader: reader.number("B"),
    0xCD: lambda reader: reader.number("H"),
    0xCE: lambda reader: reader.number("I"),
    0xCF: lambda reader: reader.number("Q"),
    0xD0: lambda reader: reader.number("b"),
    0xD1: lambda reader: reader.number("h"),
    0xD2: lambda reader: reader.number("i"),
    0xD3: lambda reader: reader.number("q"),
    0xD4: lambda reader: _extension(reader, 1),
    0xD5: lambda reader: _extension(reader, 2),
    0xD6: lambda reader: _extension(reader, 4),
    0xD7: lambda reader: _extension(reader, 8),
    0xD8: lambda reader: _extension(reader, 16),
    0xD9: lambda reader: _text(reader, reader.number("B")),
    0xDA: lambda reader: _text(reader, reader.number("H")),
    0xDB: lambda reader: _text(reader, reader.number("I")),
    0xDC: lambda reader: _array(reader, reader.number("H")),
    0xDD: lambda reader: _array(reader, reader.number("I")),
    0xDE: lambda reader: _map(reader, reader.number("H")),
    0xDF: lambda reader: _map(reader, reader.number("I")),
}
"""First byte -> how the rest is read; those of short values are ranges, and not here."""
