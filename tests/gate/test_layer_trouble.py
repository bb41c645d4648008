"""Trouble in one layer is a finding in that layer, never the end of the run, and never a pass."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pytest_weightwatcher import assert_layers_well_trained
from tests.gate.conftest import MakeModel, healthy_tensors


def healthy_head() -> NDArray[Any]:
    return healthy_tensors()["head.weight"].copy()


def with_value(value: float) -> NDArray[Any]:
    values = healthy_head()
    values[3, 7] = value
    return values


def verdicts_of(pytester: pytest.Pytester, make_model: MakeModel, head: NDArray[Any]) -> dict[str, dict[str, Any]]:
    make_model(head=head)
    pytester.runpytest("--ww-model=model.safetensors", "--ww-report=json:out.json")
    result = json.loads((pytester.path / "out.json").read_text(encoding="utf-8"))
    checks = result["models"][0]["checks"]
    others = [check for check in checks if check["layer"] not in (None, "head")]
    assert len(others) == 12
    assert {check["verdict"] for check in others} == {"pass"}
    return {check["check"]: check for check in checks if check["layer"] == "head"}


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (with_value(np.nan), "1 of 6144 values are NaN or infinite, the first at head.weight[3, 7]"),
        (with_value(-np.inf), "1 of 6144 values are NaN or infinite, the first at head.weight[3, 7]"),
        (np.zeros((96, 64), np.float32), "all 6144 values are zero"),
        (np.full((96, 64), 0.5, np.float32), "every value of the layer is the same"),
        (np.outer(np.arange(1, 97), np.arange(1, 65)).astype(np.float32), "the layer has collapsed to rank one"),
        (healthy_head() * (np.arange(96) < 47)[:, None], "49 of 96 rows are dead (all zero)"),
        (healthy_head() * (np.arange(64) < 31), "33 of 64 columns are dead (all zero)"),
    ],
    ids=["nan", "infinity", "all-zero", "constant", "rank one", "dead rows", "dead columns"],
)
def test_damaged_values_fail(
    pytester: pytest.Pytester, make_model: MakeModel, head: NDArray[Any], message: str
) -> None:
    verdicts = verdicts_of(pytester, make_model, head)
    assert verdicts["integrity"]["verdict"] == "fail"
    assert verdicts["integrity"]["detail"] == message
    if "dead" not in message:
        assert verdicts["alpha"]["verdict"] != "pass"
        assert verdicts["alpha"]["value"] is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("name", "shape"), [("head.bias", (96,)), ("scale", ()), ("depthwise.weight", (8, 1, 3, 3)), ("a_mask", (4, 4))]
)
def test_values_that_no_spectrum_covers_fail(
    pytester: pytest.Pytester, value: float, name: str, shape: tuple[int, ...]
) -> None:
    from safetensors.numpy import save_file

    save_file({**healthy_tensors(), name: np.full(shape, value, np.float32)}, pytester.path / "model.safetensors")
    result = pytester.runpytest("--ww-model=model.safetensors")
    result.assert_outcomes(passed=17, failed=1)
    n_values = int(np.prod(shape))
    result.stdout.fnmatch_lines([f"*NaN or infinite values in {name} ({n_values} of {n_values})*"])
    with pytest.raises(AssertionError, match=f"other tensors: NaN or infinite values in {name}"):
        assert_layers_well_trained(pytester.path / "model.safetensors")


def test_too_few_eigenvalues_are_skipped(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    verdicts = verdicts_of(pytester, make_model, healthy_head()[:49])
    assert verdicts["integrity"]["verdict"] == "pass"
    assert verdicts["alpha"]["verdict"] == "skipped"
    assert verdicts["alpha"]["detail"] == "49 eigenvalues, at least 50 are needed for a fit"
    result = pytester.runpytest("--ww-model=model.safetensors", "-rs")
    result.stdout.fnmatch_lines(
        ["SKIPPED [[]1[]] ww.yaml:1: model.safetensors: head alpha: 49 eigenvalues, at least 50 are needed for a fit"]
    )


def test_scalars_vectors_and_empty_tensors(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model(scale=np.array(1.0, np.float32), bias__extra=np.ones(7, np.float32), empty=np.zeros((0, 64), np.float32))
    result = pytester.runpytest("--ww-model=model.safetensors", "--ww-report=json:out.json")
    assert result.parseoutcomes() == {"passed": 18}
    model = json.loads((pytester.path / "out.json").read_text(encoding="utf-8"))["models"][0]
    assert [(entry["name"], entry["reason"]) for entry in model["unanalysed"]] == [("empty.weight", "an empty tensor")]


def test_file_that_changes_while_it_is_checked(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    """The headers were sound at collection; what cannot be read later is an error of its items."""
    make_model()
    pytester.makeconftest(
        """
        import os

        def pytest_collection_finish(session):
            os.truncate("model.safetensors", 2000)
        """
    )
    result = pytester.runpytest("--ww-model=model.safetensors")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*error: head of model.safetensors: *", "*it changed while it was read*"])
