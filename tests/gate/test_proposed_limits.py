"""The piece of ww.yaml that calibrated limits become: what is relaxed, what is off, and what cannot be helped."""

from __future__ import annotations

import pytest
import yaml

from pytest_weightwatcher.calibration import Proposal
from pytest_weightwatcher.checks import CORRELATION_TRAPS, SPECTRUM, WEIGHTS
from pytest_weightwatcher.config import Config
from pytest_weightwatcher.errors import CalibrationError
from pytest_weightwatcher.good_runs import ALPHA_MAX, ALPHA_MIN, Calibrated, Worst
from pytest_weightwatcher.proposed_limits import ProposedLimits, propose_entries

NONE: frozenset[str] = frozenset()


def calibrated(quantity: str, limit: float | None, *, seen: float = 0.1, is_blind: bool = False) -> Calibrated:
    proposal = Proposal(
        limit=limit, tolerance_limit=limit, law="log-Gumbel", largest=seen, n_runs=3, reason="", is_blind=is_blind
    )
    return Calibrated(quantity=quantity, worst=(Worst(value=seen, layer="a"),), all_pairs=None, proposal=proposal)


def proposed(*found: Calibrated, fails_while_strict: str = "", profile: str = "compression") -> ProposedLimits:
    """Propose, where a check fails as long as its rule is more than a warning."""
    name = fails_while_strict.removeprefix("regression.")

    def failing(config: Config) -> frozenset[str]:
        rule = config.regression.limits().get(name) or {}
        return frozenset({fails_while_strict}) if name and rule.get("severity") != "warn" else NONE

    return propose_entries(found, profile=profile, exclude=(), failing=failing)


def read(limits: ProposedLimits) -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load("\n".join(limits.lines))
    return found


def test_limits_with_a_rate_are_counted() -> None:
    limits = proposed(
        calibrated(SPECTRUM, 0.123),
        calibrated(WEIGHTS, None),
        calibrated("norm", None),
        calibrated(CORRELATION_TRAPS, 2),
    )
    # The test for traps has a rate of its own.
    assert limits.n_with_rate == 1
    standings = {name: entry.standing for name, entry in limits.entries.items()}
    assert standings == {SPECTRUM: "limit", WEIGHTS: "built-in", "norm": "none", CORRELATION_TRAPS: "limit"}
    assert read(limits) == {
        "regression": {
            "profile": "compression",
            "spectrum": {"max_displacement": 0.13},
            "correlation_traps": {"max_new": 2},
        }
    }


@pytest.mark.parametrize("check", ["regression.weights", "regression.largest_weight", "regression.noise"])
def test_what_fails_only_warns(check: str) -> None:
    limits = proposed(calibrated(WEIGHTS, None, seen=0.31), fails_while_strict=check)
    name = check.removeprefix("regression.")
    assert read(limits)["regression"] == {"profile": "compression", name: {"severity": "warn"}}
    comment = limits.entries[name].comment
    assert ("(up to 0.31)" in comment) == (name == WEIGHTS)
    assert "good one" in comment


@pytest.mark.parametrize("profile", ["compression", "finetune"])
def test_what_is_blind_is_off(profile: str) -> None:
    limits = proposed(calibrated(WEIGHTS, None, seen=1.5, is_blind=True), profile=profile)
    expected: dict[str, object] = {"regression": {"profile": profile, "weights": False}}
    if profile == "compression":
        expected["model"] = {"regression": {"weights": False}}
    assert read(limits) == expected
    assert limits.n_with_rate == 0


def test_alpha_is_above_one_anyway() -> None:
    limits = proposed(calibrated(ALPHA_MAX, 7.31), calibrated(ALPHA_MIN, 1.04))
    assert read(limits)["checks"] == {"alpha": {"max": 7.4}}
    assert limits.n_with_rate == 1
    assert read(proposed(calibrated(ALPHA_MIN, 1.16)))["checks"] == {"alpha": {"min": 1.1}}


def test_what_fails_whatever_the_limit_is_refused() -> None:
    with pytest.raises(CalibrationError, match=r"fails regression\.spectrum under every limit"):
        propose_entries(
            [calibrated(SPECTRUM, 0.1)],
            profile="finetune",
            exclude=(),
            failing=lambda _: frozenset({"regression.spectrum"}),
        )
