"""What one run checks: which models, which matrices, which checks; and how a check gets its judgement."""

from __future__ import annotations

import glob
import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_weightwatcher.baseline import Baseline, BaselineEntry, entry_of, options_payload, read_baseline
from pytest_weightwatcher.checks import (
    ALPHA_REGRESSION,
    BASELINE_LAYERS,
    COVERAGE,
    INTEGRITY,
    SPECTRUM_REGRESSION,
    Rule,
)
from pytest_weightwatcher.comparison import compare_layer, compare_layer_sets
from pytest_weightwatcher.config import Config, layer_rules, model_rules
from pytest_weightwatcher.errors import BaselineError
from pytest_weightwatcher.verdict import (
    Judgement,
    Verdict,
    judge_alpha_regression,
    judge_coverage,
    judge_integrity,
    judge_layer_set,
    judge_metric,
    judge_spectrum_regression,
)
from spectral.analysis import (
    Analysis,
    AnalysisOptions,
    Description,
    LayerAnalysis,
    MatrixTask,
    analyze_matrix,
    describe,
)
from spectral.errors import ModelError, ModelNotFoundError
from spectral.execution import n_default_workers, single_threaded_blas

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from spectral.weights import MatrixSpec

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
    description: Description = field(repr=False)
    config: Config = field(repr=False)
    rules: Mapping[str, tuple[Rule, ...]] = field(repr=False)
    baseline: BaselineSource | None = None
    record_to: Path | None = None


