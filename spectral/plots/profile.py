"""What the fit of the power law chose from: distance and exponent of every xmin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spectral.errors import OptionError
from spectral.fits import FitFailure
from spectral.metrics import OVER_TRAINED_BELOW, UNDER_TRAINED_ABOVE
from spectral.plots.esd import EVAL_LABEL
from spectral.plots.labels import fit_numbers, number, title_of, write_note, write_reason
from spectral.plots.spectra import drawable_evals
from spectral.plots.style import BULK, DATA, MARK, panels
from spectral.power_law import PowerLawProfile, power_law_profile
from spectral.truncated_power_law import TruncatedPowerLawFit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from spectral.layer_analysis import LayerAnalysis

MIN_SHOWN_TAIL = 10
"""Exponents of shorter tails do not decide the height of the picture."""


def plot_xmin_profile(layer: LayerAnalysis) -> Figure:
    """Draw the Kolmogorov-Smirnov distance D, and alpha with its standard error, against xmin.

    Takes a time that grows with the square of the number of eigenvalues: 0.1 s for 4,096.

    Parameters
    ----------
    layer : LayerAnalysis
        With the fit of a plain power law, or with none.

    Returns
    -------
    matplotlib.figure.Figure
        Neither shown nor saved. Without a fit the curves are drawn where they exist, with the reason.

    Raises
    ------
    OptionError
        The fit is that of another law, of which these curves say nothing.
    MissingDependencyError
        matplotlib is not installed.
    """
    fit = layer.fit
    if isinstance(fit, TruncatedPowerLawFit) or (not isinstance(fit, FitFailure) and fit.is_bounded):
        raise OptionError(
            "the profile over xmin is that of the plain power law: analyze with fit='PL' and no xmax='force'"
        )
    with panels(2, 1, sharex=True) as (figure, ((top,), (bottom,))):
        title_of(figure, layer.spec, fit_numbers(layer))
        found = _profile(layer)
        if isinstance(found, str):
            write_reason(figure, found)
            return figure
        profile, n_tail = found
        _draw_distances(top, profile)
        _draw_exponents(bottom, profile, n_tail)
        if isinstance(fit, FitFailure):
            write_note(top, f"no fit: {fit.detail}")
        else:
            for axes, value in ((top, fit.D), (bottom, fit.alpha)):
                axes.axvline(fit.xmin, color=MARK, linestyle="--", linewidth=1.0, label=f"xmin = {number(fit.xmin)}")
                axes.plot([fit.xmin], [value], marker="o", color=MARK, markersize=4, linestyle="none")
        for axes in (top, bottom):
            axes.legend(loc="best")
        return figure


def _profile(layer: LayerAnalysis) -> tuple[PowerLawProfile, NDArray[np.float64]] | str:
    """Return the profile with the size of each tail, or why there is none."""
    evals = drawable_evals(layer)
    if isinstance(evals, str):
        return evals
    evals = layer.fitted_evals
    if not isinstance(layer.fit, FitFailure):
        # What the fit left out (xmax, clipped fingers) is not in the profile either.
        evals = evals[evals <= layer.fit.xmax]
    profile = power_law_profile(evals, min_evals=2)
    if isinstance(profile, FitFailure):
        return profile.detail
    return profile, (len(evals) - np.searchsorted(evals, profile.xmins)).astype(np.float64)


def _draw_distances(axes: Axes, profile: PowerLawProfile) -> None:
    axes.plot(profile.xmins, profile.distances, color=DATA, linewidth=1.0, label="distance of tail and fit")
    axes.set_xscale("log")
    axes.set_ylim(bottom=0.0)
    axes.set_ylabel("D (KS distance)")


def _draw_exponents(axes: Axes, profile: PowerLawProfile, n_tail: NDArray[np.float64]) -> None:
    alphas = profile.alphas
    error = (alphas - 1.0) / np.sqrt(n_tail)
    axes.axhspan(OVER_TRAINED_BELOW, UNDER_TRAINED_ABOVE, color=BULK, alpha=0.12, linewidth=0, label="2 ≤ α ≤ 6")
    axes.fill_between(profile.xmins, alphas - error, alphas + error, color=DATA, alpha=0.25, linewidth=0)
    axes.plot(profile.xmins, alphas, color=DATA, linewidth=1.0, label="α ± σ")
    long = alphas[n_tail >= MIN_SHOWN_TAIL]
    axes.set_ylim(1.0, 1.2 * max(UNDER_TRAINED_ABOVE, float(long.max()) if len(long) else 0.0))
    axes.set_ylabel("α")
    axes.set_xlabel(f"xmin, {EVAL_LABEL}")
