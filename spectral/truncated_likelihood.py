"""The maximum of the truncated power law's likelihood, for many tails at once.

With y = x/xmin and z = Λ·xmin the log-likelihood a value is -α·mean ln y - z·mean y - ln E_α(z): concave, with one
maximum, which Fisher scoring (here the same as Newton's method) finds from any start when its steps are kept short.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spectral.cutoff_integrals import cutoff_moments

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_SCORING_STEPS = 60
SCORE_TOLERANCE = 1e-10
"""Scoring ends with a step that promises less than this gain of log-likelihood a value; the step is still taken."""

_MAX_LOG_STEP = 3.0
_BLOCK_STARTS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class TruncatedOptima:
    """The maximum of the likelihood for each tail; z = Λ·xmin."""

    alpha: NDArray[np.float64]
    z: NDArray[np.float64]
    has_one: NDArray[np.bool_]
    """False where the likelihood rises towards α < 0, or scoring did not end."""


def maximise_likelihood(mean_logs: NDArray[np.float64], mean_values: NDArray[np.float64]) -> TruncatedOptima:
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
    return TruncatedOptima(alpha=alpha, z=z, has_one=has_one)


def _score(
    alpha: NDArray[np.float64],
    z: NDArray[np.float64],
    active: NDArray[np.intp],
    mean_logs: NDArray[np.float64],
    mean_values: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """Move (α, z) of the active rows to the maximum, in place; say for which rows that ended.

    The gradient is the difference of the means under the model and of the tail, the information their covariance.
    A step that does not gain is not taken, and tried again at a quarter of its length.
    """
    has_ended = np.ones(len(alpha), dtype=np.bool_)
    has_ended[active] = False
    log_norm, means, covariances = _in_blocks(alpha[active], z[active])
    value = -alpha[active] * mean_logs[active] - z[active] * mean_values[active] - log_norm
    length = np.ones(len(active))
    for _ in range(MAX_SCORING_STEPS):
        if len(active) == 0:
            break
        slopes = means - np.stack([mean_logs[active], mean_values[active]], axis=1)
        d_alpha, d_z, gain = _step(slopes, covariances, z[active])
        new_alpha, new_z = alpha[active] + length * d_alpha, z[active] + length * d_z
        new_norm, new_means, new_covariances = _in_blocks(new_alpha, new_z)
        new_value = -new_alpha * mean_logs[active] - new_z * mean_values[active] - new_norm
        is_gain = new_value >= value
        rows = active[is_gain]
        alpha[rows], z[rows] = new_alpha[is_gain], new_z[is_gain]
        has_ended[active] = gain < SCORE_TOLERANCE
        for old, new in ((value, new_value), (means, new_means), (covariances, new_covariances)):
            old[is_gain] = new[is_gain]
        length = np.where(is_gain, 1.0, 0.25 * length)
        going = ~has_ended[active]
        active, value, means, covariances = active[going], value[going], means[going], covariances[going]
        length = length[going]
    return has_ended


def _step(
    slopes: NDArray[np.float64], covariances: NDArray[np.float64], z: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the step of α and z, and the log-likelihood that Newton's step promises.

    z keeps within a factor of e^3, and α goes to where it is best for that z: a step towards a cut-off far weaker
    than the present one would else carry α along to where only z = 0 belongs. The likelihood rises along this step,
    too: its slope is slope_α²/var(ln y) and what z adds with the sign of Newton's step.
    """
    slope_alpha, slope_z = slopes.T
    log_log, log_y, y_y = covariances.T
    determinant = log_log * y_y - log_y * log_y
    newton_z = (log_log * slope_z - log_y * slope_alpha) / determinant
    newton_alpha = (slope_alpha - log_y * newton_z) / log_log
    gain = 0.5 * (slope_alpha * newton_alpha + slope_z * newton_z)
    d_z = np.clip(newton_z, z * np.expm1(-_MAX_LOG_STEP), z * np.expm1(_MAX_LOG_STEP))
    return (slope_alpha - log_y * d_z) / log_log, d_z, gain


def _in_blocks(
    alpha: NDArray[np.float64], z: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    blocks = range(0, len(alpha), _BLOCK_STARTS)
    parts = [cutoff_moments(alpha[i : i + _BLOCK_STARTS], z[i : i + _BLOCK_STARTS]) for i in blocks]
    log_norms, means, covariances = zip(*parts, strict=True)
    return np.concatenate(log_norms), np.concatenate(means), np.concatenate(covariances)
