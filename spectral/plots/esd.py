"""The empirical spectral density of a layer with the law of its tail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from spectral.errors import OptionError
from spectral.fits import FitFailure
from spectral.plots.histograms import (
    MAX_BINS,
    Histogram,
    count_bins,
    draw_histogram,
    histogram,
    linear_edges,
    log_edges,
    shown_on_log_scale,
)
from spectral.plots.labels import fit_numbers, number, title_of, write_note, write_reason
from spectral.plots.spectra import drawable_evals
from spectral.plots.style import BOUND, DATA, FIT, MARK, axes_for, figure_of
from spectral.truncated_power_law import TruncatedPowerLawFit, truncated_log_likelihoods

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from spectral.layer_analysis import LayerAnalysis
    from spectral.power_law import PowerLawFit

Scale = Literal["log-log", "lin-lin", "log-lin"]
SCALES = ("log-log", "lin-lin", "log-lin")

EVAL_LABEL = "eigenvalue λ"
N_CURVE = 200


def plot_esd(layer: LayerAnalysis, scale: Scale = "log-log", *, ax: Axes | None = None) -> Figure:
    """Draw the density of the eigenvalues with the fitted law of the tail.

    The law is scaled by the tail's share of the spectrum, so that it lies on the histogram where it fits.

    Parameters
    ----------
    layer : LayerAnalysis
        Of any analysis. Without a fit the spectrum is drawn with the reason, without a spectrum the reason alone.
    scale : {"log-log", "lin-lin", "log-lin"}
        Axis of λ and axis of the density. With ``"log-lin"`` it is the density of log10 λ.
    ax : matplotlib.axes.Axes, optional
        Where to draw; default a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        Neither shown nor saved.

    Raises
    ------
    OptionError
        Unknown scale.
    MissingDependencyError
        matplotlib is not installed.
    """
    check_scale(scale, SCALES)
    with axes_for(ax) as axes:
        title_of(axes, layer.spec, fit_numbers(layer))
        evals = drawable_evals(layer)
        if isinstance(evals, str):
            write_reason(axes, evals)
            return figure_of(axes)
        n_shown = _draw_density(axes, evals, scale)
        if isinstance(layer.fit, FitFailure):
            write_note(axes, f"no fit: {layer.fit.detail}")
        else:
            _draw_fit(axes, layer.fit, evals, scale, n_fitted=len(layer.fitted_evals))
        axes.set_xlabel(EVAL_LABEL + not_shown(len(evals) - n_shown))
        axes.legend(loc="best")
        return figure_of(axes)


def check_scale(scale: str, scales: tuple[str, ...]) -> None:
    """Raise OptionError for a scale that is none."""
    if scale not in scales:
        raise OptionError(f"scale must be one of {', '.join(map(repr, scales))}, got {scale!r}")


def not_shown(n_values: int) -> str:
    """Return the remark on eigenvalues that a logarithmic axis cannot show."""
    return f"   ({n_values} at or near zero not shown)" if n_values else ""


def tail_density(fit: PowerLawFit | TruncatedPowerLawFit, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the fitted density of the tail at x >= xmin; its integral from xmin on is 1.

    Where the law was fitted as one that ends at xmax, it is 1 up to there.
    """
    Lambda = fit.Lambda if isinstance(fit, TruncatedPowerLawFit) else 0.0
    log_density = truncated_log_likelihoods(x, alpha=fit.alpha, Lambda=Lambda, xmin=fit.xmin)
    if not isinstance(fit, TruncatedPowerLawFit) and fit.is_bounded:
        log_density = log_density - np.log(-np.expm1((1.0 - fit.alpha) * np.log(fit.xmax / fit.xmin)))
    return np.asarray(np.exp(log_density), dtype=np.float64)


def _draw_density(axes: Axes, evals: NDArray[np.float64], scale: str) -> int:
    """Draw the histogram and return how many eigenvalues it shows."""
    shown = evals if scale == "lin-lin" else shown_on_log_scale(evals)
    bars = _density(shown, scale, len(evals))
    draw_histogram(axes, bars, color=DATA, label=f"{len(evals)} eigenvalues")
    if scale != "lin-lin":
        axes.set_xscale("log")
    if scale == "log-log":
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.3 * float(bars.heights[bars.heights > 0.0].min()))
    axes.set_ylabel("density of log₁₀ λ" if scale == "log-lin" else "density of λ")
    return len(shown)


def _density(shown: NDArray[np.float64], scale: str, n_all: int) -> Histogram:
    low, high = float(shown[0]), float(shown[-1])
    if scale == "lin-lin":
        return histogram(shown, linear_edges(min(low, 0.0), high, MAX_BINS), n_all=n_all)
    edges = log_edges(low, high, count_bins(len(shown)))
    return histogram(shown, edges, n_all=n_all, per="decade" if scale == "log-lin" else "unit")


def _draw_fit(
    axes: Axes, fit: PowerLawFit | TruncatedPowerLawFit, evals: NDArray[np.float64], scale: str, *, n_fitted: int
) -> None:
    x = log_edges(fit.xmin, fit.xmax, N_CURVE)
    density = tail_density(fit, x) * (fit.n_tail / n_fitted)
    if scale == "log-lin":
        density = density * x * np.log(10.0)
    law = "truncated power law" if isinstance(fit, TruncatedPowerLawFit) else "power law"
    bottom = axes.get_ylim()[0]
    axes.plot(x, density, color=FIT, label=f"{law}, {fit.n_tail} in the tail")
    # The data say how far down the picture goes: a curve may fall far below the last bar.
    axes.set_ylim(bottom=bottom)
    axes.axvline(fit.xmin, color=MARK, linestyle="--", linewidth=1.0, label=f"xmin = {number(fit.xmin)}")
    n_above = int(np.count_nonzero(evals > fit.xmax))
    if n_above:
        label = f"end of the fit, {n_above} beyond"
        axes.axvline(fit.xmax, color=BOUND, linestyle=":", linewidth=1.5, label=label)
