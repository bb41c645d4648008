"""Tables for a terminal: as wide as it is, numbers on the right, and what does not fit named."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from pytest_weightwatcher.console.cells import display_width, format_cell, heading, is_numeric, shorten_name
from pytest_weightwatcher.console.document import Table
from pytest_weightwatcher.nodeids import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_weightwatcher.console.document import Document, Section

_GAP = 2
_MIN_NAME = 32
"""A layer's name is not shortened below this."""

_MIN_LINE = 20
"""Sentences are not broken below this."""

NAME = "longname"
_FIRST = ("layer_id", NAME)
"""Always there, whatever the width."""

_COLOURS = {
    "over-trained": "33",
    "under-trained": "33",
    "skipped": "2",
    "failed": "31",
    "not analysed": "2",
}
_BOLD = "1"


def render_text(document: Document, *, width: int | None = None, colour: bool = False) -> str:
    """Render a document for a terminal.

    Parameters
    ----------
    document : Document
        What to show.
    width : int, optional
        Places in a line; None: as many as it takes.
    colour : bool
        Mark headings and findings by ANSI colours.
    """
    text = "\n".join("\n".join(_section_lines(section, width, colour)) + "\n" for section in document.sections)
    return f"{text}\n{document.verbatim}" if document.verbatim else text


def _section_lines(section: Section, width: int | None, colour: bool) -> list[str]:
    lines = [_painted(printable(section.model), _BOLD, colour)]
    lines += _parts_lines(section.before, width, colour)
    lines += ["", *_table_lines(section.layers, width, colour)]
    if section.after:
        lines += ["", *_parts_lines(section.after, width, colour)]
    return lines


def _parts_lines(parts: Sequence[str | Table], width: int | None, colour: bool) -> list[str]:
    lines: list[str] = []
    for part in parts:
        if isinstance(part, Table):
            # A blank line around each table, none twice.
            lines += [*([""] if lines and lines[-1] else []), *_table_lines(part, width, colour), ""]
        else:
            lines += _wrapped(part, width)
    return lines[:-1] if lines and not lines[-1] else lines


def _table_lines(table: Table, width: int | None, colour: bool) -> list[str]:
    lines = _wrapped(table.title, width) if table.title else []
    if not table.rows:
        return [*lines, "(none)"]
    columns, hidden = _fitting_columns(table, width)
    cells = {column: [format_cell(column, row.get(column)) for row in table.rows] for column in columns}
    widths = {column: _column_width(column, cells[column]) for column in columns}
    if NAME in columns and width is not None:
        others = sum(widths[column] + _GAP for column in columns if column != NAME)
        widths[NAME] = min(widths[NAME], max(_MIN_NAME, width - others))
    right = {column: is_numeric(row.get(column) for row in table.rows) for column in columns}
    header = [_aligned(heading(column), widths[column], right=right[column]) for column in columns]
    lines.append(_painted((" " * _GAP).join(header).rstrip(), _BOLD, colour))
    for place in range(len(table.rows)):
        row = [
            _cell(_fitted(cells[column][place], column, widths[column]), widths[column], right[column], colour)
            for column in columns
        ]
        lines.append((" " * _GAP).join(row).rstrip())
    if hidden:
        names = ", ".join(map(heading, hidden))
        lines += _wrapped(f"No room for {names}: use a wider terminal, --columns or --format csv.", width)
    return lines


def _fitting_columns(table: Table, width: int | None) -> tuple[list[str], list[str]]:
    """Return the columns that fit, in their order, and those that do not, the most important first."""
    shown = table.shown if table.shown is not None else table.columns
    if width is None or not table.must_fit:
        return table.in_order(shown), []
    kept = [column for column in shown if column in _FIRST]
    used = sum(_least_width(table, column) + _GAP for column in kept) - _GAP
    hidden: list[str] = []
    for column in shown:
        if column in kept:
            continue
        used += _least_width(table, column) + _GAP
        if hidden or (used > width and kept):
            hidden.append(column)
        else:
            kept.append(column)
    return table.in_order(kept), hidden


def _least_width(table: Table, column: str) -> int:
    width = _column_width(column, [format_cell(column, row.get(column)) for row in table.rows])
    return min(width, _MIN_NAME) if column == NAME else width


def _column_width(column: str, cells: Sequence[str]) -> int:
    return max(display_width(heading(column)), *map(display_width, cells))


def _fitted(text: str, column: str, width: int) -> str:
    return shorten_name(text, width) if column == NAME else text


def _cell(text: str, width: int, right: bool, colour: bool) -> str:
    return _painted(_aligned(text, width, right=right), _COLOURS.get(text, ""), colour)


def _aligned(text: str, width: int, *, right: bool) -> str:
    padding = " " * (width - display_width(text))
    return padding + text if right else text + padding


def _wrapped(text: str, width: int | None) -> list[str]:
    shown = printable(text)
    if width is None:
        return [shown]
    return textwrap.wrap(shown, max(width, _MIN_LINE), break_on_hyphens=False, subsequent_indent="  ")


def _painted(text: str, code: str, colour: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colour and code else text
