"""The one result of a run, built from what the items report; plain data, ready for JSON."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pytest_weightwatcher.baseline import options_payload
from pytest_weightwatcher.checks import INTEGRITY, RegressionRule
from pytest_weightwatcher.gate import layer_checks, model_checks
from pytest_weightwatcher.policy import is_covered
from pytest_weightwatcher.report.spectra import spectrum_payload
from pytest_weightwatcher.report.totals import count_verdicts, outcome_of
from pytest_weightwatcher.verdict import Judgement, Verdict
from spectral import __version__
from spectral.metrics import summarise

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_weightwatcher.checks import Rule
    from pytest_weightwatcher.gate import Check
    from pytest_weightwatcher.planning import CheckedModel
    from pytest_weightwatcher.records import LayerRecord
    from spectral.weights import MatrixSpec

RESULT_FORMAT = 1
_MODEL_LEVEL = -1


class ResultBuilder:
    """Collects what items report, in any order and from any process, into one ordered result."""

    def __init__(self) -> None:
        self._models: dict[str, list[CheckedModel]] = {}
        self._checks: dict[tuple[str, str], dict[str, Any]] = {}
        self._lost: list[str] = []
        self._layers: dict[tuple[str, str], dict[str, Any]] = {}

    def add_model(self, model: CheckedModel) -> None:
        """Announce a model; its order is the order of the result. One that two ww.yaml name is announced twice."""
        self._models.setdefault(str(model.path), []).append(model)

    def check_payload(self, check: Check, judgement: Judgement, stable_id: str) -> dict[str, Any]:
        """Return what one item reports, as plain data."""
        return {
            "model": str(check.model.path),
            "layer_index": check.spec.index if check.spec is not None else _MODEL_LEVEL,
            "check": {
                "id": stable_id,
                "layer": check.spec.name if check.spec is not None else None,
                "check": judgement.check,
                "verdict": str(judgement.verdict),
                "value": _number(judgement.value),
                "limit": {name: _number(value) for name, value in judgement.limit.items()} if judgement.limit else None,
                "baseline": _number(judgement.baseline),
                "detail": judgement.text,
                "resolution": judgement.resolution or None,
                "meaning": judgement.meaning if judgement.is_finding else None,
                "action": judgement.action if judgement.is_finding else None,
                "line": check.line,
                "rule": _rule_payload(check.rule),
                **_plugin_payload(check),
            },
        }

    def layer_payload(
        self,
        record: LayerRecord,
        spec: MatrixSpec,
        *,
        is_reused: bool,
        baseline_name: str | None,
        before: LayerRecord | None = None,
        n_traps: int = 0,
    ) -> dict[str, Any]:
        """Return what a report says of one layer, as plain data; ``before`` is that of the baseline."""
        return {
            **_spec_payload(spec),
            "hash": record.content_hash,
            "reused": is_reused,
            "baseline_name": baseline_name,
            "unchanged": None if before is None else before.content_hash == record.content_hash,
            "metrics": {name: _number(value) for name, value in record.metrics.items()},
            "reason": record.reason,
            "spectrum": spectrum_payload(record, spec, before, n_traps),
        }

    def receive(self, payload: dict[str, Any]) -> None:
        """Take what an item reported."""
        check = payload["check"]
        self._checks[payload["config"], check["id"]] = payload
        record = payload.get("layer_record")
        if record is not None:
            self._layers[payload["model"], record["layer"]["name"]] = record

    def recorded_of(self, model: CheckedModel) -> dict[str, dict[str, Any]]:
        """Return what the items of a model reported for its baseline."""
        return {
            name: record["recorded"]
            for (path, name), record in self._layers.items()
            if path == str(model.path) and record["recorded"] is not None
        }

    def recorded_tensors_of(self, model: CheckedModel) -> dict[str, Any] | None:
        """Return what was reported for the baseline of the tensors that are no layers; None where it was not."""
        found = [
            payload["tensors"]
            for payload in self._checks.values()
            if payload["model"] == str(model.path) and "tensors" in payload
        ]
        return found[0] if found else None

    def failed_metrics(self, model: CheckedModel) -> list[str]:
        """Return the metrics of plugins that could not be computed, with layer and reason."""
        return [
            problem
            for (path, _), record in sorted(self._layers.items())
            if path == str(model.path)
            for problem in record["failed_metrics"]
        ]

    def unsound_layers(self, model: CheckedModel) -> list[str]:
        """Return the layers of a model, or the model itself, whose integrity did not pass: nothing to record."""
        return [
            payload["check"]["layer"] or "the model as a whole"
            for payload in self._checks.values()
            if payload["model"] == str(model.path)
            and payload["check"]["check"] == INTEGRITY
            and payload["check"]["verdict"] != str(Verdict.PASS)
        ]

    def lose(self, node_id: str) -> None:
        """Note an item that failed without a verdict."""
        self._lost.append(node_id)

    @property
    def n_lost(self) -> int:
        """Number of items that failed without a verdict."""
        return len(self._lost)

    @property
    def n_checks(self) -> int:
        """Number of checks that reported."""
        return len(self._checks)

    def build(self, *, fail_on: str, seed: int | None) -> dict[str, Any]:
        """Return the result: format, tool, outcome, counts, options and models with layers and checks."""
        models = [self._model_payload(path, same) for path, same in self._models.items()]
        counts = count_verdicts(models, self._lost)
        return {
            "format": RESULT_FORMAT,
            "tool": tool_payload(),
            "outcome": outcome_of(counts),
            "counts": counts,
            "options": {"fail_on": fail_on, "seed": seed},
            "n_planned": sum(model["n_planned"] for model in models),
            "n_reported": len(self._checks),
            "lost": sorted(self._lost),
            "models": models,
        }

    @staticmethod
    def _n_planned(model: CheckedModel) -> int:
        n_layer_checks = sum(len(layer_checks(model, spec)) for spec in model.description.matrices)
        return len(model_checks(model)) + n_layer_checks

    def _model_payload(self, path: str, same: Sequence[CheckedModel]) -> dict[str, Any]:
        model = same[0]
        description = model.description
        order = {spec.name: spec.index for spec in description.matrices}
        layers = [
            record["layer"]
            for (owner, name), record in sorted(self._layers.items(), key=lambda item: order.get(item[0][1], 0))
            if owner == path
        ]
        reports = [payload for payload in self._checks.values() if payload["model"] == path]
        # Items run in any order over the workers; within a layer the id keeps them apart.
        reports.sort(key=lambda payload: (payload["layer_index"], payload["check"]["id"]))
        min_evals = description.options.min_evals
        return {
            "path": _shown_path(model.path, model.folder),
            "config": None if model.config.path is None else model.config.path.name,
            "line": model.line,
            "baseline": model.baseline.path.name if model.baseline is not None else None,
            "baseline_path": None if model.baseline is None else _shown_path(model.baseline.path, model.folder),
            "profile": model.profile.name if model.baseline is not None else None,
            "question": model.profile.question if model.baseline is not None else None,
            "n_planned": sum(map(self._n_planned, same)),
            "n_reused": sum(layer["reused"] for layer in layers),
            "notes": list(model.notes),
            "waivers": self._waivers_payload(path, model),
            "coverage": description.coverage,
            "options": options_payload(description.options, model.config.extensions.versions),
            "summary": summarise(
                layer["metrics"] for layer in layers if layer["metrics"].get("num_evals", 0) >= min_evals
            ),
            "layers": layers,
            "unanalysed": [
                {"name": tensor.name, "shape": list(tensor.shape), "dtype": tensor.dtype, "reason": tensor.reason}
                for tensor in description.unanalysed
            ],
            "checks": [payload["check"] for payload in reports],
        }

    def _waivers_payload(self, path: str, model: CheckedModel) -> list[dict[str, Any]]:
        """Return every waiver, with the checks it was used for."""
        waived = [
            payload["check"]
            for payload in self._checks.values()
            if payload["model"] == path and payload["check"]["verdict"] == str(Verdict.WAIVED)
        ]
        return [
            {
                "match": waiver.match,
                "check": waiver.check,
                "reason": waiver.reason,
                "owner": waiver.owner,
                "expires": waiver.expires.isoformat(),
                "n_used": sum(is_covered(waiver, check["check"], check["layer"]) for check in waived),
            }
            for waiver in model.config.waivers
        ]


def _rule_payload(rule: Rule | RegressionRule | None) -> dict[str, Any] | None:
    """Return what a rule against the baseline allows; an absolute one is told by its limit."""
    if not isinstance(rule, RegressionRule):
        return None
    return {name: value for name, value in asdict(rule).items() if name not in ("quantity", "line")}


def _plugin_payload(check: Check) -> dict[str, str]:
    """Return whose check it is, where a plugin judges."""
    plugin = check.model.config.extensions.checks.get(check.name)
    return {} if plugin is None else {"plugin": plugin.plugin}


def tool_payload() -> dict[str, str]:
    """Return name and version of this tool."""
    return {"name": "pytest-weightwatcher", "version": __version__}


def _spec_payload(spec: MatrixSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "type": spec.layer_type.value,
        "shape": list(spec.shape),
        "dtype": spec.dtype,
        "N": spec.N,
        "M": spec.M,
        "rf": spec.rf,
        "index": spec.index,
    }


def _shown_path(path: Path, folder: Path) -> str:
    """Return a path relative to the folder of ww.yaml, or whole where it lies elsewhere."""
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.as_posix()


def _number(value: float | None) -> float | int | None:
    """Numbers that do not exist are null: JSON has no NaN."""
    return value if value is not None and math.isfinite(value) else None
