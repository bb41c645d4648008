"""Fit of a power law that ends at the largest eigenvalue (``xmax="force"``).

p(x) ∝ x^-α on [xmin, xmax], xmax the largest value. With u = ln(x/xmin) and L = ln(xmax/xmin) the density of u is an
exponential of rate θ = α-1 cut at L, and the maximum of the likelihood is where its mean 1/θ - L/(e^(θL)-1) equals
the mean of u (Aban, Meerschaert and Panorska, J. Am. Stat. Assoc. 101 (2006) 270, theorem 2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spectral.best_first import first_smallest
from spectral.fits import FitFailure, FitFailureReason
from spectral.power_law import MIN_EVALS, PowerLawFit, power_law_candidates

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BISECTIONS = 64
_N_PROBES = 24
_SLACK = 1e-12


def fit_bounded_power_law(
    evals: NDArray[np.float64], *, min_evals: int = MIN_EVALS, xmin_range: tuple[float, float] | None = None
) -> PowerLawFit | FitFailure:
    """Fit a power law on [xmin, largest eigenvalue].

    Candidates for xmin are those of :func:`spectral.power_law.fit_power_law`; one whose exponent would not exceed 1
    is none. The first smallest Kolmogorov-Smirnov distance to the bounded law is the fit.

    Parameters, errors and failures are those of :func:`spectral.power_law.fit_power_law`.

    Returns
    -------
    PowerLawFit or FitFailure
        ``sigma`` is the standard error of the bounded law; alpha lies below that of the unbounded law, whose
        tail goes on beyond the data.
    """
    candidates = power_law_candidates(evals, min_evals, xmin_range)
    if isinstance(candidates, FitFailure):
        return candidates
    x, log_x, starts = candidates.x, candidates.log_x, candidates.starts
    spans = log_x[-1] - log_x[starts]
    rates = _rates(_mean_logs(log_x, starts) / spans)
    kept = np.isfinite(rates)
    if not kept.any():
        detail = "no tail up to the largest eigenvalue is a power law with alpha > 1"
        return FitFailure(reason=FitFailureReason.REFUSED, detail=detail)
    starts, rates, spans = starts[kept], rates[kept], spans[kept]

    def distance(position: int) -> float:
        start = int(starts[position])
        return _distance(log_x, start, rates[position], spans[position], np.arange(len(log_x) - start))

    bounds = [
        _distance(log_x, int(start), rate, span, ((len(log_x) - start) * np.arange(1, _N_PROBES)) // _N_PROBES)
        for start, rate, span in zip(starts, rates, spans, strict=True)
    ]
    best, smallest = first_smallest(np.array(bounds), distance, slack=_SLACK)
    first = int(np.searchsorted(x, x[starts[best]], side="left"))
    rate, span = float(rates[best]), float(spans[best])
    return PowerLawFit(
        alpha=1.0 + rate / span,
        sigma=float(1.0 / (span * np.sqrt((len(x) - starts[best]) * _variance(rate)))),
        xmin=float(x[starts[best]]),
        xmax=float(x[-1]),
        D=smallest,
        n_tail=len(x) - first,
        is_bounded=True,
    )


def _mean_logs(log_x: NDArray[np.float64], starts: NDArray[np.intp]) -> NDArray[np.float64]:
    below_top = log_x[-1] - log_x
    sums = np.cumsum(below_top[::-1])[::-1]
    return np.asarray(below_top[starts] - sums[starts] / (len(log_x) - starts), dtype=np.float64)


def _rates(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Solve 1/w - 1/(e^w-1) = mean for w > 0; NaN where the mean is 1/2 or more, for then w <= 0.

    The left side falls from 1/2 to 0 and lies below 1/w, so that the solution lies below 1/mean.
    """
    is_falling = (means > 0.0) & (means < 0.5)
    target = np.where(is_falling, means, 0.25)
    low, high = np.zeros_like(target), 1.0 / target
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        is_below = _mean(middle) > target
        low, high = np.where(is_below, middle, low), np.where(is_below, high, middle)
    solved = 0.5 * (low + high)
    # Closer to 0 than this the two terms of the mean have cancelled, and so has the law: it is flat in ln x.
    return np.where(is_falling & (solved > 1e-6), solved, np.nan)


def _mean(rate: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of an exponential of this rate cut at 1."""
    with np.errstate(over="ignore"):
        return np.asarray(1.0 / rate - 1.0 / np.expm1(rate), dtype=np.float64)


def _variance(rate: float) -> float:
    """Return the variance of an exponential of this rate cut at 1: the Fisher information of the rate."""
    return float(1.0 / rate**2 - 0.25 / np.sinh(0.5 * min(rate, 1400.0)) ** 2)


def _distance(log_x: NDArray[np.float64], start: int, rate: float, span: float, steps: NDArray[np.intp]) -> float:
    fitted = np.expm1(-rate * (log_x[start + steps] - log_x[start]) / span) / np.expm1(-rate)
    return float(np.max(np.abs(fitted - steps / (len(log_x) - start))))
