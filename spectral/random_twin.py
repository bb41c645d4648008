"""A spectrum beside that of its randomised twin: the same elements of W, permuted.

Only the comparison stands here; it draws nothing. What permuting leaves is what the elements alone account for, so that
the difference is correlation, of the trained kind where W's spectrum reaches further and a trap where the twin's does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spectral.rescaling import check_evals

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_SHARE = 1e-150
"""Smaller shares are zero to any precision. They would be divided by a reference that has vanished altogether."""

TWIN_METRICS = ("max_rand_eval", "rand_distance", "ww_softrank", "ww_maxdist")


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinComparison:
    """How far a spectrum is from its randomised twin.

    Attributes
    ----------
    max_rand_eval : float
        Largest eigenvalue of the twin, over all replicas.
    rand_distance : float
        Jensen-Shannon distance of the two spectra, 0 to √ln 2 for equal sums.
    ww_softrank : float
        Largest eigenvalue of one replica over that of the spectrum.
    ww_maxdist : float
        Largest eigenvalue of the spectrum minus that of one replica; negative where the twin reaches further.
    """

    max_rand_eval: float
    rand_distance: float
    ww_softrank: float
    ww_maxdist: float


def compare_with_twin(
    evals: NDArray[np.float64], *, pooled_rand_evals: NDArray[np.float64], rand_evals: NDArray[np.float64]
) -> TwinComparison:
    """Compare a spectrum with its randomised twin.

    Parameters
    ----------
    evals : ndarray of float64, shape (n,)
        Eigenvalues of W, ascending, not all zero.
    pooled_rand_evals : ndarray of float64, shape (n * n_replicas,)
        Eigenvalues of every replica of the permuted W, pooled, ascending.
    rand_evals : ndarray of float64, shape (n,)
        Eigenvalues of a single replica, ascending, not all zero. It may be one of the pooled ones.

    Returns
    -------
    TwinComparison
        The largest value of the twin over all replicas, everything else against the single one.

    Raises
    ------
    ValueError
        A spectrum is not one-dimensional, ascending, finite and non-negative, is empty or all zero, or the two that
        are compared value by value differ in length.
    """
    check_evals(pooled_rand_evals, "pooled_rand_evals")
    if len(pooled_rand_evals) == 0:
        raise ValueError("pooled_rand_evals is empty, at least one replica is needed")
    distance = jensen_shannon_distance(evals, rand_evals)
    largest, largest_random = float(evals[-1]), float(rand_evals[-1])
    return TwinComparison(
        max_rand_eval=float(pooled_rand_evals[-1]),
        rand_distance=distance,
        ww_softrank=largest_random / largest,
        ww_maxdist=largest - largest_random,
    )


def jensen_shannon_distance(evals: NDArray[np.float64], rand_evals: NDArray[np.float64]) -> float:
    """Return the Jensen-Shannon distance of two spectra, read as distributions over their ranks.

    ``√((KL(p‖m) + KL(q‖m)) / 2)`` with the natural logarithm, p, q and m the spectra and their sum, each divided by its
    total. (D. M. Endres and J. E. Schindelin, IEEE Trans. Inf. Theory 49, 2003, 1858.)

    Parameters
    ----------
    evals, rand_evals : ndarray of float64, shape (n,)
        Eigenvalues, ascending, not all zero.

    Returns
    -------
    float
        0 for spectra of one shape, at most √ln 2 = 0.833 where their totals are equal.

    Raises
    ------
    ValueError
        A spectrum is not one-dimensional, ascending, finite and non-negative, is empty or all zero, or their
        lengths differ.

    Notes
    -----
    Permuting the elements keeps ‖W‖_F and with it the total, so that m is the mean of p and q. Where totals differ
    (spectra of inverses) the larger weighs more in m, as in the incumbent, and this is no longer a metric.
    """
    from scipy.special import rel_entr

    check_evals(evals)
    check_evals(rand_evals, "rand_evals")
    if len(evals) != len(rand_evals):
        raise ValueError(
            f"the spectra must have as many eigenvalues as each other, got {len(evals)} and {len(rand_evals)}"
        )
    if len(evals) == 0 or evals[-1] == 0.0 or rand_evals[-1] == 0.0:
        raise ValueError(f"a spectrum of {len(evals)} eigenvalues is empty or all zero, it is no distribution")
    p, q = _shares(evals), _shares(rand_evals)
    # Total of each over the total of both, from the largest values so that nothing overflows.
    weight = 1.0 / (1.0 + float(rand_evals[-1] / evals[-1]) * float(p[-1] / q[-1]))
    m = weight * p + (1.0 - weight) * q
    divergence = 0.5 * float(np.sum(rel_entr(p, m)) + np.sum(rel_entr(q, m)))
    # Rounding may leave equal spectra a few eps below zero.
    return float(np.sqrt(max(divergence, 0.0)))


def twin_metrics(comparison: TwinComparison) -> dict[str, float]:
    """Return the comparison under the names of :data:`TWIN_METRICS`."""
    return {name: float(getattr(comparison, name)) for name in TWIN_METRICS}


def _shares(evals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the eigenvalues divided by their sum; what vanishes beside it is zero."""
    relative = evals / evals[-1]
    shares = relative / np.sum(relative)
    return np.where(shares < MIN_SHARE, 0.0, shares)
