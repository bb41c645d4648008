"""Fit of a power law with an exponential cut-off to the tail of an ESD.

p(x) ∝ x^-α e^(-Λx) for x >= xmin (Clauset, Shalizi and Newman, SIAM Review 51 (2009) 661, table 2.1). With y = x/xmin
and z = Λ·xmin the density of y is y^-α e^(-zy) / E_α(z), where E_α is the generalised exponential integral: an
exponential family with the statistics ln y and y. Its likelihood is concave and has one maximum (Barndorff-Nielsen,
Information and Exponential Families, 1978, theorem 9.13), which Fisher scoring finds for all xmin at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spectral.best_first import first_smallest
from spectral.cutoff_integrals import cutoff_moments, cutoff_survival
from spectral.fits import FitFailure, FitFailureReason
from spectral.power_law import EVALS_THRESHOLD, MIN_EVALS, MIN_LOG_SPREAD, Candidates, check_evals, power_law_candidates
from spectral.truncated_likelihood import maximise_likelihood

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_TRUNCATED_TAIL = 8
"""A tail of fewer values says nothing of two parameters."""

_N_PROBES = 24
_SLACK = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class TruncatedPowerLawFit:
    """p(x) ∝ x^(-α) e^(-Λx) for x >= xmin.

    Attributes
    ----------
    alpha : float
        Exponent α >= 0.
    Lambda : float
        Rate Λ >= 0 of the cut-off, per unit of λ; 0 where the tail shows none, and the law is a power law.
    sigma : float
        Standard error of alpha from the Fisher information, with Λ estimated too.
    xmin, xmax : float
        Where the tail begins, and the largest value.
    D : float
        Kolmogorov-Smirnov distance of tail and fit, 0 to 1.
    n_tail : int
        Number of values from xmin on.
    log_likelihood : float
        Σ ln p(x) over the tail.
    """

    alpha: float
    Lambda: float
    sigma: float
    xmin: float
    xmax: float
    D: float
    n_tail: int
    log_likelihood: float


# A candidate whose likelihood leaves the range of float64 is not finite, and so no candidate.
@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def fit_truncated_power_law(
    evals: NDArray[np.float64],
    *,
    min_evals: int = MIN_EVALS,
    xmin: float | None = None,
    xmin_range: tuple[float, float] | None = None,
) -> TruncatedPowerLawFit | FitFailure:
    """Fit a power law with exponential cut-off to the tail of a spectrum.

    For every candidate xmin, each value above :data:`EVALS_THRESHOLD`, the likelihood is maximised over α >= 0 and
    Λ >= 0 (α > 1 where Λ = 0); the first smallest Kolmogorov-Smirnov distance is the fit. A candidate
    whose likelihood still rises towards α < 0, a density that is no power law, is none.

    Parameters
    ----------
    evals : ndarray of float64, shape (n,)
        Eigenvalues, ascending and finite.
    min_evals : int
        Fewer eigenvalues than this are not fitted. At least 2.
    xmin : float, optional
        Fit the values from here on, and choose nothing. Positive.
    xmin_range : pair of float, optional
        Only eigenvalues from the first to the second, both included, are candidates for xmin.

    Returns
    -------
    TruncatedPowerLawFit or FitFailure
        Never a number that stands for a failure.

    Raises
    ------
    ValueError
        The eigenvalues are not one-dimensional, ascending and finite, or xmin is not positive.
    """
    check_evals(evals)
    if xmin is not None and not 0.0 < xmin < np.inf:
        raise ValueError(f"xmin must be positive and finite, got {xmin!r}")
    if xmin is not None:
        return _fit_at(evals, xmin, min_evals)
    candidates = power_law_candidates(evals, min_evals, xmin_range)
    return candidates if isinstance(candidates, FitFailure) else _best_fit(candidates)


def truncated_log_likelihoods(
    values: NDArray[np.float64], *, alpha: float, Lambda: float, xmin: float
) -> NDArray[np.float64]:
    """Return ln p(x) of each value >= xmin under the truncated power law.

    Parameters
    ----------
    values : ndarray of float64, shape (n,)
        At least xmin.
    alpha, Lambda, xmin : float
        Λ >= 0, and α > 1 where it is 0; xmin > 0.
    """
    log_y = np.log(values / xmin)
    if Lambda == 0.0:
        return np.asarray(np.log(alpha - 1.0) - np.log(xmin) - alpha * log_y, dtype=np.float64)
    z = Lambda * xmin
    log_norm, _, _ = cutoff_moments(np.array([alpha]), np.array([z]))
    return np.asarray(-log_norm[0] - np.log(xmin) - alpha * log_y - Lambda * values, dtype=np.float64)


def _too_few(detail: str) -> FitFailure:
    return FitFailure(reason=FitFailureReason.TOO_FEW_EIGENVALUES, detail=detail)


def _best_fit(candidates: Candidates) -> TruncatedPowerLawFit | FitFailure:
    x, log_x = candidates.x, candidates.log_x
    starts = _long_starts(candidates)
    if len(starts) == 0:
        return _too_few(f"no tail of {MIN_TRUNCATED_TAIL} eigenvalues or more begins where xmin may lie")
    optima = maximise_likelihood(*_statistics(x, log_x, starts))
    kept = optima.has_one
    if not kept.any():
        return _no_truncated_power_law()
    starts, alphas, zs = starts[kept], optima.alpha[kept], optima.z[kept]

    def distance_at(position: int, n_probes: int | None = None) -> float:
        start = starts[position]
        return _distance(log_x[start:] - log_x[start], float(alphas[position]), float(zs[position]), n_probes)

    bounds = np.array([distance_at(position, _N_PROBES) for position in range(len(starts))])
    best, distance = first_smallest(bounds, distance_at, slack=_SLACK)
    start = int(starts[best])
    return _record(x[start:], float(x[start]), float(alphas[best]), float(zs[best]), distance)


def _long_starts(candidates: Candidates) -> NDArray[np.intp]:
    """Return the candidates that are the first of equal values and have enough of them above."""
    x, starts = candidates.x, candidates.starts
    is_first = (starts == 0) | (x[starts] > x[starts - 1])
    kept: NDArray[np.intp] = starts[is_first & (starts <= len(x) - MIN_TRUNCATED_TAIL)]
    return kept


def _fit_at(evals: NDArray[np.float64], xmin: float, min_evals: int) -> TruncatedPowerLawFit | FitFailure:
    if len(evals) < min_evals:
        return _too_few(f"{len(evals)} eigenvalues, at least {min_evals} are needed for a fit")
    tail = np.asarray(evals[(evals > EVALS_THRESHOLD) & (evals >= xmin)], dtype=np.float64)
    if len(tail) < MIN_TRUNCATED_TAIL:
        return _too_few(f"{len(tail)} eigenvalues from xmin={xmin:g} on, at least {MIN_TRUNCATED_TAIL} are needed")
    log_y = np.log(tail / xmin)
    if not log_y[-1] - log_y[0] > MIN_LOG_SPREAD:
        return FitFailure(reason=FitFailureReason.NO_SPREAD, detail="all eigenvalues in the tail are equal")
    optima = maximise_likelihood(np.array([log_y.mean()]), np.array([(tail / xmin).mean()]))
    if not optima.has_one[0]:
        return _no_truncated_power_law()
    alpha, z = float(optima.alpha[0]), float(optima.z[0])
    return _record(tail, xmin, alpha, z, _distance(log_y, alpha, z))


def _no_truncated_power_law() -> FitFailure:
    detail = "no tail is a truncated power law: the likelihood rises towards alpha < 0 for each"
    return FitFailure(reason=FitFailureReason.REFUSED, detail=detail)


def _record(tail: NDArray[np.float64], xmin: float, alpha: float, z: float, distance: float) -> TruncatedPowerLawFit:
    n = len(tail)
    Lambda = z / xmin
    if z > 0.0:
        _, _, ((log_log, log_y, y_y),) = cutoff_moments(np.array([alpha]), np.array([z]))
        # The first entry of the inverse Fisher information: what remains of var(ln y) once y is accounted for.
        sigma = 1.0 / np.sqrt(n * (log_log - log_y * log_y / y_y))
    else:
        sigma = (alpha - 1.0) / np.sqrt(n)
    return TruncatedPowerLawFit(
        alpha=alpha,
        Lambda=Lambda,
        sigma=float(sigma),
        xmin=xmin,
        xmax=float(tail[-1]),
        D=distance,
        n_tail=n,
        log_likelihood=float(np.sum(truncated_log_likelihoods(tail, alpha=alpha, Lambda=Lambda, xmin=xmin))),
    )


def _statistics(
    x: NDArray[np.float64], log_x: NDArray[np.float64], starts: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the means of ln(x/x_i) and of x/x_i over the tail beginning at each i."""
    n_tail = (len(x) - starts).astype(np.float64)
    below_top = log_x[-1] - log_x
    # Sums of distances to the largest value: small terms first, and no cancellation for the short tails.
    mean_below = np.cumsum(below_top[::-1])[::-1][starts] / n_tail
    scaled = np.cumsum((x / x[-1])[::-1])[::-1][starts] / n_tail
    return below_top[starts] - mean_below, scaled * (x[-1] / x[starts])


def _distance(log_y: NDArray[np.float64], alpha: float, z: float, n_probes: int | None = None) -> float:
    n = len(log_y)
    steps = np.arange(n) if n_probes is None or n_probes >= n else (n * np.arange(1, n_probes)) // n_probes
    points = log_y[steps]
    survival = cutoff_survival(alpha, z, points) if z > 0.0 else np.exp((1.0 - alpha) * points)
    return float(np.max(np.abs(1.0 - survival - steps / n)))