@dataclass(frozen=True, kw_only=True)
class BaselineSource:
    """An accepted state: a baseline file read whole, or a checkpoint analysed matrix by matrix."""

    path: Path
    shapes: dict[str, tuple[int, ...]] = field(repr=False)
    recorded: Baseline | None = field(repr=False)
    tasks: dict[str, MatrixTask] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One item: a model, perhaps one of its matrices, and the rule it is judged by."""

    model: CheckedModel
    spec: MatrixSpec | None
    name: str
    rule: Rule | None
    line: int | None


def plan_models(
    config: Config,
    *,
    patterns: Iterable[str],
    baseline: str | None,
    update_baseline: bool,
    folder: Path,
) -> tuple[CheckedModel, ...]:
    """Open the models of a run by their headers.

    Parameters
    ----------
    config : Config
        Limits; also the models and baselines, where ``patterns`` is empty.
    patterns : iterable of str
        Models named on the command line or in an ini file; they replace those of ww.yaml.
    baseline : str or None
        Baseline named there; it goes before those of ww.yaml.
    update_baseline : bool
        Record instead of compare.
    folder : Path
        What relative paths of ww.yaml are relative to.

    Raises
    ------
    ConfigError, BaselineError, ModelError
        Something is missing or unusable; nothing has been analysed yet.
    """
    wanted = list(_expand_models(config, list(patterns), folder))
    names = _short_names([path for path, _ in wanted])
    models = []
    for (path, entry_baseline), name in zip(wanted, names, strict=True):
        options = config.analysis
        description = describe(path, fit=options.fit, min_evals=options.min_evals, exclude=options.exclude)
        if not description.matrices:
            raise ModelNotFoundError(
                f"{path}: holds no weight matrix to check (see the formats and layers in the docs)"
            )
        location = _baseline_path(baseline or entry_baseline, path)
        models.append(
            CheckedModel(
                name=name,
                path=path,
                description=description,
                config=config,
                rules={spec.name: layer_rules(config, spec.name) for spec in description.matrices},
                baseline=None if update_baseline else _open_baseline(location, description),
                record_to=_where_to_record(location, path) if update_baseline else None,
            )
        )
    targets = [model.record_to for model in models if model.record_to is not None]
    if len(set(targets)) < len(targets):
        raise BaselineError(f"several models would be recorded to {targets[0]}; use {{stem}} in the baseline's path")
    return tuple(models)


def model_checks(model: CheckedModel) -> tuple[Check, ...]:
    """Return the checks of a model as a whole."""
    checks = [
        Check(model=model, spec=None, name=rule.check, rule=rule, line=rule.line) for rule in model_rules(model.config)
    ]
    if model.baseline is not None:
        checks.append(Check(model=model, spec=None, name=BASELINE_LAYERS, rule=None, line=None))
    return tuple(checks)


def layer_checks(model: CheckedModel, spec: MatrixSpec) -> tuple[Check, ...]:
    """Return the checks of one matrix: integrity, absolute limits, then the regression against the baseline."""
    config = model.config
    checks = [Check(model=model, spec=spec, name=INTEGRITY, rule=None, line=None)]
    checks += [
        Check(model=model, spec=spec, name=rule.check, rule=rule, line=rule.line) for rule in model.rules[spec.name]
    ]
    if model.baseline is not None and spec.name in model.baseline.shapes:
        regression = config.regression
        if regression.alpha is not None:
            line = config.line_of(("regression", "alpha"))
            checks.append(Check(model=model, spec=spec, name=ALPHA_REGRESSION, rule=None, line=line))
        if regression.spectrum is not None:
            line = config.line_of(("regression", "spectrum"))
            checks.append(Check(model=model, spec=spec, name=SPECTRUM_REGRESSION, rule=None, line=line))
    return tuple(checks)


class Gate:
    """Runs the analyses that the selected checks need, each once, and judges.

    Parameters
    ----------
    n_jobs : int or None
        Worker threads; None for one per core.
    """

    def __init__(self, *, n_jobs: int | None) -> None:
        self._n_jobs = n_jobs or n_default_workers()
        self._executor: ThreadPoolExecutor | None = None
        self._stack = ExitStack()
        self._futures: dict[tuple[int, str], Future[LayerAnalysis]] = {}

    def submit(self, check: Check) -> None:
        """Start the analyses that a check will wait for."""
        if check.spec is None:
            return
        self._future(MatrixTask(source=check.model.description.source, spec=check.spec, options=_options(check.model)))
        if check.name in (ALPHA_REGRESSION, SPECTRUM_REGRESSION) and check.model.baseline is not None:
            task = check.model.baseline.tasks.get(check.spec.name)
            if task is not None:
                self._future(task)

    def layer(self, model: CheckedModel, spec: MatrixSpec) -> LayerAnalysis:
        """Return the analysis of one matrix, waiting for it."""
        return self._future(MatrixTask(source=model.description.source, spec=spec, options=_options(model))).result()

    def analysis(self, model: CheckedModel) -> Analysis:
        """Return the analysis of a whole model, reusing what has been computed."""
        specs = model.description.matrices
        for spec in specs:
            self.submit(Check(model=model, spec=spec, name=INTEGRITY, rule=None, line=None))
        return Analysis(description=model.description, layers=tuple(self.layer(model, spec) for spec in specs))

    def judge(self, check: Check) -> Judgement:
        """Decide one check."""
        try:
            return self._judge_model(check) if check.spec is None else self._judge_layer(check, check.spec)
        except ModelError as error:
            # The headers were sound when the run began: the file has changed or become unreadable since.
            return Judgement(check=check.name, verdict=Verdict.ERROR, detail=str(error))

    def close(self) -> None:
        """Cancel what has not begun and wait for the rest."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None
        self._stack.close()

    def _future(self, task: MatrixTask) -> Future[LayerAnalysis]:
        key = (id(task.source), task.spec.tensor)
        if key not in self._futures:
            if self._executor is None:
                self._stack.enter_context(single_threaded_blas())
                self._executor = ThreadPoolExecutor(max_workers=self._n_jobs, thread_name_prefix="ww")
            self._futures[key] = self._executor.submit(analyze_matrix, task)
        return self._futures[key]

    def _judge_model(self, check: Check) -> Judgement:
        description = check.model.description
        if check.name == COVERAGE and check.rule is not None:
            return judge_coverage(description.coverage, len(description.matrices), check.rule)
        assert check.model.baseline is not None
        shapes = {spec.name: spec.shape for spec in description.matrices}
        return judge_layer_set(compare_layer_sets(shapes, check.model.baseline.shapes))

    def _judge_layer(self, check: Check, spec: MatrixSpec) -> Judgement:
        layer = self.layer(check.model, spec)
        if check.name == INTEGRITY:
            return judge_integrity(layer)
        if check.rule is not None:
            return judge_metric(layer, check.rule)
        entry = self._baseline_entry(check.model, spec.name)
        if entry is None:
            return Judgement(check=check.name, verdict=Verdict.SKIPPED, detail="the baseline's layer has no spectrum")
        comparison = compare_layer(layer, entry)
        regression = check.model.config.regression
        if check.name == ALPHA_REGRESSION and regression.alpha is not None:
            return judge_alpha_regression(layer, entry, comparison, regression.alpha)
        assert regression.spectrum is not None
        return judge_spectrum_regression(layer, comparison, regression.spectrum)

    def _baseline_entry(self, model: CheckedModel, name: str) -> BaselineEntry | None:
        assert model.baseline is not None
        if model.baseline.recorded is not None:
            return model.baseline.recorded.entries[name]
        return entry_of(self._future(model.baseline.tasks[name]).result())


