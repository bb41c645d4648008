"""Read ranges of bytes of a file, with errors that name the tensor."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from spectral.errors import CorruptCheckpointError, ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import IO

PIECE_BYTES = 1 << 20
"""How much of a tensor is passed over at a time."""


def size_of(stream: IO[bytes]) -> int:
    """Return the size of an open file, which need not be one of the operating system, and go back to its beginning."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    return size


def read_range(path: Path, name: str, begin: int, end: int) -> bytearray:
    """Return the bytes of a tensor, or of a part of it, in memory of the caller's own.

    Raises
    ------
    ModelError, CorruptCheckpointError
        The file cannot be read, or has become shorter; the message names both.
    """
    try:
        with path.open("rb") as stream:
            stream.seek(begin)
            data = bytearray(end - begin)
            n_read = stream.readinto(data)
    except OSError as error:
        raise _unreadable(path, name, error) from error
    if n_read != end - begin:
        raise _cut_short(path, name, end, n_read, end - begin)
    return data


def stream_range(path: Path, name: str, begin: int, end: int) -> Iterator[memoryview]:
    """Give the bytes of a tensor piece by piece; a piece is good until the next one is asked for.

    Raises
    ------
    ModelError, CorruptCheckpointError
        As :func:`read_range`.
    """
    # A file behind a URL is asked for in larger pieces.
    n_piece = getattr(path, "piece_bytes", PIECE_BYTES)
    # One buffer for all pieces: new memory for each would cost more than reading and hashing them.
    buffer = memoryview(bytearray(min(n_piece, end - begin)))
    try:
        with path.open("rb") as stream:
            stream.seek(begin)
            for position in range(begin, end, n_piece):
                piece = buffer[: end - position]
                n_read = stream.readinto(piece)
                if n_read != len(piece):
                    raise _cut_short(path, name, end, position - begin + n_read, end - begin)
                yield piece
    except OSError as error:
        raise _unreadable(path, name, error) from error


def _unreadable(path: Path, name: str, error: OSError) -> ModelError:
    return ModelError(f"{path}: tensor {name!r} cannot be read: {error.strerror}")


def _cut_short(path: Path, name: str, end: int, n_read: int, n_bytes: int) -> CorruptCheckpointError:
    return CorruptCheckpointError(
        f"{path}: tensor {name!r} ends at byte {end}, but the file gave only "
        f"{n_read} of its {n_bytes} bytes (it changed while it was read)"
    )
