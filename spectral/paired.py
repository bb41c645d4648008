"""Compare two spectra of one layer: quantities that stay near zero unless the weights really changed.

A full spectrum has M values; a baseline that people review in git cannot. The sketch keeps the largest
singular values one by one and the rest as means of equal blocks. Two sketches of the same size compare
block by block, so equal spectra give exactly zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SKETCH_TOP = 32
"""Largest singular values kept one by one: spikes, traps and the tail of small layers live here."""

SKETCH_BLOCKS = 64
"""Blocks for all the others."""


def sketch_counts(n_values: int) -> NDArray[np.intp]:
    """Return how many singular values stand behind each entry of a sketch, largest values first.

    Parameters
    ----------
    n_values : int
        Length of the spectrum, at least 1.
    """
    n_top = min(n_values, SKETCH_TOP)
    n_rest = n_values - n_top
    n_blocks = min(n_rest, SKETCH_BLOCKS)
    edges = (np.arange(n_blocks + 1) * n_rest) // n_blocks if n_blocks else np.zeros(1, dtype=np.intp)
    return np.concatenate([np.ones(n_top, dtype=np.intp), np.diff(edges).astype(np.intp)])


def sketch_spectrum(evals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Reduce a spectrum to at most SKETCH_TOP + SKETCH_BLOCKS mean singular values, largest first.

    Parameters
    ----------
    evals : ndarray of float64, shape (n,)
        Eigenvalues λ = σ², ascending, n >= 1.
    """
    singular = np.sqrt(evals[::-1])
    counts = sketch_counts(len(singular))
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return np.asarray(np.add.reduceat(singular, starts) / counts, dtype=np.float64)


def spectral_displacement(
    sketch: NDArray[np.float64], reference: NDArray[np.float64], *, n_values: int, reference_norm: float
) -> float:
    """Return √Σ(σ_i - σ'_i)² / √Σσ_i², from two sketches.

    By the Hoffman-Wielandt inequality (Horn and Johnson, Matrix Analysis, 2nd ed., corollary 7.3.5) this is at
    most ‖W - W'‖_F / ‖W‖_F; block means can only lower it further. So rounding of the weights bounds it.

    Parameters
    ----------
    sketch, reference : ndarray of float64, shape (k,)
        Sketches of the new and of the reference spectrum.
    n_values : int
        Length of both spectra.
    reference_norm : float
        Σλ of the reference, > 0.

    Raises
    ------
    ValueError
        The sketches are not of spectra of this length.
    """
    counts = sketch_counts(n_values)
    if not sketch.shape == reference.shape == counts.shape:
        raise ValueError(
            f"sketches of {n_values} values have {len(counts)} entries, got {len(sketch)} and {len(reference)}"
        )
    return float(np.sqrt(np.sum(counts * (sketch - reference) ** 2) / reference_norm))


def relative_displacement(evals: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Return √Σ(σ_i - σ'_i)² / √Σσ'_i² of two whole spectra; at most ‖W - W'‖_F / ‖W'‖_F, as above.

    Parameters
    ----------
    evals, reference : ndarray of float64, shape (n,)
        Eigenvalues λ = σ², ascending, of the new and of the reference spectrum; the reference is not all zero.

    Raises
    ------
    ValueError
        The spectra differ in length, or the reference is all zero.
    """
    if evals.shape != reference.shape or evals.size == 0:
        raise ValueError(f"expected two spectra of one length, got {evals.shape} and {reference.shape}")
    norm = float(np.sum(reference))
    if not norm > 0.0:
        raise ValueError("all eigenvalues of the reference are zero")
    return float(np.linalg.norm(np.sqrt(evals) - np.sqrt(reference)) / np.sqrt(norm))
