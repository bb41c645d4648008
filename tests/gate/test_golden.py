"""Reports are byte for byte those that were committed and looked at."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from jsonschema import Draft202012Validator

from pytest_weightwatcher.report import render
from pytest_weightwatcher.report.reading import read_result
from pytest_weightwatcher.report.result_schema import make_result_schema
from tests.gate.console import ROOT
from tests.gate.golden import FOLDER, golden_texts
from tests.gate.synthetic_result import VERDICTS

TEXTS = golden_texts()


@pytest.mark.parametrize("name", TEXTS)
def test_the_report_is_the_golden_one(name: str) -> None:
    assert (FOLDER / name).read_bytes() == TEXTS[name].encode("utf-8"), (
        "not the golden file: run `python -m tests.gate.golden`, and look at the difference"
    )


def test_the_result_is_valid_and_has_everything() -> None:
    result = json.loads((FOLDER / "result.json").read_text(encoding="utf-8"))
    Draft202012Validator(make_result_schema()).validate(result)
    assert all(result["counts"][verdict] for verdict in VERDICTS)
    assert read_result(FOLDER / "result.json") == result


def test_no_golden_file_is_left_over() -> None:
    found = {path.name for path in FOLDER.iterdir() if path.is_file() and path.suffix != ".py"}
    assert found == {*TEXTS, "older-result.json"}


def test_reports_depend_on_no_hash_seed_locale_or_encoding() -> None:
    code = "import hashlib, tests.gate.golden as g; print(hashlib.md5(ascii(g.golden_texts()).encode()).hexdigest())"
    settings = [
        {"PYTHONHASHSEED": "1", "LC_ALL": "C", "PYTHONUTF8": "0"},
        {"PYTHONHASHSEED": "2", "PYTHONUTF8": "1", "TZ": "Asia/Tokyo"},
    ]
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **each},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for each in settings
    }
    assert len(found) == 1


def test_rendering_from_the_file_is_rendering_from_memory() -> None:
    result = read_result(FOLDER / "result.json")
    assert render("sarif", result) == TEXTS["report.sarif"]
    assert render("md", result) == TEXTS["report.md"]
