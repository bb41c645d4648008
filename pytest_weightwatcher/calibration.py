"""Limits from known-good checkpoints, with an expected rate of false alarms: statistics on the worst layer of each run.

A run alarms where its worst layer exceeds a limit, so one number per run and quantity counts: the largest over the
layers. Largest values tend to follow Gumbel's law whatever the layers themselves follow: the logarithms of these
numbers are taken for draws from it (the numbers themselves where one is not positive), and the limit is the one-sided
prediction bound for the next draw. Under that law the share of good runs that alarm is, on average over all sets of n
runs, the rate asked for: small samples pay by wide limits, not by broken promises. Where the law is only near, as for
the largest of a dozen lognormal numbers, the rate stays below; the normal law in its place would exceed it by half.
Without any law n runs say little, and :func:`rate_bound` says how little.

References
----------
E. J. Gumbel, Statistics of Extremes (Columbia University Press 1958); S. Coles, An Introduction to Statistical Modeling
of Extreme Values (Springer 2001), chapter 3: the law of largest values. W. Q. Meeker, G. J. Hahn, L. A. Escobar,
Statistical Intervals, 2nd ed. (Wiley 2017): prediction and tolerance bounds, and that their factors do not depend on
location and scale, so that simulation gives them. S. S. Wilks, Ann. Math. Statist. 12 (1941) 91, and C. J. Clopper,
E. S. Pearson, Biometrika 26 (1934) 404: what holds for any law.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.optimize import brentq

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

CONFIDENCE = 0.95
"""Of the tolerance bound, and of the statement that needs no law."""

MAX_FACTOR = 10.0
"""A limit beyond so many times the largest value seen is no knowledge but the lack of it, and is not proposed."""

MIN_RUNS = 2
"""One run has no spread."""

Law = Literal["log-Gumbel", "Gumbel"]

_N_DRAWS = 2_000_000
_MIN_SETS, _MAX_SETS = 2_000, 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A limit on one quantity.

    Attributes
    ----------
    limit : float or None
        The prediction bound, not below anything seen; None where the runs are too few.
    tolerance_limit : float or None
        The bound below which the wanted share of runs lies with :data:`CONFIDENCE`, if the law holds.
    law : {"log-Gumbel", "Gumbel"}
        The law that is assumed.
    largest : float
        Largest value of the runs.
    n_runs : int
        How many there are.
    reason : str
        Why there is no limit; empty where there is one.
    is_blind : bool
        Good runs differ by as much as any damage could show: no limit tells good from bad.
    """

    limit: float | None
    tolerance_limit: float | None
    law: Law
    largest: float
    n_runs: int
    reason: str = ""
    is_blind: bool = False


def propose_limit(
    values: Sequence[float], *, rate: float, floor: float = -math.inf, reach: float = math.inf
) -> Proposal:
    """Propose an upper limit on a quantity from its worst values in good runs.

    Parameters
    ----------
    values : sequence of float
        One per run, finite: the largest over the layers.
    rate : float
        Expected share of good runs above the limit, in (0, 1).
    floor : float
        Value of a good pair that the limit must accept, whatever the law says.
    reach : float
        Value from which on a limit tells nothing, because damage need not exceed it.

    Raises
    ------
    ValueError
        There is no value, one is not finite, or the rate is impossible.
    """
    if not values or not all(math.isfinite(value) for value in values):
        raise ValueError(f"expected finite values, at least one, got {len(values)}")
    if not 0.0 < rate < 1.0:
        raise ValueError(f"expected a rate between 0 and 1, got {rate}")
    law: Law = "log-Gumbel" if min(values) > 0.0 else "Gumbel"
    seen = max(*values, floor)
    without = Proposal(limit=None, tolerance_limit=None, law=law, largest=max(values), n_runs=len(values))
    if seen >= reach:
        return replace(without, reason="good runs differ by as much as a damaged one may", is_blind=True)
    if len(values) < MIN_RUNS:
        return replace(without, reason="one run has no spread")
    to_scale: Callable[[float], float] = math.log if law == "log-Gumbel" else float
    draws = np.array([to_scale(value) for value in values])
    limit = max(seen, _back(prediction_bound(draws, rate=rate), law))
    if limit >= reach:
        return replace(without, reason="too few runs: the limit would be more than a damaged one need show")
    if seen > 0.0 and limit > MAX_FACTOR * seen:
        return replace(
            without, reason=f"too few runs: the limit would be more than {MAX_FACTOR:g} times the largest value seen"
        )
    tolerance = max(seen, _back(tolerance_bound(draws, rate=rate), law))
    return replace(without, limit=limit, tolerance_limit=tolerance)


