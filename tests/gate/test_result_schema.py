"""The schema of result.json: in step with the code, met by what runs write, and what result files are read by."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from pytest_weightwatcher.errors import ReportError
from pytest_weightwatcher.options import FORMS
from pytest_weightwatcher.report import model, render
from pytest_weightwatcher.report.completing import complete_result
from pytest_weightwatcher.report.reading import read_result
from pytest_weightwatcher.report.result_schema import FILE_NAME, make_result_schema, render_result_schema
from tests.gate.conftest import MakeModel, flat
from tests.gate.console import ROOT, run
from tests.gate.synthetic_result import hostile_result, large_result

SCHEMA = make_result_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
OLDER = Path(__file__).parent / "golden" / "older-result.json"
"""Written by the first version that wrote any: no seed, waivers, questions, rules, n_planned, lost."""


def write(path: Path, result: Any) -> Path:
    path.write_text(json.dumps(result), encoding="utf-8")
    return path


def test_the_committed_schema_is_that_of_the_code() -> None:
    committed = ROOT / "pytest_weightwatcher" / FILE_NAME
    assert committed.read_text(encoding="utf-8") == render_result_schema(), (
        f"out of step: run `ww-gate schema --result > pytest_weightwatcher/{FILE_NAME}`"
    )


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "schema", "--result")
    assert text == render_result_schema()
    assert text.isascii()
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$id"] != json.loads(run(capsys, "schema"))["$id"]


def test_what_a_run_writes_is_valid(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model(head=flat())
    make_model("good.safetensors")
    (pytester.path / "ww.yaml").write_text(
        "version: 1\nwaivers:\n- {match: head, check: '*', reason: known, expires: 2099-01-01}\n"
    )
    pytester.runpytest("--ww-model=model.safetensors", "--ww-baseline=good.safetensors", "--ww-report=json:out.json")
    path = pytester.path / "out.json"
    result = json.loads(path.read_text(encoding="utf-8"))
    VALIDATOR.validate(result)
    (model,) = result["models"]
    assert model["n_planned"] == result["n_planned"] == len(model["checks"])
    assert [layer["index"] for layer in model["layers"]] == [0, 1, 2, 3]
    assert render("json", read_result(path)) == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("make", [hostile_result, lambda: large_result(20, n_evals=4)], ids=["hostile", "large"])
def test_synthetic_results_are_valid_and_read_as_they_are(make: Callable[[], dict[str, Any]], tmp_path: Path) -> None:
    result = make()
    VALIDATOR.validate(result)
    assert read_result(write(tmp_path / "result.json", result)) == result


def test_an_older_result_is_still_read() -> None:
    older = json.loads(OLDER.read_text(encoding="utf-8"))
    VALIDATOR.validate(older)
    assert "lost" not in older
    result = read_result(OLDER)
    assert (result["n_planned"], result["n_reported"], result["lost"]) == (5, 5, [])
    assert result["counts"] == {**older["counts"], "waived": 0}
    assert result["models"][0]["waivers"] == []
    assert result["models"][0]["checks"][0]["rule"] is None
    VALIDATOR.validate(result)
    assert "warn" in render("md", result)


def test_counts_that_are_missing_are_made_of_the_checks() -> None:
    result = hostile_result()
    assert complete_result({**result, "counts": {}})["counts"] == result["counts"]


PARTS: dict[str, type[BaseModel]] = {
    "options": model.RunOptions, "merged": model.Merged, "sections": model.Section, "models": model.Model,
    "layers": model.Layer, "spectrum": model.Spectrum, "tail": model.Tail, "bulk": model.Bulk,
    "unanalysed": model.Unanalysed, "checks": model.Check, "waivers": model.Waiver,
}  # fmt: skip


def without_the_optional(node: Any, part: type[BaseModel]) -> Any:
    """Return a part of a result without what the schema does not demand, but for the parts in it."""
    if isinstance(node, list):
        return [without_the_optional(each, part) for each in node]
    found = {}
    for key, value in (node or {}).items():
        if key in PARTS and (part, key) != (model.Model, "options"):  # those of an analysis may be anything
            found[key] = without_the_optional(value, PARTS[key])
        elif part.model_fields[key].is_required():
            found[key] = value
    return None if node is None else found


@pytest.mark.parametrize("kind", FORMS)
def test_what_the_schema_lets_be_absent_may_be(kind: str, tmp_path: Path) -> None:
    result = {**hostile_result(), "merged": {"n_results": 2, "notes": []}}
    result["counts"]["error"] -= len(result["lost"])
    bare = without_the_optional(result, model.Result)
    assert [set(section) for section in bare["sections"]] == [{"plugin", "title"}]
    assert bare["merged"] == {"n_results": 2}
    VALIDATOR.validate(bare)
    assert render(kind, read_result(write(tmp_path / "result.json", bare)))


def test_keys_of_newer_versions_are_read(tmp_path: Path) -> None:
    result = hostile_result()
    result["models"][0]["layers"][0]["picture"] = 1
    result["models"][0]["layers"][0]["spectrum"]["other"] = [1]
    VALIDATOR.validate(result)
    result["novelty"] = result["models"][0]["novelty"] = result["models"][0]["checks"][0]["novelty"] = {}
    assert read_result(write(tmp_path / "result.json", result))["outcome"] == "error"
    assert not VALIDATOR.is_valid(result), "a slip in a key of this version is found"


def broken() -> Iterator[tuple[str, Callable[[dict[str, Any]], Any]]]:
    yield "outcome", lambda result: result.update(outcome="great")
    yield "counts", lambda result: result["counts"].update(wonderful=1)
    yield "counts", lambda result: result["counts"].update({"pass": "many"})
    yield "models.0.layers.0.metrics.alpha", lambda result: layer(result)["metrics"].update(alpha="3")
    yield "models.0.layers.0.metrics.alpha", lambda result: layer(result)["metrics"].update(alpha=True)
    yield "models.0.layers.0.shape.0", lambda result: layer(result).update(shape=["<b>"])
    yield "models.0.layers.0.name", lambda result: layer(result).update(name=None)
    yield "models.0.layers.0.spectrum.evals", lambda result: layer(result)["spectrum"].update(evals=7)
    yield "models.0.layers", lambda result: result["models"][0].pop("layers")
    yield "models.0.checks.1.verdict", lambda result: result["models"][0]["checks"][1].update(verdict="<b>")
    yield "models.0.checks.1.line", lambda result: result["models"][0]["checks"][1].update(line=0)
    yield "models.0.checks.1.value", lambda result: result["models"][0]["checks"][1].update(value=10**400)
    yield "models.0.checks.1.limit", lambda result: result["models"][0]["checks"][1].update(limit=[1, 2])
    yield "sections.0.rows.0.0", lambda result: result["sections"][0].update(rows=[[[]]])
    yield "options.fail_on", lambda result: result["options"].update(fail_on="now")


def layer(result: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = result["models"][0]["layers"][0]
    return found


@pytest.mark.parametrize(("place", "damage"), list(broken()), ids=lambda value: value if isinstance(value, str) else "")
def test_a_damaged_result_is_refused_with_file_and_place(
    place: str, damage: Callable[[dict[str, Any]], Any], tmp_path: Path
) -> None:
    result = copy.deepcopy(hostile_result())
    damage(result)
    path = write(tmp_path / "damaged.json", result)
    with pytest.raises(ReportError, match=r"damaged\.json: not a result that this version can read: ") as error:
        read_result(path)
    assert f": {place}" in str(error.value)


def test_numbers_beyond_any_float_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "big.json", hostile_result())
    path.write_text(path.read_text(encoding="utf-8").replace('"coverage": 0.97', '"coverage": 1e999', 1))
    with pytest.raises(ReportError, match="coverage"):
        read_result(path)
