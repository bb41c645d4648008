"""Report type -> renderer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from pytest_weightwatcher.report.html import render_html
from pytest_weightwatcher.report.markdown import render_markdown

Result = Mapping[str, Any]


def render_json(result: Result) -> str:
    """Return the result itself as strict JSON: no NaN, keys in their order."""
    return json.dumps(result, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


RENDERERS: Mapping[str, Callable[[Result], str]] = MappingProxyType(
    {"json": render_json, "md": render_markdown, "html": render_html}
)


def render(kind: str, result: Result) -> str:
    """Render a result as one of :data:`RENDERERS`."""
    return RENDERERS[kind](result)
