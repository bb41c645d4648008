"""Counts of verdicts and the outcome of a run; one place, for runs and for results that are merged."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from pytest_weightwatcher.verdict import SEVERITY_ORDER, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

VERDICTS: tuple[str, ...] = tuple(str(verdict) for verdict in SEVERITY_ORDER)
"""From best to worst, the order of counts."""


def count_verdicts(models: Iterable[Mapping[str, Any]], lost: Sequence[str]) -> dict[str, int]:
    """Return verdict -> number of checks; what ended without a verdict is an error."""
    counts = Counter(check["verdict"] for model in models for check in model["checks"])
    counts[str(Verdict.ERROR)] += len(lost)
    return {verdict: counts.get(verdict, 0) for verdict in VERDICTS}


def outcome_of(counts: Mapping[str, int]) -> str:
    """Return the worst verdict of the run; where nothing passed and nothing was found, it is inconclusive."""
    for verdict in (Verdict.ERROR, Verdict.FAIL, Verdict.WARN, Verdict.PASS):
        if counts.get(str(verdict)):
            return str(verdict)
    return str(Verdict.INCONCLUSIVE)
