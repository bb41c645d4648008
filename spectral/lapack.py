"""Gram matrices and their eigenvalues by BLAS and LAPACK, called so that other threads can run meanwhile.

``numpy.linalg.eigvalsh`` keeps Python's global lock for matrices up to 500 x 500 (measured on numpy 2.4: the
lock is released by the length of the result), so that threads over the layers of a small transformer gain
nothing. The same two LAPACK routines called through ctypes give the same bits and leave the lock: 64 matrices
of 384 x 384 took 4.5 ms each on two threads with numpy and 2.2 ms here. Only one triangle of a Gram matrix is
computed and read, and it is added up in place; ``W.T @ W`` fills the other one, too, and needs a sum for each block.
"""

from __future__ import annotations

import ctypes
import re
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_BLOCK = 64
"""Workspace per row for dsytrd; at least its optimal block size (32 in LAPACK and OpenBLAS)."""

_LAPACK_SIGNATURES = {
    "dsytrd": "void (char *, int *, d *, int *, d *, d *, d *, d *, int *, int *)",
    "dsterf": "void (int *, d *, d *, int *)",
}
"""What scipy.linalg.cython_lapack must offer; ``d`` is its name for a double."""

_BLAS_SIGNATURES = {"dsyrk": "void (char *, char *, int *, int *, d *, d *, int *, d *, d *, int *)"}
"""What scipy.linalg.cython_blas must offer."""


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
    one, m, n = ctypes.c_double(1.0), ctypes.c_int(size), ctypes.c_int(n_rows)
    routine(
        ctypes.byref(ctypes.c_char(b"L")),
        ctypes.byref(ctypes.c_char(b"N")),
        ctypes.byref(m),
        ctypes.byref(n),
        ctypes.byref(one),
        block.ctypes.data,
        ctypes.byref(m),
        ctypes.byref(one),
        gram.ctypes.data,
        ctypes.byref(m),
    )


def symmetric_eigenvalues(matrix: NDArray[np.float64], *, overwrite: bool = False) -> NDArray[np.float64]:
    """Return the eigenvalues of a symmetric matrix, ascending.

    Householder reduction to tridiagonal form and the square-root-free QL iteration (dsytrd, dsterf), as
    ``numpy.linalg.eigvalsh`` does.

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
    diagonal, off_diagonal, reflectors = np.empty(n), np.empty(n), np.empty(n)
    workspace = np.empty(n * _BLOCK)
    size, n_workspace, info = ctypes.c_int(n), ctypes.c_int(len(workspace)), ctypes.c_int(0)
    reduce_to_tridiagonal(
        ctypes.byref(ctypes.c_char(b"L")),
        ctypes.byref(size),
        work.ctypes.data,
        ctypes.byref(size),
        diagonal.ctypes.data,
        off_diagonal.ctypes.data,
        reflectors.ctypes.data,
        workspace.ctypes.data,
        ctypes.byref(n_workspace),
        ctypes.byref(info),
    )
    if info.value == 0:
        iterate(ctypes.byref(size), diagonal.ctypes.data, off_diagonal.ctypes.data, ctypes.byref(info))
    if info.value != 0:
        raise np.linalg.LinAlgError(f"eigenvalues of a {n} x {n} matrix did not converge (LAPACK info {info.value})")
    return diagonal


@cache
def _load_routines() -> tuple[Callable[..., None], Callable[..., None]] | None:
    """Return dsytrd and dsterf of SciPy's LAPACK, or None where they are not offered as expected."""
    from scipy.linalg import cython_lapack

    found = _load_all(cython_lapack, _LAPACK_SIGNATURES)
    return None if found is None else (found[0], found[1])


@cache
def _load_syrk() -> Callable[..., None] | None:
    """Return dsyrk of SciPy's BLAS, or None where it is not offered as expected."""
    from scipy.linalg import cython_blas

    found = _load_all(cython_blas, _BLAS_SIGNATURES)
    return None if found is None else found[0]


def _load_all(module: Any, signatures: dict[str, str]) -> list[Callable[..., None]] | None:
    capsules = getattr(module, "__pyx_capi__", {})
    found = [_load(capsules[name], signature) for name, signature in signatures.items() if name in capsules]
    usable = [routine for routine in found if routine is not None]
    return usable if len(usable) == len(signatures) else None


def _load(capsule: Any, signature: str) -> Callable[..., None] | None:
    get_name = ctypes.pythonapi.PyCapsule_GetName
    get_name.restype, get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    name = get_name(capsule)
    # Cython spells the type __pyx_t_5scipy_6linalg_13cython_lapack_d. Wider integers would be another name.
    if name is None or re.sub(r"__pyx_t_\w+_d\b", "d", name.decode()) != signature:
        return None
    n_arguments = signature.count("*")
    # A function of ctypes.CDLL's kind gives up the global lock while it runs.
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * n_arguments)(get_pointer(capsule, name))
