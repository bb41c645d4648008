"""A layer of a model beside the same layer of a base: plain differences of what both analyses found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spectral.paired import relative_displacement
from spectral.power_law import PowerLawFit, alpha_at_tail
from spectral.spectrum import Spectrum

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spectral.layer_analysis import LayerAnalysis

RELATIVE = ("stable_rank", "effective_rank", "spectral_norm", "norm")
"""Metrics of which the relative change is told: (new - base) / base."""

ABSOLUTE = ("matrix_rank",)
"""Metrics of which the difference is told."""

PAIRED_COLUMNS = (
    "displacement",
    "alpha_base",
    "alpha_paired",
    "alpha_sigmas",
    *(f"{name}_rel" for name in RELATIVE),
    *(f"{name}_change" for name in ABSOLUTE),
)


def paired_metrics(layer: LayerAnalysis, base: LayerAnalysis) -> dict[str, float | int]:
    """Compare two analyses of one layer; what does not exist on both sides is absent.

    Returns
    -------
    dict
        ``displacement`` is √Σ(σ - σ_base)² / √Σσ_base², 0 for equal spectra. ``alpha_base`` is the exponent of the
        base, ``alpha_paired`` that of the layer over as many of its largest eigenvalues, and
        ``alpha_sigmas`` their difference in standard errors (α_base - 1)/√k of the first. The others are
        changes of the metrics, relative to the base or plain.
    """
    if not isinstance(layer.spectrum, Spectrum) or not isinstance(base.spectrum, Spectrum):
        return {}
    evals, reference = layer.spectrum.evals, base.spectrum.evals
    return {
        "displacement": relative_displacement(evals, reference),
        **_alphas(layer, base),
        **_changes(layer.metrics, base.metrics),
    }


def _alphas(layer: LayerAnalysis, base: LayerAnalysis) -> dict[str, float]:
    if not isinstance(base.fit, PowerLawFit):
        return {}
    n_tail = base.fit.n_tail
    before, after = (alpha_at_tail(side.fitted_evals, n_tail) for side in (base, layer))
    if before is None or after is None:
        return {}
    sigma = (before - 1.0) / n_tail**0.5
    return {
        "alpha_base": before,
        "alpha_paired": after,
        **({"alpha_sigmas": (after - before) / sigma} if sigma > 0.0 else {}),
    }


def _changes(metrics: Mapping[str, float | int], base: Mapping[str, float | int]) -> dict[str, float | int]:
    relative = {
        f"{name}_rel": (metrics[name] - base[name]) / base[name]
        for name in RELATIVE
        if name in metrics and base.get(name)
    }
    plain = {f"{name}_change": metrics[name] - base[name] for name in ABSOLUTE if name in metrics and name in base}
    return {**relative, **plain}
