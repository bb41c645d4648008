"""Judgements, each made once, by a pure function from numbers and a rule.

Every pass condition is written positively, so that a value which does not exist or is NaN never passes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

from pytest_weightwatcher.checks import (
    ALPHA_REGRESSION,
    BASELINE_LAYERS,
    INTEGRITY,
    SPECTRUM_REGRESSION,
    Rule,
    Severity,
    meaning_of,
)
from spectral.fits import FitFailure, FitFailureReason
from spectral.power_law import MIN_EVALS, PowerLawFit
from spectral.spectrum import SpectrumFailure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_weightwatcher.baseline import BaselineEntry
    from pytest_weightwatcher.comparison import LayerComparison, LayerSetComparison
    from pytest_weightwatcher.config import AlphaRegression, SpectrumRegression
    from spectral.analysis import LayerAnalysis
    from spectral.integrity import NonFiniteTensor

MAX_DEAD_SHARE = 0.5
"""A layer most of whose rows or columns are zero is dead; fewer are common: padding, unused tokens, pruned heads."""

_MAX_NAMED = 5


class Verdict(str, Enum):
    """What a check says, from best to worst in the order of :data:`SEVERITY_ORDER`."""

    PASS = "pass"  # noqa: S105 (a verdict, no password)
    SKIPPED = "skipped"
    INCONCLUSIVE = "inconclusive"
    WARN = "warn"
    FAIL = "fail"
    ERROR = "error"

    def __str__(self) -> str:
        return self.value


SEVERITY_ORDER = (
    Verdict.PASS,
    Verdict.SKIPPED,
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
    """

    check: str
    verdict: Verdict
    value: float | None = None
    limit: Mapping[str, float] | None = None
    baseline: float | None = None
    detail: str

    @property
    def is_finding(self) -> bool:
        """True for what somebody should look at: warn, fail or error."""
        return self.verdict in (Verdict.WARN, Verdict.FAIL, Verdict.ERROR)

    @property
    def meaning(self) -> str:
        """What such a finding usually means."""
        meaning = meaning_of(self.check)
        if self.value is None:
            # What a value beside its limit means says nothing about one that does not exist.
            meaning = meaning_of(INTEGRITY if self.check not in (ALPHA_REGRESSION, SPECTRUM_REGRESSION) else self.check)
        if self.check == BASELINE_LAYERS:
            return meaning.above if self.verdict is Verdict.WARN else meaning.below
        if self.check == ALPHA_REGRESSION:
            is_low = self.value is not None and self.baseline is not None and self.value < self.baseline
        else:
            minimum = (self.limit or {}).get("min")
            is_low = minimum is not None and self.value is not None and self.value < minimum
        return (meaning.below if is_low else meaning.above) or meaning.above or meaning.below

    @property
    def action(self) -> str:
        """What to do about such a finding."""
        return meaning_of(self.check).action


def judge_other_tensors(non_finite: Sequence[NonFiniteTensor], n_tensors: int) -> Judgement:
    """Fail a model with NaN or infinity in a tensor that no spectrum covers."""
    if not non_finite:
        detail = f"all values of the {n_tensors} other tensors (biases, norms, not analysed ones) are finite"
        return Judgement(check=INTEGRITY, verdict=Verdict.PASS, detail=detail)
    names = tuple(f"{tensor.name} ({tensor.n_bad} of {tensor.n_values})" for tensor in non_finite)
    return Judgement(check=INTEGRITY, verdict=Verdict.FAIL, detail=f"NaN or infinite values in {_name_some(names)}")


