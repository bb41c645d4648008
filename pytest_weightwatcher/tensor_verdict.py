"""The judgement of tensors without a spectrum beside those of the baseline: one for all of them, by the worst."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_weightwatcher.checks import KERNELS, MODEL
from pytest_weightwatcher.comparison import Change
from pytest_weightwatcher.verdict import Judgement, Verdict, judge_change
from pytest_weightwatcher.wording import name_some

if TYPE_CHECKING:
    from pytest_weightwatcher.checks import RegressionRule
    from pytest_weightwatcher.tensors import TensorComparison


def judge_tensors(comparison: TensorComparison | None, rule: RegressionRule) -> Judgement:
    """Judge how far the tensors without a spectrum moved or turned; NaN never passes.

    Parameters
    ----------
    comparison : TensorComparison or None
        None where the baseline says nothing of them.
    rule : RegressionRule
        On :data:`~pytest_weightwatcher.checks.TENSORS`, how far they moved, or on
        :data:`~pytest_weightwatcher.checks.KERNELS`, how far those of two or more dimensions turned.
    """
    check, is_turn = MODEL + rule.check, rule.quantity == KERNELS
    what = "kernels without a spectrum" if is_turn else "tensors without a spectrum"
    values = {} if comparison is None else comparison.turns if is_turn else comparison.changes
    if not values:
        reason = "it was recorded without them" if comparison is None else "there are none"
        detail = f"{what} are not compared with the baseline: {reason}"
        return Judgement(check=check, verdict=Verdict.SKIPPED, detail=detail)
    ranked = sorted(values.items(), key=lambda item: _as_worst(item[1]), reverse=True)
    judgement = judge_change(rule, Change(value=ranked[0][1], reference=0.0))
    limit = (rule.increase or math.inf) * (rule.warn_at or 1.0)
    told = _format_turn if is_turn else _format_move
    bound = rule.increase or math.inf
    accepted = f"at least {1.0 - bound:.2g}" if is_turn else f"at most {_about(bound)}"
    early = f"; a warning is given from {rule.warn_at:.0%} of that on" if rule.warn_at else ""
    beyond = tuple(f"{name} {told(value)}" for name, value in ranked if not value <= limit)
    found = name_some(beyond) if beyond else f"the furthest {told(ranked[0][1])} ({ranked[0][0]})"
    return replace(
        judgement,
        check=check,
        detail=f"{len(values)} {what}: {found}; {accepted} accepted{early}",
        resolution="estimated from projections: a change to within 50% of itself (95%), a cosine of 0 to within 0.4",
    )


def _format_move(value: float) -> str:
    return f"moved by {_about(value)}"


def _about(share: float) -> str:
    """Return a share in percent, no more exactly than it is estimated."""
    return f"{float(f'{100.0 * share:.2g}'):.15g}%" if math.isfinite(share) else "an unknown part"


def _format_turn(value: float) -> str:
    return f"turned to a cosine of {1.0 - value:.2g}"


def _as_worst(value: float) -> float:
    """Return a value for ranking: one that is no number is the worst."""
    return math.inf if math.isnan(value) else value
