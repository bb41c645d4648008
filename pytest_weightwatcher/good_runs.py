"""What known-good checkpoints gave, quantity by quantity: the worst layer of each run, and the limit that follows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

from pytest_weightwatcher.baseline import BaselineEntry
from pytest_weightwatcher.calibration import Proposal, propose_limit, share_rate
from pytest_weightwatcher.checks import ALPHA, CORRELATION_TRAPS, DRIFT, SPECTRUM, WEIGHTS
from pytest_weightwatcher.comparison import LOG_RATIO_METRICS, compare_records, deviations

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_weightwatcher.profiles import TrapNews
    from pytest_weightwatcher.records import LayerRecord

ALPHA_MAX, ALPHA_MIN = "alpha (largest)", "alpha (smallest)"

QUANTITIES = (SPECTRUM, WEIGHTS, DRIFT, ALPHA, *LOG_RATIO_METRICS)
"""What is calibrated against the reference; each layer's change in both directions, but for drift, which has one."""

N_LIMITS = len(QUANTITIES) + 2
"""Limits among which the rate is shared: these, and the two bounds of alpha itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """One checkpoint, analysed.

    Attributes
    ----------
    path : str
        As given.
    records : mapping of str to LayerRecord
        Its layers.
    n_tests : int
        Layers that the test for traps is about.
    """

    path: str
    records: Mapping[str, LayerRecord]
    n_tests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Worst:
    """The largest value over the layers of a run, and the layer that has it."""

    value: float
    layer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """One quantity: what the runs gave, and the limit."""

    quantity: str
    worst: tuple[Worst, ...]
    all_pairs: float | None
    proposal: Proposal


def calibrate_runs(
    good: Sequence[Checkpoint], reference: Checkpoint | None, *, rate: float, false_alarm_rate: float, news: TrapNews
) -> list[Calibrated]:
    """Return a limit for each quantity, from the good runs against the reference."""
    base, runs = (good[0], good[1:]) if reference is None else (reference, good)
    level = share_rate(rate, N_LIMITS)
    changes = [_worst_changes(run, base) for run in runs]
    # Where any of them may be recorded as the baseline one day, what lies between any two must pass.
    pairs = [_worst_changes(one, other) for one, other in permutations(good, 2)] if reference is None else []
    found = []
    for quantity in QUANTITIES:
        worst = tuple(change[quantity] for change in changes if quantity in change)
        if not worst:
            continue
        all_pairs = max((pair[quantity].value for pair in pairs if quantity in pair), default=None)
        floor = -math.inf if all_pairs is None else all_pairs
        proposal = propose_limit([each.value for each in worst], rate=level, floor=floor)
        found.append(Calibrated(quantity=quantity, worst=worst, all_pairs=all_pairs, proposal=proposal))
    traps = tuple(_worst_traps(run, base, false_alarm_rate, news) for run in runs)
    found.append(_counted_traps(traps))
    return [*found, *_calibrated_alpha(good, level)]


def _worst_changes(run: Checkpoint, base: Checkpoint) -> dict[str, Worst]:
    """Return for each quantity the largest change over the layers: its size, but for drift, which has a direction."""
    worst: dict[str, Worst] = {}
    for name, record in run.records.items():
        if name not in base.records:
            continue
        for quantity, value in deviations(record, base.records[name]).items():
            size = value if quantity == DRIFT else abs(value)
            if quantity not in worst or size > worst[quantity].value:
                worst[quantity] = Worst(value=size, layer=name)
    return worst


def _worst_traps(run: Checkpoint, base: Checkpoint, false_alarm_rate: float, news: TrapNews) -> Worst:
    worst = Worst(value=0.0, layer="")
    level = false_alarm_rate / max(1, run.n_tests)
    for name, record in run.records.items():
        if name in base.records:
            comparison = compare_records(record, BaselineEntry(record=base.records[name]), trap_level=level, news=news)
            change = comparison.changes.get(CORRELATION_TRAPS)
            if change is not None and change.difference > worst.value:
                worst = Worst(value=change.difference, layer=name)
    return worst


def _counted_traps(worst: tuple[Worst, ...]) -> Calibrated:
    """Return the limit on new traps: as many as a good run had. The test for them has a false-alarm rate of its own."""
    largest = max(each.value for each in worst)
    proposal = Proposal(limit=largest, tolerance_limit=None, law="Gumbel", largest=largest, n_runs=len(worst))
    return Calibrated(quantity=CORRELATION_TRAPS, worst=worst, all_pairs=None, proposal=proposal)


def _calibrated_alpha(good: Sequence[Checkpoint], level: float) -> list[Calibrated]:
    """Return bounds on alpha; the smallest through 1/(α-1), so that both are upper limits on positive numbers."""
    found = []
    for quantity, choose, to_scale, back in (
        (ALPHA_MAX, max, _excess, _from_excess),
        (ALPHA_MIN, min, _inverse_excess, _from_inverse_excess),
    ):
        worst = tuple(_worst_alpha(checkpoint, choose) for checkpoint in good)
        fitted = tuple(each for each in worst if each is not None)
        if len(fitted) < len(good):
            continue
        scaled = propose_limit([to_scale(each.value) for each in fitted], rate=level)
        proposal = Proposal(
            limit=None if scaled.limit is None else back(scaled.limit),
            tolerance_limit=None if scaled.tolerance_limit is None else back(scaled.tolerance_limit),
            law=scaled.law,
            largest=back(scaled.largest),
            n_runs=scaled.n_runs,
            reason=scaled.reason,
        )
        found.append(Calibrated(quantity=quantity, worst=fitted, all_pairs=None, proposal=proposal))
    return found


def _worst_alpha(checkpoint: Checkpoint, choose: Callable[..., str]) -> Worst | None:
    alphas = {
        name: float(record.metrics[ALPHA]) for name, record in checkpoint.records.items() if ALPHA in record.metrics
    }
    if not alphas:
        return None
    layer = choose(alphas, key=lambda name: alphas[name])
    return Worst(value=alphas[layer], layer=layer)


def _excess(alpha: float) -> float:
    return alpha - 1.0


def _from_excess(value: float) -> float:
    return 1.0 + value


def _inverse_excess(alpha: float) -> float:
    return 1.0 / (alpha - 1.0)


def _from_inverse_excess(value: float) -> float:
    return 1.0 + 1.0 / value
