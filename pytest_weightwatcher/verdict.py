"""Judgements, each made once, by a pure function from numbers and a rule.

Every pass condition is written positively, so that a value which does not exist or is NaN never passes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

from pytest_weightwatcher.checks import (
    ALPHA,
    BASELINE_LAYERS,
    INTEGRITY,
    MODEL,
    NOISE,
    REGRESSION,
    RegressionRule,
    Rule,
    Severity,
)
from pytest_weightwatcher.meanings import UNDECIDED, UNREADABLE, Meaning, meaning_of
from pytest_weightwatcher.wording import (
    describe_change,
    format_bounds,
    format_p_value,
    name_some,
    name_unanalysed,
    resolution_of_change,
    resolution_of_metric,
)
from spectral.fits import FitFailureReason
from spectral.power_law import MIN_EVALS
from spectral.spectrum import NOT_FINITE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_weightwatcher.comparison import Change, LayerComparison
    from pytest_weightwatcher.matching import LayerSets
    from pytest_weightwatcher.records import LayerRecord
    from pytest_weightwatcher.tensors import TensorComparison
    from spectral.integrity import NonFiniteTensor
    from spectral.weights import UnanalysedTensor

MAX_DEAD_SHARE = 0.5
"""A layer most of whose rows or columns are zero is dead; fewer are common: padding, unused tokens, pruned heads."""

LOST_IN_NOISE = 0.05
"""A layer that could be told from noise is lost in it only where its p-value has risen above this."""


class Verdict(str, Enum):
    """What a check says, from best to worst in the order of :data:`SEVERITY_ORDER`."""

    PASS = "pass"  # noqa: S105 (a verdict, no password)
    SKIPPED = "skipped"
    WAIVED = "waived"
    INCONCLUSIVE = "inconclusive"
    WARN = "warn"
    FAIL = "fail"
    ERROR = "error"

    def __str__(self) -> str:
        return self.value


SEVERITY_ORDER = (
    Verdict.PASS,
    Verdict.SKIPPED,
    Verdict.WAIVED,
    Verdict.INCONCLUSIVE,
    Verdict.WARN,
    Verdict.FAIL,
    Verdict.ERROR,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The outcome of one check.

    Attributes
    ----------
    check : str
        Name of the check.
    verdict : Verdict
        The decision.
    value : float, optional
        The number that was judged.
    limit : mapping, optional
        ``min`` and ``max`` it was judged against, where there are such.
    baseline : float, optional
        The baseline's number.
    detail : str
        One or two sentences: what, by how much, how sure.
    resolution : str
        What the check could have seen.
    confirmation : str
        What a second, more careful computation gave; empty where there was none.
    share : float, optional
        The change as a share of its allowance, or of the part of it from which on the check warns: above 1 is a
        finding. None for other checks.
    is_undecided : bool
        The numbers gave no verdict; a policy made it one.
    told : Meaning or None
        What such a finding means, where more is known of it than of its check: by a plugin, the profile, or of a trap.
    """

    check: str
    verdict: Verdict
    value: float | None = None
    limit: Mapping[str, float] | None = None
    baseline: float | None = None
    detail: str
    resolution: str = ""
    confirmation: str = ""
    share: float | None = None
    is_undecided: bool = False
    told: Meaning | None = None

    @property
    def is_finding(self) -> bool:
        """True for what somebody should look at: warn, fail or error."""
        return self.verdict in (Verdict.WARN, Verdict.FAIL, Verdict.ERROR)

    @property
    def text(self) -> str:
        """The detail, and what a second computation gave."""
        return f"{self.detail}; {self.confirmation}" if self.confirmation else self.detail

    @property
    def meaning(self) -> str:
        """What such a finding usually means."""
        meaning = self._meaning
        if self.check == BASELINE_LAYERS:
            return meaning.above if self.verdict is Verdict.WARN else meaning.below
        if self.baseline is not None:
            is_low = self.value is not None and self.value < self.baseline
        else:
            minimum = (self.limit or {}).get("min")
            is_low = minimum is not None and self.value is not None and self.value < minimum
        return (meaning.below if is_low else meaning.above) or meaning.above or meaning.below

    @property
    def action(self) -> str:
        """What to do about such a finding."""
        return self._meaning.action

    @property
    def _meaning(self) -> Meaning:
        if self.told is not None and not self.is_undecided:
            return self.told
        name = self.check.removeprefix(MODEL)
        if self.verdict is Verdict.ERROR:
            return UNREADABLE
        if self.is_undecided:
            return UNDECIDED
        if self.value is None and not name.startswith(REGRESSION):
            # What a value beside its limit means says nothing about one that does not exist.
            return meaning_of(INTEGRITY)
        return meaning_of(name)


