"""Products of matrices by BLAS, added up in place, called so that other threads can run meanwhile.

Only one triangle of a Gram matrix is computed; ``W.T @ W`` fills the other one, too, and needs a sum for each block.
"""

from __future__ import annotations

import ctypes
from ctypes import byref, c_char, c_double, c_int
from functools import cache
from typing import TYPE_CHECKING

from spectral.native import BLAS, published_routines, scipy_extension

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spectral.native import Routine

_SYRK = {"dsyrk": "void (char *, char *, int *, int *, d *, d *, int *, d *, d *, int *)"}
_GEMM = {"dgemm": "void (char *, char *, int *, int *, int *, d *, d *, int *, d *, int *, d *, d *, int *)"}
_ITEM = ctypes.sizeof(c_double)


def add_gram(gram: NDArray[np.float64], block: NDArray[np.float64]) -> None:
    """Add blockᵀ·block to a Gram matrix, in its upper triangle (row <= column) only.

    Parameters
    ----------
    gram : ndarray of float64, shape (m, m)
        C-ordered; changed in place. What stands below its diagonal is of no meaning.
    block : ndarray of float64, shape (n, m)
        C-ordered.
    """
    routine = _load_syrk()
    n_rows, size = block.shape
    if routine is None:
        gram += block.T @ block
        return
    if not (gram.flags.c_contiguous and block.flags.c_contiguous):
        raise ValueError("gram and block must be C-ordered")
    # What is C-ordered here is its transpose to Fortran: block is m x n there, and the lower triangle the upper one.
    one, m, n = c_double(1.0), c_int(size), c_int(n_rows)
    routine(
        byref(c_char(b"L")),
        byref(c_char(b"N")),
        byref(m),
        byref(n),
        byref(one),
        block.ctypes.data,
        byref(m),
        byref(one),
        gram.ctypes.data,
        byref(m),
    )


def add_product(
    target: NDArray[np.float64], left: NDArray[np.float64], right: NDArray[np.float64], *, factor: float = 1.0
) -> None:
    """Add factor·left·right to a matrix, in place.

    Parameters
    ----------
    target : ndarray of float64, shape (m, n)
        A block of an F-ordered matrix: contiguous along its columns.
    left, right : ndarray of float64, shapes (m, k) and (k, n)
        Blocks of F-ordered matrices, or transposes of such. They do not overlap ``target``.
    factor : float
        What the product is multiplied by.
    """
    routine = _load_gemm()
    if routine is None:
        target += factor * (left @ right)
        return
    if target.size == 0 or left.shape[1] == 0:
        return
    left_turn, left_step = _orientation(left)
    right_turn, right_step = _orientation(right)
    target_turn, target_step = _orientation(target)
    if target_turn != b"N":
        raise ValueError("target must be contiguous along its columns")
    routine(
        byref(c_char(left_turn)),
        byref(c_char(right_turn)),
        byref(c_int(target.shape[0])),
        byref(c_int(target.shape[1])),
        byref(c_int(left.shape[1])),
        byref(c_double(factor)),
        left.ctypes.data,
        byref(c_int(left_step)),
        right.ctypes.data,
        byref(c_int(right_step)),
        byref(c_double(1.0)),
        target.ctypes.data,
        byref(c_int(target_step)),
    )


def _orientation(block: NDArray[np.float64]) -> tuple[bytes, int]:
    """Return how BLAS is to read a block: as it is ("N") or transposed ("T"), and the step between its columns."""
    (rows, columns), (down, across) = block.shape, block.strides
    if down == _ITEM or rows == 1:
        return b"N", max(across // _ITEM if columns > 1 else rows, rows, 1)
    if across == _ITEM or columns == 1:
        return b"T", max(down // _ITEM, columns, 1)
    raise ValueError(f"a block must be contiguous along one axis, got strides {block.strides}")


@cache
def _load_syrk() -> Routine | None:
    """Return dsyrk of SciPy's BLAS, or None where it is not offered as expected."""
    found = published_routines(scipy_extension(BLAS), _SYRK)
    return None if found is None else found[0]


@cache
def _load_gemm() -> Routine | None:
    """Return dgemm of SciPy's BLAS, or None where it is not offered as expected."""
    found = published_routines(scipy_extension(BLAS), _GEMM)
    return None if found is None else found[0]
