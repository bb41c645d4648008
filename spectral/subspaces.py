"""Did the directions of a weight matrix move? Leading singular subspaces, and intruder dimensions.

Continued pre-training moves singular vectors and leaves the singular values nearly alone, so spectra alone miss
it. LoRA plants *intruder dimensions*: leading singular vectors of the tuned weight that resemble no singular
vector of the base at all (Shuttleworth et al., arXiv 2410.21228, algorithm 1).

Singular vectors of equal singular values are no property of a matrix: any rotation among them is as good. So a base
vector is compared one by one only where its singular value stands alone; equal ones count as the subspace they
span, |cosine| being the length of the projection onto it. And the leading k are a subspace of their own only where
σ_k > σ_{k+1}: ``relative_gap`` says by how much (Wedin, BIT 12, 1972: sin Θ <= ‖ΔW‖₂ / gap).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from spectral.errors import OptionError
from spectral.execution import single_threaded_blas
from spectral.spectrum import BLOCK_VALUES, GRAM_FLOOR, SpectrumFailure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

N_LEADING = 10
"""Leading tuned vectors that may be intruders (arXiv 2410.21228, section 4: k = 10)."""

INTRUDER_COSINE = 0.5
"""A vector is an intruder where its largest |cosine| to any base vector is below this (the ε of the same section)."""

EQUAL_GAP = 1e-10
"""Singular values closer than EQUAL_GAP·σ_max are equal: rounding of float64 decides on their vectors."""

_FIRST_LOOK = 4
"""The first look takes _FIRST_LOOK·k vectors of the base; where these do not settle the cosines, all are taken."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SubspaceComparison:
    """The leading singular directions of a tuned matrix W against its base.

    Attributes
    ----------
    k : int
        Number of leading vectors compared: at most the rank of both.
    left_overlap, right_overlap : float
        Mean squared cosine of the principal angles between the leading k left (right) singular subspaces, 0 to 1.
    left_angles, right_angles : ndarray of float64, shape (k,)
        The principal angles in radians, ascending.
    left_cosines, right_cosines : ndarray of float64, shape (k,)
        Of each leading vector of W, the largest |cosine| to any singular vector of the base, 0 to 1.
    relative_change : float
        ‖W - W_base‖_F / ‖W_base‖_F.
    relative_gap : float
        (σ_k - σ_{k+1}) / σ_1 of the base; 0 where the leading k are no subspace of their own.
    """

    k: int
    left_overlap: float
    right_overlap: float
    left_angles: NDArray[np.float64] = field(repr=False)
    right_angles: NDArray[np.float64] = field(repr=False)
    left_cosines: NDArray[np.float64] = field(repr=False)
    right_cosines: NDArray[np.float64] = field(repr=False)
    relative_change: float
    relative_gap: float

    def __post_init__(self) -> None:
        for array in (self.left_angles, self.right_angles, self.left_cosines, self.right_cosines):
            array.flags.writeable = False

    def __reduce__(self) -> tuple[Any, ...]:
        # By way of the constructor, so that the arrays are read-only in another process, too.
        values = {name: getattr(self, name) for name in self.__slots__}
        return partial(SubspaceComparison, **values), ()

    def n_intruders(self, threshold: float = INTRUDER_COSINE) -> int:
        """Return the number of leading left vectors of W whose cosine to every base vector is below ``threshold``."""
        return int(np.count_nonzero(self.left_cosines < threshold))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Leading:
    """Leading singular values, descending, and their vectors on the smaller side: (k,) and (m, k)."""

    values: NDArray[np.float64]
    vectors: NDArray[np.float64]
    is_all: bool
    """There are no other singular values but zeros."""