def judge_other_tensors(non_finite: Sequence[NonFiniteTensor], n_tensors: int) -> Judgement:
    """Fail a model with NaN or infinity in a tensor that no spectrum covers."""
    resolution = "every value of these tensors was read; finite values that are wrong are not seen here"
    if not non_finite:
        detail = f"all values of the {n_tensors} other tensors (biases, norms, not analysed ones) are finite"
        return Judgement(check=INTEGRITY, verdict=Verdict.PASS, detail=detail, resolution=resolution)
    names = tuple(f"{tensor.name} ({tensor.n_bad} of {tensor.n_values})" for tensor in non_finite)
    detail = f"{NOT_FINITE} values in {name_some(names)}"
    return Judgement(check=INTEGRITY, verdict=Verdict.FAIL, detail=detail, resolution=resolution)


def judge_integrity(record: LayerRecord) -> Judgement:
    """Fail a layer whose values are not finite, all zero, all the same, mostly dead, or of rank one."""
    damage = record.damage or _other_damage(record)
    return Judgement(
        check=INTEGRITY,
        verdict=Verdict.PASS if damage is None else Verdict.FAIL,
        detail="all values are finite and the layer is not dead" if damage is None else damage,
        resolution="every value was read; damage that leaves finite, varied values is for the other checks",
    )


def _other_damage(record: LayerRecord) -> str | None:
    for name, n_all, length, what in (
        ("n_dead_rows", record.rows, record.columns, "rows"),
        ("n_dead_columns", record.columns, record.rows, "columns"),
    ):
        n_dead = record.metrics[name]
        # In a table of a few rows a column of zeros is a chance of rounding.
        if n_dead > n_all * MAX_DEAD_SHARE and length >= MIN_EVALS:
            return f"{n_dead} of {n_all} {what} are dead (all zero)"
    if record.n_evals >= MIN_EVALS and record.metrics["matrix_rank"] == 1:
        return "the layer has collapsed to rank one"
    return None


def judge_metric(record: LayerRecord, rule: Rule) -> Judgement:
    """Judge one metric of a layer against absolute bounds."""
    value = record.metrics.get(rule.check)
    if value is None:
        return _without_value(record, rule)
    judgement = _judge_bounds(rule, float(value))
    judgement = replace(judgement, resolution=resolution_of_metric(record, rule))
    sigma = record.metrics.get("sigma")
    if rule.check != ALPHA or not judgement.is_finding or sigma is None:
        return judgement
    excess = _excess(rule, float(value))
    detail = (
        f"{judgement.detail}; that is {excess / sigma:.1f} standard errors of alpha "
        f"(sigma {sigma:.2g}, {record.metrics['num_pl_spikes']} eigenvalues in the tail)"
    )
    return replace(judgement, detail=detail)


def judge_traps(record: LayerRecord, rule: Rule, n_traps: int | None, level: float) -> Judgement:
    """Judge the number of correlation traps at the false-alarm rate of the whole run.

    Parameters
    ----------
    record : LayerRecord
        The layer.
    rule : Rule
        How many there may be.
    n_traps : int or None
        How many there are; None where there was no test.
    level : float
        Level of significance that the false-alarm rate of the run leaves the layer.
    """
    if n_traps is None or record.traps is None:
        return _without_test(record, rule, "traps")
    judgement = _judge_bounds(rule, float(n_traps))
    detail = (
        f"{n_traps} correlation trap{'s' if n_traps != 1 else ''} ({format_p_value(record.traps.p_value)}; over the "
        f"whole run one counts from {level:.2g} on), {format_bounds(rule)} accepted"
    )
    return replace(judgement, detail=detail, resolution=resolution_of_metric(record, rule))


def judge_noise(record: LayerRecord, rule: Rule) -> Judgement:
    """Judge whether a layer can be told from random numbers."""
    if record.noise_p_value is None:
        return _without_test(record, rule, "noise_test")
    judgement = _judge_bounds(rule, record.noise_p_value)
    found = "can be told from noise" if judgement.verdict is Verdict.PASS else "cannot be told from noise"
    detail = f"the layer {found} ({format_p_value(record.noise_p_value)}, {format_bounds(rule)} accepted)"
    return replace(judgement, detail=detail, resolution=resolution_of_metric(record, rule))


def judge_coverage(
    coverage: float, n_matrices: int, rule: Rule, *, unanalysed: Sequence[UnanalysedTensor] = ()
) -> Judgement:
    """Judge the analysed share of a model's parameters, and say what most of the rest is."""
    judgement = _judge_bounds(rule, coverage)
    detail = f"{coverage:.1%} of the parameters were analysed, in {n_matrices} matrices"
    if judgement.is_finding:
        detail = f"{detail}; {judgement.detail}; not analysed: {name_unanalysed(unanalysed)}"
    return replace(judgement, detail=detail, resolution="tensors of two or more dimensions are counted")


