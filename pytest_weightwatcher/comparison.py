"""A layer beside its baseline, and a model beside its: paired numbers, no judgement."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from pytest_weightwatcher.checks import (
    ALPHA,
    CLIPPED,
    CORRELATION_TRAPS,
    DRIFT,
    INTRUDERS,
    NEEDS_BOTH_CHECKPOINTS,
    NOISE,
    OVERLAP,
    ROUNDING,
    SPECTRUM,
    TURN,
    WEIGHTS,
)
from pytest_weightwatcher.records import TRAP_LEVEL
from spectral.paired import spectral_displacement
from spectral.projections import relative_change
from spectral.subspaces import INTRUDER_COSINE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Protocol

    class Projected(Protocol):
        """What has contents and projections: a layer, or a tensor without a spectrum."""

        @property
        def content_hash(self) -> str: ...
        @property
        def projections(self) -> tuple[float, ...]: ...

    from pytest_weightwatcher.baseline import BaselineEntry
    from pytest_weightwatcher.profiles import TrapNews
    from pytest_weightwatcher.records import LayerRecord
    from spectral.rounding import Rounding
    from spectral.subspaces import SubspaceComparison

LOG_RATIO_METRICS = ("effective_rank", "stable_rank", "norm", "spectral_norm")
"""Metrics whose spread is learned as that of the logarithm of new over old."""


SPREAD_WEIGHT = 4.0
"""Of the logarithm of the effective rank against sin θ, see :func:`drift`."""

DRIFT_EVALS = 16
"""Of smaller layers (heads, first convolutions) the spectrum says too little: of them only the turn is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One quantity beside its baseline.

    Attributes
    ----------
    value, reference : float
        Now, and in the baseline; the reference of a distance is 0, of an overlap 1.
    sigma : float or None
        Standard error of the difference, where it is known.
    """

    value: float
    reference: float
    sigma: float | None = None

    @property
    def difference(self) -> float:
        """Value minus reference."""
        return self.value - self.reference


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerComparison:
    """How far one layer moved.

    Attributes
    ----------
    changes : mapping of str to Change
        Quantity -> its change; absent where it does not exist.
    reasons : mapping of str to str
        Quantity -> why it does not exist.
    details : mapping of str to str
        Quantity -> what is known of it beside the number.
    blocked : str or None
        Why nothing can be compared at all.
    is_identical : bool
        The contents are equal, byte for byte.
    """

    changes: Mapping[str, Change] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, str] = field(default_factory=dict)
    blocked: str | None = None
    is_identical: bool = False

    def reason_of(self, quantity: str) -> str:
        """Return why a quantity does not exist."""
        return self.blocked or self.reasons.get(quantity, f"{quantity} does not exist for both")


def compare_records(
    record: LayerRecord,
    entry: BaselineEntry,
    *,
    trap_level: float,
    news: TrapNews,
    subspaces: SubspaceComparison | None = None,
) -> LayerComparison:
    """Measure a layer against its baseline entry.

    Parameters
    ----------
    record : LayerRecord
        The layer now.
    entry : BaselineEntry
        The accepted state.
    trap_level : float
        Level of significance that the whole run leaves this layer.
    news : TrapNews
        When a trap is a new one.
    subspaces : SubspaceComparison, optional
        Of the weights themselves, where both checkpoints are at hand.
    """
    reference = entry.record
    if record.shape != reference.shape or record.n_evals != reference.n_evals:
        return LayerComparison(blocked="the baseline's layer has another shape")
    if record.is_without_spectrum:
        return LayerComparison(blocked=f"no spectrum: {record.damage}")
    if reference.is_without_spectrum:
        return LayerComparison(blocked="the baseline's layer has no spectrum")
    changes: dict[str, Change] = {}
    reasons: dict[str, str] = {}
    _compare_alpha(record, entry, changes, reasons)
    changes[SPECTRUM] = Change(value=displacement(record, reference), reference=0.0, sigma=entry.spread.get(SPECTRUM))
    if record.projections and reference.projections:
        change = weight_change(record, reference) if subspaces is None else subspaces.relative_change
        changes[WEIGHTS] = Change(value=change, reference=0.0, sigma=entry.spread.get(WEIGHTS))
        if record.n_evals >= DRIFT_EVALS:
            value = drift(record, reference, change)
            changes[DRIFT] = Change(value=value, reference=0.0, sigma=entry.spread.get(DRIFT))
            reasons[TURN] = "only layers too small for a drift are judged by their turn"
        else:
            value = turn_of(record, reference) if subspaces is None else turn(record.norm, reference.norm, change)
            changes[TURN] = Change(value=value, reference=0.0, sigma=entry.spread.get(TURN))
            reasons[DRIFT] = f"{record.n_evals} eigenvalues are too few: the turn is given instead"
    _compare_metrics(record, entry, changes)
    if record.traps is not None and reference.traps is not None:
        changes[CORRELATION_TRAPS] = Change(
            value=float(_n_new_traps(record, reference, trap_level, news)), reference=0.0
        )
    else:
        reasons[CORRELATION_TRAPS] = record.reasons.get("traps", "there was no test for traps")
    _compare_noise(record, reference, changes, reasons)
    is_identical = record.content_hash == reference.content_hash
    if subspaces is not None or is_identical:
        _compare_directions(subspaces, changes)
    else:
        reasons |= dict.fromkeys(NEEDS_BOTH_CHECKPOINTS, "the baseline is a file: directions need both checkpoints")
    return LayerComparison(
        changes=MappingProxyType(changes), reasons=MappingProxyType(reasons), is_identical=is_identical
    )


ROW_LENIENCE = 2.0
"""A single row may be off by so many times as much as the layer as a whole."""


def compare_rounding_of(rounding: Rounding | None) -> LayerComparison:
    """Return what a quantised layer lost, as changes from nothing."""
    if rounding is None:
        return LayerComparison(blocked="the original is zero, or values are not finite")
    changes = {CLIPPED: Change(value=float(rounding.n_clipped), reference=0.0)}
    details = {CLIPPED: rounding.clipped}
    if rounding.excess is not None and rounding.row_excess is not None:
        # A single row has few weights, and may be off by twice as much as all together.
        of_row = rounding.row_excess / ROW_LENIENCE
        changes[ROUNDING] = Change(value=max(rounding.excess, of_row), reference=0.0)
        details[ROUNDING] = (
            f"off by {rounding.error:.2%} of the norm, rounding to the nearest by {rounding.floor:.2%}"
            if rounding.excess >= of_row
            else f"row {rounding.row} is off by {rounding.row_excess:.3g} times its error of rounding, of which half "
            f"counts; all together are off by {rounding.excess:.3g} times theirs"
        )
    return LayerComparison(changes=changes, reasons={ROUNDING: rounding.reason}, details=details)


def displacement(record: LayerRecord, reference: LayerRecord) -> float:
    """Return √Σ(σ-σ')² / √Σσ'², from two sketches of spectra of one length."""
    return spectral_displacement(
        np.array(record.sketch),
        np.array(reference.sketch),
        n_values=reference.n_evals,
        reference_norm=reference.norm,
    )


def weight_change(record: LayerRecord, reference: LayerRecord) -> float:
    """Estimate ‖W-W'‖ / ‖W'‖ from the projections of both."""
    return relative_change(np.array(record.projections), np.array(reference.projections), reference_norm=reference.norm)


def drift(record: LayerRecord, reference: LayerRecord, change: float) -> float:
    """Return how far a layer turned away from its baseline, and how much its spectrum spread on the way.

    Both together tell training that learns from training that memorises: sin θ + SPREAD_WEIGHT·ln(r'/r), with θ the
    angle between the weights as vectors, from cos θ = (1 + F² - ρ²) / 2F, F = ‖W'‖/‖W‖ and ρ = ‖W'-W‖/‖W‖, and r the
    effective rank. Beyond a right angle sin θ counts as 1. Found by experiment: see docs/baselines.md.

    Parameters
    ----------
    record, reference : LayerRecord
        The layer now, and in the baseline.
    change : float
        ρ, known or estimated.
    """
    cosine = 1.0 - turn(record.norm, reference.norm, change)
    sine = math.sqrt(1.0 - cosine * cosine) if cosine > 0.0 else 1.0
    return sine + SPREAD_WEIGHT * log_ratio(record.metrics["effective_rank"], reference.metrics["effective_rank"])


def turn(norm: float, reference: float, change: float) -> float:
    """Return 1 - cos θ, θ the angle between two vectors: 0 for one direction, 1 for a right angle, 2 for the opposite.

    Parameters
    ----------
    norm, reference : float
        ‖W'‖² and ‖W‖², > 0.
    change : float
        ρ = ‖W' - W‖ / ‖W‖: cos θ = (1 + F² - ρ²) / 2F with F = ‖W'‖/‖W‖.
    """
    growth = math.sqrt(norm / reference)
    cosine = (1.0 + growth * growth - change * change) / (2.0 * growth)
    return 1.0 - min(1.0, max(-1.0, cosine))


def turn_of(record: Projected, reference: Projected) -> float:
    """Estimate 1 - cos θ as the correlation of the projections of both, whatever their lengths.

    E[p p'] = <W, W'> for random forms p, so the cosine of the vectors of forms estimates that of the weights; its
    standard error is about (1 - cos²θ)/√n, 0.2 for a right angle and 24 forms.
    """
    if record.content_hash == reference.content_hash:
        return 0.0
    now, before = np.array(record.projections), np.array(reference.projections)
    lengths = float(np.linalg.norm(now) * np.linalg.norm(before))
    return 1.0 - float(now @ before) / lengths if lengths > 0.0 else 1.0


def deviations(record: LayerRecord, reference: LayerRecord) -> dict[str, float]:
    """Return how far another accepted checkpoint lies from the recorded one, by quantity; for learning a spread."""
    change = weight_change(record, reference)
    found = {SPECTRUM: displacement(record, reference), WEIGHTS: change}
    if reference.n_evals >= DRIFT_EVALS:
        found[DRIFT] = drift(record, reference, change)
    else:
        found[TURN] = turn_of(record, reference)
    if reference.tail is not None:
        alpha = record.alpha_at(reference.tail.n)
        if alpha is not None:
            found[ALPHA] = alpha - reference.tail.alpha
    for name in LOG_RATIO_METRICS:
        found[name] = log_ratio(record.metrics[name], reference.metrics[name])
    return found


def log_ratio(value: float, reference: float) -> float:
    """Return ln(value / reference) of two positive numbers."""
    return math.log(value / reference)


def pool_layers(
    pairs: Iterable[tuple[LayerRecord, BaselineEntry]], comparisons: Iterable[LayerComparison]
) -> dict[str, Change]:
    """Return the quantities of a model as a whole, over its paired layers.

    Distances are those of all weights together, √Σ‖ΔW‖²/√Σ‖W‖²; metrics are the geometric mean over layers of new over
    old, with reference 1.
    """
    squares = {SPECTRUM: 0.0, WEIGHTS: 0.0}
    ratios: dict[str, list[float]] = {name: [] for name in LOG_RATIO_METRICS}
    norm = 0.0
    for (record, entry), comparison in zip(pairs, comparisons, strict=True):
        if comparison.blocked is not None:
            continue
        norm += entry.record.norm
        for name in squares:
            if name in comparison.changes:
                squares[name] += comparison.changes[name].value ** 2 * entry.record.norm
        for name, values in ratios.items():
            values.append(log_ratio(record.metrics[name], entry.record.metrics[name]))
    if not norm > 0.0:
        return {}
    pooled = {name: Change(value=math.sqrt(total / norm), reference=0.0) for name, total in squares.items()}
    pooled |= {
        name: Change(value=math.exp(math.fsum(values) / len(values)), reference=1.0) for name, values in ratios.items()
    }
    return pooled


def _compare_alpha(
    record: LayerRecord, entry: BaselineEntry, changes: dict[str, Change], reasons: dict[str, str]
) -> None:
    tail = entry.record.tail
    if tail is None:
        reasons[ALPHA] = "the baseline has no power-law tail for this layer"
        return
    is_same = record.content_hash == entry.record.content_hash
    alpha = tail.alpha if is_same else record.alpha_at(tail.n)
    if alpha is None:
        reasons[ALPHA] = f"fewer than the baseline's {tail.n} tail eigenvalues are left above the fit's threshold"
        return
    changes[ALPHA] = Change(
        value=alpha, reference=tail.alpha, sigma=math.hypot(tail.sigma, entry.spread.get(ALPHA, 0.0))
    )


def _compare_metrics(record: LayerRecord, entry: BaselineEntry, changes: dict[str, Change]) -> None:
    for name, reference in entry.record.metrics.items():
        if name in record.metrics and name not in changes:
            spread = entry.spread.get(name)
            changes[name] = Change(
                value=float(record.metrics[name]),
                reference=float(reference),
                # The spread of a metric is that of its logarithm.
                sigma=None if spread is None else spread * abs(float(reference)),
            )


def _compare_noise(
    record: LayerRecord, reference: LayerRecord, changes: dict[str, Change], reasons: dict[str, str]
) -> None:
    if record.noise_p_value is not None and reference.noise_p_value is not None:
        changes[NOISE] = Change(value=record.noise_p_value, reference=reference.noise_p_value)
    else:
        reasons[NOISE] = record.reasons.get("noise_test", "there was no test against noise")


def _n_new_traps(record: LayerRecord, reference: LayerRecord, level: float, news: TrapNews) -> int:
    """Count the traps that the baseline does not have.

    Two ways to be a new one: there are more than could be seen in the baseline, however faintly (at TRAP_LEVEL for the
    layer alone); or an eigenvalue finds no partner among those of the baseline's permuted matrix.
    """
    assert record.traps is not None, "only layers with a test are compared"
    assert reference.traps is not None, "only layers with a test are compared"
    if record.content_hash == reference.content_hash:
        return 0
    n_now = record.traps.count(level) if news.needs_cause else record.traps.n_outside(level)
    known = [value / reference.norm for value in reference.traps.eigenvalues]
    n_new = 0
    for value in record.traps.eigenvalues[:n_now]:
        if known and value / record.norm <= news.growth * known[0]:
            known.pop(0)
        else:
            n_new += 1
    return max(n_new, record.traps.count(level) - reference.traps.count(TRAP_LEVEL))


def _compare_directions(subspaces: SubspaceComparison | None, changes: dict[str, Change]) -> None:
    overlap, n_intruders = 1.0, 0
    if subspaces is not None:
        overlap = min(subspaces.left_overlap, subspaces.right_overlap)
        n_intruders = subspaces.n_intruders(INTRUDER_COSINE)
    changes[OVERLAP] = Change(value=overlap, reference=1.0)
    changes[INTRUDERS] = Change(value=float(n_intruders), reference=0.0)
