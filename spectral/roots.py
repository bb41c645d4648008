"""Roots of monotone functions, without the tenth of a second that importing scipy.optimize takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_HALVINGS = 200


def bisect_root(function: Callable[[float], float], low: float, high: float, *, xtol: float) -> float:
    """Return where a monotone function changes its sign, by bisection.

    Parameters
    ----------
    function : callable
        Continuous, and of opposite signs at the two ends (or zero at one of them).
    low, high : float
        The ends, low < high.
    xtol : float
        Greatest error; the spacing of float64 where that is larger.

    Raises
    ------
    ValueError
        The signs at the ends are the same.
    """
    at_low, at_high = function(low), function(high)
    if at_low == 0.0:
        return low
    if at_high == 0.0:
        return high
    if not (at_low < 0.0) != (at_high < 0.0):
        raise ValueError(f"the function has the same sign at {low!r} and {high!r}")
    for _ in range(_MAX_HALVINGS):
        middle = low + (high - low) / 2.0
        if high - low <= xtol or middle in (low, high):
            break
        if (function(middle) < 0.0) == (at_low < 0.0):
            low = middle
        else:
            high = middle
    return low + (high - low) / 2.0
