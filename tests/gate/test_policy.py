"""Waivers, and what an inconclusive judgement counts as."""

from __future__ import annotations

import json
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_weightwatcher.config import Config
from pytest_weightwatcher.policy import apply_policy, current_date, is_covered, judge_waivers
from pytest_weightwatcher.verdict import Judgement, Verdict
from tests.gate.conftest import MakeModel, flat

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
    assert judge_waivers(config(waiver()), TODAY).verdict is Verdict.PASS
    expired = config(waiver(), waiver(TODAY - timedelta(days=1), match="gone", check="norm"))
    found = judge_waivers(expired, TODAY)
    assert found.verdict is Verdict.FAIL
    assert found.value == 1.0
    assert "2 waivers, 1 expired" in found.detail
    assert "norm of gone EXPIRED on 2027-02-28: known since June" in found.detail
    waived = apply_policy(found, None, config(waiver(match="*", check="*")), TODAY)
    assert waived.verdict is Verdict.FAIL


def test_today_is_a_day() -> None:
    assert type(current_date()) is date


# ---------------------------------------------------------------------------------------------------- end to end


def run_with(pytester: pytest.Pytester, text: str, *arguments: str) -> tuple[pytest.RunResult, dict[str, Any]]:
    pytester.makefile(".yaml", ww=f"version: 1\n{text}")
    result = pytester.runpytest("--ww-model=model.safetensors", "--ww-report=json:out.json", *arguments)
    payload: dict[str, Any] = json.loads((pytester.path / "out.json").read_text(encoding="utf-8"))
    return result, payload


FAIL = "checks: {alpha: {min: 2, max: 6}}\n"


def waivers(expires: str, *, match: str = "head", check: str = "alpha") -> str:
    return f"waivers:\n- {{match: '{match}', check: '{check}', reason: known, owner: ann, expires: {expires}}}\n"


def test_a_waived_finding_does_not_fail_the_run(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model(head=flat())
    result, payload = run_with(pytester, f"{FAIL}{waivers('2999-12-31')}", "-v")
    assert result.ret == pytest.ExitCode.OK
    assert payload["counts"]["waived"] == 1
    assert payload["counts"]["fail"] == 0
    (model,) = payload["models"]
    (check,) = [check for check in model["checks"] if check["verdict"] == "waived"]
    assert check["id"] == "ww.yaml::model.safetensors::head::alpha"
    assert check["detail"].endswith("waived until 2999-12-31: known (owner: ann)")
    assert model["waivers"] == [
        {
            "match": "head",
            "check": "alpha",
            "reason": "known",
            "owner": "ann",
            "expires": "2999-12-31",
            "n_used": 1,
        }
    ]
    (listed,) = [check for check in model["checks"] if check["check"] == "waivers"]
    assert (listed["verdict"], listed["value"]) == ("pass", 0)
    assert listed["line"] == 3


def test_an_expired_waiver_fails_the_run(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model(head=flat())
    result, payload = run_with(pytester, f"{FAIL}{waivers('2020-01-01')}")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    verdicts = {check["id"].partition("::")[2]: check["verdict"] for check in payload["models"][0]["checks"]}
    assert verdicts["model.safetensors::head::alpha"] == "fail"
    assert verdicts["model.safetensors::waivers"] == "fail"
    result.stdout.fnmatch_lines(["*1 waivers, 1 expired: line *: alpha of * EXPIRED on 2020-01-01: *"])
    assert payload["models"][0]["waivers"][0]["n_used"] == 0
    make_model()
    result, _ = run_with(pytester, f"{FAIL}{waivers('2020-01-01')}")
    assert result.ret == pytest.ExitCode.TESTS_FAILED


@pytest.mark.parametrize(
    ("of_config", "of_option", "code"),
    [
        (None, None, pytest.ExitCode.OK),
        ("fail", None, pytest.ExitCode.OK),
        ("warn", None, pytest.ExitCode.TESTS_FAILED),
        ("never", None, pytest.ExitCode.OK),
        ("warn", "fail", pytest.ExitCode.OK),
        ("never", "warn", pytest.ExitCode.TESTS_FAILED),
    ],
)
def test_fail_on_of_the_config_gives_way_to_the_option(
    pytester: pytest.Pytester,
    make_model: MakeModel,
    of_config: str | None,
    of_option: str | None,
    code: int,
) -> None:
    make_model(head=flat())
    text = "" if of_config is None else f"policy: {{fail_on: {of_config}}}\n"
    result, payload = run_with(pytester, text, *([] if of_option is None else [f"--ww-fail-on={of_option}"]))
    assert result.ret == code
    assert payload["options"]["fail_on"] == (of_option or of_config or "fail")


def test_inconclusive_counts_as_the_config_says(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    """All singular values equal: there is nothing to fit."""
    import numpy as np

    make_model(head=np.eye(96, 64, dtype=np.float32))
    found = {}
    for policy in ("skip", "warn", "fail"):
        result, payload = run_with(pytester, f"policy: {{inconclusive: {policy}}}\nchecks: {{noise: false}}\n")
        checks = {check["id"]: check["verdict"] for check in payload["models"][0]["checks"]}
        found[policy] = (checks["ww.yaml::model.safetensors::head::alpha"], int(result.ret))
    assert found == {"skip": ("inconclusive", 0), "warn": ("warn", 0), "fail": ("fail", 1)}
