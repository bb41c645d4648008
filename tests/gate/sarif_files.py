"""Write SARIF reports of synthetic results, for ``make sarif``: ``python -m tests.gate.sarif_files HOSTILE LARGE``."""

from __future__ import annotations

import sys
from pathlib import Path

from pytest_weightwatcher.report.sarif import render_sarif
from tests.gate.synthetic_result import hostile_result, large_result


def main(hostile: str, large: str) -> None:
    for path, result in ((hostile, hostile_result()), (large, large_result())):
        Path(path).write_text(render_sarif(result), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
