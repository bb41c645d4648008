"""From a weight matrix to its empirical spectral density (ESD).

The eigenvalues of X = WᵀW come from the Gram matrix in float64 and LAPACK's symmetric solver, which costs a
fraction of an SVD. The Gram matrix is accumulated over row blocks of fixed size, so that a tall matrix is
never converted to float64 as a whole, and so that the bits do not depend on who computes them.

A Gram matrix resolves eigenvalues to about eps·λmax only. Where the smallest one lies near that (a matrix that is
or nearly is rank-deficient) the spectrum is taken again from singular values, streamed through QR.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from spectral.blas import add_gram
from spectral.lanes import LANES_FROM, N_LANES, Lanes
from spectral.lapack import symmetric_eigenvalues
from spectral.places import name_place

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from spectral.weights import WeightMatrix

NOT_FINITE = "NaN or infinite"
"""How every text says it."""

BLOCK_VALUES = 1 << 21
"""Values converted to float64 at a time (16 MiB)."""

GRAM_FLOOR = 4e-9
"""Eigenvalues below GRAM_FLOOR·λmax are not taken from the Gram matrix: its rounding moves every eigenvalue by
the order of eps·λmax (Golub and Van Loan, Matrix Computations, 4th ed., section 5.3.2 and theorem 8.1.4; up to
13 eps·λmax were measured, M = 50 to 1000), so that from here on each has a relative error below 1e-6."""

MAX_EXACT_M = 1024
"""Up to this size GRAM_FLOOR holds. Beyond it, where an SVD takes several times as long and a square matrix nearly
always has some λ below GRAM_FLOOR·λmax, only NOISE_FLOOR does: `sv_min` may then be off in its third digit, and
no other number depends on such small eigenvalues."""

NOISE_FLOOR = 16
"""Eigenvalues below NOISE_FLOOR·M·eps·λmax are noise, and a rank could not be counted from them."""

_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Spectrum:
    """The pooled eigenvalues of one weight matrix.

    Attributes
    ----------
    evals : ndarray of float64, shape (M * rf,)
        Eigenvalues λ = σ² of X = WᵀW of every slice, ascending, read-only, not divided by N.
    N, M : int
        Larger and smaller dimension of a slice.
    rf : int
        Number of slices.
    sv_max : float
        Largest singular value.
    sv_min : float
        Over the slices, the largest of the smallest singular values.
    rank_loss : int
        Σ over slices of #{σ <= max σ · N · eps}.
    n_dead_rows, n_dead_columns : int
        Rows and columns, in stored orientation, that are zero in every slice.
    method : {"gram", "svd"}
        How the eigenvalues were obtained.
    slice_evals : ndarray of float64, shape (rf, M), optional
        The eigenvalues slice by slice, each ascending, read-only; None where there is one slice.
    """

    evals: NDArray[np.float64] = field(repr=False)
    N: int
    M: int
    rf: int
    sv_max: float
    sv_min: float
    rank_loss: int
    n_dead_rows: int
    n_dead_columns: int
    method: Literal["gram", "svd"]
    slice_evals: NDArray[np.float64] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.evals.flags.writeable = False
        if self.slice_evals is not None:
            self.slice_evals.flags.writeable = False

    def __reduce__(self) -> tuple[Any, ...]:
        # By way of the constructor, so that the eigenvalues are read-only in another process, too.
        values = {name: getattr(self, name) for name in self.__slots__}
        return partial(Spectrum, **values), ()

    @property
    def per_slice(self) -> NDArray[np.float64]:
        """Eigenvalues slice by slice, shape (rf, M), each ascending."""
        return self.evals.reshape(1, -1) if self.slice_evals is None else self.slice_evals


@dataclass(frozen=True, slots=True, kw_only=True)
class SpectrumFailure:
    """Why a matrix has no spectrum.

    Attributes
    ----------
    kind : {"non_finite", "all_zero", "overflow", "underflow", "no_convergence", "singular"}
        NaN or infinite values, nothing but zeros, finite values whose squares exceed float64 or vanish in it,
        LAPACK gave up, or the inverse of a singular matrix was asked for.
    detail : str
        One sentence with counts and the first place.
    """

    kind: Literal["non_finite", "all_zero", "overflow", "underflow", "no_convergence", "singular"]
    detail: str


def compute_spectrum(
    matrix: WeightMatrix, *, resolve_small: bool = False, by_svd: bool = False
) -> Spectrum | SpectrumFailure:
    """Compute the eigenvalues of X = WᵀW, pooled over slices.

    Parameters
    ----------
    matrix : WeightMatrix
        Values in any float type; they are not written to.
    resolve_small : bool
        Hold GRAM_FLOOR at any size, for whoever needs the smallest eigenvalues (1/λ).
    by_svd : bool
        Take a full singular value decomposition in float64 whatever the Gram matrix could resolve.

    Returns
    -------
    Spectrum or SpectrumFailure
        A failure where the values are not finite, all zero, or so extreme that their squares leave the range of
        float64: such a matrix has no meaningful spectrum.

    Notes
    -----
    Deterministic for one BLAS thread: same values, same bits (see :mod:`spectral.execution`).
    """
    spec = matrix.spec
    with np.errstate(over="ignore", invalid="ignore"):
        grams, row_energy, column_energy = _grams(matrix.slices)
        energy = float(column_energy.sum())
    if not np.isfinite(energy):
        return _explain_non_finite(matrix)
    if energy == 0.0 and not np.any(matrix.slices):
        return SpectrumFailure(kind="all_zero", detail=f"all {matrix.slices.size} values are zero")
    try:
        singular, method = _slice_singular_values(grams, matrix.slices, resolve_small=resolve_small, by_svd=by_svd)
    except np.linalg.LinAlgError as error:
        return SpectrumFailure(kind="no_convergence", detail=f"LAPACK found no spectrum: {error}")
    singular *= spec.scale
    tolerance = singular[:, -1:] * (spec.N * _EPS)
    squared = singular * singular
    pooled = np.sort(squared.ravel())
    if pooled[-1] < np.finfo(np.float64).tiny:
        return SpectrumFailure(kind="underflow", detail="the squares of the values vanish in the range of float64")
    return Spectrum(
        evals=pooled,
        N=spec.N,
        M=spec.M,
        rf=spec.n_slices,
        sv_max=float(singular[:, -1].max()),
        sv_min=float(singular[:, 0].max()),
        rank_loss=int(np.count_nonzero(singular <= tolerance)),
        n_dead_rows=int(np.count_nonzero(row_energy == 0.0)),
        n_dead_columns=int(np.count_nonzero(column_energy == 0.0)),
        method=method,
        slice_evals=squared if len(squared) > 1 else None,
    )


def _slice_singular_values(
    grams: NDArray[np.float64], slices: NDArray[Any], *, resolve_small: bool, by_svd: bool
) -> tuple[NDArray[np.float64], Literal["gram", "svd"]]:
    """Return the singular values of each slice, ascending, from the Gram matrices where these resolve them."""
    if by_svd:
        return np.stack([_singular_values(block) for block in slices]), "svd"
    evals = np.stack([symmetric_eigenvalues(gram, overwrite=True) for gram in grams])
    n_evals = evals.shape[1]
    floor = GRAM_FLOOR if resolve_small or n_evals <= MAX_EXACT_M else NOISE_FLOOR * n_evals * _EPS
    if bool(np.all(evals[:, 0] > floor * evals[:, -1])):
        return np.sqrt(evals), "gram"
    return np.stack([_singular_values(block) for block in slices]), "svd"


def _grams(
    slices: NDArray[Any],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the Gram matrix of each slice on its smaller side (upper triangle), and Σ W² by stored row and column."""
    n_slices, rows, columns = slices.shape
    small = min(rows, columns)
    grams = np.zeros((n_slices, small, small))
    energies = np.zeros(max(rows, columns))
    for index in range(n_slices):
        _add_slice(grams[index], energies, slices[index])
    small_energies = np.einsum("kii->i", grams)
    if rows >= columns:
        return grams, energies, small_energies
    return grams, small_energies, energies


