"""The order in which reports show things: worst first. Reads verdicts, makes none."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pytest_weightwatcher.checks import REGRESSION

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Check = Mapping[str, Any]
    Model = Mapping[str, Any]

FAILURES = ("error", "fail")
FINDINGS = (*FAILURES, "warn")
_WORST_FIRST = (*FINDINGS, "inconclusive", "waived", "skipped", "pass")


def findings_of(model: Model) -> list[Check]:
    """Return the checks of a model that somebody should look at, worst first, then in the order of the model."""
    findings = [check for check in model["checks"] if check["verdict"] in FINDINGS]
    return sorted(findings, key=lambda check: _WORST_FIRST.index(check["verdict"]))


def ranked_findings(model: Model) -> list[Check]:
    """Return the findings of a model, worst verdict first, then those furthest beyond their limit."""
    return sorted(findings_of(model), key=_badness)


def largest_changes(model: Model, count: int) -> list[Check]:
    """Return the checks against the baseline that pass and are nearest to their limits, nearest first."""
    changes = [
        check
        for check in model["checks"]
        if check["verdict"] == "pass" and REGRESSION in check["check"] and 0.0 < share_of_limit(check) < math.inf
    ]
    return sorted(changes, key=lambda check: -share_of_limit(check))[:count]


def share_of_limit(check: Check) -> float:
    """Return how much of its limit a value uses: 1 at the limit, infinity where there is nothing to compare.

    Against a baseline it is the share of the way from there to the limit; otherwise the ratio to the bound.
    """
    value, limit = check["value"], check["limit"] or {}
    if value is None:
        return math.inf
    shares = [_share(value, bound, check["baseline"], side) for side, bound in limit.items() if bound is not None]
    return max(shares, default=math.inf)


def rank_layers(model: Model) -> list[dict[str, Any]]:
    """Return the layers of a model with their worst verdict, worst first, then in the order of the model."""
    rows = layers_with_verdicts(model)
    return sorted(rows, key=lambda row: _WORST_FIRST.index(row["verdict"]))


def layers_with_verdicts(model: Model) -> list[dict[str, Any]]:
    """Return the layers of a model in its order, each with its worst verdict."""
    worst: dict[str, int] = {}
    for check in model["checks"]:
        rank = _WORST_FIRST.index(check["verdict"])
        worst[check["layer"]] = min(rank, worst.get(check["layer"], len(_WORST_FIRST) - 1))
    return [
        {**layer, "verdict": _WORST_FIRST[worst.get(layer["name"], len(_WORST_FIRST) - 1)]} for layer in model["layers"]
    ]


def worst_rank(model: Model) -> int:
    """Return the rank of the worst verdict of a model, 0 for the worst there is."""
    ranks = (_WORST_FIRST.index(check["verdict"]) for check in model["checks"])
    return min(ranks, default=len(_WORST_FIRST))


def layers_of(checks: Sequence[Check]) -> set[str | None]:
    """Return the layers that checks are about; None stands for the model as a whole."""
    return {check["layer"] for check in checks}


def _badness(check: Check) -> tuple[int, float]:
    return _WORST_FIRST.index(check["verdict"]), -share_of_limit(check)


def _share(value: float, bound: float, baseline: float | None, side: str) -> float:
    if baseline is not None:
        room = abs(bound - baseline)
        moved = value - baseline if side == "max" else baseline - value
        return moved / room if room else _beyond(value, bound, side)
    used, whole = (value, bound) if side == "max" else (bound, value)
    return used / whole if used > 0 and whole > 0 else _beyond(value, bound, side)


def _beyond(value: float, bound: float, side: str) -> float:
    """Return a share where there is no ratio: all or nothing."""
    is_within = value <= bound if side == "max" else value >= bound
    return 0.0 if is_within else math.inf
