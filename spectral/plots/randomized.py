"""The spectrum of a layer beside that of its randomised twin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from spectral.plots.esd import EVAL_LABEL, check_scale, not_shown
from spectral.plots.histograms import (
    MAX_BINS,
    count_bins,
    draw_histogram,
    histogram,
    linear_edges,
    log_edges,
    shown_on_log_scale,
)
from spectral.plots.labels import number, title_of, write_reason
from spectral.plots.spectra import drawable_evals, drawable_twin
from spectral.plots.style import BULK, DATA, FIT, MARK, RANDOM, axes_for, figure_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from spectral.layer_analysis import LayerAnalysis

RANDOM_SCALES = ("log-lin", "lin-lin")


def plot_random_esd(
    layer: LayerAnalysis, scale: Literal["log-lin", "lin-lin"] = "log-lin", *, ax: Axes | None = None
) -> Figure:
    """Draw the density of the eigenvalues over that of the same elements in other places.

    Eigenvalues of the twin beyond its own Marchenko-Pastur bulk are marked: these are correlation traps.

    Parameters
    ----------
    layer : LayerAnalysis
        Of an analysis with ``randomize=True``.
    scale : {"log-lin", "lin-lin"}
        Axis of λ and axis of the density.
    ax : matplotlib.axes.Axes, optional
        Where to draw; default a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        Neither shown nor saved. Where there is no twin, because there is no spectrum, the reason alone.

    Raises
    ------
    OptionError
        The analysis has no twin, or the scale is unknown.
    MissingDependencyError
        matplotlib is not installed.
    """
    check_scale(scale, RANDOM_SCALES)
    evals, twin = drawable_evals(layer), drawable_twin(layer)
    with axes_for(ax) as axes:
        if isinstance(evals, str) or isinstance(twin, str):
            title_of(axes, layer.spec, "no randomised twin")
            write_reason(axes, str(twin))
            return figure_of(axes)
        title_of(axes, layer.spec, _numbers(layer))
        n_left_out = _draw_both(axes, evals, twin, scale)
        _mark_traps(axes, layer, twin)
        axes.set_xlabel(EVAL_LABEL + not_shown(n_left_out))
        axes.legend(loc="best")
        return figure_of(axes)


def _numbers(layer: LayerAnalysis) -> str:
    texts = []
    if "num_traps" in layer.metrics:
        texts.append(f"num_traps = {layer.metrics['num_traps']}")
    texts += [
        f"{name} = {layer.metrics[key]:.3g}"
        for name, key in (("JS distance", "rand_distance"), ("λmax random / λmax", "ww_softrank"))
        if key in layer.metrics
    ]
    return " · ".join(texts)


def _draw_both(axes: Axes, evals: NDArray[np.float64], twin: NDArray[np.float64], scale: str) -> int:
    """Draw both histograms over the same bins, and return how many eigenvalues of the layer are not shown."""
    per: Literal["unit", "decade"] = "unit"
    shown, shown_twin = evals, twin
    largest = max(float(evals[-1]), float(twin[-1]))
    if scale == "lin-lin":
        edges = linear_edges(min(0.0, float(evals[0])), largest, MAX_BINS)
    else:
        per = "decade"
        shown, shown_twin = shown_on_log_scale(evals), shown_on_log_scale(twin)
        low = min(float(shown[0]), float(shown_twin[0]))
        edges = log_edges(low, largest, count_bins(len(evals)))
        axes.set_xscale("log")
    draw_histogram(axes, histogram(shown, edges, n_all=len(evals), per=per), color=DATA, label="as trained")
    draw_histogram(
        axes, histogram(shown_twin, edges, n_all=len(twin), per=per), color=RANDOM, label="elements permuted"
    )
    axes.set_ylabel("density of log₁₀ λ" if per == "decade" else "density of λ")
    return len(evals) - len(shown)


def _mark_traps(axes: Axes, layer: LayerAnalysis, twin: NDArray[np.float64]) -> None:
    axes.axvline(
        float(twin[-1]),
        color=MARK,
        linestyle="--",
        linewidth=1.0,
        label=f"largest random λ = {number(float(twin[-1]))}",
    )
    fit = layer.twin_marchenko_pastur
    if fit is None:
        return
    axes.axvline(fit.bulk_max, color=BULK, linestyle=":", linewidth=1.5, label=f"bulk edge λ₊ = {number(fit.bulk_max)}")
    traps = twin[twin > fit.spike_threshold]
    if len(traps):
        # At a fixed height of the axes, whatever the densities are.
        axes.plot(
            traps,
            np.full(len(traps), 0.04),
            transform=axes.get_xaxis_transform(),
            marker="v",
            markersize=7,
            color=FIT,
            linestyle="none",
            label=f"correlation traps: {len(traps)}",
        )