def _add_slice(gram: NDArray[np.float64], energies: NDArray[np.float64], matrix: NDArray[Any]) -> None:
    """Add one slice to its Gram matrix, and the energy of its long side's rows to the others."""
    blocks = _row_blocks(matrix)
    cost = float(max(matrix.shape)) * min(matrix.shape) ** 2
    if cost < LANES_FROM:
        _add_blocks(gram, energies, matrix, blocks)
        return
    grams = [gram, *(np.zeros_like(gram) for _ in range(1, N_LANES))]
    with Lanes(cost) as lanes:
        lanes.run(lambda lane: _add_blocks(grams[lane], energies, matrix, blocks[lane::N_LANES]))
    for other in grams[1:]:
        gram += other


def _add_blocks(
    gram: NDArray[np.float64], energies: NDArray[np.float64], matrix: NDArray[Any], blocks: list[slice]
) -> None:
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    for rows in blocks:
        with np.errstate(over="ignore", invalid="ignore"):
            block = tall[rows].astype(np.float64, order="C")
            add_gram(gram, block)
            energies[rows] += np.einsum("ij,ij->i", block, block)


def _row_blocks(matrix: NDArray[Any]) -> list[slice]:
    """Return blocks of whole rows of the matrix, turned so that it is tall."""
    n_rows, n_columns = max(matrix.shape), min(matrix.shape)
    # A large Gram matrix is better added up from few products: half a square at a time takes half of its memory.
    step = max(1, BLOCK_VALUES // n_columns, n_columns // 2)
    return [slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step)]


