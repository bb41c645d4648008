"""Fingers: a few eigenvalues beyond the end of the tail, which make its exponent too large.

Two remedies. One keeps xmin near the peak of the spectrum, so that the tail is long and a few values at its end
count for little. The other drops the largest values one by one until the exponent falls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spectral.fits import FitFailure
from spectral.power_law import EVALS_THRESHOLD, PowerLawFit, check_evals

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

PEAK_BINS = 100
PEAK_MARGIN_BELOW = 0.95
PEAK_MARGIN_ABOVE = 1.5
"""The incumbent's histogram, and its range of xmin about the peak."""

DEFAULT_MAX_FINGERS = 10
DEFAULT_FINGER_THRESHOLD = 1.0

MIN_CLIPPED_ALPHA = 2.0
"""A tail whose exponent has come down to this is heavy already; nothing more is dropped (the incumbent's rule)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clipping:
    """What dropping the largest eigenvalues found.

    Attributes
    ----------
    fit : PowerLawFit
        Fit of what is left.
    n_fingers : int
        Number of eigenvalues dropped; 0 where dropping did not help, and ``fit`` is that of the whole spectrum.
    raw_alpha : float
        Exponent of the whole spectrum.
    """

    fit: PowerLawFit
    n_fingers: int
    raw_alpha: float


def peak_xmin_range(evals: NDArray[np.float64], xmin_max: float | None = None) -> tuple[float, float] | None:
    """Return the range of xmin about the peak of the spectrum.

    The peak is the lower edge of the first fullest of :data:`PEAK_BINS` equal bins of log10 λ, over the
    eigenvalues above 1e-5; the range goes from 0.95 times the peak to ``xmin_max``, by default 1.5 times the peak.

    Parameters
    ----------
    evals : ndarray of float64, shape (n,)
        Eigenvalues, ascending and finite.
    xmin_max : float, optional
        Upper end of the range, in units of λ.

    Returns
    -------
    pair of float, or None
        None where no eigenvalue exceeds the threshold. The range is empty where xmin_max lies below the peak.

    Raises
    ------
    ValueError
        The eigenvalues are not one-dimensional, ascending and finite.
    """
    check_evals(evals)
    logs = np.log10(evals[evals > EVALS_THRESHOLD])
    if len(logs) == 0:
        return None
    counts, edges = np.histogram(logs, bins=PEAK_BINS)
    peak = float(10.0 ** edges[np.argmax(counts)])
    return PEAK_MARGIN_BELOW * peak, PEAK_MARGIN_ABOVE * peak if xmin_max is None else xmin_max


def clip_fingers(
    evals: NDArray[np.float64],
    fit_tail: Callable[[NDArray[np.float64]], PowerLawFit | FitFailure],
    *,
    max_fingers: int = DEFAULT_MAX_FINGERS,
    finger_thresh: float = DEFAULT_FINGER_THRESHOLD,
) -> Clipping | FitFailure:
    """Drop 1, 2, .. ``max_fingers`` of the largest eigenvalues until alpha falls by at least ``finger_thresh``.

    At most half of the eigenvalues are dropped. Where alpha never falls so far, or falls to
    :data:`MIN_CLIPPED_ALPHA` before that, or what is left cannot be fitted, nothing is dropped.

    Parameters
    ----------
    evals : ndarray of float64, shape (n,)
        Eigenvalues, ascending and finite.
    fit_tail : callable
        Fits a power law to a spectrum.
    max_fingers : int
        Most eigenvalues to drop.
    finger_thresh : float
        Least fall of alpha that shows the dropped values to be fingers.

    Returns
    -------
    Clipping or FitFailure
        The failure is that of the whole spectrum.
    """
    raw = fit_tail(evals)
    if isinstance(raw, FitFailure):
        return raw
    for n_fingers in range(1, min(max_fingers, len(evals) // 2) + 1):
        fit = fit_tail(evals[:-n_fingers])
        if isinstance(fit, FitFailure):
            break
        if raw.alpha - fit.alpha >= finger_thresh:
            return Clipping(fit=fit, n_fingers=n_fingers, raw_alpha=raw.alpha)
        if fit.alpha <= MIN_CLIPPED_ALPHA:
            break
    return Clipping(fit=raw, n_fingers=0, raw_alpha=raw.alpha)
