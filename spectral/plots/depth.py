"""Alpha along the depth of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spectral.fits import FitFailure
from spectral.metrics import OVER_TRAINED_BELOW, UNDER_TRAINED_ABOVE
from spectral.plots.labels import shortened, write_reason, write_title
from spectral.plots.style import BULK, DATA, FAINT, FIT, RANDOM, axes_for, figure_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from spectral.analysis import Analysis
    from spectral.layer_analysis import LayerAnalysis
    from spectral.power_law import PowerLawFit
    from spectral.truncated_power_law import TruncatedPowerLawFit

    Fitted = tuple[int, PowerLawFit | TruncatedPowerLawFit]

HIGHEST = 12.0
"""The axis ends here at the latest; an alpha beyond it stands at the top, with its value."""

_MAX_NOTES = 8
"""More values than these beside one another cannot be read."""


def plot_alpha_by_depth(analysis: Analysis, *, ax: Axes | None = None) -> Figure:
    """Draw alpha of every layer with its standard error, in the order of the model.

    The band from 2 to 6 is that of well-trained layers. A layer without a fit is a cross at the bottom.

    Parameters
    ----------
    analysis : Analysis
        With any law.
    ax : matplotlib.axes.Axes, optional
        Where to draw; default a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        Neither shown nor saved.

    Raises
    ------
    MissingDependencyError
        matplotlib is not installed.
    """
    with axes_for(ax) as axes:
        fitted = [(layer.spec.index, layer.fit) for layer in analysis.layers if not isinstance(layer.fit, FitFailure)]
        failed = [layer for layer in analysis.layers if isinstance(layer.fit, FitFailure)]
        numbers = _numbers(analysis, len(fitted))
        write_title(axes, lambda length: f"{shortened(analysis.description.source.label, length)}\n{numbers}")
        if not analysis.layers:
            write_reason(axes, "no layer was analysed")
            return figure_of(axes)
        top = _top([fit.alpha for _, fit in fitted])
        axes.axhspan(OVER_TRAINED_BELOW, UNDER_TRAINED_ABOVE, color=BULK, alpha=0.12, linewidth=0, label="2 ≤ α ≤ 6")
        for label, color, chosen in _groups(fitted):
            _draw_points(axes, [entry for entry in chosen if entry[1].alpha <= top], color, label)
        _draw_beyond(axes, [entry for entry in fitted if entry[1].alpha > top], top)
        _draw_failures(axes, failed)
        axes.set_ylim(0.0, 1.06 * top)
        axes.set_xlabel("layer_id, in the order of the model")
        axes.locator_params(axis="x", integer=True)
        axes.set_ylabel("α ± σ")
        axes.legend(loc="best")
        return figure_of(axes)


def _numbers(analysis: Analysis, n_fitted: int) -> str:
    n_layers = len(analysis.layers)
    mean = analysis.summary.get("alpha")
    return f"{n_fitted} of {n_layers} layers fitted" + ("" if mean is None else f" · mean α = {mean:.2f}")


def _top(alphas: list[float]) -> float:
    inside = [alpha for alpha in alphas if alpha <= HIGHEST]
    return HIGHEST if len(inside) < len(alphas) else 1.15 * max([UNDER_TRAINED_ABOVE, *inside])


def _groups(fitted: list[Fitted]) -> list[tuple[str, str, list[Fitted]]]:
    return [
        (
            "well-trained",
            DATA,
            [entry for entry in fitted if OVER_TRAINED_BELOW <= entry[1].alpha <= UNDER_TRAINED_ABOVE],
        ),
        ("over-trained, α < 2", FIT, [entry for entry in fitted if entry[1].alpha < OVER_TRAINED_BELOW]),
        ("under-trained, α > 6", RANDOM, [entry for entry in fitted if entry[1].alpha > UNDER_TRAINED_ABOVE]),
    ]


def _draw_points(axes: Axes, chosen: list[Fitted], color: str, label: str) -> None:
    if not chosen:
        return
    axes.errorbar(
        [place for place, _ in chosen],
        [fit.alpha for _, fit in chosen],
        yerr=[fit.sigma for _, fit in chosen],
        fmt="o",
        markersize=4,
        capsize=2,
        linewidth=1.0,
        color=color,
        label=label,
    )


def _draw_beyond(axes: Axes, chosen: list[Fitted], top: float) -> None:
    if not chosen:
        return
    places = [place for place, _ in chosen]
    axes.plot(
        places, [top] * len(places), marker="^", color=RANDOM, linestyle="none", label=f"α > {top:.3g}, not to scale"
    )
    for place, fit in chosen[:_MAX_NOTES]:
        axes.annotate(f"{fit.alpha:.3g}", (place, top), xytext=(4, -2), textcoords="offset points", fontsize=7)


def _draw_failures(axes: Axes, failed: list[LayerAnalysis]) -> None:
    if not failed:
        return
    axes.plot(
        [layer.spec.index for layer in failed],
        [0.03] * len(failed),
        transform=axes.get_xaxis_transform(),
        marker="x",
        color=FAINT,
        linestyle="none",
        label=f"no fit: {len(failed)}",
    )
