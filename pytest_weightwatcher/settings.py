"""The options in force, as one record. Rule, stated once: marker > command line > ini > ww.yaml > default."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_weightwatcher.options import FAIL_ON, PROFILE_NAMES, is_active, parse_jobs, report_argument, seed_argument

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
    new_only : bool
        Compare, and record layers that a baseline does not hold.
    profile : str or None
        Profile of the comparison; None for that of ww.yaml.
    seed : int or None
        Seed of everything random; None for that of ww.yaml.
    explain : tuple of str
        Node ids, their ends, or shell patterns of checks to explain.
    reports : tuple of ReportTarget
        Reports to write.
    fail_on : {"fail", "warn", "never"} or None
        The mildest verdict that fails the run; None for that of ww.yaml.
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
    new_only: bool
    profile: str | None
    seed: int | None
    explain: tuple[str, ...]
    reports: tuple[ReportTarget, ...]
    fail_on: str | None
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

    def choose_one_of(name: str, known: Sequence[str]) -> str | None:
        value, _ = choose(name)
        if value and value not in known:
            raise pytest.UsageError(f"ini option {name}: expected one of {', '.join(known)}, got {value!r}")
        return value or None

    models, models_folder = choose("ww_model")
    config_path, config_folder = choose("ww_config")
    baseline, baseline_folder = choose("ww_baseline")
    reports, reports_folder = choose("ww_report")
    fail_on = choose_one_of("ww_fail_on", FAIL_ON)
    seed = choose_checked("ww_seed", seed_argument)
    update, new_only = choose("ww_update_baseline")[0], choose("ww_update_new_only")[0]
    if update and new_only:
        raise pytest.UsageError("--ww-update-baseline records every layer, --ww-update-new-only those that are new")
    if (update or new_only) and is_in_ci() and not choose("ww_update_in_ci")[0]:
        raise pytest.UsageError(
            "a baseline is not recorded where the environment variable CI is set: an accepted state is for people to "
            "choose and to commit; to do it all the same, add --ww-update-in-ci"
        )
    return GateOptions(
        models=tuple(models),
        models_folder=models_folder,
        config=Path(os.path.abspath(config_folder / config_path)) if config_path else None,
        baseline=_baseline_place(baseline, baseline_folder) if baseline else None,
        update_baseline=bool(update),
        new_only=bool(new_only),
        profile=choose_one_of("ww_profile", PROFILE_NAMES),
        seed=None if seed is None else int(seed),
        explain=tuple(choose("ww_explain")[0]),
        reports=_parse_reports(reports, reports_folder),
        fail_on=fail_on,
        n_jobs=choose_checked("ww_jobs", parse_jobs),
        is_active=is_active(config),
    )


def _baseline_place(baseline: str, folder: Path) -> str:
    from spectral.loaders.locations import as_text

    return as_text(baseline, folder)


def is_in_ci() -> bool:
    """Tell whether this is a run of continuous integration, by the variable that all services set."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false", "no", "off")


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
