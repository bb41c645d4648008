"""Links: where they lead in a folder, step by step. Nothing outside the folder is looked at."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from action.repository import GIT_FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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


def is_named(path: str, names: Iterable[str]) -> bool:
    """Tell whether a path, or a folder that it lies in, has one of some names."""
    return not set(Path(path).parts).isdisjoint(names)


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


def entries_below(folder: Path, place: str = ".") -> Iterator[str]:
    """Yield everything that lies below a place of a folder, and follow no link on the way down."""
    for here, folders, files in os.walk(folder / place):
        if GIT_FOLDER in folders:
            folders.remove(GIT_FOLDER)
        for name in (*folders, *files):
            yield (Path(here).relative_to(folder) / name).as_posix()


def links_in(folder: Path) -> tuple[str, ...]:
    """Return the links in a folder."""
    return tuple(path for path in entries_below(folder) if (folder / path).is_symlink())


def end_of_link(folder: Path, link: str, target: str) -> str | None:
    """Return where a link would lead with some target; None where that is outside the folder."""
    if Path(target).is_absolute() and not Path(target).is_relative_to(folder):
        return None
    inside = Path(target).relative_to(folder) if Path(target).is_absolute() else Path(link).parent / target
    end = os.path.realpath(folder / inside)
    root = os.path.realpath(folder)
    return Path(end).relative_to(root).as_posix() if Path(end).is_relative_to(root) else None
