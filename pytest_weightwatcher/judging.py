"""The gate without pytest: one model, judged by the plugin's own functions.

An assertion is a configuration, perhaps a baseline, and a choice among the checks that the gate makes of them. What is
measured, compared and decided is the gate's business alone.
"""

from __future__ import annotations

import os
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pytest_weightwatcher.accepted import AcceptedState
from pytest_weightwatcher.adapted import open_checked, put_on_base
from pytest_weightwatcher.baseline import Baseline
from pytest_weightwatcher.baseline_source import describe_as_accepted, open_baseline, read_accepted
from pytest_weightwatcher.errors import BaselineError
from pytest_weightwatcher.extensions import NO_EXTENSIONS
from pytest_weightwatcher.gate import Check, Gate, layer_checks, model_checks
from pytest_weightwatcher.given_analysis import Subject, check_unchanged, record_analysis, subject_of_analysis
from pytest_weightwatcher.measurement import Measurements
from pytest_weightwatcher.planning import CheckedModel, gate_options, plan_model
from pytest_weightwatcher.verdict import Judgement, Verdict
from spectral.analysis import Analysis, describe
from spectral.execution import n_default_workers
from spectral.loaders import open_model
from spectral.loaders.hub_cache import cached_name
from spectral.loaders.locations import as_location, as_text
from spectral.metrics import POWER_LAW_METRICS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_weightwatcher.baseline_source import BaselineSource
    from pytest_weightwatcher.checks import RegressionRule
    from pytest_weightwatcher.config import Config
    from spectral.analysis import AnalysisOptions, LayerAnalysis
    from spectral.loaders.protocol import TensorSource
    from spectral.pipeline import KnownMatrix
    from spectral.weights import MatrixSpec


NO_TAIL = (
    "The spectrum has no power-law tail: its eigenvalues are all alike, or few differ from zero. So are those of a "
    "layer that is orthogonal, or has collapsed."
)


