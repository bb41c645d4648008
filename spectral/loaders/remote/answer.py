"""What reading a part of a file behind a URL gives."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """What was sent.

    Attributes
    ----------
    n_read : int
        Bytes that were put where they were wanted.
    size : int
        Bytes of the whole file; -1 where that is not said.
    tag : str
        What the server calls this state of the file, or empty.
    whole : bytes or None
        The whole file, where a server sent that.
    """

    n_read: int
    size: int
    tag: str
    whole: bytes | None = None
