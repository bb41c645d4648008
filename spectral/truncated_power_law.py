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
from spectral.power_law import EVALS_THRESHOLD, MIN_EVALS, MIN_LOG_SPREAD, MIN_TAIL, SMALL_SAMPLE, check_evals

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_TRUNCATED_TAIL = 8
"""A tail of fewer values says nothing of two parameters."""

MAX_SCORING_STEPS = 60
SCORE_TOLERANCE = 1e-10
"""Scoring ends where the next step would gain less than this share of one unit of log-likelihood a value."""

_MAX_LOG_STEP = 3.0
_N_PROBES = 24
_SLACK = 1e-9
_BLOCK_STARTS = 1024


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
    if len(evals) < min_evals:
        return _too_few(f"{len(evals)} eigenvalues, at least {min_evals} are needed for a fit")
    x = np.asarray(evals[evals > EVALS_THRESHOLD], dtype=np.float64)
    if len(x) < MIN_TAIL:
        return _too_few(f"{len(x)} eigenvalues above {EVALS_THRESHOLD:g}, at least {MIN_TAIL} are needed for a fit")
    if xmin is not None:
        return _fit_at(x, xmin)
    starts = _starts(x)
    if len(starts) == 0:
        return FitFailure(reason=FitFailureReason.NO_SPREAD, detail="all eigenvalues in the tail are equal")
    if xmin_range is not None:
        lower, upper = xmin_range
        starts = starts[(x[starts] >= lower) & (x[starts] <= upper)]
        if len(starts) == 0:
            detail = f"no tail begins at an eigenvalue between {lower:g} and {upper:g}, where xmin was to lie"
            return FitFailure(reason=FitFailureReason.REFUSED, detail=detail)
    return _best_fit(x, starts)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Optima:
    """The maximum of the likelihood for each start; z = Λ·xmin."""

    alpha: NDArray[np.float64]
    z: NDArray[np.float64]
    has_one: NDArray[np.bool_]
    """False where the likelihood rises towards α < 0, or scoring did not end."""


def _too_few(detail: str) -> FitFailure:
    return FitFailure(reason=FitFailureReason.TOO_FEW_EIGENVALUES, detail=detail)


