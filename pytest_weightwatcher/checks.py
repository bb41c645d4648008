"""What can be checked, and what a finding usually means. One table, read by ww.yaml, verdicts and reports."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from spectral.metrics import LAYER_METRICS

if TYPE_CHECKING:
    from collections.abc import Mapping

Severity = Literal["fail", "warn"]

INTEGRITY = "integrity"
COVERAGE = "coverage"
BASELINE_LAYERS = "baseline.layers"
ALPHA_REGRESSION = "regression.alpha"
SPECTRUM_REGRESSION = "regression.spectrum"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Bounds on one number, both inclusive; at least one is given.

    Attributes
    ----------
    check : str
        Name of the check.
    minimum, maximum : float or None
        The bounds.
    severity : {"fail", "warn"}
        What a value outside is.
    line : int or None
        Line of ww.yaml it comes from, or None for a built-in default.
    """

    check: str
    minimum: float | None
    maximum: float | None
    severity: Severity
    line: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """What a value below or above its limit usually means, and what to do about it."""

    below: str
    above: str
    action: str


LAYER_CHECKS: tuple[str, ...] = LAYER_METRICS
MODEL_CHECKS: tuple[str, ...] = (COVERAGE,)
"""Names that may stand under ``checks`` in ww.yaml, for layers and for the model."""

_DEFAULT_MEANING = Meaning(
    below="The value is below what ww.yaml accepts for this layer.",
    above="The value is above what ww.yaml accepts for this layer.",
    action="Compare the layer with the last good checkpoint, or move the limit in ww.yaml if the value is right.",
)

_MEANINGS: Mapping[str, Meaning] = MappingProxyType(
    {
        "alpha": Meaning(
            below="A low alpha means that a few directions dominate; below 2 the layer is usually over-fitted or "
            "collapsed, or its learning rate was far too large.",
            above="A high alpha means a flat spectrum; above 6 the layer has usually learned little and still looks "
            "like its random start, or is far larger than its task needs.",
            action="Look at the layer's training (learning rate, frozen or not). If it is known to be so, widen the "
            "limit for it under overrides in ww.yaml.",
        ),
        COVERAGE: Meaning(
            below="Part of the parameters was not analysed, so the gate says nothing about them.",
            above="",
            action="See the list of tensors that were not analysed, with reasons, in the report.",
        ),
        "stable_rank": Meaning(
            below="Few directions carry the layer: it may have collapsed or lost rank.",
            above="The spectrum is flatter than expected: structure may have been lost.",
            action=_DEFAULT_MEANING.action,
        ),
        INTEGRITY: Meaning(
            below="The weights themselves are damaged: training diverged, or the file was written wrongly.",
            above="",
            action="Do not ship this checkpoint; go back to the last one that passes.",
        ),
        BASELINE_LAYERS: Meaning(
            below="Layers of the baseline are missing or have another shape: this is another architecture, "
            "or tensors were renamed.",
            above="Some layers are in only one of model and baseline, so nothing is known of how they changed.",
            action="If the change is meant, record a new baseline with --ww-update-baseline.",
        ),
        ALPHA_REGRESSION: Meaning(
            below="The same tail has become heavier than the baseline's: fewer directions carry more of the layer.",
            above="The same tail has become lighter than the baseline's: learned structure was lost.",
            action="Compare with the step that changed this layer (fine-tune, quantisation, merge). If the new "
            "checkpoint is right, record it with --ww-update-baseline.",
        ),
        SPECTRUM_REGRESSION: Meaning(
            below="",
            above="The singular values moved far beyond rounding: re-initialised, pruned, quantised too coarsely, "
            "or a few weights out of place.",
            action="Compare with the step that changed this layer (fine-tune, quantisation, merge). If the new "
            "checkpoint is right, record it with --ww-update-baseline.",
        ),
    }
)


def meaning_of(check: str) -> Meaning:
    """Return what findings of a check usually mean."""
    return _MEANINGS.get(check, _DEFAULT_MEANING)
