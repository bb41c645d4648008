"""Record what is accepted: one checkpoint, or several that teach how far accepted ones lie apart."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_weightwatcher.baseline import (
    Baseline,
    BaselineEntry,
    entry_payload,
    environment_payload,
    options_payload,
    read_entry,
    sealed,
    write_baseline,
)
from pytest_weightwatcher.baseline_source import numbers_of
from pytest_weightwatcher.checks import CORRELATION_TRAPS, NOISE, PAIRED_QUANTITIES, RegressionRule, Rule
from pytest_weightwatcher.comparison import Change, deviations
from pytest_weightwatcher.errors import BaselineError
from pytest_weightwatcher.gate import layer_checks
from pytest_weightwatcher.records import rounded
from pytest_weightwatcher.report.result import tool_payload
from pytest_weightwatcher.tensors import read_tensor
from pytest_weightwatcher.verdict import Verdict, judge_change, judge_metric
from spectral import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_weightwatcher.gate import Check, Gate
    from pytest_weightwatcher.planning import CheckedModel, Recording
    from pytest_weightwatcher.records import LayerRecord
    from pytest_weightwatcher.report.result import ResultBuilder
    from pytest_weightwatcher.tensors import TensorRecord
    from pytest_weightwatcher.verdict import Judgement
    from spectral.weights import MatrixSpec

_SPREAD_DIGITS = 3
_AS_A_WHOLE = "record it as a whole (without -k, -m, --lf and node ids)"


def entry_to_record(gate: Gate, model: CheckedModel, spec: MatrixSpec) -> BaselineEntry | None:
    """Return what is to be recorded of a layer; None where the file is to stay as it is, or there is no spectrum."""
    assert model.recording is not None, "only models to be recorded are asked about"
    mode = model.recording.mode
    record = gate.record(model, spec)
    if record.is_without_spectrum:
        return None
    if mode == "all" or model.baseline is None:
        return BaselineEntry(record=record)
    partner = gate.partner(model, spec)
    if partner is None:
        return BaselineEntry(record=record)
    if mode == "new_only" or partner != spec.name:
        return None
    return _ratcheted(gate, model, spec, record)


def _ratcheted(gate: Gate, model: CheckedModel, spec: MatrixSpec, record: LayerRecord) -> BaselineEntry | None:
    """Return the new entry of a layer that is no worse than its old one; None where it is."""
    assert model.baseline is not None, "the caller has seen to that"
    assert model.baseline.recorded is not None, "what is recorded over is a file"
    before = model.baseline.recorded.entries[spec.name]
    path = _Path(before=before, moved=dict(before.moved), origin=dict(before.origin))
    for check in layer_checks(model, spec):
        judgement = gate.judge(check)
        if not _is_no_worse(check, judgement, before.record, model):
            return None
        if isinstance(check.rule, RegressionRule) and not path.goes_on(check.rule, judgement):
            return None
    if not path.keeps_traps(record, model.profile.trap_news.growth):
        return None
    return BaselineEntry(record=record, spread=before.spread, moved=path.moved, origin=path.origin)


@dataclass
class _Path:
    """How far a layer has come since it was first recorded: small steps add up, and stay within what one may be."""

    before: BaselineEntry
    moved: dict[str, float]
    origin: dict[str, float]

    def goes_on(self, rule: RegressionRule, judgement: Judgement) -> bool:
        """Take one step; tell whether all of them together are one that passes."""
        name = rule.quantity
        if judgement.value is None or judgement.baseline is None or name in (CORRELATION_TRAPS, NOISE):
            return True
        if name not in PAIRED_QUANTITIES:
            origin = self.origin.get(name, judgement.baseline)
            if origin != judgement.value:
                self.origin[name] = origin
            return not judge_change(rule, Change(value=judgement.value, reference=origin)).is_finding
        # Distances of steps add up to no less than the distance in all (triangle inequality).
        total = self.moved.get(name, 0.0) + _signed_share(judgement)
        if total:
            self.moved[name] = rounded(total, _SPREAD_DIGITS)
        return abs(total) <= (rule.warn_at or 1.0)

    def keeps_traps(self, record: LayerRecord, growth: float) -> bool:
        """Tell whether the largest eigenvalue of the permuted matrix is still that of the first recording."""
        now, then = _trap_share(record), _trap_share(self.before.record)
        origin = self.origin.get(CORRELATION_TRAPS, then)
        if now is None or origin is None:
            return True
        if now != origin:
            self.origin[CORRELATION_TRAPS] = origin
        return now <= growth * origin


def _trap_share(record: LayerRecord) -> float | None:
    if record.traps is None or not record.traps.eigenvalues:
        return None
    return rounded(record.traps.eigenvalues[0] / record.norm)


def _is_no_worse(check: Check, judgement: Judgement, before: LayerRecord, model: CheckedModel) -> bool:
    """Tell whether a check has no finding, or one that the old entry had as badly."""
    # What is waived for a time is not accepted for good.
    if not judgement.is_finding and judgement.verdict is not Verdict.WAIVED:
        return True
    if not isinstance(check.rule, Rule):
        return check.rule is None
    if check.name in model.config.extensions.checks or check.rule.check not in before.metrics:
        # No number that could be compared with that of the entry: a plugin's own, traps, noise.
        return False
    was = judge_metric(before, check.rule)
    return was.is_finding and _distance(judgement.value, check.rule) <= _distance(was.value, check.rule)


def _signed_share(judgement: Judgement) -> float:
    share = judgement.share or 0.0
    is_lower = judgement.value is not None and judgement.baseline is not None and judgement.value < judgement.baseline
    return -share if is_lower else share


def _distance(value: float | None, rule: Any) -> float:
    if value is None:
        return math.inf
    below = 0.0 if rule.minimum is None else rule.minimum - value
    above = 0.0 if rule.maximum is None else value - rule.maximum
    return max(0.0, below, above)


def recorded_payload(entry: BaselineEntry) -> dict[str, Any]:
    """Return what a baseline keeps of a layer, and its eigenvalues, as plain data that any process can send."""
    evals = entry.record.evals
    return {"entry": sealed(entry_payload(entry)), "evals": [] if evals is None else evals.tolist()}


def record_models(models: Sequence[CheckedModel], results: ResultBuilder, *, is_filtered: bool) -> str:
    """Record the models that share a baseline, the first as the reference, and return what was done.

    Raises
    ------
    BaselineError
        Nothing was recorded; the message says why.
    """
    recording = models[0].recording
    assert recording is not None, "the caller chose models to be recorded"
    for model in models:
        unsound = results.unsound_layers(model)
        if unsound:
            raise BaselineError(
                f"{recording.path}: not recorded: {unsound[0]} of {model.name} fails its integrity check"
            )
        failed = results.failed_metrics(model)
        if failed:
            raise BaselineError(f"{recording.path}: not recorded: {failed[0]}")
    per_model = [_entries(results.recorded_of(model), model) for model in models]
    reference = per_model[0]
    for model, found in zip(models[1:], per_model[1:], strict=True):
        missing = sorted(reference.keys() ^ found.keys())
        if missing:
            raise BaselineError(
                f"{recording.path}: not recorded: {missing[0]} was not analysed in all of the accepted checkpoints "
                f"({model.name} among them)"
            )
    others = per_model[1:]
    entries = {
        name: replace(entry, spread=_spread(entry.record, [each[name].record for each in others])) if others else entry
        for name, entry in reference.items()
    }
    baseline = recorded_baseline(recording, models, entries, is_filtered=is_filtered)
    baseline = replace(baseline, tensors=_tensors(recording, models[0], results, is_filtered=is_filtered))
    is_new = write_baseline(recording.path, baseline, tool_payload())
    text = f"{len(entries)} of {len(baseline.entries)} matrices recorded"
    if len(models) > 1:
        text += f" from {models[0].name}, their spread learned from {len(models)} checkpoints"
    if recording.mode == "ratchet":
        text += "; ratchet: layers that are worse than before, or moved as far as they may, keep their entries"
    n_lost = _n_lost_spreads(recording, baseline)
    if n_lost:
        text += f"; the spread of {n_lost} matrices, learned from several checkpoints, is gone: record those again"
    return text if is_new else f"{text}, nothing changed"


def recorded_baseline(
    recording: Recording, models: Sequence[CheckedModel], entries: Mapping[str, BaselineEntry], *, is_filtered: bool
) -> Baseline:
    """Return what to record: the new entries over those that the run did not reach or was not to change.

    Parameters
    ----------
    recording : Recording
        Where, and what was there.
    models : sequence of CheckedModel
        The accepted checkpoints, the recorded one first.
    entries : mapping of str to BaselineEntry
        Of the recorded one.
    is_filtered : bool
        The user chose some items.

    Raises
    ------
    BaselineError
        Layers are missing, and neither a filter of the user nor an older recording accounts for them.
    """
    model = models[0]
    names = {spec.name for spec in model.description.matrices}
    before: Mapping[str, BaselineEntry] = {} if recording.before is None else recording.before.entries
    kept: Mapping[str, BaselineEntry] = before if recording.mode != "all" else {}
    missing = sorted(names - entries.keys())
    if is_filtered:
        # Whatever the filter reached: what it did not is not known to be gone.
        kept = before
    if missing and recording.mode == "all":
        if not is_filtered:
            raise BaselineError(f"{recording.path}: not recorded: the run ended before {missing[0]} was analysed")
        unknown = [name for name in missing if name not in kept]
        if unknown:
            raise BaselineError(
                f"{recording.path}: not recorded: a filtered run can only change a recording, and there is none of "
                f"{unknown[0]}"
            )
    if kept and recording.before is not None and recording.before.version != __version__:
        raise BaselineError(
            f"{recording.path}: not recorded: the entries that stay were made by version "
            f"{recording.before.version[:60]}; {_AS_A_WHOLE}"
        )
    options = options_payload(model.description.options, model.config.extensions.versions)
    if kept and recording.before is not None and numbers_of(recording.before.options) != numbers_of(options):
        raise BaselineError(
            f"{recording.path}: not recorded: the entries that stay were made with other options; {_AS_A_WHOLE}"
        )
    return Baseline(
        label=str(recording.path),
        version=__version__,
        options=options,
        environment=environment_payload(),
        checkpoints=_checkpoints(recording, models, is_partial=bool(kept)),
        entries={**kept, **entries},
        digest=None if recording.before is None else recording.before.digest,
    )


def _tensors(
    recording: Recording, model: CheckedModel, results: ResultBuilder, *, is_filtered: bool
) -> Mapping[str, TensorRecord] | None:
    """Return the tensors without a spectrum to record; a ratchet never moves those that it has."""

    def refuse(problem: str) -> BaselineError:
        return BaselineError(f"{recording.path}: not recorded: {problem}")

    before = None if recording.before is None else recording.before.tensors
    reported = results.recorded_tensors_of(model)
    if reported is None:
        return before
    now = {name: read_tensor(f"{name} of {model.name}", payload, refuse) for name, payload in reported.items()}
    now = {name: replace(record, name=name) for name, record in now.items()}
    if recording.mode != "all":
        return {**now, **(before or {})}
    # A filtered run does not know that what it lacks is gone.
    return {**(before or {}), **now} if is_filtered else now


def _checkpoints(recording: Recording, models: Sequence[CheckedModel], *, is_partial: bool) -> tuple[str, ...]:
    """Return where the entries come from: those that stay have the checkpoints they had."""
    before = recording.before.checkpoints if is_partial and recording.before is not None else ()
    return tuple(dict.fromkeys((*before, *(model.name for model in models))))


def _n_lost_spreads(recording: Recording, baseline: Baseline) -> int:
    before = {} if recording.before is None else recording.before.entries
    return sum(
        bool(entry.spread) and not baseline.entries[name].spread
        for name, entry in before.items()
        if name in baseline.entries
    )


def _entries(recorded: Mapping[str, Mapping[str, Any]], model: CheckedModel) -> dict[str, BaselineEntry]:
    found = {}
    for name, payload in recorded.items():
        entry = read_entry(model.path, name, payload["entry"])
        evals = np.array(payload["evals"]) if payload["evals"] else None
        found[name] = replace(entry, record=replace(entry.record, evals=evals))
    return found


def _spread(reference: LayerRecord, others: Sequence[LayerRecord]) -> Mapping[str, float]:
    """Return the root mean square deviation of other accepted checkpoints from the recorded one, by quantity."""
    if not others:
        return MappingProxyType({})
    found = [deviations(other, reference) for other in others]
    common = [name for name in found[0] if all(name in each for each in found)]
    return MappingProxyType(
        {
            name: rounded(math.sqrt(math.fsum(each[name] ** 2 for each in found) / len(found)), _SPREAD_DIGITS)
            for name in common
        }
    )
