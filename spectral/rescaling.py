"""Eigenvalues in units of their mean, in which the laws of random-matrix theory are stated."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from spectral.fits import FitFailure, FitFailureReason

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_SPREAD = 1e-10
"""Eigenvalues that differ by less than this share of the largest are rounding noise around one value."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RescaledEvals:
    """Eigenvalues divided by their mean.

    Attributes
    ----------
    values : ndarray of float64, shape (n,)
        x = λ·n/Σλ, ascending, of mean 1, read-only.
    W_scale : float
        √(n/Σλ): the factor W would be multiplied with. λ = x / W_scale².
    """

    values: NDArray[np.float64] = field(repr=False)
    W_scale: float

    def __post_init__(self) -> None:
        self.values.flags.writeable = False


def rescale_evals(evals: NDArray[np.float64]) -> RescaledEvals | FitFailure:
    """Divide eigenvalues by their mean.

    Parameters
    ----------
    evals : ndarray of float64, shape (n,)
        Eigenvalues, ascending, finite, none negative.

    Returns
    -------
    RescaledEvals or FitFailure
        A failure where there are fewer than two, all are zero, or all are equal: no law of a spectrum with a
        width can be fitted to them.

    Raises
    ------
    ValueError
        The eigenvalues are not one-dimensional, ascending, finite and non-negative.
    """
    check_evals(evals)
    if len(evals) < 2:
        return FitFailure(
            reason=FitFailureReason.TOO_FEW_EIGENVALUES, detail=f"{len(evals)} eigenvalues, at least 2 are needed"
        )
    largest = float(evals[-1])
    if largest == 0.0:
        return FitFailure(reason=FitFailureReason.NO_SPECTRUM, detail=f"all {len(evals)} eigenvalues are zero")
    # Relative to the largest, so that the sum neither overflows nor vanishes.
    relative = evals / largest
    if not 1.0 - float(relative[0]) > MIN_SPREAD:
        return FitFailure(reason=FitFailureReason.NO_SPREAD, detail=f"all {len(evals)} eigenvalues are equal")
    mean = float(np.mean(relative))
    return RescaledEvals(values=relative / mean, W_scale=1.0 / (float(np.sqrt(largest)) * float(np.sqrt(mean))))


def check_evals(evals: NDArray[np.float64], name: str = "evals") -> None:
    """Raise ValueError unless the eigenvalues are one-dimensional, ascending, finite and non-negative."""
    # Whatever stands in order between two finite ends is finite, and NaN stands in no order.
    if evals.ndim != 1 or not bool(np.all(evals[1:] >= evals[:-1])) or not _has_finite_ends(evals):
        raise ValueError(
            f"{name} must be one-dimensional, ascending, finite and non-negative, got an array of shape {evals.shape}"
        )


def _has_finite_ends(evals: NDArray[np.float64]) -> bool:
    return len(evals) == 0 or bool(evals[0] >= 0.0 and np.isfinite(evals[-1]))
