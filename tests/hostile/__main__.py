"""Write all hostile checkpoints: ``python -m tests.hostile FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.hostile.files import CASES, write_case


def main() -> None:
    """Write them below the folder of the command line and print where."""
    for name in CASES:
        sys.stdout.write(f"{write_case(name, Path(sys.argv[1]))}\n")


if __name__ == "__main__":
    main()
