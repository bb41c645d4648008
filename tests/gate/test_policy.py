"""Waivers, and what an inconclusive judgement counts as."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_weightwatcher.config import Config
from pytest_weightwatcher.policy import apply_policy, current_date, is_covered, judge_waivers
from pytest_weightwatcher.verdict import Judgement, Verdict

TODAY = date(2027, 3, 1)


def config(*waivers: dict[str, Any], inconclusive: str = "skip") -> Config:
    return Config.model_validate({"waivers": waivers, "policy": {"inconclusive": inconclusive}})


def waiver(expires: date = TODAY, *, match: str = "head", check: str = "alpha", **more: str) -> dict[str, Any]:
    return {"match": match, "check": check, "reason": "known since June", "expires": expires, **more}


def judgement(verdict: Verdict, check: str = "alpha") -> Judgement:
    return Judgement(check=check, verdict=verdict, detail="alpha is off")


@pytest.mark.parametrize("verdict", [Verdict.WARN, Verdict.FAIL])
@given(days=st.integers(-400, 400))
def test_a_waiver_holds_up_to_its_last_day(verdict: Verdict, days: int) -> None:
    expires = TODAY + timedelta(days=days)
    found = apply_policy(judgement(verdict), "head", config(waiver(expires, owner="ann")), TODAY)
    if days >= 0:
        assert found.verdict is Verdict.WAIVED
        assert not found.is_finding
        assert found.detail == f"alpha is off; waived until {expires}: known since June (owner: ann)"
    else:
        assert found.verdict is Verdict.FAIL
        assert found.detail == f"alpha is off; its waiver expired on {expires} (known since June (owner: ann))"


@pytest.mark.parametrize(
    "unrelated",
    [
        waiver(match="body"),
        waiver(check="integrity"),
        waiver(match="HEAD"),
        waiver(match="hea"),
        waiver(check="regression.*"),
        waiver(TODAY - timedelta(days=1), match="body"),
    ],
)
def test_a_waiver_of_something_else_changes_nothing(unrelated: dict[str, Any]) -> None:
    before = judgement(Verdict.FAIL)
    assert apply_policy(before, "head", config(unrelated), TODAY) == before


@pytest.mark.parametrize("verdict", [Verdict.PASS, Verdict.SKIPPED, Verdict.INCONCLUSIVE, Verdict.ERROR])
def test_only_findings_are_waived_and_errors_never(verdict: Verdict) -> None:
    before = judgement(verdict)
    assert apply_policy(before, "head", config(waiver()), TODAY) == before


def test_a_valid_waiver_goes_before_an_expired_one() -> None:
    both = config(waiver(TODAY - timedelta(days=9)), waiver(match="*"))
    assert apply_policy(judgement(Verdict.FAIL), "head", both, TODAY).verdict is Verdict.WAIVED


def test_patterns_and_the_model_as_a_whole() -> None:
    (any_layer, some) = config(waiver(match="*", check="regression.*"), waiver(match="h*")).waivers
    assert is_covered(any_layer, "regression.alpha", "head")
    assert is_covered(any_layer, "regression.alpha", None)
    assert not is_covered(any_layer, "alpha", "head")
    assert is_covered(some, "alpha", "head")
    assert not is_covered(some, "alpha", None)
    assert not is_covered(some, "model.alpha", None)


@pytest.mark.parametrize(
    ("policy", "verdict"), [("skip", Verdict.INCONCLUSIVE), ("warn", Verdict.WARN), ("fail", Verdict.FAIL)]
)
def test_an_inconclusive_judgement_counts_as_the_policy_says(policy: str, verdict: Verdict) -> None:
    found = apply_policy(judgement(Verdict.INCONCLUSIVE), "head", config(inconclusive=policy), TODAY)
    assert found.verdict is verdict
    assert found.detail == ("alpha is off" if policy == "skip" else "inconclusive: alpha is off")
    skipped = apply_policy(judgement(Verdict.SKIPPED), "head", config(inconclusive=policy), TODAY)
    assert skipped.verdict is Verdict.SKIPPED


def test_an_inconclusive_judgement_that_fails_can_be_waived() -> None:
    found = apply_policy(judgement(Verdict.INCONCLUSIVE), "head", config(waiver(), inconclusive="fail"), TODAY)
    assert found.verdict is Verdict.WAIVED


def test_expired_waivers_fail_the_run_even_where_they_cover_nothing() -> None:
    assert judge_waivers(config(waiver()).waivers, TODAY).verdict is Verdict.PASS
    expired = config(waiver(), waiver(TODAY - timedelta(days=1), match="gone", check="norm"))
    found = judge_waivers(expired.waivers, TODAY)
    assert found.verdict is Verdict.FAIL
    assert found.value == 1.0
    assert "2 waivers, 1 expired" in found.detail
    assert "norm of gone EXPIRED on 2027-02-28: known since June" in found.detail
    waived = apply_policy(found, None, config(waiver(match="*", check="*")), TODAY)
    assert waived.verdict is Verdict.FAIL


def test_today_is_a_day() -> None:
    assert type(current_date()) is date
