"""One false-alarm rate for the trap test over a whole run, decided layer by layer.

Holm's procedure needs the p-values of all layers, but nearly every layer's fate is plain from its own: above the rate
it is no alarm, below the rate over the number of tests it is one. The others are asked only in between, so that an item
run alone, or by another worker, gets the verdict of the whole run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from spectral.weights import MatrixSpec


def is_testable(spec: MatrixSpec) -> bool:
    """Tell from the header whether there is a Tracy-Widom test for a matrix."""
    from spectral.noise import MIN_EIGENVALUES

    return spec.M >= MIN_EIGENVALUES and (spec.max_rank is None or spec.max_rank >= spec.M)


def alarm_level(p_value: float, *, n_tests: int, rate: float, others: Callable[[], Iterable[float]]) -> float | None:
    """Return the level of significance that the run leaves a layer that alarms, or None where it does not.

    Parameters
    ----------
    p_value : float
        Of the layer.
    n_tests : int
        Number of layers tested.
    rate : float
        Share of runs that may give a false alarm.
    others : callable
        Gives the p-values of all layers, this one among them; called only where they matter.

    Notes
    -----
    Holm, Scand. J. Statist. 6 (1979) 65: the i-th smallest of n p-values is an alarm where it and all smaller ones are
    at most rate/(n - i + 1).
    """
    if p_value <= rate / n_tests:
        return rate / n_tests
    if not p_value <= rate:
        return None
    for rank, smaller in enumerate(sorted(others())):
        if not smaller <= rate / max(1, n_tests - rank):
            return None
        if smaller >= p_value:
            return p_value
    return None
