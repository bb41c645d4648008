"""Single values as text. Names come from checkpoints, which are not trusted."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

from pytest_weightwatcher.nodeids import printable
from pytest_weightwatcher.wording import LEAST_P_VALUE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_weightwatcher.console.document import Value

HEADINGS = {
    "layer_id": "id",
    "longname": "layer",
    "layer_type": "type",
    "num_evals": "evals",
    "relative_change": "change",
    "num_intruders": "intruders",
}
"""Column -> what people read above it; either is understood on the command line."""

MAX_TEXT = 300
"""Characters of a text that a table shows."""

_FORMULA_STARTS = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
"""A spreadsheet takes text that begins so for a formula (OWASP, CSV Injection; the last four are full width)."""


def heading(column: str) -> str:
    """Return what stands above a column."""
    return HEADINGS.get(column, column)


def format_value(value: Value) -> str:
    """Return a value for people: numbers to four digits, one line, nothing that could act on a terminal."""
    if value is None:
        return "-"
    if isinstance(value, tuple):
        return format_shape(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "0" if value == 0.0 else f"{value:#.4g}".removesuffix(".")
    if isinstance(value, int):
        return str(value)
    text = printable(value)
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"


def format_cell(column: str, value: Value) -> str:
    """Return the value of a column for people; a p-value too small for a float is no zero."""
    is_vanishing = "p_value" in column and isinstance(value, float) and value < LEAST_P_VALUE
    return f"<{LEAST_P_VALUE:g}" if is_vanishing else format_value(value)


def format_csv(value: Value) -> str:
    """Return a value for a program: every digit, empty where there is none; no text is a formula to a spreadsheet."""
    if value is None:
        return ""
    if isinstance(value, tuple):
        return format_shape(value)
    if not isinstance(value, str):
        return str(value)
    text = printable(value)
    return f"'{text}" if text.lstrip().startswith(_FORMULA_STARTS) else text


def is_numeric(values: Iterable[Value]) -> bool:
    """Tell whether a column holds nothing but numbers, as far as it holds anything."""
    return all(value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)) for value in values)


def format_shape(shape: tuple[int, ...]) -> str:
    """Return a shape as ``384x1536``."""
    return "x".join(map(str, shape))


def display_width(text: str) -> int:
    """Return how many places a terminal takes for a text: two for wide characters, none for combining ones."""
    if text.isascii():
        return len(text)
    return sum(map(_width_of, text))


def _width_of(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def shorten_name(name: str, width: int) -> str:
    """Abbreviate a layer's name that is too wide: its first parts to their first letters, as far as it takes.

    Numbers stay whole: ``encoder.layer.11.attention.self.key`` becomes ``e.layer.11.attention.self.key``.
    """
    parts = name.split(".")
    for place, part in enumerate(parts[:-1]):
        if display_width(".".join(parts)) <= width:
            break
        parts[place] = part if part.isdecimal() else part[:1]
    return shorten(".".join(parts), width)


def shorten(text: str, width: int) -> str:
    """Cut the middle out of a text that is too wide."""
    if display_width(text) <= width:
        return text
    if width <= 1:
        return "…"[:width]
    head = (width - 1) // 2
    return f"{_fitting(text, head)}…{_fitting(text[::-1], width - 1 - head)[::-1]}"


def _fitting(text: str, width: int) -> str:
    """Return as much of the beginning as fits."""
    used = 0
    for place, character in enumerate(text):
        used += _width_of(character)
        if used > width:
            return text[:place]
    return text