def leading_singular_vectors(
    matrix: NDArray[Any], k: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the k leading singular triplets, or all of them where the rank is below k.

    Parameters
    ----------
    matrix : ndarray, shape (n, m)
        Finite values of any float type, not all zero.
    k : int
        1 <= k <= min(n, m).

    Returns
    -------
    left : ndarray of float64, shape (n, k)
    values : ndarray of float64, shape (k,)
        Descending.
    right : ndarray of float64, shape (m, k)

    Raises
    ------
    OptionError
        ``k`` is out of range.

    Notes
    -----
    Eigenvectors of the Gram matrix on the smaller side, which costs a fraction of an SVD. A Gram matrix resolves
    σ² to about eps·σ_max² only, so where σ_k² is below ``spectral.spectrum.GRAM_FLOOR``·σ_max² an SVD is taken.
    Signs, and bases of equal singular values, are LAPACK's choice.
    """
    if not 1 <= k <= min(matrix.shape):
        raise OptionError(f"k must be from 1 to {min(matrix.shape)} for a matrix of shape {matrix.shape}, got {k!r}")
    tall, is_turned = _tall(matrix)
    found = _leading(tall, k)
    large = _large_side(tall, found, len(found.values))
    left, right = (found.vectors, large) if is_turned else (large, found.vectors)
    return left, found.values, right


def compare_subspaces(
    matrix: NDArray[Any], base: NDArray[Any], k: int = N_LEADING
) -> SubspaceComparison | SpectrumFailure:
    """Compare the leading singular directions of a tuned matrix with those of its base.

    Parameters
    ----------
    matrix, base : ndarray, shape (n, m)
        W and W_base, of any float type; not written to.
    k : int
        Number of leading vectors, at least 1; at most the rank of both is used.

    Returns
    -------
    SubspaceComparison or SpectrumFailure
        A failure where a value is not finite, one of the two is all zero, or squares leave the range of float64.

    Raises
    ------
    OptionError
        ``k`` is below 1, or the two are not matrices of one shape.

    Notes
    -----
    With an orthogonal change of basis of both, W → QWR, every number stays. Singular vectors of the base whose
    singular value is zero (below n·eps·σ_max) are no directions of it, so a tuned vector there is an intruder.
    """
    if type(k) is not int or k < 1:
        raise OptionError(f"k must be an integer of at least 1, got {k!r}")
    if matrix.ndim != 2 or matrix.shape != base.shape:
        raise OptionError(f"expected two matrices of one shape, got {matrix.shape} and {base.shape}")
    failure = _why_no_directions(matrix, "the model") or _why_no_directions(base, "the base")
    if failure is not None:
        return failure
    try:
        with single_threaded_blas():
            return _compare(_tall(matrix)[0], _tall(base)[0], k, is_turned=_tall(matrix)[1])
    except np.linalg.LinAlgError as error:
        return SpectrumFailure(kind="no_convergence", detail=f"LAPACK found no singular vectors: {error}")


def _compare(tuned: NDArray[Any], base: NDArray[Any], k: int, *, is_turned: bool) -> SubspaceComparison:
    """Compare two tall matrices; ``is_turned`` where they are the transposes of what the caller has."""
    m = base.shape[1]
    leading = _leading(tuned, min(k, m))
    look = _leading(base, min(m, _FIRST_LOOK * k + 1))
    k = min(len(leading.values), len(look.values), k)
    small, large = leading.vectors[:, :k], _large_side(tuned, leading, k)
    cosines = _all_cosines(base, look, small, large)
    if cosines is None:
        cosines = _all_cosines(base, _leading(base, m), small, large)
    assert cosines is not None  # all vectors of the base settle every cosine
    angles = (
        _principal_angles(look.vectors[:, :k], small),
        _principal_angles(_large_side(base, look, k), large),
    )
    right, left = (1, 0) if is_turned else (0, 1)
    following = look.values[k] if len(look.values) > k else 0.0
    return SubspaceComparison(
        k=k,
        left_overlap=float(np.mean(np.cos(angles[left]) ** 2)),
        right_overlap=float(np.mean(np.cos(angles[right]) ** 2)),
        left_angles=angles[left],
        right_angles=angles[right],
        left_cosines=cosines[left],
        right_cosines=cosines[right],
        relative_change=math.sqrt(_energy(tuned, base) / _energy(base)),
        relative_gap=float((look.values[k - 1] - following) / look.values[0]),
    )


def _all_cosines(
    base: NDArray[Any], known: _Leading, small: NDArray[np.float64], large: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return the largest |cosine| of each vector to the base on both sides, None where ``known`` does not settle it.

    What lies outside the known vectors has no larger cosine than its own length. So where no vector has more outside
    than its largest cosine inside, no other base vector can be closer.
    """
    # On the larger side u_i = W·v_i/σ_i, so that u_iᵀx = v_iᵀ(Wᵀx)/σ_i without forming u_i.
    on_small = known.vectors.T @ small
    on_large = (known.vectors.T @ _transposed_product(base, large)) / known.values[:, None]
    starts = _group_starts(known.values)
    found = []
    for products in (on_small, on_large):
        squares = np.add.reduceat(products * products, starts, axis=0)
        if not known.is_all:
            # The last group may go on among the vectors that are not known.
            squares = squares[:-1]
            outside = 1.0 - squares.sum(axis=0)
            if len(squares) == 0 or bool(np.any(squares.max(axis=0) < outside)):
                return None
        found.append(np.minimum(np.sqrt(squares.max(axis=0)), 1.0))
    return found[0], found[1]


def _group_starts(values: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return where each run of equal singular values begins."""
    is_new = np.diff(values) < -EQUAL_GAP * values[0]
    return np.concatenate([np.zeros(1, dtype=np.intp), np.flatnonzero(is_new) + 1])


def _leading(tall: NDArray[Any], k: int) -> _Leading:
    """Return the k leading singular values and right vectors of a tall matrix, without those that are zero."""
    from scipy.linalg import eigh

    m = tall.shape[1]
    gram = np.zeros((m, m))
    for block in _blocks(tall):
        gram += block.T @ block
    if k == m:
        evals, vectors = eigh(gram, driver="evd")
    else:
        evals, vectors = eigh(gram, subset_by_index=[m - k, m - 1], driver="evr")
    if evals[0] > GRAM_FLOOR * evals[-1]:
        values, vectors = np.sqrt(evals[::-1]), vectors[:, ::-1]
    else:
        values, vectors = _leading_by_svd(tall, k)
    n_kept = int(np.count_nonzero(values > EQUAL_GAP * values[0]))
    return _Leading(
        values=values[:n_kept],
        vectors=np.ascontiguousarray(vectors[:, :n_kept]),
        is_all=n_kept < k or k == m,
    )


def _leading_by_svd(tall: NDArray[Any], k: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return values and right vectors from the triangular factor, gathered block by block."""
    reduced = np.empty((0, tall.shape[1]))
    for block in _blocks(tall):
        reduced = np.asarray(np.linalg.qr(np.vstack([reduced, block]), mode="r"), dtype=np.float64)
    _, values, right = np.linalg.svd(reduced, full_matrices=False)
    return values[:k], right[:k].T


def _large_side(tall: NDArray[Any], found: _Leading, k: int) -> NDArray[np.float64]:
    """Return the k leading left vectors of a tall matrix, W·v/σ."""
    vectors = np.vstack([block @ found.vectors[:, :k] for block in _blocks(tall)])
    return np.asarray(vectors / np.linalg.norm(vectors, axis=0), dtype=np.float64)


def _transposed_product(tall: NDArray[Any], vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    total = np.zeros((tall.shape[1], vectors.shape[1]))
    start = 0
    for block in _blocks(tall):
        total += block.T @ vectors[start : start + len(block)]
        start += len(block)
    return total


def _principal_angles(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the principal angles, ascending (Knyazev and Argentati, SIAM J. Sci. Comput. 23, 2002, algorithm 3.1)."""
    from scipy.linalg import subspace_angles

    return np.asarray(subspace_angles(first, second)[::-1], dtype=np.float64).copy()


def _energy(tall: NDArray[Any], other: NDArray[Any] | None = None) -> float:
    """Return ‖W‖_F², or ‖W - W'‖_F²."""
    total = 0.0
    blocks = _blocks(tall)
    others = _blocks(other) if other is not None else None
    for block in blocks:
        difference = block if others is None else block - next(others)
        total += float(np.vdot(difference, difference))
    return total


def _blocks(tall: NDArray[Any]) -> Iterator[NDArray[np.float64]]:
    """Yield rows as float64, so that no large matrix is converted as a whole."""
    n_rows = max(1, BLOCK_VALUES // tall.shape[1])
    for start in range(0, len(tall), n_rows):
        yield tall[start : start + n_rows].astype(np.float64)


def _tall(matrix: NDArray[Any]) -> tuple[NDArray[Any], bool]:
    is_wide = matrix.shape[0] < matrix.shape[1]
    return (matrix.T, True) if is_wide else (matrix, False)


def _why_no_directions(matrix: NDArray[Any], which: str) -> SpectrumFailure | None:
    if matrix.size == 0:
        return SpectrumFailure(kind="all_zero", detail=f"{which}: an empty matrix")
    n_bad = int(np.count_nonzero(~np.isfinite(matrix)))
    if n_bad:
        return SpectrumFailure(
            kind="non_finite", detail=f"{which}: {n_bad} of {matrix.size} values are NaN or infinite"
        )
    if not np.any(matrix):
        return SpectrumFailure(kind="all_zero", detail=f"{which}: all {matrix.size} values are zero")
    with np.errstate(over="ignore"):
        energy = _energy(_tall(matrix)[0])
    if not math.isfinite(energy):
        return SpectrumFailure(kind="overflow", detail=f"{which}: the squares exceed the range of float64")
    if energy < np.finfo(np.float64).tiny:
        return SpectrumFailure(kind="underflow", detail=f"{which}: the squares vanish in the range of float64")
    return None
