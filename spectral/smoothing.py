"""SVD smoothing: keep the leading singular directions of every weight matrix, or all but these.

How many are kept is decided by a rule on the pooled spectrum of the layer: a share of them (``svd``), the power-law
tail (``alpha_min``), the tail of unit determinant (``detX``), or what the Marchenko-Pastur bulk leaves out (``rmt``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from spectral.det_x import find_det_x
from spectral.errors import OptionError
from spectral.fits import FitFailure, FitFailureReason
from spectral.marchenko_pastur import fit_marchenko_pastur
from spectral.metrics import UNDER_TRAINED_ABOVE
from spectral.power_law import MIN_EVALS, fit_power_law
from spectral.spectrum import Spectrum, SpectrumFailure, compute_spectrum
from spectral.transforms import Replacement, TransformedModel, no_spectrum, transform_model
from spectral.truncation import drop_leading, keep_leading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from spectral.weights import WeightMatrix


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
class KeepSpikes:
    """``rmt``: the directions above the bulk of the Marchenko-Pastur fit."""

    def __call__(self, spectrum: Spectrum) -> int | FitFailure:
        fit = fit_marchenko_pastur(spectrum.evals, N=spectrum.N, M=spectrum.M)
        return fit if isinstance(fit, FitFailure) else fit.n_spikes


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepDetX:
    """``detX``: the smallest tail whose rescaled eigenvalues have a product below one."""

    def __call__(self, spectrum: Spectrum) -> int | FitFailure:
        tail = find_det_x(spectrum.evals)
        return tail if isinstance(tail, FitFailure) else tail.n_tail


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepByAlpha:
    """``auto``: the spikes where alpha > 6 (hardly a tail), the tail of unit determinant otherwise."""

    min_evals: int = MIN_EVALS

    def __call__(self, spectrum: Spectrum) -> int | FitFailure:
        fit = fit_power_law(spectrum.evals, min_evals=self.min_evals)
        if isinstance(fit, FitFailure):
            return fit
        rule: KeepRule = KeepSpikes() if fit.alpha > UNDER_TRAINED_ABOVE else KeepDetX()
        return rule(spectrum)


SMOOTHING_METHODS = ("svd", "detX", "alpha_min", "rmt", "auto")
"""The incumbent's names of the rules."""


def keep_rule(method: str, *, percent: float = 0.8, min_evals: int = MIN_EVALS) -> KeepRule:
    """Return the rule of a name among :data:`SMOOTHING_METHODS`; ``percent`` is for ``svd`` alone.

    Raises
    ------
    OptionError
        There is no such method, or its option is impossible.
    """
    rules: dict[str, Callable[[], KeepRule]] = {
        "svd": lambda: KeepShare(percent=percent),
        "detX": KeepDetX,
        "alpha_min": lambda: KeepPowerLawTail(min_evals=min_evals),
        "rmt": KeepSpikes,
        "auto": lambda: KeepByAlpha(min_evals=min_evals),
    }
    if method not in rules:
        raise OptionError(f"method must be one of {', '.join(SMOOTHING_METHODS)}, got {method!r}")
    return rules[method]()


def smooth_model(
    model: object,
    *,
    method: str | KeepRule = "detX",
    percent: float = 0.8,
    pool: bool = True,
    layers: Iterable[int | str] = (),
    inplace: bool = False,
    n_workers: int | None = None,
) -> TransformedModel:
    """Keep the leading singular directions of every weight matrix of a model.

    Parameters
    ----------
    model : torch.nn.Module, keras.Model or mapping of str to torch tensor or ndarray
        Left as it is, unless ``inplace``.
    method : {"svd", "detX", "alpha_min", "rmt", "auto"} or KeepRule
        How many directions a layer keeps.
    percent : float
        For ``svd``: the fraction to keep, or (negative) the fraction of leading directions to remove.
    pool : bool
        One rule for all slices of a convolution together, or for each of its own.
    layers : iterable of int or str
        Which layers: ids, names or patterns; or only negative ids: all but these. Empty: all.
    inplace : bool
        Write to the caller's own tensors.
    n_workers : int, optional
        Number of threads; default one per core. The result does not depend on it.

    Returns
    -------
    TransformedModel
        ``.model`` of the kind that was given, and per layer what was changed, or the reason why nothing was:
        values that are not finite or all zero, a fit that failed, a rule that keeps nothing.

    Raises
    ------
    OptionError, ModelError
        As :func:`~spectral.transforms.transform_model`.
    """
    rule = keep_rule(method, percent=percent) if isinstance(method, str) else method
    transform = SmoothLayer(rule=rule, pool=pool)
    return transform_model(model, transform, layers=layers, inplace=inplace, n_workers=n_workers)


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
        block = replace(matrix, slices=matrix.slices[index : index + 1])
        spectrum = compute_spectrum(block)
        if isinstance(spectrum, SpectrumFailure):
            return no_spectrum(f"slice {index}: {spectrum.detail}")
        return self.rule(replace(spectrum, rf=1))
