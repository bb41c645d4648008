"""How numbers and limits are put into sentences."""

from __future__ import annotations

import math
from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_weightwatcher.checks import (
    ALPHA,
    CLIPPED,
    CORRELATION_TRAPS,
    DRIFT,
    INTRUDERS,
    NOISE,
    OVERLAP,
    ROUNDING,
    SPECTRUM,
    TURN,
    WEIGHTS,
    RegressionRule,
    Rule,
)
from spectral.places import name_place
from spectral.projections import RELATIVE_ERROR

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_weightwatcher.comparison import Change
    from pytest_weightwatcher.records import LayerRecord
    from spectral.largest import LargestWeight
    from spectral.weights import MatrixSpec, UnanalysedTensor

_MAX_NAMED = 5
_MAX_REASONS = 3

LEAST_P_VALUE = 1e-300
"""Smaller p-values are told as such: a float ends not far below, at 0."""


def describe_change(rule: RegressionRule, change: Change, down: float | None, up: float | None) -> str:
    """Return what changed, by how much, and how much is accepted."""
    if rule.quantity in _DISTANCES:
        return _DISTANCES[rule.quantity](change.value, up or 0.0)
    if rule.quantity == OVERLAP:
        floor = "any" if down is None else f"at least {change.reference - down:.3g}"
        return f"the leading directions overlap with those of the baseline by {change.value:.3g} of 1; {floor} accepted"
    difference, sigmas = change.difference, ""
    if change.sigma is not None and change.sigma > 0.0:
        sigmas = f", {difference / change.sigma:+.1f} standard errors"
    what = "over the baseline's tail alpha" if rule.quantity == ALPHA else rule.quantity
    is_plain = rule.quantity == ALPHA or change.reference == 0.0
    share = "" if is_plain else f", {difference / abs(change.reference):+.1%}"
    return (
        f"{what} went from {change.reference:.4g} to {change.value:.4g} ({difference:+.3g}{share}{sigmas}); "
        f"{_format_allowances(down, up)} accepted"
    )


_OF_ROUNDING = 0.1
_ROUNDING = ", rounding to bf16 or int8 moves them by a few tenths of a percent at most"


def _describe_spectrum(value: float, accepted: float) -> str:
    return (
        f"the singular values moved by {format_share(value)} of their norm; up to {format_share(accepted)} is "
        f"accepted{_ROUNDING if accepted <= _OF_ROUNDING else ''}"
    )


def _describe_weights(value: float, accepted: float) -> str:
    return (
        f"the weights moved by {format_share(value)} of their norm; up to {format_share(accepted)} is accepted, "
        "rounding to bf16 moves them by 0.2%, to int8 by 1% to 4%, to four bits by 5% to 12%"
    )


def _describe_drift(value: float, accepted: float) -> str:
    return (
        f"the layer turned and its spectrum spread by {value:.3g} together (sine of the angle to the baseline, plus 4 "
        f"times the logarithm of the growth of the effective rank); up to {accepted:.3g} is accepted"
    )


def _describe_turn(value: float, accepted: float) -> str:
    return (
        f"the layer turned away from the baseline: the cosine of the angle between its weights now and then is "
        f"{1.0 - value:.2g}; at least {1.0 - accepted:.2g} accepted"
    )


def _describe_traps(value: float, accepted: float) -> str:
    plural = "s" if value != 1 else ""
    return f"{value:.0f} correlation trap{plural} that the baseline does not have; {accepted:.0f} accepted"


def _describe_intruders(value: float, accepted: float) -> str:
    return f"{value:.0f} of the leading directions resemble none of the baseline's; {accepted:.0f} accepted"


def _describe_rounding(value: float, accepted: float) -> str:
    return (
        f"the layer is off by {value:.3g} times the error of rounding the original to the nearest level of its "
        f"format; up to {accepted:.3g} is accepted"
    )


def _describe_clipped(value: float, accepted: float) -> str:
    return (
        f"{value:.0f} rows or columns of far larger weights than the others lost more than a tenth of their norm; "
        f"{accepted:.0f} accepted"
    )


_DISTANCES: Mapping[str, Callable[[float, float], str]] = MappingProxyType(
    {
        SPECTRUM: _describe_spectrum,
        WEIGHTS: _describe_weights,
        DRIFT: _describe_drift,
        TURN: _describe_turn,
        CORRELATION_TRAPS: _describe_traps,
        INTRUDERS: _describe_intruders,
        ROUNDING: _describe_rounding,
        CLIPPED: _describe_clipped,
    }
)
"""Quantities whose reference is nothing: how they are told."""


