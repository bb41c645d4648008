"""How many matrices are those of the baseline: a fact of each layer, which every report counts alike."""

from __future__ import annotations

import copy
import html
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_weightwatcher.report import render
from pytest_weightwatcher.report.completing import complete_result
from pytest_weightwatcher.report.merging import Source, merge_results
from pytest_weightwatcher.report.unchanged import told_unchanged
from tests.gate.baseline_files import payload_of
from tests.gate.conftest import COMPARE, LAYERS, MakeModel, noise
from tests.gate.synthetic_result import make_layer, make_model, make_result


def told(pytester: pytest.Pytester, *arguments: str) -> tuple[str, dict[str, Any]]:
    """Run, and return what terminal, Markdown and HTML all say, and what the result says of each layer."""
    reports = [f"--ww-report={kind}:out.{kind}" for kind in ("json", "md", "html")]
    output = pytester.runpytest(*arguments, *reports).stdout.str()
    texts = [output, *(html.unescape((pytester.path / f"out.{kind}").read_text()) for kind in ("md", "html"))]
    found = {re.findall(r"(\d+ of \d matrices are unchanged.*?\.)", text)[0] for text in texts}
    assert len(found) == 1, "the reports of one result agree"
    (model,) = payload_of(pytester.path / "out.json")["models"]
    return found.pop(), {layer["name"]: layer["unchanged"] for layer in model["layers"]}


@pytest.mark.parametrize("value", [np.nan, 0.0], ids=["not finite", "all zero"])
def test_a_layer_whose_baseline_has_no_spectrum_has_changed(
    pytester: pytest.Pytester, make_model: MakeModel, value: float
) -> None:
    make_model("old.safetensors", head=np.full((96, 64), value, np.float32))
    make_model()
    sentence, unchanged = told(pytester, "--ww-model=model.safetensors", "--ww-baseline=old.safetensors")
    assert sentence == "3 of 4 matrices are unchanged, byte for byte."
    assert unchanged == {name: name != "head" for name in LAYERS}


def test_what_a_recording_knew_was_not_computed_again(
    pytester: pytest.Pytester, make_model: MakeModel, recorded: Path
) -> None:
    make_model(head=noise())
    sentence, unchanged = told(pytester, *COMPARE)
    assert sentence == "3 of 4 matrices are unchanged, byte for byte; 3 were not computed again."
    assert unchanged == {name: name != "head" for name in LAYERS}
    sentence, _ = told(pytester, *COMPARE, "--ww-seed=7")
    assert sentence == "3 of 4 matrices are unchanged, byte for byte.", "other options, so that all were computed"


def test_without_a_baseline_no_layer_has_changed_or_stayed(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model()
    pytester.runpytest("--ww-model=model.safetensors", "--ww-report=json:out.json", "--ww-report=html:out.html")
    (model,) = payload_of(pytester.path / "out.json")["models"]
    assert {layer["unchanged"] for layer in model["layers"]} == {None}
    assert "unchanged" not in (pytester.path / "out.html").read_text(encoding="utf-8")


def model_of(*unchanged: bool | None, **changes: Any) -> dict[str, Any]:
    names = "abcdefgh"[: len(unchanged)]
    layers = [{**make_layer(name, 0), "unchanged": said} for name, said in zip(names, unchanged, strict=True)]
    return make_model("m", layers, [], **changes)


def test_new_layers_have_no_other_to_be_like() -> None:
    model = model_of(True, False, None)
    model["layers"][2]["baseline_name"] = None
    assert told_unchanged(model) == "1 of 3 matrices are unchanged, byte for byte."


@pytest.mark.parametrize("kind", ["md", "html"])
@pytest.mark.parametrize("has_partners", [True, False], ids=["partners", "no partners"])
def test_of_older_results_nothing_is_said(kind: str, has_partners: bool) -> None:
    result = make_result([model_of(None, None)])
    for layer in result["models"][0]["layers"]:
        del layer["unchanged"]
        if not has_partners:
            del layer["baseline_name"]
    older = complete_result(result)
    assert "unchanged" not in older["models"][0]["layers"][0], "it is not known, rather than none"
    assert "unchanged" not in render(kind, older)
    assert " \n" not in render("md", older)
    older["models"][0]["n_reused"] = 2
    assert "2 of 2 matrices were not computed again." in html.unescape(render(kind, older))


def test_an_older_shard_takes_over_what_a_newer_one_says() -> None:
    newer = make_result([model_of(True, False)])
    older = copy.deepcopy(newer)
    for layer in older["models"][0]["layers"]:
        del layer["unchanged"]
    older["models"][0]["layers"].append({**make_layer("z", 9), "baseline_name": None})
    merged = merge_results([Source(name="a", result=complete_result(each)) for each in (older, newer)])
    assert told_unchanged(merged["models"][0]) == "1 of 3 matrices are unchanged, byte for byte."
