"""The ERG (trace-log) condition: the tail of a spectrum whose eigenvalues have product one.

C. H. Martin and C. Hinrichs, "SETOL: a semi-empirical theory of (deep) learning", arXiv 2507.17912: in an ideally
trained layer the tail of the power law is the one with det X = 1, Σ ln x = 0. Pure noise has such a tail, too; how
large it is follows from the Marchenko-Pastur law, and only what differs from that says something.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from spectral.fits import FitFailure
from spectral.marchenko_pastur_law import bulk_centre, tail_share
from spectral.rescaling import rescale_evals

if TYPE_CHECKING:
    from numpy.typing import NDArray

DET_X_METRICS = ("detX_num", "num_ERG_spikes", "detX_val", "detX_val_unrescaled", "detX_num_null", "ERG_gap")

ROUNDING_UP = 0.5
"""A tail is a whole number of eigenvalues, the first past the root: on average this much more than the law says."""

_NODES = 64
"""Gauss-Legendre nodes. The nearest singularity is ln x at x = 0 for Q = 1, far enough from every root for full
precision; nearer the lower edge only the sign of the integral counts."""

_BISECTIONS = 54


@dataclass(frozen=True, slots=True, kw_only=True)
class DetX:
    """The smallest tail whose rescaled eigenvalues have a product below one.

    Attributes
    ----------
    n_tail : int
        Number of eigenvalues in the tail (`detX_num`).
    value : float
        The smallest of them, in the scale of the eigenvalues (`detX_val`).
    value_unrescaled : float
        The same one in units of the mean eigenvalue. That this is the *rescaled* scale is the incumbent's name for it,
        `detX_val_unrescaled`.
    """

    n_tail: int
    value: float
    value_unrescaled: float


def find_det_x(evals: NDArray[np.float64]) -> DetX | FitFailure:
    """Find the largest i with Π_{j>=i} x_j < 1, on x = λ·n/Σλ ascending.

    Parameters
    ----------
    evals : ndarray of float64, shape (n,)
        Eigenvalues, ascending, finite, none negative. Zeros are allowed: a tail that holds one has product 0.

    Returns
    -------
    DetX or FitFailure
        A failure where all eigenvalues are zero or equal, or fewer than two. Otherwise there is always such a tail: the
        geometric mean of all x is below their arithmetic mean, 1.

    Raises
    ------
    ValueError
        The eigenvalues are not one-dimensional, ascending, finite and non-negative.

    Notes
    -----
    The logarithms are summed, from the largest value down; the product itself leaves the range of float64 from some
    two thousand eigenvalues on.
    """
    rescaled = rescale_evals(evals)
    if isinstance(rescaled, FitFailure):
        return rescaled
    x = rescaled.values
    with np.errstate(divide="ignore"):
        log_products = np.cumsum(np.log(x[::-1]))
    n_tail = _first_negative(log_products) + 1
    start = len(x) - n_tail
    return DetX(n_tail=n_tail, value=float(evals[start]), value_unrescaled=float(x[start]))


def _first_negative(log_products: NDArray[np.float64]) -> int:
    """Return where the sum first falls below zero; the whole spectrum where only rounding keeps it from that."""
    negative = log_products < 0.0
    return int(np.argmax(negative)) if negative.any() else len(log_products) - 1


def null_det_x(N: int, M: int) -> float:
    """Return the share of the spectrum that the tail of :func:`find_det_x` holds for pure noise.

    The root x* of ∫_{x*}^{b} ln x ρ(x) dx = 0 for the Marchenko-Pastur law ρ of mean 1, and from it ∫_{x*}^{b} ρ dx.

    Parameters
    ----------
    N, M : int
        Larger and smaller dimension of the matrix. Only their ratio matters: it is the limit of large M.

    Returns
    -------
    float
        From 0.731 (Q = 1) towards 1 (Q to infinity). The spectrum of noise is rigid: the `detX_num` of Gaussian
        matrices, M = 20 to 400, has a standard deviation of at most 0.6 around M times this share + 0.5.

    Raises
    ------
    ValueError
        Not N >= M >= 1.
    """
    if not 1 <= M <= N:
        raise ValueError(f"N must be the larger and M the smaller dimension, at least 1, got N = {N!r}, M = {M!r}")
    return _null_share(N / M)


@lru_cache(maxsize=256)
def _null_share(Q: float) -> float:
    """Remember the shares: a model has few aspect ratios, and many layers."""
    return float(tail_share(_root_angle(Q), Q))


def _root_angle(Q: float) -> float:
    """Return θ* of x* = c + r cos θ*: beyond x = 1 the trace-log falls, and at the lower edge it is negative."""
    centre, radius = bulk_centre(Q)
    low, high = float(np.arccos((1.0 - centre) / radius)), np.pi
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        if _trace_log(middle, Q) > 0.0:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def _trace_log(theta: float, Q: float) -> float:
    """Return ∫ ln x ρ(x) dx over the tail above x = c + r cos θ."""
    centre, radius = bulk_centre(Q)
    nodes, weights = _quadrature()
    angles = 0.5 * theta * (nodes + 1.0)
    x = centre + radius * np.cos(angles)
    return float(0.5 * theta * np.sum(weights * np.log(x) * 2.0 * np.sin(angles) ** 2 / (np.pi * x)))


@lru_cache(maxsize=1)
def _quadrature() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return nodes, weights


def det_x_metrics(
    det_x: DetX, *, N: int, M: int, n_evals: int, n_pl_spikes: int | None = None
) -> dict[str, float | int]:
    """Return the numbers under the names of :data:`DET_X_METRICS`.

    Parameters
    ----------
    det_x : DetX
        Of a spectrum of ``n_evals`` eigenvalues.
    N, M : int
        Larger and smaller dimension of one slice.
    n_evals : int
        Number of eigenvalues, pooled.
    n_pl_spikes : int, optional
        Size of the power-law tail; without it there is no ``ERG_gap``.

    Returns
    -------
    dict
        ``detX_num_null`` is what ``detX_num`` would be for noise, on average. ``detX_val_unrescaled`` is the value in
        units of the mean eigenvalue, as the incumbent has it.
    """
    metrics: dict[str, float | int] = {
        "detX_num": det_x.n_tail,
        "num_ERG_spikes": det_x.n_tail,
        "detX_val": det_x.value,
        "detX_val_unrescaled": det_x.value_unrescaled,
        "detX_num_null": null_det_x(N, M) * n_evals + ROUNDING_UP,
    }
    if n_pl_spikes is not None:
        metrics["ERG_gap"] = det_x.n_tail - n_pl_spikes
    return metrics
