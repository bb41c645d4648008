"""The traps of a layer in words: which weights carry them, what that usually means, what to do about it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_weightwatcher.meanings import Meaning
from pytest_weightwatcher.wording import format_share
from spectral.errors import OptionError
from spectral.options import FALSE_ALARM_RATE
from spectral.places import name_place
from spectral.selection import Selection, select_matrices
from spectral.weights import plan_matrices

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_weightwatcher.planning import CheckedModel
    from spectral.trap_details import Trap, TrapElement
    from spectral.weights import MatrixSpec

_MAX_NAMED = 5

MIN_SHARE = 0.1
"""A weight that is only just seen has so small a share of its trap; of a spread one the heaviest has below 1%."""

OFFSET_SHARE = 0.1
"""From this share of a trap on an offset of all weights is mentioned."""

_LOOK = "Look at the weights named above (ww-gate analyze MODEL --traps lists all that carry it)."
_LOWER = (
    "If they are wrong, write the right values, or save what {call} returns: the weights of the model with those that "
    "stick out of this layer, and no others, lowered to a typical size."
)
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
    few = [trap for trap in traps if _has_carriers(trap)]
    offsets = [trap for trap in traps if trap.cause == "offset"]
    spread = [trap for trap in traps if trap.cause != "offset" and not _has_carriers(trap)]
    texts = [_name_few(few, spec)] if few else []
    texts += [f"all weights of the layer share an offset ({trap.mean_share:.0%} of a trap)" for trap in offsets]
    return "; ".join([*texts, *([_name_spread(spread, spec)] if spread else [])])


def explain_traps(traps: Sequence[Trap], n_found: int, call: str) -> Meaning:
    """Return what such traps usually mean, and what to do: only weights that stick out can be lowered one by one.

    Parameters
    ----------
    traps : sequence of Trap
        All of the layer.
    n_found : int
        How many of them are a finding; the others are known to the baseline.
    call : str
        From :func:`removal_call`.
    """
    if any(map(_has_carriers, traps)):
        known = " Those that the baseline knows are among them." if n_found < len(traps) else ""
        lower = f"{_LOWER.format(call=call)}{known}"
        return Meaning(below="", above=FEW, action=f"{_LOOK} {lower} {_MEANT}")
    if any(trap.cause == "offset" for trap in traps):
        action = f"Compare the mean of the weights with that of the last good checkpoint. {_MEANT}"
        return Meaning(below="", above=OFFSET, action=action)
    action = "Compare with the step that changed this layer; there is no weight that could be put right by itself."
    return Meaning(below="", above=SPREAD, action=f"{action} {_MEANT}")


def removal_call(model: CheckedModel, spec: MatrixSpec) -> str:
    """Return the Python that lowers the weights of one layer, with the options under which its traps were found."""
    options = model.description.options
    arguments = [_subject(model), f"layers=[{_entry(model, spec)}]"]
    arguments += [f"seed={options.seed}"] if options.seed else []
    if options.false_alarm_rate != FALSE_ALARM_RATE:
        arguments.append(f"false_alarm_rate={options.false_alarm_rate}")
    return f"spectral.remove_traps({', '.join(arguments)}).model"


def _subject(model: CheckedModel) -> str:
    """Return the path as Python, relative where it can be; what is no file stands under a name of the reader's own."""
    if model.description.source.label != str(model.path):
        return "model"
    here = Path.cwd()
    path = model.path.relative_to(here) if model.path.is_relative_to(here) else model.path
    return _literal(str(path))


def _entry(model: CheckedModel, spec: MatrixSpec) -> str:
    """Return the name of a layer where it selects this one alone, otherwise its number."""
    everything = plan_matrices(model.description.source.tensors()).matrices
    try:
        chosen, _ = select_matrices(everything, Selection(layers=(spec.name,)))
    except OptionError:  # A name such as "conv2d" or "-x" means something else there.
        return str(spec.index)
    return _literal(spec.name) if [each.index for each in chosen] == [spec.index] else str(spec.index)


def _literal(text: str) -> str:
    """Return a text as Python that stays whole where lines are wrapped at blanks."""
    quoted = repr(text) if set(text) & set("\"'\\") else f'"{repr(text)[1:-1]}"'
    return quoted.replace(" ", "\\x20")


def _has_carriers(trap: Trap) -> bool:
    """Tell whether there are weights to name: they need not carry most of a trap, but must stick out."""
    is_carried = bool(trap.carriers) and trap.carried_share >= MIN_SHARE
    return trap.cause != "offset" and (is_carried or trap.is_carried_by_few)


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
