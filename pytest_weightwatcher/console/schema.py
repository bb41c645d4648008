"""``ww-gate schema``: the JSON Schema of ww.yaml."""

from __future__ import annotations


def schema_text() -> str:
    """Carry out ``schema``."""
    from pytest_weightwatcher.schema import render_schema

    return render_schema()
