"""``ww-gate report``: the same reports as a run's, and results of shards and jobs put together."""

from __future__ import annotations

import copy
import itertools
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from pytest_weightwatcher.errors import ReportError
from pytest_weightwatcher.options import FORMS
from pytest_weightwatcher.report import render
from pytest_weightwatcher.report.completing import complete_result
from pytest_weightwatcher.report.merging import Source, merge_results
from pytest_weightwatcher.report.reading import read_result
from pytest_weightwatcher.report.result_schema import make_result_schema
from pytest_weightwatcher.report.totals import count_verdicts
from tests.gate.conftest import MakeModel, flat
from tests.gate.console import run
from tests.gate.synthetic_result import hostile_result, large_result, make_check, make_layer, make_model, make_result
from tests.gate.test_result_schema import OLDER

Capture = pytest.CaptureFixture[str]
JsonObject = dict[str, Any]

VALIDATOR = Draft202012Validator(make_result_schema())


def write(path: Path, result: JsonObject) -> Path:
    path.write_text(json.dumps(result), encoding="utf-8")
    return path


def merge(results: Sequence[JsonObject]) -> JsonObject:
    found = merge_results([Source(name=f"{place}.json", result=result) for place, result in enumerate(results)])
    VALIDATOR.validate(found)
    return found


def shards(result: JsonObject, n: int = 3) -> list[JsonObject]:
    """Deal the checks of a result out to several, each with the layers of its checks."""
    found = []
    for shard in range(n):
        part = copy.deepcopy(result)
        for model in part["models"]:
            model["checks"] = model["checks"][shard::n]
            names = {check["layer"] for check in model["checks"]}
            model["layers"] = [layer for layer in model["layers"] if layer["name"] in names]
        part["lost"] = part["lost"][shard::n]
        found.append(part)
    return found


@pytest.mark.parametrize("kind", FORMS)
def test_a_report_from_a_file_is_that_of_the_run(
    kind: str, pytester: pytest.Pytester, make_model: MakeModel, capsys: Capture
) -> None:
    make_model(head=flat())
    pytester.runpytest("--ww-model=model.safetensors", "--ww-report=json:out.json", f"--ww-report={kind}:run.{kind}")
    capsys.readouterr()
    expected = (pytester.path / f"run.{kind}").read_text(encoding="utf-8")
    assert run(capsys, "report", "out.json", f"--report={kind}:-") == expected
    assert run(capsys, "report", "out.json", f"--report={kind}:again.{kind}") == ""
    assert (pytester.path / f"again.{kind}").read_text(encoding="utf-8") == expected


def test_markdown_to_stdout_is_the_default(tmp_path: Path, capsys: Capture) -> None:
    path = write(tmp_path / "r.json", hostile_result())
    assert run(capsys, "report", path) == render("md", hostile_result())


def test_an_older_result_is_rendered_in_every_form(capsys: Capture) -> None:
    for kind in FORMS:
        assert run(capsys, "report", OLDER, f"--report={kind}:-")


def test_shards_make_the_whole_in_any_order() -> None:
    whole = hostile_result()
    for model in whole["models"]:
        model["summary"] = {}
        model["options"] = {}
    parts = shards(whole)
    for place, part in enumerate(parts):
        part["models"][0]["notes"] = [f"note {place}", "a note of all"]
        part["models"][0]["layers"][0]["spectrum"] = {"evals": [float(place)], "weights": [1]}
    merged = [merge(order) for order in itertools.permutations(parts)]
    assert all(each == merged[0] for each in merged)
    found = merged[0]
    assert found.pop("merged") == {"n_results": 3, "notes": []}
    assert {key: found[key] for key in ("outcome", "counts", "n_reported", "lost", "sections", "options")} == {
        key: whole[key] for key in ("outcome", "counts", "lost", "sections", "options")
    } | {"n_reported": sum(len(model["checks"]) for model in whole["models"])}
    assert found["n_planned"] == sum(model["n_planned"] for model in whole["models"])
    assert sorted(found["models"][0]["notes"]) == ["a note of all", "note 0", "note 1", "note 2"]
    for layer in (*found["models"][0]["layers"], *whole["models"][0]["layers"]):
        layer.pop("spectrum", None)
    for model, expected in zip(found["models"], whole["models"], strict=True):
        assert model["layers"] == expected["layers"]
        assert sorted(check["id"] for check in model["checks"]) == sorted(check["id"] for check in expected["checks"])
        assert model["waivers"] == expected["waivers"]


