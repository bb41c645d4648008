"""Programs, from the folders that the runner names and never from the one that a pull request fills."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_ENDINGS = (".exe",) if os.name == "nt" else ("",)


def find_program(name: str, *, outside: Iterable[Path] = ()) -> str | None:
    """Return the whole path of a program; None where there is none.

    ``shutil.which`` looks into the current folder first on Windows, and into relative entries of PATH anywhere.

    Parameters
    ----------
    name : str
        A name, looked up in the whole entries of PATH, or a path.
    outside : iterable of Path
        Folders in which it must not lie; links followed.
    """
    if os.path.dirname(name):  # noqa: PTH120 (a Path drops the dot of ./name)
        places = [Path(name).absolute()]
    else:
        endings = ("",) if Path(name).suffix in _ENDINGS else _ENDINGS
        folders = [Path(folder) for folder in os.get_exec_path() if Path(folder).is_absolute()]
        places = [folder / f"{name}{ending}" for folder in folders for ending in endings]
    barred = [folder.resolve() for folder in outside]
    for place in places:
        if place.is_file() and os.access(place, os.X_OK):
            ends = (place.resolve(), place.parent.resolve())
            if not any(end.is_relative_to(folder) for end in ends for folder in barred):
                return str(place)
    return None
