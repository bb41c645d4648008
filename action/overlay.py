"""A second view of the workspace, in which some files are those of the base branch.

Folders are made anew and hold the files of the workspace, linked, so that relative paths, shell patterns and untracked
checkpoints mean the same in both. Links of the workspace lead to where they led, but inside the view:
otherwise one of them could lead past what was replaced.
"""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from action.inputs import ActionError

if TYPE_CHECKING:
    from collections.abc import Mapping

GIT_FOLDER = ".git"

Replaced = dict[tuple[str, ...], bytes | None]
"""Parts of a path -> its content; None where the file is absent."""


def make_overlay(workspace: Path, folder: Path, contents: Mapping[str, bytes | None]) -> None:
    """Make the view.

    Parameters
    ----------
    workspace : Path
        What is shown.
    folder : Path
        Where the view is made; it must not exist.
    contents : mapping of str to bytes or None
        Path relative to the workspace -> what the view has there; None for nothing.

    Raises
    ------
    ActionError
        Links cannot be made here.
    """
    view = _View(workspace=workspace.resolve(), folder=folder)
    try:
        view.mirror(view.workspace, folder, {PurePosixPath(path).parts: held for path, held in contents.items()})
    except OSError as error:
        raise ActionError(f"the files of the base branch cannot be laid out: {error.strerror}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    workspace: Path
    folder: Path

    def mirror(self, source: Path, target: Path, replaced: Replaced) -> None:
        target.mkdir()
        below: dict[str, Replaced] = defaultdict(dict)
        for (head, *rest), held in replaced.items():
            below[head][tuple(rest)] = held
        for entry in sorted(source.iterdir()) if source.is_dir() else ():
            if entry.name not in below and entry.name != GIT_FOLDER:
                self._show(entry, target / entry.name)
        for head, inner in below.items():
            held = inner.pop((), None)
            if held is not None:
                (target / head).write_bytes(held)
            elif inner:
                self.mirror(source / head, target / head, inner)

    def _show(self, entry: Path, target: Path) -> None:
        if entry.is_symlink():
            target.symlink_to(self._lead(entry))
        elif entry.is_dir():
            self.mirror(entry, target, {})
        else:
            _place(entry, target)

    def _lead(self, link: Path) -> str:
        """Return where a link leads in the view."""
        text, end = str(link.readlink()), os.path.realpath(link)
        if not Path(end).is_relative_to(self.workspace):
            return end
        is_absolute = Path(text).is_absolute()
        return str(self.folder / Path(end).relative_to(self.workspace)) if is_absolute else text


def _place(file: Path, target: Path) -> None:
    """Link a file: hard where the file system can, so that shards stay inside the folder of their checkpoint."""
    try:
        os.link(file, target)
    except OSError:
        target.symlink_to(file)
