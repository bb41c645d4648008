"""The result and what is drawn from it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from pytest_weightwatcher.records import record_of
from pytest_weightwatcher.report import RENDERERS, render
from pytest_weightwatcher.report.escaping import format_code, format_text
from tests.gate.conftest import MakeModel, flat, healthy_tensors

VERDICTS = ("pass", "skipped", "waived", "inconclusive", "warn", "fail", "error")

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "a|b",
    "`tick` **bold** [link](https://example.invalid) @everyone #1",
    "::error::pwned",
    "\x1b[31mred\x1b[0m",
    "line\nbreak\r\nagain",
    "\u202ereversed",
    "😀",
    "x" * 10_000,
)


@pytest.fixture
def result(pytester: pytest.Pytester, make_model: MakeModel) -> dict[str, Any]:
    make_model(head=flat())
    pytester.runpytest("--ww-model=model.safetensors", "--ww-report=json:out.json")
    payload: dict[str, Any] = json.loads((pytester.path / "out.json").read_text(encoding="utf-8"))
    return payload


def test_result_has_what_the_design_says(result: dict[str, Any]) -> None:
    assert result["format"] == 1
    assert result["tool"]["name"] == "pytest-weightwatcher"
    assert result["outcome"] == "warn"
    assert result["counts"] == {**dict.fromkeys(VERDICTS, 0), "pass": 16, "warn": 2}
    assert result["options"] == {"fail_on": "fail", "seed": None}
    (model,) = result["models"]
    assert model["path"] == "model.safetensors"
    assert (model["baseline"], model["profile"], model["question"]) == (None, None, None)
    assert (model["n_reused"], model["notes"], model["waivers"]) == (0, [], [])
    assert model["coverage"] == pytest.approx(4 * 96 * 64 / (4 * 96 * 65))
    (layer,) = [layer for layer in model["layers"] if layer["name"] == "head"]
    assert {"name", "type", "shape", "N", "M", "rf", "hash", "metrics", "reason"} <= layer.keys()
    assert (layer["reused"], layer["baseline_name"]) == (False, None)
    assert (layer["type"], layer["shape"], layer["N"], layer["M"], layer["rf"]) == ("dense", [96, 64], 96, 64, 1)
    check, noise = [check for check in model["checks"] if check["verdict"] == "warn"]
    assert check["id"] == "ww.yaml::model.safetensors::head::alpha"
    assert {"layer", "check", "verdict", "value", "limit", "baseline", "detail", "resolution"} <= check.keys()
    assert check["limit"] == {"min": 2.0, "max": 6.0}
    assert noise["id"] == "ww.yaml::model.safetensors::head::noise"
    assert noise["limit"] == {"max": 0.01}


@pytest.mark.parametrize("place", ["accepted/good.safetensors", "../elsewhere/good.safetensors"])
def test_result_says_where_the_baseline_is(pytester: pytest.Pytester, make_model: MakeModel, place: str) -> None:
    """Its name alone may be that of other files, such as the model's."""
    make_model()
    baseline = pytester.path / place
    baseline.parent.mkdir()
    save_file(healthy_tensors(), baseline)
    pytester.runpytest("--ww-model=model.safetensors", f"--ww-baseline={place}", "--ww-report=json:out.json")
    (model,) = json.loads((pytester.path / "out.json").read_text(encoding="utf-8"))["models"]
    outside = (pytester.path.parent / "elsewhere" / "good.safetensors").as_posix()
    assert model["baseline"] == "good.safetensors"
    assert model["baseline_path"] == (outside if place.startswith("..") else place)


def test_result_agrees_with_the_core(result: dict[str, Any], pytester: pytest.Pytester) -> None:
    from spectral import analyze

    analysis = analyze(pytester.path / "model.safetensors", min_evals=50)
    (model,) = result["models"]
    assert model["summary"] == pytest.approx(analysis.summary, rel=1e-7)
    for layer, expected in zip(model["layers"], analysis.layers, strict=True):
        assert layer["metrics"] == pytest.approx(dict(expected.metrics), rel=1e-7, abs=1e-8)
        assert layer["metrics"] == record_of(expected).metrics


def test_numbers_that_do_not_exist_are_null(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model(head=np.full((96, 64), np.nan, np.float32))
    pytester.runpytest("--ww-model=model.safetensors", "--ww-report=json:out.json")
    text = (pytester.path / "out.json").read_text(encoding="utf-8")
    json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} in the JSON"))


def test_markdown_names_findings_first(result: dict[str, Any]) -> None:
    text = render("md", result)
    assert text.index("| warn | <code>head</code> | alpha |") < text.index("<summary>Layers: 4</summary>")
    assert "16 pass, 2 warn" in text


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: repr(name[:12]))
def test_hostile_names_neither_run_nor_break_a_table(pytester: pytest.Pytester, name: str) -> None:
    tensors = {**healthy_tensors(), f"{name}.weight": flat()}
    save_file(tensors, pytester.path / "model.safetensors")
    outcome = pytester.runpytest("--ww-model=model.safetensors", "--ww-report=md:out.md", "--ww-report=json:out.json")
    assert outcome.parseoutcomes() == {"passed": 20, "warned": 2}
    assert "\x1b" not in outcome.stdout.str()
    assert not [line for line in outcome.outlines if line.startswith("::")]
    text = (pytester.path / "out.md").read_text(encoding="utf-8")
    assert len(text) < 20_000
    for tag in re.findall(r"<[^>]*>", text):
        assert tag in ("<code>", "</code>", "<details>", "</details>", "<summary>", "</summary>"), tag
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} == {5, 10}
    assert "@everyone" not in text
    assert "](" not in text


@pytest.mark.parametrize("kind", sorted(RENDERERS))
def test_rendering_changes_nothing(kind: str, result: dict[str, Any]) -> None:
    before = json.dumps(result)
    assert render(kind, result) == render(kind, result)
    assert json.dumps(result) == before


def test_code_and_text_escape() -> None:
    assert format_code("a|b") == "<code>a&#124;b</code>"
    assert format_text("<b>&") == "&#60;b&#62;&#38;"
    assert format_code("é") == "<code>é</code>"


def test_templates_are_found_in_the_checkout() -> None:
    from pytest_weightwatcher.report.templates import templates_folder

    assert templates_folder() == Path(__file__).resolve().parents[2] / "templates"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_json_says_what_it_was_given(value: object) -> None:
    """However it is laid out."""
    text = render("json", {"x": value})
    assert json.loads(text) == {"x": value}


@pytest.mark.parametrize(("columns", "longest"), [("60", 60), ("100", 100), ("", 1000)])
def test_the_section_is_as_wide_as_the_terminal(
    columns: str, longest: int, pytester: pytest.Pytester, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(head=flat())
    monkeypatch.setenv("COLUMNS", columns) if columns else monkeypatch.delenv("COLUMNS", raising=False)
    result = pytester.runpytest_subprocess("--ww-model=model.safetensors", "--ww-fail-on=warn", "--color=no")
    lines = result.outlines[next(place for place, line in enumerate(result.outlines) if " weightwatcher " in line) :]
    told = [line for line in lines if not line.startswith(("FAILED", "="))]
    assert max(map(len, told)) <= longest
    assert max(map(len, told)) > (0.6 * longest if columns else 100), "as much in a line as there is room"
