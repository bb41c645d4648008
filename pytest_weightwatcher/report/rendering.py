"""Report type -> renderer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from pytest_weightwatcher.report.badge import render_badge
from pytest_weightwatcher.report.benchmark import render_benchmark
from pytest_weightwatcher.report.markdown import render_markdown
from pytest_weightwatcher.report.sarif import render_sarif

Result = Mapping[str, Any]


def render_json(result: Result) -> str:
    """Return the result itself as strict JSON: no NaN, keys in their order."""
    text = json.dumps(result, indent=1, allow_nan=False, ensure_ascii=False)
    # Half a surrogate pair has no UTF-8; as an escape JSON can hold it.
    return text.encode("utf-8", "backslashreplace").decode("utf-8") + "\n"


RENDERERS: Mapping[str, Callable[[Result], str]] = MappingProxyType(
    {
        "json": render_json,
        "md": render_markdown,
        "sarif": render_sarif,
        "benchmark": render_benchmark,
        "badge": render_badge,
    }
)


def render(kind: str, result: Result) -> str:
    """Render a result as one of :data:`RENDERERS`."""
    return RENDERERS[kind](result)
