"""Eigenvalues of symmetric matrices by LAPACK, called so that other threads can run meanwhile.

``numpy.linalg.eigvalsh`` keeps Python's global lock for matrices up to 500 x 500 (measured on numpy 2.4: the
lock is released by the length of the result), so that threads over the layers of a small transformer gain
nothing. The same two LAPACK routines called through ctypes give the same bits and leave the lock: 64 matrices
of 384 x 384 took 4.5 ms each on two threads with numpy and 2.2 ms here. Large matrices take another way to the
tridiagonal form, see :mod:`spectral.two_stage`.
"""

from __future__ import annotations

from ctypes import byref, c_char, c_int
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from spectral.native import LAPACK, published_routines, scipy_extension
from spectral.two_stage import TWO_STAGES_FROM, reduce_in_two_stages

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spectral.native import Routine

_BLOCK = 64
"""Workspace per row for dsytrd; at least its optimal block size (32 in LAPACK and OpenBLAS)."""

_SIGNATURES = {
    "dsytrd": "void (char *, int *, d *, int *, d *, d *, d *, d *, int *, int *)",
    "dsterf": "void (int *, d *, d *, int *)",
}
"""What scipy.linalg.cython_lapack must offer; ``d`` is its name for a double."""


def symmetric_eigenvalues(matrix: NDArray[np.float64], *, overwrite: bool = False) -> NDArray[np.float64]:
    """Return the eigenvalues of a symmetric matrix, ascending.

    Householder reduction to tridiagonal form and the square-root-free QL iteration (dsytrd, dsterf), as
    ``numpy.linalg.eigvalsh`` does; from :data:`spectral.two_stage.TWO_STAGES_FROM` on, the reduction goes by way of a
    band matrix.

    Parameters
    ----------
    matrix : ndarray of float64, shape (n, n)
        Symmetric and finite; only the upper triangle (row <= column) is read. Not written to, unless ``overwrite``.
    overwrite : bool
        Let LAPACK work in the matrix itself, which is then of no further use.

    Raises
    ------
    numpy.linalg.LinAlgError
        The iteration did not converge.
    """
    routines = _load_routines()
    n = len(matrix)
    if routines is None or n == 0:
        return np.asarray(np.linalg.eigvalsh(matrix, UPLO="U"), dtype=np.float64)
    reduce_to_tridiagonal, iterate = routines
    work = matrix if overwrite and matrix.flags.c_contiguous else np.array(matrix, dtype=np.float64, order="C")
    tridiagonal = reduce_in_two_stages(work) if n >= TWO_STAGES_FROM else None
    diagonal, off_diagonal = _reduce(reduce_to_tridiagonal, work) if tridiagonal is None else tridiagonal
    info = c_int(0)
    iterate(byref(c_int(n)), diagonal.ctypes.data, off_diagonal.ctypes.data, byref(info))
    _check(info.value, n)
    return diagonal


def _reduce(routine: Routine, work: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the diagonal and off-diagonal of the tridiagonal form; the matrix is overwritten."""
    n = len(work)
    diagonal, off_diagonal, reflectors = np.empty(n), np.empty(n), np.empty(n)
    workspace = np.empty(n * _BLOCK)
    size, n_workspace, info = c_int(n), c_int(len(workspace)), c_int(0)
    routine(
        byref(c_char(b"L")),
        byref(size),
        work.ctypes.data,
        byref(size),
        diagonal.ctypes.data,
        off_diagonal.ctypes.data,
        reflectors.ctypes.data,
        workspace.ctypes.data,
        byref(n_workspace),
        byref(info),
    )
    _check(info.value, n)
    return diagonal, off_diagonal


def _check(info: int, n: int) -> None:
    if info != 0:
        raise np.linalg.LinAlgError(f"eigenvalues of a {n} x {n} matrix did not converge (LAPACK info {info})")


@cache
def _load_routines() -> tuple[Routine, Routine] | None:
    """Return dsytrd and dsterf of SciPy's LAPACK, or None where they are not offered as expected."""
    found = published_routines(scipy_extension(LAPACK), _SIGNATURES)
    return None if found is None else (found[0], found[1])
