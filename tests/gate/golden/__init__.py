"""Golden files: one synthetic result with hostile names and every verdict, and all that is drawn from it.

``python -m tests.gate.golden`` writes them anew; look at the difference before it is committed. They hold no time, no
path and no version, and are the same bytes on every platform.
"""

from __future__ import annotations

from pathlib import Path

from pytest_weightwatcher.report import render
from pytest_weightwatcher.report.markdown import render_markdown
from tests.gate.synthetic_result import hostile_result

FOLDER = Path(__file__).parent
SMALL_BUDGET = 4000


def golden_texts() -> dict[str, str]:
    """Return file name -> text of every golden file."""
    result = hostile_result()
    return {
        "result.json": render("json", result),
        "report.md": render("md", result),
        f"report-{SMALL_BUDGET}.md": render_markdown(result, budget=SMALL_BUDGET),
        "report.sarif": render("sarif", result),
        "benchmark.json": render("benchmark", result),
        "badge.json": render("badge", result),
    }


def update() -> list[str]:
    """Write the golden files that differ, and return their names."""
    changed = []
    for name, text in golden_texts().items():
        path, content = FOLDER / name, text.encode("utf-8")
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
            changed.append(name)
    return changed
