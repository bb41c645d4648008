"""Links: where they lead in a folder, step by step. Nothing outside the folder is looked at."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from action.repository import GIT_FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterable

_MAX_STEPS = 40
"""Links followed from one path; more are a circle."""


def inside(path: str, folder: Path) -> str | None:
    """Return a whole path relative to a folder, by whatever name it calls that; None where it lies elsewhere."""
    text = os.path.normpath(path)
    for above in (Path(text), *Path(text).parents):
        if above == folder or (above.exists() and folder.exists() and above.samefile(folder)):
            return Path(text).relative_to(above).as_posix()
    return None


def is_below(path: str, places: Iterable[str]) -> bool:
    """Tell whether a path is one of some places or lies in one."""
    return any(place in (".", path) or path.startswith(f"{place}/") for place in places)


def steps_to(folder: Path, path: str) -> tuple[str, ...]:
    """Return a path, every link on the way to what it leads to, and that; relative to the folder, inside it."""
    found: list[str] = []
    parts = list(Path(path).parts)
    at = folder
    n_links = 0
    while parts:
        part = parts.pop(0)
        at = at.parent if part == ".." else at / part
        if at.is_symlink() and n_links < _MAX_STEPS:
            n_links += 1
            if at.is_relative_to(folder):
                found.append(at.relative_to(folder).as_posix())
            # Joined to a folder, a target from the root begins there again.
            at, parts = at.parent, [*at.readlink().parts, *parts]
    end = Path(os.path.normpath(at))
    if end.is_relative_to(folder):
        found.append(end.relative_to(folder).as_posix())
    return tuple(dict.fromkeys([path, *found]))


def links_in(folder: Path) -> tuple[str, ...]:
    """Return the links in a folder; none is followed to look for more."""
    found = []
    for here, folders, files in os.walk(folder):
        if GIT_FOLDER in folders:
            folders.remove(GIT_FOLDER)
        found += [Path(here, name) for name in (*folders, *files)]
    return tuple(path.relative_to(folder).as_posix() for path in found if path.is_symlink())


def all_steps_to(folder: Path, paths: Iterable[str], links: Iterable[str]) -> frozenset[str]:
    """Return the steps to some paths, and those of every link that lies below one of them.

    Parameters
    ----------
    folder : Path
        Where the paths are.
    paths : iterable of str
        Files or folders.
    links : iterable of str
        All links in the folder.
    """
    found: set[str] = set()
    left = list(paths)
    while left:
        new = set(steps_to(folder, left.pop())) - found
        found |= new
        left += [link for link in links if link not in found and is_below(link, new)]
    return frozenset(found)
