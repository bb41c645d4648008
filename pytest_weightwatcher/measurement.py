"""What the gate measures: each matrix once, those that the baseline knows not at all."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from threading import Event
from typing import TYPE_CHECKING, TypeVar

from pytest_weightwatcher.baseline import BaselineEntry, reuse
from pytest_weightwatcher.comparison import LayerComparison, compare_rounding_of
from pytest_weightwatcher.matching import LayerSets, layer_sets, match_renamed, unpaired_layers
from pytest_weightwatcher.rates import alarm_level, is_testable
from pytest_weightwatcher.records import LayerRecord, record_of
from pytest_weightwatcher.tensors import TensorComparison, TensorRecord, compare_tensors, records_of_tensors
from spectral.analysis import Analysis, LayerAnalysis, MatrixTask, analyze_matrix
from spectral.execution import n_default_workers, single_threaded_blas
from spectral.fits import FitFailure
from spectral.matrix_tests import find_matrix_traps
from spectral.model_comparison import unfold
from spectral.noise import any_of
from spectral.pipeline import KnownMatrix, analyze_unless_known
from spectral.rounding import Rounding, compare_rounding
from spectral.spectrum import SpectrumFailure
from spectral.subspaces import SubspaceComparison, compare_subspaces
from spectral.weights import load_matrix

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_weightwatcher.planning import CheckedModel
    from spectral.loaders.protocol import TensorInfo
    from spectral.weights import MatrixSpec

T = TypeVar("T")


class Measurements:
    """Analyses on a pool of threads, each made once, and the records drawn from them.

    Parameters
    ----------
    n_jobs : int or None
        Worker threads; None for one per core.
    """

    def __init__(self, *, n_jobs: int | None) -> None:
        self._n_jobs = n_jobs or n_default_workers()
        self._executor: ThreadPoolExecutor | None = None
        self._stack = ExitStack()
        self._is_held = Event()
        self._futures: dict[tuple[object, ...], Future[object]] = {}
        self._records: dict[tuple[int, str], LayerRecord] = {}
        self._sets: dict[int, LayerSets] = {}
        self._n_tests: dict[int, int] = {}
        self._headers: dict[int, dict[str, TensorInfo]] = {}
        self._matrices: dict[tuple[object, ...], tuple[MatrixSpec, Future[object]]] = {}

    def begin(self, model: CheckedModel, spec: MatrixSpec, *, with_baseline: bool) -> None:
        """Start what a check of a matrix will wait for."""
        self._matrix(model, spec)
        if with_baseline and model.baseline is not None and spec.name in model.baseline.tasks:
            self._baseline_layer(model, spec.name)

    def layer(self, model: CheckedModel, spec: MatrixSpec) -> LayerAnalysis:
        """Return the whole analysis of a matrix, also of one that the baseline knows."""
        found = self._found(model, spec)
        if isinstance(found, LayerAnalysis):
            return found
        return self._once((id(model), spec.name, "whole"), analyze_matrix, task_of(model, spec)).result()

    def analysis(self, model: CheckedModel) -> Analysis:
        """Return the analysis of a whole model, reusing what has been computed."""
        for spec in model.description.matrices:
            self._matrix(model, spec)
        layers = tuple(self.layer(model, spec) for spec in model.description.matrices)
        return Analysis(description=model.description, layers=layers)

    def record(self, model: CheckedModel, spec: MatrixSpec) -> LayerRecord:
        """Return the record of a matrix, from its analysis or from the baseline that knows its content."""
        key = (id(model), spec.name)
        if key not in self._records:
            found = self._found(model, spec)
            if isinstance(found, KnownMatrix):
                entry = model.known[found.content_hash]
                self._records[key] = reuse(entry, spec.name, spec.rows, spec.columns)
            else:
                self._records[key] = record_of(found)
        return self._records[key]

    def is_reused(self, model: CheckedModel, spec: MatrixSpec) -> bool:
        """Tell whether a matrix was not computed, because the baseline knows its content."""
        return isinstance(self._found(model, spec), KnownMatrix)

    def records(self, model: CheckedModel) -> list[LayerRecord]:
        """Return the records of all matrices of a model."""
        for spec in model.description.matrices:
            self._matrix(model, spec)
        return [self.record(model, spec) for spec in model.description.matrices]

    def sets(self, model: CheckedModel) -> LayerSets:
        """Return which layers of a model are which of its baseline, found when first asked for."""
        if id(model) not in self._sets:
            assert model.baseline is not None, "only models with a baseline have layers to match"
            shapes = {spec.name: spec.shape for spec in model.description.matrices}
            unpaired = unpaired_layers(shapes, model.baseline.shapes)
            specs = {spec.name: spec for spec in model.description.matrices}
            for name in unpaired.new:
                self.begin(model, specs[name], with_baseline=False)
            renamed = match_renamed(
                [self.record(model, specs[name]) for name in unpaired.new],
                {name: self._entry_named(model, name).record for name in unpaired.old},
            )
            self._sets[id(model)] = layer_sets(shapes, model.baseline.shapes, renamed)
        return self._sets[id(model)]

    def tensors(self, model: CheckedModel) -> dict[str, TensorRecord]:
        """Return what is known of the tensors that no matrix covers."""
        return self._once((id(model), "tensors"), records_of_tensors, model.description).result()

    def tensor_comparison(self, model: CheckedModel) -> TensorComparison | None:
        """Return how the tensors that no matrix covers moved; None where the baseline says nothing of them."""
        baseline = model.baseline
        assert baseline is not None, "only models with a baseline are compared"
        before = None if baseline.recorded is None else baseline.recorded.tensors
        if baseline.description is not None:
            before = self._once((id(baseline), "tensors"), records_of_tensors, baseline.description).result()
        if before is None:
            return None
        now = self.tensors(model)
        present = frozenset(info.name for info in model.description.source.tensors() if info.name not in now)
        excluded = frozenset(tensor.name for tensor in model.description.unanalysed if tensor.layer)
        return compare_tensors(now, before, present=present, excluded=excluded)

    def partner(self, model: CheckedModel, spec: MatrixSpec) -> str | None:
        """Return the name that a layer has in the baseline, or None where it is new."""
        assert model.baseline is not None, "only models with a baseline have layers to match"
        if model.baseline.shapes.get(spec.name) == spec.shape:
            return spec.name
        renamed = self.sets(model).renamed.get(spec.name)
        return spec.name if renamed is None and spec.name in model.baseline.shapes else renamed

    def entry(self, model: CheckedModel, spec: MatrixSpec) -> BaselineEntry | None:
        """Return the baseline entry of a layer, or None where it is new."""
        name = self.partner(model, spec)
        return None if name is None else self._entry_named(model, name)

    def subspaces(self, model: CheckedModel, spec: MatrixSpec) -> SubspaceComparison | str | None:
        """Return how the directions of a layer moved, or why they have none; None where there is no checkpoint."""
        name = self.partner(model, spec)
        if model.baseline is None or name is None or name not in model.baseline.tasks:
            return None
        base = model.baseline.tasks[name]
        found = self._once((id(model), spec.name, "subspaces"), _subspaces, task_of(model, spec), base).result()
        return found.detail if isinstance(found, SpectrumFailure) else found

    def rounding(self, model: CheckedModel, spec: MatrixSpec) -> LayerComparison:
        """Return what a quantised layer lost beside its original, or why that is not known."""
        name = self.partner(model, spec)
        if model.baseline is None or name is None or name not in model.baseline.tasks:
            return LayerComparison(blocked="the baseline is a file: the weights of the original are not at hand")
        task, base = task_of(model, spec), model.baseline.tasks[name]
        if task.spec.shape != base.spec.shape:
            return LayerComparison(blocked="the baseline's layer has another shape")
        if id(model) not in self._headers:
            self._headers[id(model)] = {info.name: info for info in model.description.source.tensors()}
        info = self._headers[id(model)][spec.tensor]
        return compare_rounding_of(self._once((id(model), spec.name, "rounding"), _rounding, task, base, info).result())

    def trap_level(self, model: CheckedModel, spec: MatrixSpec) -> tuple[float, bool]:
        """Return the level of significance that the run leaves a layer, and whether the layer alarms at it."""
        if id(model) not in self._n_tests:
            self._n_tests[id(model)] = max(1, sum(map(is_testable, model.description.matrices)))
        n_tests = self._n_tests[id(model)]
        rate = model.config.analysis.false_alarm_rate / model.n_models
        traps = self.record(model, spec).traps
        level = None
        if traps is not None:
            level = alarm_level(
                traps.p_value,
                n_tests=n_tests,
                rate=rate,
                others=lambda: [record.traps.p_value for record in self.records(model) if record.traps is not None],
            )
        return (rate / n_tests if level is None else level), level is not None

    def trap_p_values(
        self, model: CheckedModel, spec: MatrixSpec, seeds: tuple[int, ...], *, needs_cause: bool
    ) -> tuple[float, ...]:
        """Return the p-values of the trap test under other permutations, or of the largest eigenvalue alone."""
        task = task_of(model, spec)
        futures = [self._once((id(model), spec.name, "traps", seed), _trap_p_values, task, seed) for seed in seeds]
        return tuple(future.result()[0 if needs_cause else 1] for future in futures)

    def begun(self) -> list[tuple[MatrixSpec, Future[object]]]:
        """Return the analyses of matrices that were begun, in their order, ready to be waited for."""
        self._hold_blas()
        return list(self._matrices.values())

    def close(self) -> None:
        """Cancel what has not begun and wait for the rest."""
        if self._executor is not None:
            # Whoever waits for the hold must not wait for ever.
            self._is_held.set()
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None
        self._stack.close()

    def _matrix(self, model: CheckedModel, spec: MatrixSpec) -> Future[LayerAnalysis | KnownMatrix]:
        key = (id(model), spec.name)
        if key not in self._futures:
            # Reading and hashing need no BLAS: they begin while the main thread still loads it.
            self._futures[key] = self._pool().submit(
                analyze_unless_known, task_of(model, spec), model.known, before=self._is_held.wait
            )
            self._matrices[key] = (spec, self._futures[key])
        return self._futures[key]  # type: ignore[return-value]  # one table holds futures of every kind

    def _found(self, model: CheckedModel, spec: MatrixSpec) -> LayerAnalysis | KnownMatrix:
        future = self._matrix(model, spec)
        if not future.done():
            self._hold_blas()
        return future.result()

    def _hold_blas(self) -> None:
        """Hold BLAS to one thread for the rest of the run; by this thread, which alone can give it up."""
        if not self._is_held.is_set():
            self._stack.enter_context(single_threaded_blas())
            self._is_held.set()

    def _pool(self) -> ThreadPoolExecutor:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(max_workers=self._n_jobs, thread_name_prefix="ww")
        return self._executor

    def _entry_named(self, model: CheckedModel, name: str) -> BaselineEntry:
        assert model.baseline is not None, "only models with a baseline have entries"
        if model.baseline.recorded is not None:
            return model.baseline.recorded.entries[name]
        return BaselineEntry(record=record_of(self._baseline_layer(model, name).result()))

    def _baseline_layer(self, model: CheckedModel, name: str) -> Future[LayerAnalysis]:
        assert model.baseline is not None, "only models with a baseline have its layers"
        task = replace(model.baseline.tasks[name], measures=model.config.extensions.measures)
        return self._once((id(model.baseline), name, "baseline"), analyze_matrix, task)

    def _once(self, key: tuple[object, ...], function: Callable[..., T], *arguments: object) -> Future[T]:
        if key not in self._futures:
            self._hold_blas()
            self._futures[key] = self._pool().submit(function, *arguments)
        return self._futures[key]  # type: ignore[return-value]


def task_of(model: CheckedModel, spec: MatrixSpec) -> MatrixTask:
    """Return the analysis of one matrix of a model, as a task."""
    return MatrixTask(
        source=model.description.source,
        spec=spec,
        options=model.description.options,
        measures=model.config.extensions.measures,
    )


def _subspaces(task: MatrixTask, base: MatrixTask) -> SubspaceComparison | SpectrumFailure:
    return compare_subspaces(unfold(load_matrix(task.source, task.spec)), unfold(load_matrix(base.source, base.spec)))


def _rounding(task: MatrixTask, base: MatrixTask, info: TensorInfo) -> Rounding | None:
    """Compare a tensor as a whole, or the matrix that is a part of it, with its original."""
    said = info.quantization
    if task.spec.part.n_values == info.n_values:
        now, before = (each.source.load(each.spec.tensor) for each in (task, base))
    else:
        now, before = (unfold(load_matrix(each.source, each.spec)) for each in (task, base))
        if said is not None and said.block is not None:
            # The part has the last axes of the whole: rows of it, or one of a stack.
            said = replace(said, block=said.block[-now.ndim :])
    return compare_rounding(now, before, said)


def _trap_p_values(task: MatrixTask, seed: int) -> tuple[float, float]:
    """Return the p-value of the test, and that of the most remarkable eigenvalue whatever its cause."""
    with single_threaded_blas():
        found = find_matrix_traps(load_matrix(task.source, task.spec), seed=seed)
    # A layer that alarmed once can be tested again.
    assert not isinstance(found, FitFailure), "only layers with a test are tested again"
    of_eigenvalues = [test.eigenvalue_p_values[0] for test in found.slices]
    return found.p_value, any_of(min(of_eigenvalues), len(of_eigenvalues))


def by_svd(task: MatrixTask) -> MatrixTask:
    """Return the same analysis by a full singular value decomposition in float64."""
    return replace(task, by_svd=True)
