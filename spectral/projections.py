"""A few random projections of a weight matrix: they say how far the weights of two copies lie apart.

A spectrum does not know one orthogonal matrix from another: two layers of like spectra that changed places, or weights
drawn anew with the old singular values, look unchanged. Bilinear forms p_i = u_iᵀ W v_i with random signs in u_i and
v_i do see the weights, and a difference of two matrices shows as a difference of their forms: E[(Δp_i)²] = ‖ΔW‖_F²
(Hutchinson, Commun. Stat. Simul. 19, 1990, applied on both sides: the signs are independent and of mean zero). So a
text file of a few numbers per matrix replaces the checkpoint where the question is whether the weights are the same.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from spectral.spectrum import BLOCK_VALUES

if TYPE_CHECKING:
    from numpy.typing import NDArray

N_PROJECTIONS = 24
"""Forms per matrix. The estimate of ‖ΔW‖ has a relative standard error of about 1/√(2·24) = 14%."""

RELATIVE_ERROR = 1.0 / math.sqrt(2.0 * N_PROJECTIONS)
"""Standard error of an estimated change, as a share of it, where ΔW has no dominant direction."""

_LEFT, _RIGHT = 1, 2


def project(slices: NDArray[Any], scale: float = 1.0, *, n_forms: int = N_PROJECTIONS) -> NDArray[np.float64]:
    """Return random bilinear forms of a layer, its slices side by side.

    Parameters
    ----------
    slices : ndarray of any real type, shape (n, rows, columns)
        Finite; not written to.
    scale : float
        Factor on every value (``w_norm``).
    n_forms : int
        How many.

    Returns
    -------
    ndarray of float64, shape (n_forms,)
        The signs depend on the size of the matrix alone, so layers of one shape can be compared whatever their names.
    """
    n_slices, n_rows, n_columns = slices.shape
    left, right = _signs(n_rows, _LEFT, n_forms), _signs(n_slices * n_columns, _RIGHT, n_forms)
    totals = np.zeros(n_forms)
    height = max(1, BLOCK_VALUES // n_columns)
    for index, block in enumerate(slices):
        signs = right[:, index * n_columns : (index + 1) * n_columns]
        for start in range(0, n_rows, height):
            rows = block[start : start + height].astype(np.float64)
            totals += np.einsum("kj,kj->k", left[:, start : start + height] @ rows, signs)
    return totals * scale


def relative_change(
    projections: NDArray[np.float64], reference: NDArray[np.float64], *, reference_norm: float
) -> float:
    """Estimate ‖W - W'‖_F / ‖W'‖_F from the projections of both.

    Parameters
    ----------
    projections, reference : ndarray of float64, shape (N_PROJECTIONS,)
        Of the new and of the reference matrix, of one shape.
    reference_norm : float
        Σλ = ‖W'‖_F² of the reference, > 0.

    Returns
    -------
    float
        0 for equal matrices; exact where a single element differs; otherwise within about
        :data:`RELATIVE_ERROR` of the truth, one standard error.

    Raises
    ------
    ValueError
        The numbers of projections differ.
    """
    if projections.shape != reference.shape or not len(projections):
        raise ValueError(f"expected as many projections, got {projections.shape} and {reference.shape}")
    return float(math.sqrt(np.mean((projections - reference) ** 2) / reference_norm))


def _signs(length: int, side: int, n_forms: int) -> NDArray[np.float64]:
    """Return rows of random signs; raw bits of the generator, whose stream numpy promises never to change."""
    generator = np.random.PCG64(np.random.SeedSequence([0x7072_6F6A, side, length]))
    words = generator.random_raw(n_forms * math.ceil(length / 64))
    bits = np.unpackbits(words.astype("<u8").view(np.uint8)).reshape(n_forms, -1)[:, :length]
    return bits.astype(np.float64) * 2.0 - 1.0
