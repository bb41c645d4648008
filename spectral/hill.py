"""The Hill estimate of alpha: a tail of fixed size, with nothing chosen.

Hill, Ann. Statist. 3 (1975) 1163. Half of the spectrum as tail is what layer-wise pruning uses (AlphaPruning,
arXiv 2410.10912), also on windows of fixed aspect ratio (FARMS: Hu, Goel, Killiakov and Yang, arXiv 2506.06280): the
spectrum of noise depends on N/M, and so would the estimate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spectral.errors import OptionError
from spectral.fits import FitFailure, FitFailureReason
from spectral.lapack import symmetric_eigenvalues
from spectral.power_law import EVALS_THRESHOLD, MIN_LOG_SPREAD, check_evals

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

MIN_WINDOW = 2
"""Smaller windows have one eigenvalue."""


def alpha_hill(evals: NDArray[np.float64], n_tail: int | None = None) -> float | FitFailure:
    """Return α = 1 + k / Σ ln(x_j/x_{n-k}), the sum over the k = ``n_tail`` largest of the n eigenvalues above 1e-5.

    x_{n-k} is the largest eigenvalue that is not in the tail.

    Parameters
    ----------
    evals : ndarray of float64, shape (n,)
        Eigenvalues, ascending and finite.
    n_tail : int, optional
        Size of the tail; by default half of the eigenvalues above 1e-5, rounded down.

    Returns
    -------
    float or FitFailure
        A failure where there are not more than ``n_tail`` eigenvalues above 1e-5, or those that count are equal.

    Raises
    ------
    ValueError
        The eigenvalues are not one-dimensional, ascending and finite.
    OptionError
        n_tail is not a positive integer.
    """
    check_evals(evals)
    if n_tail is not None and (type(n_tail) is not int or n_tail < 1):
        raise OptionError(f"n_tail must be None or an integer of at least 1, got {n_tail!r}")
    x = evals[evals > EVALS_THRESHOLD]
    k = len(x) // 2 if n_tail is None else n_tail
    if k < 1 or len(x) <= k:
        detail = (
            f"{len(x)} eigenvalues above {EVALS_THRESHOLD:g}, more than {max(k, 1)} are needed for the Hill estimate"
        )
        return FitFailure(reason=FitFailureReason.TOO_FEW_EIGENVALUES, detail=detail)
    logs = np.log(x[-k:]) - np.log(x[-k - 1])
    if not logs[-1] > MIN_LOG_SPREAD:
        return FitFailure(reason=FitFailureReason.NO_SPREAD, detail="all eigenvalues in the tail are equal")
    return float(1.0 + k / np.sum(logs))


def alpha_farms(slices: NDArray[Any], *, aspect_ratio: float = 1.0, window: int | None = None) -> float | FitFailure:
    """Return the Hill estimate of the pooled eigenvalues of windows of one aspect ratio.

    Every slice is turned so that it is tall and cut into windows of ``aspect_ratio``·m by m, spread evenly so
    that they cover the slice with the least overlap: ceil(rows / window rows) times ceil(columns / m) of them.
    The squared singular values of all windows of all slices are pooled, which is the average of their spectra.

    Parameters
    ----------
    slices : ndarray of any float type, shape (rf, rows, columns)
        The weight matrix. It is not written to.
    aspect_ratio : float
        Longer by shorter side of a window, at least 1.
    window : int, optional
        Shorter side m of a window; by default the largest that fits, min(M, N // aspect_ratio).

    Returns
    -------
    float or FitFailure
        A failure where no window fits, or the eigenvalues have no Hill estimate.

    Raises
    ------
    ValueError
        The slices are not a three-dimensional array of finite numbers.
    OptionError
        aspect_ratio or window has an impossible value.

    Notes
    -----
    The authors' code slides 10 to 15 overlapping windows of fixed size along each axis; these windows are the same
    for every run, cover every element, and are as large as the slice allows, so that no size has to be chosen.
    """
    _check_windows(slices, aspect_ratio, window)
    n_long, n_short = max(slices.shape[1:]), min(slices.shape[1:])
    largest = min(n_short, int(n_long / aspect_ratio))
    short = largest if window is None else window
    if not MIN_WINDOW <= short <= largest:
        detail = f"no window of {short} by {aspect_ratio:g} times that fits a slice of {n_long} x {n_short}"
        return FitFailure(reason=FitFailureReason.TOO_FEW_EIGENVALUES, detail=detail)
    blocks = _windows(slices, int(aspect_ratio * short), short)
    evals = [symmetric_eigenvalues(block.T @ block) for block in blocks]
    return alpha_hill(np.sort(np.concatenate(evals)))


def _check_windows(slices: NDArray[Any], aspect_ratio: float, window: int | None) -> None:
    if slices.ndim != 3 or slices.size == 0 or not bool(np.isfinite(slices).all()):
        raise ValueError(f"slices must be finite numbers of shape (rf, rows, columns), got shape {slices.shape}")
    if not 1.0 <= aspect_ratio < np.inf:
        raise OptionError(f"aspect_ratio must be a number of at least 1, got {aspect_ratio!r}")
    if window is not None and (type(window) is not int or window < MIN_WINDOW):
        raise OptionError(f"window must be None or an integer of at least {MIN_WINDOW}, got {window!r}")


def _windows(slices: NDArray[Any], n_rows: int, n_columns: int) -> Iterator[NDArray[np.float64]]:
    for matrix in slices:
        tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
        for row in window_starts(tall.shape[0], n_rows):
            for column in window_starts(tall.shape[1], n_columns):
                yield tall[row : row + n_rows, column : column + n_columns].astype(np.float64)


def window_starts(length: int, window: int) -> tuple[int, ...]:
    """Return where the fewest windows that cover an axis begin, spread evenly from its first to its last element."""
    n_windows = -(-length // window)
    return tuple((length - window) * i // max(n_windows - 1, 1) for i in range(n_windows))
