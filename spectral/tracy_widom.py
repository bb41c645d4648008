"""The Tracy-Widom law of the largest eigenvalue of a real noise matrix, and the test built on it.

The distribution function is evaluated from its Fredholm determinant, F₁(t) = det(1 - B_t) on L²(0, ∞) with
B_t(x, y) = Ai(x + y + t) (Ferrari and Spohn, J. Phys. A 38, 2005, L557), by Gauss-Legendre quadrature, which
converges exponentially (Bornemann, Math. Comp. 79, 2010, 871). That takes 1.5 ms, where a test of 768 x 768 weights
takes 8 ms, so that p-values come from a table made that way.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from spectral.roots import bisect_root
from spectral.tracy_widom_table import PIECES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

TRACY_WIDOM_MEAN = -1.2065335745820
TRACY_WIDOM_VARIANCE = 1.607781034581
"""Of F₁ (Bornemann, Markov Processes and Related Fields 16, 2010, 803, table 10)."""

_N_NODES = 32
"""Quadrature nodes: more change a p-value by less than one part in 10¹² down to 1e-28, in 10⁵ down to 1e-206."""

_AIRY_REACH = 16.0
"""Ai(16) = 2e-20: beyond this argument the kernel is nothing beside its largest values."""

_LEFT_END = -8.0
"""F₁(-8) = 3e-11: further left the distribution function is taken as 0."""

_RIGHT_END = 80.0
"""1 - F₁(80) = 1e-208, and Ai vanishes in float64 soon after: further right the p-value is taken as 0."""


def tracy_widom_sf(statistic: float) -> float:
    """Return the p-value 1 - F₁(t) of a statistic t, accurate relative to itself in the right tail.

    Parameters
    ----------
    statistic : float
        t, finite or infinite.

    Returns
    -------
    float
        In [0, 1]; 1 left of -8 and 0 right of 80.

    Raises
    ------
    ValueError
        t is NaN.

    Examples
    --------
    The 95% and 99% quantiles of F₁ are 0.9793 and 2.0234 (Bejan, Largest eigenvalues and sample covariance
    matrices, 2005, table 2).

    >>> round(tracy_widom_sf(0.9793), 4), round(tracy_widom_sf(2.0234), 4)
    (0.05, 0.01)
    """
    if np.isnan(statistic):
        raise ValueError("the statistic is NaN")
    if statistic <= _LEFT_END:
        return 1.0
    return 0.0 if statistic >= _RIGHT_END else float(np.exp(min(_log_survival(statistic, 0), 0.0)))


def tracy_widom_cdf(statistic: float) -> float:
    """Return F₁(t), 0 left of -8 and 1 right of 80; see :func:`tracy_widom_sf`."""
    return float(np.exp(log_tracy_widom_cdf(statistic)))


_MODE = -1.2686
"""Where the density of F₁ is largest: its slope, S'', is positive from here on."""


@lru_cache(maxsize=64)
def tracy_widom_quantile(p_value: float) -> float:
    """Return the t that is exceeded with probability ``p_value``.

    Parameters
    ----------
    p_value : float
        In [1e-200, 1 - 1e-9].

    Raises
    ------
    ValueError
        The probability is outside this range.
    """
    if not 1e-200 <= p_value <= 1.0 - 1e-9:
        raise ValueError(f"p_value must lie in [1e-200, 1 - 1e-9], got {p_value!r}")

    log_p = np.log(p_value)
    return bisect_root(
        lambda t: float(np.log(tracy_widom_sf(t)) - log_p), _LEFT_END + 0.01, _RIGHT_END - 0.01, xtol=1e-10
    )


def largest_eigenvalue_scale(n_rows: int, n_columns: int) -> tuple[float, float]:
    """Return the centre μ and the scale s of the largest eigenvalue of WᵀW for unit noise.

    With the half-integer corrections of Ma, Bernoulli 18 (2012) 322: the error of the law is then of the order
    M^(-2/3). Symmetric in its arguments.

    Parameters
    ----------
    n_rows, n_columns : int
        Shape of W, each at least 1.

    Raises
    ------
    ValueError
        A dimension is below 1.
    """
    if min(n_rows, n_columns) < 1:
        raise ValueError(f"a matrix has at least one row and one column, got {n_rows} x {n_columns}")
    a, b = np.sqrt(n_rows - 0.5), np.sqrt(n_columns - 0.5)
    return float((a + b) ** 2), float((a + b) * (1.0 / a + 1.0 / b) ** (1.0 / 3.0))


def largest_share_scale(n_rows: int, n_columns: int) -> tuple[float, float]:
    """Return the centre and the scale of the largest eigenvalue where the variance is estimated from W itself.

    The ratio of the largest eigenvalue to the trace varies less than the eigenvalue does: its relative variance
    is smaller by that of the trace, 2/(NM) (Nadler, J. Multivariate Anal. 102, 2011, 363). Centre and scale are
    chosen such that the law keeps its mean and takes this variance. The scale is 6% smaller at 128 x 128, 1.5%
    at 1024 x 1024. The p-value of a ratio is :func:`largest_share_sf`.

    Parameters
    ----------
    n_rows, n_columns : int
        Shape of W, each at least 1.
    """
    centre, scale = largest_eigenvalue_scale(n_rows, n_columns)
    shrink = _shrink(n_rows, n_columns)
    return centre + TRACY_WIDOM_MEAN * scale * (1.0 - shrink), scale * shrink


def largest_share_sf(statistic: float, n_rows: int, n_columns: int) -> float:
    """Return the p-value of a largest eigenvalue over the variance estimated from W itself.

    The eigenvalue is the ratio times the trace, so the law of the ratio is that of the eigenvalue with the spread of
    the trace taken out: S - v·S''/2 to the first order in its variance v (Nadler, theorem 1), here as
    S·exp(-v·S''/(2S)), which stays positive however far out. The scale of :func:`largest_share_scale` alone has
    the right mean and variance, but too thin a tail: noise of 64 x 64 had p-values below 1e-3 (1e-4) in 1.3 (1.8)
    times as many draws as it should, with this in 0.9 (1.25) times as many (40,000 draws). Without either, the test
    at 5% alarmed in 3.5 to 4.5%.

    Parameters
    ----------
    statistic : float
        In the scale of :func:`largest_share_scale`.
    n_rows, n_columns : int
        Shape of W, each at least 1.
    """
    shrink = _shrink(n_rows, n_columns)
    t = TRACY_WIDOM_MEAN + (statistic - TRACY_WIDOM_MEAN) * shrink
    survival = tracy_widom_sf(t)
    if not _MODE < t < _RIGHT_END:
        return survival
    slope, bend = _log_survival(t, 1), _log_survival(t, 2)
    removed = TRACY_WIDOM_VARIANCE * (1.0 - shrink**2)
    return survival * float(np.exp(-0.5 * removed * (bend + slope**2)))


def _shrink(n_rows: int, n_columns: int) -> float:
    """Return the standard deviation of the ratio over that of the eigenvalue."""
    centre, scale = largest_eigenvalue_scale(n_rows, n_columns)
    removed = 2.0 / (n_rows * n_columns) * (centre / scale) ** 2
    return float(np.sqrt(max(1.0 - removed / TRACY_WIDOM_VARIANCE, 0.25)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number: below a rate r, at most r of all runs give a false alarm.

    Holm, Scandinavian Journal of Statistics 6 (1979) 65: step-down, valid under any dependence.

    Parameters
    ----------
    p_values : sequence of float
        Each in [0, 1].

    Raises
    ------
    ValueError
        A value is NaN or outside [0, 1].
    """
    values = np.asarray(p_values, dtype=np.float64)
    if values.size and not bool(np.all((values >= 0.0) & (values <= 1.0))):
        raise ValueError(f"p-values must lie in [0, 1], got {list(p_values)!r}")
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in adjusted]