def judge_mean(summary: Mapping[str, float], rule: Rule) -> Judgement:
    """Judge the mean of a metric over the layers of a model."""
    check = MODEL + rule.check
    value = summary.get(rule.check)
    if value is None:
        detail = f"no layer has {rule.check}"
        return Judgement(check=check, verdict=Verdict.INCONCLUSIVE, limit=_bounds(rule), detail=detail)
    judgement = _judge_bounds(rule, value)
    detail = f"mean over layers: {judgement.detail}"
    return replace(judgement, check=check, detail=detail, resolution="a single layer hardly moves a mean over many")


def judge_layer_set(
    sets: LayerSets, *, n_newly_excluded: int = 0, tensors: TensorComparison | None = None
) -> Judgement:
    """Fail a model that lacks layers of its baseline or shares none; new or newly excluded layers only warn.

    Of the tensors that are no layers, one of two or more dimensions must not be missing either, and none may have
    another shape; vectors that are missing warn, since buffers come and go with the versions of a framework.
    """
    missing = () if tensors is None else tensors.missing
    reshaped = () if tensors is None else tensors.reshaped
    is_lacking = tensors is not None and any(n_dimensions > 1 for n_dimensions in tensors.n_dimensions.values())
    parts = [
        f"{len(names)} {what}: {name_some(names)}"
        for what, names in (
            ("missing", sets.removed),
            ("reshaped", sets.reshaped),
            ("new", sets.added),
            ("renamed", tuple(f"{old} -> {new}" for new, old in sets.renamed.items())),
        )
        if names
    ]
    if n_newly_excluded:
        parts.append(f"{n_newly_excluded} excluded by this run, but not by the recording")
    if not sets.n_shared:
        parts.append("no layer is compared")
    parts += [
        f"{len(names)} {'tensor' if len(names) == 1 else 'tensors'} without a spectrum {what}: {name_some(names)}"
        for what, names in (("missing", missing), ("reshaped", reshaped))
        if names
    ]
    if sets.removed or sets.reshaped or reshaped or is_lacking or not sets.n_shared:
        verdict = Verdict.FAIL
    elif sets.added or n_newly_excluded or missing:
        verdict = Verdict.WARN
    else:
        verdict = Verdict.PASS
    detail = "; ".join(parts) if parts else f"all {sets.n_shared} layers are those of the baseline"
    return Judgement(
        check=BASELINE_LAYERS,
        verdict=verdict,
        value=float(sets.n_shared),
        detail=detail,
        resolution="names and shapes are compared; layers under another name are found by shape, spectrum and weights",
    )


def judge_regression(record: LayerRecord, comparison: LayerComparison, rule: RegressionRule) -> Judgement:
    """Judge one quantity of a layer against its baseline, in every direction that the rule limits."""
    change = comparison.changes.get(rule.quantity)
    if comparison.blocked is not None or change is None:
        verdict = Verdict.SKIPPED
        if comparison.blocked is None and rule.quantity == ALPHA and not _is_too_small(record):
            verdict = Verdict.INCONCLUSIVE
        return Judgement(check=rule.check, verdict=verdict, detail=comparison.reason_of(rule.quantity))
    judgement = _judge_noise_change(rule, change) if rule.quantity == NOISE else judge_change(rule, change)
    resolution = resolution_of_change(rule, change, record)
    more = comparison.details.get(rule.quantity)
    if more:
        judgement = replace(judgement, detail=f"{judgement.detail}; {more}")
    if comparison.is_identical and judgement.verdict is Verdict.PASS:
        return replace(judgement, detail=f"unchanged: {judgement.detail}", resolution=resolution)
    return replace(judgement, resolution=resolution)


def judge_model_regression(change: Change | None, rule: RegressionRule) -> Judgement:
    """Judge one pooled quantity of a model against its baseline."""
    check = MODEL + rule.check
    if change is None:
        return Judgement(check=check, verdict=Verdict.SKIPPED, detail="no layer is compared")
    judgement = judge_change(rule, change)
    return replace(
        judgement,
        check=check,
        detail=f"over all layers together: {judgement.detail}",
        resolution=resolution_of_change(rule, change, None),
    )


