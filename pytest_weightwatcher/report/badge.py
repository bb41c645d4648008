"""A badge of shields.io, as the JSON that its endpoint reads."""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

LABEL = "checkpoint gate"
_COLOURS = MappingProxyType(
    {"pass": "brightgreen", "warn": "yellow", "fail": "red", "error": "red", "inconclusive": "lightgrey"}
)
_COUNTED = ("error", "fail", "warn")


def render_badge(result: Mapping[str, Any]) -> str:
    """Render a result as a shields.io endpoint badge: the outcome, and what somebody should look at.

    Parameters
    ----------
    result : mapping
        The result of a run; it is not changed.

    Returns
    -------
    str
        JSON text with ``schemaVersion`` 1, ``label``, ``message`` and ``color``.
    """
    badge = {"schemaVersion": 1, "label": LABEL, "message": _message(result), "color": _COLOURS[result["outcome"]]}
    return json.dumps(badge, indent=1) + "\n"


def _message(result: Mapping[str, Any]) -> str:
    found = [f"{result['counts'][verdict]} {verdict}" for verdict in _COUNTED if result["counts"][verdict]]
    if found:
        return ", ".join(found)
    passed = f", {result['counts']['pass']} checks" if result["outcome"] == "pass" else ""
    return f"{result['outcome']}{passed}"