def test_shards_of_a_real_run_make_the_result_of_the_whole_run(
    pytester: pytest.Pytester, make_model: MakeModel, capsys: Capture
) -> None:
    make_model(head=flat())
    arguments = ("--ww-model=model.safetensors", "-p", "no:cacheprovider")
    pytester.runpytest(*arguments, "--ww-report=json:whole.json")
    pytester.runpytest(*arguments, "--ww-report=json:one.json", "-k", "encoder")
    pytester.runpytest(*arguments, "--ww-report=json:other.json", "-k", "not encoder")
    capsys.readouterr()
    whole = json.loads((pytester.path / "whole.json").read_text(encoding="utf-8"))
    found = json.loads(run(capsys, "report", "other.json", "one.json", "--report=json:-"))
    assert found.pop("merged") == {"n_results": 2, "notes": []}
    assert found == whole
    single = json.loads((pytester.path / "one.json").read_text(encoding="utf-8"))
    assert single["models"][0]["summary"] != whole["models"][0]["summary"], "means are made anew"


def test_jobs_of_a_matrix_stand_side_by_side() -> None:
    results = []
    for name in ("b", "a", "c"):
        check = make_check(name, "head", "alpha", {"a": "pass", "b": "fail", "c": "warn"}[name])
        results.append(make_result([make_model(name, [make_layer("head", 0)], [check])]))
    found = merge(results)
    assert [model["path"] for model in found["models"]] == ["a", "b", "c"]
    assert (found["outcome"], found["n_planned"], found["n_reported"]) == ("fail", 3, 3)
    assert found["counts"] == {**dict.fromkeys(found["counts"], 0), "pass": 1, "fail": 1, "warn": 1}


def test_models_of_one_path_below_different_files_stay_apart() -> None:
    results = [
        make_result(
            [make_model("m", [], [make_check("m", None, "coverage", "pass", id=f"{folder}/ww.yaml::m::coverage")])]
        )
        for folder in ("x", "y")
    ]
    assert len(merge(results)["models"]) == 2


def test_the_same_result_twice_is_the_same_result() -> None:
    found = merge([hostile_result(), hostile_result()])
    assert found["counts"] == hostile_result()["counts"]
    assert found["merged"]["n_results"] == 2
    again = merge([found, hostile_result()])
    assert again["merged"]["n_results"] == 3


@pytest.mark.parametrize(
    ("damage", "place"),
    [
        (lambda model: model["checks"][2].update(verdict="warn"), "layer0::regression.spectrum of out/"),
        (lambda model: model["checks"][2].update(value=0.5), "layer0::regression.spectrum of out/"),
        (lambda model: model["layers"][0].update(hash="other"), "encoder.0.query of out/"),
        (lambda model: model["layers"][0]["metrics"].update(alpha=3.0), "encoder.0.query of out/"),
        (lambda model: model.update(baseline="other.json"), "baseline of out/"),
        (lambda model: model.update(coverage=0.5), "coverage of out/"),
    ],
)
def test_contradictions_are_errors_that_name_both_files(
    damage: Any, place: str, tmp_path: Path, capsys: Capture
) -> None:
    other = hostile_result()
    damage(other["models"][0])
    other["counts"] = count_verdicts(other["models"], other["lost"])
    paths = write(tmp_path / "a.json", hostile_result()), write(tmp_path / "b.json", other)
    for order in (paths, paths[::-1]):
        said = run(capsys, "report", *order, "--report=json:out.json", code=4)
        assert "a.json" in said
        assert "b.json" in said
        assert place in said
        assert said.count("\n") == 1
    assert not (tmp_path / "out.json").exists()


