"""``ww-gate calibrate``: limits from known-good checkpoints, at an expected rate of false alarms."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_weightwatcher.baseline import read_baseline
from pytest_weightwatcher.baseline_source import BASELINE_SUFFIX
from pytest_weightwatcher.calibration import CONFIDENCE, MIN_RUNS, n_runs_needed, rate_bound, share_rate
from pytest_weightwatcher.checks import CORRELATION_TRAPS, DRIFT, SPECTRUM, WEIGHTS
from pytest_weightwatcher.comparison import LOG_RATIO_METRICS
from pytest_weightwatcher.config import AnalysisSection, Config
from pytest_weightwatcher.console.document import Document, Section, Table, document_payload
from pytest_weightwatcher.console.rows import Row, counted
from pytest_weightwatcher.errors import GateError
from pytest_weightwatcher.good_runs import ALPHA_MAX, ALPHA_MIN, N_LIMITS, Calibrated, Checkpoint, calibrate_runs
from pytest_weightwatcher.planning import gate_options
from pytest_weightwatcher.profiles import PROFILES
from pytest_weightwatcher.rates import is_testable
from pytest_weightwatcher.records import record_of
from pytest_weightwatcher.yaml_text import number, round_down, round_up
from spectral.analysis import analyze, describe
from spectral.errors import ModelError, ModelMismatchError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_weightwatcher.console.progress import ProgressLine
    from spectral.analysis import Description

COLUMNS = ("quantity", "runs", "worst", "longname", "all_pairs", "limit", "tolerance_limit", "law", "unit", "reason")
_SHOWN = ("quantity", "runs", "worst", "longname", "limit", "tolerance_limit", "all_pairs", "law", "unit", "reason")

_RELATIVE = "share of the baseline's value"
_UNITS = {
    SPECTRUM: "share of the norm",
    WEIGHTS: "share of the norm",
    CORRELATION_TRAPS: "new traps in a layer",
    **dict.fromkeys(LOG_RATIO_METRICS, _RELATIVE),
}


_OWN_KEYS = {SPECTRUM: "max_displacement", WEIGHTS: "max_change"}


class CalibrationError(GateError, ValueError):
    """Checkpoints from which nothing can be learned."""


def calibrate(arguments: argparse.Namespace, line: ProgressLine) -> Document:
    """Carry out ``calibrate``.

    Raises
    ------
    CalibrationError
        Fewer than two checkpoints, or twice the same one.
    ModelMismatchError
        Checkpoints of different architecture.
    """
    paths = arguments.models
    if len(paths) < MIN_RUNS:
        raise CalibrationError(f"calibrate needs at least {MIN_RUNS} known-good checkpoints, got {len(paths)}")
    config = Config(analysis=AnalysisSection(exclude=tuple(arguments.exclude)))
    options = gate_options(config, has_baseline=True).changed({"noise_test": False})
    is_recorded = arguments.baseline is not None and Path(arguments.baseline).suffix == BASELINE_SUFFIX
    opened = [*paths, *([] if arguments.baseline is None or is_recorded else [arguments.baseline])]
    descriptions = [describe(path, options) for path in opened]
    shapes = [_shapes(description) for description in descriptions]
    for path, found in zip(opened, shapes, strict=True):
        if not found:
            raise ModelError(f"{path}: holds no weight matrix that can be analysed; describe tells why")
        _check_same(paths[0], shapes[0], path, found)
    recorded = [_recorded(paths[0], shapes[0], arguments.baseline, options.fit)] if is_recorded else []
    analysed = [_analysed(path, each, arguments.jobs, line) for path, each in zip(opened, descriptions, strict=True)]
    checkpoints = [*analysed, *recorded]
    _check_different(checkpoints)
    good, reference = checkpoints[: len(paths)], None if arguments.baseline is None else checkpoints[-1]
    calibrated = calibrate_runs(
        good,
        reference,
        rate=arguments.rate,
        false_alarm_rate=config.analysis.false_alarm_rate,
        news=PROFILES[arguments.profile].trap_news,
    )
    return _document(arguments, good, reference, calibrated)


def _shapes(description: Description) -> dict[str, tuple[int, ...]]:
    return {spec.name: spec.shape for spec in description.matrices}


def _recorded(first: str, shapes: Mapping[str, tuple[int, ...]], path: str, fit: str) -> Checkpoint:
    """Read a recorded baseline, as far as it is about the layers of the checkpoints."""
    baseline = read_baseline(Path(path))
    if baseline.options.get("fit") != fit:
        raise CalibrationError(f"{path}: recorded with another fit than {fit}")
    records = {name: entry.record for name, entry in baseline.entries.items() if name in shapes}
    _check_same(first, shapes, path, {name: record.shape for name, record in records.items()})
    return Checkpoint(path=path, records=records, n_tests=len(records))


def _analysed(path: str, description: Description, n_workers: int | None, line: ProgressLine) -> Checkpoint:
    line.begin(Path(path).name, len(description.matrices))
    analysis = analyze(description, n_workers=n_workers, progress=line)
    records = {layer.spec.name: record_of(layer) for layer in analysis.layers}
    for name, record in records.items():
        if record.damage is not None:
            raise ModelError(f"{path}: layer {name[:200]!r}: {record.damage}; known-good checkpoints are sound")
    return Checkpoint(path=path, records=records, n_tests=sum(map(is_testable, description.matrices)))


def _check_same(
    first: str, ours: Mapping[str, tuple[int, ...]], path: str, theirs: Mapping[str, tuple[int, ...]]
) -> None:
    if ours != theirs:
        name = next(name for name in (*ours, *theirs) if ours.get(name) != theirs.get(name))
        raise ModelMismatchError(f"{path} has other layers than {first}: {name[:200]!r} is not the same in both")


def _check_different(checkpoints: Sequence[Checkpoint]) -> None:
    """Refuse the same weights twice: that they do not differ is no news."""
    seen: dict[tuple[str, ...], str] = {}
    for checkpoint in checkpoints:
        content = tuple(record.content_hash for _, record in sorted(checkpoint.records.items()))
        if content in seen:
            raise CalibrationError(
                f"{checkpoint.path} holds the same weights as {seen[content]}: a copy teaches nothing"
            )
        seen[content] = checkpoint.path


def _document(
    arguments: argparse.Namespace,
    good: Sequence[Checkpoint],
    reference: Checkpoint | None,
    found: Sequence[Calibrated],
) -> Document:
    base = good[0] if reference is None else reference
    n_runs = len(good) - (reference is None)
    statements = _statements(arguments.rate, n_runs, found, is_paired=reference is None)
    snippet = "".join(f"{line}\n" for line in _snippet(arguments, found, n_runs))
    options = {
        "baseline": arguments.baseline,
        "rate": arguments.rate,
        "profile": arguments.profile,
        "exclude": list(arguments.exclude),
    }
    models = [{"path": checkpoint.path, "is_reference": checkpoint is base} for checkpoint in good]
    payload = document_payload("calibrate", options, models)
    payload |= {
        "quantities": [_payload(each) for each in found],
        "rate_of_each_limit": share_rate(arguments.rate, N_LIMITS),
        "rate_bound": rate_bound(n_runs),
        "statements": list(statements),
        "snippet": snippet,
    }
    section = Section(
        model=base.path,
        before=(f"The reference. Known-good runs: {n_runs}; false alarms: at most {arguments.rate:.3g} of good runs.",),
        layers=Table(columns=COLUMNS, rows=tuple(map(_row, found)), shown=_SHOWN),
        after=statements,
    )
    return Document(payload=payload, sections=(section,), verbatim=snippet)


def _in_unit(quantity: str, value: float | None) -> float | None:
    """Return a value as people give limits: the logarithm of a ratio as the relative increase it stands for."""
    if value is None:
        return None
    return math.expm1(value) if quantity in LOG_RATIO_METRICS else value


def _row(each: Calibrated) -> Row:
    proposal, quantity = each.proposal, each.quantity
    choose = min if quantity == ALPHA_MIN else max
    worst = choose(each.worst, key=lambda found: found.value)
    return {
        "quantity": quantity,
        "runs": proposal.n_runs,
        "worst": _in_unit(quantity, worst.value),
        "longname": worst.layer or None,
        "all_pairs": _in_unit(quantity, each.all_pairs),
        "limit": _in_unit(quantity, proposal.limit),
        "tolerance_limit": _in_unit(quantity, proposal.tolerance_limit),
        "law": None if quantity == CORRELATION_TRAPS else proposal.law,
        "unit": _UNITS.get(quantity),
        "reason": proposal.reason or None,
    }


def _payload(each: Calibrated) -> dict[str, Any]:
    row = _row(each)
    layer = row.pop("longname")
    return {**row, "layer": layer, "values": [_in_unit(each.quantity, found.value) for found in each.worst]}


def _statements(rate: float, n_runs: int, found: Iterable[Calibrated], *, is_paired: bool) -> tuple[str, ...]:
    """Return what is promised, and on what assumption."""
    each, runs = share_rate(rate, N_LIMITS), counted(n_runs, "good run")
    promise = (
        f"Each limit is the one-sided prediction bound at {each:.3g}, the rate shared among {N_LIMITS} limits; it "
        "assumes that the worst layers of good runs follow the law named beside it."
    )
    tolerance = f"tolerance_limit: the same with {CONFIDENCE:.0%} confidence instead of on average, by the same law."
    free = (
        f"Without any law: where none of {runs} exceeds a limit, its rate of false alarms is below "
        f"{rate_bound(n_runs):.1%} ({CONFIDENCE:.0%} confidence); to show {rate:.3g} takes {n_runs_needed(rate)} runs."
    )
    traps = "Traps: as many new ones as a good run had; the test has its own rate, analysis.false_alarm_rate."
    lines = [promise, tolerance, free, traps]
    if is_paired:
        lines.append("No limit is below what lies between any two of the checkpoints, in either order (all_pairs).")
    missing: dict[str, list[str]] = {}
    for calibrated in found:
        if calibrated.proposal.limit is None:
            missing.setdefault(calibrated.proposal.reason, []).append(calibrated.quantity)
    lines += [
        f"No limit for {', '.join(names)}: {reason}. Give more checkpoints, or a larger --rate."
        for reason, names in missing.items()
    ]
    return tuple(lines)


def _snippet(arguments: argparse.Namespace, found: Iterable[Calibrated], n_runs: int) -> list[str]:
    """Return what to paste into ww.yaml."""
    limits = {each.quantity: each.proposal.limit for each in found if each.proposal.limit is not None}
    lines = [
        f"# ww-gate calibrate: {counted(n_runs, 'good run')}, expected false alarms {arguments.rate:.3g} of runs",
    ]
    bounds = []
    if ALPHA_MIN in limits:
        bounds.append(f"min: {number(round_down(limits[ALPHA_MIN]))}")
    if ALPHA_MAX in limits:
        bounds.append(f"max: {number(round_up(limits[ALPHA_MAX]))}")
    if bounds:
        lines += ["checks:", f"  alpha: {{{', '.join(bounds)}}}"]
    lines += ["regression:", f"  profile: {arguments.profile}"]
    for quantity, limit in limits.items():
        entry = _entry(quantity, limit)
        if entry:
            lines.append(f"  {quantity}: {{{entry}}}")
    return lines


def _entry(quantity: str, limit: float) -> str:
    """Return the keys of ww.yaml that hold a limit against the baseline; nothing where there is no such key."""
    bound = number(round_up(limit))
    entry = f"max_increase: {bound}, max_decrease: {bound}"
    if quantity in (ALPHA_MAX, ALPHA_MIN):
        return ""
    if quantity == CORRELATION_TRAPS:
        entry = f"max_new: {int(limit)}"
    elif quantity in LOG_RATIO_METRICS:
        up, down = number(round_up(math.expm1(limit))), number(round_up(-math.expm1(-limit)))
        entry = f"max_relative_increase: {up}, max_relative_decrease: {down}"
    elif quantity in _OWN_KEYS:
        # Nothing moved at all: there is no such limit.
        entry = f"{_OWN_KEYS[quantity]}: {bound}" if limit > 0.0 else ""
    elif quantity == DRIFT:
        # A limit below zero would be no allowance.
        entry = f"max_increase: {number(max(0.0, round_up(limit)))}"
    return entry