def recorded_baseline(model: CheckedModel, entries: dict[str, BaselineEntry]) -> Baseline:
    """Return what to record for a model: the new entries over those that a filtered run did not reach."""
    assert model.record_to is not None
    kept = dict(read_baseline(model.record_to).entries) if model.record_to.exists() else {}
    names = {spec.name for spec in model.description.matrices}
    is_whole = names <= entries.keys()
    merged = entries if is_whole else {**kept, **entries}
    return Baseline(label=str(model.record_to), options=options_payload(_options(model)), entries=merged)


def _options(model: CheckedModel) -> AnalysisOptions:
    return model.description.options


def _expand_models(config: Config, patterns: list[str], folder: Path) -> Iterable[tuple[Path, str | None]]:
    if not patterns:
        for index, entry in enumerate(config.models):
            paths = _expand(str(folder / entry.path))
            if not paths:
                raise config.error(("models", index, "path"), f"no file matches {entry.path!r}")
            baseline = str(folder / entry.baseline) if entry.baseline else None
            yield from ((path, baseline) for path in paths)
        return
    configured = {
        path: str(folder / entry.baseline)
        for entry in config.models
        if entry.baseline
        for path in _expand(str(folder / entry.path))
    }
    for pattern in dict.fromkeys(patterns):
        paths = _expand(pattern)
        if not paths:
            raise ModelNotFoundError(f"{pattern}: no file matches")
        yield from ((path, configured.get(path)) for path in paths)


def _expand(pattern: str) -> list[Path]:
    """Expand a shell pattern; a path that exists as it stands is taken literally."""
    if os.path.lexists(pattern) or not _PATTERN_CHARACTERS & set(pattern):
        return [Path(os.path.normpath(pattern))]
    return [Path(os.path.normpath(path)) for path in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207 (Path.glob refuses absolute patterns)


def _short_names(paths: list[Path]) -> list[str]:
    """Return file names, or the shortest path endings that tell equal file names apart."""
    names = [path.name for path in paths]
    depth = 1
    while len(set(names)) < len(set(paths)) and depth < 50:
        depth += 1
        names = ["/".join(path.parts[-depth:]) if names.count(path.name) != 1 else path.name for path in paths]
    return names


def _baseline_path(location: str | None, model: Path) -> Path | None:
    return None if location is None else Path(os.path.normpath(location.replace("{stem}", model.stem)))


def _where_to_record(location: Path | None, model: Path) -> Path:
    if location is None:
        raise BaselineError(f"{model}: nowhere to record its baseline: give --ww-baseline or models[].baseline")
    if location.suffix != BASELINE_SUFFIX:
        raise BaselineError(f"{location}: a baseline is recorded to a {BASELINE_SUFFIX} file")
    if location.exists():
        # Reading it now refuses, before any work, to write over a file that is something else.
        read_baseline(location)
    return location


def _open_baseline(location: Path | None, description: Description) -> BaselineSource | None:
    if location is None:
        return None
    if location.suffix == BASELINE_SUFFIX or not location.exists():
        recorded = read_baseline(location)
        if not recorded.entries:
            raise BaselineError(f"{location}: the baseline holds no matrices")
        _check_options(recorded, description)
        shapes = {name: entry.shape for name, entry in recorded.entries.items() if not _is_excluded(name, description)}
        return BaselineSource(path=location, shapes=shapes, recorded=recorded, tasks={})
    options = description.options
    other = describe(location, fit=options.fit, min_evals=options.min_evals, exclude=options.exclude)
    tasks = {task.spec.name: task for task in other.tasks()}
    shapes = {name: task.spec.shape for name, task in tasks.items()}
    return BaselineSource(path=location, shapes=shapes, recorded=None, tasks=tasks)


def _check_options(recorded: Baseline, description: Description) -> None:
    """Refuse a baseline whose tails were fitted by another law: its alphas could not be compared."""
    fit = recorded.options.get("fit")
    if fit != description.options.fit:
        raise BaselineError(
            f"{recorded.label}: recorded with fit {fit!r}, this run has {description.options.fit!r}; "
            "record it anew with --ww-update-baseline"
        )


def _is_excluded(name: str, description: Description) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in description.options.exclude)
