"""The tail whose rescaled eigenvalues have product one, beside that of the power law."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spectral.errors import OptionError
from spectral.fits import FitFailure
from spectral.plots.esd import not_shown
from spectral.plots.histograms import count_bins, draw_histogram, histogram, log_edges, shown_on_log_scale
from spectral.plots.labels import title_of, write_reason
from spectral.plots.spectra import drawable_evals
from spectral.plots.style import BOUND, DATA, MARK, axes_for, figure_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from spectral.layer_analysis import LayerAnalysis


def plot_det_x(layer: LayerAnalysis, *, ax: Axes | None = None) -> Figure:
    """Draw the density of log10 x, x the eigenvalues in units of their mean, with the tail of det X = 1.

    Parameters
    ----------
    layer : LayerAnalysis
        Of an analysis with ``detX=True``.
    ax : matplotlib.axes.Axes, optional
        Where to draw; default a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        Neither shown nor saved. Where the layer has no such tail, the reason alone.

    Raises
    ------
    OptionError
        The analysis did not look for the tail.
    MissingDependencyError
        matplotlib is not installed.
    """
    start = layer.metrics.get("detX_val_unrescaled")
    if start is None and "detX" not in layer.reasons:
        raise OptionError(f"layer {layer.name[:200]!r} has no tail of det X = 1: analyze with detX=True")
    with axes_for(ax) as axes:
        evals = drawable_evals(layer)
        if start is None or isinstance(evals, str):
            title_of(axes, layer.spec, "no tail of det X = 1")
            write_reason(axes, evals if isinstance(evals, str) else layer.reasons["detX"])
            return figure_of(axes)
        title_of(axes, layer.spec, _numbers(layer))
        mean = float(np.mean(evals))
        x = shown_on_log_scale(evals) / mean
        bars = histogram(x, log_edges(float(x[0]), float(x[-1]), count_bins(len(x))), n_all=len(evals), per="decade")
        draw_histogram(axes, bars, color=DATA, label=f"{len(evals)} eigenvalues")
        axes.set_xscale("log")
        axes.axvspan(start, float(x[-1]), color=BOUND, alpha=0.15, linewidth=0)
        axes.axvline(start, color=BOUND, label=f"det X = 1 from x = {start:.3g} on")
        if not isinstance(layer.fit, FitFailure):
            xmin = layer.fit.xmin / mean
            axes.axvline(xmin, color=MARK, linestyle="--", linewidth=1.0, label=f"power law from x = {xmin:.3g} on")
        axes.set_xlabel("x = λ / mean λ" + not_shown(len(evals) - len(x)))
        axes.set_ylabel("density of log₁₀ x")
        axes.legend(loc="best")
        return figure_of(axes)


def _numbers(layer: LayerAnalysis) -> str:
    metrics = layer.metrics
    texts = [f"detX_num = {metrics['detX_num']}"]
    if "ERG_gap" in metrics:
        texts.append(f"num_pl_spikes = {metrics['num_pl_spikes']} · ERG_gap = {metrics['ERG_gap']}")
    texts.append(f"noise would have {metrics['detX_num_null']:.0f}")
    return " · ".join(texts)