def test_options_that_differ_are_said() -> None:
    one, other = hostile_result(), hostile_result()
    other["options"] = {"fail_on": "warn", "seed": 7}
    other["tool"]["version"] = "0.0.1"
    other["models"][0]["options"]["seed"] = 7
    found = merge([one, other])
    assert found["options"] == {"fail_on": "warn", "seed": None}
    assert found["tool"]["version"] == "0.0.0, 0.0.1"
    assert found["merged"]["notes"] == [
        'the merged results differ in fail_on: "fail", "warn"',
        "the merged results differ in seed: 7, null",
        'the merged results differ in version of the tool: "0.0.0", "0.0.1"',
    ]
    assert "the merged results differ in the option seed: 0, 7" in found["models"][0]["notes"]
    text = render("md", found)
    assert "differ in fail&#95;on" in text
    assert "differ in the option seed" in text


def test_a_sketch_made_in_one_shard_is_kept() -> None:
    one, other = hostile_result(), hostile_result()
    sketch = other["models"][0]["layers"][0].pop("spectrum")
    assert merge([other, one])["models"][0]["layers"][0]["spectrum"] == sketch
    other["models"][0]["layers"][0]["spectrum"] = None
    assert merge([one, other])["models"][0]["layers"][0]["spectrum"] == sketch


def test_layers_of_older_results_stand_in_natural_order() -> None:
    names = [f"layer.{index}.w" for index in range(12)]
    checks = [make_check("m", name, "alpha", "pass") for name in names]
    layers = [{key: value for key, value in make_layer(name, 0).items() if key != "index"} for name in names]
    whole = make_result([make_model("m", layers, checks, options={})])
    for model in whole["models"]:
        del model["n_planned"]
    parts = shards(whole)
    random.Random(0).shuffle(parts)
    found = merge(parts)
    assert [layer["name"] for layer in found["models"][0]["layers"]] == names
    assert [check["layer"] for check in found["models"][0]["checks"]] == names
    assert found["n_planned"] == 12


def test_older_results_that_overlap_in_part_have_an_upper_bound() -> None:
    older = complete_result(json.loads(OLDER.read_text(encoding="utf-8")))
    both = {**older, "models": [*older["models"], make_model("m", [], [])]}
    found = merge([older, both])
    assert "upper bound" in found["merged"]["notes"][-1]
    assert (found["n_planned"], found["n_reported"]) == (10, 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "bad.json: not a result: "),
        ("{", "bad.json: not a result: "),
        ('{"format": NaN}', "bad.json: not a result: NaN is not JSON"),
        ("[" * 100_000, "bad.json: not a result: nested too deeply"),
        ("[]", "bad.json: not a result: it has no models"),
        ('{"format": 2, "models": []}', "format '2', expected 1"),
        ('{"format": true, "models": []}', "format 'True', expected 1"),
        ('{"format": 1, "models": []}', "tool: Field required"),
        ("\xff", "bad.json: not a result: "),
    ],
)
def test_a_bad_file_is_named(text: str, message: str, tmp_path: Path, capsys: Capture) -> None:
    good, bad = write(tmp_path / "good.json", hostile_result()), tmp_path / "bad.json"
    bad.write_text(text, encoding="latin-1")
    out = tmp_path / "out.md"
    said = run(capsys, "report", good, bad, f"--report=md:{out}", code=4)
    assert message in said
    assert said.count("\n") == 1
    assert not out.exists()


