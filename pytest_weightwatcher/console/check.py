"""``ww-gate check``: the verdicts of ``pytest --ww-model`` without pytest, from the same functions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_weightwatcher.config import Config, load_config
from pytest_weightwatcher.errors import GateError
from pytest_weightwatcher.gate import Check, Gate, layer_checks, model_checks
from pytest_weightwatcher.nodeids import escape_name
from pytest_weightwatcher.options import CONFIG_NAME
from pytest_weightwatcher.planning import Wish, plan_models
from pytest_weightwatcher.report import render
from pytest_weightwatcher.report.ranking import findings_of
from pytest_weightwatcher.report.result import ResultBuilder
from pytest_weightwatcher.report.terminal import escape_text
from spectral.loaders.locations import as_text

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping
    from typing import Any

    from pytest_weightwatcher.planning import CheckedModel

    Result = Mapping[str, Any]

FAILED, NOTHING_CHECKED = 1, 5
"""Exit codes, those of the plugin: a check failed, and nothing was checked."""


def check_models(arguments: argparse.Namespace) -> tuple[str, int]:
    """Carry out ``check``: return the report and the exit code.

    Raises
    ------
    ConfigError, BaselineError, ModelError
        The input cannot be used.
    """
    path = Path(os.path.abspath(arguments.config or CONFIG_NAME))
    config = Config() if arguments.config is None and not os.path.lexists(path) else load_config(path)
    wish = Wish(
        patterns=tuple(arguments.models),
        folder=Path.cwd(),
        baseline=None if arguments.baseline is None else as_text(arguments.baseline, Path.cwd()),
        profile=arguments.profile,
        seed=None if arguments.seed is None else int(arguments.seed),
    )
    models = plan_models(config, wish, path.parent)
    if not models:
        raise GateError("no models to check: name one, or give models: in ww.yaml")
    fail_on = arguments.fail_on or config.policy.fail_on or "fail"
    result = _judge(models, path, n_jobs=arguments.jobs, fail_on=fail_on, seed=wish.seed)
    text = _as_text(result) if arguments.format == "text" else render(arguments.format, result)
    return text, _exit_code(result, fail_on)


def _judge(
    models: tuple[CheckedModel, ...], config_path: Path, *, n_jobs: int | None, fail_on: str, seed: int | None
) -> Result:
    """Return the result that a run of pytest would write."""
    results = ResultBuilder()
    gate = Gate(n_jobs=n_jobs)
    try:
        for model in models:
            results.add_model(model)
            for check in _checks(model):
                gate.submit(check)
        for model in models:
            sent: set[str] = set()
            for check in _checks(model):
                judgement = gate.judge(check)
                payload = results.check_payload(check, judgement, _node_id(check, config_path))
                payload["config"] = str(config_path)
                if check.spec is not None and str(judgement.verdict) != "error" and check.spec.name not in sent:
                    sent.add(check.spec.name)
                    layer = results.layer_payload(
                        gate.record(model, check.spec),
                        check.spec,
                        is_reused=gate.is_reused(model, check.spec),
                        baseline_name=gate.partner(model, check.spec),
                        before=gate.before(model, check.spec),
                        n_traps=gate.n_traps(model, check.spec),
                    )
                    payload["layer_record"] = {"layer": layer, "recorded": None}
                results.receive(payload)
    finally:
        gate.close()
    return results.build(fail_on=fail_on, seed=seed)


def _checks(model: CheckedModel) -> Iterator[Check]:
    yield from model_checks(model)
    for spec in model.description.matrices:
        yield from layer_checks(model, spec)


def _node_id(check: Check, config_path: Path) -> str:
    """Return the id that pytest would give the check."""
    names = [check.model.name] if check.spec is None else [check.model.name, check.spec.name]
    return "::".join([config_path.name, *map(escape_name, names), check.name])


def _as_text(result: Result) -> str:
    lines = []
    for model in result["models"]:
        baseline = "no baseline"
        if model["baseline"] is not None:
            baseline = f"against {model['baseline']}, profile {model['profile']}: {model['question']}"
        lines.append(escape_text(f"{model['path']}: {len(model['layers'])} matrices, {baseline}"))
        lines += [escape_text(f"note: {note}") for note in model["notes"]]
        for check in findings_of(model):
            where = "(model)" if check["layer"] is None else check["layer"]
            lines.append(escape_text(f"  {check['verdict'].upper():5} {where} {check['check']}: {check['detail']}"))
    counts = ", ".join(f"{count} {verdict}" for verdict, count in result["counts"].items() if count)
    return "\n".join([*lines, f"outcome: {result['outcome']} ({counts or 'nothing was checked'})", ""])


def _exit_code(result: Result, fail_on: str) -> int:
    counts = result["counts"]
    if fail_on != "never" and (counts["fail"] or counts["error"] or (fail_on == "warn" and counts["warn"])):
        return FAILED
    return NOTHING_CHECKED if result["outcome"] == "inconclusive" else 0
