"""What a model is compared with: a recording or another checkpoint, opened and held against the run."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from pytest_weightwatcher.baseline import (
    PLUGIN_METRICS,
    Baseline,
    BaselineEntry,
    environment_payload,
    options_payload,
    read_baseline,
)
from pytest_weightwatcher.errors import BaselineError
from pytest_weightwatcher.extensions import NO_EXTENSIONS
from spectral import __version__
from spectral.adapters import adapter_source, is_adapter
from spectral.alignment import shapes_of
from spectral.analysis import AnalysisOptions, Description, MatrixTask, describe
from spectral.attention import QKV
from spectral.description import describe_as
from spectral.loaders import open_model
from spectral.loaders.locations import is_remote

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from pytest_weightwatcher.checks import RegressionRule
    from pytest_weightwatcher.config import Config
    from pytest_weightwatcher.extensions import Extensions
    from spectral.loaders.protocol import TensorSource

BASELINE_SUFFIX = ".json"


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
    description : Description or None
        The checkpoint, where it is one.
    """

    path: Path
    shapes: dict[str, tuple[int, ...]] = field(repr=False)
    n_newly_excluded: int
    recorded: Baseline | None = field(repr=False)
    tasks: dict[str, MatrixTask] = field(repr=False)
    description: Description | None = field(default=None, repr=False)


def read_accepted(
    location: Path, model: Path | None, extensions: Extensions = NO_EXTENSIONS
) -> Baseline | TensorSource:
    """Read a baseline file, or open another checkpoint by its headers.

    Parameters
    ----------
    location : Path
        Where it is.
    model : Path or None
        Where the model is; None where it is in memory.
    extensions : Extensions
        Plugins that may open a checkpoint.

    Raises
    ------
    BaselineError
        It cannot be read or is none for this model.
    """
    if model is not None and _is_same(location, model):
        raise BaselineError(f"{location}: the baseline is the model itself, so that every comparison would pass")
    if location.suffix == BASELINE_SUFFIX:
        return read_baseline(location)
    if not location.exists():
        raise BaselineError(f"{location}: no such baseline: give a recorded {BASELINE_SUFFIX} file or a checkpoint")
    opened = extensions.open_with(location)
    return adapter_source(location) if opened is location and is_adapter(location) else open_model(opened)


def _is_same(location: Path, model: Path) -> bool:
    if is_remote(location) or is_remote(model):
        return location == model
    return location.exists() and model.exists() and location.samefile(model)


def describe_as_accepted(description: Description, accepted: Baseline | TensorSource) -> Description:
    """Return a model with its tensors named and laid out as those of the accepted state that it was made from."""
    if not isinstance(accepted, Baseline):
        return describe_as(description, shapes_of(accepted))
    # A recording knows layers, which are called as their tensors are without the ending.
    shapes = {f"{_whole(name)}.weight": entry.record.shape for name, entry in accepted.entries.items()}
    return describe_as(description, shapes | {name: each.shape for name, each in (accepted.tensors or {}).items()})


def _whole(name: str) -> str:
    """Return the layer that one of three fused projections belongs to."""
    whole, dot, part = name.rpartition(".")
    return whole if dot and part in QKV else name


def open_baseline(accepted: Baseline | TensorSource, location: Path, description: Description) -> BaselineSource:
    """Hold what was read of a baseline against the model."""
    if isinstance(accepted, Baseline):
        return open_recorded(accepted, location, description)
    return open_checkpoint(accepted, location, description)


def open_checkpoint(model: object, location: Path, description: Description) -> BaselineSource:
    """Open an accepted checkpoint, or a model in memory, as a baseline."""
    other = describe(model, description.options)
    if not other.matrices:
        raise BaselineError(f"{location}: the baseline holds no matrices")
    tasks = {task.spec.name: task for task in other.tasks()}
    shapes = {name: task.spec.shape for name, task in tasks.items()}
    return BaselineSource(
        path=location, shapes=shapes, n_newly_excluded=0, recorded=None, tasks=tasks, description=other
    )


