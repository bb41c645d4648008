"""The randomised twin of a matrix: the same elements in other places."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from spectral.forms import compute_formed_spectrum
from spectral.permutation import generator_for, scrambled
from spectral.spectrum import SpectrumFailure

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spectral.forms import FormOptions
    from spectral.weights import WeightMatrix

FEW_EVALS = 100
"""A spectrum of fewer eigenvalues than this is compared with several twins at once (the incumbent's rule)."""

N_REPLICAS_OF_FEW = 5

PURPOSE = 0x7477_696E  # "twin"
"""Keeps these draws apart from all others of the same layer."""


def twin_evals(
    matrix: WeightMatrix, forms: FormOptions, *, seed: int
) -> tuple[NDArray[np.float64], ...] | SpectrumFailure:
    """Return the spectra of as many twins as the size of the matrix calls for.

    Parameters
    ----------
    matrix : WeightMatrix
        In the form that is analysed; finite and not all zero.
    forms : FormOptions
        The form, so that the twins are taken in the same one.
    seed : int
        The run's seed; with the layer's name, the replica and the slice it decides each permutation.

    Returns
    -------
    tuple of ndarray of float64, shape (n_evals,)
        One spectrum per twin, ascending.
    """
    n_replicas = N_REPLICAS_OF_FEW if matrix.spec.n_evals < FEW_EVALS else 1
    spectra = []
    for replica in range(n_replicas):
        spectrum = compute_formed_spectrum(_twin(matrix, seed, replica), forms)
        if isinstance(spectrum, SpectrumFailure):
            return spectrum
        spectra.append(spectrum.evals)
    return tuple(spectra)


def _twin(matrix: WeightMatrix, seed: int, replica: int) -> WeightMatrix:
    first = matrix.spec.slice_id or 0
    slices = np.stack(
        [
            scrambled(block, generator_for(seed, matrix.spec.name, PURPOSE, replica, first + index))
            for index, block in enumerate(matrix.slices)
        ]
    )
    return replace(matrix, slices=slices)
