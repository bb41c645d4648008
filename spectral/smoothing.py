"""SVD smoothing: keep the leading singular directions of every weight matrix, or all but these.

How many are kept is decided by a rule on the pooled spectrum of the layer: a share of them (``svd``), the power-law
tail (``alpha_min``), the tail of unit determinant (``detX``), or what sticks out of the Marchenko-Pastur bulk (``rmt``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from spectral.errors import OptionError
from spectral.fits import FitFailure, FitFailureReason
from spectral.metrics import UNDER_TRAINED_ABOVE
from spectral.power_law import MIN_EVALS, fit_power_law
from spectral.spectrum import Spectrum, SpectrumFailure, compute_spectrum
from spectral.transforms import Replacement, TransformedModel, no_spectrum, transform_model
from spectral.truncation import drop_leading, keep_leading
from spectral.weights import WeightMatrix

if TYPE_CHECKING:
    from collections.abc import Iterable


class KeepRule(Protocol):
    """How many of the pooled singular directions to keep."""

    def __call__(self, spectrum: Spectrum) -> int | FitFailure:
        """Return n > 0 to keep the leading n, n < 0 to remove the leading -n; 0 or a failure leaves the layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepShare:
    """``svd``: the leading share of the directions, or (negative) all but the leading share.

    Parameters
    ----------
    percent : float
        As a fraction, whatever its name (the incumbent's): in (-1, 1], not 0.
    """

    percent: float

    def __post_init__(self) -> None:
        if not (-1.0 < self.percent <= 1.0 and self.percent != 0.0):
            raise OptionError(f"percent must be a fraction in (-1, 1] other than 0, got {self.percent!r}")

    def __call__(self, spectrum: Spectrum) -> int:
        return int(self.percent * len(spectrum.evals))


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepPowerLawTail:
    """``alpha_min``: the directions with λ >= xmin of the power-law fit."""

    min_evals: int = MIN_EVALS

    def __call__(self, spectrum: Spectrum) -> int | FitFailure:
        fit = fit_power_law(spectrum.evals, min_evals=self.min_evals)
        return fit if isinstance(fit, FitFailure) else fit.n_tail


@dataclass(frozen=True, slots=True, kw_only=True)
class SmoothLayer:
    """Smooth one layer; a :data:`~spectral.transforms.MatrixTransform`.

    Parameters
    ----------
    rule : KeepRule
        How many directions to keep.
    pool : bool
        Apply the rule to the pooled spectrum of all slices and give each an equal part of the directions, rounded
        towards keeping them; otherwise apply it slice by slice.
    """

    rule: KeepRule
    pool: bool = True

    def __call__(self, matrix: WeightMatrix) -> Replacement | FitFailure:
        spectrum = compute_spectrum(matrix)
        if isinstance(spectrum, SpectrumFailure):
            return no_spectrum(spectrum.detail)
        counts = self._counts_per_slice(matrix, spectrum)
        if isinstance(counts, FitFailure):
            return counts
        try:
            slices = np.stack(
                [
                    keep_leading(block, count) if count > 0 else drop_leading(block, -count)
                    for block, count in zip(matrix.slices, counts, strict=True)
                ]
            )
        except np.linalg.LinAlgError as error:
            return FitFailure(reason=FitFailureReason.NO_CONVERGENCE, detail=f"LAPACK found no vectors: {error}")
        size = matrix.spec.M
        n_changed = sum(max(0, size - count) if count > 0 else -count for count in counts)
        return Replacement(slices=slices, n_changed=n_changed)

    def _counts_per_slice(self, matrix: WeightMatrix, spectrum: Spectrum) -> list[int] | FitFailure:
        if self.pool:
            count = self.rule(spectrum)
            if isinstance(count, FitFailure):
                return count
            counts = [math.ceil(count / spectrum.rf)] * spectrum.rf
        else:
            counts = []
            for index in range(spectrum.rf):
                count = self._count_of_slice(matrix, index)
                if isinstance(count, FitFailure):
                    return count
                counts.append(count)
        if not any(counts):
            return FitFailure(
                reason=FitFailureReason.REFUSED,
                detail=f"the rule chose none of the {len(spectrum.evals)} singular directions",
            )
        return counts

    def _count_of_slice(self, matrix: WeightMatrix, index: int) -> int | FitFailure:
        block = WeightMatrix(spec=replace(matrix.spec, rf=1), slices=matrix.slices[index : index + 1])
        spectrum = compute_spectrum(block)
        if isinstance(spectrum, SpectrumFailure):
            return no_spectrum(f"slice {index}: {spectrum.detail}")
        return self.rule(spectrum)
