"""CSV, JSON and Markdown, for programs and for a comment on a pull request."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

from pytest_weightwatcher.console.cells import format_cell, format_csv, heading, is_numeric
from pytest_weightwatcher.console.document import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_weightwatcher.console.document import Document, Section, Value

_NAMES = ("longname", "tensor")


def render_json(document: Document) -> str:
    """Return strict JSON: no NaN, and in ASCII, so that no name in it can act on a terminal."""
    return json.dumps(document.payload, indent=1, allow_nan=False) + "\n"


def render_csv(document: Document) -> str:
    """Return the layers of all models, one row each, with every digit."""
    columns = list(dict.fromkeys(column for section in document.sections for column in section.layers.columns))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["model", *columns])
    for section in document.sections:
        for row in (*section.layers.rows, *section.others):
            writer.writerow([format_csv(section.model), *(format_csv(row.get(column)) for column in columns)])
    return stream.getvalue()


def render_markdown(document: Document) -> str:
    """Return GitHub-flavoured Markdown, in which no name is a mark."""
    return "\n".join(_section_markdown(section) for section in document.sections)


def _section_markdown(section: Section) -> str:
    from pytest_weightwatcher.report.escaping import format_code

    parts = (*section.before, section.layers, *section.after)
    blocks = [_table_markdown(part) if isinstance(part, Table) else _text_markdown(part) for part in parts]
    return "\n\n".join([f"### {format_code(section.model)}", *blocks]) + "\n"


def _table_markdown(table: Table) -> str:
    columns = table.in_order(table.columns if table.shown is None else table.shown)
    title = f"{_text_markdown(table.title)}\n\n" if table.title else ""
    if not table.rows:
        return f"{title}(none)"
    lines = [
        _line([_text_markdown(heading(column)) for column in columns]),
        _line(["--:" if is_numeric(row.get(column) for row in table.rows) else "---" for column in columns]),
        *(_line([_cell_markdown(column, row.get(column)) for column in columns]) for row in table.rows),
    ]
    return title + "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell_markdown(column: str, value: Value) -> str:
    from pytest_weightwatcher.report.escaping import format_code

    if column in _NAMES and isinstance(value, str):
        return str(format_code(value))
    return _text_markdown(format_cell(column, value))


def _text_markdown(text: str) -> str:
    from pytest_weightwatcher.report.escaping import format_text

    return str(format_text(text))
