"""Where reports go: where the workflow says, and not where a link of a pull request leads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from action.inputs import ActionError
from action.repository import GIT_FOLDER
from action.ways import inside

if TYPE_CHECKING:
    from collections.abc import Iterator

    from action.inputs import GateInputs


def report_places(inputs: GateInputs, workspace: Path) -> dict[str, Path]:
    """Return type of report -> file, for those that the workflow wants elsewhere than in the Action's folder.

    Raises
    ------
    ActionError
        A link leads one of them, or a path among the arguments of pytest, out of the workspace or into ``.git``.
    """
    for argument in inputs.args:
        for path in _paths_in(argument):
            _place(path, workspace, "args")
    return {kind: _place(path, workspace, f"report-{kind}") for kind, path in inputs.reports.items() if path}


def _paths_in(argument: str) -> Iterator[str]:
    """Yield what may be a path: an argument, the value of an option, and what stands behind the type of a report."""
    for text in (argument, argument.partition("=")[2]):
        yield text
        yield text.partition(":")[2]


def _place(path: str, workspace: Path, name: str) -> Path:
    # Without the dots: behind a link they would mean something else.
    place = Path(os.path.normpath(workspace / path))
    if inside(str(place), workspace) in (None, "."):
        return place  # The workflow says so; nothing there is a pull request's.
    # A report of the Action's own replaces a link; what pytest writes would follow it.
    for way in (place.parent, place) if name == "args" else (place.parent,):
        end = inside(os.path.realpath(way), workspace.resolve())
        if end is None or GIT_FOLDER in (part.casefold() for part in Path(end).parts):
            raise ActionError(
                f"{name}: {path[:200]} is led out of the workspace, or into {GIT_FOLDER}, by a link in it"
            )
    return place