def judge_integrity(layer: LayerAnalysis) -> Judgement:
    """Fail a layer whose values are not finite, all zero, all the same, mostly dead, or of rank one."""
    if isinstance(layer.spectrum, SpectrumFailure):
        return Judgement(check=INTEGRITY, verdict=Verdict.FAIL, detail=layer.spectrum.detail)
    if layer.is_constant:
        return Judgement(check=INTEGRITY, verdict=Verdict.FAIL, detail="every value of the layer is the same")
    spectrum, spec = layer.spectrum, layer.spec
    for n_dead, n_all, what in (
        (spectrum.n_dead_rows, spec.rows, "rows"),
        (spectrum.n_dead_columns, spec.columns, "columns"),
    ):
        if n_dead > n_all * MAX_DEAD_SHARE:
            return Judgement(
                check=INTEGRITY, verdict=Verdict.FAIL, detail=f"{n_dead} of {n_all} {what} are dead (all zero)"
            )
    if spec.n_evals >= MIN_EVALS and layer.metrics.get("matrix_rank") == 1:
        return Judgement(check=INTEGRITY, verdict=Verdict.FAIL, detail="the layer has collapsed to rank one")
    return Judgement(check=INTEGRITY, verdict=Verdict.PASS, detail="all values are finite and the layer is not dead")


def judge_metric(layer: LayerAnalysis, rule: Rule) -> Judgement:
    """Judge one metric of a layer against absolute bounds."""
    value = layer.metrics.get(rule.check)
    if value is None:
        return _without_value(layer, rule)
    judgement = _judge_bounds(rule, float(value))
    if rule.check != "alpha" or not judgement.is_finding or not isinstance(layer.fit, PowerLawFit):
        return judgement
    excess = _excess(rule, float(value))
    detail = (
        f"{judgement.detail}; that is {excess / layer.fit.sigma:.1f} standard errors of alpha "
        f"(sigma {layer.fit.sigma:.2g}, {layer.fit.n_tail} eigenvalues in the tail)"
    )
    return _with_detail(judgement, detail)


def judge_coverage(coverage: float, n_matrices: int, rule: Rule) -> Judgement:
    """Judge the analysed share of a model's parameters."""
    judgement = _judge_bounds(rule, coverage)
    detail = f"{coverage:.1%} of the parameters were analysed, in {n_matrices} matrices"
    if judgement.is_finding:
        detail = f"{detail}; {judgement.detail}"
    return _with_detail(judgement, detail)


def judge_layer_set(sets: LayerSetComparison, *, n_newly_excluded: int = 0) -> Judgement:
    """Fail a model that lacks layers of its baseline or shares none; new or newly excluded layers only warn."""
    parts = [
        f"{len(names)} {what}: {_name_some(names)}"
        for what, names in (("missing", sets.removed), ("reshaped", sets.reshaped), ("new", sets.added))
        if names
    ]
    if n_newly_excluded:
        parts.append(f"{n_newly_excluded} excluded by this run, but not by the recording")
    if not sets.n_shared:
        parts.append("no layer is compared")
    if sets.removed or sets.reshaped or not sets.n_shared:
        verdict = Verdict.FAIL
    elif sets.added or n_newly_excluded:
        verdict = Verdict.WARN
    else:
        verdict = Verdict.PASS
    detail = "; ".join(parts) if parts else f"all {sets.n_shared} layers are those of the baseline"
    return Judgement(check=BASELINE_LAYERS, verdict=verdict, value=float(sets.n_shared), detail=detail)


def judge_alpha_regression(
    layer: LayerAnalysis, entry: BaselineEntry, comparison: LayerComparison, rule: AlphaRegression
) -> Judgement:
    """Judge the change of alpha over the baseline's own tail, in both directions."""
    blocked = _not_comparable(ALPHA_REGRESSION, layer, comparison)
    if blocked is not None:
        return blocked
    if entry.tail is None or comparison.alpha is None:
        reason = (
            "the baseline has no power-law tail for this layer"
            if entry.tail is None
            else f"fewer than the baseline's {entry.tail.n} tail eigenvalues are left above the fit's threshold"
        )
        verdict = Verdict.SKIPPED if layer.status == "skipped" else Verdict.INCONCLUSIVE
        return Judgement(check=ALPHA_REGRESSION, verdict=verdict, detail=reason)
    tail, alpha = entry.tail, comparison.alpha
    allowed_up = max(rule.max_increase, rule.sigmas * tail.sigma)
    allowed_down = max(rule.max_decrease, rule.sigmas * tail.sigma)
    change = alpha - tail.alpha
    is_within = -allowed_down <= change <= allowed_up
    return Judgement(
        check=ALPHA_REGRESSION,
        verdict=Verdict.PASS if is_within else _as_verdict(rule.severity),
        value=alpha,
        limit={"min": tail.alpha - allowed_down, "max": tail.alpha + allowed_up},
        baseline=tail.alpha,
        detail=(
            f"over the baseline's tail of {tail.n} eigenvalues alpha went from {tail.alpha:.4g} to {alpha:.4g} "
            f"({change:+.2g}, {change / tail.sigma:+.1f} standard errors); "
            f"changes beyond -{allowed_down:.2g} and +{allowed_up:.2g} can be seen here"
        ),
    )


