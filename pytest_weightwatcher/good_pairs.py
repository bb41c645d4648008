"""Whether good checkpoints pass under a configuration, by the functions that judge in the gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_weightwatcher.checks import CORRELATION_TRAPS, COVERAGE, KERNELS, NOISE, TENSORS
from pytest_weightwatcher.limits import (
    layer_rules,
    model_regression_rules,
    model_rules,
    profile_of,
    regression_rules,
)
from pytest_weightwatcher.tensor_verdict import judge_tensors
from pytest_weightwatcher.tensors import compare_tensors
from pytest_weightwatcher.verdict import Verdict, judge_coverage, judge_metric, judge_regression

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_weightwatcher.config import Config
    from pytest_weightwatcher.good_runs import Checkpoint, Pair
    from pytest_weightwatcher.tensors import TensorComparison
    from pytest_weightwatcher.verdict import Judgement


def failing_checks(config: Config, pairs: Sequence[Pair], good: Sequence[Checkpoint]) -> frozenset[str]:
    """Return the names of the checks that some good checkpoint fails.

    The second look that the gate takes at borderline findings is left out: but for rounding it only lets more pass.
    Of the rules on a model as a whole against its baseline only those on tensors without a spectrum can fail.

    Parameters
    ----------
    config : Config
        Limits, without overrides.
    pairs : sequence of Pair
        Checkpoints beside their baseline.
    good : sequence of Checkpoint
        Those that must meet the absolute limits.
    """
    judgements = (*_against_baselines(config, pairs), *_absolute(config, good))
    return frozenset(each.check for each in judgements if each.verdict is Verdict.FAIL)


def _against_baselines(config: Config, pairs: Sequence[Pair]) -> Iterator[Judgement]:
    rules = regression_rules(config, profile_of(config, None), "")
    for pair in pairs:
        for name, comparison in pair.comparisons.items():
            for rule in rules:
                yield judge_regression(pair.run.records[name], comparison, rule)
    for rule in model_regression_rules(config, profile_of(config, None)):
        if rule.quantity in (TENSORS, KERNELS):
            yield from (judge_tensors(_compare_tensors(pair), rule) for pair in pairs)


def _compare_tensors(pair: Pair) -> TensorComparison | None:
    if pair.run.tensors is None or pair.base.tensors is None:
        return None
    return compare_tensors(pair.run.tensors, pair.base.tensors)


def _absolute(config: Config, good: Sequence[Checkpoint]) -> Iterator[Judgement]:
    # Beside a baseline the built-in limits on traps and noise give way to those on news.
    rules = [rule for rule in layer_rules(config, "") if rule.check not in (CORRELATION_TRAPS, NOISE)]
    (coverage,) = (rule for rule in model_rules(config) if rule.check == COVERAGE)
    for checkpoint in good:
        yield judge_coverage(checkpoint.coverage, len(checkpoint.records), coverage)
        for record in checkpoint.records.values():
            yield from (judge_metric(record, rule) for rule in rules)
