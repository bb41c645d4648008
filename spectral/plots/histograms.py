"""Histograms of eigenvalues, normalised to the whole spectrum whether all of it is shown or not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from spectral.power_law import EVALS_THRESHOLD

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

MAX_BINS = 100
MIN_BINS = 10

MIN_SPREAD = 1e-6
"""Values that differ by less than this share have no width that could be divided into bins, or drawn."""

_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Histogram:
    """Heights over bins.

    Attributes
    ----------
    edges : ndarray of float64, shape (n_bins + 1,)
        Ascending.
    heights : ndarray of float64, shape (n_bins,)
        Share of all values per unit, or per decade.
    """

    edges: NDArray[np.float64] = field(repr=False)
    heights: NDArray[np.float64] = field(repr=False)


def count_bins(n_values: int) -> int:
    """Return 2√n, from 10 to 100: on average at least √n/2 values in each."""
    return int(np.clip(2.0 * np.sqrt(n_values), MIN_BINS, MAX_BINS))


def linear_edges(low: float, high: float, n_bins: int) -> NDArray[np.float64]:
    """Return the edges of bins of one width."""
    if not high - low > MIN_SPREAD * max(abs(low), abs(high)):
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    return np.linspace(low, high, n_bins + 1)


def log_limits(low: float, high: float) -> tuple[float, float]:
    """Return the ends of a logarithmic axis, widened where they are equal to rounding."""
    return (low, high) if high > low * (1.0 + MIN_SPREAD) else (0.5 * low, 2.0 * high)


def log_edges(low: float, high: float, n_bins: int) -> NDArray[np.float64]:
    """Return the edges of bins of one width on a logarithmic scale; both ends positive."""
    low, high = log_limits(low, high)
    edges = np.exp(np.linspace(np.log(low), np.log(high), n_bins + 1))
    # Rounding must not leave the ends outside.
    edges[0], edges[-1] = low, high
    return np.asarray(edges, dtype=np.float64)


def histogram(
    values: NDArray[np.float64], edges: NDArray[np.float64], *, n_all: int, per: Literal["unit", "decade"] = "unit"
) -> Histogram:
    """Count values in bins, as a density.

    Parameters
    ----------
    values : ndarray of float64, shape (n,)
        Those outside the edges are not shown.
    edges : ndarray of float64
        Of the bins.
    n_all : int
        Size of the whole: the histogram integrates to the share of it that is shown.
    per : {"unit", "decade"}
        Density of λ, or of log10 λ.
    """
    counts, _ = np.histogram(values, edges)
    widths = np.diff(np.log10(edges)) if per == "decade" else np.diff(edges)
    return Histogram(edges=edges, heights=counts / (n_all * widths))


def shown_on_log_scale(evals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the eigenvalues that a logarithmic axis can show: those that a fit looks at, where there are any.

    Zeros to rounding would stretch the axis over dozens of decades.
    """
    largest = float(evals[-1])
    lowest = EVALS_THRESHOLD if largest > EVALS_THRESHOLD else largest * len(evals) * _EPS
    return np.asarray(evals[evals > lowest], dtype=np.float64)


def draw_histogram(axes: Axes, bars: Histogram, *, color: str, label: str, alpha: float = 0.35) -> None:
    """Draw the bars as one outline, filled."""
    axes.stairs(bars.heights, bars.edges, fill=True, color=color, alpha=alpha, linewidth=0, label=label)
    axes.stairs(bars.heights, bars.edges, color=color, linewidth=0.8)
