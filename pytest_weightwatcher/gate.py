"""The checks of a model and its matrices, and how each gets its judgement."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_weightwatcher.baseline import BaselineEntry, entry_of
from pytest_weightwatcher.checks import (
    ALPHA_REGRESSION,
    BASELINE_LAYERS,
    COVERAGE,
    INTEGRITY,
    SPECTRUM_REGRESSION,
    Rule,
)
from pytest_weightwatcher.comparison import compare_layer, compare_layer_sets
from pytest_weightwatcher.config import model_rules
from pytest_weightwatcher.verdict import (
    Judgement,
    Verdict,
    judge_alpha_regression,
    judge_coverage,
    judge_integrity,
    judge_layer_set,
    judge_metric,
    judge_other_tensors,
    judge_spectrum_regression,
)
from spectral.analysis import (
    Analysis,
    AnalysisOptions,
    LayerAnalysis,
    MatrixTask,
    analyze_matrix,
)
from spectral.errors import ModelError
from spectral.execution import n_default_workers, single_threaded_blas
from spectral.integrity import find_non_finite

if TYPE_CHECKING:
    from pytest_weightwatcher.planning import CheckedModel
    from spectral.weights import MatrixSpec


@dataclass(frozen=True, kw_only=True)
class Check:
    """One item: a model, perhaps one of its matrices, and the rule it is judged by."""

    model: CheckedModel
    spec: MatrixSpec | None
    name: str
    rule: Rule | None
    line: int | None


def model_checks(model: CheckedModel) -> tuple[Check, ...]:
    """Return the checks of a model as a whole."""
    checks = [
        Check(model=model, spec=None, name=rule.check, rule=rule, line=rule.line) for rule in model_rules(model.config)
    ]
    checks.append(Check(model=model, spec=None, name=INTEGRITY, rule=None, line=None))
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
        except MemoryError:
            name = check.spec.tensor if check.spec is not None else "the model"
            detail = f"{check.model.path}: tensor {name!r} needs more memory than there is"
            return Judgement(check=check.name, verdict=Verdict.ERROR, detail=detail)

    def close(self) -> None:
        """Cancel what has not begun and wait for the rest."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None
        self._stack.close()

    def _future(self, task: MatrixTask) -> Future[LayerAnalysis]:
        key = (id(task.source), task.spec.name)
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
        if check.name == INTEGRITY:
            return judge_other_tensors(
                find_non_finite(description.source, description.other_tensors), len(description.other_tensors)
            )
        assert check.model.baseline is not None
        shapes = {spec.name: spec.shape for spec in description.matrices}
        sets = compare_layer_sets(shapes, check.model.baseline.shapes)
        return judge_layer_set(sets, n_newly_excluded=check.model.baseline.n_newly_excluded)

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


def _options(model: CheckedModel) -> AnalysisOptions:
    return model.description.options
