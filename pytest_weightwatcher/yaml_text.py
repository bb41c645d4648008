"""Pieces of a ww.yaml as text. Names come from checkpoints, which are not trusted: YAML reads back exactly these."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import yaml

from pytest_weightwatcher.nodeids import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

N_DIGITS = 2
"""Significant digits of proposed limits."""

_WIDEST = 10**9
_LARGEST_WHOLE = 10**15


def quote(text: str) -> str:
    """Return a text as one double-quoted scalar on one line, in ASCII."""
    return yaml.safe_dump(text, default_style='"', allow_unicode=False, width=_WIDEST).rstrip("\n")


def pattern_of(name: str) -> str:
    """Return the shell pattern that matches this name and no other, but for halves of surrogate pairs.

    These no file can hold, so that a ``?`` stands for them.
    """
    return re.sub(r"[\ud800-\udfff]", "?", re.sub(r"([*?[])", r"[\1]", name))


def quote_pattern(name: str) -> str:
    """Return the scalar of the pattern that matches exactly a name."""
    return quote(pattern_of(name))


def comment(text: str) -> str:
    """Return a text as a comment: whatever is in it, it stays on its line."""
    return f"# {printable(text)}"


def number(value: float) -> str:
    """Return a number as YAML reads it back: a bare 1e+20 would be text to it."""
    if abs(value) < _LARGEST_WHOLE and value == int(value):
        return str(int(value))
    return yaml.safe_dump(float(value)).split("\n")[0]


def round_up(value: float, digits: int = N_DIGITS) -> float:
    """Return the next number of so many significant digits that is not below a value."""
    return _rounded(value, digits, is_up=True)


def round_down(value: float, digits: int = N_DIGITS) -> float:
    """Return the next number of so many significant digits that is not above a value."""
    return _rounded(value, digits, is_up=False)


def _rounded(value: float, digits: int, *, is_up: bool) -> float:
    if value == 0.0 or not math.isfinite(value):
        return value
    exponent = math.floor(math.log10(abs(value))) - digits + 1
    # Through decimal text, so that 0.7 does not become 0.7000000000000001.
    step = int(f"{value / 10.0**exponent:.0f}")
    found = float(f"{step}e{exponent}")
    if (found < value) if is_up else (found > value):
        found = float(f"{step + (1 if is_up else -1)}e{exponent}")
    return found


def indent(lines: Iterable[str], by: int) -> list[str]:
    """Return lines further to the right."""
    return [" " * by + line if line else line for line in lines]
