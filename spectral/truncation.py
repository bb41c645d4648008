"""Change the singular values of one matrix and leave its singular vectors as they are.

Everything is computed in float64 on the tall orientation, so that a transposed matrix gives the transposed result to
the last bit, and is rounded once, back to the type of the input. What would change nothing returns the input's values.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from spectral.errors import OptionError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def keep_leading(matrix: NDArray[Any], n_keep: int) -> NDArray[Any]:
    """Return the best approximation of rank ``n_keep``: the sum of the leading singular directions.

    Best in the Frobenius and the spectral norm (Eckart and Young, Psychometrika 1 (1936) 211; Mirsky 1960). Where
    σ_k = σ_{k+1} at the cut it is one of several.

    Parameters
    ----------
    matrix : ndarray, shape (rows, columns)
        Finite values of any float type; not written to.
    n_keep : int
        0 gives zeros; min(rows, columns) or more gives a copy.

    Returns
    -------
    ndarray, shape (rows, columns)
        Of the type of ``matrix``. Values that its type cannot hold become infinite.

    Raises
    ------
    OptionError
        ``n_keep`` is negative or no integer.
    ValueError
        ``matrix`` is not two-dimensional and finite.
    numpy.linalg.LinAlgError
        LAPACK did not converge.
    """
    tall = _checked(matrix)
    n_keep = _count("n_keep", n_keep)
    if n_keep >= tall.shape[1]:
        return np.array(matrix)
    left, singular, right = np.linalg.svd(tall, full_matrices=False)
    return _rounded((left[:, :n_keep] * singular[:n_keep]) @ right[:n_keep], matrix)


def drop_leading(matrix: NDArray[Any], n_drop: int) -> NDArray[Any]:
    """Return the matrix without its leading singular directions; the others stay as they are.

    Parameters, limits and errors are those of :func:`keep_leading`; 0 gives a copy.
    """
    tall = _checked(matrix)
    n_drop = _count("n_drop", n_drop)
    if n_drop == 0:
        return np.array(matrix)
    left, singular, right = np.linalg.svd(tall, full_matrices=False)
    return _rounded((left[:, n_drop:] * singular[n_drop:]) @ right[n_drop:], matrix)


def clip_singular_values(matrix: NDArray[Any], threshold: float, *, n_leading: int | None = None) -> NDArray[Any]:
    """Lower every singular value above ``threshold`` to it.

    The result is the closest matrix, in the Frobenius norm, whose spectral norm does not exceed the threshold.

    Parameters
    ----------
    matrix : ndarray, shape (rows, columns)
        Finite values of any float type; not written to.
    threshold : float
        In units of σ, at least 0.
    n_leading : int, optional
        Touch the largest ``n_leading`` singular values only.

    Returns
    -------
    ndarray, shape (rows, columns)
        Of the type of ``matrix``; a copy where nothing exceeds the threshold.

    Raises
    ------
    OptionError
        ``threshold`` is negative or not finite, or ``n_leading`` is negative.
    ValueError, numpy.linalg.LinAlgError
        As :func:`keep_leading`.
    """
    tall = _checked(matrix)
    if not (math.isfinite(threshold) and threshold >= 0.0):
        raise OptionError(f"threshold must be a finite singular value of at least 0, got {threshold!r}")
    n_considered = None if n_leading is None else _count("n_leading", n_leading)
    if n_considered == 0:
        return np.array(matrix)
    left, singular, right = np.linalg.svd(tall, full_matrices=False)
    n_clipped = int(np.count_nonzero(singular[:n_considered] > threshold))
    if n_clipped == 0:
        return np.array(matrix)
    excess = singular[:n_clipped] - threshold
    return _rounded(tall - (left[:, :n_clipped] * excess) @ right[:n_clipped], matrix)


def _checked(matrix: NDArray[Any]) -> NDArray[np.float64]:
    """Return the matrix in float64, turned so that it is tall."""
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"expected a matrix with values, got shape {matrix.shape}")
    tall = (matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T).astype(np.float64, order="C")
    if not np.isfinite(tall).all():
        raise ValueError(f"expected finite values, got {np.count_nonzero(~np.isfinite(tall))} that are not")
    return tall


def _count(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
        raise OptionError(f"{name} must be an integer of at least 0, got {value!r}")
    return int(value)


def _rounded(tall: NDArray[np.float64], matrix: NDArray[Any]) -> NDArray[Any]:
    """Return the values in the orientation and type of ``matrix``."""
    turned = tall if matrix.shape[0] >= matrix.shape[1] else tall.T
    with np.errstate(over="ignore"):
        return turned.astype(matrix.dtype, order="C")
