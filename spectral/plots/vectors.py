"""How localised the eigenvectors of a layer are, along its spectrum."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spectral.fits import FitFailure
from spectral.plots.esd import EVAL_LABEL
from spectral.plots.histograms import count_bins, histogram, linear_edges
from spectral.plots.labels import title_of, write_reason
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
    with panels(3, 2, size=SIZE, sharex="col", sharey="row", width_ratios=(3, 1)) as (figure, table):
        title_of(figure, layer.spec, "localisation of the eigenvectors")
        if isinstance(statistics, FitFailure):
            for axes in (axes for row in table for axes in row):
                axes.set_axis_off()
            write_reason(table[1][0], statistics.detail)
            return figure
        evals = statistics.evals
        # Zero to rounding, and nothing for a logarithmic axis.
        is_shown = evals > len(evals) * _EPS * evals[-1]
        xmin = None if isinstance(layer.fit, FitFailure) else layer.fit.xmin
        is_tail = np.zeros(len(evals), dtype=bool) if xmin is None else evals >= xmin - len(evals) * _EPS * evals[-1]
        measures = (statistics.entropy, statistics.localization, statistics.participation)
        for (left, right), name, values in zip(table, _NAMES, measures, strict=True):
            left.set_ylabel(name)
            left.set_xscale("log")
            for part, color in ((~is_tail, DATA), (is_tail, FIT)):
                chosen = part & is_shown
                left.plot(evals[chosen], values[chosen], marker=".", markersize=3, color=color, linestyle="none")
            if xmin is not None:
                left.axvline(xmin, color=MARK, linestyle="--", linewidth=1.0)
            _draw_distributions(right, values, is_tail)
        if xmin is not None:
            table[0][0].lines[-1].set_label(f"xmin = {xmin:.3g}")
            table[0][0].legend(loc="best")
        table[0][1].legend(loc="best")
        n_zero = int(np.count_nonzero(~is_shown))
        table[-1][0].set_xlabel(EVAL_LABEL + (f"   ({n_zero} at zero not shown)" if n_zero else ""))
        table[-1][1].set_xlabel("density")
        return figure


_NAMES = ("entropy (nats)", "localisation ratio", "participation ratio")


def _draw_distributions(axes: Axes, values: NDArray[np.float64], is_tail: NDArray[np.bool_]) -> None:
    for part, color, label in ((~is_tail, DATA, "bulk"), (is_tail, FIT, "tail")):
        chosen = values[part]
        if len(chosen) == 0:
            continue
        edges = linear_edges(float(chosen.min()), float(chosen.max()), count_bins(len(chosen)))
        bars = histogram(chosen, edges, n_all=len(chosen))
        axes.stairs(bars.heights, bars.edges, orientation="horizontal", color=color, label=label)
