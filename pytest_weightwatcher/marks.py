"""What ``@pytest.mark.ww(...)`` on a test of the user's own says about its fixtures."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_weightwatcher.errors import GateError
from pytest_weightwatcher.options import MAX_SEED, PROFILE_NAMES
from pytest_weightwatcher.suggestions import suggest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pytest

MARKER = "ww"


class MarkError(GateError, ValueError):
    """A marker that says something impossible."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What the markers of a test say; None where they say nothing. Paths are absolute.

    Attributes
    ----------
    model : Path or None
        The checkpoint that ``ww_model`` is.
    baseline : Path or None
        What ``ww_baseline`` is; may contain ``{stem}``.
    profile : str or None
        The question asked beside the baseline.
    seed : int or None
        Of everything random.
    config : Path or None
        The ww.yaml that ``ww_config`` is.
    """

    model: Path | None = None
    baseline: Path | None = None
    profile: str | None = None
    seed: int | None = None
    config: Path | None = None


def read_mark(node: pytest.Item | pytest.Function) -> Mark:
    """Return what the markers of a test say: the nearest one goes before that of its class and module.

    Raises
    ------
    MarkError
        A keyword is unknown, or a value impossible.
    """
    said: dict[str, Any] = {}
    known = tuple(field.name for field in fields(Mark))
    for marker in node.iter_markers(MARKER):
        if marker.args:
            raise MarkError(f"marker ww: takes keywords only ({', '.join(known)}), got {marker.args[0]!r:.80}")
        for name, value in marker.kwargs.items():
            if name not in known:
                raise MarkError(f"marker ww: there is no {name!r:.80}{suggest(name, known)}")
            said.setdefault(name, value)
    # A relative path is relative to the file that says it, as in ini files and ww.yaml.
    folder = node.path.parent
    return Mark(**{name: _READERS[name](name, value, folder) for name, value in said.items()})


def names_a_model(definition: pytest.Item) -> bool:
    """Tell whether a marker chooses the model, right or wrong."""
    return any("model" in marker.kwargs for marker in definition.iter_markers(MARKER))


def _read_path(name: str, value: Any, folder: Path) -> Path:
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
        raise MarkError(f"marker ww: {name} must be a path, got {value!r:.80}")
    from spectral.loaders.locations import as_location, as_text, is_place_elsewhere

    text = as_text(os.fsdecode(value), folder)
    return as_location(text) if is_place_elsewhere(text) else Path(os.path.abspath(text))


def _read_profile(name: str, value: Any, _: Path) -> str:
    if value not in PROFILE_NAMES:
        raise MarkError(f"marker ww: there is no {name} {value!r:.80}{suggest(str(value), PROFILE_NAMES)}")
    return str(value)


def _read_seed(name: str, value: Any, _: Path) -> int:
    if type(value) is not int or not 0 <= value <= MAX_SEED:
        raise MarkError(f"marker ww: {name} must be an integer from 0 to {MAX_SEED}, got {value!r:.80}")
    return int(value)


_READERS: Mapping[str, Callable[[str, Any, Path], Any]] = {
    "model": _read_path,
    "baseline": _read_path,
    "profile": _read_profile,
    "seed": _read_seed,
    "config": _read_path,
}
