"""The checks of a model and its matrices, and how each gets its judgement."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_weightwatcher.checks import (
    ALPHA,
    BASELINE_LAYERS,
    CORRELATION_TRAPS,
    COVERAGE,
    INTEGRITY,
    INTRUDERS,
    KERNELS,
    MODEL,
    NEEDS_BOTH_CHECKPOINTS,
    NOISE,
    OF_ROUNDING,
    OVERLAP,
    REGRESSION,
    TENSORS,
    TURN,
    WAIVERS,
    WEIGHTS,
    RegressionRule,
    Rule,
)
from pytest_weightwatcher.comparison import LayerComparison, compare_records, pool_layers
from pytest_weightwatcher.confirmation import (
    CLEAR_TRAP,
    N_PERMUTATIONS,
    N_REPLICAS,
    SVD_VALUES,
    interval_of,
    is_borderline,
    is_trap_confirmed,
    with_bootstrap,
)
from pytest_weightwatcher.measurement import Measurements, by_svd, task_of
from pytest_weightwatcher.plugin_checks import find_problem, judge_by_plugin, metric_error
from pytest_weightwatcher.policy import apply_policy, current_date, judge_waivers
from pytest_weightwatcher.records import record_of
from pytest_weightwatcher.tensor_verdict import judge_tensors
from pytest_weightwatcher.trap_text import explain_traps, name_carriers, removal_call
from pytest_weightwatcher.verdict import (
    Judgement,
    Verdict,
    judge_coverage,
    judge_integrity,
    judge_layer_set,
    judge_mean,
    judge_metric,
    judge_model_regression,
    judge_noise,
    judge_other_tensors,
    judge_regression,
    judge_traps,
)
from pytest_weightwatcher.wording import name_weight
from spectral.analysis import analyze_matrix
from spectral.errors import ModelError
from spectral.execution import single_threaded_blas
from spectral.integrity import find_non_finite
from spectral.largest import LARGEST_WEIGHT, find_largest
from spectral.metrics import summarise
from spectral.trap_report import describe_layer_traps
from spectral.weights import load_matrix

if TYPE_CHECKING:
    from concurrent.futures import Future

    from pytest_weightwatcher.baseline import BaselineEntry
    from pytest_weightwatcher.comparison import Change
    from pytest_weightwatcher.planning import CheckedModel
    from pytest_weightwatcher.records import LayerRecord
    from pytest_weightwatcher.tensors import TensorComparison, TensorRecord
    from spectral.analysis import Analysis, LayerAnalysis
    from spectral.subspaces import SubspaceComparison
    from spectral.trap_details import Trap
    from spectral.weights import MatrixSpec


_NOT_OF_SPECTRA = frozenset((CORRELATION_TRAPS, NOISE, OVERLAP, INTRUDERS, WEIGHTS, TURN, LARGEST_WEIGHT, *OF_ROUNDING))
"""Quantities about which another way to the spectrum says nothing new."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One item: a model, perhaps one of its matrices, and the rule it is judged by."""

    model: CheckedModel
    spec: MatrixSpec | None
    name: str
    rule: Rule | RegressionRule | None
    line: int | None

    @property
    def is_about_traps(self) -> bool:
        """Whether it counts correlation traps, as such or against the baseline."""
        return self.name.rpartition(".")[2] == CORRELATION_TRAPS


def model_checks(model: CheckedModel) -> tuple[Check, ...]:
    """Return the checks of a model as a whole."""
    checks = [
        _check(model, None, rule.check if rule.check == COVERAGE else MODEL + rule.check, rule)
        for rule in model.model_rules
    ]
    checks.append(_check(model, None, INTEGRITY))
    if model.config.waivers:
        checks.append(replace(_check(model, None, WAIVERS), line=model.config.line_of((WAIVERS,))))
    if model.baseline is not None:
        checks.append(_check(model, None, BASELINE_LAYERS))
        checks += [_check(model, None, MODEL + rule.check, rule) for rule in model.model_regression_rules]
    return tuple(checks)


