"""Tridiagonal form of a large symmetric matrix in two stages: first a band, then the band's reduction.

LAPACK's dsytrd multiplies the whole matrix with one vector at a time, half of its work, and waits for memory. Here
panels of BAND columns are annihilated at once, so that all large products are products of matrices (C. H. Bischof,
B. Lang and X. Sun, ACM Trans. Math. Softw. 26, 2000, 581, section 2; A. Haidar, H. Ltaief and J. Dongarra, SC 2011).
The band is then reduced by LAPACK's bulge chasing (dsytrd_sb2st), whose work grows with n²·BAND only. Without
eigenvectors nothing has to be transformed back. 4096 x 4096: 7.1 s with dsytrd, 3.7 s here, 2.6 s on two cores.

The update of one panel and the product with the next are done stripe by stripe, while a stripe is in the cache.
Stripes are dealt to the lanes of :mod:`spectral.lanes`, so that the bits do not depend on how many cores there are.
"""

from __future__ import annotations

import ctypes
from ctypes import byref, c_char, c_int, c_int64, c_size_t
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from spectral.blas import add_product
from spectral.lanes import N_LANES, Lanes
from spectral.native import LAPACK, loaded_symbol, published_routines, scipy_extension

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spectral.native import Routine

    Tridiagonal = tuple[NDArray[np.float64], NDArray[np.float64]]

TWO_STAGES_FROM = 1920
"""Smallest size for which two stages are faster: a larger matrix leaves a cache of 32 MiB. Measured: they take
1.2 times as long as one at 1792 on one core, as long at 1920 with two lanes, 0.8 times at 2048, half at 4096."""

BAND = 48
"""Columns of a panel, which is the half-width of the band. From 32 to 64 the sum of both stages hardly differs."""

STRIPE = 4 * BAND
"""Columns of a stripe."""

_SIGNATURES = {
    "dgeqrf": "void (int *, int *, d *, int *, d *, d *, int *, int *)",
    "dlarft": "void (char *, char *, int *, int *, d *, int *, d *, d *, int *)",
}
"""What scipy.linalg.cython_lapack must offer; ``d`` is its name for a double."""

_BLOCK = 64
"""Workspace per column for dgeqrf; at least its optimal block size."""


def reduce_in_two_stages(matrix: NDArray[np.float64]) -> Tridiagonal | None:
    """Return the tridiagonal form of a symmetric matrix, or None where LAPACK lacks a routine for it.

    Parameters
    ----------
    matrix : ndarray of float64, shape (n, n)
        C-ordered, finite; only the upper triangle (row <= column) is read. It is overwritten.

    Returns
    -------
    diagonal, off_diagonal : ndarray of float64, shape (n,)
        The last value of ``off_diagonal`` is of no meaning. None where a routine is missing, and then the matrix is
        as it was.
    """
    if _load_panel_routines() is None or _load_bulge_chasing() is None:
        return None
    # What is C-ordered here is its transpose to Fortran, and the upper triangle the lower one.
    columns = matrix.T
    _BandReduction(columns).run()
    return _chase_bulges(_band_of(columns))


