"""What decided a check, and what would make it pass: from a result file, and true."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pytest_weightwatcher.explain import explain_check, is_match
from tests.gate.conftest import MakeModel, flat, noise
from tests.gate.console import run, with_element

Capture = pytest.CaptureFixture[str]

MODEL: dict[str, Any] = {"path": "m.safetensors", "baseline": "m.ww.json", "profile": "finetune", "checks": []}
CHECK: dict[str, Any] = {
    "id": "ww.yaml::m.safetensors::head::alpha",
    "layer": "head",
    "check": "alpha",
    "verdict": "fail",
    "value": 7.14,
    "limit": {"min": 2.0, "max": 6.0},
    "baseline": None,
    "detail": "alpha 7.14 is 1.14 above the limit of 2 to 6",
    "resolution": "alpha has a standard error of 0.5",
    "meaning": "A high alpha means a flat spectrum.",
    "action": "Look at the layer's training.",
    "line": 3,
}


def result_file(folder: Path, *checks: dict[str, Any], **changes: Any) -> Path:
    path = folder / "result.json"
    path.write_text(json.dumps({"format": 1, "models": [{**MODEL, "checks": checks}], **changes}), encoding="utf-8")
    return path


def snippets(text: str) -> list[dict[str, Any]]:
    """Return every example of ww.yaml in an explanation."""
    blocks = re.findall(r"^ {16}\S.*(?:\n {16,}\S.*)*", text, re.MULTILINE)
    return [yaml.safe_load(block) for block in blocks]


def found_in(result: dict[str, Any]) -> set[str]:
    return {check["id"] for check in result["models"][0]["checks"] if check["verdict"] in ("warn", "fail")}


def regression(name: str, value: float, baseline: float, **changes: Any) -> dict[str, Any]:
    check = f"regression.{name}"
    node = f"ww.yaml::m.safetensors::head::{check}"
    limit = {"max": (value + baseline) / 2}
    return {**CHECK, "id": node, "check": check, "value": value, "baseline": baseline, "limit": limit, **changes}


def test_an_absolute_limit_of_the_file() -> None:
    text = explain_check(CHECK, MODEL)
    for part in (
        "ww.yaml::m.safetensors::head::alpha: fail",
        "alpha, 2 to 6; from line 3 of ww.yaml",
        "7.14",
        "alpha has a standard error of 0.5",
        "a value of 2 to 6, where it is 7.14 now",
        "checks: {alpha: {max: 7.2}}",
    ):
        assert part in text
    override, waiver = snippets(text)
    assert override == {"overrides": [{"match": "head", "checks": {"alpha": {"max": 7.2}}}]}
    assert waiver["waivers"][0]["check"] == "alpha"


def test_the_file_of_the_result_goes_before_the_node_id() -> None:
    assert "from line 3 of conf/ww.yaml" in explain_check(CHECK, {**MODEL, "config": "conf/ww.yaml"})


def test_a_value_below() -> None:
    text = explain_check({**CHECK, "value": 1.77}, MODEL)
    assert "checks: {alpha: {min: 1.7}}" in text


def test_a_default_of_the_profile() -> None:
    text = " ".join(explain_check(regression("effective_rank", 200.0, 100.0, line=None), MODEL).split())
    assert "may rise by 0.92 of the baseline's value or fall by 0.48 of the baseline's value" in text
    assert "the default of the profile finetune" in text
    assert "100 in m.ww.json, a change of +100" in text
    assert "regression: {effective_rank: {max_relative_increase: 1}}" in text


@pytest.mark.parametrize(
    ("check", "entry"),
    [
        (regression("alpha", 1.5, 3.0), {"alpha": {"max_decrease": 1.5}}),
        (regression("alpha", 4.5, 3.0), {"alpha": {"max_increase": 1.5}}),
        (regression("spectrum", 0.123, 0.0), {"spectrum": {"max_displacement": 0.13}}),
        (regression("weights", 0.123, 0.0), {"weights": {"max_change": 0.13}}),
        (regression("drift", 0.5, 0.0), {"drift": {"max_increase": 0.5}}),
        (regression("overlap", 0.5, 1.0), {"overlap": {"max_decrease": 0.5}}),
        (regression("correlation_traps", 3.0, 1.0), {"correlation_traps": {"max_new": 2}}),
        (regression("intruders", 3.0, 0.0), {"intruders": {"max_new": 3}}),
        (regression("noise", 0.5, 0.001), {"noise": False}),
        (regression("norm", 50.0, 100.0), {"norm": {"max_relative_decrease": 0.5}}),
        (regression("n_dead_rows", 2.0, 0.0, line=None), {"n_dead_rows": {"max_increase": 2}}),
        (regression("norm", 50.0, 100.0, rule={"decrease": 1.0}), {"norm": {"max_decrease": 50}}),
    ],
    ids=lambda value: value["id"].rpartition(".")[2] if "id" in value else "",
)
def test_the_key_that_would_accept_a_change(check: dict[str, Any], entry: dict[str, Any]) -> None:
    override, _ = snippets(explain_check(check, MODEL))
    assert override == {"overrides": [{"match": "head", "regression": entry}]}


def test_a_warning_before_the_limit() -> None:
    check = regression("weights", 0.15, 0.0, verdict="warn", limit={"max": 0.2}, line=None)
    text = explain_check(check, {**MODEL, "profile": "compression"})
    # It warns from half of the allowance on, so that twice the change must be accepted.
    assert "max_change: 0.3}" in text


def test_the_model_as_a_whole() -> None:
    model_check = {**CHECK, "layer": None, "check": "model.alpha", "id": "ww.yaml::m::model.alpha"}
    whole, waiver = snippets(explain_check(model_check, MODEL))
    assert whole == {"model": {"checks": {"alpha": {"max": 7.2}}}}
    assert waiver["waivers"][0]["match"] == "*"
    coverage = {**model_check, "check": "coverage", "value": 0.5, "limit": {"min": 0.9}}
    assert snippets(explain_check(coverage, MODEL))[0] == {"checks": {"coverage": {"min": 0.5}}}


@pytest.mark.parametrize("verdict", ["skipped", "inconclusive"])
def test_where_nothing_was_judged(verdict: str) -> None:
    check = {**CHECK, "verdict": verdict, "value": None, "detail": "too few eigenvalues"}
    text = explain_check(check, MODEL)
    assert "too few eigenvalues" in text
    assert "there is no verdict" in text
    assert snippets(text) == []


def test_a_pass_says_while() -> None:
    assert "it passes while it is 2 to 6" in explain_check({**CHECK, "verdict": "pass", "value": 3.0}, MODEL)


def test_a_damaged_layer_has_no_limit_to_move() -> None:
    check = {**CHECK, "check": "integrity", "value": None, "limit": None, "line": None, "layer": "a[0]"}
    text = explain_check(check, MODEL)
    assert "always on" in text
    assert snippets(text)[0] == {"analysis": {"exclude": ["a[[]0]"]}}


@given(name=st.text(st.characters(codec=None), min_size=1, max_size=20))
def test_a_hostile_name_acts_nowhere(name: str) -> None:
    check = {**CHECK, "layer": name, "id": f"ww.yaml::m::{name}::alpha", "detail": name}
    text = explain_check(check, {**MODEL, "path": name, "baseline": name})
    assert all(line.isprintable() for line in text.split("\n"))


@pytest.mark.parametrize(
    "item", ["ww.yaml::m.safetensors::head::alpha", "head::alpha", "alpha", "*::head::*", "ww.yaml::*"]
)
def test_items_that_match(item: str) -> None:
    assert is_match(CHECK["id"], item)
    assert not is_match("ww.yaml::n::tail::norm", item) or item == "ww.yaml::*"


# ww-gate explain


def test_findings_by_default(tmp_path: Path, capsys: Capture) -> None:
    passed = {**CHECK, "verdict": "pass", "id": "ww.yaml::m::head::norm"}
    text = run(capsys, "explain", result_file(tmp_path, CHECK, passed))
    assert text == explain_check(CHECK, MODEL) + "\n"
    assert "No findings among 1 checks" in run(capsys, "explain", result_file(tmp_path, passed))
    assert run(capsys, "explain", result_file(tmp_path, CHECK, passed), "*norm", "alpha").count("to pass") == 2


def test_an_item_that_is_none(tmp_path: Path, capsys: Capture) -> None:
    text = run(capsys, "explain", result_file(tmp_path, CHECK), "haed::alpha", code=4)
    assert "no check matches 'haed::alpha'; did you mean 'head::alpha'?" in text
    assert text.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "not a result"),
        ("[]", "no models"),
        ("{}", "no models"),
        ('{"format": 2, "models": []}', "format '2'"),
        ('{"format": 1, "models": {}}', "must be a list"),
        ('{"format": 1, "models": [1]}', "list of checks"),
        ('{"format": 1, "models": [{"checks": [{"id": 1}]}]}', "without id"),
        ('{"format": 1, "models": [{"checks": [{"id": "a", "check": "b", "verdict": "c", "value": "1"}]}]}', "numbers"),
        ('{"format": 1, "models": [{"checks": [{"id": "a", "check": "b", "verdict": "c", "limit": [1]}]}]}', "objects"),
        ('{"format": 1, "models": [{"checks": [{"id": "a", "check": "b", "verdict": "c", "line": true}]}]}', "line"),
        ('{"format": 1, "models": [{"checks": [{"id": "a", "check": "b", "verdict": "c", "detail": 1}]}]}', "text"),
        (
            '{"format": 1, "models": [{"checks": [{"id": "a", "check": "b", "verdict": "c", "value": 1e999}]}]}',
            "number",
        ),
        ('{"format": 1, "models": [], "x": NaN}', "not a result"),
        ("[" * 100_000, "nested too deeply"),
        ("\ud800", "not a result"),
    ],
)
def test_what_is_no_result(tmp_path: Path, capsys: Capture, content: str, problem: str) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    text = run(capsys, "explain", path, code=4)
    assert problem in text
    assert text.count("\n") == 1


def test_a_file_that_is_not_there(tmp_path: Path, capsys: Capture) -> None:
    assert "cannot be read" in run(capsys, "explain", tmp_path / "none.json", code=4)
    assert "not a regular file" in run(capsys, "explain", tmp_path, code=4)


def test_what_it_proposes_makes_the_checks_pass(
    pytester: pytest.Pytester, make_model: MakeModel, capsys: Capture
) -> None:
    """The proof of the whole: paste the first example for each finding, run again, and nothing is found."""
    good = make_model("good.safetensors")
    arguments = ["-p", "no:cacheprovider", "--ww-model=bad.safetensors", f"--ww-baseline={good}"]
    make_model(
        "bad.safetensors", encoder__0__query=flat(), encoder__1__query=noise(), head=with_element(5.0).astype("float32")
    )
    config = {"version": 1, "checks": {"alpha": {"min": 2, "max": 6}, "stable_rank": {"min": 30}}}
    path = pytester.path / "ww.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    first = pytester.runpytest(*arguments, "--ww-report=json:r.json")
    assert first.ret == 1
    capsys.readouterr()
    text = run(capsys, "explain", pytester.path / "r.json")
    overrides = [entry for snippet in snippets(text) for entry in snippet.get("overrides", ())]
    result = json.loads((pytester.path / "r.json").read_text(encoding="utf-8"))
    whole = [snippet["model"] for snippet in snippets(text) if "model" in snippet]
    assert len(overrides) + len(whole) == len(found_in(result)) > 10
    (of_the_model,) = whole or [{}]
    path.write_text(yaml.safe_dump({**config, "overrides": overrides, "model": of_the_model}), encoding="utf-8")
    second = pytester.runpytest(*arguments, "--ww-report=json:r2.json")
    assert second.ret == 0
    again = json.loads((pytester.path / "r2.json").read_text(encoding="utf-8"))
    # Where the comparison of noise is off, the absolute test takes its place, and warns.
    assert found_in(again).isdisjoint(found_in(result))
    assert {node.rpartition("::")[2] for node in found_in(again)} <= {"noise"}


@pytest.mark.parametrize(("verdict", "value"), [("warn", 0.15), ("pass", 0.02)])
def test_what_passes_does_not_even_warn(verdict: str, value: float) -> None:
    check = regression(
        "weights", value, 0.0, verdict=verdict, limit={"max": 0.2}, rule={"increase": 0.2, "warn_at": 0.5}
    )
    text = explain_check(check, MODEL)
    assert "at most 0.1" in text.partition("to pass")[2]
    assert "0.2" not in text.partition("to pass")[2].splitlines()[0]


def test_the_key_of_tensors() -> None:
    check = {**regression("tensors", 2.7, 0.0), "check": "model.regression.tensors", "layer": None}
    whole, _ = snippets(explain_check(check, MODEL))
    assert whole == {"model": {"regression": {"tensors": {"max_change": 2.7}}}}


def test_a_check_of_a_plugin_is_switched_off_not_moved() -> None:
    check = {**CHECK, "check": "balance", "plugin": "mine", "limit": {"max": 2.0}}
    override, _ = snippets(explain_check(check, MODEL))
    assert override["overrides"] == [{"match": "head", "checks": {"balance": False}}]


def test_a_layer_of_no_finite_values_is_not_left_out() -> None:
    damage = {**CHECK, "check": "integrity", "value": None, "limit": None, "line": None}
    dead = explain_check({**damage, "detail": "70 of 96 rows are dead (all zero)"}, MODEL)
    assert 'exclude: ["head"]' in dead
    assert "exclude" not in explain_check({**damage, "detail": "1 of 6144 values are NaN or infinite"}, MODEL)


def test_asking_why_keeps_the_reports_of_the_run(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model(head=flat())
    (pytester.path / "ww.yaml").write_text(
        "version: 1\nmodels: [{path: m*}]\nreport: {json: out.json}\n", encoding="utf-8"
    )
    pytester.runpytest()
    before = (pytester.path / "out.json").read_bytes()
    asked = pytester.runpytest("--ww-explain", "head::alpha")
    asked.stdout.fnmatch_lines(["*head::alpha: warn"])
    assert (pytester.path / "out.json").read_bytes() == before
    pytester.runpytest("--ww-explain", "head::alpha", "--ww-report=json:asked.json")
    assert len(json.loads((pytester.path / "asked.json").read_text(encoding="utf-8"))["models"][0]["checks"]) == 1