def judge_spectrum_regression(layer: LayerAnalysis, comparison: LayerComparison, rule: SpectrumRegression) -> Judgement:
    """Judge the relative displacement of the singular values."""
    blocked = _not_comparable(SPECTRUM_REGRESSION, layer, comparison)
    if blocked is not None:
        return blocked
    displacement = comparison.displacement
    is_within = displacement is not None and displacement <= rule.max_displacement
    return Judgement(
        check=SPECTRUM_REGRESSION,
        verdict=Verdict.PASS if is_within else _as_verdict(rule.severity),
        value=displacement,
        limit={"max": rule.max_displacement},
        baseline=0.0,
        detail=f"the singular values moved by {_percent(displacement)} of their norm; "
        f"up to {_percent(rule.max_displacement)} is accepted, rounding to bf16 "
        "or int8 moves them by a few tenths of a percent at most",
    )


def _without_value(layer: LayerAnalysis, rule: Rule) -> Judgement:
    reason = layer.reason or f"{rule.check} is not defined for this layer"
    if isinstance(layer.spectrum, SpectrumFailure):
        detail = f"no {rule.check}: {layer.spectrum.detail}"
        return Judgement(check=rule.check, verdict=_as_verdict(rule.severity), limit=_bounds(rule), detail=detail)
    is_inconclusive = isinstance(layer.fit, FitFailure) and layer.fit.reason is FitFailureReason.NO_SPREAD
    verdict = Verdict.INCONCLUSIVE if is_inconclusive else Verdict.SKIPPED
    return Judgement(check=rule.check, verdict=verdict, limit=_bounds(rule), detail=reason)


def _not_comparable(check: str, layer: LayerAnalysis, comparison: LayerComparison) -> Judgement | None:
    if not comparison.is_same_shape:
        return Judgement(check=check, verdict=Verdict.SKIPPED, detail="the baseline's layer has another shape")
    if isinstance(layer.spectrum, SpectrumFailure):
        return Judgement(check=check, verdict=Verdict.SKIPPED, detail=f"no spectrum: {layer.spectrum.detail}")
    return None


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
        detail=f"{rule.check} {value:.4g} is {where} the limit of {_format_bounds(rule)}",
    )


def _excess(rule: Rule, value: float) -> float:
    if rule.minimum is not None and value < rule.minimum:
        return rule.minimum - value
    return value - rule.maximum if rule.maximum is not None else 0.0


def _bounds(rule: Rule) -> dict[str, float]:
    bounds = {"min": rule.minimum, "max": rule.maximum}
    return {name: bound for name, bound in bounds.items() if bound is not None}


def _format_bounds(rule: Rule) -> str:
    if rule.minimum is None:
        return f"at most {rule.maximum:g}"
    if rule.maximum is None:
        return f"at least {rule.minimum:g}"
    return f"{rule.minimum:g} to {rule.maximum:g}"


def _as_verdict(severity: Severity) -> Verdict:
    return Verdict.FAIL if severity == "fail" else Verdict.WARN


def _with_detail(judgement: Judgement, detail: str) -> Judgement:
    return replace(judgement, detail=detail)


def _name_some(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:_MAX_NAMED])
    return shown if len(names) <= _MAX_NAMED else f"{shown} and {len(names) - _MAX_NAMED} more"


def _percent(share: float | None) -> str:
    return "an unknown part" if share is None else f"{share:.3g}" if share > 10 else f"{share:.2%}"
