"""Hostile checkpoints end in exit code 4, or in an error of one layer; at once, in little memory, with nothing done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.files import CASES
from tests.hostile.torch_files import PICKLES

LONGEST_SECONDS = 5.0
FORMATS = sorted({name.partition(" ")[0] for name in CASES})

ERRORS_OF_LAYERS = ("codes ", "npy objects", "gguf unknown type")
"""Their headers are sound: what is wrong is found in a layer, or there is none to check."""


def test_there_are_enough() -> None:
    assert len(CASES) >= 60


@pytest.mark.parametrize("kind", FORMATS)
def test_every_hostile_file_is_refused(kind: str, tmp_path: Path) -> None:
    names = [name for name in CASES if name.startswith(f"{kind} ")]
    run = subprocess.run(
        [sys.executable, "-m", "tests.hostile.guard", str(tmp_path), *names],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    found: list[dict[str, Any]] = [json.loads(line) for line in run.stdout.splitlines()]
    assert {each["case"] for each in found} == set(names), run.stderr[-3000:]
    wrong = [each for each in found if not _is_right(each)]
    assert not wrong, json.dumps(wrong, indent=1)[:5000]
    assert not list(tmp_path.rglob("trace-of-execution"))


def _is_right(each: dict[str, Any]) -> bool:
    is_refused = each["code"] == 4
    if each["case"].startswith(ERRORS_OF_LAYERS):
        is_refused |= each["code"] in (1, 5)
    is_told = each["file"] in each["said"] or each["case"].startswith("folder")
    is_quiet = not each["violations"] and "Traceback" not in each["said"]
    return is_refused and is_told and is_quiet and each["seconds"] < LONGEST_SECONDS


def test_the_guard_sees_what_it_must(tmp_path: Path) -> None:
    """A reader that unpickles is caught by every way that an unpickler takes."""
    code = (
        "import sys, io, pickle; from pathlib import Path; from tests.hostile.guard import Watch\n"
        "watch = Watch(); watch.allowed = Path(sys.argv[1])\n"
        "try:\n    pickle.loads(Path(sys.argv[2]).read_bytes())\nexcept Exception: pass\n"
        "print(len(watch.violations))"
    )
    for name in ("global and reduce", "eval", "inst", "obj", "stack global", "numpy's loader"):
        (tmp_path / "inner").mkdir(exist_ok=True)
        (tmp_path / "secret.bin").touch()
        path = tmp_path / "inner" / "payload.bin"
        path.write_bytes(PICKLES[name])
        run = subprocess.run(
            [sys.executable, "-c", code, str(path.parent), str(path)],
            capture_output=True,
            text=True,
            check=False,
            cwd=path.parent,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert run.stdout.strip() not in ("", "0"), (name, run.stderr)
