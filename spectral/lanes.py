"""Two threads for one large matrix, in such a way that the result is the same on any machine.

The work is always divided in the same way, each part with sums of its own that are added up in a fixed order. How many
parts run at once, and on which cores, changes nothing.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import TypeVar

    Result = TypeVar("Result")

N_LANES = 2

LANES_FROM = 1e10
"""From this many multiplications on, the parts run at once: with a few large matrices there is nothing else to do for
the second core."""

ASIDE_FROM = 2e8
"""From this many multiplications on a second piece of work is begun on a thread of its own, which costs a hundredth."""


class Lanes:
    """Runs the parts of a piece of work, at once or one after the other.

    Parameters
    ----------
    cost : float
        Multiplications of the whole work; from :data:`LANES_FROM` on the parts run at once.
    """

    def __init__(self, cost: float) -> None:
        self._threads = None
        if cost >= LANES_FROM:
            self._threads = ThreadPoolExecutor(N_LANES - 1, thread_name_prefix="spectral-lane")

    def __enter__(self) -> Lanes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._threads is not None:
            self._threads.shutdown()

    def run(self, work: Callable[[int], None]) -> None:
        """Call ``work`` with 0 .. N_LANES - 1; return when all have ended, and raise the first error."""
        if self._threads is None:
            for lane in range(N_LANES):
                work(lane)
            return
        others = [self._threads.submit(work, lane) for lane in range(1, N_LANES)]
        try:
            work(0)
        finally:
            for other in others:
                other.exception()
        for other in others:
            other.result()


@contextmanager
def aside(work: Callable[[], Result], *, cost: float) -> Iterator[Callable[[], Result]]:
    """Begin a piece of work beside what the caller does meanwhile.

    Parameters
    ----------
    work : callable
        What is done, on another thread where there is enough to do, otherwise when its result is asked for.
    cost : float
        Multiplications of what the caller does meanwhile; from :data:`ASIDE_FROM` on the work begins at once.

    Yields
    ------
    callable
        Returns the result or raises the error. Not to be called where the work had nothing sound to work on: its
        error then is of no interest.
    """
    if cost < ASIDE_FROM:
        yield work
        return
    with ThreadPoolExecutor(1, thread_name_prefix="spectral-aside") as thread:
        yield thread.submit(work).result
