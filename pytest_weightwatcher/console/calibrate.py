"""``ww-gate calibrate``: limits from known-good checkpoints, at an expected rate of false alarms."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pytest_weightwatcher.baseline import read_baseline
from pytest_weightwatcher.baseline_source import BASELINE_SUFFIX
from pytest_weightwatcher.calibration import CONFIDENCE, MIN_RUNS, n_runs_needed, rate_bound, share_rate
from pytest_weightwatcher.checks import CORRELATION_TRAPS, SPECTRUM, WEIGHTS
from pytest_weightwatcher.comparison import LOG_RATIO_METRICS
from pytest_weightwatcher.config import AnalysisSection, Config
from pytest_weightwatcher.console.document import Document, Section, Table, document_payload
from pytest_weightwatcher.console.rows import Row, counted
from pytest_weightwatcher.errors import CalibrationError
from pytest_weightwatcher.good_pairs import failing_checks
from pytest_weightwatcher.good_runs import (
    ALPHA_MIN,
    N_LIMITS,
    Calibrated,
    Checkpoint,
    calibrate_runs,
    compare_pairs,
    find_odd_checkpoint,
)
from pytest_weightwatcher.planning import gate_options
from pytest_weightwatcher.profiles import PROFILES
from pytest_weightwatcher.proposed_limits import ProposedLimits, in_unit, propose_entries
from pytest_weightwatcher.rates import is_testable
from pytest_weightwatcher.records import record_of
from pytest_weightwatcher.tensors import records_of_tensors
from pytest_weightwatcher.verdict import Verdict, judge_integrity, judge_other_tensors
from spectral.analysis import analyze, describe
from spectral.errors import ModelError, ModelMismatchError
from spectral.integrity import find_non_finite
from spectral.loaders.locations import as_location

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_weightwatcher.console.progress import ProgressLine
    from pytest_weightwatcher.odd_one import OddOne
    from pytest_weightwatcher.records import LayerRecord
    from spectral.analysis import AnalysisOptions, Description

COLUMNS = (
    "quantity",
    "runs",
    "worst",
    "longname",
    "all_pairs",
    "limit",
    "tolerance_limit",
    "gate",
    "law",
    "unit",
    "reason",
)
_SHOWN = ("quantity", "gate", "worst", "longname", "limit", "runs", "all_pairs", "tolerance_limit", "law", "unit")

_RELATIVE = "share of the baseline's value"
_UNITS = {
    SPECTRUM: "share of the norm",
    WEIGHTS: "share of the norm",
    CORRELATION_TRAPS: "new traps in a layer",
    **dict.fromkeys(LOG_RATIO_METRICS, _RELATIVE),
}


def calibrate(arguments: argparse.Namespace, line: ProgressLine) -> Document:
    """Carry out ``calibrate``.

    Raises
    ------
    CalibrationError
        Fewer than two checkpoints, twice the same one, or one that fails whatever the limits are.
    ModelMismatchError
        Checkpoints of different architecture.
    """
    paths = arguments.models
    if len(paths) < MIN_RUNS:
        raise CalibrationError(f"calibrate needs at least {MIN_RUNS} known-good checkpoints, got {len(paths)}")
    config = Config(analysis=AnalysisSection(exclude=tuple(arguments.exclude)))
    options = gate_options(config, has_baseline=True)
    is_recorded = arguments.baseline is not None and Path(arguments.baseline).suffix == BASELINE_SUFFIX
    opened = [*paths, *([] if arguments.baseline is None or is_recorded else [arguments.baseline])]
    descriptions = [describe(path, options) for path in opened]
    shapes = [_shapes(description) for description in descriptions]
    for path, found in zip(opened, shapes, strict=True):
        if not found:
            raise ModelError(f"{path}: holds no weight matrix that can be analysed; describe tells why")
        _check_same(paths[0], shapes[0], path, found)
    recorded = [_recorded(paths[0], shapes[0], arguments.baseline, options)] if is_recorded else []
    analysed = [_analysed(path, each, arguments.jobs, line) for path, each in zip(opened, descriptions, strict=True)]
    checkpoints = [*analysed, *recorded]
    _check_different(checkpoints)
    good, reference = checkpoints[: len(paths)], None if arguments.baseline is None else checkpoints[-1]
    pairs = compare_pairs(
        good,
        reference,
        false_alarm_rate=config.analysis.false_alarm_rate,
        news=PROFILES[arguments.profile].trap_news,
    )
    calibrated = calibrate_runs(pairs, good, is_paired=reference is None, rate=arguments.rate)
    proposed = propose_entries(
        calibrated,
        profile=arguments.profile,
        exclude=arguments.exclude,
        failing=lambda proposal: failing_checks(proposal, pairs, good),
    )
    return _document(arguments, checkpoints, reference, calibrated, proposed)


def _shapes(description: Description) -> dict[str, tuple[int, ...]]:
    return {spec.name: spec.shape for spec in description.matrices}


def _recorded(first: str, shapes: Mapping[str, tuple[int, ...]], path: str, options: AnalysisOptions) -> Checkpoint:
    """Read a recorded baseline, but for the layers that are left out."""
    baseline = read_baseline(as_location(path))
    if baseline.options.get("fit") != options.fit:
        raise CalibrationError(f"{path}: recorded with another fit than {options.fit}")
    records = {
        name: entry.record
        for name, entry in baseline.entries.items()
        if not any(fnmatchcase(name, pattern) for pattern in options.exclude)
    }
    _check_same(first, shapes, path, {name: record.shape for name, record in records.items()})
    return Checkpoint(path=path, records=records, n_tests=len(records), tensors=baseline.tensors)


def _analysed(path: str, description: Description, n_workers: int | None, line: ProgressLine) -> Checkpoint:
    line.begin(Path(path).name, len(description.matrices))
    analysis = analyze(description, n_workers=n_workers, progress=line)
    records = {layer.spec.name: record_of(layer) for layer in analysis.layers}
    _check_sound(path, description, records)
    return Checkpoint(
        path=path,
        records=records,
        n_tests=sum(map(is_testable, description.matrices)),
        coverage=description.coverage,
        tensors=records_of_tensors(description),
    )


def _check_sound(path: str, description: Description, records: Mapping[str, LayerRecord]) -> None:
    """Refuse a checkpoint that fails the gate whatever the limits are."""
    others = description.other_tensors
    judged = {f"layer {name[:200]!r}": judge_integrity(record) for name, record in records.items()}
    judged["the other tensors"] = judge_other_tensors(find_non_finite(description.source, others), len(others))
    for what, judgement in judged.items():
        if judgement.verdict is not Verdict.PASS:
            raise ModelError(f"{path}: {what}: {judgement.detail}; known-good checkpoints are sound")


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
    checkpoints: Sequence[Checkpoint],
    reference: Checkpoint | None,
    found: Sequence[Calibrated],
    proposed: ProposedLimits,
) -> Document:
    base = checkpoints[0] if reference is None else reference
    n_runs = len(checkpoints) - 1
    odd = find_odd_checkpoint(checkpoints, base)
    statements = _statements(arguments.rate, n_runs, found, proposed, is_paired=reference is None)
    if odd is not None:
        statements = (_about_odd_one(odd, checkpoints, base), *statements)
    claim = _claim(arguments.rate, n_runs, proposed)
    snippet = "".join(f"{line}\n" for line in (f"# ww-gate calibrate: {claim}", *proposed.lines))
    options = {
        "baseline": arguments.baseline,
        "rate": arguments.rate,
        "profile": arguments.profile,
        "exclude": list(arguments.exclude),
    }
    good = [checkpoint for checkpoint in checkpoints if checkpoint is not reference]
    models = [{"path": checkpoint.path, "is_reference": checkpoint is base} for checkpoint in good]
    rows = [_row(each, proposed) for each in found]
    payload = document_payload("calibrate", options, models)
    payload |= {
        "quantities": [_payload(each, row) for each, row in zip(found, rows, strict=True)],
        "rate_of_each_limit": share_rate(arguments.rate, N_LIMITS),
        "n_limits_with_rate": proposed.n_with_rate,
        "relaxed": {name: entry.standing for name, entry in proposed.entries.items() if entry.comment},
        "odd_one": None if odd is None else _odd_payload(odd, checkpoints),
        "rate_bound": rate_bound(n_runs),
        "statements": list(statements),
        "snippet": snippet,
    }
    section = Section(
        model=base.path,
        before=(f"The reference. {claim[0].upper()}{claim[1:]}.",),
        layers=Table(columns=COLUMNS, rows=tuple(rows), shown=_SHOWN),
        after=statements,
    )
    return Document(payload=payload, sections=(section,), verbatim=snippet)


def _claim(rate: float, n_runs: int, proposed: ProposedLimits) -> str:
    """Return what is promised in one line: for how many limits the rate holds, and how many have none."""
    runs, n_with_rate = counted(n_runs, "good run"), proposed.n_with_rate
    if n_with_rate == 0:
        return f"{runs}, too few for a rate of false alarms: none of {N_LIMITS} limits has one"
    rest = N_LIMITS - n_with_rate
    without = f", {rest} without a rate" if rest else ""
    return f"{runs}, expected false alarms {rate:.3g} of runs by {n_with_rate} of {N_LIMITS} limits{without}"


def _row(each: Calibrated, proposed: ProposedLimits) -> Row:
    proposal, quantity = each.proposal, each.quantity
    choose = min if quantity == ALPHA_MIN else max
    worst = choose(each.worst, key=lambda found: found.value)

    def shown(value: float | None) -> float | None:
        return None if value is None else in_unit(quantity, value)

    return {
        "quantity": quantity,
        "runs": proposal.n_runs,
        "worst": shown(worst.value),
        "longname": worst.layer or None,
        "all_pairs": shown(each.all_pairs),
        "limit": shown(proposal.limit),
        "tolerance_limit": shown(proposal.tolerance_limit),
        "gate": proposed.entries[quantity].standing,
        "law": None if quantity == CORRELATION_TRAPS else proposal.law,
        "unit": _UNITS.get(quantity),
        "reason": proposal.reason or None,
    }


def _payload(each: Calibrated, row: Row) -> dict[str, Any]:
    values = [in_unit(each.quantity, found.value) for found in each.worst]
    return {**{name: value for name, value in row.items() if name != "longname"}, "layer": row["longname"]} | {
        "values": values
    }


def _about_odd_one(odd: OddOne, checkpoints: Sequence[Checkpoint], base: Checkpoint) -> str:
    checkpoint = checkpoints[odd.place]
    advice = "if it is not as good as they are, leave it out: it widens the limits"
    if checkpoint is base:
        advice = "it is the reference: if it is not as good as they are, take another"
    return (
        f"Odd one out: {checkpoint.path}. By {odd.quantity} it lies {odd.gap:.3g} from the nearest of the others, "
        f"which are at most {odd.spread:.3g} apart; {advice}."
    )


def _odd_payload(odd: OddOne, checkpoints: Sequence[Checkpoint]) -> dict[str, Any]:
    path = checkpoints[odd.place].path
    return {"path": path, "quantity": odd.quantity, "gap": odd.gap, "spread": odd.spread}


def _statements(
    rate: float, n_runs: int, found: Iterable[Calibrated], proposed: ProposedLimits, *, is_paired: bool
) -> tuple[str, ...]:
    """Return what is promised, and on what assumption."""
    promise = (
        f"Each limit is the one-sided prediction bound at {share_rate(rate, N_LIMITS):.3g}, the rate shared among "
        f"{N_LIMITS} limits; it assumes that the worst layers of good runs follow the law named beside it."
    )
    tolerance = f"tolerance_limit: the same with {CONFIDENCE:.0%} confidence instead of on average, by the same law."
    free = (
        f"Without any law: where none of {counted(n_runs, 'good run')} exceeds a limit, its rate of false alarms is "
        f"below {rate_bound(n_runs):.1%} ({CONFIDENCE:.0%} confidence); to show {rate:.3g} takes "
        f"{n_runs_needed(rate)} runs."
    )
    traps = "Traps: as many new ones as a good run had; the test has its own rate, analysis.false_alarm_rate."
    lines = [promise, tolerance, free, traps] if proposed.n_with_rate else [free, traps]
    if is_paired:
        lines.append("No limit is below what lies between any two of the checkpoints, in either order (all_pairs).")
    lines += [*_about_missing(found), *_about_standing(proposed)]
    lines.append("By the limits below no checkpoint given here fails, judged as the gate does.")
    return tuple(lines)


def _about_missing(found: Iterable[Calibrated]) -> list[str]:
    missing: dict[str, list[str]] = {}
    for calibrated in found:
        if calibrated.proposal.limit is None and not calibrated.proposal.is_blind:
            missing.setdefault(calibrated.proposal.reason, []).append(calibrated.quantity)
    return [
        f"No limit for {', '.join(names)}: {reason}. Give more checkpoints, or a larger --rate."
        for reason, names in missing.items()
    ]


def _about_standing(proposed: ProposedLimits) -> list[str]:
    """Say what is in force without a rate."""
    return [
        f"{_STANDINGS[standing]}: {', '.join(names)}."
        for standing in _STANDINGS
        if (names := [name for name, entry in proposed.entries.items() if entry.standing == standing])
    ]


_STANDINGS: Mapping[str, str] = MappingProxyType(
    {
        "built-in": "The built-in limit stays, without a rate",
        "warn": "The built-in limit is exceeded by good ones, so that it only warns",
        "off": "Good ones lie as far apart as damaged ones may, so that it can tell nothing and is switched off",
    }
)
