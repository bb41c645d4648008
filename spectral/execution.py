"""Run independent tasks on an executor, with BLAS held to one thread so that results do not depend on it.

LAPACK's symmetric solver gives other last bits with two BLAS threads than with one (measured on OpenBLAS
0.3.31), so parallelism is over matrices. Inside a large one it is ours, with the sums in a fixed order: see
:mod:`spectral.lanes`.
"""

from __future__ import annotations

import logging
import os
import threading
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from spectral.errors import OptionError
from spectral.native import LAPACK, scipy_extension

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Future
    from typing import TypeVar

    Task = TypeVar("Task")
    Result = TypeVar("Result")

    Progress = Callable[[int, int, str], None]
    """Called with (n_done, n_total, layer name)."""

logger = logging.getLogger(__name__)


class _BlasHold:
    """Holds every BLAS library of this process to one thread while it has any user."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_users = 0
        self._limits: Any = None

    def enter(self) -> None:
        with self._lock:
            if self._n_users == 0:
                # The libraries must be loaded first: only those that are there already can be held.
                from threadpoolctl import ThreadpoolController

                scipy_extension(LAPACK)
                controller = ThreadpoolController().select(user_api="blas")
                self._limits = controller.limit(limits=1)
                _warn_where_not_held(controller.info())
            self._n_users += 1

    def leave(self) -> None:
        with self._lock:
            self._n_users -= 1
            if self._n_users == 0 and self._limits is not None:
                self._limits.restore_original_limits()
                self._limits = None


def _warn_where_not_held(libraries: Iterable[Mapping[str, Any]]) -> None:
    """Say so where a library keeps more threads: threadpoolctl obeys only the thread that set a limit first."""
    for library in libraries:
        if library["num_threads"] not in (None, 1):
            logger.warning(
                "%s could not be held to one thread, because another thread controls it: results may differ in "
                "their last bits from those of the main thread",
                library["internal_api"],
            )


_hold = _BlasHold()


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Hold every BLAS library of this process to one thread while any user is inside."""
    _hold.enter()
    try:
        yield
    finally:
        _hold.leave()


def n_default_workers() -> int:
    """Return the number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)


def run_all(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    costs: Sequence[float],
    executor: Executor | None = None,
    n_workers: int | None = None,
    progress: Callable[[int, int, Task], None] | None = None,
) -> list[Result]:
    """Run every task, the costliest first, and return the results in the order of the tasks.

    Parameters
    ----------
    function : callable
        Called with one task. Must be picklable where the executor has processes.
    tasks : sequence
        What to do.
    costs : sequence of float
        Relative cost of each task.
    executor : Executor, optional
        Any ``concurrent.futures`` executor; it is not shut down. Default: threads of this process.
    n_workers : int, optional
        Number of threads where no executor is given; default one per core.
    progress : callable, optional
        Called with (n_done, n_total, task) after each task that succeeds, in the thread of the caller.

    Raises
    ------
    OptionError
        ``n_workers`` is below 1.
    Exception
        The first error of a task, in task order; tasks that have not begun are cancelled. What ``progress`` raises
        ends the run, too.
    """
    if n_workers is not None and (type(n_workers) is not int or n_workers < 1):
        raise OptionError(f"n_workers must be an integer of at least 1, got {n_workers!r}")
    order = sorted(range(len(tasks)), key=lambda index: -costs[index])
    with single_threaded_blas():
        own = executor
        if own is None:
            own = ThreadPoolExecutor(max_workers=n_workers or n_default_workers(), thread_name_prefix="spectral")
        futures: dict[int, Future[Result]] = {}
        try:
            for index in order:
                futures[index] = own.submit(function, tasks[index])
            if progress is not None:
                _tell({future: tasks[index] for index, future in futures.items()}, progress)
            return [futures[index].result() for index in range(len(tasks))]
        finally:
            for future in futures.values():
                future.cancel()
            # What runs already ends before this returns, so that nothing uses BLAS after the hold is given up.
            wait([future for future in futures.values() if not future.cancelled()])
            if executor is None:
                own.shutdown(wait=True, cancel_futures=True)


def by_layer_name(progress: Progress | None) -> Callable[[int, int, Any], None] | None:
    """Return a ``progress`` for :func:`run_all` over tasks with a ``spec``, that tells the layer's name."""
    if progress is None:
        return None
    return lambda n_done, n_total, task: progress(n_done, n_total, task.spec.name)


def _tell(futures: Mapping[Future[Result], Task], progress: Callable[[int, int, Task], None]) -> None:
    """Call ``progress`` after each task; the first that failed ends this, for the caller to raise its error."""
    for n_done, future in enumerate(as_completed(futures), start=1):
        if future.exception() is not None:
            return
        progress(n_done, len(futures), futures[future])