def test_files_that_cannot_be_used_are_named(tmp_path: Path, capsys: Capture) -> None:
    good = write(tmp_path / "good.json", hostile_result())
    assert "missing.json: cannot be read" in run(capsys, "report", tmp_path / "missing.json", code=4)
    assert "not a regular file" in run(capsys, "report", tmp_path, code=4)
    assert "is a result that is read" in run(capsys, "report", good, f"--report=json:{good}", code=4)
    assert "two reports" in run(capsys, "report", good, "--report=json:-", "--report=md:-", code=4)
    assert "nothing to append" in run(capsys, "report", good, "--report=md-append:-", code=4)
    assert "is a folder" in run(capsys, "report", good, f"--report=md:{tmp_path}", code=4)
    assert "expected at least 2000 bytes" in run(capsys, "report", good, "--budget=1999", code=4)
    assert "TYPE one of" in run(capsys, "report", good, "--report=pdf:x", code=4)


def test_a_merge_of_nothing_alike_is_no_merge() -> None:
    other = hostile_result()
    other["tool"]["name"] = "another"
    with pytest.raises(ReportError, match="the name of the tool"):
        merge([hostile_result(), other])


def test_append_adds_to_what_is_there(tmp_path: Path, capsys: Capture) -> None:
    path, summary = write(tmp_path / "r.json", large_result(60)), tmp_path / "summary.md"
    summary.write_bytes(b"before")
    for _ in range(2):
        assert run(capsys, "report", path, f"--report=md-append:{summary}", "--budget=30000") == ""
    text = summary.read_text(encoding="utf-8")
    assert text.startswith("before\n## Checkpoint gate: fail")
    assert text.count("## Checkpoint gate") == 2
    assert len(text.encode()) <= 30_000, "the budget is that of the whole file"


def test_a_file_that_is_nearly_full_gets_the_outcome_and_a_full_one_is_named(tmp_path: Path, capsys: Capture) -> None:
    path, summary = write(tmp_path / "r.json", hostile_result()), tmp_path / "summary.md"
    summary.write_text("x" * 3_900 + "\n")
    run(capsys, "report", path, f"--report=md-append:{summary}", "--budget=4000")
    text = summary.read_text(encoding="utf-8")
    assert text.endswith("\n\n## Checkpoint gate: error\n\nThere is no room for more.\n")
    assert len(text) <= 4000
    said = run(capsys, "report", path, f"--report=md-append:{summary}", "--budget=4000", code=4)
    assert "summary.md: cannot be written: no room is left in it" in said
    assert summary.read_text(encoding="utf-8") == text


