"""What known-good checkpoints gave, quantity by quantity: the worst layer of each run, and the limit that follows."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import chain, combinations, permutations
from typing import TYPE_CHECKING

from pytest_weightwatcher.baseline import BaselineEntry
from pytest_weightwatcher.calibration import Proposal, propose_limit, share_rate
from pytest_weightwatcher.checks import ALPHA, CORRELATION_TRAPS, DRIFT, SPECTRUM, WEIGHTS
from pytest_weightwatcher.comparison import LOG_RATIO_METRICS, compare_records, deviations
from pytest_weightwatcher.odd_one import find_odd_one
from pytest_weightwatcher.rates import alarm_level
from pytest_weightwatcher.reach import reach_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pytest_weightwatcher.comparison import LayerComparison
    from pytest_weightwatcher.odd_one import OddOne
    from pytest_weightwatcher.profiles import TrapNews
    from pytest_weightwatcher.records import LayerRecord
    from pytest_weightwatcher.tensors import TensorRecord

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
    coverage : float
        Analysed share of the parameters.
    tensors : mapping of str to TensorRecord, or None
        What no spectrum covers; None where it is not known.
    """

    path: str
    records: Mapping[str, LayerRecord]
    n_tests: int
    coverage: float = 1.0
    tensors: Mapping[str, TensorRecord] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Worst:
    """The largest value over the layers of a run, and the layer that has it."""

    value: float
    layer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A good checkpoint beside another one as its baseline.

    Attributes
    ----------
    run, base : Checkpoint
        What is judged, and what it is compared with.
    comparisons : mapping of str to LayerComparison
        Layer -> what the gate compares.
    """

    run: Checkpoint
    base: Checkpoint
    comparisons: Mapping[str, LayerComparison]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """One quantity: what the runs gave, and the limit."""

    quantity: str
    worst: tuple[Worst, ...]
    all_pairs: float | None
    proposal: Proposal

    @property
    def seen(self) -> float:
        """The largest value of any good pair."""
        return self.proposal.largest if self.all_pairs is None else max(self.all_pairs, self.proposal.largest)


def compare_pairs(
    good: Sequence[Checkpoint], reference: Checkpoint | None, *, false_alarm_rate: float, news: TrapNews
) -> tuple[Pair, ...]:
    """Return every pair that must pass: each run beside the reference.

    Where the first of the good ones is the reference, any other may be recorded one day: then all pairs, in either
    order, those with the first as the baseline at the front.
    """
    pairs = permutations(good, 2) if reference is None else ((run, reference) for run in good)
    found = [_compare(run, base, false_alarm_rate, news) for run, base in pairs]
    return tuple(sorted(found, key=lambda pair: pair.base is not (reference or good[0])))


def calibrate_runs(
    pairs: Sequence[Pair], good: Sequence[Checkpoint], *, is_paired: bool, rate: float
) -> list[Calibrated]:
    """Return a limit for each quantity.

    Parameters
    ----------
    pairs : sequence of Pair
        From :func:`compare_pairs`.
    good : sequence of Checkpoint
        The good checkpoints, for bounds on alpha itself.
    is_paired : bool
        The pairs are all there are among the good ones; otherwise each has the reference as its baseline.
    rate : float
        Expected share of good runs that alarm, over all limits together.
    """
    level = share_rate(rate, N_LIMITS)
    changes = [_worst_changes(pair.run, pair.base) for pair in pairs]
    n_runs = sum(pair.base is pairs[0].base for pair in pairs)
    records = list(chain.from_iterable(pair.base.records.values() for pair in pairs))
    found = []
    for quantity in QUANTITIES:
        values = [change[quantity] for change in changes[:n_runs] if quantity in change]
        if not values:
            continue
        all_pairs = max(change[quantity].value for change in changes if quantity in change) if is_paired else None
        proposal = propose_limit(
            [each.value for each in values],
            rate=level,
            floor=-math.inf if all_pairs is None else all_pairs,
            reach=reach_of(quantity, records),
        )
        found.append(Calibrated(quantity=quantity, worst=tuple(values), all_pairs=all_pairs, proposal=proposal))
    return [*found, _counted_traps(pairs, n_runs, is_paired=is_paired), *_calibrated_alpha(good, level)]


def find_odd_checkpoint(checkpoints: Sequence[Checkpoint], base: Checkpoint) -> OddOne | None:
    """Return which of these, among them their reference, lies apart from all others, where one clearly does."""
    distances: dict[str, dict[frozenset[int], float]] = {WEIGHTS: {}, SPECTRUM: {}}
    for one, other in combinations(range(len(checkpoints)), 2):
        there = _worst_changes(checkpoints[one], checkpoints[other])
        back = _worst_changes(checkpoints[other], checkpoints[one])
        for quantity, known in distances.items():
            known[frozenset((one, other))] = max(there[quantity].value, back[quantity].value)
    reference = next(place for place, checkpoint in enumerate(checkpoints) if checkpoint is base)
    return find_odd_one(len(checkpoints), distances, reference=reference)


def _compare(run: Checkpoint, base: Checkpoint, false_alarm_rate: float, news: TrapNews) -> Pair:
    p_values = {name: record.traps.p_value for name, record in run.records.items() if record.traps is not None}
    comparisons = {
        name: compare_records(
            record,
            BaselineEntry(record=base.records[name]),
            trap_level=_trap_level(p_values.get(name), run.n_tests, false_alarm_rate, p_values.values()),
            news=news,
        )
        for name, record in run.records.items()
    }
    return Pair(run=run, base=base, comparisons=comparisons)


def _trap_level(p_value: float | None, n_tests: int, rate: float, others: Iterable[float]) -> float:
    """Return the level that the run leaves a layer, as the gate has it."""
    n_tests = max(1, n_tests)
    level = None if p_value is None else alarm_level(p_value, n_tests=n_tests, rate=rate, others=lambda: others)
    return rate / n_tests if level is None else level


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


def _worst_traps(pair: Pair) -> Worst:
    worst = Worst(value=0.0, layer="")
    for name, comparison in pair.comparisons.items():
        change = comparison.changes.get(CORRELATION_TRAPS)
        if change is not None and change.difference > worst.value:
            worst = Worst(value=change.difference, layer=name)
    return worst


def _counted_traps(pairs: Sequence[Pair], n_runs: int, *, is_paired: bool) -> Calibrated:
    """Return the limit on new traps: as many as a good run had. The test for them has a false-alarm rate of its own."""
    worst = tuple(map(_worst_traps, pairs))
    runs = worst[:n_runs]
    seen = max(each.value for each in worst)
    largest = max(each.value for each in runs)
    proposal = Proposal(limit=seen, tolerance_limit=None, law="Gumbel", largest=largest, n_runs=n_runs)
    return Calibrated(quantity=CORRELATION_TRAPS, worst=runs, all_pairs=seen if is_paired else None, proposal=proposal)


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
        proposal = replace(
            scaled,
            limit=None if scaled.limit is None else back(scaled.limit),
            tolerance_limit=None if scaled.tolerance_limit is None else back(scaled.tolerance_limit),
            largest=back(scaled.largest),
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
