"""The few expressions that ``action.yml`` may use, evaluated; anything else raises, so that it stays within them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_WHOLE = re.compile(r"\$\{\{(.*?)\}\}")
_NAME = re.compile(r"(inputs|github)\.([a-z_-]+)|steps\.([a-z-]+)\.outputs\.([a-z-]+)")
_STRING = re.compile(r"'([^']*)'")


@dataclass(frozen=True, kw_only=True)
class Context:
    inputs: Mapping[str, str]
    github: Mapping[str, str] = field(default_factory=dict)
    steps: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    is_failed: bool = False


def fill(text: str, context: Context) -> str:
    """Return a text with each ``${{ }}`` in it replaced."""
    return _WHOLE.sub(lambda match: _value(match.group(1).strip(), context), text)


def is_true(condition: str, context: Context) -> bool:
    """Tell whether a step runs. As on the runner, a condition without a status function asks for success, too."""
    match = _WHOLE.fullmatch(condition.strip())
    if match is None:
        raise NotImplementedError(condition)
    parts = [part.strip() for part in match.group(1).split("&&")]
    holding = [_holds(part, context) for part in parts]
    return all(holding) and ("!cancelled()" in parts or not context.is_failed)


def _holds(part: str, context: Context) -> bool:
    if part == "!cancelled()":
        return True
    for sign in ("==", "!="):
        left, found, right = part.partition(sign)
        if found:
            return (_value(left.strip(), context) == _value(right.strip(), context)) == (sign == "==")
    raise NotImplementedError(part)


def _value(term: str, context: Context) -> str:
    string = _STRING.fullmatch(term)
    if string is not None:
        return string.group(1)
    name = _NAME.fullmatch(term)
    if name is None:
        raise NotImplementedError(term)
    group, key, step, output = name.groups()
    if group == "inputs":
        return context.inputs[key]
    if group == "github":
        return context.github[key]
    return context.steps.get(step, {}).get(output, "")
