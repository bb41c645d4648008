"""Spectra of neural-network weight matrices: the numerical core of pytest-weightwatcher.

Names load what they need when first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spectral.analysis import (
        Analysis,
        AnalysisOptions,
        Description,
        LayerAnalysis,
        analyze,
        describe,
    )
    from spectral.errors import ModelError, OptionError, SpectralError
    from spectral.fits import FitFailure
    from spectral.loaders.opening import open_model
    from spectral.loaders.protocol import LayerType
    from spectral.power_law import PowerLawFit, alpha_at_tail, fit_power_law
    from spectral.spectrum import Spectrum, SpectrumFailure

__version__ = "0.1.0"

_HOMES = {
    "Analysis": "analysis",
    "AnalysisOptions": "analysis",
    "Description": "analysis",
    "FitFailure": "fits",
    "LayerAnalysis": "analysis",
    "LayerType": "loaders.protocol",
    "ModelError": "errors",
    "OptionError": "errors",
    "PowerLawFit": "power_law",
    "SpectralError": "errors",
    "Spectrum": "spectrum",
    "SpectrumFailure": "spectrum",
    "alpha_at_tail": "power_law",
    "analyze": "analysis",
    "describe": "analysis",
    "fit_power_law": "power_law",
    "open_model": "loaders.opening",
}
"""Public name -> the module it lives in."""

__all__ = [
    "Analysis",
    "AnalysisOptions",
    "Description",
    "FitFailure",
    "LayerAnalysis",
    "LayerType",
    "ModelError",
    "OptionError",
    "PowerLawFit",
    "SpectralError",
    "Spectrum",
    "SpectrumFailure",
    "alpha_at_tail",
    "analyze",
    "describe",
    "fit_power_law",
    "open_model",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"spectral.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'spectral' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
