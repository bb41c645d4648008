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
from action.repository import GIT_FOLDER
from action.ways import inside

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A link as it was committed."""

    target: str


Replaced = dict[tuple[str, ...], bytes | Link | None]
"""Parts of a path -> what is there; None where nothing is."""


def make_overlay(workspace: Path, folder: Path, contents: Mapping[str, bytes | Link | None]) -> None:
    """Make the view.

    Parameters
    ----------
    workspace : Path
        What is shown.
    folder : Path
        Where the view is made; it must not exist.
    contents : mapping of str to bytes, Link or None
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

    def mirror(self, source: Path | None, target: Path, replaced: Replaced) -> None:
        target.mkdir()
        below: dict[str, Replaced] = defaultdict(dict)
        for (head, *rest), held in replaced.items():
            below[head][tuple(rest)] = held
        for entry in sorted(source.iterdir()) if source is not None and source.is_dir() else ():
            if entry.name not in below and entry.name != GIT_FOLDER:
                self._show(entry, target / entry.name)
        for head, inner in below.items():
            is_replaced = () in inner
            held = inner.pop((), None)
            if isinstance(held, Link):
                (target / head).symlink_to(self._lead(target / head, held.target))
            elif held is not None:
                (target / head).write_bytes(held)
            elif not is_replaced:
                self.mirror(source / head if source is not None else None, target / head, inner)
            elif any(each is not None for each in inner.values()):
                # A folder that became a link: nothing behind the link was ever in it.
                self.mirror(None, target / head, inner)

    def _show(self, entry: Path, target: Path) -> None:
        if entry.is_symlink():
            target.symlink_to(self._lead(target, str(entry.readlink())))
        elif entry.is_dir():
            self.mirror(entry, target, {})
        else:
            _place(entry, target)

    def _lead(self, target: Path, text: str) -> str:
        """Return what a link of the view holds: one step, since the next is a link of the view, too."""
        folder = self.workspace / target.parent.relative_to(self.folder)
        parts = Path(text).parts
        steps = [os.path.normpath(folder.joinpath(*parts[: n + 1])) for n in range(len(parts))]
        if not Path(text).is_absolute() and all(Path(step).is_relative_to(self.workspace) for step in steps):
            return text
        end = os.path.normpath(folder / text)
        place = inside(end, self.workspace)
        return str(self.folder / place) if place is not None else end


def _place(file: Path, target: Path) -> None:
    """Link a file: hard where the file system can, so that shards stay inside the folder of their checkpoint."""
    try:
        os.link(file, target)
    except OSError:
        target.symlink_to(file)
