"""Judgements are pure functions of numbers and rules."""

from __future__ import annotations

import math
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_weightwatcher.baseline import BaselineEntry, Tail, entry_of
from pytest_weightwatcher.checks import LAYER_CHECKS, Rule, meaning_of
from pytest_weightwatcher.comparison import LayerComparison, compare_layer, compare_layer_sets
from pytest_weightwatcher.config import AlphaRegression, SpectrumRegression
from pytest_weightwatcher.verdict import (
    SEVERITY_ORDER,
    Judgement,
    Verdict,
    judge_alpha_regression,
    judge_coverage,
    judge_integrity,
    judge_layer_set,
    judge_metric,
    judge_spectrum_regression,
)
from spectral import LayerAnalysis, analyze
from tests.gate.conftest import flat, healthy_tensors

LAYER = analyze(healthy_tensors()).layers[0]
FLAT = analyze({"encoder.0.query.weight": flat()}).layers[0]

finite = st.floats(allow_nan=False, allow_infinity=False)


def rule(minimum: float | None, maximum: float | None, check: str = "stable_rank") -> Rule:
    return Rule(check=check, minimum=minimum, maximum=maximum, severity="fail", line=None)


def layer_with(value: float, metric: str = "stable_rank") -> LayerAnalysis:
    from dataclasses import replace

    return replace(LAYER, metrics=MappingProxyType({**LAYER.metrics, metric: value}))


@given(value=finite, minimum=finite, maximum=finite)
def test_a_metric_passes_exactly_inside_its_bounds(value: float, minimum: float, maximum: float) -> None:
    verdict = judge_metric(layer_with(value), rule(minimum, maximum)).verdict
    assert (verdict is Verdict.PASS) == (minimum <= value <= maximum)


@pytest.mark.parametrize("bounds", [(0.0, None), (None, 0.0), (-math.inf, math.inf)])
def test_nan_never_passes(bounds: tuple[float | None, float | None]) -> None:
    assert judge_metric(layer_with(math.nan), rule(*bounds)).verdict is Verdict.FAIL
    assert judge_coverage(math.nan, 1, rule(*bounds, check="coverage")).verdict is Verdict.FAIL


def test_severity_decides_between_warn_and_fail() -> None:
    soft = Rule(check="stable_rank", minimum=1e9, maximum=None, severity="warn", line=None)
    assert judge_metric(LAYER, soft).verdict is Verdict.WARN
    assert judge_metric(LAYER, rule(1e9, None)).verdict is Verdict.FAIL


def test_alpha_is_also_measured_in_standard_errors() -> None:
    judgement = judge_metric(FLAT, rule(2.0, 6.0, "alpha"))
    assert judgement.verdict is Verdict.FAIL
    alpha, sigma = FLAT.metrics["alpha"], FLAT.metrics["sigma"]
    assert f"{(alpha - 6) / sigma:.1f} standard errors of alpha" in judgement.detail


def test_integrity() -> None:
    assert judge_integrity(LAYER).verdict is Verdict.PASS
    (damaged,) = analyze({"w": np.full((64, 64), np.nan)}).layers
    assert judge_integrity(damaged).verdict is Verdict.FAIL


def test_layer_sets() -> None:
    shapes = {"a": (2, 2), "b": (3, 3)}
    assert judge_layer_set(compare_layer_sets(shapes, shapes)).verdict is Verdict.PASS
    assert judge_layer_set(compare_layer_sets({**shapes, "c": (1, 1)}, shapes)).verdict is Verdict.WARN
    assert judge_layer_set(compare_layer_sets({"a": (2, 2)}, shapes)).verdict is Verdict.FAIL
    assert judge_layer_set(compare_layer_sets({**shapes, "a": (2, 3)}, shapes)).verdict is Verdict.FAIL
    many = compare_layer_sets({}, {f"layer.{i}": (2, 2) for i in range(9)})
    assert judge_layer_set(many).detail.endswith("layer.4 and 4 more; no layer is compared")
    assert judge_layer_set(compare_layer_sets({"b": (1, 1)}, {})).verdict is Verdict.FAIL
    assert judge_layer_set(compare_layer_sets(shapes, shapes), n_newly_excluded=1).verdict is Verdict.WARN


def test_missing_and_new_layers_mean_different_things() -> None:
    missing = judge_layer_set(compare_layer_sets({"a": (2, 2)}, {"a": (2, 2), "b": (3, 3)}))
    new = judge_layer_set(compare_layer_sets({"a": (2, 2), "b": (3, 3)}, {"a": (2, 2)}))
    assert "missing or have another shape" in missing.meaning
    assert "nothing is known of how they changed" in new.meaning