def _starts(x: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return where a tail may begin: at the first of equal values, with enough of them above."""
    starts = np.arange(len(x) - MIN_TRUNCATED_TAIL + 1)
    is_first = np.concatenate([[True], x[1:] > x[:-1]])[starts]
    log_x = np.log(x)
    return starts[is_first & (log_x[-1] - log_x[starts] > MIN_LOG_SPREAD)]


def _best_fit(x: NDArray[np.float64], starts: NDArray[np.intp]) -> TruncatedPowerLawFit | FitFailure:
    log_x = np.log(x)
    mean_logs, mean_values = _statistics(x, log_x, starts)
    optima = _maximise(mean_logs, mean_values)
    kept = optima.has_one
    if not kept.any():
        return _no_truncated_power_law()
    starts, alphas, zs = starts[kept], optima.alpha[kept], optima.z[kept]

    def distance_at(position: int, n_probes: int | None = None) -> float:
        start = starts[position]
        return _distance(log_x[start:] - log_x[start], alphas[position], zs[position], n_probes)

    bounds = np.array([distance_at(position, _N_PROBES) for position in range(len(starts))])
    best, distance = first_smallest(bounds, distance_at, slack=_SLACK)
    start = int(starts[best])
    return _record(x[start:], float(x[start]), float(alphas[best]), float(zs[best]), distance)


def _fit_at(x: NDArray[np.float64], xmin: float) -> TruncatedPowerLawFit | FitFailure:
    tail = x[x >= xmin]
    if len(tail) < MIN_TRUNCATED_TAIL:
        return _too_few(f"{len(tail)} eigenvalues from xmin={xmin:g} on, at least {MIN_TRUNCATED_TAIL} are needed")
    log_y = np.log(tail / xmin)
    if not log_y[-1] - log_y[0] > MIN_LOG_SPREAD:
        return FitFailure(reason=FitFailureReason.NO_SPREAD, detail="all eigenvalues in the tail are equal")
    optima = _maximise(np.array([log_y.mean()]), np.array([(tail / xmin).mean()]))
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


def _maximise(mean_logs: NDArray[np.float64], mean_values: NDArray[np.float64]) -> _Optima:
    """Maximise -α·mean ln y - z·mean y - ln E_α(z) over α >= 0, z >= 0 for each pair of means."""
    # On the edge α = 0 the optimum is the shifted exponential, z = 1/(mean y - 1); concavity says which way from there.
    z_exponential = 1.0 / (mean_values - 1.0)
    means = _in_blocks(np.zeros_like(z_exponential), z_exponential)[1]
    has_one = means[:, 0] > mean_logs
    # On the edge z = 0 it is the power law, and the mean of y under it is (α-1)/(α-2).
    alpha = 1.0 + 1.0 / mean_logs
    with np.errstate(divide="ignore", invalid="ignore"):
        is_cut_off = (alpha <= 2.0) | (mean_values < (alpha - 1.0) / (alpha - 2.0))
    z = np.zeros_like(alpha)
    inside = np.flatnonzero(has_one & is_cut_off)
    alpha[inside] *= 0.5
    z[inside] = 0.5 * z_exponential[inside]
    if len(inside):
        has_one &= _score(alpha, z, inside, mean_logs, mean_values)
    return _Optima(alpha=alpha, z=z, has_one=has_one)


def _score(
    alpha: NDArray[np.float64],
    z: NDArray[np.float64],
    active: NDArray[np.intp],
    mean_logs: NDArray[np.float64],
    mean_values: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """Move (α, z) of the active rows to the maximum, in place; say for which rows that ended.

    The gradient is the difference of the means under the model and of the tail, the information their covariance.
    z moves by a factor, so that it stays positive; a step that does not gain is halved.
    """
    has_ended = np.ones(len(alpha), dtype=np.bool_)
    has_ended[active] = False
    log_norm, means, covariances = _in_blocks(alpha[active], z[active])
    value = -alpha[active] * mean_logs[active] - z[active] * mean_values[active] - log_norm
    shrink = np.ones(len(active))
    for _ in range(MAX_SCORING_STEPS):
        if len(active) == 0:
            break
        d_alpha, d_z, gain = _newton_step(means, covariances, mean_logs[active], mean_values[active])
        log_step = d_z / z[active]
        size = np.maximum(np.abs(log_step), np.abs(d_alpha))
        scale = shrink * np.minimum(1.0, _MAX_LOG_STEP / np.maximum(size, 1e-300))
        new_alpha = alpha[active] + scale * d_alpha
        new_z = z[active] * np.exp(scale * log_step)
        new_norm, new_means, new_covariances = _in_blocks(new_alpha, new_z)
        new_value = -new_alpha * mean_logs[active] - new_z * mean_values[active] - new_norm
        is_gain = new_value >= value
        rows = active[is_gain]
        alpha[rows], z[rows] = new_alpha[is_gain], new_z[is_gain]
        has_ended[active] = gain < SCORE_TOLERANCE
        for old, new in ((value, new_value), (means, new_means), (covariances, new_covariances)):
            old[is_gain] = new[is_gain]
        shrink = np.where(is_gain, 1.0, 0.25 * shrink)
        going = ~has_ended[active]
        active, value, means, covariances = active[going], value[going], means[going], covariances[going]
        shrink = shrink[going]
    return has_ended


def _newton_step(
    means: NDArray[np.float64],
    covariances: NDArray[np.float64],
    mean_logs: NDArray[np.float64],
    mean_values: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the step of α and z, and the log-likelihood it promises."""
    slope_alpha = means[:, 0] - mean_logs
    slope_z = means[:, 1] - mean_values
    log_log, log_y, y_y = covariances.T
    determinant = log_log * y_y - log_y * log_y
    d_alpha = (y_y * slope_alpha - log_y * slope_z) / determinant
    d_z = (log_log * slope_z - log_y * slope_alpha) / determinant
    return d_alpha, d_z, 0.5 * (slope_alpha * d_alpha + slope_z * d_z)


def _in_blocks(
    alpha: NDArray[np.float64], z: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    blocks = range(0, len(alpha), _BLOCK_STARTS)
    parts = [cutoff_moments(alpha[i : i + _BLOCK_STARTS], z[i : i + _BLOCK_STARTS]) for i in blocks]
    log_norms, means, covariances = zip(*parts, strict=True)
    return np.concatenate(log_norms), np.concatenate(means), np.concatenate(covariances)


def _distance(log_y: NDArray[np.float64], alpha: float, z: float, n_probes: int | None = None) -> float:
    n = len(log_y)
    steps = np.arange(n) if n_probes is None or n_probes >= n else (n * np.arange(1, n_probes)) // n_probes
    points = log_y[steps]
    survival = cutoff_survival(alpha, z, points) if z > 0.0 else np.exp((1.0 - alpha) * points)
    return float(np.max(np.abs(1.0 - survival - steps / n)))
