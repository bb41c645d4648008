"""Which models a run checks, by what limits and against what; all opened by their headers, nothing analysed."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_weightwatcher.adapted import FINETUNE, is_of_adapter, notes_on_adapter, open_checked, put_on_base
from pytest_weightwatcher.baseline import EXTRA_ANALYSES, read_baseline
from pytest_weightwatcher.baseline_source import (
    BASELINE_SUFFIX,
    check_plugin_metrics,
    describe_as_accepted,
    known_matrices,
    notes_on,
    open_baseline,
    read_accepted,
)
from pytest_weightwatcher.checks import CORRELATION_TRAPS, DRIFT, NEEDS_BOTH_CHECKPOINTS, NOISE, OF_ROUNDING, TURN
from pytest_weightwatcher.comparison import DRIFT_EVALS
from pytest_weightwatcher.errors import BaselineError
from pytest_weightwatcher.files import is_inside
from pytest_weightwatcher.limits import (
    idle_limits,
    layer_rules,
    model_regression_rules,
    model_rules,
    profile_of,
    regression_rules,
)
from pytest_weightwatcher.matching import unpaired_layers
from pytest_weightwatcher.options import CONFIG_NAME
from spectral.analysis import AnalysisOptions, Description, describe
from spectral.description import EXCLUDED_BY_OPTION
from spectral.errors import ModelError, ModelNotFoundError
from spectral.largest import LARGEST_WEIGHT
from spectral.loaders.hub_cache import cached_name, is_model_id, nothing_there
from spectral.loaders.locations import as_location, as_text, identity, is_place_elsewhere, is_remote

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_weightwatcher.baseline import Baseline, BaselineEntry
    from pytest_weightwatcher.baseline_source import BaselineSource
    from pytest_weightwatcher.checks import RegressionRule, Rule
    from pytest_weightwatcher.config import Config
    from pytest_weightwatcher.profiles import Profile
    from pytest_weightwatcher.yaml_source import Location

_PATTERN_CHARACTERS = frozenset("*?[")
_STEM, _FOLDER = "{stem}", "{folder}"


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
    model_rules : tuple of Rule
        Those of the model as a whole.
    profile : Profile
        The question that is asked of it beside its baseline.
    regression_rules : mapping of str to tuple of RegressionRule
        Limits against the baseline, of each layer that may have a partner there.
    model_regression_rules : tuple of RegressionRule
        Those of the model as a whole.
    baseline : BaselineSource or None
        What it is compared with.
    known : mapping of str to BaselineEntry
        Content hash -> entry, for matrices that need not be computed again.
    recording : Recording or None
        What is to be recorded.
    notes : tuple of str
        What a reader should know: how run and recording differ.
    n_models : int
        Models that share the false-alarm rate of the run.
    line : int or None
        Line of ww.yaml at which its entry begins.
    """

    name: str
    path: Path
    folder: Path
    description: Description = field(repr=False)
    config: Config = field(repr=False)
    rules: Mapping[str, tuple[Rule, ...]] = field(repr=False)
    model_rules: tuple[Rule, ...] = field(repr=False)
    profile: Profile = field(repr=False)
    regression_rules: Mapping[str, tuple[RegressionRule, ...]] = field(default_factory=dict, repr=False)
    model_regression_rules: tuple[RegressionRule, ...] = field(default=(), repr=False)
    baseline: BaselineSource | None = None
    known: Mapping[str, BaselineEntry] = field(default_factory=dict, repr=False)
    recording: Recording | None = None
    notes: tuple[str, ...] = ()
    n_models: int = 1
    line: int | None = None


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What a run is to record of a model.

    Attributes
    ----------
    path : Path
        The baseline file.
    before : Baseline or None
        What it held when the run began; None where there was no file.
    mode : {"all", "new_only", "ratchet"}
        Every layer, those that it does not hold yet, or those that are no worse than what it holds.
    """

    path: Path
    before: Baseline | None = field(repr=False)
    mode: str


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
    new_only : bool
        Compare, and record the layers that the baseline does not hold yet.
    profile : str or None
        Goes before the profile of ww.yaml.
    seed : int or None
        Goes before the seed of ww.yaml.
    """

    patterns: tuple[str, ...] = ()
    folder: Path
    baseline: str | None = None
    update_baseline: bool = False
    new_only: bool = False
    profile: str | None = None
    seed: int | None = None

    @property
    def is_recording(self) -> bool:
        """Whether anything is to be recorded."""
        return self.update_baseline or self.new_only


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    path: Path
    baseline: str | None
    is_of_config: bool
    line: int | None = None


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
    _check_shown_apart(wanted)
    if wish.is_recording:
        _check_own_recordings(wanted)
    models = [
        _plan_model(want, name, config, wish, folder, n_models=len(wanted))
        for want, name in zip(wanted, _short_names([want.path for want in wanted]), strict=True)
    ]
    _check_shared_recordings(models)
    idle = (*_idle_patterns(config, models), *_idle_limits(config, models))
    if idle:
        # Of the run, so said once.
        models[0] = replace(models[0], notes=(*models[0].notes, *idle))
    return tuple(models)


