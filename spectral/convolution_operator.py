"""The singular values of a 2-D convolution as a linear operator on images.

A convolution with circular boundaries on an n1 x n2 image is block-circulant, so that the 2-D Fourier transform over
the positions takes it apart: its singular values are those of the out x in matrices
``P(u, v) = Σ_ab W[:, :, a, b] exp(-2πi(ua/n1 + vb/n2))``, one for each frequency (Sedghi, Gupta and Long, ICLR 2019,
arXiv 1805.10408, theorem 6).

For real weights P(-u, -v) is the conjugate of P(u, v) and has the same singular values, so that half of the frequencies
suffice; along an axis where the kernel has one value, one frequency does: the spectrum of a 1 x 1 kernel on a 32 x 32
image is that of one matrix, 1024 times over. Copies by construction are part of the spectrum, and of its norms and
ranks, but no evidence of a law: a tail is fitted to each value once (:func:`without_copies`).

The matrices are made a batch at a time: all of them would take n1·n2/rf times the memory of the weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spectral.spectrum import BLOCK_VALUES, GRAM_FLOOR, Spectrum, SpectrumFailure, compute_spectrum

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spectral.weights import MatrixSpec, WeightMatrix

GRID = 32
"""Side of the image, as in the incumbent. A kernel that is longer takes an image of its own length."""

_EPS = float(np.finfo(np.float64).eps)


def conv2d_operator_spectrum(matrix: WeightMatrix, *, grid: int = GRID) -> Spectrum | SpectrumFailure:
    """Compute the eigenvalues λ = σ² of a 2-D convolution on a grid x grid image with circular boundaries.

    Parameters
    ----------
    matrix : WeightMatrix
        All slices of a 2-D convolution, pooled.
    grid : int
        Side of the image, at least 1.

    Returns
    -------
    Spectrum or SpectrumFailure
        M eigenvalues at each of the n1·n2 frequencies, pooled, times the square of the spec's scale; ``rf`` counts the
        frequencies, and ``rank_loss`` the σ <= max σ·N·n1·n2·eps of the whole operator. Since every frequency but
        the real ones comes with its conjugate, nearly all eigenvalues are double. Failures are those of
        :func:`~spectral.spectrum.compute_spectrum`.

    Raises
    ------
    ValueError
        The matrix is not a whole 2-D convolution, or the grid has no points.
    """
    spec = matrix.spec
    if grid < 1:
        raise ValueError(f"{spec.name}: the grid must have at least 1 point a side, got {grid}")
    kernel = _kernel_of(spec)
    if kernel[0] * kernel[1] != len(matrix.slices):
        raise ValueError(f"{spec.name}: expected all slices of a 2-D convolution, got {matrix.slices.shape}")
    if not np.all(np.isfinite(matrix.slices)) or not np.any(matrix.slices):
        return compute_spectrum(matrix)
    shape = (max(grid, kernel[0]), max(grid, kernel[1]))
    frequencies, counts = _frequencies(kernel, shape)
    try:
        singular = _singular_values(matrix.slices, _phases(kernel, shape, frequencies))
    except np.linalg.LinAlgError as error:
        return SpectrumFailure(kind="no_convergence", detail=f"LAPACK found no spectrum: {error}")
    except OverflowError as error:
        return SpectrumFailure(kind="overflow", detail=str(error))
    return _pooled(matrix, singular * spec.scale, counts)


def without_copies(evals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each eigenvalue of an operator once: the spectra of frequencies that are not conjugate to each other.

    Copies of a frequency's spectrum are equal to the last bit, as they are computed once.

    Parameters
    ----------
    evals : ndarray of float64, shape (n,)
        As :func:`conv2d_operator_spectrum` gives them. Not written to.

    Returns
    -------
    ndarray of float64, shape (m,), m <= n
        Ascending.
    """
    return np.unique(evals)


def _kernel_of(spec: MatrixSpec) -> tuple[int, int]:
    """Return the lengths of the two axes that the slices run over."""
    if len(spec.shape) != 4:
        raise ValueError(f"{spec.name}: expected a 2-D convolution, got the shape {spec.shape}")
    first, second = spec.shape[:2] if spec.kernel_first else spec.shape[2:]
    return first, second


