"""The calibrated tests, applied to a weight matrix as it is analysed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spectral.fits import FitFailure, FitFailureReason
from spectral.noise import MIN_EIGENVALUES, compare_with_noise
from spectral.permutation import generator_for
from spectral.traps import find_traps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spectral.noise import NoiseTest
    from spectral.spectrum import Spectrum
    from spectral.traps import LayerTraps
    from spectral.weights import MatrixSpec, WeightMatrix

PURPOSE = 0x6E6F_6973  # "nois"
"""Keeps these draws apart from all others of the same layer."""

NOISE_METRICS = (
    "tw_statistic",
    "noise_p_value",
    "noise_sigma",
    "num_tw_spikes",
    "detectability_limit",
)
TRAP_METRICS = ("trap_statistic", "trap_p_value", "trap_limit")


def compare_matrix_with_noise(matrix: WeightMatrix, spectrum: Spectrum, *, seed: int) -> NoiseTest | FitFailure:
    """Test whether a matrix can be told from noise.

    Returns
    -------
    NoiseTest or FitFailure
        A failure where the matrix is too small for the law, or of limited rank by construction.
    """
    refusal = _why_not(matrix)
    if refusal is not None:
        return refusal
    evals = spectrum.per_slice / matrix.spec.scale**2
    nonzero = evals[:, -1] > 0.0
    slices = _as_float(_only(matrix.slices, nonzero))
    return compare_with_noise(slices, _only(evals, nonzero), generator_for(seed, matrix.spec.name, PURPOSE))


def find_matrix_traps(matrix: WeightMatrix, *, seed: int) -> LayerTraps | FitFailure:
    """Test a matrix for correlation traps; failures as for :func:`compare_matrix_with_noise`.

    Raises
    ------
    ValueError
        The values are all zero or not finite: such a matrix has no spectrum either.
    """
    refusal = _why_not(matrix)
    if refusal is not None:
        return refusal
    nonzero = np.array([bool(np.any(block)) for block in matrix.slices])
    return find_traps(_only(matrix.slices, nonzero), name=matrix.spec.name, seed=seed)


def noise_metrics(test: NoiseTest, spec: MatrixSpec) -> dict[str, float | int]:
    """Return the test under the names of :data:`NOISE_METRICS`; σ and the limit in the scale of the spectrum."""
    return {
        "tw_statistic": test.statistic,
        "noise_p_value": test.p_value,
        "noise_sigma": test.noise_sigma * spec.scale,
        "num_tw_spikes": test.n_spikes,
        "detectability_limit": test.detectability_limit * spec.scale,
    }


def trap_metrics(test: LayerTraps, spec: MatrixSpec) -> dict[str, float | int]:
    """Return the test under the names of :data:`TRAP_METRICS`."""
    return {
        "trap_statistic": test.statistic,
        "trap_p_value": test.p_value,
        "trap_limit": test.detectability_limit * spec.scale,
    }


def _why_not(matrix: WeightMatrix) -> FitFailure | None:
    spec = matrix.spec
    if spec.max_rank is not None and spec.max_rank < spec.M:
        detail = f"the rank is at most {spec.max_rank} by construction: such a matrix is no noise of full rank"
        return FitFailure(reason=FitFailureReason.REFUSED, detail=detail)
    if spec.M < MIN_EIGENVALUES:
        detail = f"M = {spec.M}, at least {MIN_EIGENVALUES} are needed for the Tracy-Widom law to hold"
        return FitFailure(reason=FitFailureReason.TOO_FEW_EIGENVALUES, detail=detail)
    return None


def _only(slices: NDArray[Any], wanted: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the slices that are wanted, without a copy where that is all of them."""
    return slices if bool(wanted.all()) else slices[wanted]


def _as_float(block: NDArray[Any]) -> NDArray[Any]:
    return block if block.dtype in (np.float32, np.float64) else block.astype(np.float32)
