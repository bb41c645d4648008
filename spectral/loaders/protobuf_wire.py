"""Walk a file in the wire format of protocol buffers without loading what the fields hold.

The format is given in https://protobuf.dev/programming-guides/encoding/: a message is a row of fields, each a tag
(number and wire type) and its content. What has a length is stepped over unless it is asked for, so a file of gigabytes
is walked in the time that its names and shapes take.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from typing import BinaryIO

    from numpy.typing import NDArray

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
"""The wire types that are in use."""

RUN = 8
"""Our own beside them: a run of fields of one number, their tags included."""

MAX_FIELDS = 1_000_000
"""A language model of a hundred layers has a fifth of it."""

_SMALL_WINDOW, _LARGE_WINDOW = 1 << 12, 1 << 17
_MOST_BYTES = 32
"""More than a tag and what follows it up to its content."""

_MAX_VARINT = 10
_VARINT_PATTERN = rb"[\x80-\xff]{0,9}[\x00-\x7f]"
_CONTENTS = {VARINT: _VARINT_PATTERN, FIXED32: rb"[\x00-\xff]{4}", FIXED64: rb"[\x00-\xff]{8}"}


class WireError(ValueError):
    """The bytes are no message; the text says where."""


class Field(NamedTuple):
    """One field, or a run of them.

    Attributes
    ----------
    number : int
        Its number in the message.
    wire : int
        Its wire type, or :data:`RUN`.
    begin, end : int
        Where its content lies in the file; of a run, where its fields do, with their tags.
    value : int
        Of a varint, its value, 0 <= value < 2^64.
    """

    number: int
    wire: int
    begin: int
    end: int
    value: int = 0


class WireReader:
    """Reads fields out of an open file, through a window that grows while it is read in order."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self.size = size
        self._stream = stream
        self._window = b""
        self._base = 0
        self._n_window = _SMALL_WINDOW
        self._n_fields = 0

    def read(self, begin: int, end: int) -> bytes:
        """Return bytes of the file; the caller bounds how many."""
        offset = begin - self._base
        if offset >= 0 and end - self._base <= len(self._window):
            return self._window[offset : end - self._base]
        self._stream.seek(begin)
        data = self._stream.read(end - begin)
        if len(data) != end - begin:
            raise WireError(f"the file ends before byte {end}")
        return data

    def walk(self, begin: int, end: int, runs: Collection[int] = ()) -> Iterator[Field]:
        """Yield the fields of the message in these bytes, stepping over what they hold.

        Parameters
        ----------
        begin, end : int
            Bytes of the message.
        runs : collection of int
            Tags, of one byte, whose fields are numbers: a row of them is yielded as one :data:`RUN`.
        """
        make = tuple.__new__  # what Field() would call, in half the time
        position = begin
        while position < end:
            self._n_fields += 1
            if self._n_fields > MAX_FIELDS:
                raise WireError(f"more than {MAX_FIELDS} fields, which no model has")
            base, window = self._base, self._window
            offset = position - base
            if offset < 0 or (offset + _MOST_BYTES > len(window) and base + len(window) < end):
                self._fill(position)
                base, window, offset = position, self._window, 0
            tag, after = _varint(window, offset)
            if tag in runs:
                until = self._end_of_run(tag, position, end)
                yield make(Field, (tag >> 3, RUN, position, until, 0))
                position = until
                continue
            wire = tag & 7
            value = 0
            start = base + after
            if wire == LENGTH:
                n_bytes, after = _varint(window, after)
                start = base + after
                stop = start + n_bytes
            elif wire == VARINT:
                value, after = _varint(window, after)
                stop = base + after
            elif wire in (FIXED32, FIXED64):
                stop = start + (4 if wire == FIXED32 else 8)
            else:
                raise WireError(f"byte {position}: wire type {wire}, which is none")
            if tag < 8:
                raise WireError(f"byte {position}: a field without number")
            if stop > end:
                raise WireError(f"byte {position}: a field that ends at byte {stop}, outside its message ({end})")
            yield make(Field, (tag >> 3, wire, start, stop, value))
            position = stop

    def _fill(self, position: int) -> None:
        is_next = 0 <= position - self._base <= len(self._window)
        self._n_window = min(2 * self._n_window, _LARGE_WINDOW) if is_next else _SMALL_WINDOW
        self._stream.seek(position)
        self._window = self._stream.read(self._n_window)
        self._base = position

    def _end_of_run(self, tag: int, position: int, end: int) -> int:
        """Return where a row of fields of one tag ends; a field that is cut off is left to the walk."""
        pattern = re.compile(rb"(?:\x%02x%b)+" % (tag, _CONTENTS[tag & 7]))
        first = position
        while position < end:
            self._fill(position)
            found = pattern.match(self._window, 0, end - position)
            if found is None:
                break
            position += found.end()
            if found.end() + _MOST_BYTES < len(self._window):
                break
        if position == first:
            raise WireError(f"byte {first}: a number that ends outside its message")
        return position


def read_varints(data: bytes | bytearray, *, is_tagged: bool) -> NDArray[Any]:
    """Return the varints in these bytes, as uint64; every second one where each has a tag before it.

    Raises
    ------
    WireError
        The last one does not end, or one is longer than ten bytes.
    """
    import numpy as np

    codes = np.frombuffer(data, dtype=np.uint8)
    ends = np.flatnonzero(codes < 0x80)
    if codes.size and (not ends.size or ends[-1] != codes.size - 1):
        raise WireError("a number that does not end")
    begins = np.concatenate([np.zeros(min(1, ends.size), dtype=ends.dtype), ends[:-1] + 1])
    if is_tagged:
        begins, ends = begins[1::2], ends[1::2]
    lengths = ends - begins + 1
    longest = int(lengths.max(initial=0))
    if longest > _MAX_VARINT:
        raise WireError(f"a number of {longest} bytes")
    values = np.zeros(lengths.size, dtype=np.uint64)
    for place in range(longest):
        has_more = lengths > place
        low = (codes[begins[has_more] + place] & 0x7F).astype(np.uint64)
        values[has_more] |= low << np.uint64(7 * place)
    return values


def as_signed(value: int) -> int:
    """Return a varint as the int64 that it encodes."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _varint(window: bytes, offset: int) -> tuple[int, int]:
    """Return the varint at a place of the window, and where it ends."""
    try:
        byte = window[offset]
        if byte < 0x80:
            return byte, offset + 1
        value = byte & 0x7F
        for place in range(1, _MAX_VARINT):
            byte = window[offset + place]
            value |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                return value & 0xFFFFFFFFFFFFFFFF, offset + place + 1
    except IndexError:
        raise WireError("the file ends within a number") from None
    raise WireError("a number of more than ten bytes")
