"""Record what is accepted: one checkpoint, or several that teach how far accepted ones lie apart."""

from __future__ import annotations

import math
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
from pytest_weightwatcher.comparison import deviations
from pytest_weightwatcher.errors import BaselineError
from pytest_weightwatcher.records import LayerRecord, rounded
from pytest_weightwatcher.report.result import tool_payload
from spectral import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_weightwatcher.gate import Gate
    from pytest_weightwatcher.planning import CheckedModel, Recording
    from pytest_weightwatcher.report.result import ResultBuilder
    from spectral.weights import MatrixSpec

_SPREAD_DIGITS = 3


def is_to_be_recorded(gate: Gate, model: CheckedModel, spec: MatrixSpec) -> bool:
    """Tell whether a layer is to be recorded: always, where it is new, or where it is no worse than what is there."""
    assert model.recording is not None, "only models to be recorded are asked about"
    mode = model.recording.mode
    if mode == "all" or model.baseline is None:
        return True
    partner = gate.partner(model, spec)
    if mode == "new_only":
        return partner is None
    return partner is None or (partner == spec.name and _is_no_worse(gate, model, spec))


def _is_no_worse(gate: Gate, model: CheckedModel, spec: MatrixSpec) -> bool:
    """Tell whether a layer passes all its checks against the baseline, and has no finding that its entry had not."""
    from pytest_weightwatcher.checks import RegressionRule, Rule
    from pytest_weightwatcher.gate import layer_checks
    from pytest_weightwatcher.verdict import judge_metric

    assert model.baseline is not None, "the caller has seen to that"
    assert model.baseline.recorded is not None, "what is recorded over is a file"
    before = model.baseline.recorded.entries[spec.name].record
    for check in layer_checks(model, spec):
        judgement = gate.judge(check)
        if check.name in model.config.extensions.checks and judgement.is_finding:
            # A plugin need not give numbers that could be compared with those of the entry.
            return False
        if isinstance(check.rule, RegressionRule) and judgement.is_finding:
            return False
        if isinstance(check.rule, Rule) and judgement.is_finding and check.rule.check in before.metrics:
            was = judge_metric(before, check.rule)
            if not was.is_finding or _distance(judgement.value, check.rule) > _distance(was.value, check.rule):
                return False
    return True


def _distance(value: float | None, rule: Any) -> float:
    if value is None:
        return math.inf
    below = 0.0 if rule.minimum is None else rule.minimum - value
    above = 0.0 if rule.maximum is None else value - rule.maximum
    return max(0.0, below, above)


def recorded_payload(record: LayerRecord) -> dict[str, Any] | None:
    """Return what a baseline keeps of a layer, and its eigenvalues, as plain data that any process can send."""
    if record.is_without_spectrum:
        return None
    return {
        "entry": sealed(entry_payload(BaselineEntry(record=record))),
        "evals": [] if record.evals is None else record.evals.tolist(),
    }


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
    per_model = [_records(results.recorded_of(model), model) for model in models]
    reference = per_model[0]
    for model, records in zip(models[1:], per_model[1:], strict=True):
        missing = sorted(reference.keys() ^ records.keys())
        if missing:
            raise BaselineError(
                f"{recording.path}: not recorded: {missing[0]} was not analysed in all of the accepted checkpoints "
                f"({model.name} among them)"
            )
    entries = {
        name: BaselineEntry(record=record, spread=_spread(record, [records[name] for records in per_model[1:]]))
        for name, record in reference.items()
    }
    baseline = recorded_baseline(recording, models, entries, is_filtered=is_filtered)
    is_new = write_baseline(recording.path, baseline, tool_payload())
    text = f"{len(entries)} of {len(baseline.entries)} matrices recorded"
    if len(models) > 1:
        text += f" from {models[0].name}, their spread learned from {len(models)} checkpoints"
    if recording.mode == "ratchet":
        text += "; ratchet: layers that are worse than before keep their entries"
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
    if missing and recording.mode == "all":
        if not is_filtered:
            raise BaselineError(f"{recording.path}: not recorded: the run ended before {missing[0]} was analysed")
        kept = before
        unknown = [name for name in missing if name not in kept]
        if unknown:
            raise BaselineError(
                f"{recording.path}: not recorded: a filtered run can only change a recording, and there is none of "
                f"{unknown[0]}"
            )
    if kept and recording.before is not None and recording.before.version != __version__:
        raise BaselineError(
            f"{recording.path}: not recorded: the entries that stay were made by version "
            f"{recording.before.version[:60]}; record it as a whole"
        )
    options = options_payload(model.description.options, model.config.extensions.versions)
    if kept and recording.before is not None and numbers_of(recording.before.options) != numbers_of(options):
        raise BaselineError(
            f"{recording.path}: not recorded: the entries that stay were made with other options; record it as a whole"
        )
    return Baseline(
        label=str(recording.path),
        version=__version__,
        options=options,
        environment=environment_payload(),
        checkpoints=tuple(model.name for model in models),
        entries={**kept, **entries},
        digest=None if recording.before is None else recording.before.digest,
    )


def _records(recorded: Mapping[str, Mapping[str, Any]], model: CheckedModel) -> dict[str, LayerRecord]:
    from dataclasses import replace

    found = {}
    for name, payload in recorded.items():
        record = read_entry(model.path, name, payload["entry"]).record
        evals = np.array(payload["evals"]) if payload["evals"] else None
        found[name] = replace(record, evals=evals)
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
