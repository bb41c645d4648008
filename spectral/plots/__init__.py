"""Pictures of an analysis, with matplotlib (the extra ``plots``): figures that are neither shown nor saved unasked."""

from __future__ import annotations

from spectral.plots.bulk import plot_marchenko_pastur
from spectral.plots.depth import plot_alpha_by_depth
from spectral.plots.det_x import plot_det_x
from spectral.plots.esd import plot_esd
from spectral.plots.gaps import plot_delta_es
from spectral.plots.kinds import LAYER_KINDS, MODEL_KINDS, available_kinds, draw
from spectral.plots.models import plot_models
from spectral.plots.profile import plot_xmin_profile
from spectral.plots.randomized import plot_random_esd
from spectral.plots.saving import save_plots
from spectral.plots.style import render_png
from spectral.plots.vectors import plot_vector_metrics

__all__ = [
    "LAYER_KINDS",
    "MODEL_KINDS",
    "available_kinds",
    "draw",
    "plot_alpha_by_depth",
    "plot_delta_es",
    "plot_det_x",
    "plot_esd",
    "plot_marchenko_pastur",
    "plot_models",
    "plot_random_esd",
    "plot_vector_metrics",
    "plot_xmin_profile",
    "render_png",
    "save_plots",
]
