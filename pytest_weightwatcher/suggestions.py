"""What somebody may have meant who wrote a name that does not exist."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_MAX_LISTED = 12


def suggest(name: str, known: Iterable[str]) -> str:
    """Return the end of an error about a name: the nearest known one, or those there are."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    rest = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return f"; known are {', '.join(names[:_MAX_LISTED])}{rest}"