def layer_checks(model: CheckedModel, spec: MatrixSpec) -> tuple[Check, ...]:
    """Return the checks of one matrix: integrity, absolute limits, then those against the baseline."""
    rules: tuple[Rule | RegressionRule, ...] = (
        *model.rules[spec.name],
        *model.regression_rules.get(spec.name, ()),
    )
    return (_check(model, spec, INTEGRITY), *(_check(model, spec, rule.check, rule) for rule in rules))


def _check(model: CheckedModel, spec: MatrixSpec | None, name: str, rule: Rule | RegressionRule | None = None) -> Check:
    return Check(model=model, spec=spec, name=name, rule=rule, line=None if rule is None else rule.line)


class Gate:
    """Runs the analyses that the selected checks need, each once, and judges.

    Parameters
    ----------
    n_jobs : int or None
        Worker threads; None for one per core.
    """

    def __init__(self, *, n_jobs: int | None) -> None:
        self._measurements = Measurements(n_jobs=n_jobs)
        self._comparisons: dict[tuple[int, str], LayerComparison] = {}
        self._traps: dict[tuple[int, str], tuple[Trap, ...]] = {}
        self._confirmed: dict[tuple[int, str, bool], tuple[bool, str]] = {}
        self._tensor_comparisons: dict[int, TensorComparison | None] = {}
        self._today = current_date()

    def submit(self, check: Check) -> None:
        """Start the analyses that a check will wait for."""
        if check.spec is not None:
            self._measurements.begin(check.model, check.spec, with_baseline=isinstance(check.rule, RegressionRule))

    def layer(self, model: CheckedModel, spec: MatrixSpec) -> LayerAnalysis:
        """Return the analysis of one matrix, waiting for it."""
        return self._measurements.layer(model, spec)

    def record(self, model: CheckedModel, spec: MatrixSpec) -> LayerRecord:
        """Return what is known of one matrix, waiting for it."""
        return self._measurements.record(model, spec)

    def is_reused(self, model: CheckedModel, spec: MatrixSpec) -> bool:
        """Tell whether a matrix was not computed, because the baseline knows its content."""
        return self._measurements.is_reused(model, spec)

    def analysis(self, model: CheckedModel) -> Analysis:
        """Return the analysis of a whole model, reusing what has been computed."""
        return self._measurements.analysis(model)

    def n_traps(self, model: CheckedModel, spec: MatrixSpec) -> int:
        """Return how many traps a layer has at the false-alarm rate of the run, those of the baseline among them."""
        record = self.record(model, spec)
        level, is_alarm = self._measurements.trap_level(model, spec)
        return record.traps.count(level) if record.traps is not None and is_alarm else 0

    def before(self, model: CheckedModel, spec: MatrixSpec) -> LayerRecord | None:
        """Return what the baseline knows of a layer; None where it is new, or there is no baseline."""
        entry = None if model.baseline is None else self._measurements.entry(model, spec)
        return None if entry is None else entry.record

    def partner(self, model: CheckedModel, spec: MatrixSpec) -> str | None:
        """Return the name of a layer in the baseline; None where it is new, or there is no baseline."""
        return None if model.baseline is None else self._measurements.partner(model, spec)

    def judge(self, check: Check) -> Judgement:
        """Decide one check."""
        layer = None if check.spec is None else check.spec.name
        try:
            judgement = self._judge_model(check) if check.spec is None else self._judge_layer(check, check.spec)
        except ModelError as error:
            # The headers were sound when the run began: the file has changed or become unreadable since.
            return Judgement(check=check.name, verdict=Verdict.ERROR, detail=str(error))
        except MemoryError:
            name = check.spec.tensor if check.spec is not None else "the model"
            detail = f"{check.model.path}: tensor {name!r} needs more memory than there is"
            return Judgement(check=check.name, verdict=Verdict.ERROR, detail=detail)
        return apply_policy(judgement, layer, check.model.config, self._today)

    def begun(self) -> list[tuple[MatrixSpec, Future[object]]]:
        """Return the analyses that were begun, ready to be waited for."""
        return self._measurements.begun()

    def close(self) -> None:
        """Cancel what has not begun and wait for the rest."""
        self._measurements.close()

    def _judge_model(self, check: Check) -> Judgement:
        model, description = check.model, check.model.description
        if check.name == INTEGRITY:
            names = description.other_tensors
            unknown = [name for name in names if not self._is_known_finite(model, name)]
            return judge_other_tensors(find_non_finite(description.source, unknown), len(names))
        if check.name == WAIVERS:
            return judge_waivers(model.config, self._today)
        if check.name == BASELINE_LAYERS or isinstance(check.rule, RegressionRule):
            return self._judge_model_beside_baseline(model, check.rule)
        assert check.rule is not None, "every other check of a model has a rule"
        if check.name == COVERAGE:
            n_matrices, unanalysed = len(description.matrices), description.unanalysed
            return judge_coverage(description.coverage, n_matrices, check.rule, unanalysed=unanalysed)
        min_evals = description.options.min_evals
        records = self._measurements.records(model)
        return judge_mean(summarise(record.metrics for record in records if record.n_evals >= min_evals), check.rule)

    def _is_known_finite(self, model: CheckedModel, name: str) -> bool:
        """Tell whether a tensor was read for its record, which has a norm only where all values are finite."""
        if model.recording is None and model.baseline is None:
            return False
        record = self._measurements.tensors(model).get(name)
        return record is not None and record.norm is not None

    def _judge_model_beside_baseline(self, model: CheckedModel, rule: Rule | RegressionRule | None) -> Judgement:
        assert model.baseline is not None, "the check exists for models with a baseline"
        if not isinstance(rule, RegressionRule):
            n_excluded = model.baseline.n_newly_excluded
            sets, tensors = self._measurements.sets(model), self._tensors(model)
            return judge_layer_set(sets, n_newly_excluded=n_excluded, tensors=tensors)
        if rule.quantity in (TENSORS, KERNELS):
            judgement = judge_tensors(self._tensors(model), rule)
        else:
            judgement = judge_model_regression(self._pooled(model).get(rule.quantity), rule)
        return replace(judgement, told=model.profile.meanings.get(rule.quantity))

    def _judge_layer(self, check: Check, spec: MatrixSpec) -> Judgement:
        record = self._measurements.record(check.model, spec)
        if check.rule is None:
            return judge_integrity(record)
        problem = self._problem_of_metric(check, spec, record)
        if problem is not None:
            return metric_error(check.name, problem)
        if isinstance(check.rule, RegressionRule):
            judgement = self._judge_regression(check, spec, record, check.rule)
            judgement = replace(judgement, told=check.model.profile.meanings.get(check.rule.quantity))
        else:
            judgement = self._judge_absolute(check, spec, record, check.rule)
        if check.is_about_traps:
            return self._judge_found_traps(check, spec, record, judgement)
        if check.name.removeprefix(REGRESSION) == LARGEST_WEIGHT and judgement.is_finding and record.metrics:
            largest = find_largest(load_matrix(check.model.description.source, spec).slices)
            return replace(judgement, detail=f"{judgement.detail}; {name_weight(largest, spec)}")
        return judgement

    def _problem_of_metric(self, check: Check, spec: MatrixSpec, record: LayerRecord) -> str | None:
        """Return why a metric of a plugin is missing that should be there, now or in a checkpoint as the baseline."""
        rule = check.rule
        metric = rule.quantity if isinstance(rule, RegressionRule) else check.name
        if metric not in check.model.config.extensions.metric_names:
            return None
        entry = self._measurements.entry(check.model, spec) if isinstance(rule, RegressionRule) else None
        return find_problem(metric, record) or (None if entry is None else find_problem(metric, entry.record))

    def _judge_absolute(self, check: Check, spec: MatrixSpec, record: LayerRecord, rule: Rule) -> Judgement:
        plugin = check.model.config.extensions.checks.get(rule.check)
        if plugin is not None:
            entry = None if check.model.baseline is None else self._measurements.entry(check.model, spec)
            return judge_by_plugin(plugin, record, None if entry is None else entry.record, rule)
        if rule.check == NOISE:
            return judge_noise(record, rule)
        if rule.check == CORRELATION_TRAPS:
            level, is_alarm = self._measurements.trap_level(check.model, spec)
            n_traps = None if record.traps is None else record.traps.count(level) if is_alarm else 0
            return judge_traps(record, rule, n_traps, level)
        judgement = judge_metric(record, rule)
        is_of_plugin = rule.check in check.model.config.extensions.metric_names
        if is_of_plugin or not self._is_worth_a_second_look(judgement, rule, record):
            return judgement
        again = self._by_svd(check.model, spec, with_interval=rule.check == ALPHA)
        return _confirmed(judgement, judge_metric(again, rule), interval_of(again) if rule.check == ALPHA else "")

    def _judge_regression(self, check: Check, spec: MatrixSpec, record: LayerRecord, rule: RegressionRule) -> Judgement:
        entry = self._measurements.entry(check.model, spec)
        if entry is None:
            detail = "the baseline has no layer of this name, nor one of this shape with such weights or spectrum"
            return Judgement(check=check.name, verdict=Verdict.SKIPPED, detail=detail)
        if rule.quantity in OF_ROUNDING:
            comparison = self._measurements.rounding(check.model, spec)
        elif rule.quantity in NEEDS_BOTH_CHECKPOINTS:
            comparison = self._compare(check.model, spec, record, entry, with_directions=True)
        else:
            comparison = self._comparison(check.model, spec, record, entry)
        judgement = judge_regression(record, comparison, rule)
        judgement = self._with_name(check.model, spec, judgement)
        if rule.quantity in (*_NOT_OF_SPECTRA, *check.model.config.extensions.metric_names):
            return judgement
        if not self._is_worth_a_second_look(judgement, None, record):
            return judgement
        again = self._by_svd(check.model, spec)
        level, _ = self._measurements.trap_level(check.model, spec)
        comparison = compare_records(again, entry, trap_level=level, news=check.model.profile.trap_news)
        doubt = ""
        if rule.quantity == ALPHA:
            comparison, doubt = with_bootstrap(again, entry, comparison, seed=check.model.description.options.seed)
        found = judge_regression(again, comparison, rule)
        return _confirmed(judgement, self._with_name(check.model, spec, found), doubt)

    def _judge_found_traps(
        self, check: Check, spec: MatrixSpec, record: LayerRecord, judgement: Judgement
    ) -> Judgement:
        """Confirm a finding of traps under further permutations, and name the weights that carry them."""
        if not judgement.is_finding or record.traps is None:
            return judgement
        key = (id(check.model), spec.name)
        level, _ = self._measurements.trap_level(check.model, spec)
        is_paired = isinstance(check.rule, RegressionRule)
        needs_cause = not is_paired or check.model.profile.trap_news.needs_cause
        # What made it a finding is what must hold: the test as a whole, or an eigenvalue outside the bulk alone.
        p_value = record.traps.p_value if needs_cause else min(record.traps.outside, default=1.0)
        if (*key, needs_cause) not in self._confirmed:
            self._confirmed[(*key, needs_cause)] = self._confirm_traps(
                check.model, spec, p_value, level, needs_cause=needs_cause
            )
        is_confirmed, text = self._confirmed[(*key, needs_cause)]
        if not is_confirmed:
            return replace(judgement, verdict=Verdict.PASS, confirmation=text)
        if key not in self._traps:
            with single_threaded_blas():
                self._traps[key] = describe_layer_traps(task_of(check.model, spec), level)
        traps = self._traps[key]
        detail = f"{judgement.detail}; {name_carriers(traps, spec)}"
        n_found = int(judgement.value or 0) if is_paired else len(traps)
        told = explain_traps(traps, n_found, removal_call(check.model, spec))
        judgement = replace(judgement, detail=detail, confirmation=text, told=told)
        is_spread = not any(trap.is_carried_by_few for trap in traps)
        if is_paired and needs_cause and judgement.verdict is Verdict.FAIL and is_spread:
            # Training moves the weights of a layer as a whole; a few that are out of place are another matter.
            return replace(judgement, verdict=Verdict.WARN)
        return judgement

    def _confirm_traps(
        self, model: CheckedModel, spec: MatrixSpec, p_value: float, level: float, *, needs_cause: bool
    ) -> tuple[bool, str]:
        if p_value <= CLEAR_TRAP * level:
            return True, ""
        seed = model.description.options.seed
        more = self._measurements.trap_p_values(
            model, spec, tuple(seed + step for step in range(1, N_PERMUTATIONS + 1)), needs_cause=needs_cause
        )
        is_confirmed = is_trap_confirmed(p_value, more, level)
        found = "confirmed by" if is_confirmed else "borderline, and not confirmed by"
        return is_confirmed, f"{found} {N_PERMUTATIONS} further permutations"

    def _comparison(
        self, model: CheckedModel, spec: MatrixSpec, record: LayerRecord, entry: BaselineEntry
    ) -> LayerComparison:
        key = (id(model), spec.name)
        if key not in self._comparisons:
            self._comparisons[key] = self._compare(model, spec, record, entry, with_directions=False)
        return self._comparisons[key]

    def _compare(
        self, model: CheckedModel, spec: MatrixSpec, record: LayerRecord, entry: BaselineEntry, *, with_directions: bool
    ) -> LayerComparison:
        level, _ = self._measurements.trap_level(model, spec)
        subspaces: SubspaceComparison | str | None = None
        if with_directions and record.content_hash != entry.record.content_hash:
            subspaces = self._measurements.subspaces(model, spec)
        if isinstance(subspaces, str):
            return LayerComparison(blocked=subspaces)
        return compare_records(record, entry, trap_level=level, news=model.profile.trap_news, subspaces=subspaces)

    def tensors(self, model: CheckedModel) -> dict[str, TensorRecord]:
        """Return what is known of the tensors of a model that no matrix covers."""
        return self._measurements.tensors(model)

    def _tensors(self, model: CheckedModel) -> TensorComparison | None:
        if id(model) not in self._tensor_comparisons:
            self._tensor_comparisons[id(model)] = self._measurements.tensor_comparison(model)
        return self._tensor_comparisons[id(model)]

    def _pooled(self, model: CheckedModel) -> dict[str, Change]:
        pairs = []
        for spec, record in zip(model.description.matrices, self._measurements.records(model), strict=True):
            entry = self._measurements.entry(model, spec)
            if entry is not None:
                pairs.append((spec, record, entry))
        return pool_layers(
            [(record, entry) for _, record, entry in pairs],
            [self._comparison(model, spec, record, entry) for spec, record, entry in pairs],
        )

    def _with_name(self, model: CheckedModel, spec: MatrixSpec, judgement: Judgement) -> Judgement:
        """Say where a layer had another name in the baseline."""
        partner = self._measurements.partner(model, spec)
        if partner in (None, spec.name):
            return judgement
        return replace(judgement, detail=f"{judgement.detail} (in the baseline it is {partner})")

    def _is_worth_a_second_look(self, judgement: Judgement, rule: Rule | None, record: LayerRecord) -> bool:
        n_values = record.rows * record.columns
        return is_borderline(judgement, rule) and n_values <= SVD_VALUES

    def _by_svd(self, model: CheckedModel, spec: MatrixSpec, *, with_interval: bool = False) -> LayerRecord:
        task = by_svd(task_of(model, spec))
        changes = {"traps": False, "noise_test": False, "bootstrap": N_REPLICAS if with_interval else 0}
        return record_of(analyze_matrix(replace(task, options=task.options.changed(changes))))


def _confirmed(first: Judgement, again: Judgement, doubt: str = "") -> Judgement:
    """Return the verdict of the more careful computation, with what it gave."""
    value = "no value" if again.value is None else f"{again.value:.6g}"
    held = "confirmed" if again.verdict is first.verdict else "not confirmed"
    return replace(again, confirmation=f"borderline: {held} by a full SVD in float64 ({value}){doubt}")
