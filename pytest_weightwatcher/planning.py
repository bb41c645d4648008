"""Which models a run checks, by what limits and against what; all opened by their headers, nothing analysed."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_weightwatcher.baseline import Baseline, BaselineEntry, options_payload, read_baseline
from pytest_weightwatcher.config import Config, layer_rules
from pytest_weightwatcher.errors import BaselineError
from pytest_weightwatcher.files import is_inside
from spectral.analysis import Description, MatrixTask, describe
from spectral.errors import ModelNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_weightwatcher.checks import Rule

BASELINE_SUFFIX = ".json"
_PATTERN_CHARACTERS = frozenset("*?[")


@dataclass(frozen=True, kw_only=True)
class CheckedModel:
    """One model of the run, opened by its headers.

    Attributes
    ----------
    name : str
        Short name, unique in its ww.yaml: the file name where that is enough.
    path : Path
        Where it is.
    folder : Path
        The folder of its ww.yaml, or where one would be.
    description : Description
        Its matrices.
    config : Config
        The configuration it is judged by.
    rules : mapping of str to tuple of Rule
        The absolute limits of each layer.
    baseline : BaselineSource or None
        What it is compared with.
    record_to : Path or None
        Where its baseline is to be recorded.
    """

    name: str
    path: Path
    folder: Path
    description: Description = field(repr=False)
    config: Config = field(repr=False)
    rules: Mapping[str, tuple[Rule, ...]] = field(repr=False)
    baseline: BaselineSource | None = None
    record_to: Path | None = None


@dataclass(frozen=True, kw_only=True)
class BaselineSource:
    """An accepted state: a baseline file read whole, or a checkpoint analysed matrix by matrix.

    Attributes
    ----------
    path : Path
        Where it is.
    shapes : dict of str to tuple of int
        Its layers that this run does not exclude.
    n_newly_excluded : int
        Its layers that this run excludes, though the recording did not.
    recorded : Baseline or None
        The file, where it is one.
    tasks : dict of str to MatrixTask
        How to analyse its layers, where it is a checkpoint.
    """

    path: Path
    shapes: dict[str, tuple[int, ...]] = field(repr=False)
    n_newly_excluded: int
    recorded: Baseline | None = field(repr=False)
    tasks: dict[str, MatrixTask] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the options of a run ask for, beyond its ww.yaml.

    Attributes
    ----------
    patterns : tuple of str
        Paths or shell patterns of models; where there are any, they replace those of ww.yaml.
    folder : Path
        What these are relative to.
    baseline : str or None
        Goes before the baselines of ww.yaml.
    update_baseline : bool
        Record instead of compare.
    """

    patterns: tuple[str, ...]
    folder: Path
    baseline: str | None
    update_baseline: bool


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    path: Path
    baseline: str | None
    is_of_config: bool


def plan_models(config: Config, wish: Wish, folder: Path) -> tuple[CheckedModel, ...]:
    """Open the models of a run by their headers.

    Parameters
    ----------
    config : Config
        Limits; also models and baselines.
    wish : Wish
        What the options ask for.
    folder : Path
        What relative paths of ww.yaml are relative to.

    Raises
    ------
    ConfigError, BaselineError, ModelError
        Something is missing or unusable; nothing has been analysed yet.
    """
    wanted = _wanted_models(config, wish, folder)
    models = []
    for want, name in zip(wanted, _short_names([want.path for want in wanted]), strict=True):
        options = config.analysis
        description = describe(want.path, fit=options.fit, min_evals=options.min_evals, exclude=options.exclude)
        if not description.matrices:
            raise ModelNotFoundError(
                f"{want.path}: holds no weight matrix to check (see the formats and layers in the docs)"
            )
        location = _baseline_path(want)
        if wish.update_baseline and want.is_of_config and location is not None and not is_inside(location, folder):
            raise config.error(("models",), f"the baseline {location} is outside the folder of ww.yaml")
        models.append(
            CheckedModel(
                name=name,
                path=want.path,
                folder=folder,
                description=description,
                config=config,
                rules={spec.name: layer_rules(config, spec.name) for spec in description.matrices},
                baseline=None if wish.update_baseline else _open_baseline(location, want.path, description),
                record_to=_where_to_record(location, want.path) if wish.update_baseline else None,
            )
        )
    targets = [model.record_to for model in models if model.record_to is not None]
    if len(set(targets)) < len(targets):
        raise BaselineError(f"several models would be recorded to {targets[0]}; use {{stem}} in the baseline's path")
    return tuple(models)


def recorded_baseline(model: CheckedModel, entries: Mapping[str, BaselineEntry], *, is_filtered: bool) -> Baseline:
    """Return what to record for a model: the new entries over those that a filtered run did not reach.

    Raises
    ------
    BaselineError
        Layers are missing, and neither a filter of the user nor an older recording accounts for them.
    """
    assert model.record_to is not None
    names = {spec.name for spec in model.description.matrices}
    missing = sorted(names - entries.keys())
    kept: Mapping[str, BaselineEntry] = {}
    if missing:
        if not is_filtered:
            raise BaselineError(f"{model.record_to}: not recorded: the run ended before {missing[0]} was analysed")
        kept = read_baseline(model.record_to).entries if model.record_to.exists() else {}
        unknown = [name for name in missing if name not in kept]
        if unknown:
            raise BaselineError(
                f"{model.record_to}: not recorded: a filtered run can only change a recording, and there is none of "
                f"{unknown[0]}"
            )
    return Baseline(
        label=str(model.record_to), options=options_payload(model.description.options), entries={**kept, **entries}
    )


