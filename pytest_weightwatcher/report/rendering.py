"""Report type -> renderer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from pytest_weightwatcher.report.html import render_html
from pytest_weightwatcher.report.markdown import render_markdown

Result = Mapping[str, Any]


def render_json(result: Result) -> str:
    """Return the result itself as strict JSON: no NaN, keys in their order, lists of numbers on one line."""
    text = json.dumps(result, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    return _NUMBERS.sub(lambda found: f"[{', '.join(_COMMA.split(found.group(1)))}]", text)


# A line break inside of a string is written as an escape, so that a real one is never part of a name.
_NUMBERS = re.compile(r"\[\n\s+(-?[0-9][-+.,0-9eE\s]*?)\n\s*\]")
_COMMA = re.compile(r",\n\s+")


RENDERERS: Mapping[str, Callable[[Result], str]] = MappingProxyType(
    {"json": render_json, "md": render_markdown, "html": render_html}
)


def render(kind: str, result: Result) -> str:
    """Render a result as one of :data:`RENDERERS`."""
    return RENDERERS[kind](result)