class Outcome(NamedTuple):
    """One check and its judgement, and what it usually means where the judgement does not know."""

    check: Check
    judgement: Judgement
    other_meaning: str = ""

    @property
    def meaning(self) -> str:
        """What such a finding usually means."""
        if self.judgement.verdict is Verdict.ERROR:
            return "Nothing is known of these values, good or bad: they could not be read or computed."
        return self.other_meaning or self.judgement.meaning

    @property
    def action(self) -> str:
        """What to do about such a finding."""
        if self.judgement.verdict is Verdict.ERROR:
            return "See that the model is whole, and stays as it is while it is judged."
        return self.judgement.action


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A model and the outcome of every check that was asked for.

    Attributes
    ----------
    name : str
        What to call the model in messages.
    model : CheckedModel
        What it was judged by.
    outcomes : tuple of Outcome
        In the order of the gate.
    analysis : Analysis
        The numbers: those that the caller gave, where nothing had to be added.
    """

    name: str
    model: CheckedModel
    outcomes: tuple[Outcome, ...]
    analysis: Analysis


def open_subject(
    model: object,
    config: Config,
    *,
    layers: tuple[int | str, ...] = (),
    seed: int | None = None,
    is_compared: bool,
    only_spectra: bool = False,
) -> Subject:
    """Open a model by its headers.

    Parameters
    ----------
    model : path, module, mapping or Analysis
        What :func:`spectral.analyze` takes, or its result.
    config : Config
        What is to be checked decides what has to be computed.
    layers : tuple of int and str
        Which layers; empty for all.
    seed : int, optional
        Goes before that of ``config``, and that of an analysis.
    is_compared : bool
        There is a baseline.
    only_spectra : bool
        Neither power laws nor projections of the weights are looked at: an analysis need not have them.

    Raises
    ------
    ModelError, OptionError
        It cannot be read, or a filter matches no layer.
    """
    options = gate_options(config, seed=seed, has_baseline=is_compared)
    if isinstance(model, Analysis):
        return subject_of_analysis(model, options, layers=layers, seed=seed, only_spectra=only_spectra)
    path = as_location(as_text(os.fsdecode(model), Path())) if isinstance(model, (str, os.PathLike)) else None
    opened = model if path is None else open_checked(path, NO_EXTENSIONS)
    description = describe(opened, options.changed({"layers": layers}))
    name = (cached_name(path) or path.name) if path is not None else f"the {type(model).__name__}"
    return Subject(name=name, path=path, model=model, description=description, layers={})


def open_accepted(baseline: object, subject: Subject, *, only_spectra: bool = False) -> tuple[Subject, BaselineSource]:
    """Open a baseline of any kind for a model; return that model laid out as the baseline is, and the baseline.

    Parameters
    ----------
    baseline : path, module, mapping, Analysis or AcceptedState
        A recorded file, a checkpoint, a model in memory, or an analysis of an earlier state.
    subject : Subject
        The model.
    only_spectra : bool
        As in :func:`open_subject`.

    Raises
    ------
    BaselineError, ModelError
        It cannot be read, is none for this model, or is the model itself.
    """
    description = subject.description
    if baseline is None:
        raise BaselineError("the baseline is None: give a recorded .ww.json file, a checkpoint or a model")
    if isinstance(baseline, AcceptedState):
        baseline = baseline.path if baseline.recorded is None else baseline.recorded
    is_in_memory = False
    accepted: Baseline | TensorSource
    if isinstance(baseline, (str, os.PathLike)):
        location = as_location(as_text(os.fsdecode(baseline), Path()))
        accepted = read_accepted(location, subject.path)
    elif isinstance(baseline, Baseline):
        location, accepted = Path(baseline.label), baseline
    elif baseline is subject.model:
        raise BaselineError("the baseline is the model itself, so that every comparison would pass")
    elif isinstance(baseline, Analysis):
        accepted = record_analysis(baseline, description.options, only_spectra=only_spectra)
        location = Path(accepted.label)
    else:
        location, accepted, is_in_memory = Path(f"the {type(baseline).__name__}"), open_model(baseline), True
    if subject.given is None:
        description = put_on_base(description, subject.path, accepted, location)
        description = describe_as_accepted(description, accepted)
        subject = replace(subject, description=description)
    source = open_baseline(accepted, location, description)
    if is_in_memory:
        _refuse_shared_memory(subject, source)
    if source.recorded is not None and _has_selection(description.options):
        # A recording holds all layers; those that the analysis left out on purpose are not missing.
        names = {spec.name for spec in description.matrices}
        source = replace(source, shapes={name: shape for name, shape in source.shapes.items() if name in names})
    return subject, source


def judge_subject(
    subject: Subject,
    config: Config,
    *,
    baseline: BaselineSource | None = None,
    paired_rules: Sequence[RegressionRule] | None = None,
    keep: Callable[[Check], bool] = lambda check: True,  # noqa: ARG005 (keeps all, whatever they are)
) -> Judged:
    """Make the checks of the gate on one model.

    Parameters
    ----------
    subject : Subject
        The model.
    config : Config
        Limits.
    baseline : BaselineSource, optional
        What it is compared with.
    paired_rules : sequence of RegressionRule, optional
        Limits against the baseline in place of those of the profile and of ``config``.
    keep : callable
        Which checks to make.
    """
    model = plan_model(subject.description, config, name=subject.name, path=subject.path, baseline=baseline)
    if paired_rules is not None:
        rules = dict.fromkeys(model.regression_rules, tuple(paired_rules))
        model = replace(model, regression_rules=rules, model_regression_rules=())
    checks = [*model_checks(model)]
    checks += [check for spec in model.description.matrices for check in layer_checks(model, spec)]
    gate = _PreparedGate(subject.layers)
    try:
        kept = [check for check in checks if keep(check)]
        for check in kept:
            gate.submit(check)
        if subject.given is not None:
            for spec in model.description.matrices:
                check_unchanged(subject.given, spec.name, gate.record(model, spec).content_hash)
        outcomes = tuple(Outcome(check, gate.judge(check)) for check in kept)
        is_enough = subject.given is not None and all(
            spec.name in subject.layers for spec in model.description.matrices
        )
        analysis = subject.given if is_enough and subject.given is not None else gate.analysis(model)
    finally:
        gate.close()
    return Judged(name=subject.name, model=model, outcomes=outcomes, analysis=analysis)


class _PreparedMeasurements(Measurements):
    """Measurements some of which were made before."""

    def __init__(self, layers: Mapping[str, LayerAnalysis], *, n_jobs: int | None) -> None:
        super().__init__(n_jobs=n_jobs)
        self._prepared = layers

    def _matrix(self, model: CheckedModel, spec: MatrixSpec) -> Future[LayerAnalysis | KnownMatrix]:
        if spec.name not in self._prepared:
            return super()._matrix(model, spec)
        done: Future[LayerAnalysis | KnownMatrix] = Future()
        done.set_result(self._prepared[spec.name])
        return done


class _PreparedGate(Gate):
    """A gate for one model some of whose layers were analysed before."""

    def __init__(self, layers: Mapping[str, LayerAnalysis]) -> None:
        n_jobs = share_of_cores()
        super().__init__(n_jobs=n_jobs)
        self._measurements = _PreparedMeasurements(layers, n_jobs=n_jobs)


def _refuse_shared_memory(subject: Subject, baseline: BaselineSource) -> None:
    """Refuse a baseline that changes with the model: ``state_dict()`` of a module is no copy of it."""
    import numpy as np

    # Some layers may well be shared, those that were frozen; not all of them.
    source = subject.description.source
    pairs = [(spec, baseline.tasks[spec.name]) for spec in subject.description.matrices if spec.name in baseline.tasks]
    if pairs and all(
        np.may_share_memory(source.load(spec.tensor), task.source.load(task.spec.tensor)) for spec, task in pairs
    ):
        raise BaselineError(
            "the baseline shares its memory with the model, so that every comparison would pass: take a copy "
            "before the model changes (copy.deepcopy, or spectral.analyze(model, traps=True, noise_test=True, "
            "projections=True))"
        )


def _has_selection(options: AnalysisOptions) -> bool:
    return bool(options.layers) or options.max_evals is not None or options.max_N is not None


def share_of_cores() -> int | None:
    """Return the threads for this process: all cores, or an xdist worker's share of them."""
    n_workers = os.environ.get("PYTEST_XDIST_WORKER_COUNT", "")
    return max(1, n_default_workers() // int(n_workers)) if n_workers.isdecimal() and int(n_workers) else None


def demand_fits(judged: Judged) -> Judged:
    """Fail layers without a power law that are large enough for one: an assertion about alpha is not met by none.

    The gate skips such layers, or leaves them to the policy of ww.yaml, since it asks many questions of each.
    """
    min_evals = judged.model.description.options.min_evals
    return replace(judged, outcomes=tuple(_demand_fit(outcome, min_evals) for outcome in judged.outcomes))


def _demand_fit(outcome: Outcome, min_evals: int) -> Outcome:
    check, judgement = outcome.check, outcome.judgement
    is_missing = judgement.verdict in (Verdict.SKIPPED, Verdict.INCONCLUSIVE)
    if not is_missing or check.spec is None or check.spec.n_evals < min_evals or check.name not in POWER_LAW_METRICS:
        return outcome
    detail = f"no {check.name}: {judgement.detail}"
    return Outcome(check, replace(judgement, verdict=Verdict.FAIL, detail=detail), NO_TAIL)
