"""How every picture looks, and the figures they are drawn on.

Nothing here touches matplotlib's global state for longer than a picture takes: no pyplot, no backend, no window. The
caller's own settings (a dark style, LaTeX for all text) neither change the pictures nor are changed by them.
"""

from __future__ import annotations

from contextlib import contextmanager
from io import BytesIO
from threading import RLock
from typing import TYPE_CHECKING, Any

from spectral.errors import MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURE_SIZE = (6.0, 4.0)
"""Inches; at DPI dots each."""

DPI = 100

MINOR_LABEL_SIZE = 6.0

# The colours of Okabe and Ito, which the colour-blind can tell apart (Wong, Nature Methods 8 (2011) 441).
DATA = "#0072B2"
FIT = "#D55E00"
RANDOM = "#E69F00"
BULK = "#009E73"
BOUND = "#CC79A7"
MARK = "#000000"
FAINT = "#999999"

_STYLE: dict[str, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "figure.titlesize": 9.5,
    "axes.labelsize": 9.0,
    "legend.fontsize": 8.0,
    "legend.framealpha": 0.85,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
}

_LOCK = RLock()
"""Two threads that each set the style and put back what they found would leave one of them in the other's."""


@contextmanager
def axes_for(ax: Axes | None) -> Iterator[Axes]:
    """Give the axes to draw on: those given, or the only ones of a new figure."""
    if ax is not None:
        yield ax
        return
    with panels(1, 1) as (_, ((axes,),)):
        yield axes


def figure_of(axes: Axes) -> Figure:
    """Return the whole figure that axes are in, beyond all subfigures."""
    return axes.figure.canvas.figure


@contextmanager
def panels(n_rows: int, n_columns: int, **options: Any) -> Iterator[tuple[Figure, list[list[Axes]]]]:
    """Give a new figure with a table of axes; ``options`` are those of :meth:`matplotlib.figure.Figure.subplots`.

    Once the caller is done, the ticks exist, so that they look the same wherever the figure is drawn.
    """
    size = options.pop("size", FIGURE_SIZE)
    with house_style():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=size, dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        table = [list(row) for row in figure.subplots(n_rows, n_columns, squeeze=False, **options)]
        for axes in (axes for row in table for axes in row):
            # On a short logarithmic axis these get numbers, too, and would run into one another.
            axes.tick_params(which="minor", labelsize=MINOR_LABEL_SIZE)
        yield figure, table
        figure.draw_without_rendering()


@contextmanager
def house_style() -> Iterator[None]:
    """Set the style of the pictures for a while.

    Raises
    ------
    MissingDependencyError
        matplotlib is not installed.
    """
    try:
        from matplotlib import style
    except ImportError as error:
        raise MissingDependencyError("plots need matplotlib: pip install 'pytest-weightwatcher[plots]'") from error
    with _LOCK, style.context(["default", _STYLE]):
        yield


def render_png(figure: Figure) -> bytes:
    """Return a figure as a PNG file: the same bytes for the same figure, with neither date nor version in it."""
    stream = BytesIO()
    with house_style():
        figure.savefig(stream, format="png", dpi=figure.dpi, metadata={"Software": None})
    return stream.getvalue()
