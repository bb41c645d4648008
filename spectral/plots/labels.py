"""Text on pictures: names from a checkpoint are not to be trusted with markup, line breaks or length."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from spectral.fits import FitFailure
from spectral.truncated_power_law import TruncatedPowerLawFit

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from spectral.layer_analysis import LayerAnalysis
    from spectral.weights import MatrixSpec

MAX_NAME = 72
"""Characters of a name at most."""

MIN_NAME = 8

MAX_REASON = 300
_REASON_WIDTH = 46
_TITLE_SHARE = 0.96
_LAST_ASCII, _FIRST_LATIN, _LAST_LATIN = 0x7E, 0xA1, 0x17F


def printable(text: str) -> str:
    """Return text on one line, with an escape in place of every character that is none of a Latin alphabet.

    Control characters would break the line, others have no glyph in matplotlib's own font.
    """
    return "".join(
        character if _has_glyph(character) else character.encode("unicode_escape").decode("ascii") for character in text
    )


def shortened(text: str, length: int = MAX_NAME) -> str:
    """Return printable text of at most so many characters: the start, and rather more of the end, which tells more."""
    # A long name is cut before it is escaped: ten thousand characters are not worth the work.
    if len(text) > 2 * length:
        text = text[:length] + text[-length:]
    text = printable(text)
    if len(text) <= length:
        return text
    n_last = (2 * length) // 3
    return f"{text[: length - n_last - 1]}…{text[len(text) - n_last :]}"


def layer_label(spec: MatrixSpec, length: int = MAX_NAME) -> str:
    """Return id and name of a layer, and the slice where it is one of several."""
    of_slice = f" (slice {spec.slice_id})" if spec.slice_id is not None and spec.rf > 1 else ""
    return f"{spec.index}: {shortened(spec.name, length)}{of_slice}"


def title_of(target: Axes | Figure, spec: MatrixSpec, numbers: str) -> None:
    """Set the title: the layer on one line, and its key numbers on the next."""
    write_title(target, lambda length: f"{layer_label(spec, length)}\n{numbers}")


def write_title(target: Axes | Figure, text_of: Callable[[int], str], length: int = MAX_NAME) -> None:
    """Set a title, its names cut to the length at which it fits; a dollar sign in it is a dollar sign.

    Parameters
    ----------
    target : Axes or Figure
        What it is the title of.
    text_of : callable
        Length of a name -> text.
    length : int
        Longest name.
    """
    from matplotlib.axes import Axes

    title = target.set_title("") if isinstance(target, Axes) else target.suptitle("")
    title.set_parse_math(False)
    title.set_text(text_of(length))
    while length > MIN_NAME and title.get_window_extent().width > _TITLE_SHARE * target.figure.bbox.width:
        length = max(MIN_NAME, (length * 9) // 10)
        title.set_text(text_of(length))


def fit_numbers(layer: LayerAnalysis) -> str:
    """Return the key numbers of the fit on one line, or that there is none."""
    fit = layer.fit
    if isinstance(fit, FitFailure):
        return "no fit"
    cutoff = f" · Λ = {fit.Lambda:.3g}" if isinstance(fit, TruncatedPowerLawFit) else ""
    return f"α = {fit.alpha:.2f} ± {fit.sigma:.2f}{cutoff} · D = {fit.D:.3f} · xmin = {number(fit.xmin)}"


def number(value: float) -> str:
    """Return a value with three figures, in powers of ten only where it is far from one."""
    return f"{value:.0f}" if 1e3 <= abs(value) < 1e5 else f"{value:.3g}"


def write_note(axes: Axes, text: str) -> None:
    """Write a remark into the upper left corner, above the data."""
    add_headroom(axes, 0.25)
    _write(axes, 0.02, 0.97, text, va="top", ha="left", fontsize=8)


def write_reason(target: Axes | Figure, text: str) -> None:
    """Write why there is nothing to see, in place of it."""
    from matplotlib.axes import Axes

    for axes in [target] if isinstance(target, Axes) else target.axes:
        axes.set_axis_off()
    _write(target, 0.5, 0.5, text, va="center", ha="center")


def add_headroom(axes: Axes, share: float) -> None:
    """Raise the upper end of the picture by a share of its height, on any scale."""
    transform = axes.yaxis.get_transform()
    low, high = transform.transform(axes.get_ylim())
    axes.set_ylim(top=float(transform.inverted().transform([high + share * (high - low)])[0]))


def _write(target: Axes | Figure, x: float, y: float, text: str, **options: Any) -> None:
    from matplotlib.axes import Axes

    lines = textwrap.fill(shortened(text, MAX_REASON), _REASON_WIDTH)
    box = {"boxstyle": "round", "facecolor": "white", "edgecolor": "#CCCCCC", "alpha": 0.85}
    if isinstance(target, Axes):
        options["transform"] = target.transAxes
    written = target.text(x, y, lines, parse_math=False, bbox=box, **options)
    # The axes do not shrink for it.
    written.set_in_layout(False)


def _has_glyph(character: str) -> bool:
    code = ord(character)
    return character >= " " and (code <= _LAST_ASCII or _FIRST_LATIN <= code <= _LAST_LATIN) and code != 0xAD
