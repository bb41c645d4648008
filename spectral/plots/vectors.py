"""How localised the eigenvectors of a layer are, along its spectrum."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spectral.fits import FitFailure
from spectral.plots.esd import EVAL_LABEL, not_shown
from spectral.plots.histograms import count_bins, histogram, linear_edges, log_limits
from spectral.plots.labels import number, title_of, write_reason
from spectral.plots.spectra import drawable_evals
from spectral.plots.style import DATA, FIT, MARK, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from spectral.eigenvectors import EigenvectorStatistics
    from spectral.layer_analysis import LayerAnalysis

SIZE = (6.0, 6.0)
_EPS = float(np.finfo(np.float64).eps)


def plot_vector_metrics(layer: LayerAnalysis, statistics: EigenvectorStatistics | FitFailure) -> Figure:
    """Draw entropy, localisation and participation of every eigenvector against its eigenvalue.

    Their distributions stand beside it, those of the bulk and of the tail where a fit divides the two.

    Parameters
    ----------
    layer : LayerAnalysis
        Of any analysis.
    statistics : EigenvectorStatistics or FitFailure
        What :func:`spectral.eigenvectors.eigenvector_statistics` makes of the layer's weights;
        :meth:`spectral.Analysis.plot` reads them again for it.

    Returns
    -------
    matplotlib.figure.Figure
        Neither shown nor saved. Of a failure the reason alone.

    Raises
    ------
    MissingDependencyError
        matplotlib is not installed.
    """
    with panels(3, 2, size=SIZE, sharey="row", width_ratios=(3, 1)) as (figure, table):
        title_of(figure, layer.spec, "localisation of the eigenvectors")
        drawable = drawable_evals(layer)
        if isinstance(statistics, FitFailure) or isinstance(drawable, str):
            write_reason(figure, statistics.detail if isinstance(statistics, FitFailure) else str(drawable))
            return figure
        xmin = None if isinstance(layer.fit, FitFailure) else layer.fit.xmin
        evals = statistics.evals
        rounding = len(evals) * _EPS * evals[-1]
        # As the metrics divide them: xmin is an eigenvalue itself, computed another way.
        is_tail = np.zeros(len(evals), dtype=bool) if xmin is None else evals >= xmin - rounding
        is_zero = evals <= rounding
        measures = (statistics.entropy, statistics.localization, statistics.participation)
        for (left, right), name, values in zip(table, _NAMES, measures, strict=True):
            left.set_ylabel(name)
            _draw_values(left, evals, values, (~is_tail & ~is_zero, is_tail & ~is_zero), xmin)
            _draw_distributions(right, values, is_tail)
        if xmin is not None:
            table[0][0].legend(loc="best")
        table[0][1].legend(loc="best")
        _share_x([left for left, _ in table])
        table[-1][0].set_xlabel(EVAL_LABEL + not_shown(int(np.count_nonzero(is_zero))))
        table[-1][1].set_xlabel("density")
        return figure


_NAMES = ("entropy (nats)", "localisation ratio", "participation ratio")


def _share_x(column: list[Axes]) -> None:
    """Give axes above one another the x-axis of the lowest."""
    for axes in column[:-1]:
        axes.sharex(column[-1])
        axes.tick_params(which="both", labelbottom=False)


def _draw_values(
    axes: Axes,
    evals: NDArray[np.float64],
    values: NDArray[np.float64],
    parts: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    xmin: float | None,
) -> None:
    for part, color in zip(parts, (DATA, FIT), strict=True):
        axes.plot(evals[part], values[part], marker=".", markersize=3, color=color, linestyle="none")
    if xmin is not None:
        axes.axvline(xmin, color=MARK, linestyle="--", linewidth=1.0, label=f"xmin = {number(xmin)}")
    axes.set_xscale("log")
    shown = evals[parts[0] | parts[1]]
    ends = (float(shown[0]), float(shown[-1]))
    if log_limits(*ends) != ends:
        axes.set_xlim(*log_limits(*ends))


def _draw_distributions(axes: Axes, values: NDArray[np.float64], is_tail: NDArray[np.bool_]) -> None:
    for part, color, label in ((~is_tail, DATA, "bulk"), (is_tail, FIT, "tail")):
        chosen = values[part]
        if len(chosen) == 0:
            continue
        edges = linear_edges(float(chosen.min()), float(chosen.max()), count_bins(len(chosen)))
        bars = histogram(chosen, edges, n_all=len(chosen))
        axes.stairs(bars.heights, bars.edges, orientation="horizontal", color=color, label=label)
    # Each measure has a unit of its own: only shapes are compared.
    axes.tick_params(labelbottom=False)
