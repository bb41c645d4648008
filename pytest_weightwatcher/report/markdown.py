"""The Markdown report, for a comment or a job summary."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from pytest_weightwatcher.report.ranking import findings_of, rank_layers
from pytest_weightwatcher.report.templates import make_environment

if TYPE_CHECKING:
    from collections.abc import Mapping

COMMENT_BUDGET = 65_536 - 2_048
SUMMARY_BUDGET = 1_048_576 - 2_048

MAX_ROWS = 50
"""Rows of a table before the rest is only counted."""

_SPECIAL = re.compile(r"[^A-Za-z0-9 .,;=+%()^-]")
_MAX_NAME = 120


def render_markdown(result: Mapping[str, Any], *, budget: int = COMMENT_BUDGET) -> str:  # noqa: ARG001
    """Render a result as GitHub-flavoured Markdown."""
    environment = make_environment()
    environment.filters["code"] = format_code
    environment.filters["text"] = format_text
    environment.filters["number"] = format_number
    environment.filters["paragraphs"] = split_paragraphs
    environment.filters["cell"] = format_cell
    template = environment.get_template("report.md.jinja")
    models = [
        {
            "model": model,
            "findings": findings_of(model),
            "layers": rank_layers(model)[:MAX_ROWS],
            "n_hidden_layers": max(0, len(model["layers"]) - MAX_ROWS),
        }
        for model in result["models"]
    ]
    return template.render(result=result, models=models, sections=result.get("sections", ()), max_rows=MAX_ROWS)


def format_code(name: str) -> Markup:
    """Return an untrusted name as inline code that can neither end the code nor the table cell."""
    shown = name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 1]}…"
    return Markup(f"<code>{_entities(shown)}</code>")  # noqa: S704 (every special character was made an entity)


def format_text(text: str) -> Markup:
    """Return untrusted text with every character that Markdown or HTML could read as a mark made an entity."""
    return Markup(_entities(text))  # noqa: S704 (every special character was made an entity)


def format_number(value: float | None) -> str:
    """Return a number to four digits, or a dash where there is none."""
    return "–" if value is None else f"{value:.4g}"


def format_cell(cell: str | float | bool | None) -> Markup | str:
    """Return a cell of a plugin's table: numbers to four digits, all else as text that cannot act."""
    if isinstance(cell, str):
        return format_text(cell)
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return str(cell) if isinstance(cell, int) else format_number(cell)


def split_paragraphs(text: str) -> list[str]:
    """Return the paragraphs of a text, each on one line."""
    return [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text) if paragraph.strip()]


def _entities(text: str) -> str:
    def entity(match: re.Match[str]) -> str:
        character = match.group()
        return html.escape(character) if character.isalpha() else f"&#{ord(character)};"

    printable = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    return _SPECIAL.sub(entity, printable)
