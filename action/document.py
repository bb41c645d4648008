"""The text of the job summary and of the comment, from the plugin's own Markdown reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from action.markdown import code, entities, shorten
from action.trial import BASE, OWN

if TYPE_CHECKING:
    from action.runner import Runner
    from action.running import Judged
    from action.trial import Trial

MAX_SUMMARY = 1_000_000
MAX_COMMENT = 65_536
"""Bytes; GitHub takes 1 MiB of a summary and 65,536 characters of a comment."""

DEFAULT_KEY = "default"
LABEL = "baseline changed in this pull request"
_MAX_NAMED = 10
_MAX_NAME = 160
_TITLES = {OWN: "By the files of this commit", BASE: "By the files of the base branch"}


def marker(key: str) -> str:
    """Return the hidden line by which a comment is found again."""
    return f"<!-- ww-gate:{key} -->"


def creation_line(*, is_wanted: bool) -> str:
    """Return the hidden line that says whether a comment is to be made where there is none yet."""
    return f"<!-- ww-gate-create:{'yes' if is_wanted else 'no'} -->"


def write_summary(trial: Trial, runner: Runner, key: str) -> str:
    """Return the text of the job summary."""
    return _document(trial, runner, key, MAX_SUMMARY)


def write_comment(trial: Trial, runner: Runner, key: str, mode: str) -> str:
    """Return the text of the comment, with its hidden lines.

    Parameters
    ----------
    trial : Trial
        All that was judged.
    runner : Runner
        The run of the workflow.
    key : str
        What tells this comment from others.
    mode : str
        ``always``, ``changes`` (anything but a plain pass), ``failures`` or ``off``.
    """
    is_failure = not trial.is_success
    is_news = is_failure or bool(trial.edited) or trial.deciding.outcome != "pass"
    is_wanted = {"always": True, "changes": is_news, "failures": is_failure, "off": False}[mode]
    hidden = f"{marker(key)}\n{creation_line(is_wanted=is_wanted)}\n"
    return hidden + _document(trial, runner, key, MAX_COMMENT - len(hidden))


def _document(trial: Trial, runner: Runner, key: str, limit: int) -> str:
    name = "" if key == DEFAULT_KEY else f" ({key})"
    notes = [f"Note: {entities(note[:1000])}." for note in trial.notes]
    head = [f"## Checkpoint gate{name}: {trial.deciding.outcome}", *_label(trial), *notes]
    foot = f"<sub>Commit {code(runner.sha[:12])}, [run]({runner.run_url}).</sub>"
    left = limit - len("\n\n".join([*head, foot]).encode()) - 200
    return "\n\n".join([*head, *_sections(trial, left), foot]) + "\n"


def _label(trial: Trial) -> list[str]:
    if not trial.edited:
        return []
    names = ", ".join(code(_short(path)) for path in trial.edited[:_MAX_NAMED])
    more = f" and {len(trial.edited) - _MAX_NAMED} more" if len(trial.edited) > _MAX_NAMED else ""
    return [f"**{LABEL.capitalize()}**: {names}{more}.", _both_verdicts(trial)]


def _short(path: str) -> str:
    return path if len(path) <= _MAX_NAME else f"{path[: _MAX_NAME // 2]}…{path[-_MAX_NAME // 2 :]}"


def _both_verdicts(trial: Trial) -> str:
    base = f"the files of the base branch ({code(trial.revision[:12])}): **{trial.runs[BASE].outcome}**"
    if OWN not in trial.runs:
        return f"Judged by {base}; the input asks for the merge base."
    return f"Judged by its own files: **{trial.runs[OWN].outcome}**; by {base}. The worse decides."


def _sections(trial: Trial, limit: int) -> list[str]:
    """Return the reports, the deciding one first and with more room."""
    names = sorted(trial.runs, key=lambda name: trial.runs[name] is not trial.deciding)
    if len(names) == 1:
        return [shorten(_report(trial.runs[names[0]]), limit)]
    shares = (limit * 2 // 3, limit // 3)
    return [
        f"### {_TITLES[name]}: {trial.runs[name].outcome}\n\n{shorten(_report(trial.runs[name]), share - 100)}"
        for name, share in zip(names, shares, strict=True)
    ]


def _report(run: Judged) -> str:
    """Return the plugin's report without its heading, or why there is none."""
    trouble = "\n\n".join(code(line) for line in run.trouble.splitlines() if line.strip())
    if "md" not in run.reports:
        return trouble or "There is no report."
    lines = run.reports["md"].read_text(encoding="utf-8", errors="replace").strip().split("\n")
    body = "\n".join(lines[1:] if lines[0].startswith("## ") else lines).strip()
    return "\n\n".join(part for part in (trouble, body) if part)
