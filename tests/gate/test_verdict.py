"""Judgements are pure functions of numbers and rules."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pytest_weightwatcher.baseline import BaselineEntry
from pytest_weightwatcher.checks import (
    ALPHA,
    CORRELATION_TRAPS,
    DRIFT,
    INTRUDERS,
    NOISE,
    OF_ROUNDING,
    OVERLAP,
    REGRESSION,
    SPECTRUM,
    TURN,
    WEIGHTS,
    RegressionRule,
    Rule,
)
from pytest_weightwatcher.comparison import Change, LayerComparison, compare_records, pool_layers
from pytest_weightwatcher.limits import CHECK_NAMES, REGRESSION_NAMES
from pytest_weightwatcher.matching import layer_sets
from pytest_weightwatcher.meanings import meaning_of
from pytest_weightwatcher.profiles import PROFILES, TrapNews
from pytest_weightwatcher.records import LayerRecord, TrapRecord, record_of
from pytest_weightwatcher.verdict import (
    LOST_IN_NOISE,
    SEVERITY_ORDER,
    Judgement,
    Verdict,
    judge_change,
    judge_coverage,
    judge_integrity,
    judge_layer_set,
    judge_mean,
    judge_metric,
    judge_model_regression,
    judge_noise,
    judge_regression,
    judge_traps,
)
from spectral import analyze
from spectral.fits import FitFailureReason
from tests.gate.conftest import flat, healthy_tensors


def records_of(tensors: dict[str, Any]) -> list[LayerRecord]:
    analysis = analyze(tensors, traps=True, noise_test=True, projections=True, min_evals=50)
    return [record_of(layer) for layer in analysis.layers]


NEWS = TrapNews(growth=2.0, needs_cause=True)
LAYER = records_of(healthy_tensors())[0]
(FLAT,) = records_of({"encoder.0.query.weight": flat()})
(DAMAGED,) = records_of({"w": np.full((64, 64), np.nan)})
(SMALL,) = records_of({"w": healthy_tensors()["head.weight"][:49].copy()})

finite = st.floats(allow_nan=False, allow_infinity=False)
allowance = st.none() | st.floats(0.0, 10.0)


def rule(minimum: float | None, maximum: float | None, check: str = "stable_rank") -> Rule:
    return Rule(check=check, minimum=minimum, maximum=maximum, severity="fail", line=None)


def record_with(value: float, metric: str = "stable_rank") -> LayerRecord:
    return replace(LAYER, metrics={**LAYER.metrics, metric: value})


# ------------------------------------------------------------------------------------------------ absolute limits


@given(value=finite, minimum=finite, maximum=finite)
def test_a_metric_passes_exactly_inside_its_bounds(value: float, minimum: float, maximum: float) -> None:
    verdict = judge_metric(record_with(value), rule(minimum, maximum)).verdict
    assert (verdict is Verdict.PASS) == (minimum <= value <= maximum)


@pytest.mark.parametrize("bounds", [(0.0, None), (None, 0.0), (-math.inf, math.inf)])
def test_nan_never_passes(bounds: tuple[float | None, float | None]) -> None:
    assert judge_metric(record_with(math.nan), rule(*bounds)).verdict is Verdict.FAIL
    assert judge_coverage(math.nan, 1, rule(*bounds, check="coverage")).verdict is Verdict.FAIL
    assert judge_mean({"stable_rank": math.nan}, rule(*bounds)).verdict is Verdict.FAIL
    assert judge_noise(replace(LAYER, noise_p_value=math.nan), rule(*bounds, check=NOISE)).verdict is Verdict.FAIL


def test_severity_decides_between_warn_and_fail() -> None:
    soft = Rule(check="stable_rank", minimum=1e9, maximum=None, severity="warn", line=None)
    assert judge_metric(LAYER, soft).verdict is Verdict.WARN
    assert judge_metric(LAYER, rule(1e9, None)).verdict is Verdict.FAIL


def test_alpha_is_also_measured_in_standard_errors() -> None:
    judgement = judge_metric(FLAT, rule(2.0, 6.0, "alpha"))
    assert judgement.verdict is Verdict.FAIL
    alpha, sigma = FLAT.metrics["alpha"], FLAT.metrics["sigma"]
    assert f"{(alpha - 6) / sigma:.1f} standard errors of alpha" in judgement.detail


def test_a_metric_that_does_not_exist() -> None:
    alpha = rule(2.0, 6.0, "alpha")
    assert judge_metric(DAMAGED, alpha).verdict is Verdict.FAIL
    assert judge_metric(SMALL, alpha).verdict is Verdict.SKIPPED
    without = {name: value for name, value in LAYER.metrics.items() if name != "alpha"}
    unspread = replace(LAYER, metrics=without, fit_failure=(FitFailureReason.NO_SPREAD, "all alike"))
    assert judge_metric(unspread, alpha).verdict is Verdict.INCONCLUSIVE
    assert judge_mean({}, alpha).verdict is Verdict.INCONCLUSIVE


@given(n_traps=st.integers(0, 20), accepted=st.integers(0, 20))
def test_traps_pass_up_to_the_accepted_number(n_traps: int, accepted: int) -> None:
    judgement = judge_traps(LAYER, rule(None, accepted, CORRELATION_TRAPS), n_traps, 1e-3)
    assert (judgement.verdict is Verdict.PASS) == (n_traps <= accepted)
    assert judgement.detail.startswith(f"{n_traps} correlation trap{'' if n_traps == 1 else 's'} (p = ")


def test_without_a_test_nothing_passes() -> None:
    untested = replace(LAYER, traps=None, noise_p_value=None, reasons={"traps": "too small", "noise_test": "too small"})
    for record, detail in ((untested, "too small"), (DAMAGED, "no test: 4096 of 4096 values are NaN")):
        judgements = (
            judge_traps(record, rule(None, 0, CORRELATION_TRAPS), None, 1e-3),
            judge_noise(record, rule(None, 0.01, NOISE)),
        )
        for judgement in judgements:
            assert judgement.verdict is Verdict.SKIPPED
            assert judgement.detail.startswith(detail)


@given(p_value=st.floats(0.0, 1.0), level=st.floats(1e-6, 1.0))
def test_noise_passes_where_the_layer_is_told_from_it(p_value: float, level: float) -> None:
    judgement = judge_noise(replace(LAYER, noise_p_value=p_value), rule(None, level, NOISE))
    assert (judgement.verdict is Verdict.PASS) == (p_value <= level)
    assert ("can be told" if p_value <= level else "cannot be told") in judgement.detail


def test_integrity() -> None:
    assert judge_integrity(LAYER).verdict is Verdict.PASS
    assert judge_integrity(DAMAGED).verdict is Verdict.FAIL


@given(n_dead=st.integers(0, 96))
def test_a_layer_is_dead_when_most_of_its_rows_are(n_dead: int) -> None:
    verdict = judge_integrity(record_with(n_dead, "n_dead_rows")).verdict
    assert (verdict is Verdict.FAIL) == (n_dead > 48)


# -------------------------------------------------------------------------------------------- beside the baseline


def is_beyond(
    change: float, absolute: float | None, relative: float | None, reference: float, error: float | None
) -> bool:
    """Written again, from the words: a change counts only beyond every allowance given for its direction."""
    given_ = [] if absolute is None else [absolute]
    given_ += [] if relative is None else [relative * abs(reference)]
    if not given_:
        return False
    return all(change > each for each in (*given_, *([] if error is None else [error])))


changes = st.builds(
    Change, value=st.floats(-50, 50), reference=st.floats(-50, 50), sigma=st.none() | st.floats(0.0, 5.0)
)
rules = st.builds(
    RegressionRule,
    quantity=st.just("stable_rank"),
    increase=allowance,
    decrease=allowance,
    relative_increase=allowance,
    relative_decrease=allowance,
    sigmas=st.none() | st.floats(0.0, 5.0),
)


@given(limits=rules, change=changes)
def test_a_change_counts_only_beyond_every_allowance(limits: RegressionRule, change: Change) -> None:
    error = None if change.sigma is None or limits.sigmas is None else limits.sigmas * change.sigma
    rise = change.value - change.reference
    is_finding = is_beyond(rise, limits.increase, limits.relative_increase, change.reference, error) or is_beyond(
        -rise, limits.decrease, limits.relative_decrease, change.reference, error
    )
    judgement = judge_change(limits, change)
    assert judgement.verdict is (Verdict.FAIL if is_finding else Verdict.PASS)
    assert judgement.baseline == change.reference
    assert judgement.share is not None
    assert judgement.limit is not None
    assert ("max" in judgement.limit) == (limits.increase is not None or limits.relative_increase is not None)
    assert ("min" in judgement.limit) == (limits.decrease is not None or limits.relative_decrease is not None)
    assert (judgement.share > 1.0) == is_finding or math.isclose(judgement.share, 1.0)


@pytest.mark.parametrize(
    "change",
    [
        Change(value=math.nan, reference=1.0),
        Change(value=1.0, reference=math.nan),
        Change(value=math.inf, reference=math.inf),
        Change(value=math.nan, reference=1.0, sigma=math.nan),
    ],
)
@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"increase": math.inf},
        {"decrease": 1e9},
        {"relative_increase": 1e9, "relative_decrease": 1e9, "sigmas": 1e9},
        {"increase": 1.0, "warn_at": 0.5},
    ],
)
def test_nan_beside_a_baseline_never_passes(change: Change, limits: dict[str, Any]) -> None:
    soft = RegressionRule(quantity="norm", **limits, severity="warn")
    hard = RegressionRule(quantity="norm", **limits)
    assert judge_change(hard, change).verdict is Verdict.FAIL
    assert judge_change(soft, change).verdict is Verdict.WARN
    assert judge_model_regression(change, hard).verdict is Verdict.FAIL


@pytest.mark.parametrize("quantity", [SPECTRUM, WEIGHTS, ALPHA, DRIFT, "effective_rank"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_profiles_never_pass_what_is_no_number(quantity: str, value: float) -> None:
    for profile in PROFILES.values():
        if quantity in profile.layer_rules:
            judgement = judge_change(profile.layer_rules[quantity], Change(value=value, reference=3.0, sigma=0.1))
            severity = profile.layer_rules[quantity].severity
            assert judgement.verdict is (Verdict.FAIL if severity == "fail" else Verdict.WARN)


@given(value=st.floats(0.0, 2.0), warn_at=st.floats(0.01, 0.99))
def test_warn_at_warns_of_what_comes_near(value: float, warn_at: float) -> None:
    limits = RegressionRule(quantity=WEIGHTS, increase=0.5, warn_at=warn_at)
    verdict = judge_change(limits, Change(value=value, reference=0.0)).verdict
    expected = Verdict.FAIL if value > 0.5 else Verdict.WARN if value / 0.5 > warn_at else Verdict.PASS
    assert verdict is expected


def test_warn_at_looks_in_the_direction_of_the_change() -> None:
    limits = RegressionRule(quantity="norm", increase=1.0, decrease=10.0, warn_at=0.5)
    assert judge_change(limits, Change(value=10.6, reference=10.0)).verdict is Verdict.WARN
    assert judge_change(limits, Change(value=9.4, reference=10.0)).verdict is Verdict.PASS
    assert judge_change(limits, Change(value=4.0, reference=10.0)).verdict is Verdict.WARN
    only_up = replace(limits, decrease=None)
    assert judge_change(only_up, Change(value=-1e9, reference=10.0)).verdict is Verdict.PASS


@given(difference=st.floats(-20, 20), sigma=st.floats(0.01, 5), sigmas=st.floats(0.5, 5))
def test_sigmas_widen_an_allowance_and_never_narrow_it(difference: float, sigma: float, sigmas: float) -> None:
    limits = RegressionRule(quantity=ALPHA, increase=0.5, decrease=0.25, sigmas=sigmas)
    change = Change(value=10.0 + difference, reference=10.0, sigma=sigma)
    moved = change.difference
    is_finding = moved > max(0.5, sigmas * sigma) or -moved > max(0.25, sigmas * sigma)
    judgement = judge_change(limits, change)
    assert judgement.verdict is (Verdict.FAIL if is_finding else Verdict.PASS)
    assert f"{moved / sigma:+.1f} standard errors" in judgement.detail
    without = judge_change(limits, replace(change, sigma=None))
    assert without.is_finding or not judgement.is_finding
    assert "standard errors" not in without.detail


@given(factor=st.floats(0.01, 10), reference=st.floats(0.1, 1e6))
def test_relative_allowances_follow_the_baseline(factor: float, reference: float) -> None:
    limits = RegressionRule(quantity="effective_rank", relative_increase=0.25, relative_decrease=0.1)
    assume(min(abs(factor - 1.25), abs(factor - 0.9)) > 1e-9)
    judgement = judge_change(limits, Change(value=factor * reference, reference=reference))
    assert (judgement.verdict is Verdict.PASS) == (0.9 < factor < 1.25)
    assert judgement.limit == {"min": reference - 0.1 * reference, "max": reference + 0.25 * reference}


def test_alpha_regression_says_which_way() -> None:
    limits = PROFILES["compression"].layer_rules[ALPHA]
    down = judge_change(limits, Change(value=1.5, reference=3.0, sigma=0.2))
    up = judge_change(limits, Change(value=5.0, reference=3.0, sigma=0.2))
    assert "heavier" in down.meaning
    assert "lighter" in up.meaning


def compared(**changes: Change) -> LayerComparison:
    return LayerComparison(changes=changes, reasons={ALPHA: "the baseline has no power-law tail for this layer"})


def test_alpha_regression_without_numbers() -> None:
    limits = PROFILES["compression"].layer_rules[ALPHA]
    assert judge_regression(LAYER, compared(), limits).verdict is Verdict.INCONCLUSIVE
    assert judge_regression(SMALL, compared(), limits).verdict is Verdict.SKIPPED
    reshaped = LayerComparison(blocked="the baseline's layer has another shape")
    judgement = judge_regression(LAYER, reshaped, limits)
    assert (judgement.verdict, judgement.detail) == (Verdict.SKIPPED, "the baseline's layer has another shape")
    assert judge_regression(LAYER, compared(), PROFILES["finetune"].layer_rules[INTRUDERS]).verdict is Verdict.SKIPPED
    assert judge_model_regression(None, limits).verdict is Verdict.SKIPPED


def test_a_change_in_a_blocked_comparison_is_not_judged() -> None:
    comparison = replace(compared(spectrum=Change(value=0.0, reference=0.0)), blocked="no spectrum")
    assert judge_regression(LAYER, comparison, PROFILES["compression"].layer_rules[SPECTRUM]).verdict is Verdict.SKIPPED


@given(value=st.floats(0.0, 1.0) | st.just(math.nan), reference=st.floats(0.0, 1.0) | st.just(math.nan))
def test_a_layer_must_not_be_lost_in_noise(value: float, reference: float) -> None:
    limits = PROFILES["compression"].layer_rules[NOISE]
    verdict = judge_regression(LAYER, compared(noise=Change(value=value, reference=reference)), limits).verdict
    is_fine = value <= LOST_IN_NOISE or reference > LOST_IN_NOISE
    assert verdict is (Verdict.PASS if is_fine else Verdict.FAIL)
    soft = judge_regression(
        LAYER, compared(noise=Change(value=value, reference=reference)), replace(limits, severity="warn")
    )
    assert soft.verdict is (Verdict.PASS if is_fine else Verdict.WARN)


@pytest.mark.parametrize("value", [0.0, 0.03])
def test_spectrum_regression_passes_up_to_its_limit(value: float) -> None:
    limits = PROFILES["compression"].layer_rules[SPECTRUM]
    assert judge_change(limits, Change(value=value, reference=0.0)).verdict is Verdict.PASS
    assert judge_change(limits, Change(value=value + 0.001, reference=0.0)).verdict is (
        Verdict.PASS if value == 0.0 else Verdict.FAIL
    )


def test_a_layer_compared_with_its_own_entry_has_not_moved() -> None:
    comparison = compare_records(LAYER, BaselineEntry(record=LAYER), trap_level=1e-4, news=NEWS)
    assert comparison.is_identical
    for name, change in comparison.changes.items():
        assert change.difference == 0.0, name
    for profile in PROFILES.values():
        for limits in profile.layer_rules.values():
            judgement = judge_regression(LAYER, comparison, limits)
            if limits.quantity in (TURN, *OF_ROUNDING):
                # Of smaller layers, and of quantised ones, only.
                assert judgement.verdict is Verdict.SKIPPED
                continue
            assert judgement.verdict is Verdict.PASS
            assert judgement.detail.startswith("unchanged: ")
            assert judgement.resolution


def test_the_same_content_has_the_same_traps_whatever_this_run_permuted() -> None:
    assert LAYER.traps is not None
    trapped = replace(LAYER, traps=replace(LAYER.traps, p_value=1e-9, levels=(1e-9,)))
    comparison = compare_records(trapped, BaselineEntry(record=LAYER), trap_level=1e-4, news=NEWS)
    assert comparison.changes[CORRELATION_TRAPS] == Change(value=0.0, reference=0.0)
    other = replace(trapped, content_hash="another")
    comparison = compare_records(other, BaselineEntry(record=LAYER), trap_level=1e-4, news=NEWS)
    assert comparison.changes[CORRELATION_TRAPS] == Change(value=1.0, reference=0.0)


@pytest.mark.parametrize(
    ("eigenvalues", "n_new"),
    [((1.0, 0.5), 0), ((1.9, 0.5), 0), ((2.1, 0.5), 1), ((9.0, 1.0, 0.5), 1), ((9.0, 8.0, 0.5), 2)],
)
def test_a_trap_without_a_partner_in_the_baseline_is_a_new_one(eigenvalues: tuple[float, ...], n_new: int) -> None:
    levels = (1e-9,) * (len(eigenvalues) - 1)
    before = TrapRecord(p_value=1e-9, levels=(1e-9,) * 2, eigenvalues=(1.0, 0.5), limit=0.1)
    now = replace(before, levels=levels, eigenvalues=eigenvalues)
    comparison = compare_records(
        replace(LAYER, content_hash="another", traps=now),
        BaselineEntry(record=replace(LAYER, traps=before)),
        trap_level=1e-4,
        news=NEWS,
    )
    assert comparison.changes[CORRELATION_TRAPS] == Change(value=float(n_new), reference=0.0)


def test_displacement_is_that_of_the_full_spectrum_for_a_small_layer() -> None:
    """Up to 96 values the sketch holds every singular value, to five digits."""
    (other,) = records_of({"encoder.0.query.weight": healthy_tensors()["encoder.0.query.weight"] * 1.5})
    query = next(record for record in records_of(healthy_tensors()) if record.name == "encoder.0.query")
    changes = compare_records(other, BaselineEntry(record=query), trap_level=1e-4, news=NEWS).changes
    assert changes[SPECTRUM].value == pytest.approx(0.5, rel=1e-4)
    assert changes[WEIGHTS].value == pytest.approx(0.5, rel=0.3)


def test_directions_need_both_checkpoints() -> None:
    comparison = compare_records(
        replace(LAYER, content_hash="another"), BaselineEntry(record=LAYER), trap_level=1e-4, news=NEWS
    )
    for quantity in (OVERLAP, INTRUDERS):
        assert quantity not in comparison.changes
        assert "need both checkpoints" in comparison.reason_of(quantity)


def test_a_layer_without_spectrum_is_not_compared() -> None:
    damaged = replace(DAMAGED, shape=LAYER.shape, n_evals=LAYER.n_evals)
    for record, entry in ((damaged, LAYER), (LAYER, damaged), (LAYER, SMALL)):
        comparison = compare_records(record, BaselineEntry(record=entry), trap_level=1e-4, news=NEWS)
        assert comparison.blocked
        assert not comparison.changes


@given(factor=st.floats(0.1, 10))
def test_pooled_quantities_of_layers_that_changed_alike(factor: float) -> None:
    pairs = [(LAYER, BaselineEntry(record=replace(LAYER, metrics={**LAYER.metrics, "stable_rank": 2.0})))] * 3
    pairs = [
        (replace(record, metrics={**record.metrics, "stable_rank": 2.0 * factor}), entry) for record, entry in pairs
    ]
    comparisons = [LayerComparison(changes={SPECTRUM: Change(value=factor, reference=0.0)})] * 3
    pooled = pool_layers(pairs, comparisons)
    assert pooled[SPECTRUM].value == pytest.approx(factor)
    assert pooled["stable_rank"].value == pytest.approx(factor)
    assert pooled["norm"].value == pytest.approx(1.0)
    assert pool_layers(pairs, [LayerComparison(blocked="no spectrum")] * 3) == {}


# ------------------------------------------------------------------------------------------------- sets of layers


def test_layer_sets() -> None:
    shapes = {"a": (2, 2), "b": (3, 3)}
    assert judge_layer_set(layer_sets(shapes, shapes, {})).verdict is Verdict.PASS
    assert judge_layer_set(layer_sets({**shapes, "c": (1, 1)}, shapes, {})).verdict is Verdict.WARN
    assert judge_layer_set(layer_sets({"a": (2, 2)}, shapes, {})).verdict is Verdict.FAIL
    assert judge_layer_set(layer_sets({**shapes, "a": (2, 3)}, shapes, {})).verdict is Verdict.FAIL
    many = layer_sets({}, {f"layer.{i}": (2, 2) for i in range(9)}, {})
    assert judge_layer_set(many).detail.endswith("layer.4 and 4 more; no layer is compared")
    assert judge_layer_set(layer_sets({"b": (1, 1)}, {}, {})).verdict is Verdict.FAIL
    assert judge_layer_set(layer_sets(shapes, shapes, {}), n_newly_excluded=1).verdict is Verdict.WARN


def test_renamed_layers_pass_and_are_named() -> None:
    sets = layer_sets({"x.a": (2, 2), "x.b": (3, 3)}, {"a": (2, 2), "b": (3, 3)}, {"x.a": "a", "x.b": "b"})
    judgement = judge_layer_set(sets)
    assert judgement.verdict is Verdict.PASS
    assert judgement.value == 2.0
    assert judgement.detail == "2 renamed: a -> x.a, b -> x.b"


def test_missing_and_new_layers_mean_different_things() -> None:
    missing = judge_layer_set(layer_sets({"a": (2, 2)}, {"a": (2, 2), "b": (3, 3)}, {}))
    new = judge_layer_set(layer_sets({"a": (2, 2), "b": (3, 3)}, {"a": (2, 2)}, {}))
    assert "missing or have another shape" in missing.meaning
    assert "nothing is known of how they changed" in new.meaning


# ------------------------------------------------------------------------------------------------------ the whole


def test_every_check_has_a_meaning_and_an_action() -> None:
    for check in (*CHECK_NAMES, *(REGRESSION + name for name in REGRESSION_NAMES)):
        meaning = meaning_of(check)
        assert meaning.above or meaning.below
        assert meaning.action


def test_severity_order_names_every_verdict() -> None:
    assert set(SEVERITY_ORDER) == set(Verdict)
    assert Judgement(check="alpha", verdict=Verdict.WARN, detail="").is_finding
    assert not Judgement(check="alpha", verdict=Verdict.INCONCLUSIVE, detail="").is_finding
    assert not Judgement(check="alpha", verdict=Verdict.WAIVED, detail="").is_finding
