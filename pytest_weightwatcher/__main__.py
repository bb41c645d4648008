"""``python -m pytest_weightwatcher`` is ``ww-gate``."""

from __future__ import annotations

import sys

from pytest_weightwatcher.console.main import main

if __name__ == "__main__":
    sys.exit(main())
