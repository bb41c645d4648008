"""The gaps between neighbouring eigenvalues: level statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spectral.fits import FitFailure
from spectral.plots.histograms import count_bins, log_edges
from spectral.plots.labels import number, title_of, write_reason
from spectral.plots.spectra import drawable_evals, drawable_twin
from spectral.plots.style import BULK, DATA, MARK, RANDOM, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from spectral.layer_analysis import LayerAnalysis

_EPS = float(np.finfo(np.float64).eps)


def plot_delta_es(layer: LayerAnalysis, *, randomized: bool = False) -> Figure:
    """Draw the gaps Δλ between neighbouring eigenvalues in their order, and their distribution beside it.

    Parameters
    ----------
    layer : LayerAnalysis
        Of any analysis; the start of the tail is marked where there is a fit.
    randomized : bool
        The randomised twin's instead, of an analysis with ``randomize=True``; the edge of its bulk is marked.

    Returns
    -------
    matplotlib.figure.Figure
        Neither shown nor saved. Gaps that are zero to rounding have no logarithm and are counted instead.

    Raises
    ------
    OptionError
        The analysis has no twin.
    MissingDependencyError
        matplotlib is not installed.
    """
    evals = _evals(layer, randomized=randomized)
    with panels(1, 2, sharey=True, width_ratios=(3, 1)) as (figure, ((left, right),)):
        title_of(figure, layer.spec, _numbers(evals, randomized=randomized))
        gaps = np.empty(0) if isinstance(evals, str) else np.diff(evals)
        is_shown = np.empty(0, dtype=bool) if isinstance(evals, str) else gaps > len(evals) * _EPS * evals[-1]
        if isinstance(evals, str) or not is_shown.any():
            write_reason(figure, evals if isinstance(evals, str) else "no two eigenvalues differ")
            return figure
        color = RANDOM if randomized else DATA
        places = np.flatnonzero(is_shown) + 1
        left.plot(places, gaps[is_shown], marker=".", markersize=3, color=color, linestyle="none")
        left.set_yscale("log")
        left.set_ylabel("gap Δλ to the next eigenvalue")
        n_zero = int(np.count_nonzero(~is_shown))
        left.set_xlabel("eigenvalue, ascending" + (f"   ({n_zero} gaps are zero)" if n_zero else ""))
        _mark(left, layer, evals, randomized=randomized)
        _draw_distribution(right, gaps[is_shown], color)
        return figure


def _evals(layer: LayerAnalysis, *, randomized: bool) -> NDArray[np.float64] | str:
    return drawable_twin(layer) if randomized else drawable_evals(layer)


def _numbers(evals: NDArray[np.float64] | str, *, randomized: bool) -> str:
    what = "gaps of the randomised twin" if randomized else "gaps between neighbouring eigenvalues"
    return what if isinstance(evals, str) else f"{what} · {len(evals)} eigenvalues"


def _mark(axes: Axes, layer: LayerAnalysis, evals: NDArray[np.float64], *, randomized: bool) -> None:
    """Mark the first eigenvalue of the tail, or the first beyond the twin's bulk."""
    if randomized:
        fit = layer.twin_marchenko_pastur
        if fit is None:
            return
        value, color, label = fit.bulk_max, BULK, f"bulk edge λ₊ = {number(fit.bulk_max)}"
    else:
        if isinstance(layer.fit, FitFailure):
            return
        value, color, label = layer.fit.xmin, MARK, f"xmin = {number(layer.fit.xmin)}"
    place = int(np.searchsorted(evals, value, side="left")) + 1
    axes.axvline(place, color=color, linestyle="--", linewidth=1.0, label=label)
    axes.legend(loc="best")


def _draw_distribution(axes: Axes, gaps: NDArray[np.float64], color: str) -> None:
    edges = log_edges(float(gaps.min()), float(gaps.max()), count_bins(len(gaps)))
    counts, _ = np.histogram(gaps, edges)
    heights = counts / (len(gaps) * np.diff(np.log10(edges)))
    axes.stairs(heights, edges, orientation="horizontal", fill=True, color=color, alpha=0.35, linewidth=0)
    axes.stairs(heights, edges, orientation="horizontal", color=color, linewidth=0.8)
    axes.set_xlabel("density of log₁₀ Δλ")
