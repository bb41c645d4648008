"""Text on pictures: names from a checkpoint are not to be trusted with markup, line breaks or length."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from spectral.fits import FitFailure
from spectral.truncated_power_law import TruncatedPowerLawFit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from spectral.layer_analysis import LayerAnalysis
    from spectral.weights import MatrixSpec

MAX_NAME = 72
"""Characters of a name at most."""

MAX_REASON = 400
_REASON_WIDTH = 64
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
    """Set the title: the layer on one line, which is cut until it fits, and its key numbers on the next."""
    text = write_title(target, layer_label(spec))
    length = MAX_NAME
    while length > 8 and text.get_window_extent().width > _TITLE_SHARE * text.figure.bbox.width:
        length = (length * 9) // 10
        text.set_text(layer_label(spec, length))
    text.set_text(f"{text.get_text()}\n{numbers}")


def write_title(target: Axes | Figure, text: str) -> Any:
    """Set a title as it stands: a dollar sign in it is a dollar sign."""
    from matplotlib.axes import Axes

    title = target.set_title(text) if isinstance(target, Axes) else target.suptitle(text)
    title.set_parse_math(False)
    return title


def fit_numbers(layer: LayerAnalysis) -> str:
    """Return the key numbers of the fit on one line, or that there is none."""
    fit = layer.fit
    if isinstance(fit, FitFailure):
        return "no fit"
    cutoff = f" · Λ = {fit.Lambda:.3g}" if isinstance(fit, TruncatedPowerLawFit) else ""
    return f"α = {fit.alpha:.2f} ± {fit.sigma:.2f}{cutoff} · D = {fit.D:.3f} · xmin = {fit.xmin:.3g}"


def write_note(axes: Axes, text: str) -> None:
    """Write a remark into the upper left corner."""
    _write(axes, 0.02, 0.97, text, va="top", ha="left", fontsize=8)


def write_reason(axes: Axes, text: str) -> None:
    """Write why there is nothing to see, in place of it."""
    axes.set_axis_off()
    _write(axes, 0.5, 0.5, text, va="center", ha="center")


def _write(axes: Axes, x: float, y: float, text: str, **options: Any) -> None:
    lines = textwrap.fill(shortened(text, MAX_REASON), _REASON_WIDTH)
    box = {"boxstyle": "round", "facecolor": "white", "edgecolor": "#CCCCCC", "alpha": 0.85}
    axes.text(x, y, lines, transform=axes.transAxes, parse_math=False, bbox=box, **options)


def _has_glyph(character: str) -> bool:
    code = ord(character)
    return character >= " " and (code <= _LAST_ASCII or _FIRST_LATIN <= code <= _LAST_LATIN) and code != 0xAD
