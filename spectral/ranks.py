"""How many singular values stand out of noise of unknown level: the optimal hard threshold."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from spectral.roots import bisect_root

if TYPE_CHECKING:
    from numpy.typing import NDArray


def gavish_donoho_rank(singular: NDArray[np.float64], *, Q: float) -> int:
    """Count the singular values above the optimal hard threshold ω(1/Q)·median.

    Gavish and Donoho, IEEE Trans. Inf. Theory 60 (2014) 5040, equations 4 and 5: singular values below it are better
    set to zero when a matrix in white noise of unknown level is to be restored.

    Parameters
    ----------
    singular : ndarray of float64, shape (n,)
        Singular values in any order, of one matrix or of pooled slices of one shape.
    Q : float
        N/M of a slice, at least 1.

    Raises
    ------
    ValueError
        Q is below 1, or there are no singular values.
    """
    if not Q >= 1.0 or len(singular) == 0:
        raise ValueError(f"expected Q >= 1 and some singular values, got Q = {Q!r} and {len(singular)} values")
    return int(np.count_nonzero(singular > _threshold_over_median(float(Q)) * _median(singular)))


def _median(values: NDArray[np.float64]) -> float:
    """Return the median; numpy's own loads numpy.ma first, which takes as long as a small matrix."""
    ordered = np.sort(values)
    upper = len(ordered) // 2
    return float(ordered[upper] if len(ordered) % 2 else (ordered[upper - 1] + ordered[upper]) / 2.0)


@lru_cache(maxsize=4096)
def _threshold_over_median(Q: float) -> float:
    """Return ω(β) = λ(β)/√μ, the optimal threshold for known noise over the median of the noise (β = 1/Q)."""
    beta = 1.0 / Q
    known = np.sqrt(2.0 * (beta + 1.0) + 8.0 * beta / (beta + 1.0 + np.sqrt(beta * beta + 14.0 * beta + 1.0)))
    return float(known / np.sqrt(_median_of_law(Q)))


def _median_of_law(Q: float) -> float:
    """Return the median of the Marchenko-Pastur law on [(1 - √β)², (1 + √β)²]."""
    from spectral.marchenko_pastur_law import marchenko_pastur_cdf, marchenko_pastur_edges

    low, high = marchenko_pastur_edges(Q=Q)
    return bisect_root(lambda x: float(marchenko_pastur_cdf(x, Q=Q)) - 0.5, low, high, xtol=1e-14)
