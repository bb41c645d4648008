"""The Marchenko-Pastur law over the spectrum it was fitted to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spectral.errors import OptionError
from spectral.marchenko_pastur_law import marchenko_pastur_density, marchenko_pastur_edges, quarter_circle_curve
from spectral.plots.histograms import count_bins, draw_histogram, histogram, linear_edges
from spectral.plots.labels import add_headroom, title_of, write_note, write_reason
from spectral.plots.spectra import drawable_evals, drawable_twin
from spectral.plots.style import BULK, DATA, FIT, MARK, RANDOM, axes_for, figure_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from spectral.layer_analysis import LayerAnalysis
    from spectral.marchenko_pastur import MarchenkoPasturFit

N_CURVE = 400
VIEW = 2.0
"""The picture ends at so many times the bulk's upper edge; spikes further out are counted in a note."""

HEADROOM = 0.35


def plot_marchenko_pastur(layer: LayerAnalysis, *, randomized: bool = False, ax: Axes | None = None) -> Figure:
    """Draw the fitted Marchenko-Pastur law over the eigenvalues in units of their mean.

    For a square matrix the fit is that of the quarter circle to √x, and drawn as such.

    Parameters
    ----------
    layer : LayerAnalysis
        Of an analysis with ``mp_fit=True``, or with ``randomize=True`` for the twin.
    randomized : bool
        The fit to the randomised twin.
    ax : matplotlib.axes.Axes, optional
        Where to draw; default a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        Neither shown nor saved. Without a fit the spectrum is drawn with the reason.

    Raises
    ------
    OptionError
        The analysis has no such fit.
    MissingDependencyError
        matplotlib is not installed.
    """
    evals, fit, reason = _fitted(layer, randomized=randomized)
    with axes_for(ax) as axes:
        if isinstance(evals, str):
            title_of(axes, layer.spec, "no Marchenko-Pastur fit")
            write_reason(axes, evals)
            return figure_of(axes)
        title_of(axes, layer.spec, _numbers(layer, fit, randomized=randomized))
        is_square = layer.spec.Q == 1.0
        points = _transformed(evals / float(np.mean(evals)), is_square=is_square)
        end = _end_of_view(points, fit, is_square=is_square)
        bars = histogram(points, linear_edges(0.0, end, count_bins(len(points))), n_all=len(points))
        draw_histogram(axes, bars, color=RANDOM if randomized else DATA, label=f"{len(points)} eigenvalues")
        if fit is None:
            write_note(axes, f"no fit: {reason}")
        else:
            _draw_fit(axes, fit, points, is_square=is_square)
        n_beyond = int(np.count_nonzero(points > end))
        beyond = f"   ({n_beyond} beyond, up to {points[-1]:.3g})" if n_beyond else ""
        axes.set_xlim(0.0, end)
        # Room for the legend above a bulk that fills the picture.
        add_headroom(axes, HEADROOM)
        axes.set_xlabel(("√x, " if is_square else "") + "x = λ / mean λ" + beyond)
        axes.set_ylabel("density of √x" if is_square else "density of x")
        axes.legend(loc="best")
        return figure_of(axes)


def _fitted(
    layer: LayerAnalysis, *, randomized: bool
) -> tuple[NDArray[np.float64] | str, MarchenkoPasturFit | None, str]:
    """Return what was fitted, or why that cannot be drawn, the fit, and why there is none."""
    if randomized:
        return drawable_twin(layer), layer.twin_marchenko_pastur, layer.reasons.get("randomize", "")
    if layer.marchenko_pastur is None and "mp_fit" not in layer.reasons:
        raise OptionError(f"layer {layer.name[:200]!r} has no Marchenko-Pastur fit: analyze with mp_fit=True")
    return drawable_evals(layer), layer.marchenko_pastur, layer.reasons.get("mp_fit", "")


def _numbers(layer: LayerAnalysis, fit: MarchenkoPasturFit | None, *, randomized: bool) -> str:
    of_twin = "elements permuted · " if randomized else ""
    if fit is None:
        return f"{of_twin}Q = {layer.spec.Q:.3g} · no Marchenko-Pastur fit"
    spikes = f"{'num_traps' if randomized else 'num_spikes'} = {fit.n_spikes}"
    return f"{of_twin}Q = {fit.Q:.3g} · σ = {fit.sigma:.3f} · soft rank = {fit.softrank:.3f} · {spikes}"


def _transformed(x: NDArray[np.float64], *, is_square: bool) -> NDArray[np.float64]:
    return np.asarray(np.sqrt(x) if is_square else x, dtype=np.float64)


def _end_of_view(points: NDArray[np.float64], fit: MarchenkoPasturFit | None, *, is_square: bool) -> float:
    """Return where the picture ends: at the last value, or well above the bulk where that is earlier."""
    if fit is None:
        return 1.05 * float(points[-1])
    scale = fit.W_scale**2
    edge, threshold = _transformed(np.array([fit.bulk_max, fit.spike_threshold]) * scale, is_square=is_square)
    # The quarter circle ends at 2 whatever σ is.
    first = max(2.0, threshold) if is_square else threshold
    last = VIEW * (max(2.0, edge) if is_square else edge)
    return 1.05 * float(max(first, min(last, points[-1])))


def _draw_fit(axes: Axes, fit: MarchenkoPasturFit, points: NDArray[np.float64], *, is_square: bool) -> None:
    lower, upper = marchenko_pastur_edges(Q=fit.Q, sigma=fit.sigma)
    if is_square:
        x = np.linspace(0.0, 2.0, N_CURVE)
        axes.plot(x, quarter_circle_curve(x, sigma=fit.sigma), color=FIT, label="quarter circle")
    else:
        # The density leaves its edges vertically: more points there.
        x = lower + (upper - lower) * 0.5 * (1.0 - np.cos(np.linspace(0.0, np.pi, N_CURVE)))
        axes.plot(x, marchenko_pastur_density(x, Q=fit.Q, sigma=fit.sigma), color=FIT, label="Marchenko-Pastur")
    edge = np.sqrt(upper) if is_square else upper
    threshold = fit.spike_threshold * fit.W_scale**2
    threshold = np.sqrt(threshold) if is_square else threshold
    axes.axvline(edge, color=BULK, linestyle=":", linewidth=1.5, label=f"bulk edge = {edge:.3g}")
    axes.axvline(threshold, color=MARK, linestyle="--", linewidth=1.0, label=f"spikes from {threshold:.3g} on")
    spikes = points[points > threshold]
    axes.plot(
        spikes,
        np.full(len(spikes), 0.02),
        transform=axes.get_xaxis_transform(),
        marker="|",
        color=FIT,
        linestyle="none",
    )
