"""Report type -> renderer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from pytest_weightwatcher.report.badge import render_badge
from pytest_weightwatcher.report.benchmark import render_benchmark
from pytest_weightwatcher.report.html import render_html
from pytest_weightwatcher.report.json_text import write_json
from pytest_weightwatcher.report.markdown import render_markdown
from pytest_weightwatcher.report.sarif import render_sarif

Result = Mapping[str, Any]


_N_LEVELS = 4
"""Result, models, model, its lists: what is below, a layer or a check, has a line of its own."""


def render_json(result: Result) -> str:
    """Return the result itself as strict JSON: no NaN, keys in their order, a line for each layer and each check."""
    return write_json(result, n_levels=_N_LEVELS)


RENDERERS: Mapping[str, Callable[[Result], str]] = MappingProxyType(
    {
        "json": render_json,
        "md": render_markdown,
        "html": render_html,
        "sarif": render_sarif,
        "benchmark": render_benchmark,
        "badge": render_badge,
    }
)


def render(kind: str, result: Result) -> str:
    """Render a result as one of :data:`RENDERERS`."""
    return RENDERERS[kind](result)
