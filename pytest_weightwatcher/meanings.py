"""What a finding usually means, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_weightwatcher.checks import (
    ALPHA,
    BASELINE_LAYERS,
    CLIPPED,
    CORRELATION_TRAPS,
    COVERAGE,
    DRIFT,
    INTEGRITY,
    INTRUDERS,
    KERNELS,
    NOISE,
    OVERLAP,
    REGRESSION,
    ROUNDING,
    SPECTRUM,
    TENSORS,
    TURN,
    WAIVERS,
    WEIGHTS,
)
from spectral.largest import LARGEST_WEIGHT

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """What a value below or above its limit usually means, and what to do about it."""

    below: str
    above: str
    action: str


_COMPARE_STEP = (
    "Compare with the step that changed this layer (fine-tune, quantisation, merge). If the new checkpoint is right, "
    "record it with --ww-update-baseline."
)

_DEFAULT = Meaning(
    below="The value is below what ww.yaml accepts for this layer.",
    above="The value is above what ww.yaml accepts for this layer.",
    action="Compare the layer with the last good checkpoint, or move the limit in ww.yaml if the value is right.",
)

_DEFAULT_REGRESSION = Meaning(
    below="The value has fallen further from the baseline than this gate accepts.",
    above="The value has risen further from the baseline than this gate accepts.",
    action=_COMPARE_STEP,
)

# In general; of the traps of a layer more is known: see trap_text.
_TRAPS = Meaning(
    below="",
    above="A few weights are far larger than the others make likely, or all share an offset: often a write or a merge "
    "that went wrong, a learning rate far too large, or an outlier that quantisation will suffer from.",
    action="Look at the weights named above (ww-gate analyze MODEL --traps lists all that carry it). "
    "If they are meant to be so, record a baseline or waive it.",
)

_MEANINGS: Mapping[str, Meaning] = MappingProxyType(
    {
        ALPHA: Meaning(
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
            action="ww-gate describe MODEL lists what was not analysed, with reasons; so does the report.",
        ),
        "stable_rank": Meaning(
            below="Few directions carry the layer: it may have collapsed or lost rank.",
            above="The spectrum is flatter than expected: structure may have been lost.",
            action=_DEFAULT.action,
        ),
        INTEGRITY: Meaning(
            below="The weights themselves are damaged: training diverged, or the file was written wrongly.",
            above="",
            action="Do not ship this checkpoint; go back to the last one that passes.",
        ),
        CORRELATION_TRAPS: _TRAPS,
        REGRESSION + CORRELATION_TRAPS: _TRAPS,
        NOISE: Meaning(
            below="",
            above="The layer cannot be told from random numbers: it was never trained, was initialised anew, or what "
            "it had learned is gone.",
            action="Check that the right tensor was loaded and that the layer takes part in training; exclude it where "
            "it is random on purpose.",
        ),
        REGRESSION + NOISE: Meaning(
            below="",
            above="The layer could be told from random numbers in the baseline and no longer can: it was initialised "
            "anew, or what it had learned is gone.",
            action=_COMPARE_STEP,
        ),
        BASELINE_LAYERS: Meaning(
            below="Layers of the baseline are missing or have another shape: this is another architecture.",
            above="Some layers are in only one of model and baseline, so nothing is known of how they changed.",
            action="If the change is meant, record a new baseline with --ww-update-baseline.",
        ),
        REGRESSION + ALPHA: Meaning(
            below="The same tail has become heavier than the baseline's: fewer directions carry more of the layer.",
            above="The same tail has become lighter than the baseline's: learned structure was lost.",
            action=_COMPARE_STEP,
        ),
        REGRESSION + SPECTRUM: Meaning(
            below="",
            above="The singular values moved as a whole: weights that grew without bound, were drawn anew, or a few "
            "out of place.",
            action=_COMPARE_STEP,
        ),
        REGRESSION + WEIGHTS: Meaning(
            below="",
            above="The weights moved further from the baseline than is accepted: trained for long, drawn anew, or "
            "those of another layer.",
            action=_COMPARE_STEP,
        ),
        REGRESSION + TURN: Meaning(
            below="",
            above="Hardly anything of the accepted layer is left in it: drawn anew, or trained at far too large a "
            "learning rate, or for another task.",
            action=_COMPARE_STEP,
        ),
        REGRESSION + KERNELS: Meaning(
            below="",
            above="Hardly anything of the accepted kernels is left in them: drawn anew, set to a constant, or trained "
            "at far too large a learning rate.",
            action=_COMPARE_STEP,
        ),
        REGRESSION + TENSORS: Meaning(
            below="",
            above="Biases, norms or kernels that have no spectrum are not those of the baseline: lost in a conversion, "
            "set to a constant, or trained on.",
            action=_COMPARE_STEP,
        ),
        REGRESSION + DRIFT: Meaning(
            below="",
            above="The layer turned far from the baseline and its spectrum became flatter: it memorises rather than "
            "learns (wrong or random labels, far too large a learning rate, too many epochs).",
            action=f"{_COMPARE_STEP} Check the labels and the learning rate of this run first.",
        ),
        REGRESSION + "effective_rank": Meaning(
            below="Fewer directions carry the layer than before: rank was removed, or the layer has collapsed.",
            above="The spectrum has become flatter: noise was added to it (coarse quantisation, pruning, wrong labels, "
            "too large a learning rate).",
            action=_COMPARE_STEP,
        ),
        REGRESSION + "stable_rank": Meaning(
            below="Fewer directions dominate the layer than before.",
            above="The largest directions have lost their weight against the others.",
            action=_COMPARE_STEP,
        ),
        REGRESSION + LARGEST_WEIGHT: Meaning(
            below="The largest weights of the layer were cut down.",
            above="One weight is far larger than any was in the baseline: a flipped bit, a write or a merge that went "
            "wrong, or an outlier that quantisation will suffer from.",
            action=f"Look at the weight named above. {_COMPARE_STEP}",
        ),
        REGRESSION + OVERLAP: Meaning(
            below="The leading directions of the layer have turned away from those of the baseline.",
            above="",
            action=_COMPARE_STEP,
        ),
        REGRESSION + INTRUDERS: Meaning(
            below="",
            above="Leading directions resemble none of the baseline's: typical of a LoRA of low rank or a high "
            "learning rate; such models forget more (arXiv 2410.21228).",
            action="Lower the learning rate or raise the rank of the adapter, or accept it with a waiver.",
        ),
        REGRESSION + ROUNDING: Meaning(
            below="",
            above="The layer lost far more than its number format had to cost: wrong scales, codes read or written in "
            "another order, a group of weights left out, or calibration data that the layer never sees.",
            action="Quantise this layer again, with another group size or calibration set, or leave it in 16 bits.",
        ),
        REGRESSION + CLIPPED: Meaning(
            below="",
            above="Outlier channels were cut off: a scale was chosen too small for them. Networks depend on these "
            "channels more than on all others (arXiv 2208.07339).",
            action="Use scales by row or group, or keep outlier channels, or this layer, in 16 bits.",
        ),
        WAIVERS: Meaning(
            below="A waiver has expired: what it covered counts again.",
            above="A waiver covers nothing, or has expired.",
            action="Renew it with a new date if its reason still holds, or take it out of ww.yaml.",
        ),
    }
)


_OR_FINETUNE = f"{_COMPARE_STEP} Where the weights were meant to be trained on, choose the profile finetune."

OF_COMPRESSION: Mapping[str, Meaning] = MappingProxyType(
    {
        SPECTRUM: Meaning(
            below="",
            above="The singular values moved far beyond rounding: re-initialised, pruned, quantised too coarsely, "
            "or a few weights out of place.",
            action=_OR_FINETUNE,
        ),
        WEIGHTS: Meaning(
            below="",
            above="The weights are not those of the baseline within rounding: another layer, weights drawn anew, "
            "pruned or quantised too coarsely, or trained on.",
            action=_OR_FINETUNE,
        ),
        TENSORS: Meaning(
            below="",
            above="Biases, norms or kernels that have no spectrum are not those of the baseline: lost in a conversion, "
            "set to a constant, or trained on.",
            action=_OR_FINETUNE,
        ),
    }
)
"""Quantity -> what its findings mean where the weights should be the same."""

UNREADABLE = Meaning(
    below="",
    above="The file changed, or became unreadable, while the run was going on.",
    action="Run again; if it stays so, write the file anew.",
)
UNDECIDED = Meaning(
    below="",
    above="The numbers of this layer do not allow a verdict, and the policy of ww.yaml counts that.",
    action="Look at the layer by hand, waive it, or set policy.inconclusive to skip.",
)
"""What there is to say of findings that are none of numbers."""


def meaning_of(check: str) -> Meaning:
    """Return what findings of a check usually mean."""
    if check in _MEANINGS:
        return _MEANINGS[check]
    return _DEFAULT_REGRESSION if REGRESSION in check else _DEFAULT
