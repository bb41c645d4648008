"""Write reports to where they were asked for: in place of what was there, or after it."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

from pytest_weightwatcher.files import write_atomically
from pytest_weightwatcher.options import APPEND, MIN_BUDGET
from pytest_weightwatcher.report.markdown import SUMMARY_BUDGET, render_markdown
from pytest_weightwatcher.report.rendering import render

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_weightwatcher.settings import ReportTarget


def write_report(target: ReportTarget, result: Mapping[str, Any], *, budget: int | None = None) -> None:
    """Render a result and write it.

    Parameters
    ----------
    target : ReportTarget
        Its type and where. ``md-append`` adds Markdown to the end of a file, which it makes where there is none.
    result : mapping
        The result of a run; it is not changed.
    budget : int, optional
        Bytes of a Markdown report. Default: what a comment takes, or for ``md-append`` what is left of a job summary.

    Raises
    ------
    OSError
        The target cannot be written.
    """
    if target.type == APPEND:
        append_markdown(target.path, result, budget=SUMMARY_BUDGET if budget is None else budget)
    elif target.type == "md" and budget is not None:
        write_atomically(target.path, render_markdown(result, budget=budget))
    else:
        write_atomically(target.path, render(target.type, result))


def append_markdown(path: Path, result: Mapping[str, Any], *, budget: int) -> None:
    """Add Markdown to the end of a file that is to have no more bytes than the budget.

    Raises
    ------
    OSError
        The file cannot be written, or is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as stream:
        # Of a pipe or a device it is 0.
        n_before = os.fstat(stream.fileno()).st_size
        stream.write(_addition(result, budget - n_before, is_first=not n_before).encode("utf-8"))


def _addition(result: Mapping[str, Any], n_free: int, *, is_first: bool) -> str:
    """Return what is to be added; where hardly anything is free, the outcome alone."""
    # What others wrote may end in the middle of a line or a paragraph.
    beginning = "" if is_first else "\n"
    if n_free - 1 >= MIN_BUDGET:
        return beginning + render_markdown(result, budget=n_free - len(beginning))
    text = f"{beginning}## Checkpoint gate: {result['outcome']}\n\nThere is no room for more.\n"
    if len(text) > n_free:
        raise OSError(errno.EFBIG, "no room is left in it")
    return text
