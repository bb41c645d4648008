"""``ww-gate init``: a first ww.yaml, fitted to a checkpoint by asking the gate itself what it would say of it."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_weightwatcher.checks import ALPHA, CORRELATION_TRAPS, COVERAGE, INTEGRITY, NOISE
from pytest_weightwatcher.config import AnalysisSection, Config, load_config
from pytest_weightwatcher.console.rows import counted
from pytest_weightwatcher.errors import ReportError
from pytest_weightwatcher.files import write_atomically
from pytest_weightwatcher.gate import Gate, layer_checks, model_checks
from pytest_weightwatcher.limits import layer_rules, model_rules
from pytest_weightwatcher.nodeids import printable
from pytest_weightwatcher.options import CONFIG_NAME
from pytest_weightwatcher.planning import gate_options, plan_model
from pytest_weightwatcher.starter import ALPHA_RANGE, Measured, Outside, is_widened, write_starter
from pytest_weightwatcher.verdict import Verdict
from pytest_weightwatcher.yaml_text import pattern_of
from spectral import __version__
from spectral.analysis import describe
from spectral.errors import ModelError
from spectral.loaders.locations import as_location, is_place_elsewhere

if TYPE_CHECKING:
    import argparse

    from pytest_weightwatcher.console.progress import ProgressLine
    from pytest_weightwatcher.gate import Check
    from pytest_weightwatcher.planning import CheckedModel
    from pytest_weightwatcher.verdict import Judgement

_MAX_NAME = 200


def init_config(arguments: argparse.Namespace, line: ProgressLine) -> str:
    """Carry out ``init``, and return what was done.

    Raises
    ------
    ReportError
        There is a file already, or it cannot be written.
    ModelError
        The model cannot be read, or is damaged: there is nothing to fit limits to.
    """
    target = Path(arguments.output)
    _check_free(target, force=arguments.force)
    config = Config(analysis=AnalysisSection(exclude=tuple(arguments.exclude)))
    model = _plan(arguments.model, config, target)
    gate = Gate(n_jobs=arguments.jobs)
    try:
        judged = _judge(gate, model, line)
        _check_sound(arguments.model, judged)
        measured = _measured(arguments, model, judged, gate, target)
        text = write_starter(measured)
        _check_passes(text, gate, judged)
    finally:
        gate.close()
    # Somebody may have made one in the meantime.
    _check_free(target, force=arguments.force)
    try:
        write_atomically(target, text)
    except OSError as error:
        raise ReportError(f"{target}: cannot be written: {error.strerror or error}") from error
    return _said(target, measured)


def _check_free(target: Path, *, force: bool) -> None:
    if os.path.lexists(target) and not force:
        raise ReportError(f"{target}: exists already; --force writes over it")


def _plan(path: str, config: Config, target: Path) -> CheckedModel:
    description = describe(path, gate_options(config))
    if not description.matrices:
        raise ModelError(f"{path}: holds no weight matrix to check; ww-gate describe tells why")
    return plan_model(description, config, name=Path(path).name, path=as_location(path), folder=target.parent)


def _judge(gate: Gate, model: CheckedModel, line: ProgressLine) -> list[tuple[Check, Judgement]]:
    """Return what the gate says of the model with its built-in limits."""
    specs = model.description.matrices
    for spec in specs:
        for check in layer_checks(model, spec):
            gate.submit(check)
    line.begin(model.name, len(specs))
    for place, spec in enumerate(specs):
        gate.record(model, spec)
        line(place + 1, len(specs), spec.name)
    checks = [*model_checks(model), *(check for spec in specs for check in layer_checks(model, spec))]
    return [(check, gate.judge(check)) for check in checks]


def _check_sound(path: str, judged: list[tuple[Check, Judgement]]) -> None:
    for check, judgement in judged:
        where = f"layer {check.spec.name[:_MAX_NAME]!r}" if check.spec is not None else "the model as a whole"
        if judgement.verdict is Verdict.ERROR or (check.name == INTEGRITY and judgement.verdict is not Verdict.PASS):
            raise ModelError(
                f"{path}: {where}: {judgement.detail}; limits are fitted to sound models "
                "(--exclude leaves out a layer that is dead on purpose)"
            )


def _measured(
    arguments: argparse.Namespace,
    model: CheckedModel,
    judged: list[tuple[Check, Judgement]],
    gate: Gate,
    target: Path,
) -> Measured:
    description = model.description
    found = {(check.name, check.spec.name if check.spec else None): judgement for check, judgement in judged}
    records = {spec.name: gate.record(model, spec) for spec in description.matrices}

    def findings(name: str) -> dict[str, float]:
        return {
            layer: judgement.value
            for (check, layer), judgement in found.items()
            if check == name and layer is not None and judgement.is_finding and judgement.value is not None
        }

    coverage = found[COVERAGE, None]
    return Measured(
        path=_relative(arguments.model, target, as_pattern=True),
        baseline=_baseline(arguments, target),
        profile=arguments.profile,
        exclude=tuple(arguments.exclude),
        names=tuple(records),
        n_fitted=sum(ALPHA in record.metrics for record in records.values()),
        min_evals=description.options.min_evals,
        small=tuple(
            (name, record.n_evals) for name, record in records.items() if record.n_evals < description.options.min_evals
        ),
        outside=tuple(
            Outside(name=name, alpha=alpha, sigma=float(records[name].metrics["sigma"]))
            for name, alpha in findings(ALPHA).items()
        ),
        traps=tuple((name, int(value)) for name, value in findings(CORRELATION_TRAPS).items()),
        noise=tuple(findings(NOISE).items()),
        coverage=coverage.value if coverage.is_finding else None,
        tool=f"ww-gate init {__version__}",
    )


def _baseline(arguments: argparse.Namespace, target: Path) -> str:
    if arguments.baseline is None:
        return "baselines/{stem}.ww.json"
    return _relative(arguments.baseline, target, as_pattern=False)


def _relative(path: str, target: Path, *, as_pattern: bool) -> str:
    """Return a path as ww.yaml has it: relative to its folder, with slashes."""
    if is_place_elsewhere(path):
        return path
    try:
        found = Path(os.path.relpath(path, target.absolute().parent)).as_posix()
    except ValueError:  # Another drive of Windows.
        found = Path(path).absolute().as_posix()
    return pattern_of(found) if as_pattern else found


def _check_passes(text: str, gate: Gate, judged: list[tuple[Check, Judgement]]) -> None:
    """See to it that the text can be loaded, and that nothing of the model fails by it.

    Raises
    ------
    ConfigError
        It cannot be loaded: names so long that the file is out of all proportion.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ww.yaml"
        path.write_text(text, encoding="utf-8")
        config = load_config(path)
    whole = {rule.check: rule for rule in model_rules(config)}
    for check, _ in judged:
        rules = whole if check.spec is None else {rule.check: rule for rule in layer_rules(config, check.spec.name)}
        if check.name in rules:
            judgement = gate.judge(replace(check, rule=rules[check.name]))
            assert judgement.verdict is not Verdict.FAIL, f"{check.name}: {judgement.detail}"


def _said(target: Path, measured: Measured) -> str:
    low, high = ALPHA_RANGE
    option = "" if target.absolute() == Path(CONFIG_NAME).absolute() else f" --ww-config={target}"
    how = " (the limit takes them in)" if is_widened(measured) else " (see overrides)" if measured.outside else ""
    lines = [
        f"{target}: written for {counted(len(measured.names), 'layer')}.",
        f"Alpha outside {low:g} to {high:g}: {len(measured.outside)} of {measured.n_fitted} fitted layers{how}.",
        f"With correlation traps: {len(measured.traps)}. Not told from noise: {len(measured.noise)}.",
        f"Too small for a fit: {len(measured.small)}.",
        f"Next: pytest{option} --ww-update-baseline, then pytest{option}.",
    ]
    return "".join(f"{printable(line)}\n" for line in lines)
