"""A second view of the workspace, in which some files are those of the base branch.

Every other entry is a link into the workspace, so that relative paths, shell patterns and untracked checkpoints mean
the same in both.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from action.inputs import ActionError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

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
    try:
        _mirror(workspace.resolve(), folder, {PurePosixPath(path).parts: held for path, held in contents.items()})
    except OSError as error:
        raise ActionError(f"the files of the base branch cannot be laid out: {error.strerror}") from error


def _mirror(source: Path, target: Path, replaced: Replaced) -> None:
    target.mkdir()
    below: dict[str, Replaced] = defaultdict(dict)
    for (head, *rest), held in replaced.items():
        below[head][tuple(rest)] = held
    for entry in sorted(source.iterdir()) if source.is_dir() else ():
        if entry.name not in below:
            (target / entry.name).symlink_to(entry)
    for head, inner in below.items():
        held = inner.pop((), None)
        if held is not None:
            (target / head).write_bytes(held)
        elif inner:
            _mirror(source / head, target / head, inner)
