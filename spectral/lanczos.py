"""The few largest eigenvalues of X = WᵀW without the rest of the spectrum.

Lanczos' iteration with full reorthogonalisation (Golub and Van Loan, Matrix Computations, 4th ed., sections 10.1
and 10.3): only products with W and Wᵀ, one pass over W each, where the whole spectrum takes O(N·M²).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Enough = Callable[["LeadingEigenvalues"], bool]

BLOCK_VALUES = 1 << 22
"""Values of W multiplied at a time: 16 MiB in float32, still in the cache for the second product. Smaller blocks cut
the columns of a matrix into pieces too short for memory to stream."""

CHECK_EVERY = 4
"""Steps between two looks at the eigenvalues found so far."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LeadingEigenvalues:
    """What a number of Lanczos steps says of the top of a spectrum.

    Attributes
    ----------
    values : ndarray of float64, shape (k,)
        Approximations from below to the largest eigenvalues, descending.
    errors : ndarray of float64, shape (k,)
        Estimates of their errors: no eigenvalue of X is further from the value than the norm of the residual; where
        its square over the gap to the next value found is smaller, that. The latter is a bound once the next
        eigenvalue has been found, too; before, a pair closer together than the accuracy asked for may pass as one.
    vectors : ndarray, shape (M, k)
        Eigenvectors, on the smaller side of W.
    """

    values: NDArray[np.float64] = field(repr=False)
    errors: NDArray[np.float64] = field(repr=False)
    vectors: NDArray[Any] = field(repr=False)


class _Krylov:
    """Orthonormal basis and tridiagonal matrix of a growing Krylov space of X = WᵀW."""

    def __init__(self, tall: NDArray[Any], start: NDArray[Any], capacity: int) -> None:
        self._blocks = _row_blocks(tall)
        self._basis = np.empty((capacity + 1, tall.shape[1]), dtype=tall.dtype)
        self._basis[0] = start / np.linalg.norm(start)
        self._diagonal = np.zeros(capacity)
        self._off_diagonal = np.zeros(capacity)
        self.size = 0
        self.is_complete = False

    def grow(self) -> None:
        """Add one direction; the space is complete when nothing is left to add."""
        step = self.size
        direction = self._basis[step]
        image = np.zeros_like(direction)
        for block in self._blocks:
            image += (block @ direction) @ block
        self._diagonal[step] = float(direction @ image)
        known = self._basis[: step + 1]
        # Twice is enough (Parlett, The Symmetric Eigenvalue Problem, section 6.9).
        for _ in range(2):
            image -= (known @ image) @ known
        length = float(np.linalg.norm(image))
        self._off_diagonal[step] = length
        self.size = step + 1
        scale = float(np.max(self._diagonal[: self.size]))
        self.is_complete = self.size == len(direction) or length <= float(np.finfo(image.dtype).eps) * scale
        if not self.is_complete:
            self._basis[step + 1] = image / length

    def leading(self, n_values: int) -> LeadingEigenvalues:
        """Return the ``n_values`` largest Ritz values with their errors."""
        projected = np.diag(self._diagonal[: self.size])
        rows = np.arange(1, self.size)
        projected[rows, rows - 1] = self._off_diagonal[: self.size - 1]
        # A routine for tridiagonal matrices is no faster at these sizes, and scipy.linalg takes 0.2 s to load.
        ascending, columns = np.linalg.eigh(projected, UPLO="L")
        # X has no negative eigenvalue: where one comes out, it is rounding.
        values, weights = np.maximum(ascending[::-1].astype(np.float64), 0.0), columns[:, ::-1]
        kept = min(n_values, self.size)
        residuals = np.abs(self._off_diagonal[self.size - 1] * weights[-1])
        if self.is_complete:
            residuals = np.zeros_like(residuals)
        return LeadingEigenvalues(
            values=values[:kept],
            errors=_errors(values, residuals)[:kept],
            vectors=self._basis[: self.size].T @ weights[:, :kept].astype(self._basis.dtype),
        )


def leading_eigenvalues(
    matrix: NDArray[Any], *, enough: Enough, start: NDArray[Any], n_values: int, max_steps: int
) -> LeadingEigenvalues:
    """Find the largest eigenvalues of X = WᵀW (the smaller side of W).

    Parameters
    ----------
    matrix : ndarray of float32 or float64, shape (rows, columns)
        W, finite; not written to. The products are taken in its own precision.
    enough : callable
        Given what is known so far, tells whether that is accurate enough.
    start : ndarray, shape (M,)
        Start vector, not zero; a random one is not orthogonal to what is looked for.
    n_values : int
        How many eigenvalues are looked at.
    max_steps : int
        Most products with X.

    Returns
    -------
    LeadingEigenvalues
        Also where ``max_steps`` came before ``enough``: the errors tell.

    Raises
    ------
    ValueError
        The start vector is zero or not finite, or the matrix is empty.

    Notes
    -----
    An eigenvalue that occurs more than once, to the last digits of the precision, is found once: the space never
    leaves the start vector's share of its eigenvectors. Rounding apart, this needs exact symmetry of the values.
    """
    length = float(np.linalg.norm(start))
    if matrix.size == 0 or not 0.0 < length < np.inf:
        raise ValueError(
            f"expected a matrix with values and a finite start vector, got {matrix.shape}, length {length}"
        )
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    capacity = min(max_steps, tall.shape[1])
    krylov = _Krylov(tall, start.astype(tall.dtype), capacity)
    found = None
    while krylov.size < capacity and not krylov.is_complete:
        krylov.grow()
        if krylov.size % CHECK_EVERY == 0 or krylov.is_complete:
            found = krylov.leading(n_values)
            if enough(found):
                return found
    return krylov.leading(n_values) if found is None or len(found.values) < n_values else found


def _errors(values: NDArray[np.float64], residuals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Estimate |θ - λ| by the residual, or its square over the gap if that is smaller (Parlett, theorem 11.7.1)."""
    gaps = np.full_like(values, np.inf)
    if len(values) > 1:
        steps = values[:-1] - values[1:]
        gaps[:-1] = steps
        gaps[1:] = np.minimum(gaps[1:], steps)
    with np.errstate(divide="ignore", invalid="ignore"):
        squared = np.where((gaps > residuals) & np.isfinite(gaps), residuals**2 / gaps, np.inf)
    return np.asarray(np.minimum(residuals, squared), dtype=np.float64)


def _row_blocks(tall: NDArray[Any]) -> list[NDArray[Any]]:
    n_rows = max(1, BLOCK_VALUES // tall.shape[1])
    return [tall[start : start + n_rows] for start in range(0, len(tall), n_rows)]
