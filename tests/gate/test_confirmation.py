"""Before a check fails: borderline findings get a second look, clear ones need none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_weightwatcher.baseline import BaselineEntry
from pytest_weightwatcher.baseline_source import open_checkpoint
from pytest_weightwatcher.checks import ALPHA, Rule
from pytest_weightwatcher.comparison import compare_records
from pytest_weightwatcher.config import Config
from pytest_weightwatcher.confirmation import BORDER, is_borderline, is_trap_confirmed, with_bootstrap
from pytest_weightwatcher.gate import Gate, layer_checks
from pytest_weightwatcher.planning import gate_options, plan_model
from pytest_weightwatcher.profiles import PROFILES
from pytest_weightwatcher.records import record_of
from pytest_weightwatcher.verdict import Judgement, Verdict
from spectral import analyze, describe
from tests.gate.conftest import Tensors, healthy_tensors


def finding(**changes: Any) -> Judgement:
    return replace(Judgement(check="regression.spectrum", verdict=Verdict.FAIL, detail="", value=1.0), **changes)


@pytest.mark.parametrize(("share", "expected"), [(1.01, True), (BORDER, True), (BORDER + 0.01, False), (9.0, False)])
def test_a_change_is_borderline_up_to_a_quarter_beyond_its_allowance(share: float, expected: bool) -> None:
    assert is_borderline(finding(share=share), None) is expected
    assert not is_borderline(finding(share=share, verdict=Verdict.PASS), None)
    assert not is_borderline(finding(share=share, value=None), None)


@pytest.mark.parametrize(("value", "expected"), [(6.1, True), (6.7, False), (1.9, True), (1.7, False)])
def test_a_metric_is_borderline_within_a_tenth_of_its_bound(value: float, expected: bool) -> None:
    rule = Rule(check=ALPHA, minimum=2.0, maximum=6.0, severity="fail", line=None)
    assert is_borderline(finding(check=ALPHA, value=value), rule) is expected


def test_a_trap_holds_where_most_permutations_see_it() -> None:
    assert is_trap_confirmed(1e-5, [1e-5] * 8, 1e-4)
    assert not is_trap_confirmed(1e-5, [0.3] * 8, 1e-4)
    assert not is_trap_confirmed(9e-5, [9e-5] * 8, 1e-4)


def judged(new: Tensors, good: Tensors, config: Config, name: str) -> Judgement:
    options = gate_options(config, has_baseline=True)
    description = describe(new, options)
    source = open_checkpoint(good, Path("good"), description)
    model = plan_model(description, config, name="new", baseline=source)
    gate = Gate(n_jobs=1)
    try:
        spec = next(spec for spec in description.matrices if spec.name == "head")
        check = next(check for check in layer_checks(model, spec) if check.name == name)
        return gate.judge(check)
    finally:
        gate.close()


def scaled(factor: float) -> Tensors:
    tensors = healthy_tensors()
    return {**tensors, "head.weight": (factor * tensors["head.weight"]).astype(np.float32)}


@pytest.mark.parametrize(
    ("factor", "verdict", "is_looked_at"),
    [(1.01, "pass", False), (1.035, "fail", True), (1.5, "fail", False)],
)
def test_a_borderline_displacement_is_computed_again_and_the_text_says_so(
    factor: float, verdict: str, is_looked_at: bool
) -> None:
    judgement = judged(scaled(factor), healthy_tensors(), Config(), "regression.spectrum")
    assert str(judgement.verdict) == verdict
    assert ("borderline: confirmed by a full SVD in float64 (0.035" in judgement.text) is is_looked_at


def test_a_borderline_alpha_comes_with_its_bootstrap_interval() -> None:
    alpha = next(layer for layer in analyze(healthy_tensors()).layers if layer.name == "head").metrics["alpha"]
    config = Config.model_validate({"checks": {"alpha": {"max": alpha - 0.05}}})
    judgement = judged(healthy_tensors(), healthy_tensors(), config, "alpha")
    assert judgement.verdict is Verdict.FAIL
    assert ", bootstrap interval " in judgement.confirmation


def test_the_bootstrap_error_of_a_power_law_is_that_of_theory() -> None:
    """Of a Pareto tail the standard error of the Hill estimate is (α-1)/√n."""
    rng = np.random.default_rng(0)
    evals = np.sort(rng.pareto(2.0, size=400) + 1.0)
    record = replace(record_of(analyze(healthy_tensors()).layers[0]), evals=evals)
    tail = record.tail
    assert tail is not None
    entry = BaselineEntry(record=replace(record, content_hash="other", tail=replace(tail, n=300, alpha=3.0)))
    comparison = compare_records(record, entry, trap_level=1e-4, news=PROFILES["finetune"].trap_news)
    found, text = with_bootstrap(record, entry, comparison, seed=0)
    sigma = float(text.removeprefix(", bootstrap standard error "))
    assert sigma == pytest.approx(2.0 / np.sqrt(300), rel=0.25)
    assert found.changes[ALPHA].sigma == pytest.approx(max(sigma, 2.0 / np.sqrt(300)), rel=0.05)
    assert with_bootstrap(record, entry, comparison, seed=0)[1] == text
