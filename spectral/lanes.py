"""Two threads inside one large matrix, in such a way that the result is the same on any machine.

The work is always divided in the same way, each part with sums of its own that are added up in a fixed order. How many
parts run at once, and on which cores, changes nothing.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

N_LANES = 2

LANES_FROM = 1e10
"""From this many multiplications on, the parts run at once: with a few large matrices there is nothing else to do for
the second core."""


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