def open_recorded(recorded: Baseline, location: Path, description: Description) -> BaselineSource:
    """Check a recording against the model it is for."""
    if not recorded.entries:
        raise BaselineError(f"{location}: the baseline holds no matrices")
    fit = recorded.options.get("fit")
    if fit != description.options.fit:
        # Tails fitted by another law have alphas that cannot be compared.
        raise BaselineError(
            f"{location}: recorded with fit {str(fit)[:40]!r}, this run has {description.options.fit!r}; "
            "record it anew with --ww-update-baseline"
        )
    for spec in description.matrices:
        entry = recorded.entries.get(spec.name)
        if entry is not None and entry.record.shape == spec.shape and entry.record.n_evals != spec.n_evals:
            raise BaselineError(
                f"{location}: matrix {spec.name[:200]!r}: {entry.record.n_evals} eigenvalues, a matrix of its shape "
                f"has {spec.n_evals}"
            )
    excluded = set(_excluded(recorded.entries, description.options.exclude))
    return BaselineSource(
        path=location,
        shapes={name: entry.record.shape for name, entry in recorded.entries.items() if name not in excluded},
        n_newly_excluded=len(excluded),
        recorded=recorded,
        tasks={},
    )


def check_plugin_metrics(
    baseline: BaselineSource, config: Config, rules: Mapping[str, tuple[RegressionRule, ...]]
) -> None:
    """Refuse to compare metrics of plugins that the baseline lacks or that were computed in another way then."""
    if baseline.recorded is None:
        return
    recorded = baseline.recorded.options.get(PLUGIN_METRICS)
    asked = {rule.quantity for each in rules.values() for rule in each}
    for name, version in config.extensions.versions.items():
        before = recorded.get(name) if isinstance(recorded, dict) else None
        if name in asked and before != version:
            was = "without" if before is None else f"with version {str(before)[:40]!r} of"
            raise BaselineError(
                f"{baseline.path}: recorded {was} the metric {name!r}, this run has version {version!r}; record it "
                "anew with --ww-update-baseline"
            )


def known_matrices(
    baseline: BaselineSource, options: AnalysisOptions, extensions: Extensions
) -> dict[str, BaselineEntry]:
    """Return the entries whose numbers this run would compute again, by content."""
    recorded = baseline.recorded
    if recorded is None or recorded.version != __version__:
        return {}
    if numbers_of(options_payload(options, extensions.versions)) != numbers_of(recorded.options):
        return {}
    return {entry.record.content_hash: entry for entry in recorded.entries.values()}


def notes_on(baseline: BaselineSource, options: AnalysisOptions, extensions: Extensions) -> tuple[str, ...]:
    """Return how the recording differs from this run, in what its numbers depend on."""
    recorded = baseline.recorded
    if recorded is None:
        return ()
    differences = [
        f"{name} {str(recorded.options.get(name))[:60]} (now {'none' if value is False else value})"
        for name, value in {PLUGIN_METRICS: False, **options_payload(options, extensions.versions)}.items()
        if recorded.options.get(name, False) != value
    ]
    differences += [
        f"{name} {recorded.environment.get(name, 'unknown')[:60]} (now {value})"
        for name, value in environment_payload().items()
        if recorded.environment.get(name) != value
    ]
    if recorded.version != __version__:
        differences.append(f"version {recorded.version[:60]} (now {__version__}): nothing is reused")
    return (f"the baseline was recorded with {', '.join(differences)}",) if differences else ()


def numbers_of(options: Mapping[str, object]) -> dict[str, object]:
    """Return the recorded options on which the numbers of a matrix depend: not which matrices there are."""
    return {key: value for key, value in options.items() if key != "exclude"}


def _excluded(names: Mapping[str, BaselineEntry], patterns: Sequence[str]) -> Iterator[str]:
    return (name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns))
