"""SARIF, github-action-benchmark, shields.io: what other programs read."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from jsonschema.validators import validator_for

from pytest_weightwatcher.report import render
from pytest_weightwatcher.report.names import plain_name
from pytest_weightwatcher.report.sarif import MAX_RESULTS
from tests.gate.conftest import MakeModel, flat
from tests.gate.sarif_subset import LOG
from tests.gate.synthetic_result import (
    HOSTILE_NAMES,
    hostile_result,
    large_result,
    make_check,
    make_layer,
    make_model,
    make_result,
)

JsonObject = dict[str, Any]


def sarif_run(result: JsonObject) -> JsonObject:
    log = json.loads(render("sarif", result))
    Draft202012Validator(LOG).validate(log)
    official = os.environ.get("WW_SARIF_SCHEMA")
    if official:
        schema = json.loads(Path(official).read_text(encoding="utf-8"))
        validator_for(schema)(schema).validate(log)
    run: JsonObject = log["runs"][0]
    return run


def one_check(**changes: Any) -> JsonObject:
    check = {**make_check("out/m.safetensors", "head", "alpha", "fail"), **changes}
    return make_result([make_model("out/m.safetensors", [make_layer("head", 0)], [check])])


def test_sarif_has_a_rule_for_each_check_and_a_result_for_each_finding() -> None:
    result = hostile_result()
    run = sarif_run(result)
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == ["coverage", "alpha", "regression.spectrum"]
    levels = [each["level"] for each in run["results"]]
    counts = result["counts"]
    assert levels == ["error"] * (counts["fail"] + counts["error"] - 1) + ["warning"] * counts["warn"]
    for each in run["results"]:
        assert run["tool"]["driver"]["rules"][each["ruleIndex"]]["id"] == each["ruleId"]
    assert run["invocations"][0]["executionSuccessful"] is False
    assert "ended without a verdict" in run["invocations"][0]["toolExecutionNotifications"][0]["message"]["text"]


def test_sarif_points_at_the_line_of_the_rule_or_else_at_the_model() -> None:
    (at_line,) = sarif_run(one_check(id="conf/my ww.yaml::m::head::alpha", line=12))["results"]
    assert at_line["locations"][0]["physicalLocation"] == {
        "artifactLocation": {"uri": "conf/my%20ww.yaml", "uriBaseId": "%SRCROOT%"},
        "region": {"startLine": 12},
    }
    of_model = one_check(line=None)
    of_model["models"][0]["line"] = 4
    (at_entry,) = sarif_run(of_model)["results"]
    assert at_entry["locations"][0]["physicalLocation"] == {
        "artifactLocation": {"uri": "ww.yaml", "uriBaseId": "%SRCROOT%"},
        "region": {"startLine": 4},
    }
    (at_model,) = sarif_run(one_check(line=None))["results"]
    location = {"artifactLocation": {"uri": "out/m.safetensors", "uriBaseId": "%SRCROOT%"}}
    assert at_model["locations"][0]["physicalLocation"] == location
    assert at_model["locations"][0]["logicalLocations"][0]["fullyQualifiedName"] == "out/m.safetensors::head"
    assert at_model["properties"] == {"verdict": "fail", "value": 6.6, "limit/min": 2.0, "limit/max": 6.0}


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        ("/data/m.pt", {"uri": "file:///data/m.pt"}),
        ("C:/data/m.pt", {"uri": "file:///C:/data/m.pt"}),
        ("a:b.pt", {"uri": "a%3Ab.pt", "uriBaseId": "%SRCROOT%"}),
        ("é <b>#?.pt", {"uri": "%C3%A9%20%3Cb%3E%23%3F.pt", "uriBaseId": "%SRCROOT%"}),
    ],
)
def test_sarif_names_files_by_uris(path: str, uri: JsonObject) -> None:
    result = one_check(line=None)
    result["models"][0]["path"] = path
    assert sarif_run(result)["results"][0]["locations"][0]["physicalLocation"] == {"artifactLocation": uri}


def test_fingerprints_stay_when_values_and_lines_change_and_differ_between_checks() -> None:
    def fingerprints(result: JsonObject) -> list[JsonObject]:
        return [each["partialFingerprints"] for each in sarif_run(result)["results"]]

    assert fingerprints(one_check()) == fingerprints(one_check(value=7.1, line=99, detail="another"))
    assert fingerprints(one_check()) != fingerprints(one_check(id="ww.yaml::m::other::alpha"))
    every = [each["nodeId/v1"] for each in fingerprints(hostile_result())]
    assert len(set(every)) == len(every)


def test_sarif_messages_hold_no_link_and_no_placeholder() -> None:
    (found,) = sarif_run(one_check(detail="see [here](https://example.invalid) {0} w[3, 4] {a}"))["results"]
    assert r"see \[here](https://example.invalid) {{0}} w[3, 4] {a}" in found["message"]["text"]
    assert len(json.dumps(sarif_run(hostile_result()))) < 40_000, "a name of 10 kB is cut"
    for each in sarif_run(hostile_result())["results"]:
        assert each["message"]["text"].isprintable()


def test_what_findings_of_a_plugin_mean_is_theirs() -> None:
    result = one_check(check="mine", plugin="example", meaning="It is odd", action="Ask", line=None)
    (rule,) = sarif_run(result)["tool"]["driver"]["rules"]
    assert rule["fullDescription"]["text"] == "It is odd"
    assert rule["help"]["text"] == "It is odd What to do: Ask"


def test_sarif_takes_the_worst_and_counts_the_rest() -> None:
    run = sarif_run(large_result(800, 8, n_failing=800))
    assert len(run["results"]) == MAX_RESULTS
    assert run["invocations"][0]["toolExecutionNotifications"][0]["message"]["text"] == (
        "600 more findings are in the full report"
    )


def test_sarif_of_a_real_run_points_into_its_file(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model(head=flat())
    (pytester.path / "ww.yaml").write_text("version: 1\nchecks:\n  alpha: {max: 6}\nreport: {sarif: out.sarif}\n")
    pytester.runpytest("--ww-model=model.safetensors", "--ww-report=json:out.json")
    result = json.loads((pytester.path / "out.json").read_text(encoding="utf-8"))
    assert (pytester.path / "out.sarif").read_text(encoding="utf-8") == render("sarif", result)
    first = sarif_run(result)["results"][0]
    assert first["locations"][0]["physicalLocation"]["region"] == {"startLine": 3}
    assert first["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "ww.yaml"


def test_benchmark_counts_and_takes_the_largest() -> None:
    path = "out/m.safetensors"
    checks = [
        make_check(path, "a", "alpha", "warn"),
        make_check(path, "a", "regression.weights", "pass", value=0.01),
        make_check(path, "b", "regression.weights", "fail", value=0.5),
        make_check(path, "c", "regression.weights", "error", value=None),
        make_check(path, "a", "regression.spectrum", "pass", value=0.001),
    ]
    entries = json.loads(render("benchmark", make_result([make_model(path, [], checks)])))
    found = {entry["name"]: entry for entry in entries}
    name = f"checkpoint gate, {path}: "
    assert {key.removeprefix(name): entry["value"] for key, entry in found.items()} == {
        "checks that fail": 2,
        "checks that warn": 1,
        "alpha outside its limit": 1,
        "largest change of the weights": 0.5,
        "largest displacement": 0.001,
        "checkpoint gate, all models: checks without a verdict": 0,
    }
    assert found[f"{name}largest change of the weights"]["extra"] == "of b"
    for entry in entries:
        assert {"name", "unit", "value"} <= entry.keys() <= {"name", "unit", "value", "extra"}


def test_benchmark_names_are_harmless_and_differ() -> None:
    names = [entry["name"] for entry in json.loads(render("benchmark", hostile_result()))]
    assert len(set(names)) == len(names)
    text = render("benchmark", hostile_result())
    assert not re.search(r"[<>|`&@]", text)
    assert len(text) < 5_000


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=lambda name: repr(name[:12]))
def test_plain_names_have_no_mark(name: str) -> None:
    found = plain_name(name)
    assert re.fullmatch(r"[\w ._\-/:+=,()~%]+", found)
    assert "::" not in found
    assert len(found) <= 1000


def test_plain_names_stay_different() -> None:
    names = ["a", "a%", "a%25", "a<", "a%3C", "x" * 300, "x" * 301, "<" * 300, "<" * 301]
    assert len({plain_name(name) for name in names}) == len(names)


@pytest.mark.parametrize(
    ("counts", "outcome", "message", "colour"),
    [
        ({"pass": 12}, "pass", "pass, 12 checks", "brightgreen"),
        ({"pass": 12, "warn": 2}, "warn", "2 warn", "yellow"),
        ({"pass": 1, "warn": 2, "fail": 3}, "fail", "3 fail, 2 warn", "red"),
        ({"error": 1}, "error", "1 error", "red"),
        ({"skipped": 4}, "inconclusive", "inconclusive", "lightgrey"),
    ],
)
def test_badge(counts: dict[str, int], outcome: str, message: str, colour: str) -> None:
    result = hostile_result()
    result.update(outcome=outcome, counts={**dict.fromkeys(result["counts"], 0), **counts})
    badge = json.loads(render("badge", result))
    assert badge == {"schemaVersion": 1, "label": "checkpoint gate", "message": message, "color": colour}


def test_reports_of_ww_yaml(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model()
    config = pytester.path / "ww.yaml"
    config.write_text(
        "version: 1\nreport: {json: r.json, markdown: r.md, sarif: r.sarif, benchmark: bench.json, badge: badge.json}\n"
    )
    for _ in range(2):  # The second run finds reports where it is to write its own.
        outcome = pytester.runpytest("--ww-model=model.safetensors")
        assert outcome.ret == 0
    outcome.stdout.fnmatch_lines(["json: *", "md: *", "sarif: *", "benchmark: *", "badge: *badge.json"])


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ("{sarif: out.json}", "report.sarif: 'out.json' must end in .sarif"),
        ("{badge: b.json, json: b.json}", "report.badge: 'b.json' is the place of another report, too"),
        ("{badge: mine.json}", "report.badge: 'mine.json' exists and is no report of this tool"),
        ("{benchmark: mine.json}", "report.benchmark: 'mine.json' exists and is no report of this tool"),
        ("{sarif: ../out.sarif}", "report.sarif: '../out.sarif' is outside the folder"),
    ],
)
def test_reports_of_ww_yaml_write_over_nothing_else(
    pytester: pytest.Pytester, make_model: MakeModel, report: str, message: str
) -> None:
    make_model()
    (pytester.path / "mine.json").write_text("{}")
    (pytester.path / "ww.yaml").write_text(f"version: 1\nreport: {report}\n")
    outcome = pytester.runpytest("--ww-model=model.safetensors")
    assert outcome.ret == pytest.ExitCode.USAGE_ERROR
    outcome.stderr.fnmatch_lines([f"ERROR: *{message}*"])
    assert (pytester.path / "mine.json").read_text() == "{}"


def test_half_a_surrogate_pair_breaks_no_form() -> None:
    result = one_check(detail="half \ud800 of one", layer="\udc00")
    result["models"][0]["path"] = "\ud800"
    for kind in ("json", "md", "sarif", "benchmark", "badge"):
        render(kind, result).encode("utf-8")
    assert json.loads(render("json", result)) == result