def _log_survival(statistic: float, n_derivatives: int) -> float:
    """Return log(1 - F₁(t)), or a derivative of it, between the ends."""
    index = min(bisect_right([left for left, *_ in PIECES], statistic) - 1, len(PIECES) - 1)
    left, right, _ = PIECES[index]
    x = (2.0 * statistic - left - right) / (right - left)
    value = np.polynomial.chebyshev.chebval(x, _series(index, n_derivatives))
    return float(value) * (2.0 / (right - left)) ** n_derivatives


@lru_cache(maxsize=32)
def _series(piece: int, n_derivatives: int) -> NDArray[np.float64]:
    return np.asarray(np.polynomial.chebyshev.chebder(PIECES[piece][2], n_derivatives), dtype=np.float64)


def log_tracy_widom_cdf(statistic: float) -> float:
    """Return log F₁(t) from the determinant: -inf left of -8, 0 right of 80."""
    if np.isnan(statistic):
        raise ValueError("the statistic is NaN")
    if statistic <= _LEFT_END:
        return -np.inf
    if statistic >= _RIGHT_END:
        return 0.0
    # Σ log(1 - μ) keeps the digits of a small p-value, which 1 - det would lose.
    return float(np.sum(np.log1p(-_kernel_eigenvalues(float(statistic)))))


def _kernel_eigenvalues(statistic: float) -> NDArray[np.float64]:
    from scipy.special import airy

    nodes, weights = _quadrature(max(_AIRY_REACH, _AIRY_REACH - statistic))
    kernel = airy(nodes[:, None] + nodes[None, :] + statistic)[0]
    roots = np.sqrt(weights)
    return np.asarray(np.linalg.eigvalsh(roots[:, None] * kernel * roots[None, :]), dtype=np.float64)


def _quadrature(length: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    nodes, weights = _gauss_legendre()
    return (nodes + 1.0) * (length / 2.0), weights * (length / 2.0)


@lru_cache(maxsize=1)
def _gauss_legendre() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    nodes, weights = np.polynomial.legendre.leggauss(_N_NODES)
    nodes.flags.writeable = weights.flags.writeable = False
    return nodes, weights