def _pooled(
    matrix: WeightMatrix, singular: NDArray[np.float64], counts: NDArray[np.int64]
) -> Spectrum | SpectrumFailure:
    spec = matrix.spec
    evals = np.sort(np.repeat(singular * singular, counts, axis=0).ravel())
    if evals[-1] < np.finfo(np.float64).tiny:
        return SpectrumFailure(kind="underflow", detail="the squares of the values vanish in the range of float64")
    # All frequencies are one matrix of N·n1·n2 rows: a frequency that the kernel does not see counts as lost.
    is_zero = singular <= singular.max() * (spec.N * int(counts.sum()) * _EPS)
    used = matrix.slices != 0
    return Spectrum(
        evals=evals,
        N=spec.N,
        M=spec.M,
        rf=int(counts.sum()),
        sv_max=float(singular[:, -1].max()),
        sv_min=float(singular[:, 0].max()),
        rank_loss=int(is_zero.sum(axis=1) @ counts),
        n_dead_rows=int(np.count_nonzero(~used.any(axis=(0, 2)))),
        n_dead_columns=int(np.count_nonzero(~used.any(axis=(0, 1)))),
        method="gram" if np.all(singular[:, 0] ** 2 > GRAM_FLOOR * singular[:, -1] ** 2) else "svd",
    )


def _frequencies(kernel: tuple[int, ...], shape: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return one frequency (u, v) of each set with the same singular values, and the sizes of the sets."""
    # A kernel of length 1 has the same transform at every frequency of that axis.
    first, second = (n if length > 1 else 1 for n, length in zip(shape, kernel, strict=True))
    u, v = np.divmod(np.arange(first * second), second)
    mirror = (-u % first) * second + (-v % second)
    place = np.arange(first * second)
    is_kept = place <= mirror
    n_equal = shape[0] * shape[1] // (first * second)
    counts = np.where(place == mirror, 1, 2)[is_kept] * n_equal
    return np.stack([u, v], axis=1)[is_kept], counts


def _phases(kernel: tuple[int, ...], shape: tuple[int, int], frequencies: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the angle 2π(ua/n1 + vb/n2) of each frequency and kernel position (a, b), positions in C order."""
    a, b = np.divmod(np.arange(kernel[0] * kernel[1]), kernel[1])
    # Whole turns are taken off before the division: an exact angle for every frequency.
    along_first = (np.outer(frequencies[:, 0], a) % shape[0]) / shape[0]
    along_second = (np.outer(frequencies[:, 1], b) % shape[1]) / shape[1]
    return np.asarray(2.0 * np.pi * (along_first + along_second), dtype=np.float64)


def _singular_values(slices: NDArray[Any], angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the singular values of P at each frequency, ascending, shape (n_frequencies, M)."""
    n_slices, rows, columns = slices.shape
    flat = slices.astype(np.float64).reshape(n_slices, rows * columns)
    n_batch = max(1, BLOCK_VALUES // (rows * columns))
    singular = np.empty((len(angles), min(rows, columns)))
    for start in range(0, len(angles), n_batch):
        batch = angles[start : start + n_batch]
        transformed = np.empty((len(batch), rows * columns), dtype=np.complex128)
        transformed.real = np.cos(batch) @ flat
        transformed.imag = -np.sin(batch) @ flat
        singular[start : start + n_batch] = complex_singular_values(transformed.reshape(-1, rows, columns))
    return singular


def complex_singular_values(matrices: NDArray[np.complex128]) -> NDArray[np.float64]:
    """Return the singular values of a stack of complex matrices, ascending.

    From the Gram matrices, as for real weights, and from an SVD where a Gram matrix would lose the smallest.

    Parameters
    ----------
    matrices : ndarray of complex128, shape (n, rows, columns)
        Finite. Not written to.

    Returns
    -------
    ndarray of float64, shape (n, min(rows, columns))

    Raises
    ------
    OverflowError
        The squares exceed the range of float64.
    numpy.linalg.LinAlgError
        LAPACK did not converge.
    """
    tall = matrices if matrices.shape[1] >= matrices.shape[2] else matrices.swapaxes(1, 2)
    with np.errstate(over="ignore", invalid="ignore"):
        grams = tall.conj().swapaxes(1, 2) @ tall
    if not np.all(np.isfinite(grams)):
        raise OverflowError("the squares of the values exceed the range of float64")
    evals = np.linalg.eigvalsh(grams)
    singular = np.sqrt(np.maximum(evals, 0.0))
    for index in np.flatnonzero(evals[:, 0] <= GRAM_FLOOR * evals[:, -1]):
        singular[index] = np.linalg.svd(tall[index], compute_uv=False)[::-1]
    return np.asarray(singular, dtype=np.float64)
