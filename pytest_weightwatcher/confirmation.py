"""Before a check fails: whether it is borderline, and what a more careful computation says.

A finding near its limit is computed again, by a full singular value decomposition in float64 instead of the Gram
matrix; a trap that is no more than just significant is tested under more permutations. Findings far beyond their limits
need no second look.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_weightwatcher.checks import Rule
    from pytest_weightwatcher.verdict import Judgement

BORDER = 1.25
"""A change of up to this many times its allowance is borderline."""

BORDER_SHARE = 0.1
"""A metric outside its limit by up to this share of it is borderline."""

N_PERMUTATIONS = 8
"""Further permutations for a trap."""

CLEAR_TRAP = 1e-3
"""A p-value below this share of its level needs no confirmation."""

SVD_VALUES = 1 << 26
"""Matrices with more elements are not decomposed a second time."""


def is_borderline(judgement: Judgement, rule: Rule | None) -> bool:
    """Tell whether a finding lies so near to its limit that it is worth a second look."""
    if not judgement.is_finding or judgement.value is None:
        return False
    if judgement.share is not None:
        return judgement.share <= BORDER
    if rule is None:
        return False
    bounds = [bound for bound in (rule.minimum, rule.maximum) if bound is not None]
    return any(abs(judgement.value - bound) <= BORDER_SHARE * abs(bound) for bound in bounds)


def is_trap_confirmed(p_value: float, more: Sequence[float], level: float) -> bool:
    """Tell whether a trap holds under further permutations.

    Twice the median of dependent p-values is a p-value again (Rüschendorf, Adv. Appl. Probab. 14, 1982; DiCiccio,
    DiCiccio and Romano, Stat. Probab. Lett. 166, 2020).
    """
    return 2.0 * statistics.median([p_value, *more]) <= level
