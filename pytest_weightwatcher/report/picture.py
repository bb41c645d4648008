"""Alpha by depth in signs of text: no host, no script, no name in it, and it reads the same in a mail.

A chart of mermaid was the alternative: it is drawn in the browser by a script, takes names that would have to be
escaped for one more language, and is not legible beyond some 60 layers. The scale is the same in every report, so that
two of them can be compared, and its steps are those of the usual band from 2 to 6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Layer = Mapping[str, Any]

SIGNS = "▁▂▃▄▅▆▇█"
NO_FIT = "·"
WIDTH = 60
"""Layers on a line."""

_LOWEST = 1
_MARKS = {"error": "x", "fail": "x", "warn": "!"}


def picture_lines(layers: Sequence[Layer]) -> list[str]:
    """Return one or two lines of text for each :data:`WIDTH` layers: their alphas, and marks below findings.

    Parameters
    ----------
    layers : sequence of mapping
        In the order of the model, each with ``metrics`` and its worst ``verdict``.

    Returns
    -------
    list of str
        Each ends in a line break, and begins with the number, from 1, of its first layer.
    """
    width = len(str(len(layers)))
    lines = []
    for start in range(0, len(layers), WIDTH):
        chosen = layers[start : start + WIDTH]
        signs = "".join(sign_of(layer["metrics"].get("alpha")) for layer in chosen)
        marks = "".join(_MARKS.get(layer["verdict"], " ") for layer in chosen).rstrip()
        lines.append(f"{start + 1:>{width}} {signs}\n" + (f"{'':{width}} {marks}\n" if marks else ""))
    return lines


def sign_of(alpha: float | None) -> str:
    """Return the sign of an alpha: below 2, one unit each up to 8, and beyond."""
    if alpha is None:
        return NO_FIT
    return SIGNS[int(min(max(alpha, _LOWEST) - _LOWEST, len(SIGNS) - 1))]