def test_a_run_appends_to_its_summary(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model()
    summary = pytester.path / "summary.md"
    arguments = ("--ww-model=model.safetensors", "--ww-report=md-append:summary.md", "--ww-report=md:comment.md")
    for _ in range(2):
        assert pytester.runpytest(*arguments).ret == 0
    comment = (pytester.path / "comment.md").read_text(encoding="utf-8")
    assert summary.read_text(encoding="utf-8") == f"{comment}\n{comment}"


def test_nothing_is_appended_to_a_model(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    path = make_model()
    before = path.read_bytes()
    outcome = pytester.runpytest("--ww-model=model.safetensors", "--ww-report=md-append:model.safetensors")
    assert outcome.ret == pytest.ExitCode.USAGE_ERROR
    assert path.read_bytes() == before


def test_a_mark_of_windows_at_the_start_is_no_error(tmp_path: Path, capsys: Capture) -> None:
    plain = write(tmp_path / "plain.json", hostile_result())
    marked = tmp_path / "marked.json"
    marked.write_bytes(b"\xef\xbb\xbf" + plain.read_bytes())
    assert run(capsys, "report", marked) == run(capsys, "report", plain)


def test_a_result_that_says_something_twice_is_named(tmp_path: Path, capsys: Capture) -> None:
    layer = make_layer("a", 0)
    check = make_check("m", "a", "alpha", "pass")
    once = make_model("m", [layer], [check])
    for model, message in (
        ({**once, "layers": [layer, layer]}, "models.0.layers: a stands there 2 times"),
        ({**once, "checks": [check, check]}, f"checks: {check['id']} stands there 2 times"),
        (
            {**once, "checks": [check, {**check, "id": f"{check['id']}2"}]},
            "models.0.checks: alpha stands there 2 times",
        ),
    ):
        path = write(tmp_path / "bad.json", make_result([model]))
        assert message in run(capsys, "report", path, code=4)
    path = write(
        tmp_path / "bad.json", make_result([once, {**once, "checks": []}, {**once, "path": "n", "checks": []}])
    )
    assert "models: m stands there 2 times" in run(capsys, "report", path, code=4)


def test_a_model_that_two_files_judge_is_read_again(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    """Each asks the same of it, under its own ids, and all of it is planned."""
    make_model()
    for name in ("a", "b"):
        pytester.mkdir(name)
        (pytester.path / name / "ww.yaml").write_text("version: 1\nmodels: [{path: ../model.safetensors}]\n")
    pytester.runpytest("a/ww.yaml", "b/ww.yaml", "--ww-report=json:out.json")
    result = read_result(pytester.path / "out.json")
    (model,) = result["models"]
    n_checks = len(model["checks"])
    assert n_checks == 2 * len({(check["check"], check["layer"]) for check in model["checks"]})
    assert (model["n_planned"], result["n_planned"], result["n_reported"]) == (n_checks, n_checks, n_checks)


def test_a_table_of_a_plugin_with_a_short_row_is_named(tmp_path: Path, capsys: Capture) -> None:
    section = {"plugin": "p", "title": "t", "columns": ["a", "b"], "rows": [[1, 2], [3]]}
    path = write(tmp_path / "bad.json", {**make_result([]), "sections": [section]})
    assert "sections.0: Value error, row 1 has 1 cells under 2 columns" in run(capsys, "report", path, code=4)


def test_a_result_that_contradicts_its_checks_is_named(tmp_path: Path, capsys: Capture) -> None:
    failing = make_result([make_model("m", [make_layer("a", 0)], [make_check("m", "a", "alpha", "fail")])])
    for lie, message in (
        ({"outcome": "pass"}, "outcome: pass, but its checks make it fail"),
        ({"counts": {**failing["counts"], "fail": 0}}, "counts.fail: 0, but 1 checks are"),
        ({"counts": {"pass": 5}, "outcome": "pass"}, "counts.pass: 5, but 0 checks are"),
        ({"n_reported": 0}, "n_reported: 0, but there are 1 checks"),
        ({"n_reported": 2}, "n_reported: 2, but there are 1 checks"),
        ({"n_planned": 0}, "n_planned: 0, but there are 1 checks"),
        ({"models": [{**failing["models"][0], "n_planned": 0}]}, "models.0.n_planned: 0, but there are 1 checks"),
        ({"models": [{**failing["models"][0], "n_reused": 2}]}, "models.0.n_reused: 2, but there are 1 layers"),
        ({"models": [{**failing["models"][0], "coverage": 1.1}]}, "models.0.coverage: Input should be less than"),
        ({"models": [{**failing["models"][0], "coverage": -0.1}]}, "models.0.coverage: Input should be greater than"),
    ):
        path = write(tmp_path / "lie.json", {**failing, **lie})
        assert message in run(capsys, "report", path, code=4)


@pytest.mark.parametrize("kind", ["html", "md", "sarif", "benchmark", "badge"])
def test_half_a_character_and_a_number_beyond_floats_end_no_report(kind: str, tmp_path: Path, capsys: Capture) -> None:
    result = hostile_result()
    model = result["models"][0]
    model["notes"] = ["half \ud800 of it"]
    for check in model["checks"]:
        check["meaning"] = check["meaning"] and "half \ud800 of it"
    model["layers"][0]["spectrum"]["weights"][0] = 10**400
    out = tmp_path / "out"
    run(capsys, "report", write(tmp_path / "odd.json", result), f"--report={kind}:{out}")
    assert out.read_bytes()
