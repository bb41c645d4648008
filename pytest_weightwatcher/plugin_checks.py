"""How checks and metrics of plugins get their judgements: their own code decides, and never by failing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_weightwatcher.meanings import Meaning
from pytest_weightwatcher.nodeids import printable
from pytest_weightwatcher.plugins import Finding
from pytest_weightwatcher.verdict import Judgement, Verdict

if TYPE_CHECKING:
    from pytest_weightwatcher.checks import Rule
    from pytest_weightwatcher.extensions import PluginCheck
    from pytest_weightwatcher.records import LayerRecord

FAILED = Meaning(
    below="",
    above="The plugin's own code failed, so that nothing is known of this layer here, good or bad.",
    action="See the message; report it to the authors of the plugin, or leave its check out of ww.yaml.",
)


def judge_by_plugin(plugin: PluginCheck, record: LayerRecord, reference: LayerRecord | None, rule: Rule) -> Judgement:
    """Let a plugin judge a layer.

    Parameters
    ----------
    plugin : PluginCheck
        Whose check it is.
    record : LayerRecord
        The layer.
    reference : LayerRecord or None
        That of its baseline.
    rule : Rule
        Whose severity "warn" makes failures warnings.
    """
    name, severity = plugin.check.name, Verdict.WARN if rule.severity == "warn" else Verdict.FAIL
    if record.is_without_spectrum:
        return Judgement(check=name, verdict=severity, detail=f"no {name}: {record.damage}")
    what = f"check {name!r} of plugin {plugin.plugin}"
    try:
        found: object = plugin.check.function(plain(record), None if reference is None else plain(reference))
    except Exception as error:
        return metric_error(name, f"{what} failed: {type(error).__name__}: {printable(str(error)[:300])}")
    if not isinstance(found, Finding):
        return metric_error(name, f"{what} gave a {type(found).__name__}, expected a Finding")
    verdict = Verdict(found.verdict)
    return Judgement(
        check=name,
        verdict=severity if verdict is Verdict.FAIL else verdict,
        value=found.value,
        limit=None if found.limit is None else dict(found.limit),
        # A line break and ::error:: would be a command to a CI service.
        detail=printable(found.detail),
        resolution=f"judged by the plugin {plugin.plugin}",
        told=_meaning_of(plugin),
    )


def metric_error(check: str, detail: str) -> Judgement:
    """Return the judgement where the code of a plugin failed."""
    return Judgement(check=check, verdict=Verdict.ERROR, detail=detail, told=FAILED)


def find_problem(metric: str, record: LayerRecord) -> str | None:
    """Return why a layer lacks a metric of a plugin that it should have; None where all is well."""
    if metric in record.failed_metrics:
        return record.reasons[metric]
    is_known = metric in record.metrics or metric in record.reasons or record.is_without_spectrum
    return None if is_known else f"the metric {metric!r} of a plugin was not computed for this layer"


def plain(record: LayerRecord) -> LayerRecord:
    """Return what is the same of a layer, whether it was computed now or read from a baseline."""
    traps = None if record.traps is None else replace(record.traps, outside=())
    return replace(record, evals=None, traps=traps)


def _meaning_of(plugin: PluginCheck) -> Meaning:
    return Meaning(
        below="",
        above=plugin.check.meaning or f"The plugin {plugin.plugin} says no more than this.",
        action=plugin.check.action or f"See the documentation of the plugin {plugin.plugin}.",
    )
