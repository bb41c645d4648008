"""Options of the plugin. Rule, stated once: marker > command line > ini > ww.yaml > default."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CONFIG_NAME = "ww.yaml"
REPORT_TYPES = ("json", "md")
FAIL_ON = ("fail", "warn", "never")


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
        Paths or shell patterns of checkpoints.
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
    """

    models: tuple[str, ...]
    config: Path | None
    baseline: str | None
    update_baseline: bool
    reports: tuple[ReportTarget, ...]
    fail_on: str
    n_jobs: int | None

    @property
    def is_active(self) -> bool:
        """True where the run was asked to check models."""
        return bool(self.models) or self.config is not None

    def asks_for_models_on_the_command_line(self, config: pytest.Config) -> bool:
        """Tell whether the command line has an option that makes no sense without a model."""
        return any(getattr(config.option, name) for name in ("ww_baseline", "ww_update_baseline", "ww_report"))


def add_options(parser: pytest.Parser) -> None:
    """Register the options of the group ``ww``, each also as an ini option."""
    group = parser.getgroup("ww", "quality of neural-network checkpoints (pytest-weightwatcher)")
    group.addoption(
        "--ww-model",
        action="append",
        dest="ww_model",
        metavar="PATH",
        help="checkpoint to check: a file, a folder with shards, or a shell pattern; may be given again",
    )
    group.addoption("--ww-config", dest="ww_config", metavar="PATH", help="limits and models (default: ww.yaml)")
    group.addoption(
        "--ww-baseline",
        dest="ww_baseline",
        metavar="PATH",
        help="baseline file (*.json) or accepted checkpoint to compare with; {stem} stands for the model's name",
    )
    group.addoption(
        "--ww-update-baseline",
        action="store_true",
        dest="ww_update_baseline",
        help="record the models as the accepted baseline instead of comparing with it",
    )
    group.addoption(
        "--ww-report",
        action="append",
        dest="ww_report",
        metavar="TYPE:PATH",
        type=_report_argument,
        help=f"write a report; TYPE is one of {', '.join(REPORT_TYPES)}; may be given again",
    )
    group.addoption(
        "--ww-fail-on",
        dest="ww_fail_on",
        choices=FAIL_ON,
        help="the mildest verdict that fails the run (default: fail)",
    )
    group.addoption(
        "--ww-jobs",
        dest="ww_jobs",
        metavar="N",
        type=_jobs_argument,
        help="matrices analysed at once (default: auto, one per core)",
    )
    parser.addini("ww_model", "checkpoints to check, one per line", type="linelist", default=[])
    parser.addini("ww_config", "limits and models (default: ww.yaml)")
    parser.addini("ww_baseline", "baseline file or accepted checkpoint")
    parser.addini("ww_update_baseline", "record the models as the accepted baseline", type="bool", default=False)
    parser.addini("ww_report", "reports to write, TYPE:PATH, one per line", type="linelist", default=[])
    parser.addini("ww_fail_on", "the mildest verdict that fails the run: fail, warn or never")
    parser.addini("ww_jobs", "matrices analysed at once: a number or auto")


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
        models=tuple(str(models_folder / model) for model in models),
        config=config_folder / config_path if config_path else None,
        baseline=str(baseline_folder / baseline) if baseline else None,
        update_baseline=bool(choose("ww_update_baseline")[0]),
        reports=_parse_reports(reports, reports_folder),
        fail_on=fail_on or "fail",
        n_jobs=choose_checked("ww_jobs", _parse_jobs),
    )


def _parse_reports(values: Sequence[str], folder: Path) -> tuple[ReportTarget, ...]:
    targets = []
    for value in values:
        try:
            _report_argument(value)
        except argparse.ArgumentTypeError as error:
            raise pytest.UsageError(f"ini option ww_report: {error}") from error
        kind, _, path = value.partition(":")
        targets.append(ReportTarget(type=kind, path=folder / path))
    return tuple(targets)


def _report_argument(value: str) -> str:
    kind, colon, path = value.partition(":")
    if not colon or not path or kind not in REPORT_TYPES:
        raise argparse.ArgumentTypeError(
            f"expected TYPE:PATH with TYPE one of {', '.join(REPORT_TYPES)}, got {value!r}"
        )
    return value


def _parse_jobs(value: str) -> int | None:
    if value == "auto":
        return None
    if not value.isascii() or not value.isdigit() or int(value) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive number or auto, got {value!r}")
    return int(value)


def _jobs_argument(value: str) -> str:
    _parse_jobs(value)
    return value
