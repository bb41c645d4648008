"""Untrusted names and texts as Markdown in which no character is a mark."""

from __future__ import annotations

import html
import re
from decimal import Decimal
from typing import TYPE_CHECKING

from markupsafe import Markup

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_NAME = 120
MAX_TEXT = 600
_MAX_DIMENSIONS = 8
_MAX_DIGITS = 16
"""Longer whole numbers are told to four digits, too."""

_SPECIAL = re.compile(r"[^A-Za-z0-9 .,;=+%()^-]|(?<=www)\.", re.IGNORECASE)

_MENTIONS = "@#"
"""GitHub looks for people and issues in the text that readers see, whatever it was written as: a space of no width
keeps the sign from what follows."""


def format_code(name: str) -> Markup:
    """Return an untrusted name as inline code that can neither end the code nor the table cell."""
    return Markup(f"<code>{_entities(_cut(name, MAX_NAME))}</code>")  # noqa: S704 (every special character was made an entity)


def format_text(text: str) -> Markup:
    """Return untrusted text with every character that Markdown or HTML could read as a mark made an entity."""
    return Markup(_entities(_cut(text, MAX_TEXT)))  # noqa: S704 (every special character was made an entity)


def format_number(value: float | None) -> str:
    """Return a number to four digits, or a dash where there is none."""
    if value is None:
        return "–"
    try:
        return f"{value:.4g}"
    except OverflowError:
        # JSON has whole numbers beyond all floats.
        return f"{Decimal(value):.4g}"


def format_limit(limit: Mapping[str, float | None] | None) -> str:
    """Return bounds in as few signs as they need."""
    least, most = (limit or {}).get("min"), (limit or {}).get("max")
    if least is None or most is None:
        return format_number(most if least is None else least)
    return f"{format_number(least)} to {format_number(most)}"


def format_shape(shape: Sequence[int]) -> str:
    """Return the dimensions of a tensor."""
    rest = "x…" if len(shape) > _MAX_DIMENSIONS else ""
    return "x".join(str(size) for size in shape[:_MAX_DIMENSIONS]) + rest


def format_cell(cell: str | float | bool | None) -> Markup | str:
    """Return a cell of a plugin's table: numbers to four digits, all else as text that cannot act."""
    if isinstance(cell, str):
        return format_text(cell)
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    shown = str(cell)
    return shown if shown.removeprefix("-").isdecimal() and len(shown) <= _MAX_DIGITS else format_number(cell)


def split_paragraphs(text: str) -> list[str]:
    """Return the paragraphs of a text, each on one line."""
    return [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text) if paragraph.strip()]


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _entities(text: str) -> str:
    if text.isprintable():
        return _SPECIAL.sub(_entity, text)
    printable = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    return _SPECIAL.sub(_entity, printable)


def _entity(match: re.Match[str]) -> str:
    character = match.group()
    if character.isalpha():
        return html.escape(character)
    return f"&#{ord(character)};{'&#8203;' if character in _MENTIONS else ''}"
