"""Before a check fails: whether it is borderline, and what a more careful computation says.

A finding near its limit is computed again, by a full singular value decomposition in float64 instead of the Gram
matrix; a trap that is no more than just significant is tested under more permutations. Findings far beyond their limits
need no second look.
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pytest_weightwatcher.checks import ALPHA
from spectral.permutation import generator_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_weightwatcher.baseline import BaselineEntry
    from pytest_weightwatcher.checks import Rule
    from pytest_weightwatcher.comparison import LayerComparison
    from pytest_weightwatcher.records import LayerRecord
    from pytest_weightwatcher.verdict import Judgement

BORDER = 1.25
"""A change of up to this many times its allowance is borderline."""

BORDER_SHARE = 0.1
"""A metric outside its limit by up to this share of it is borderline."""

N_PERMUTATIONS = 8
"""Further permutations for a trap."""

N_REPLICAS = 200
"""Bootstrap replicas for the error of a borderline alpha."""

CLEAR_TRAP = 1e-3
"""A p-value below this share of its level needs no confirmation."""

SVD_VALUES = 1 << 26
"""Matrices with more elements are not decomposed a second time."""

_PURPOSE = 0x636F_6E66  # "conf"


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


def interval_of(record: LayerRecord) -> str:
    """Return the bootstrap interval of alpha in words; empty where there is none."""
    if "alpha_low" not in record.metrics:
        return ""
    low, high = record.metrics["alpha_low"], record.metrics["alpha_high"]
    return f", bootstrap interval {low:.3g} to {high:.3g}"


def with_bootstrap(
    record: LayerRecord, entry: BaselineEntry, comparison: LayerComparison, *, seed: int
) -> tuple[LayerComparison, str]:
    """Return a comparison whose alpha has the larger of its own standard error and that of a bootstrap, and a note.

    The eigenvalues above the tail's smallest are drawn again with replacement, as often as there are.
    """
    change, tail = comparison.changes.get(ALPHA), entry.record.tail
    if change is None or change.sigma is None or tail is None or record.evals is None:
        return comparison, ""
    log_x = np.log(record.evals[-tail.n :] / record.evals[-tail.n])[1:]
    draws = generator_for(seed, record.name, _PURPOSE).integers(len(log_x), size=(N_REPLICAS, len(log_x)))
    sigma = float(np.std(1.0 + tail.n / np.sum(log_x[draws], axis=1)))
    changes = {**comparison.changes, ALPHA: replace(change, sigma=max(change.sigma, sigma))}
    return replace(comparison, changes=changes), f", bootstrap standard error {sigma:.2g}"


def is_trap_confirmed(p_value: float, more: Sequence[float], level: float) -> bool:
    """Tell whether a trap holds under further permutations.

    Twice the median of dependent p-values is a p-value again (Rüschendorf, Adv. Appl. Probab. 14, 1982; DiCiccio,
    DiCiccio and Romano, Stat. Probab. Lett. 166, 2020).
    """
    return 2.0 * statistics.median([p_value, *more]) <= level
