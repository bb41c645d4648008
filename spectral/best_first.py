"""The first smallest of many costly numbers, each known from below."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


def first_smallest(
    bounds: NDArray[np.float64], value: Callable[[int], float], *, slack: float = 0.0
) -> tuple[int, float]:
    """Return the first position with the smallest value, and that value.

    Positions are evaluated in the order of their bounds and only while one could still be smaller, which leaves
    the result as a full scan has it.

    Parameters
    ----------
    bounds : ndarray of float64, shape (n,)
        Never above the value by more than ``slack``. At least one.
    value : callable
        The value at a position.
    slack : float
        Rounding of the bounds.
    """
    best, smallest = -1, np.inf
    for position in np.argsort(bounds, kind="stable"):
        if bounds[position] - slack > smallest:
            break
        candidate = value(int(position))
        if candidate < smallest or (candidate == smallest and position < best):
            best, smallest = int(position), candidate
    return best, float(smallest)
