"""Spectra of neural-network weight matrices: the numerical core of pytest-weightwatcher.

Names load what they need when first used, so that importing the package costs nothing. Scripts written for
``weightwatcher`` find its class and its constants here, too: ``import spectral as ww``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spectral.adapters import AdapterSource, adapter_source
    from spectral.analysis import Analysis, Description, analyze, describe
    from spectral.deltas import delta_source
    from spectral.det_x import DetX, find_det_x
    from spectral.errors import ModelError, ModelMismatchError, OptionError, SpectralError
    from spectral.fits import FitFailure, FitFailureReason
    from spectral.forms import FormOptions
    from spectral.hill import alpha_farms, alpha_hill
    from spectral.layer_analysis import LayerAnalysis
    from spectral.loaders.opening import open_model
    from spectral.loaders.protocol import LayerType
    from spectral.marchenko_pastur import MarchenkoPasturFit, fit_marchenko_pastur
    from spectral.model_comparison import ModelComparison, compare_models
    from spectral.model_distances import Distances, distances
    from spectral.noise import NoiseTest, compare_with_noise
    from spectral.options import AnalysisOptions
    from spectral.power_law import PowerLawFit, PowerLawProfile, alpha_at_tail, fit_power_law, power_law_profile
    from spectral.ranks import gavish_donoho_rank
    from spectral.selection import Selection
    from spectral.sharpness import sharpen_model
    from spectral.smoothing import smooth_model
    from spectral.spectrum import Spectrum, SpectrumFailure
    from spectral.subspaces import SubspaceComparison, compare_subspaces
    from spectral.tail_comparison import LikelihoodRatio, compare_tail
    from spectral.tail_fit import TailFit, TailOptions, fit_tail
    from spectral.tail_uncertainty import AlphaUncertainty, GoodnessOfFit, bootstrap_alpha, goodness_of_fit
    from spectral.tracy_widom import holm, tracy_widom_cdf, tracy_widom_quantile, tracy_widom_sf
    from spectral.transforms import TransformedModel, transform_model
    from spectral.trap_analysis import TrapAnalysis, analyze_traps
    from spectral.trap_details import Trap, trap_table
    from spectral.trap_removal import remove_traps
    from spectral.traps import LayerTraps, find_traps
    from spectral.truncated_power_law import TruncatedPowerLawFit, fit_truncated_power_law
    from spectral.weightwatcher import WeightWatcher

__version__ = "0.1.0"

_HOMES = {
    "AdapterSource": "adapters",
    "AlphaUncertainty": "tail_uncertainty",
    "Analysis": "analysis",
    "AnalysisOptions": "options",
    "Description": "analysis",
    "DetX": "det_x",
    "Distances": "model_distances",
    "FitFailure": "fits",
    "FitFailureReason": "fits",
    "FormOptions": "forms",
    "GoodnessOfFit": "tail_uncertainty",
    "LayerAnalysis": "layer_analysis",
    "LayerTraps": "traps",
    "LayerType": "loaders.protocol",
    "LikelihoodRatio": "tail_comparison",
    "MarchenkoPasturFit": "marchenko_pastur",
    "ModelComparison": "model_comparison",
    "ModelError": "errors",
    "ModelMismatchError": "errors",
    "NoiseTest": "noise",
    "OptionError": "errors",
    "PowerLawFit": "power_law",
    "PowerLawProfile": "power_law",
    "Selection": "selection",
    "SpectralError": "errors",
    "Spectrum": "spectrum",
    "SpectrumFailure": "spectrum",
    "SubspaceComparison": "subspaces",
    "TailFit": "tail_fit",
    "TailOptions": "tail_fit",
    "TransformedModel": "transforms",
    "Trap": "trap_details",
    "TrapAnalysis": "trap_analysis",
    "TruncatedPowerLawFit": "truncated_power_law",
    "WeightWatcher": "weightwatcher",
    "adapter_source": "adapters",
    "alpha_at_tail": "power_law",
    "alpha_farms": "hill",
    "alpha_hill": "hill",
    "analyze": "analysis",
    "analyze_traps": "trap_analysis",
    "bootstrap_alpha": "tail_uncertainty",
    "compare_models": "model_comparison",
    "compare_subspaces": "subspaces",
    "compare_tail": "tail_comparison",
    "compare_with_noise": "noise",
    "delta_source": "deltas",
    "describe": "analysis",
    "distances": "model_distances",
    "find_det_x": "det_x",
    "find_traps": "traps",
    "fit_marchenko_pastur": "marchenko_pastur",
    "fit_power_law": "power_law",
    "fit_tail": "tail_fit",
    "fit_truncated_power_law": "truncated_power_law",
    "gavish_donoho_rank": "ranks",
    "goodness_of_fit": "tail_uncertainty",
    "holm": "tracy_widom",
    "open_model": "loaders.opening",
    "power_law_profile": "power_law",
    "remove_traps": "trap_removal",
    "sharpen_model": "sharpness",
    "smooth_model": "smoothing",
    "tracy_widom_cdf": "tracy_widom",
    "tracy_widom_quantile": "tracy_widom",
    "tracy_widom_sf": "tracy_widom",
    "transform_model": "transforms",
    "trap_table": "trap_details",
}
"""Public name -> the module it lives in."""

__all__ = [
    "AdapterSource",
    "AlphaUncertainty",
    "Analysis",
    "AnalysisOptions",
    "Description",
    "DetX",
    "Distances",
    "FitFailure",
    "FitFailureReason",
    "FormOptions",
    "GoodnessOfFit",
    "LayerAnalysis",
    "LayerTraps",
    "LayerType",
    "LikelihoodRatio",
    "MarchenkoPasturFit",
    "ModelComparison",
    "ModelError",
    "ModelMismatchError",
    "NoiseTest",
    "OptionError",
    "PowerLawFit",
    "PowerLawProfile",
    "Selection",
    "SpectralError",
    "Spectrum",
    "SpectrumFailure",
    "SubspaceComparison",
    "TailFit",
    "TailOptions",
    "TransformedModel",
    "Trap",
    "TrapAnalysis",
    "TruncatedPowerLawFit",
    "WeightWatcher",
    "adapter_source",
    "alpha_at_tail",
    "alpha_farms",
    "alpha_hill",
    "analyze",
    "analyze_traps",
    "bootstrap_alpha",
    "compare_models",
    "compare_subspaces",
    "compare_tail",
    "compare_with_noise",
    "delta_source",
    "describe",
    "distances",
    "find_det_x",
    "find_traps",
    "fit_marchenko_pastur",
    "fit_power_law",
    "fit_tail",
    "fit_truncated_power_law",
    "gavish_donoho_rank",
    "goodness_of_fit",
    "holm",
    "open_model",
    "power_law_profile",
    "remove_traps",
    "sharpen_model",
    "smooth_model",
    "tracy_widom_cdf",
    "tracy_widom_quantile",
    "tracy_widom_sf",
    "transform_model",
    "trap_table",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"spectral.{_HOMES[name]}"), name)
    # What scripts for weightwatcher write: ww.LAYER_TYPE, ww.TPL, .. No other public name is in capitals.
    if name[:1].isupper() and name == name.upper():
        names = import_module("spectral.dropin_names")
        if hasattr(names, name):
            return getattr(names, name)
    raise AttributeError(f"module 'spectral' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
