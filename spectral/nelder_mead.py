"""The simplex search of Nelder and Mead in one dimension, without the cost of its general form.

J. A. Nelder and R. Mead, Computer Journal 7 (1965) 308, with the standard coefficients (reflection 1, expansion 2,
contraction and shrinkage 1/2), the start x, 1.05 x and the absolute tolerances 1e-4 of ``scipy.optimize.fmin``, of
which it visits the same points: parity with fits that were polished by ``fmin`` needs the same path, because its
tolerance is coarser than the digits that are compared. A test runs both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

TOLERANCE = 1e-4
FIRST_STEP = 0.05
MAX_EVALUATIONS = 200


def polish_minimum(function: Callable[[float], float], start: float) -> float:
    """Walk from a start, not zero, to a minimum nearby.

    Parameters
    ----------
    function : callable
        float -> float; need not be smooth.
    start : float
        Near the minimum, not zero.

    Returns
    -------
    float
        Where the function is at most its value at the start.
    """
    counted = _Counted(function)
    best, worst = start, (1.0 + FIRST_STEP) * start
    low, high = counted(best), counted(worst)
    if high < low:
        best, worst, low, high = worst, best, high, low
    while counted.left > 0 and not (abs(worst - best) <= TOLERANCE and high - low <= TOLERANCE):
        worst, high = _improve(counted, best, low, worst, high)
        if high < low:
            best, worst, low, high = worst, best, high, low
    return best


class _Counted:
    """A function that knows how many more times it may be called."""

    def __init__(self, function: Callable[[float], float]) -> None:
        self.function = function
        self.left = MAX_EVALUATIONS

    def __call__(self, x: float) -> float:
        self.left -= 1
        return self.function(x)


def _improve(function: _Counted, best: float, low: float, worst: float, high: float) -> tuple[float, float]:
    """Return what takes the place of the worse point, and its value."""
    reflected = 2.0 * best - worst
    value = function(reflected)
    if value < low:
        expanded = 3.0 * best - 2.0 * worst
        further = function(expanded)
        return (expanded, further) if further < value else (reflected, value)
    if value < high:
        contracted = 1.5 * best - 0.5 * worst
        nearer = function(contracted)
        if nearer <= value:
            return contracted, nearer
    else:
        contracted = 0.5 * best + 0.5 * worst
        nearer = function(contracted)
        if nearer < high:
            return contracted, nearer
    shrunk = best + 0.5 * (worst - best)
    return shrunk, function(shrunk)
