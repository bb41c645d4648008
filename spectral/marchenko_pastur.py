"""Fit of the Marchenko-Pastur law to a spectrum: where its noise ends, and what stands out.

The fit is the incumbent's, number for number: least squares of the law against a kernel density of the
eigenvalues in units of their mean, over a grid of σ, polished by a simplex search. The density does not depend
on σ, so that it is estimated once, and for a square matrix the squared error is a parabola in 1/σ².

It judges by eye, as it were; a calibrated test of what stands out is another matter (Tracy-Widom).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spectral.fits import FitFailure, FitFailureReason
from spectral.kernel_density import linear_kernel_density
from spectral.marchenko_pastur_law import marchenko_pastur_density, marchenko_pastur_edges, quarter_circle_curve
from spectral.nelder_mead import polish_minimum
from spectral.rescaling import rescale_evals

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

BANDWIDTH = 0.1
GRID_POINTS = 1000
GRID_MARGIN = 0.5
"""The density is estimated at this many points on [0, max x + margin]."""

MIN_DENSITY = 0.01
"""Points of lower density are left out of the fit."""

SIGMA_START, SIGMA_STOP, SIGMA_STEP = 0.05, 2.0, 0.01
"""The grid of σ, in units of the σ whose bulk ends at the largest eigenvalue."""

MARCHENKO_PASTUR_METRICS = ("num_spikes", "sigma_mp", "mp_softrank", "W_scale", "bulk_max", "bulk_min")
RANDOM_MARCHENKO_PASTUR_METRICS = (
    "rand_num_spikes",
    "num_traps",
    "rand_sigma_mp",
    "rand_mp_softrank",
    "rand_W_scale",
    "rand_bulk_max",
    "rand_bulk_min",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MarchenkoPasturFit:
    """A Marchenko-Pastur bulk, and what lies above it.

    Attributes
    ----------
    sigma : float
        σ of the law in units of the mean eigenvalue: 1 for pure noise.
    Q : float
        N/M >= 1.
    W_scale : float
        √(n/Σλ): a value x of the rescaled spectrum is λ · W_scale².
    bulk_min, bulk_max : float
        Edges of the bulk in the scale of the eigenvalues.
    softrank : float
        bulk_max over the largest eigenvalue.
    spike_threshold : float
        Eigenvalues above this are spikes; in the scale of the eigenvalues.
    n_spikes : int
        Number of them.
    """

    sigma: float
    Q: float
    W_scale: float
    bulk_min: float
    bulk_max: float
    softrank: float
    spike_threshold: float
    n_spikes: int


def fit_marchenko_pastur(evals: NDArray[np.float64], *, N: int, M: int) -> MarchenkoPasturFit | FitFailure:
    """Fit the Marchenko-Pastur law to a spectrum.

    Only σ is fitted. The spikes are the eigenvalues above ``b + √(b^(2/3) M^(-2/3) / √Q)``, b the upper edge, on
    the rescaled spectrum.

    Parameters
    ----------
    evals : ndarray of float64, shape (n,)
        Eigenvalues of X = WᵀW, ascending, finite, none negative; of one matrix, of pooled slices, or of pooled
        replicas, so that n may exceed M.
    N, M : int
        Larger and smaller dimension of one slice.

    Returns
    -------
    MarchenkoPasturFit or FitFailure
        ``REFUSED`` where no σ of the grid puts the mode of the density into the bulk and the upper edge of the
        bulk below the end of the density; ``NO_SPREAD``, ``NO_SPECTRUM`` or ``TOO_FEW_EIGENVALUES`` where there
        is nothing to fit (see :func:`spectral.rescaling.rescale_evals`).

    Raises
    ------
    ValueError
        The eigenvalues are not one-dimensional, ascending, finite and non-negative, or not N >= M >= 1.

    Notes
    -----
    For Q = 1 the law is the quarter circle on √x (:func:`spectral.marchenko_pastur_law.quarter_circle_curve`), whose σ
    is a height, while `bulk_max` reads it as a width. For noise, σ = 1, the two are one.
    """
    if not 1 <= M <= N:
        raise ValueError(f"N must be the larger and M the smaller dimension, at least 1, got N = {N!r}, M = {M!r}")
    rescaled = rescale_evals(evals)
    if isinstance(rescaled, FitFailure):
        return rescaled
    sigma = _fit_sigma(rescaled.values, N / M)
    if isinstance(sigma, FitFailure):
        return sigma
    return _describe_bulk(rescaled.values, sigma, N=N, M=M, W_scale=rescaled.W_scale)


def marchenko_pastur_metrics(fit: MarchenkoPasturFit) -> dict[str, float | int]:
    """Return the fit under the names of :data:`MARCHENKO_PASTUR_METRICS`."""
    return {
        "num_spikes": fit.n_spikes,
        "sigma_mp": fit.sigma,
        "mp_softrank": fit.softrank,
        "W_scale": fit.W_scale,
        "bulk_max": fit.bulk_max,
        "bulk_min": fit.bulk_min,
    }


def random_marchenko_pastur_metrics(fit: MarchenkoPasturFit) -> dict[str, float | int]:
    """Return the fit of the randomised twin under the names of :data:`RANDOM_MARCHENKO_PASTUR_METRICS`."""
    renamed = {f"rand_{name}": value for name, value in marchenko_pastur_metrics(fit).items()}
    renamed["num_traps"] = fit.n_spikes
    return {name: renamed[name] for name in RANDOM_MARCHENKO_PASTUR_METRICS}


def spike_threshold(upper_edge: float, *, N: int, M: int) -> float:
    """Return what a rescaled eigenvalue must exceed to count as a spike above a bulk that ends at ``upper_edge``."""
    return upper_edge + math.sqrt(upper_edge ** (2.0 / 3.0) * M ** (-2.0 / 3.0) / math.sqrt(N / M))


def _describe_bulk(x: NDArray[np.float64], sigma: float, *, N: int, M: int, W_scale: float) -> MarchenkoPasturFit:
    lower, upper = marchenko_pastur_edges(Q=N / M, sigma=sigma)
    threshold = spike_threshold(upper, N=N, M=M)
    return MarchenkoPasturFit(
        sigma=sigma,
        Q=N / M,
        W_scale=W_scale,
        bulk_min=lower / W_scale / W_scale,
        bulk_max=upper / W_scale / W_scale,
        softrank=upper / float(x[-1]),
        spike_threshold=threshold / W_scale / W_scale,
        n_spikes=int(np.count_nonzero(x > threshold)),
    )


def _fit_sigma(x: NDArray[np.float64], Q: float) -> float | FitFailure:
    """Return the σ of least squared error: the best of the grid, polished."""
    is_square = Q == 1.0
    points = np.sqrt(x) if is_square else x
    grid = np.linspace(0.0, points[-1] + GRID_MARGIN, GRID_POINTS)
    density = linear_kernel_density(points, grid, bandwidth=BANDWIDTH)
    kept = density > MIN_DENSITY
    grid, density = grid[kept], density[kept]
    if len(grid) == 0:
        return _refused(f"the density of the eigenvalues nowhere exceeds {MIN_DENSITY:g} on its grid")
    unit = math.sqrt(x[-1]) / (1.0 + 1.0 / math.sqrt(Q))
    sigmas = np.arange(SIGMA_START * unit, SIGMA_STOP * unit, SIGMA_STEP * unit)
    if is_square:
        return _fit_quarter_circle(grid, density, sigmas)
    return _fit_bulk(grid, density, sigmas, Q)


def _fit_quarter_circle(
    grid: NDArray[np.float64], density: NDArray[np.float64], sigmas: NDArray[np.float64]
) -> float | FitFailure:
    """Return the best σ for Q = 1, where the curve is 1/σ² times a fixed one: three sums say it all."""
    curve = quarter_circle_curve(grid)
    quadratic, linear, constant = float(curve @ curve), float(curve @ density), float(density @ density)
    if not linear > 0.0:
        return _refused("no eigenvalue lies where the quarter circle does")

    def squared_error(sigma: float) -> float:
        if sigma == 0.0:
            return math.inf
        height = 1.0 / (sigma * sigma)
        return (quadratic * height - 2.0 * linear) * height + constant

    errors = [squared_error(sigma) for sigma in sigmas.tolist()]
    return _polish(squared_error, float(sigmas[int(np.argmin(errors))]))


def _fit_bulk(
    grid: NDArray[np.float64], density: NDArray[np.float64], sigmas: NDArray[np.float64], Q: float
) -> float | FitFailure:
    """Return the best σ for Q > 1 among those whose bulk holds the mode and ends within the density."""
    mode, end = float(grid[np.argmax(density)]), float(grid[-1])

    def is_allowed(sigma: float) -> bool:
        lower, upper = marchenko_pastur_edges(Q=Q, sigma=sigma)
        return lower <= mode <= upper <= end

    squared_error = _bulk_error(grid, density, Q)
    allowed = [sigma for sigma in sigmas.tolist() if is_allowed(sigma)]
    if not allowed:
        return _refused(
            f"no bulk of Q = {Q:g} holds the mode of the eigenvalues, {mode:.3g} of their mean, and ends by {end:.3g}"
        )
    errors = [squared_error(sigma) for sigma in allowed]
    start = allowed[int(np.argmin(errors))]
    return _polish(lambda sigma: squared_error(sigma) if sigma > 0.0 and is_allowed(sigma) else math.inf, start)


def _polish(squared_error: Callable[[float], float], start: float) -> float:
    """Polish a σ. The search knows no bounds: it may try -σ, which is as good as σ where only σ² counts."""
    return abs(polish_minimum(lambda sigma: squared_error(abs(sigma)), start))


def _bulk_error(grid: NDArray[np.float64], density: NDArray[np.float64], Q: float) -> Callable[[float], float]:
    """Return the squared error of the law as a function of σ."""

    def squared_error(sigma: float) -> float:
        residuals = marchenko_pastur_density(grid, Q=Q, sigma=sigma) - density
        return float(residuals @ residuals)

    return squared_error


def _refused(detail: str) -> FitFailure:
    return FitFailure(reason=FitFailureReason.REFUSED, detail=detail)
