"""``python -m tests.gate.golden``: write the golden files anew."""

from __future__ import annotations

from tests.gate.golden import FOLDER, update

if __name__ == "__main__":
    changed = update()
    for name in changed:
        print(f"written: {FOLDER / name}")
    print(f"{len(changed)} changed")