def _idle_limits(config: Config, models: Sequence[CheckedModel]) -> tuple[str, ...]:
    """Say which entries under ``regression`` change a limit that the profiles of this run do not have."""
    profiles = {model.profile.name: model.profile for model in models if model.baseline is not None}
    places = {place: name for profile in profiles.values() for place, name in idle_limits(config, profile)}
    return tuple(
        f"line {config.line_of(place)} of {_name_of(config)}: regression: {name} gives no limit, and the profile "
        f"{', '.join(profiles)} has none: it is not compared"
        for place, name in places.items()
    )


def _name_of(config: Config) -> str:
    return CONFIG_NAME if config.path is None else config.path.name


def _idle_patterns(config: Config, models: Sequence[CheckedModel]) -> tuple[str, ...]:
    """Say which patterns of a ww.yaml match no layer of any model: a slip of the pen switches limits off silently."""
    names = {spec.name for model in models for spec in model.description.matrices}
    excluded = {tensor.layer for model in models for tensor in model.description.unanalysed}
    patterns: list[tuple[Location, str, set[str]]] = [
        (("overrides", index, "match"), override.match, names | excluded)
        for index, override in enumerate(config.overrides)
    ]
    patterns += [
        (("analysis", "exclude", index), pattern, excluded) for index, pattern in enumerate(config.analysis.exclude)
    ]
    return tuple(
        f"line {config.line_of(place)} of {_name_of(config)}: {place[0]}: no layer is called {pattern!r:.80}"
        for place, pattern, known in patterns
        if not any(fnmatchcase(name, pattern) for name in known)
    )


def plan_model(
    description: Description,
    config: Config,
    *,
    name: str,
    baseline: BaselineSource | None = None,
    profile: str | None = None,
    path: Path | None = None,
    folder: Path | None = None,
    recording: Recording | None = None,
    n_models: int = 1,
    line: int | None = None,
) -> CheckedModel:
    """Put together what a described model is judged by.

    Parameters
    ----------
    description : Description
        The model, opened with :func:`gate_options`.
    config : Config
        Limits.
    name : str
        Short name.
    baseline : BaselineSource, optional
        What it is compared with.
    profile : str, optional
        Goes before the profile of ``config``.
    path, folder : Path, optional
        Where it is; neither is read.
    recording : Recording, optional
        What is to be recorded of it.
    n_models : int
        Models that share the false-alarm rate.
    line : int, optional
        Of ww.yaml, where its entry stands.
    """
    if is_of_adapter(description.source):
        profile = profile or config.regression.profile or FINETUNE
    chosen = profile_of(config, profile)
    compared = {} if baseline is None else _paired_rules(config, chosen, description, baseline)
    if baseline is not None:
        check_plugin_metrics(baseline, config, compared)
    return CheckedModel(
        name=name,
        path=path or Path(name),
        folder=folder or Path(),
        description=description,
        config=config,
        rules={
            spec.name: tuple(
                rule
                for rule in layer_rules(config, spec.name)
                # Beside a baseline it is news that counts, unless ww.yaml asks for both.
                if rule.line is not None or spec.name not in compared or rule.check not in (CORRELATION_TRAPS, NOISE)
            )
            for spec in description.matrices
        },
        model_rules=model_rules(config),
        profile=chosen,
        regression_rules=compared,
        model_regression_rules=() if baseline is None else model_regression_rules(config, chosen),
        baseline=baseline,
        known={} if baseline is None else known_matrices(baseline, description.options, config.extensions),
        recording=recording,
        notes=() if baseline is None else notes_on(baseline, description.options, config.extensions),
        n_models=n_models,
        line=line,
    )


