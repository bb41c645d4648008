"""The options in force, as one record. Rule, stated once: marker > command line > ini > ww.yaml > default."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_weightwatcher.options import FAIL_ON, is_active, parse_jobs, report_argument

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class ReportTarget:
    """A report to write: its type and where."""

    type: str
    path: Path


@dataclass(frozen=True)
class GateOptions:
    """What command line and ini files say; paths are absolute.

    Attributes
    ----------
    models : tuple of str
        Paths or shell patterns of checkpoints, relative to ``models_folder``.
    models_folder : Path
        The invocation folder, or that of the ini file.
    config : Path or None
        The ww.yaml named explicitly.
    baseline : str or None
        Baseline file or checkpoint; may contain ``{stem}``.
    update_baseline : bool
        Record baselines instead of comparing with them.
    reports : tuple of ReportTarget
        Reports to write.
    fail_on : {"fail", "warn", "never"}
        The mildest verdict that fails the run.
    n_jobs : int or None
        Worker threads; None for one per core.
    is_active : bool
        The run was asked to check models, or to use a certain ww.yaml.
    """

    models: tuple[str, ...]
    models_folder: Path
    config: Path | None
    baseline: str | None
    update_baseline: bool
    reports: tuple[ReportTarget, ...]
    fail_on: str
    n_jobs: int | None
    is_active: bool


def read_options(config: pytest.Config) -> GateOptions:
    """Return the options in force: the command line, then the ini file.

    Raises
    ------
    pytest.UsageError
        A value in the ini file is impossible (those of the command line are refused by the parser).
    """
    invocation = config.invocation_params.dir
    ini_folder = config.inipath.parent if config.inipath is not None else config.rootpath

    def choose(name: str) -> tuple[Any, Path]:
        given = getattr(config.option, name, None)
        return (given, invocation) if given else (config.getini(name), ini_folder)

    def choose_checked(name: str, check: Any) -> Any:
        value, _ = choose(name)
        try:
            return check(value) if value else None
        except argparse.ArgumentTypeError as error:
            raise pytest.UsageError(f"ini option {name}: {error}") from error

    models, models_folder = choose("ww_model")
    config_path, config_folder = choose("ww_config")
    baseline, baseline_folder = choose("ww_baseline")
    reports, reports_folder = choose("ww_report")
    fail_on, _ = choose("ww_fail_on")
    if fail_on and fail_on not in FAIL_ON:
        raise pytest.UsageError(f"ini option ww_fail_on: expected one of {', '.join(FAIL_ON)}, got {fail_on!r}")
    return GateOptions(
        models=tuple(models),
        models_folder=models_folder,
        config=Path(os.path.abspath(config_folder / config_path)) if config_path else None,
        baseline=str(baseline_folder / baseline) if baseline else None,
        update_baseline=bool(config.option.ww_update_baseline),
        reports=_parse_reports(reports, reports_folder),
        fail_on=fail_on or "fail",
        n_jobs=choose_checked("ww_jobs", parse_jobs),
        is_active=is_active(config),
    )


def _parse_reports(values: Sequence[str], folder: Path) -> tuple[ReportTarget, ...]:
    targets: list[ReportTarget] = []
    for value in values:
        try:
            report_argument(value)
        except argparse.ArgumentTypeError as error:
            raise pytest.UsageError(f"ini option ww_report: {error}") from error
        kind, _, path = value.partition(":")
        target = ReportTarget(type=kind, path=folder / path)
        if any(other.path == target.path for other in targets):
            raise pytest.UsageError(f"two reports would be written to {target.path}")
        targets.append(target)
    return tuple(targets)
