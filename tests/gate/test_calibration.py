"""Limits from good runs: exact in the limit of many, and by simulation that the promised rate is kept."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_weightwatcher.calibration import (
    MAX_FACTOR,
    n_runs_needed,
    prediction_bound,
    prediction_factor,
    propose_limit,
    rate_bound,
    share_rate,
    tolerance_bound,
    tolerance_factor,
)

N_SIMULATIONS = 20_000


def standard(n: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return n draws with mean 0 and standard deviation 1, so that a bound is its factor."""
    draws = np.arange(n, dtype=np.float64)
    standardised: np.ndarray[tuple[int], np.dtype[np.float64]] = (draws - draws.mean()) / draws.std(ddof=1)
    return standardised


def prediction_bounds(
    draws: np.ndarray[Any, np.dtype[np.float64]], rate: float
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the bound of each set of draws at once, by the factor of one."""
    factor = prediction_bound(standard(draws.shape[1]), rate=rate)
    bounds: np.ndarray[Any, np.dtype[np.float64]] = draws.mean(axis=1) + factor * draws.std(axis=1, ddof=1)
    return bounds


@pytest.mark.parametrize("rate", [0.001, 0.05, 0.3])
def test_many_runs_give_the_quantile_itself(rate: float) -> None:
    # Gumbel's law: mean 0.57722 (Euler's constant), variance π²/6, quantile -ln(-ln(1 - rate)).
    exact = (-math.log(-math.log(1 - rate)) - 0.5772157) / (math.pi / math.sqrt(6))
    assert prediction_factor(1000, rate) == pytest.approx(exact, abs=0.03)
    assert tolerance_factor(1000, rate) == pytest.approx(exact, abs=0.4)
    assert tolerance_factor(1000, rate) > exact


@pytest.mark.parametrize("n", [2, 3, 6, 20])
@pytest.mark.parametrize("rate", [0.01, 0.1])
def test_the_next_run_alarms_at_the_rate(n: int, rate: float) -> None:
    rng = np.random.default_rng(n)
    draws = rng.gumbel(3.0, 0.4, size=(N_SIMULATIONS, n + 1))
    bounds = prediction_bounds(draws[:, :-1], rate)
    assert bounds[:3] == pytest.approx([prediction_bound(row[:-1], rate=rate) for row in draws[:3]])
    error = math.sqrt(rate * (1 - rate) / N_SIMULATIONS)
    assert np.mean(draws[:, -1] > bounds) == pytest.approx(rate, abs=4 * error + 0.05 * rate)


@pytest.mark.parametrize("n", [3, 8])
def test_the_tolerance_bound_holds_with_its_confidence(n: int) -> None:
    rng = np.random.default_rng(n)
    quantile = -math.log(-math.log(0.95))
    draws = rng.gumbel(size=(N_SIMULATIONS, n))
    bounds = draws.mean(axis=1) + tolerance_bound(standard(n), rate=0.05) * draws.std(axis=1, ddof=1)
    assert np.mean(bounds >= quantile) == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / N_SIMULATIONS))


@pytest.mark.parametrize("n", [5, 12])
def test_a_whole_run_keeps_the_rate(n: int) -> None:
    """Runs of six quantities, as the command shares the rate among them; what was seen is below every limit."""
    rng = np.random.default_rng(n)
    rate, n_quantities, n_sets = 0.1, 6, 4000
    # The layers of a run: the worst of several lognormal ones is not quite log-Gumbel.
    runs = np.exp(rng.normal(-3.0, 0.3, size=(n_sets, n + 1, n_quantities, 12))).max(axis=3)
    is_alarm = np.zeros(n_sets, dtype=bool)
    level = share_rate(rate, n_quantities)
    for place in range(n_quantities):
        good, new = runs[:, :-1, place], runs[:, -1, place]
        limits = np.maximum(good.max(axis=1), np.exp(prediction_bounds(np.log(good), level)))
        assert limits[0] == pytest.approx(propose_limit(list(good[0]), rate=level).limit)
        is_alarm |= new > limits
    # Bonferroni promises at most the rate, and the worst of a dozen has a somewhat shorter tail than Gumbel's.
    assert rate / 4 <= np.mean(is_alarm) <= rate


@pytest.mark.parametrize(("rate", "n"), [(0.05, 59), (0.01, 299), (0.1, 29)])
def test_runs_that_need_no_law(rate: float, n: int) -> None:
    # Wilks (1941): 59 draws for 95% of the distribution with 95% confidence.
    assert n_runs_needed(rate) == n
    assert rate_bound(n) <= rate < rate_bound(n - 1)


def test_the_bound_without_a_law() -> None:
    assert rate_bound(1) == pytest.approx(0.95)
    for n in (1, 5, 50):
        # A rate at the bound shows no alarm in n runs with probability 5%.
        assert (1 - rate_bound(n)) ** n == pytest.approx(0.05)


def test_one_run_has_no_spread() -> None:
    proposal = propose_limit([0.1], rate=0.01)
    assert (proposal.limit, proposal.tolerance_limit, proposal.largest) == (None, None, 0.1)
    assert "no spread" in proposal.reason


def test_too_few_runs_give_no_limit() -> None:
    proposal = propose_limit([0.1, 0.3], rate=0.001)
    assert proposal.limit is None
    assert "too few runs" in proposal.reason


def test_equal_runs() -> None:
    assert propose_limit([0.2, 0.2, 0.2], rate=0.01).limit == pytest.approx(0.2)
    assert propose_limit([0.0, 0.0], rate=0.01).limit == 0.0


def test_values_that_are_not_positive_are_not_taken_by_their_logarithm() -> None:
    proposal = propose_limit([-0.1, 0.2, 0.3], rate=0.1)
    assert proposal.law == "Gumbel"
    assert proposal.limit == pytest.approx(prediction_bound(np.array([-0.1, 0.2, 0.3]), rate=0.1))


def test_the_floor_is_accepted() -> None:
    values = [0.1, 0.11, 0.12]
    free = propose_limit(values, rate=0.1).limit
    assert free is not None
    assert propose_limit(values, rate=0.1, floor=2 * free).limit == 2 * free
    assert propose_limit(values, rate=0.1, floor=0.01).limit == free


def test_beyond_the_reach_of_damage_there_is_no_limit() -> None:
    values = [0.1, 0.2, 0.15]
    free = propose_limit(values, rate=0.05)
    assert free.limit is not None
    assert propose_limit(values, rate=0.05, reach=1.01 * free.limit) == free
    narrow = propose_limit(values, rate=0.05, reach=0.99 * free.limit)
    assert (narrow.limit, narrow.tolerance_limit, narrow.is_blind) == (None, None, False)
    assert "too few runs" in narrow.reason
    # What good runs themselves show leaves damage no room, however few they are.
    for blind in (propose_limit(values, rate=0.05, reach=0.2), propose_limit([0.1], rate=0.05, floor=0.3, reach=0.2)):
        assert (blind.limit, blind.is_blind) == (None, True)


positive = st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=12)


@settings(deadline=None)
@given(values=positive, scale=st.sampled_from([0.5, 4.0, 1024.0]))
def test_limits_follow_the_unit(values: list[float], scale: float) -> None:
    one = propose_limit(values, rate=0.05)
    other = propose_limit([value * scale for value in values], rate=0.05)
    if one.limit is None or other.limit is None:
        # Just at the factor, rounding may decide.
        assert one.limit is other.limit or max(one.limit or 0, other.limit or 0) > 0.99 * MAX_FACTOR * min(values)
        return
    assert other.limit == pytest.approx(one.limit * scale, rel=1e-6)


@settings(deadline=None)
@given(values=positive, rate=st.sampled_from([0.001, 0.02, 0.4]))
def test_no_run_seen_exceeds_its_limit(values: list[float], rate: float) -> None:
    proposal = propose_limit(values, rate=rate)
    if proposal.limit is not None:
        assert max(values) <= proposal.limit <= MAX_FACTOR * max(values)


@pytest.mark.parametrize(
    ("values", "rate", "problem"),
    [
        ([], 0.1, "at least one"),
        ([math.nan, 1.0], 0.1, "finite"),
        ([math.inf, 1.0], 0.1, "finite"),
        ([1.0, 2.0], 0.0, "between 0 and 1"),
        ([1.0, 2.0], 1.0, "between 0 and 1"),
    ],
)
def test_impossible_input(values: list[float], rate: float, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        propose_limit(values, rate=rate)
