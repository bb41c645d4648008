"""Eigenvalues of symmetric matrices by LAPACK, called so that other threads can run meanwhile.

``numpy.linalg.eigvalsh`` keeps Python's global lock for matrices up to 500 x 500 (measured on numpy 2.4: the
lock is released by the length of the result), so that threads over the layers of a small transformer gain
nothing. The same two LAPACK routines called through ctypes give the same bits and leave the lock: 64 matrices
of 384 x 384 took 4.5 ms each on two threads with numpy and 2.2 ms here.
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

_SIGNATURES = {
    "dsytrd": "void (char *, int *, d *, int *, d *, d *, d *, d *, int *, int *)",
    "dsterf": "void (int *, d *, d *, int *)",
}
"""What scipy.linalg.cython_lapack must offer; ``d`` is its name for a double."""


def symmetric_eigenvalues(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the eigenvalues of a symmetric matrix, ascending.

    Householder reduction to tridiagonal form and the square-root-free QL iteration (dsytrd, dsterf), as
    ``numpy.linalg.eigvalsh`` does.

    Parameters
    ----------
    matrix : ndarray of float64, shape (n, n)
        Exactly symmetric and finite: only one triangle is read. Not written to.

    Raises
    ------
    numpy.linalg.LinAlgError
        The iteration did not converge.
    """
    routines = _load_routines()
    n = len(matrix)
    if routines is None or n == 0:
        return np.asarray(np.linalg.eigvalsh(matrix), dtype=np.float64)
    reduce_to_tridiagonal, iterate = routines
    work = np.array(matrix, dtype=np.float64, order="C")
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

    capsules = getattr(cython_lapack, "__pyx_capi__", {})
    found = [_load(capsules[name], signature) for name, signature in _SIGNATURES.items() if name in capsules]
    if len(found) != len(_SIGNATURES) or found[0] is None or found[1] is None:
        return None
    return found[0], found[1]


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
