"""The traps of a layer in words: which weights carry them, what that usually means, what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_weightwatcher.meanings import Meaning
from pytest_weightwatcher.wording import format_share
from spectral.places import name_place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spectral.trap_details import Trap, TrapElement
    from spectral.weights import MatrixSpec

_MAX_NAMED = 5

OFFSET_SHARE = 0.1
"""From this share of a trap on an offset of all weights is mentioned."""

_LOOK = "Look at the weights named above (ww-gate analyze MODEL --traps lists all that carry it)."
_MEANT = "If it is meant to be so, record a baseline or waive it."

FEW = (
    "A few weights are far larger than the others make likely: often a write or a merge that went wrong, a learning "
    "rate far too large, or an outlier that quantisation will suffer from."
)
OFFSET = (
    "All weights of the layer share an offset: often a merge, a zero point of a quantisation or a write that went "
    "wrong; training may leave a small one."
)
SPREAD = (
    "No few weights stand out: many are a little larger than the others make likely, or all share a weak offset. "
    "Training leaves this more often than damage does; weights that should be those of the baseline were changed."
)


def name_carriers(traps: Sequence[Trap], spec: MatrixSpec) -> str:
    """Return what carries the traps of a layer: weights by their index in the stored tensor, an offset, or many."""
    if not traps:
        return "no weight is larger than the others of this layer make likely"
    few = [trap for trap in traps if trap.is_carried_by_few]
    offsets = [trap for trap in traps if trap.cause == "offset"]
    spread = [trap for trap in traps if trap.cause != "offset" and not trap.is_carried_by_few]
    texts = [_name_few(few, spec)] if few else []
    texts += [f"all weights of the layer share an offset ({trap.mean_share:.0%} of a trap)" for trap in offsets]
    return "; ".join([*texts, *([_name_spread(spread, spec)] if spread else [])])


def explain_traps(traps: Sequence[Trap]) -> Meaning:
    """Return what such traps usually mean, and what to do: only weights that stick out can be lowered one by one."""
    if any(trap.is_carried_by_few for trap in traps):
        return Meaning(below="", above=FEW, action=f"{_LOOK} {_MEANT}")
    if any(trap.cause == "offset" for trap in traps):
        action = f"Compare the mean of the weights with that of the last good checkpoint. {_MEANT}"
        return Meaning(below="", above=OFFSET, action=action)
    action = "Compare with the step that changed this layer; there is no weight that could be put right by itself."
    return Meaning(below="", above=SPREAD, action=f"{action} {_MEANT}")


def _name_few(traps: Sequence[Trap], spec: MatrixSpec) -> str:
    """Name each weight once: equal ones share their traps."""
    found: dict[str, TrapElement] = {}
    for trap in traps:
        for element in trap.carriers or trap.elements[:1]:
            found.setdefault(_place(spec, trap, element), element)
    heaviest = sorted(found.items(), key=lambda item: -abs(item[1].value))
    names = [f"{place} = {element.value:.4g}" for place, element in heaviest]
    rest = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return f"carried by {', '.join(names[:_MAX_NAMED])}{rest} ({_shares(traps)})"


def _shares(traps: Sequence[Trap]) -> str:
    least = min(trap.carried_share if trap.carriers else trap.elements[0].share for trap in traps)
    return f"{least:.0%} of a trap" if len(traps) == 1 else f"at least {least:.0%} of each of {len(traps)} traps"


def _name_spread(traps: Sequence[Trap], spec: MatrixSpec) -> str:
    first, heaviest = traps[0], traps[0].elements[0]
    subject, whole = (f"{len(traps)} traps are spread", "the first") if len(traps) > 1 else ("spread", "the trap")
    named = f"{_place(spec, first, heaviest)} = {heaviest.value:.4g} with {format_share(heaviest.share)} of {whole}"
    text = f"{subject} over many weights: the heaviest is {named}"
    if first.mean_share < OFFSET_SHARE:
        return text
    return f"{text}, an offset of all weights makes up {first.mean_share:.0%}"


def _place(spec: MatrixSpec, trap: Trap, element: TrapElement) -> str:
    return name_place(spec, slice_id=trap.slice_id, row=element.row, column=element.column)