def prediction_bound(draws: NDArray[np.float64], *, rate: float) -> float:
    """Return the bound that the next draw from a Gumbel distribution exceeds with a probability.

    mean + k s, with s the sample standard deviation and k from :func:`prediction_factor`: the probability is that over
    the draws and the next one together.

    Parameters
    ----------
    draws : ndarray, shape (n,)
        At least two.
    rate : float
        The probability.
    """
    return float(np.mean(draws) + prediction_factor(len(draws), rate) * np.std(draws, ddof=1))


def tolerance_bound(draws: NDArray[np.float64], *, rate: float, confidence: float = CONFIDENCE) -> float:
    """Return the bound that, with a confidence, at most a share of a Gumbel distribution exceeds.

    mean + k s, with k from :func:`tolerance_factor`.
    """
    return float(np.mean(draws) + tolerance_factor(len(draws), rate, confidence) * np.std(draws, ddof=1))


@cache
def prediction_factor(n: int, rate: float) -> float:
    """Return k for which the last of n + 1 Gumbel draws exceeds mean + k s of the others with probability ``rate``.

    E[1 - F(m + k s)] = rate, with F the standard Gumbel law, over simulated means m and deviations s of n draws: exact
    but for the error of the simulation, below a few percent of the rate.
    """
    means, deviations = _simulated(n)

    def excess(factor: float) -> float:
        # Beyond e^50 nothing changes any more, but floating point complains.
        exponents = np.minimum(-(means + factor * deviations), 50.0)
        return float(np.mean(-np.expm1(-np.exp(exponents)))) - rate

    least, most = -1.0, 1.0
    while excess(most) > 0.0:
        most *= 2.0
    while excess(least) < 0.0:
        least *= 2.0
    return float(brentq(excess, least, most))


@cache
def tolerance_factor(n: int, rate: float, confidence: float = CONFIDENCE) -> float:
    """Return k for which mean + k s of n Gumbel draws is above the quantile at 1 - rate with a confidence."""
    means, deviations = _simulated(n)
    quantile = -math.log(-math.log1p(-rate))
    return float(np.quantile((quantile - means) / deviations, confidence))


@lru_cache(maxsize=4)
def _simulated(n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return means and standard deviations of sets of n standard Gumbel draws, the same each time."""
    draws = np.random.default_rng(n).gumbel(size=(max(_MIN_SETS, min(_MAX_SETS, _N_DRAWS // n)), n))
    return draws.mean(axis=1), draws.std(axis=1, ddof=1)


def rate_bound(n_runs: int, confidence: float = CONFIDENCE) -> float:
    """Return what the false-alarm rate is below, with a confidence, where none of n good runs alarmed.

    1 - (1 - confidence)^(1/n): no law is assumed, only that the runs are independent and alike.
    """
    return float(1.0 - (1.0 - confidence) ** (1.0 / n_runs))


def n_runs_needed(rate: float, confidence: float = CONFIDENCE) -> int:
    """Return how many good runs without an alarm show, without any law, that the rate is at most this."""
    return math.ceil(math.log(1.0 - confidence) / math.log(1.0 - rate) - 1e-12)


def share_rate(rate: float, n_limits: int) -> float:
    """Return the rate of each of some limits with which the whole run stays below a rate (Bonferroni)."""
    return rate / max(1, n_limits)


def _back(value: float, law: Law) -> float:
    if law == "Gumbel":
        return value
    # Beyond the range of numbers a limit is none.
    return math.exp(value) if value < 700.0 else math.inf
