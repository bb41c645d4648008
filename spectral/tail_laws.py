"""Other laws of a tail: the exponential and the log-normal, both cut at xmin.

Clauset, Shalizi and Newman, SIAM Review 51 (2009) 661, table 2.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spectral.fits import FitFailure, FitFailureReason
from spectral.power_law import EVALS_THRESHOLD, MIN_LOG_SPREAD, check_evals

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_EXCESS = 1e-9
"""Where mean u² of u = ln(x/xmin) is within this share of 2(mean u)², as for a power law, the tail is one."""

_FRACTION_ABOVE = 2.0
_FRACTION_DEPTH = 200
_BISECTIONS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class ExponentialFit:
    """p(x) = Λ e^(-Λ(x - xmin)) for x >= xmin.

    Attributes
    ----------
    Lambda : float
        Rate Λ > 0, per unit of λ.
    xmin : float
        Where the tail begins.
    n_tail : int
        Number of values from xmin on.
    log_likelihood : float
        Σ ln p(x) over the tail.
    """

    Lambda: float
    xmin: float
    n_tail: int
    log_likelihood: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LogNormalFit:
    """ln x is normal, cut at ln xmin: p(x) ∝ exp(-(ln x - μ)²/(2σ²))/x for x >= xmin.

    Attributes
    ----------
    mu, sigma : float
        Mean and standard deviation of ln x before the cut; σ > 0.
    xmin : float
        Where the tail begins.
    n_tail : int
        Number of values from xmin on.
    log_likelihood : float
        Σ ln p(x) over the tail.
    """

    mu: float
    sigma: float
    xmin: float
    n_tail: int
    log_likelihood: float


def fit_exponential(evals: NDArray[np.float64], xmin: float) -> ExponentialFit | FitFailure:
    """Fit an exponential to the values from xmin on: Λ = 1/(mean x - xmin).

    Parameters
    ----------
    evals : ndarray of float64, shape (n,)
        Eigenvalues, ascending and finite; those above 1e-5 count.
    xmin : float
        Where the tail begins, positive.

    Returns
    -------
    ExponentialFit or FitFailure
        A failure where fewer than two values, or only equal ones, are in the tail.

    Raises
    ------
    ValueError
        The eigenvalues are not one-dimensional, ascending and finite.
    """
    tail = tail_from(evals, xmin)
    if isinstance(tail, FitFailure):
        return tail
    Lambda = float(1.0 / np.mean(tail - xmin))
    likelihoods = exponential_log_likelihoods(tail, Lambda, xmin)
    return ExponentialFit(Lambda=Lambda, xmin=xmin, n_tail=len(tail), log_likelihood=float(np.sum(likelihoods)))


def fit_lognormal(evals: NDArray[np.float64], xmin: float) -> LogNormalFit | FitFailure:
    """Fit a log-normal, cut at xmin, to the values from xmin on.

    Parameters, errors and failures are those of :func:`fit_exponential`. A tail at least as heavy as a power law is
    refused: its likelihood grows without end as μ goes to -∞, towards the power law, and no log-normal attains it.

    Returns
    -------
    LogNormalFit or FitFailure
    """
    tail = tail_from(evals, xmin)
    if isinstance(tail, FitFailure):
        return tail
    solved = fit_cut_normal(np.log(tail / xmin))
    if solved is None:
        detail = "the tail is at least as heavy as a power law, which is the limit of its log-normals"
        return FitFailure(reason=FitFailureReason.REFUSED, detail=detail)
    cut, sigma = solved
    likelihoods = lognormal_log_likelihoods(tail, cut, sigma, xmin)
    return LogNormalFit(
        mu=math.log(xmin) - cut * sigma,
        sigma=sigma,
        xmin=xmin,
        n_tail=len(tail),
        log_likelihood=float(np.sum(likelihoods)),
    )


def tail_from(evals: NDArray[np.float64], xmin: float) -> NDArray[np.float64] | FitFailure:
    """Return the values above 1e-5 from xmin on, or why no law can be fitted to them."""
    check_evals(evals)
    if not 0.0 < xmin < math.inf:
        raise ValueError(f"xmin must be positive and finite, got {xmin!r}")
    tail = np.asarray(evals[(evals > EVALS_THRESHOLD) & (evals >= xmin)], dtype=np.float64)
    if len(tail) < 2:
        detail = f"{len(tail)} eigenvalues from xmin={xmin:g} on, at least 2 are needed"
        return FitFailure(reason=FitFailureReason.TOO_FEW_EIGENVALUES, detail=detail)
    if not math.log(tail[-1] / tail[0]) > MIN_LOG_SPREAD:
        return FitFailure(reason=FitFailureReason.NO_SPREAD, detail="all eigenvalues in the tail are equal")
    return tail


def exponential_log_likelihoods(tail: NDArray[np.float64], Lambda: float, xmin: float) -> NDArray[np.float64]:
    """Return ln p of each value."""
    return math.log(Lambda) - Lambda * (tail - xmin)


def lognormal_log_likelihoods(tail: NDArray[np.float64], cut: float, sigma: float, xmin: float) -> NDArray[np.float64]:
    """Return ln p of each value; ``cut`` is (ln xmin - μ)/σ."""
    log_y = np.log(tail / xmin)
    steps = log_y / sigma
    return np.asarray(-0.5 * steps**2 - cut * steps - math.log(sigma) - _log_mills(cut) - np.log(tail), np.float64)


def fit_cut_normal(log_y: NDArray[np.float64]) -> tuple[float, float] | None:
    """Fit a normal law cut at 0 to values >= 0: return the cut in standard units and σ, None where there is none.

    An exponential family: mean and mean square under the law are those of the values. Their ratio m2/m1² depends on the
    cut alone and rises with it from 1 to 2, the ratio of the exponential law, ln of a power law.
    """
    first, second = float(np.mean(log_y)), float(np.mean(log_y * log_y))
    target = second / (first * first)
    if not target < 2.0 * (1.0 - MIN_EXCESS):
        return None
    # The ratio is about 1 + 1/cut² far on the left and 2 - 2/cut² far on the right.
    low, high = -10.0 - 2.0 / math.sqrt(target - 1.0), 10.0 + 2.0 / math.sqrt(2.0 - target)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        mean, ratio = _excess_moments(middle)
        low, high = (middle, high) if ratio < target else (low, middle)
    return middle, first / mean


def _excess_moments(cut: float) -> tuple[float, float]:
    """Return the mean of t - cut and the ratio m2/m1² of its moments, for a standard normal t beyond the cut."""
    if cut > _FRACTION_ABOVE:
        first, second = _fractions(cut)
        return first, second / first
    hazard = math.exp(-_log_mills(cut))
    mean = hazard - cut
    return mean, (1.0 - cut * mean) / mean**2


def _log_mills(cut: float) -> float:
    """Return ln of P(t > cut)/φ(cut)."""
    if cut > _FRACTION_ABOVE:
        return -math.log(cut + _fractions(cut)[0])
    return 0.5 * cut * cut + math.log(math.erfc(cut / math.sqrt(2.0))) + 0.5 * math.log(math.pi / 2.0)


def _fractions(cut: float) -> tuple[float, float]:
    """Return m1 and m2/m1 of t - cut by their continued fraction, which has no difference in it.

    I_k = ∫ u^k e^(-cut·u - u²/2) du obeys I_(k+1) = k I_(k-1) - cut I_k (Abramowitz and Stegun 26.2.14 for k = 0).
    """
    fraction = math.sqrt(float(_FRACTION_DEPTH))
    second = fraction
    for k in range(_FRACTION_DEPTH, 0, -1):
        second, fraction = fraction, k / (cut + fraction)
    return fraction, second