def resolution_of_change(rule: RegressionRule, change: Change, record: LayerRecord | None) -> str:
    """Return what a comparison with the baseline could have seen."""
    down, up = rule.allowances(change.reference, change.sigma)
    if rule.quantity == CORRELATION_TRAPS and record is not None:
        return _resolution_of_traps(record)
    if rule.quantity == ALPHA:
        sigma = change.sigma or 0.0
        return f"alpha over this tail has a standard error of {sigma:.2g}; {_format_allowances(down, up)} stay unseen"
    if rule.quantity in _LIMITATIONS:
        return _LIMITATIONS[rule.quantity].format(up=format_share(up), error=f"{2 * RELATIVE_ERROR:.0%}")
    return f"{_format_allowances(down, up)} stay unseen"


_LIMITATIONS: Mapping[str, str] = MappingProxyType(
    {
        SPECTRUM: "displacements up to {up} stay unseen; a change of weights that keeps the spectrum does, too",
        WEIGHTS: "changes up to {up} stay unseen; estimated from random projections to within {error} of itself (95%)",
        DRIFT: "a few epochs on wrong labels, or few wrong labels among many, may stay below the limit",
        TURN: "less stays unseen; beside a baseline file a right angle is found in nine of ten cases",
        NOISE: "structure weaker than the detectability limit of the layer counts as noise",
        OVERLAP: "only the 10 leading directions of the layer are compared",
        INTRUDERS: "only the 10 leading directions of the layer are compared",
        ROUNDING: "a quantiser that errs by less than this stays unseen, and so does one whose format loses too much",
        CLIPPED: "rows and columns of less than three times the usual norm are not looked at",
    }
)


def resolution_of_metric(record: LayerRecord, rule: Rule) -> str:
    """Return what an absolute check could have seen."""
    if rule.check == CORRELATION_TRAPS:
        return _resolution_of_traps(record)
    if rule.check == NOISE:
        limit = f" of {record.traps.limit:.3g}" if record.traps is not None else ""
        return f"one direction is seen where its singular value exceeds the detectability limit{limit}"
    sigma = record.metrics.get("sigma")
    if rule.check == ALPHA and sigma is not None:
        return f"alpha has a standard error of {sigma:.2g}: values that near to a limit may lie on its other side"
    return "the value is exact to nine digits; only its limits decide"


def name_weight(largest: LargestWeight, spec: MatrixSpec) -> str:
    """Return where the largest weight of a layer stands in its tensor, and its value."""
    # The slices that were looked at are those of the spec, which may be a single one.
    slice_id = largest.slice_id + (spec.slice_id or 0)
    place = name_place(spec, slice_id=slice_id, row=largest.row, column=largest.column)
    return f"the largest weight is {place} = {largest.value:.4g}"


def format_p_value(p_value: float) -> str:
    """Return a p-value in words; what is too small for a float is no zero."""
    return f"p < {LEAST_P_VALUE:g}" if p_value < LEAST_P_VALUE else f"p = {p_value:.2g}"


def format_bounds(rule: Rule) -> str:
    """Return the bounds of a rule in words."""
    if rule.minimum is None:
        return f"at most {rule.maximum:g}"
    if rule.maximum is None:
        return f"at least {rule.minimum:g}"
    return f"{rule.minimum:g} to {rule.maximum:g}"


def name_unanalysed(tensors: Sequence[UnanalysedTensor]) -> str:
    """Return why tensors were not analysed, the reason of most values first."""
    n_values: Counter[str] = Counter()
    n_tensors: Counter[str] = Counter()
    for tensor in tensors:
        n_values[tensor.reason] += math.prod(tensor.shape)
        n_tensors[tensor.reason] += 1
    texts = [f"{n_tensors[reason]}x {reason}" for reason, _ in n_values.most_common(_MAX_REASONS)]
    return "; ".join(texts) or "there is no matrix in it"


def name_some(names: tuple[str, ...]) -> str:
    """Return the first few names, and how many there are besides."""
    shown = ", ".join(names[:_MAX_NAMED])
    return shown if len(names) <= _MAX_NAMED else f"{shown} and {len(names) - _MAX_NAMED} more"


def format_share(share: float | None) -> str:
    """Return a share as a percentage, or as a factor where it is large."""
    return "an unknown part" if share is None else f"{share:.3g} times" if share > 10 else f"{share:.2%}"


def _format_allowances(down: float | None, up: float | None) -> str:
    if down is None and up is None:
        return "any change"
    if down is None:
        return f"a rise up to {up:.2g}"
    if up is None:
        return f"a fall up to {down:.2g}"
    return f"changes of -{down:.2g} to +{up:.2g}"


def _resolution_of_traps(record: LayerRecord) -> str:
    if record.traps is None:
        return ""
    limit, largest = record.traps.limit, float(record.metrics["sv_max"])
    return (
        f"a stray weight below about {limit:.3g} ({limit / largest:.2g} of the spectral norm) stays unseen; one of "
        "twice that size is found"
    )
