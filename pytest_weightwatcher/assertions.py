"""Assertions for users' own tests, with pytest or without.

Each is a question to the gate: the same checks, limits and verdicts as those of the plugin. They differ in which checks
they make, and in that what they ask for fails rather than warns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_weightwatcher.core import require_spectral_core

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Literal

    from pytest_weightwatcher.arguments import Allowance
    from pytest_weightwatcher.checks import RegressionRule
    from pytest_weightwatcher.config import Config
    from pytest_weightwatcher.judging import Judged
    from spectral.analysis import Analysis

MIN_EVALS = 50
MIN_COVERAGE = 0.9
FALSE_ALARM_RATE = 0.01
MAX_DISPLACEMENT = 0.03
SIGMAS = 3.0
"""Defaults of the gate (a test holds them to it): signatures are read before the numerical core is loaded."""


def assert_layers_well_trained(
    model: object,
    alpha_range: tuple[float, float] = (2.0, 6.0),
    *,
    min_evals: int = MIN_EVALS,
    layers: Iterable[int | str] = (),
    exclude: Iterable[str] = (),
    min_coverage: float | None = MIN_COVERAGE,
) -> Analysis:
    """Assert that every layer has an alpha inside a range.

    Parameters
    ----------
    model : path, torch.nn.Module, Keras model, mapping or Analysis
        What :func:`spectral.analyze` takes, or its result.
    alpha_range : (float, float)
        Smallest and largest accepted alpha, both inclusive.
    min_evals : int
        Layers with fewer eigenvalues are not judged: no fit of them means anything.
    layers : iterable of int and str
        Layers to judge: ids, types, names, shell patterns (see :class:`spectral.AnalysisOptions`). Empty for all.
    exclude : iterable of str
        Shell patterns of layer names that are not judged.
    min_coverage : float or None
        Smallest accepted share of the parameters that is analysed, 0 to 1; None: not judged.

    Returns
    -------
    Analysis
        The numbers that were judged; give it to the next assertion.

    Raises
    ------
    AssertionError
        A layer lies outside or has no alpha though it is large enough, values are damaged, too little was analysed, or
        no layer could be judged. The message names the worst layers.
    ValueError
        An argument is impossible.
    """
    __tracebackhide__ = True
    require_spectral_core()
    from pytest_weightwatcher.arguments import assertion_config, checked_bounds

    limits = {"alpha": checked_bounds("alpha_range", alpha_range)}
    config = assertion_config(min_evals, exclude, min_coverage, checks=limits)
    return _assert_absolute(
        model,
        config,
        layers,
        title="not well trained",
        about=f"a fit over {min_evals} or more eigenvalues",
        hint="In this test: widen alpha_range, or leave a layer that is known to be so out with exclude.",
        only_spectra=False,
    )


def assert_no_correlation_traps(
    model: object,
    *,
    max_traps: int = 0,
    false_alarm_rate: float = FALSE_ALARM_RATE,
    layers: Iterable[int | str] = (),
    exclude: Iterable[str] = (),
    min_coverage: float | None = MIN_COVERAGE,
    seed: int | None = None,
) -> Analysis:
    """Assert that no layer has correlation traps: single weights far beyond what the others make likely.

    Parameters
    ----------
    model : path, torch.nn.Module, Keras model, mapping or Analysis
        What :func:`spectral.analyze` takes, or its result.
    max_traps : int
        Traps accepted in each layer.
    false_alarm_rate : float
        Share of healthy models for which this may fail, over all of their layers together.
    layers, exclude, min_coverage
        As in :func:`assert_layers_well_trained`.
    seed : int, optional
        Of the permutations; default 0, or that of the analysis.

    Returns
    -------
    Analysis
        With the option ``traps``.

    Raises
    ------
    AssertionError
        A layer has more traps, values are damaged, too little was analysed, or no layer could be tested.
    ValueError
        An argument is impossible.
    """
    __tracebackhide__ = True
    require_spectral_core()
    from pytest_weightwatcher.arguments import assertion_config, checked_not_negative

    config = assertion_config(
        MIN_EVALS,
        exclude,
        min_coverage,
        checks={"correlation_traps": (None, checked_not_negative("max_traps", max_traps))},
        analysis={"false_alarm_rate": false_alarm_rate},
    )
    return _assert_absolute(
        model,
        config,
        layers,
        title="correlation traps",
        about="a trap test (it needs a full matrix with enough rows and columns)",
        hint="In this test: raise max_traps, or leave the layer out with exclude.",
        only_spectra=True,
        seed=seed,
    )


def assert_metric(
    model: object,
    metric: str,
    *,
    min: float | None = None,  # noqa: A002 (the words of ww.yaml)
    max: float | None = None,  # noqa: A002 (the words of ww.yaml)
    min_evals: int = MIN_EVALS,
    layers: Iterable[int | str] = (),
    exclude: Iterable[str] = (),
    min_coverage: float | None = MIN_COVERAGE,
    seed: int | None = None,
) -> Analysis:
    """Assert that a metric of every layer lies within bounds.

    Parameters
    ----------
    model : path, torch.nn.Module, Keras model, mapping or Analysis
        What :func:`spectral.analyze` takes, or its result.
    metric : str
        What may stand under ``checks`` in ww.yaml: a column of ``Analysis.details``,
        ``correlation_traps`` or ``noise``.
    min, max : float, optional
        The bounds, both inclusive; at least one.
    min_evals : int
        Layers with fewer eigenvalues have no power law, hence no alpha, D, xmin and the like.
    layers, exclude, min_coverage
        As in :func:`assert_layers_well_trained`.
    seed : int, optional
        Of everything random; default 0, or that of the analysis.

    Returns
    -------
    Analysis
        With the options that the metric needs.

    Raises
    ------
    AssertionError
        A layer lies outside, values are damaged, too little was analysed, or no layer has the metric.
    ValueError
        There is no such metric, or the bounds are impossible.
    """
    __tracebackhide__ = True
    require_spectral_core()
    from pytest_weightwatcher.arguments import assertion_config, checked_bounds
    from pytest_weightwatcher.checks import CORRELATION_TRAPS, EXTRA_METRICS
    from pytest_weightwatcher.limits import CHECK_NAMES
    from pytest_weightwatcher.suggestions import suggest
    from spectral.errors import OptionError
    from spectral.metrics import POWER_LAW_METRICS

    if metric not in CHECK_NAMES:
        raise OptionError(f"there is no metric {metric!r}{suggest(str(metric), CHECK_NAMES)}")
    if min is None and max is None:
        raise OptionError(f"assert_metric: give min, max or both for {metric}")
    if metric == CORRELATION_TRAPS and min is not None:
        # A finding of traps is confirmed by further permutations; that there are none is not.
        raise OptionError(f"assert_metric: give max alone for {metric}: a test finds traps, not their absence")
    option = EXTRA_METRICS.get(metric)
    config = assertion_config(
        min_evals,
        exclude,
        min_coverage,
        checks={metric: checked_bounds("(min, max)", (min, max))},
        analysis={} if option is None else {option: True},
    )
    return _assert_absolute(
        model,
        config,
        layers,
        title=f"{metric} out of bounds",
        about=f"a value of {metric}",
        hint="In this test: move min or max, or leave the layer out with exclude.",
        only_spectra=metric not in POWER_LAW_METRICS,
        seed=seed,
    )


def assert_no_regression(
    model: object,
    baseline: object,
    *,
    profile: Literal["compression", "finetune"] | None = None,
    config: Config | None = None,
    exclude: Iterable[str] = (),
    min_coverage: float | None = None,
    seed: int | None = None,
) -> Analysis:
    """Assert that a model is no worse than an accepted state of it.

    Every check against the baseline is made that the plugin makes, and integrity and coverage; absolute limits are not.

    Parameters
    ----------
    model : path, torch.nn.Module, Keras model, mapping or Analysis
        What :func:`spectral.analyze` takes, or its result.
    baseline : like model, path of a recorded ``.ww.json`` file, or the fixture ``ww_baseline``
        The accepted state. An Analysis stands for the weights as they were when it was made.
    profile : {"compression", "finetune"}, optional
        The question: are the weights the same but for rounding, or has any layer's health become worse? Default: that
        of ``config`` or of ``ww_baseline``, then ``compression``.
    config : Config, optional
        Limits of a ww.yaml, such as the fixture ``ww_config``. Where its policy says ``fail_on: warn``, warnings fail.
    exclude : iterable of str
        Shell patterns of layer names that are not judged, besides those of ``config``.
    min_coverage : float, optional
        Smallest accepted share of the parameters that is analysed; default that of ``config``, then 0.9.
    seed : int, optional
        Of everything random; default that of ``config``, then 0.

    Returns
    -------
    Analysis
        The numbers of ``model``.

    Raises
    ------
    AssertionError
        A layer is worse, is missing, or has damaged values, too little was analysed, or nothing could be compared.
    ValueError
        An argument is impossible, or the baseline is none for this model.
    """
    __tracebackhide__ = True
    require_spectral_core()
    from pytest_weightwatcher.accepted import AcceptedState
    from pytest_weightwatcher.arguments import changed_config
    from pytest_weightwatcher.config import Config

    if config is None:
        config = baseline.config if isinstance(baseline, AcceptedState) else Config()
    return _assert_paired(
        model,
        baseline,
        changed_config(config, profile=profile, exclude=exclude, min_coverage=min_coverage, seed=seed),
        title="worse than the baseline",
        hint="In this test: choose the profile, or give limits of your own with config.",
        seed=seed,
    )


def assert_rank_preserved(
    model: object,
    baseline: object,
    *,
    matrix_rank: Allowance = (0.01, None),
    effective_rank: Allowance = (0.1, 0.25),
    stable_rank: Allowance = (0.1, 0.25),
    sigmas: float | None = SIGMAS,
    exclude: Iterable[str] = (),
    min_coverage: float | None = MIN_COVERAGE,
) -> Analysis:
    """Assert that every layer kept its rank.

    Parameters
    ----------
    model : path, torch.nn.Module, Keras model, mapping or Analysis
        What :func:`spectral.analyze` takes, or its result.
    baseline : like model, path of a recorded ``.ww.json`` file, or the fixture ``ww_baseline``
        The accepted state.
    matrix_rank, effective_rank, stable_rank : float, (fall, rise) or None
        Accepted change as a share of the baseline's value: one number for both directions, or one for each, None for
        no limit. A rank may also rise because noise was added; rounding alone fills up a matrix_rank that was not full.
    sigmas : float or None
        Where the baseline was learned from several checkpoints, so many of its standard deviations are accepted, too.
    exclude, min_coverage
        As in :func:`assert_layers_well_trained`.

    Returns
    -------
    Analysis
        The numbers of ``model``.

    Raises
    ------
    AssertionError
        A rank changed by more, a layer is missing or damaged, too little was analysed, or nothing could be compared.
    ValueError
        An argument is impossible, or the baseline is none for this model.
    """
    __tracebackhide__ = True
    require_spectral_core()
    from pytest_weightwatcher.arguments import assertion_config, checked_allowances, checked_not_negative
    from pytest_weightwatcher.checks import RegressionRule
    from spectral.errors import OptionError

    sigmas = None if sigmas is None else checked_not_negative("sigmas", sigmas)
    given = {"matrix_rank": matrix_rank, "effective_rank": effective_rank, "stable_rank": stable_rank}
    rules = []
    for name, allowance in given.items():
        fall, rise = checked_allowances(name, allowance)
        if fall is not None or rise is not None:
            rules.append(RegressionRule(quantity=name, relative_decrease=fall, relative_increase=rise, sigmas=sigmas))
    if not rules:
        raise OptionError(f"assert_rank_preserved: give a limit for one of {', '.join(given)}")
    return _assert_paired(
        model,
        baseline,
        assertion_config(MIN_EVALS, exclude, min_coverage),
        title="rank not preserved",
        hint="In this test: move the accepted changes, or leave the layer out with exclude.",
        rules=rules,
    )


def assert_spectra_close(
    model: object,
    baseline: object,
    max_displacement: float = MAX_DISPLACEMENT,
    *,
    sigmas: float | None = SIGMAS,
    exclude: Iterable[str] = (),
    min_coverage: float | None = MIN_COVERAGE,
) -> Analysis:
    """Assert that the singular values of every layer are those of the baseline, but for rounding.

    Parameters
    ----------
    model : path, torch.nn.Module, Keras model, mapping or Analysis
        What :func:`spectral.analyze` takes, or its result.
    baseline : like model, path of a recorded ``.ww.json`` file, or the fixture ``ww_baseline``
        The accepted state.
    max_displacement : float
        Largest accepted √Σ(σ-σ')² / √Σσ'² of a layer. bf16 and int8 per row stay below
        0.001, int4 per row reaches 0.06.
    sigmas : float or None
        Where the baseline was learned from several checkpoints, so many of its standard deviations are accepted, too.
    exclude, min_coverage
        As in :func:`assert_layers_well_trained`.

    Returns
    -------
    Analysis
        The numbers of ``model``.

    Raises
    ------
    AssertionError
        A spectrum moved further, a layer is missing or damaged, too little was analysed, or nothing could be compared.
    ValueError
        An argument is impossible, or the baseline is none for this model.

    Notes
    -----
    Weights can change and keep their spectrum: :func:`assert_no_regression` compares them, too.
    """
    __tracebackhide__ = True
    require_spectral_core()
    from pytest_weightwatcher.arguments import assertion_config, checked_not_negative
    from pytest_weightwatcher.checks import SPECTRUM, RegressionRule

    rule = RegressionRule(
        quantity=SPECTRUM,
        increase=checked_not_negative("max_displacement", max_displacement),
        sigmas=None if sigmas is None else checked_not_negative("sigmas", sigmas),
    )
    return _assert_paired(
        model,
        baseline,
        assertion_config(MIN_EVALS, exclude, min_coverage),
        title="spectra moved",
        hint="In this test: raise max_displacement, or leave the layer out with exclude.",
        rules=[rule],
    )


def _assert_absolute(
    model: object,
    config: Config,
    layers: Iterable[int | str],
    *,
    title: str,
    about: str,
    hint: str,
    only_spectra: bool,
    seed: int | None = None,
) -> Analysis:
    __tracebackhide__ = True
    from pytest_weightwatcher.arguments import checked_layers, checked_seed
    from pytest_weightwatcher.checks import COVERAGE
    from pytest_weightwatcher.judging import judge_subject, open_subject

    subject = open_subject(
        model,
        config,
        layers=checked_layers(layers),
        seed=checked_seed(seed),
        is_compared=False,
        only_spectra=only_spectra,
    )
    judged = judge_subject(subject, config)
    asked = {name for name, limit in config.checks.items() if limit is not None and name != COVERAGE}
    return _conclude(judged, is_asked=asked.__contains__, title=title, about=about, hint=hint)


def _assert_paired(
    model: object,
    baseline: object,
    config: Config,
    *,
    title: str,
    hint: str,
    rules: Sequence[RegressionRule] | None = None,
    seed: int | None = None,
) -> Analysis:
    __tracebackhide__ = True
    from pytest_weightwatcher.arguments import checked_seed
    from pytest_weightwatcher.checks import COVERAGE, REGRESSION, RegressionRule
    from pytest_weightwatcher.judging import judge_subject, open_accepted, open_subject

    subject = open_subject(model, config, seed=checked_seed(seed), is_compared=True, only_spectra=rules is not None)
    subject, accepted = open_accepted(baseline, subject, only_spectra=rules is not None)
    judged = judge_subject(
        subject,
        config,
        baseline=accepted,
        paired_rules=rules,
        keep=lambda check: check.rule is None or isinstance(check.rule, RegressionRule) or check.name == COVERAGE,
    )
    if rules is None:
        title = f"{title} ({judged.model.profile.name}: {judged.model.profile.question})"
    return _conclude(
        judged,
        is_asked=lambda name: name.startswith(REGRESSION),
        title=title,
        about="a layer of the baseline to compare it with",
        hint=hint,
    )


def _conclude(judged: Judged, *, is_asked: Callable[[str], bool], title: str, about: str, hint: str) -> Analysis:
    """Return the analysis, or raise with everything that was found."""
    __tracebackhide__ = True
    from pytest_weightwatcher.failure_text import format_failure, format_nothing_checked
    from pytest_weightwatcher.judging import demand_fits
    from pytest_weightwatcher.verdict import Verdict

    judged = demand_fits(judged)
    # Whoever writes an assertion wants it to fail: fail_on: never is for the plugin's own items.
    failing = {Verdict.FAIL, Verdict.ERROR, *([Verdict.WARN] if judged.model.config.policy.fail_on == "warn" else [])}
    findings = [outcome for outcome in judged.outcomes if outcome.judgement.verdict in failing]
    if findings:
        raise AssertionError(format_failure(title, judged, findings, hint))
    missing = (Verdict.SKIPPED, Verdict.INCONCLUSIVE)
    if all(judgement.verdict in missing for check, judgement, _ in judged.outcomes if is_asked(check.name)):
        raise AssertionError(format_nothing_checked(title, judged, about))
    return judged.analysis