def judge_change(rule: RegressionRule, change: Change) -> Judgement:
    """Judge a change against its allowances; NaN never passes."""
    down, up = rule.allowances(change.reference, change.sigma)
    difference = change.difference
    is_within = (down is None or difference >= -down) and (up is None or difference <= up)
    if math.isnan(difference):
        is_within = False
    share = _share_of_allowance(difference, down, up)
    verdict, early = Verdict.PASS, ""
    if not is_within:
        verdict = _as_verdict(rule.severity)
    elif rule.warn_at is not None and share > rule.warn_at:
        verdict, early = Verdict.WARN, f"; a warning is given from {rule.warn_at:.0%} of that on"
        share /= rule.warn_at
    bounds = {
        name: bound
        for name, bound in (
            ("min", None if down is None else change.reference - down),
            ("max", None if up is None else change.reference + up),
        )
        if bound is not None
    }
    return Judgement(
        check=rule.check,
        verdict=verdict,
        value=change.value,
        limit=bounds,
        baseline=change.reference,
        detail=describe_change(rule, change, down, up) + early,
        share=share,
    )


def _judge_noise_change(rule: RegressionRule, change: Change) -> Judgement:
    was_lost = change.reference > LOST_IN_NOISE
    is_structured = change.value <= LOST_IN_NOISE
    if was_lost:
        detail = f"could not be told from noise in the baseline either ({format_p_value(change.reference)})"
    elif is_structured:
        found = f"can be told from noise ({format_p_value(change.value)})"
        detail = f"{found}, as in the baseline ({format_p_value(change.reference)})"
    else:
        detail = (
            f"can no longer be told from noise ({format_p_value(change.value)}; in the baseline "
            f"{format_p_value(change.reference)})"
        )
    is_kept = is_structured or was_lost
    return Judgement(
        check=rule.check,
        verdict=Verdict.PASS if is_kept else _as_verdict(rule.severity),
        value=change.value,
        limit=None if was_lost else {"max": LOST_IN_NOISE},
        baseline=change.reference,
        detail=detail,
        share=None if is_kept else math.inf,
    )


def _share_of_allowance(difference: float, down: float | None, up: float | None) -> float:
    allowance = up if difference > 0.0 else down
    if allowance is None or difference == 0.0:
        return 0.0
    return abs(difference) / allowance if allowance > 0.0 else math.inf


def _is_too_small(record: LayerRecord) -> bool:
    return record.fit_failure is not None and record.fit_failure[0] is FitFailureReason.TOO_FEW_EIGENVALUES


def _without_value(record: LayerRecord, rule: Rule) -> Judgement:
    # Of a metric that a plugin adds, the reason is its own.
    reason = record.reasons.get(rule.check) or record.reason or f"{rule.check} is not defined for this layer"
    if record.is_without_spectrum:
        detail = f"no {rule.check}: {record.damage}"
        return Judgement(check=rule.check, verdict=_as_verdict(rule.severity), limit=_bounds(rule), detail=detail)
    failure = None if rule.check in record.reasons else record.fit_failure
    is_inconclusive = failure is not None and failure[0] is FitFailureReason.NO_SPREAD
    verdict = Verdict.INCONCLUSIVE if is_inconclusive else Verdict.SKIPPED
    return Judgement(check=rule.check, verdict=verdict, limit=_bounds(rule), detail=reason)


def _without_test(record: LayerRecord, rule: Rule, option: str) -> Judgement:
    if record.is_without_spectrum:
        detail = f"no test: {record.damage}"
        return Judgement(check=rule.check, verdict=Verdict.SKIPPED, limit=_bounds(rule), detail=detail)
    detail = record.reasons.get(option, "there was no test")
    return Judgement(check=rule.check, verdict=Verdict.SKIPPED, limit=_bounds(rule), detail=detail)


def _judge_bounds(rule: Rule, value: float) -> Judgement:
    above_minimum = rule.minimum is None or value >= rule.minimum
    below_maximum = rule.maximum is None or value <= rule.maximum
    is_within = above_minimum and below_maximum
    where = "within" if is_within else f"{_excess(rule, value):.4g} {'above' if above_minimum else 'below'}"
    return Judgement(
        check=rule.check,
        verdict=Verdict.PASS if is_within else _as_verdict(rule.severity),
        value=value,
        limit=_bounds(rule),
        detail=f"{rule.check} {value:.4g} is {where} the limit of {format_bounds(rule)}",
    )


def _excess(rule: Rule, value: float) -> float:
    if rule.minimum is not None and value < rule.minimum:
        return rule.minimum - value
    return value - rule.maximum if rule.maximum is not None else 0.0


def _bounds(rule: Rule) -> dict[str, float]:
    bounds = {"min": rule.minimum, "max": rule.maximum}
    return {name: bound for name, bound in bounds.items() if bound is not None}


def _as_verdict(severity: Severity) -> Verdict:
    return Verdict.FAIL if severity == "fail" else Verdict.WARN
