"""``python -I action STEP``: put this checkout on the path and carry out one step of the Action."""

from __future__ import annotations

import sys
from pathlib import Path

OLDEST_PYTHON = (3, 10)


def run() -> int:
    """Carry out the step that the command line names and return its exit code."""
    if sys.version_info[:2] < OLDEST_PYTHON:
        sys.stdout.write("::error title=ww-gate::Python 3.10 or newer is needed: put actions/setup-python before\n")
        return 1
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from action.steps import main

    return main(sys.argv[1:])


if __name__ == "__main__":
    raise SystemExit(run())
