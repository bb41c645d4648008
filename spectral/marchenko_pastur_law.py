"""The Marchenko-Pastur law: the spectrum of pure noise.

For an N x M matrix of independent entries of variance σ²/N, N >= M, Q = N/M, the eigenvalues of WᵀW follow
ρ(x) = Q √((b-x)(x-a)) / (2π σ² x) on [a, b] = σ² (1 ∓ 1/√Q)² as M grows (V. A. Marchenko and L. A. Pastur, Math.
USSR Sbornik 1, 1967, 457; C. H. Martin and M. W. Mahoney, JMLR 22, 2021, 165). Its mean is σ².
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def marchenko_pastur_edges(*, Q: float, sigma: float = 1.0) -> tuple[float, float]:
    """Return the edges a = σ²(1 - 1/√Q)² and b = σ²(1 + 1/√Q)² of the bulk.

    Raises
    ------
    ValueError
        Q < 1, or σ is not positive.
    """
    _check_parameters(Q, sigma)
    inverse_root = 1.0 / math.sqrt(Q)
    return (sigma * (1.0 - inverse_root)) ** 2, (sigma * (1.0 + inverse_root)) ** 2


def marchenko_pastur_density(x: ArrayLike, *, Q: float, sigma: float = 1.0) -> NDArray[np.float64]:
    """Evaluate the density ρ(x).

    Parameters
    ----------
    x : array_like, any shape
        Eigenvalues in the unit of σ².
    Q : float
        N/M, at least 1.
    sigma : float
        Standard deviation of an entry, times √N. Positive.

    Returns
    -------
    ndarray of float64, shape of x
        0 outside the bulk and on its edges; that includes x = 0 at Q = 1, around which the density grows as
        1/√x without limit.

    Raises
    ------
    ValueError
        Q < 1, or σ is not positive.
    """
    lower, upper = marchenko_pastur_edges(Q=Q, sigma=sigma)
    points = np.asarray(x, dtype=np.float64)
    inside = (points > lower) & (points < upper)
    clipped = np.where(inside, points, upper)
    height = Q / (2.0 * np.pi * sigma * sigma)
    return np.asarray(height * np.sqrt((upper - clipped) * (clipped - lower)) / clipped, dtype=np.float64)


def marchenko_pastur_cdf(x: ArrayLike, *, Q: float, sigma: float = 1.0) -> NDArray[np.float64]:
    """Evaluate the share of the spectrum at or below x.

    With x = c + r cos θ, c and r the centre and half-width of the bulk for σ = 1, the density is
    2 sin²θ / (π x) dθ, whose integral from the upper edge is
    ``Q/(2π) · (cθ - r sin θ - 2√(ab) arctan(√(a/b) tan(θ/2)))``.

    Parameters
    ----------
    x : array_like, any shape
        Eigenvalues in the unit of σ².
    Q : float
        N/M, at least 1.
    sigma : float
        Standard deviation of an entry, times √N. Positive.

    Returns
    -------
    ndarray of float64, shape of x
        Between 0 and 1.

    Raises
    ------
    ValueError
        Q < 1, or σ is not positive.
    """
    _check_parameters(Q, sigma)
    centre, radius = bulk_centre(Q)
    cosine = (np.asarray(x, dtype=np.float64) / (sigma * sigma) - centre) / radius
    return np.asarray(1.0 - tail_share(np.arccos(np.clip(cosine, -1.0, 1.0)), Q), dtype=np.float64)


def bulk_centre(Q: float) -> tuple[float, float]:
    """Return centre 1 + 1/Q and half-width 2/√Q of the bulk for σ = 1."""
    return 1.0 + 1.0 / Q, 2.0 / math.sqrt(Q)


def tail_share(theta: ArrayLike, Q: float) -> NDArray[np.float64]:
    """Return the share of the spectrum (σ = 1) above x = c + r cos θ, θ from 0 at the upper edge to π at the lower."""
    angle = np.asarray(theta, dtype=np.float64)
    centre, radius = bulk_centre(Q)
    root_lower, root_upper = 1.0 - 1.0 / math.sqrt(Q), 1.0 + 1.0 / math.sqrt(Q)
    half = np.arctan2(root_lower * np.sin(angle / 2.0), root_upper * np.cos(angle / 2.0))
    integral = centre * angle - radius * np.sin(angle) - 2.0 * root_lower * root_upper * half
    return np.asarray(Q / (2.0 * np.pi) * integral, dtype=np.float64)


def quarter_circle_curve(singular_values: ArrayLike, *, sigma: float = 1.0) -> NDArray[np.float64]:
    """Evaluate the curve √(4 - s²) / (π σ²) that the parity fit lays on s = √x of a square matrix.

    Only for σ = 1 is it a density, the quarter-circle law; otherwise σ is its height and not its width: the
    incumbent's definition. (The law itself is 2s·ρ(s²), ρ the Marchenko-Pastur density at Q = 1.)

    Parameters
    ----------
    singular_values : array_like, any shape
        s >= 0, in units of their root mean square.
    sigma : float
        Positive.

    Returns
    -------
    ndarray of float64, shape of singular_values
        0 from s = 2 on.

    Raises
    ------
    ValueError
        σ is not positive.
    """
    _check_parameters(1.0, sigma)
    points = np.asarray(singular_values, dtype=np.float64)
    return np.asarray(np.sqrt(np.maximum(4.0 - points * points, 0.0)) / (np.pi * sigma * sigma), dtype=np.float64)


def _check_parameters(Q: float, sigma: float) -> None:
    if not (1.0 <= Q < np.inf and 0.0 < sigma < np.inf):
        raise ValueError(f"Q must be at least 1 and sigma positive, both finite, got Q = {Q!r}, sigma = {sigma!r}")
