"""``ww-gate report``: reports from result files, long after the run; several of them are merged first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_weightwatcher.errors import ReportError
from pytest_weightwatcher.options import APPEND
from pytest_weightwatcher.report import render
from pytest_weightwatcher.report.markdown import COMMENT_BUDGET, render_markdown
from pytest_weightwatcher.report.merging import Source, merge_results
from pytest_weightwatcher.report.reading import read_result
from pytest_weightwatcher.report.targets import check_target
from pytest_weightwatcher.report.writing import write_report
from pytest_weightwatcher.settings import ReportTarget

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

STDOUT = "-"


def report_results(arguments: argparse.Namespace) -> str:
    """Carry out ``report``: write the reports and return what goes to the standard output.

    Raises
    ------
    ReportError
        A file is no result, two contradict each other, or a report cannot be written; of what can be known before,
        nothing has been written.
    """
    targets = _targets(arguments.report or [f"md:{STDOUT}"], arguments.results)
    paths = [Path(name) for name in arguments.results]
    result = merge_results([Source(name=str(path), result=read_result(path)) for path in paths])
    said = []
    for target in targets:
        if str(target.path) == STDOUT:
            is_markdown = target.type == "md"
            budget = arguments.budget or COMMENT_BUDGET
            said.append(render_markdown(result, budget=budget) if is_markdown else render(target.type, result))
            continue
        try:
            write_report(target, result, budget=arguments.budget)
        except OSError as error:
            raise ReportError(f"{target.path}: cannot be written: {error.strerror or error}") from error
    return "".join(said)


def _targets(reports: Sequence[str], results: Sequence[str]) -> list[ReportTarget]:
    found: list[ReportTarget] = []
    for text in reports:
        kind, _, path = text.partition(":")
        target = ReportTarget(type=kind, path=Path(path))
        if any(target.path == other.path for other in found):
            raise ReportError(f"two reports would be written to {path}")
        if path == STDOUT and kind == APPEND:
            raise ReportError(f"{text}: to the standard output there is nothing to append; write md:{STDOUT}")
        if path != STDOUT:
            _check_free(target, results)
        found.append(target)
    return found


def _check_free(target: ReportTarget, results: Sequence[str]) -> None:
    for name in results:
        if target.path.exists() and Path(name).exists() and target.path.samefile(name):
            raise ReportError(f"{target.path}: is a result that is read, no place for a report")
    check_target(target, [])