class _BandReduction:
    """Reduces a symmetric matrix, given by its lower triangle in Fortran order, to a band in place.

    With a panel's reflectors Q = I - V·T·Vᵀ the rest of the matrix becomes QᵀAQ = A - V·Wᵀ - W·Vᵀ, where X = A·V·T and
    W = X - V·(Tᵀ·VᵀX)/2.
    """

    def __init__(self, columns: NDArray[np.float64]) -> None:
        n = len(columns)
        self._columns = columns
        self._reflectors = np.zeros((n, BAND), order="F")
        self._pending = np.zeros((n, 2 * BAND), order="F")  # V beside W, and W beside V: one product for both updates
        self._turned = np.zeros((n, 2 * BAND), order="F")
        self._images = [np.zeros((n, BAND), order="F") for _ in range(N_LANES)]
        self._n_pending = 0

    def run(self) -> None:
        n = len(self._columns)
        self._mirror_diagonal_blocks()
        with Lanes(4.0 / 3.0 * n**3) as lanes:
            for start in range(0, n, BAND):
                self._update(slice(start, n), slice(start, min(start + BAND, n)))
                below = start + BAND
                if n - below < 2:  # one row is inside the band as it is
                    self._update(slice(below, n), slice(below, n))
                    return
                n_reflectors, triangle = self._annihilate(start)
                lanes.run(lambda lane, below=below, count=n_reflectors: self._sweep(lane, below, count))  # type: ignore[misc]
                self._prepare_update(below, n_reflectors, triangle)

    def _mirror_diagonal_blocks(self) -> None:
        """Complete the blocks on the diagonal, so that a stripe is a full block from its first row down."""
        for start in range(0, len(self._columns), STRIPE):
            block = self._columns[start : start + STRIPE, start : start + STRIPE]
            block[:] = np.tril(block) + np.tril(block, -1).T

    def _annihilate(self, start: int) -> tuple[int, NDArray[np.float64]]:
        """Take the QR factorisation of the panel below the band; return the number of reflectors and T."""
        below = start + BAND
        panel = self._columns[below:, start:below]
        count = min(panel.shape)
        reflectors = self._reflectors[below:, :count]
        triangle = _factorise(panel, reflectors)
        return count, triangle

    def _sweep(self, lane: int, first: int, n_reflectors: int) -> None:
        """Update this lane's stripes of what lies from ``first`` on, and add up their products with V."""
        n = len(self._columns)
        image = self._images[lane][:, :n_reflectors]
        image[first:] = 0.0
        reflectors = self._reflectors[:, :n_reflectors]
        for index in range(first // STRIPE, -(-n // STRIPE)):
            if index % N_LANES != lane:
                continue
            start, end = max(first, index * STRIPE), min(n, (index + 1) * STRIPE)
            self._update(slice(start, n), slice(start, end))
            add_product(image[start:], self._columns[start:, start:end], reflectors[start:end])
            add_product(image[start:end], self._columns[end:, start:end].T, reflectors[end:])

    def _update(self, rows: slice, columns: slice) -> None:
        """Apply the update that the last panel left, to one block."""
        count = 2 * self._n_pending
        block = self._columns[rows, columns]
        add_product(block, self._pending[rows, :count], self._turned[columns, :count].T, factor=-1.0)

    def _prepare_update(self, first: int, count: int, triangle: NDArray[np.float64]) -> None:
        reflectors = self._reflectors[first:, :count]
        products = sum((image[first:, :count] for image in self._images[1:]), self._images[0][first:, :count])
        images = products @ triangle
        update = images - reflectors @ (0.5 * (triangle.T @ (reflectors.T @ images)))
        self._pending[first:, :count] = self._turned[first:, count : 2 * count] = reflectors
        self._pending[first:, count : 2 * count] = self._turned[first:, :count] = update
        self._n_pending = count


def _factorise(panel: NDArray[np.float64], reflectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Leave R in the upper triangle of a panel, write V to ``reflectors`` and return T, so that Q = I - V·T·Vᵀ."""
    routines = _load_panel_routines()
    assert routines is not None, "reduce_in_two_stages looked for them"
    factorise, form_triangle = routines
    (n_rows, n_columns), count = panel.shape, reflectors.shape[1]
    rows, step, info = c_int(n_rows), c_int(panel.strides[1] // panel.itemsize), c_int(0)
    scales, workspace = np.empty(count), np.empty(n_columns * _BLOCK)
    factorise(
        byref(rows),
        byref(c_int(n_columns)),
        panel.ctypes.data,
        byref(step),
        scales.ctypes.data,
        workspace.ctypes.data,
        byref(c_int(len(workspace))),
        byref(info),
    )
    assert info.value == 0, "dgeqrf fails for wrong arguments only"
    reflectors[:] = panel[:, :count]
    head = reflectors[:count]
    head[:] = np.tril(head, -1) + np.eye(count)
    triangle = np.zeros((count, count), order="F")
    form_triangle(
        byref(c_char(b"F")),
        byref(c_char(b"C")),
        byref(rows),
        byref(c_int(count)),
        reflectors.ctypes.data,
        byref(c_int(reflectors.strides[1] // reflectors.itemsize)),
        scales.ctypes.data,
        triangle.ctypes.data,
        byref(c_int(count)),
    )
    return np.triu(triangle)


def _band_of(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the band in LAPACK's storage: row d holds the d-th diagonal below the main one."""
    n = len(columns)
    band = np.zeros((BAND + 1, n), order="F")
    for below in range(min(BAND + 1, n)):
        band[below, : n - below] = columns.diagonal(-below)
    return band


def _chase_bulges(band: NDArray[np.float64]) -> Tridiagonal:
    """Return the tridiagonal form of a band matrix, which is overwritten."""
    chase = _load_bulge_chasing()
    assert chase is not None, "reduce_in_two_stages looked for it"
    n = band.shape[1]
    diagonal, off_diagonal = np.empty(n), np.empty(n)

    def call(reflectors: NDArray[np.float64], n_reflectors: int, work: NDArray[np.float64], n_work: int) -> None:
        info = c_int64(0)
        chase(
            byref(c_char(b"Y")),
            byref(c_char(b"N")),
            byref(c_char(b"L")),
            byref(c_int64(n)),
            byref(c_int64(BAND)),
            _address(band),
            byref(c_int64(BAND + 1)),
            _address(diagonal),
            _address(off_diagonal),
            _address(reflectors),
            byref(c_int64(n_reflectors)),
            _address(work),
            byref(c_int64(n_work)),
            byref(info),
            *[c_size_t(1)] * 3,  # the lengths of the three words, as Fortran passes them
        )
        assert c_int(info.value).value == 0, "dsytrd_sb2st fails for wrong arguments only"

    sizes = np.empty(1), np.empty(1)
    call(sizes[0], -1, sizes[1], -1)
    n_reflectors, n_work = (int(size[0]) for size in sizes)
    call(np.empty(n_reflectors), n_reflectors, np.empty(n_work), n_work)
    return diagonal, off_diagonal


def _address(values: NDArray[np.float64]) -> ctypes.c_void_p:
    return ctypes.c_void_p(values.ctypes.data)


@cache
def _load_panel_routines() -> tuple[Routine, Routine] | None:
    """Return dgeqrf and dlarft of SciPy's LAPACK, or None where they are not offered as expected."""
    found = published_routines(scipy_extension(LAPACK), _SIGNATURES)
    return None if found is None else (found[0], found[1])


@cache
def _load_bulge_chasing() -> Any:
    """Return dsytrd_sb2st, or None where no library of this process has it."""
    symbol = loaded_symbol("dsytrd_sb2st")
    if symbol is not None:
        symbol.restype = None
    return symbol