def gate_options(
    config: Config, *, seed: int | None = None, is_recording: bool = False, has_baseline: bool = False
) -> AnalysisOptions:
    """Return what is computed of every matrix: what ww.yaml says, and what its checks need."""
    analysis = config.analysis
    is_compared = has_baseline or is_recording
    regression = config.regression.limits()
    options = AnalysisOptions(
        fit=analysis.fit,
        min_evals=analysis.min_evals,
        exclude=analysis.exclude,
        seed=analysis.seed if seed is None else seed,
        false_alarm_rate=analysis.false_alarm_rate,
        traps=is_recording
        or _is_wanted(config, CORRELATION_TRAPS)
        or (is_compared and _is_on(regression, CORRELATION_TRAPS)),
        noise_test=is_recording or _is_wanted(config, NOISE) or (is_compared and _is_on(regression, NOISE)),
        projections=is_compared or _is_asked_for(config, LARGEST_WEIGHT),
    )
    return options.changed({option: getattr(analysis, option) for option in EXTRA_ANALYSES})


def _plan_model(want: _Wanted, name: str, config: Config, wish: Wish, folder: Path, *, n_models: int) -> CheckedModel:
    location = _baseline_path(want)
    options = gate_options(config, seed=wish.seed, is_recording=wish.is_recording, has_baseline=location is not None)
    description = describe(open_checked(want.path, config.extensions), options)
    if not description.matrices:
        raise ModelNotFoundError(f"{want.path}: {_why_empty(description)}")
    notes = notes_on_adapter(description)
    if wish.is_recording and want.is_of_config and location is not None and not is_inside(location, folder):
        raise config.error(("models",), f"the baseline {location} is outside the folder of ww.yaml")
    recording = _plan_recording(location, want.path, config, wish) if wish.is_recording else None
    accepted = None
    if recording is None:
        accepted = None if location is None else read_accepted(location, want.path, config.extensions)
    elif recording.mode != "all":
        accepted = recording.before
    baseline = None
    if accepted is not None and location is not None:
        description = put_on_base(description, want.path, accepted, location)
        notes = notes_on_adapter(description)
        description = describe_as_accepted(description, accepted)
        baseline = open_baseline(accepted, location, description)
    planned = plan_model(
        description,
        config,
        name=name,
        path=want.path,
        folder=folder,
        baseline=baseline,
        profile=wish.profile,
        recording=recording,
        n_models=n_models,
        line=want.line,
    )
    return replace(planned, notes=(*notes, *planned.notes))


def _why_empty(description: Description) -> str:
    if any(tensor.reason == EXCLUDED_BY_OPTION for tensor in description.unanalysed):
        return "holds no weight matrix to check but those that analysis.exclude of ww.yaml leaves out"
    return "holds no weight matrix to check (see the formats and layers in the docs)"


