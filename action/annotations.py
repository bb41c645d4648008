"""Annotations on the pull request: few, worst first, and how many more there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from action.commands import format_command
from action.trial import BASE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from action.results import Finding
    from action.running import Judged
    from action.trial import Trial

MAX_ANNOTATIONS = 7
"""Ten in all: one says how many more there are, one is the verdict's, and one the comment's where it was refused."""

_MAX_NAME = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """One annotation: ``error``, ``warning`` or ``notice``, and where it points."""

    level: str
    title: str
    message: str
    file: str = ""
    line: str = ""

    def format(self) -> str:
        """Return the workflow command."""
        return format_command(self.level, self.message, file=self.file, line=self.line, title=self.title)


def annotations_of(trial: Trial, config: str) -> list[Annotation]:
    """Return what is shown of a trial.

    Parameters
    ----------
    trial : Trial
        All that was judged.
    config : str
        The ww.yaml that the lines of findings are about.
    """
    found = [annotation for run in _worst_first(trial) for annotation in _of_run(trial, run, config)]
    unique = list({(each.level, each.message): each for each in reversed(found)}.values())[::-1]
    ranked = sorted(unique, key=lambda each: each.level != "error")
    return [*ranked[:MAX_ANNOTATIONS], *_rest(ranked)]


def _worst_first(trial: Trial) -> list[str]:
    return sorted(trial.runs, key=lambda name: trial.runs[name] is not trial.deciding)


def _rest(ranked: Sequence[Annotation]) -> list[Annotation]:
    n_more = len(ranked) - MAX_ANNOTATIONS
    message = f"{n_more} more findings are in the job summary and in the report"
    return [Annotation(level="notice", title="Checkpoint gate", message=message)] if n_more > 0 else []


def _of_run(trial: Trial, name: str, config: str) -> Iterator[Annotation]:
    run = trial.runs[name]
    judge = " by the files of the base branch" if name == BASE else ""
    if run.trouble:
        yield Annotation(level="error", title=f"Checkpoint gate{judge}", message=run.trouble)
    # Lines are those of the base branch's ww.yaml there, which the pull request does not show.
    file = "" if name == BASE else config
    for finding in run.result.findings if run.result is not None else ():
        yield _of_finding(finding, run, file, judge)


def _of_finding(finding: Finding, run: Judged, file: str, judge: str) -> Annotation:
    is_error = finding.verdict != "warn" and not run.is_success
    return Annotation(
        level="error" if is_error else "warning",
        title=f"{finding.verdict}{judge}: {_short(finding.layer)} {_short(finding.check)}",
        message=f"{_short(finding.layer)} of {_short(finding.model)}: {finding.check}: {finding.detail}",
        file=file if finding.line is not None else "",
        line=str(finding.line) if file and finding.line is not None else "",
    )


def _short(name: str) -> str:
    return name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 1]}…"
