"""Analyses of one session, each made once: what the fixture ``ww_analyze`` remembers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pytest_weightwatcher.judging import share_of_cores
from spectral.analysis import Analysis, analyze, describe
from spectral.execution import single_threaded_blas
from spectral.loaders.locations import as_location, as_text, is_remote
from spectral.pipeline import content_hash
from spectral.weights import load_matrix

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from spectral.adapters import AdapterMode
    from spectral.options import AnalysisOptions


class _Entry(NamedTuple):
    """An analysis, and the models it was made of: while these are held, no other object has their identity."""

    analysis: Analysis
    models: tuple[object, object]


class AnalysisCache:
    """Analyses by what was analysed and how.

    A path stands for the file as it is now: name, size and time of change, and those of what lies beside it where more
    than one file makes a model. A model in memory is known by its identity, and its weights are compared by their
    hashes before an analysis is given again: it may have been trained meanwhile.
    """

    def __init__(self) -> None:
        self._entries: dict[Hashable, _Entry] = {}

    def analyze(
        self,
        model: object,
        options: AnalysisOptions,
        *,
        base_model: object = None,
        peft: AdapterMode | None = None,
    ) -> Analysis:
        """Return :func:`spectral.analyze` of a model, made now or before."""
        key = (_key_of(model), _key_of(base_model), peft, options)
        entry = self._entries.get(key)
        is_in_memory = not (_is_path(model) and (base_model is None or _is_path(base_model)))
        if entry is not None and is_in_memory and not _is_current(entry, options, peft):
            entry = None
        if entry is None:
            found = analyze(model, options, base_model=base_model, peft=peft, n_workers=share_of_cores())
            entry = self._entries[key] = _Entry(found, (model, base_model))
        return entry.analysis


def _is_path(model: object) -> bool:
    return isinstance(model, (str, os.PathLike))


def _key_of(model: object) -> Hashable:
    if not isinstance(model, (str, os.PathLike)):
        return None if model is None else id(model)
    place = as_location(as_text(os.fsdecode(model), Path.cwd()))
    if is_remote(place):
        return os.fspath(place), *_remote_state(place)
    path = Path(os.path.realpath(place))
    return (str(path), *(_state_of(file) for file in _files_of(path)))


def _remote_state(path: Path) -> tuple[int, str]:
    """Return size and tag of a file behind a URL; what else makes a model is taken to change with it."""
    state = path.stat()
    return state.st_size, getattr(state, "tag", "")


def _files_of(path: Path) -> Iterator[Path]:
    """Give the files that make a model: those of a folder, or a file and what configures it."""
    if path.is_dir():
        yield from sorted(file for file in path.rglob("*") if file.is_file())
    elif path.exists():
        yield path
        yield from sorted(path.parent.glob("*config.json"))


def _state_of(path: Path) -> tuple[str, int, int]:
    state = path.stat()
    return str(path), state.st_size, state.st_mtime_ns


def _is_current(entry: _Entry, options: AnalysisOptions, peft: AdapterMode | None) -> bool:
    """Tell whether a model in memory still has the weights that were analysed."""
    model, base_model = entry.models
    description = describe(model, options, base_model=base_model, peft=peft)
    if description.matrices != entry.analysis.description.matrices:
        return False
    with single_threaded_blas():
        return all(
            content_hash(load_matrix(description.source, spec)) == layer.content_hash
            for spec, layer in zip(description.matrices, entry.analysis.layers, strict=True)
        )