def entry_with(alpha: float, n_tail: int) -> BaselineEntry:
    return BaselineEntry(
        shape=(96, 64),
        dtype="float32",
        content_hash="0",
        n_evals=64,
        metrics={"norm": 1.0},
        tail=Tail(n=n_tail, alpha=alpha),
        sketch=(1.0,) * 64,
    )


def moved_to(alpha: float | None, displacement: float | None = 0.0) -> LayerComparison:
    return LayerComparison(is_same_shape=True, alpha=alpha, displacement=displacement)


@given(before=st.floats(1.1, 10), after=st.floats(1.1, 20), n_tail=st.integers(2, 1000), sigmas=st.floats(0.5, 5))
def test_alpha_regression_needs_a_change_beyond_error_and_allowance(
    before: float, after: float, n_tail: int, sigmas: float
) -> None:
    limits = AlphaRegression(max_increase=0.5, max_decrease=0.25, sigmas=sigmas)
    judgement = judge_alpha_regression(LAYER, entry_with(before, n_tail), moved_to(after), limits)
    error = sigmas * (before - 1) / math.sqrt(n_tail)
    change = after - before
    is_finding = change > max(0.5, error) or change < -max(0.25, error)
    assert judgement.verdict is (Verdict.FAIL if is_finding else Verdict.PASS)


def test_alpha_regression_says_which_way() -> None:
    entry = entry_with(3.0, 100)
    down = judge_alpha_regression(LAYER, entry, moved_to(1.5), AlphaRegression())
    up = judge_alpha_regression(LAYER, entry, moved_to(5.0), AlphaRegression())
    assert "heavier" in down.meaning
    assert "lighter" in up.meaning


def test_alpha_regression_without_numbers() -> None:
    from dataclasses import replace

    no_tail = replace(entry_with(3.0, 20), tail=None)
    limits = AlphaRegression()
    assert judge_alpha_regression(LAYER, no_tail, moved_to(None), limits).verdict is Verdict.INCONCLUSIVE
    lost = judge_alpha_regression(LAYER, entry_with(3.0, 20), moved_to(None), limits)
    assert lost.verdict is Verdict.INCONCLUSIVE
    reshaped = LayerComparison(is_same_shape=False, alpha=None, displacement=None)
    assert judge_alpha_regression(LAYER, no_tail, reshaped, limits).verdict is Verdict.SKIPPED
    nan = judge_alpha_regression(LAYER, entry_with(3.0, 20), moved_to(math.nan), limits)
    assert nan.verdict is Verdict.FAIL


@pytest.mark.parametrize("displacement", [None, math.nan, 0.031, math.inf])
def test_spectrum_regression_never_passes_without_a_number(displacement: float | None) -> None:
    judgement = judge_spectrum_regression(LAYER, moved_to(3.0, displacement), SpectrumRegression())
    assert judgement.verdict is Verdict.FAIL


@pytest.mark.parametrize("displacement", [0.0, 0.03])
def test_spectrum_regression_passes_up_to_its_limit(displacement: float) -> None:
    judgement = judge_spectrum_regression(LAYER, moved_to(3.0, displacement), SpectrumRegression())
    assert judgement.verdict is Verdict.PASS


def test_a_layer_compared_with_its_own_entry_has_not_moved() -> None:
    entry = entry_of(LAYER)
    assert entry is not None
    assert entry.tail is not None
    comparison = compare_layer(LAYER, entry)
    assert comparison.displacement == 0.0
    assert comparison.alpha == entry.tail.alpha


def test_displacement_is_that_of_the_full_spectrum_for_a_small_layer() -> None:
    """Up to 96 values the sketch holds every singular value, to six digits."""
    entry = entry_of(LAYER)
    assert entry is not None
    (other,) = analyze({"encoder.0.query.weight": healthy_tensors(seed=0)["encoder.0.query.weight"] * 1.5}).layers
    assert compare_layer(other, entry).displacement == pytest.approx(0.5, rel=1e-4)


def test_every_check_has_a_meaning_and_an_action() -> None:
    for check in LAYER_CHECKS:
        meaning = meaning_of(check)
        assert meaning.above or meaning.below
        assert meaning.action


def test_severity_order_names_every_verdict() -> None:
    assert set(SEVERITY_ORDER) == set(Verdict)
    assert Judgement(check="alpha", verdict=Verdict.WARN, detail="").is_finding
    assert not Judgement(check="alpha", verdict=Verdict.INCONCLUSIVE, detail="").is_finding
