"""``ww-gate schema``: the JSON Schema of ww.yaml, or of a result file."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def schema_text(arguments: argparse.Namespace) -> str:
    """Carry out ``schema``."""
    if arguments.result:
        from pytest_weightwatcher.report.result_schema import render_result_schema

        return render_result_schema()
    from pytest_weightwatcher.schema import render_schema

    return render_schema()