def _tall_blocks(matrix: NDArray[Any]) -> Iterator[NDArray[np.float64]]:
    """Yield the matrix, turned so that it is tall, as float64 blocks of whole rows."""
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    for rows in _row_blocks(matrix):
        yield tall[rows].astype(np.float64, order="C")


def _singular_values(matrix: NDArray[Any]) -> NDArray[np.float64]:
    """Return the singular values, ascending, at full relative accuracy to the largest one.

    A tall matrix is first reduced to its triangular factor block by block (TSQR: Demmel, Grigori, Hoemmen
    and Langou, SIAM J. Sci. Comput. 34, 2012, section 3), which has the same singular values.
    """
    n_rows, n_columns = max(matrix.shape), min(matrix.shape)
    if n_rows * n_columns <= BLOCK_VALUES:
        reduced = matrix.astype(np.float64)
    else:
        reduced = np.empty((0, n_columns))
        for block in _tall_blocks(matrix):
            reduced = np.asarray(np.linalg.qr(np.vstack([reduced, block]), mode="r"))
    return np.sort(np.linalg.svd(reduced, compute_uv=False))


def _explain_non_finite(matrix: WeightMatrix) -> SpectrumFailure:
    """Count the values that are not finite and find the first one, slice by slice."""
    n_bad = 0
    first: tuple[int, int, int] | None = None
    for index, block in enumerate(matrix.slices):
        with np.errstate(invalid="ignore"):  # bfloat16 complains of a signalling NaN
            bad = ~np.isfinite(block)
        n_bad += int(np.count_nonzero(bad))
        if first is None and bad.any():
            row, column = np.unravel_index(int(np.argmax(bad)), bad.shape)
            first = (index + (matrix.spec.slice_id or 0), int(row), int(column))
    if first is None:
        return SpectrumFailure(kind="overflow", detail="the squares of the values exceed the range of float64")
    place = name_place(matrix.spec, slice_id=first[0], row=first[1], column=first[2])
    return SpectrumFailure(
        kind="non_finite", detail=f"{n_bad} of {matrix.slices.size} values are {NOT_FINITE}, the first at {place}"
    )