def _wanted_models(config: Config, wish: Wish, folder: Path) -> list[_Wanted]:
    """Return every model once, in order, with its baseline."""
    configured: dict[str, _Wanted] = {}
    for index, entry in enumerate(config.models):
        paths = _expand(entry.path, folder)
        if not paths and not wish.patterns:
            raise config.error(("models", index, "path"), f"no file matches {entry.path!r}")
        for path in paths:
            baseline = str(folder / entry.baseline) if entry.baseline else None
            known = configured.setdefault(
                os.path.realpath(path), _Wanted(path=path, baseline=baseline, is_of_config=True)
            )
            if known.baseline != baseline:
                raise config.error(("models", index), f"{path.name!r} has another baseline in an earlier entry")
    wanted = configured
    if wish.patterns:
        wanted = {}
        for pattern in wish.patterns:
            paths = _expand(pattern, wish.folder)
            if not paths:
                raise ModelNotFoundError(f"{wish.folder / pattern}: no file matches")
            for path in paths:
                real = os.path.realpath(path)
                baseline = configured[real].baseline if real in configured else None
                wanted.setdefault(real, _Wanted(path=path, baseline=baseline, is_of_config=True))
    if wish.baseline is None:
        return list(wanted.values())
    return [_Wanted(path=want.path, baseline=wish.baseline, is_of_config=False) for want in wanted.values()]


def _expand(pattern: str, folder: Path) -> list[Path]:
    """Expand a shell pattern below a folder whose own name is no pattern; a file of that very name counts, too."""
    literal = folder / pattern
    found = {os.path.normpath(literal)} if os.path.lexists(literal) or not _PATTERN_CHARACTERS & set(pattern) else set()
    if _PATTERN_CHARACTERS & set(pattern):
        matches = glob.glob(pattern, root_dir=folder, recursive=True)  # noqa: PTH207 (Path.glob takes no absolute ones)
        found |= {os.path.normpath(folder / match) for match in matches}
    return [Path(path) for path in sorted(found)]


def _short_names(paths: Sequence[Path]) -> list[str]:
    """Return file names, or the shortest path endings that tell equal file names apart."""
    names = [path.name for path in paths]
    depth = 1
    while len(set(names)) < len(set(paths)) and depth < 50:
        depth += 1
        names = ["/".join(path.parts[-depth:]) if names.count(path.name) != 1 else path.name for path in paths]
    return names


def _baseline_path(want: _Wanted) -> Path | None:
    if want.baseline is None:
        return None
    # The name of a folder has no suffix to cut: llama-3.1 and llama-3.2 are two models.
    stem = want.path.name if want.path.is_dir() else want.path.stem
    return Path(os.path.normpath(want.baseline.replace("{stem}", stem)))


def _where_to_record(location: Path | None, model: Path) -> Path:
    if location is None:
        raise BaselineError(f"{model}: nowhere to record its baseline: give --ww-baseline or models[].baseline")
    if location.suffix != BASELINE_SUFFIX:
        raise BaselineError(f"{location}: a baseline is recorded to a {BASELINE_SUFFIX} file")
    if location.exists():
        # Reading it now refuses, before any work, to write over a file that is something else.
        read_baseline(location)
    return location


def _open_baseline(location: Path | None, model: Path, description: Description) -> BaselineSource | None:
    if location is None:
        return None
    if location.exists() and location.samefile(model):
        raise BaselineError(f"{location}: the baseline is the model itself, so that every comparison would pass")
    if location.suffix == BASELINE_SUFFIX:
        return _open_recorded(location, description)
    if not location.exists():
        raise BaselineError(f"{location}: no such baseline: give a recorded {BASELINE_SUFFIX} file or a checkpoint")
    options = description.options
    other = describe(location, fit=options.fit, min_evals=options.min_evals, exclude=options.exclude)
    if not other.matrices:
        raise BaselineError(f"{location}: the baseline holds no matrices")
    tasks = {task.spec.name: task for task in other.tasks()}
    shapes = {name: task.spec.shape for name, task in tasks.items()}
    return BaselineSource(path=location, shapes=shapes, n_newly_excluded=0, recorded=None, tasks=tasks)


def _open_recorded(location: Path, description: Description) -> BaselineSource:
    recorded = read_baseline(location)
    if not recorded.entries:
        raise BaselineError(f"{location}: the baseline holds no matrices")
    fit = recorded.options.get("fit")
    if fit != description.options.fit:
        # Tails fitted by another law have alphas that cannot be compared.
        raise BaselineError(
            f"{location}: recorded with fit {fit!r}, this run has {description.options.fit!r}; "
            "record it anew with --ww-update-baseline"
        )
    for spec in description.matrices:
        entry = recorded.entries.get(spec.name)
        if entry is not None and entry.shape == spec.shape and entry.n_evals != spec.n_evals:
            raise BaselineError(
                f"{location}: matrix {spec.name[:200]!r}: {entry.n_evals} eigenvalues, a matrix of its shape has "
                f"{spec.n_evals}"
            )
    excluded = list(_excluded(recorded.entries, description.options.exclude))
    return BaselineSource(
        path=location,
        shapes={name: entry.shape for name, entry in recorded.entries.items() if name not in set(excluded)},
        n_newly_excluded=len(excluded),
        recorded=recorded,
        tasks={},
    )


def _excluded(names: Mapping[str, BaselineEntry], patterns: Sequence[str]) -> Iterator[str]:
    return (name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns))