def _plan_recording(location: Path | None, model: Path, config: Config, wish: Wish) -> Recording:
    if location is None:
        raise BaselineError(f"{model}: nowhere to record its baseline: give --ww-baseline or models[].baseline")
    if location.suffix != BASELINE_SUFFIX:
        raise BaselineError(f"{location}: a baseline is recorded to a {BASELINE_SUFFIX} file")
    if is_remote(location):
        raise BaselineError(f"{location}: a baseline is recorded to a file of this machine, not behind a URL")
    mode = "new_only" if wish.new_only else "ratchet" if config.regression.ratchet else "all"
    # Reading it now refuses, before any work, to write over a file that is something else.
    before = read_baseline(location) if os.path.lexists(location) else None
    return Recording(path=location, before=before, mode=mode)


def _check_shown_apart(wanted: Sequence[_Wanted]) -> None:
    """Refuse URLs that differ only in what is not shown of them: no report could tell one from the other."""
    shown = [str(want.path) for want in wanted]
    twice = next((name for name in shown if shown.count(name) > 1), None)
    if twice is not None:
        raise ModelError(f"{twice}: two models whose URLs differ only behind the question mark")


def _check_own_recordings(wanted: Sequence[_Wanted]) -> None:
    """Refuse to record models into one file that were to have one each, but share their file name."""
    first: dict[Path, Path] = {}
    for want in wanted:
        location = _baseline_path(want)
        if location is None or want.baseline is None or not _has_placeholder(want.baseline):
            continue
        other = first.setdefault(location, want.path)
        if other != want.path:
            raise BaselineError(
                f"{want.path} and {other} would both be recorded to {location}; {_FOLDER} in the baseline's path "
                f"stands for the folder of a checkpoint as {_STEM} does for its file"
            )


def _has_placeholder(path: str) -> bool:
    return _STEM in path or _FOLDER in path


def _check_shared_recordings(models: Sequence[CheckedModel]) -> None:
    """Refuse to record models into one file unless they are accepted checkpoints of one architecture."""
    first: dict[Path, CheckedModel] = {}
    for model in models:
        if model.recording is None:
            continue
        other = first.setdefault(model.recording.path, model)
        shapes, others = (
            {spec.name: spec.shape for spec in checked.description.matrices} for checked in (model, other)
        )
        if shapes != others:
            raise BaselineError(
                f"several models would be recorded to {model.recording.path}, and {model.name} has other layers than "
                f"{other.name}; use {{stem}} in the baseline's path"
            )
        if other is not model and model.recording.mode != "all":
            raise BaselineError(f"{model.recording.path}: only a whole recording can learn from several checkpoints")


def _paired_rules(
    config: Config, profile: Profile, description: Description, baseline: BaselineSource
) -> dict[str, tuple[RegressionRule, ...]]:
    """Return the rules of the layers that have a partner in the baseline, or may have one under another name."""
    shapes = {spec.name: spec.shape for spec in description.matrices}
    possible = {*baseline.shapes, *unpaired_layers(shapes, baseline.shapes).new}
    out_of_reach = () if baseline.tasks else NEEDS_BOTH_CHECKPOINTS
    coded = {info.name for info in description.source.tensors() if info.quantization is not None}
    return {
        spec.name: tuple(
            rule
            for rule in regression_rules(config, profile, spec.name)
            # By default nobody is told in every layer what a file, or a layer of its size, cannot say.
            if rule.line is not None
            or rule.quantity
            not in (
                *out_of_reach,
                TURN if spec.n_evals >= DRIFT_EVALS else DRIFT,
                *(() if spec.tensor in coded else OF_ROUNDING),
            )
        )
        for spec in description.matrices
        if spec.name in possible
    }


def _is_wanted(config: Config, check: str) -> bool:
    """Tell whether a check can be in force for any layer."""
    return check not in config.checks or _is_asked_for(config, check)


def _is_asked_for(config: Config, check: str) -> bool:
    """Tell whether ww.yaml gives a check limits for some layer."""
    tables = [config.checks, *(override.checks for override in config.overrides)]
    return any(table.get(check) is not None for table in tables)


