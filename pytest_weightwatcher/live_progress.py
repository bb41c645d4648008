"""How far the analyses of a long run are, on the last line of a terminal; in logs there is nothing of it."""

from __future__ import annotations

import time
from concurrent.futures import FIRST_COMPLETED, wait
from typing import TYPE_CHECKING

from pytest_weightwatcher.nodeids import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from spectral.weights import MatrixSpec

    Analyses = Sequence[tuple[MatrixSpec, Future[object]]]

DELAY = 2.0
"""Seconds before anything is shown: short runs need no progress."""

INTERVAL = 0.2
_ERASE = "\r\x1b[K"
_READING = 1e6
"""Cost of a matrix besides its decomposition, in multiplications."""


def watch(analyses: Analyses, write: Callable[[str], object], *, width: int) -> None:
    """Wait for analyses, and say meanwhile how far they are; the line is taken away at the end.

    Parameters
    ----------
    analyses : sequence of (MatrixSpec, Future)
        All of them begun or to be begun.
    write : callable
        Writes to the terminal, at once.
    width : int
        Columns of the terminal.
    """
    start, is_shown = time.monotonic(), False
    left = {future for _, future in analyses if not future.done()}
    try:
        while left:
            _, left = wait(left, timeout=INTERVAL, return_when=FIRST_COMPLETED)
            elapsed = time.monotonic() - start
            if left and elapsed >= DELAY:
                write(f"{_ERASE}{describe(analyses, elapsed)[: width - 1]}")
                is_shown = True
    finally:
        if is_shown:
            write(_ERASE)


def describe(analyses: Analyses, elapsed: float) -> str:
    """Return the line: how many are done, what is at work, and how long the rest may take.

    Parameters
    ----------
    analyses : sequence of (MatrixSpec, Future)
        All of them.
    elapsed : float
        Seconds since they were begun.
    """
    done = [spec for spec, future in analyses if future.done()]
    left = [spec for spec, future in analyses if not future.done()]
    text = f"analysed {len(done)} of {len(analyses)}"
    at_work = next((spec for spec, future in analyses if future.running()), None)
    if at_work is not None:
        text += f", {printable(at_work.name[-60:])} {at_work.N} x {at_work.M}"
    cost = sum(map(_cost, done))
    if cost > 0.0 and left:
        text += f", {format_duration(elapsed * sum(map(_cost, left)) / cost)} left"
    return text


def format_duration(seconds: float) -> str:
    """Return a time to come, no more exactly than it is known."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _cost(spec: MatrixSpec) -> float:
    return float(spec.n_slices) * spec.N * spec.M * spec.M + _READING
