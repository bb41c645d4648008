"""One line on a terminal that says how far a run is. Written to stderr, and only where somebody looks at it."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from pytest_weightwatcher.console.cells import shorten
from pytest_weightwatcher.nodeids import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_BAR = 20
_INTERVAL = 0.1
"""Seconds between two looks at the line."""

_ERASE = "\r\x1b[K"


class ProgressLine:
    """A bar, a count and the layer that was finished last."""

    def __init__(self, stream: TextIO, *, width: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._width = width
        self._clock = clock
        self._task = ""
        self._shown_at = -_INTERVAL

    def begin(self, task: str, n_total: int) -> None:
        """Say what is done from now on."""
        self._task = task
        self._shown_at = -_INTERVAL
        self(0, n_total, "")

    def __call__(self, n_done: int, n_total: int, layer: str) -> None:
        now = self._clock()
        if now - self._shown_at < _INTERVAL and n_done < n_total:
            return
        self._shown_at = now
        n_full = _BAR * n_done // n_total if n_total else _BAR
        bar = f"[{'#' * n_full}{'.' * (_BAR - n_full)}]"
        counts = f"{bar} {n_done}/{n_total} "
        # One place less than there are: in the last one some terminals go to the next line.
        names = shorten(printable(f"{self._task} {layer}".rstrip()), max(0, self._width - 1 - len(counts)))
        self._stream.write(f"{_ERASE}{_encodable(f'{counts}{names}'[: self._width - 1], self._stream)}")
        self._stream.flush()

    def end(self) -> None:
        """Take the line away."""
        self._stream.write(_ERASE)
        self._stream.flush()


class NoProgress(ProgressLine):
    """Says nothing."""

    def __call__(self, n_done: int, n_total: int, layer: str) -> None:
        """Say nothing."""

    def end(self) -> None:
        """Leave nothing behind."""


@contextmanager
def progress_line(stream: TextIO) -> Iterator[ProgressLine]:
    """Yield a line on a terminal, and take it away at the end; elsewhere, one that says nothing."""
    if not can_redraw(stream):
        yield NoProgress(stream, width=0)
        return
    line = ProgressLine(stream, width=shutil.get_terminal_size().columns)
    try:
        yield line
    finally:
        line.end()


def can_redraw(stream: TextIO) -> bool:
    """Tell whether a stream is a terminal that understands control sequences."""
    return bool(stream) and stream.isatty() and os.environ.get("TERM", "") != "dumb"


def _encodable(text: str, stream: TextIO) -> str:
    encoding = stream.encoding or "ascii"
    return text.encode(encoding, "replace").decode(encoding)