def _is_on(regression: Mapping[str, object], quantity: str) -> bool:
    return quantity not in regression or regression[quantity] is not None


def _wanted_models(config: Config, wish: Wish, folder: Path) -> list[_Wanted]:
    """Return every model once, in order, with its baseline."""
    configured: dict[str, _Wanted] = {}
    for index, entry in enumerate(config.models):
        paths = _expand(entry.path, folder, is_trusted=False)
        if not paths and not wish.patterns:
            raise config.error(("models", index, "path"), f"no file matches {entry.path!r}")
        for path in paths:
            baseline = as_text(entry.baseline, folder) if entry.baseline else None
            line = config.line_of(("models", index))
            known = configured.setdefault(
                identity(path), _Wanted(path=path, baseline=baseline, is_of_config=True, line=line)
            )
            if known.baseline != baseline:
                raise config.error(("models", index), f"{path.name!r} has another baseline in an earlier entry")
    wanted = configured
    if wish.patterns:
        wanted = {}
        for pattern in wish.patterns:
            paths = _expand(pattern, wish.folder, is_trusted=True)
            if not paths:
                raise ModelNotFoundError(f"{wish.folder / pattern}: no file matches")
            for path in paths:
                real = identity(path)
                known_here = configured.get(real, _Wanted(path=path, baseline=None, is_of_config=True))
                wanted.setdefault(real, replace(known_here, path=path))
    if wish.baseline is None:
        return list(wanted.values())
    return [replace(want, baseline=wish.baseline, is_of_config=False) for want in wanted.values()]


def _expand(pattern: str, folder: Path, *, is_trusted: bool) -> list[Path]:
    """Expand a shell pattern below a folder whose own name is no pattern; a file of that very name counts, too.

    A URL is no pattern, and neither is the name of a model in the Hugging Face cache.
    """
    if as_text(pattern, folder) != str(folder / pattern):
        return [as_location(as_text(pattern, folder), is_trusted=is_trusted)]
    literal = folder / pattern
    if is_model_id(pattern) and not os.path.lexists(literal):
        raise nothing_there(literal, pattern)
    found = {os.path.normpath(literal)} if os.path.lexists(literal) or not _PATTERN_CHARACTERS & set(pattern) else set()
    if _PATTERN_CHARACTERS & set(pattern):
        matches = glob.glob(pattern, root_dir=folder, recursive=True)  # noqa: PTH207 (Path.glob takes no absolute ones)
        found |= {os.path.normpath(folder / match) for match in matches}
    return [Path(path) for path in sorted(found)]


def _short_names(paths: Sequence[Path]) -> list[str]:
    """Return file names, or the shortest path endings that tell equal file names apart."""
    names = [cached_name(path) or path.name for path in paths]
    depth = 1
    while len(set(names)) < len(set(paths)) and depth < 50:
        depth += 1
        names = ["/".join(path.parts[-depth:]) if names.count(path.name) != 1 else path.name for path in paths]
    return names


def _baseline_path(want: _Wanted) -> Path | None:
    if want.baseline is None:
        return None
    path = want.baseline
    if _has_placeholder(path):
        for placeholder, name in zip((_STEM, _FOLDER), _stem_and_folder(want.path), strict=True):
            path = path.replace(placeholder, name)
    if is_place_elsewhere(path):
        return as_location(path, is_trusted=not want.is_of_config)
    return Path(os.path.normpath(path))


def _stem_and_folder(path: Path) -> tuple[str, str]:
    """Return what a model and the folder that it is in are called."""
    cached = cached_name(path)
    if cached is not None:
        organisation, _, name = cached.rpartition("/")
        return name, organisation
    # The name of a folder has no suffix to cut: llama-3.1 and llama-3.2 are two models.
    return path.name if path.is_dir() else path.stem, path.absolute().parent.name
