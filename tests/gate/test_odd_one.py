"""The checkpoint that lies apart: by Dixon's critical values on a line, and not by chance."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from pytest_weightwatcher.checks import SPECTRUM, WEIGHTS
from pytest_weightwatcher.odd_one import AS_IF_UNRELATED, CLEARLY, DIXON_Q, critical_ratio, find_odd_one
from pytest_weightwatcher.reach import UNRELATED

Distances = dict[str, dict[frozenset[int], float]]


def distances_of(points: NDArray[np.float64], quantity: str) -> Distances:
    """Return the distances of points, one a row, for one quantity; by the other all are alike."""
    pairs = {frozenset(pair): pair for pair in combinations(range(len(points)), 2)}
    return {
        **{name: dict.fromkeys(pairs, 1.0) for name in (WEIGHTS, SPECTRUM)},
        quantity: {key: float(np.linalg.norm(points[one] - points[other])) for key, (one, other) in pairs.items()},
    }


@pytest.mark.parametrize(("n", "q"), sorted(DIXON_Q.items()))
def test_the_critical_values_are_those_of_dixon(n: int, q: float) -> None:
    # Of 20 samples from one normal law, one seems to have an outlier, at either end.
    draws = np.sort(np.random.default_rng(n).normal(size=(200_000, n)), axis=1)
    gaps = np.maximum(draws[:, 1] - draws[:, 0], draws[:, -1] - draws[:, -2])
    assert np.mean(gaps / (draws[:, -1] - draws[:, 0]) > q) == pytest.approx(0.05, abs=0.003)
    assert critical_ratio(SPECTRUM, n) == pytest.approx(q / (1 - q))
    assert critical_ratio(WEIGHTS, n) == CLEARLY


@pytest.mark.parametrize("n", [3, 4, 5, 8])
@pytest.mark.parametrize(("quantity", "n_dimensions"), [(SPECTRUM, 1), (WEIGHTS, 500)])
def test_equals_are_seldom_told_apart(n: int, quantity: str, n_dimensions: int) -> None:
    rng = np.random.default_rng(n)
    samples = [distances_of(rng.normal(size=(n, n_dimensions)), quantity) for _ in range(1000)]
    n_found = sum(find_odd_one(n, distances, reference=-1) is not None for distances in samples)
    # 5% by the critical values; 200 dimensions leave nothing to chance.
    assert n_found <= (70 if quantity == SPECTRUM else 0)


@pytest.mark.parametrize("n", [3, 5])
@pytest.mark.parametrize("place", [0, 2])
def test_one_that_moved_further_is_found(n: int, place: int) -> None:
    points = np.random.default_rng(n).normal(size=(n, 500))
    points[place] *= 6.0
    found = find_odd_one(n, distances_of(points, WEIGHTS), reference=1)
    assert found is not None
    assert (found.place, found.quantity) == (place, WEIGHTS)
    assert found.gap > CLEARLY * found.spread > 0.0
    points[place] /= 3.0
    assert find_odd_one(n, distances_of(points, WEIGHTS), reference=1) is None


def test_a_reference_is_left_behind_by_its_fine_tunes() -> None:
    """They move in one direction: that it lies apart from them is no news, unless it shares nothing with them."""
    points = np.array([[0.0], [0.4], [0.42], [0.44]])
    near = distances_of(points, WEIGHTS)
    assert find_odd_one(4, near, reference=0) is None
    found = find_odd_one(4, near, reference=1)
    assert found is not None
    assert found.place == 0
    points[1:] += UNRELATED - 0.4
    found = find_odd_one(4, distances_of(points, WEIGHTS), reference=0)
    assert found is not None
    assert (found.place, found.gap >= AS_IF_UNRELATED) == (0, True)
    assert find_odd_one(4, distances_of(points, SPECTRUM), reference=0) is None


def test_two_are_alike_far_from_each_other() -> None:
    assert find_odd_one(2, distances_of(np.array([[0.0], [9.0]]), WEIGHTS), reference=0) is None


def test_equal_others() -> None:
    found = find_odd_one(4, distances_of(np.array([[0.0], [0.0], [0.0], [1.0]]), SPECTRUM), reference=0)
    assert found is not None
    assert (found.place, found.spread) == (3, 0.0)
    assert find_odd_one(3, distances_of(np.zeros((3, 1)), SPECTRUM), reference=0) is None
