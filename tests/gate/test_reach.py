"""Bounds on changes: no layer exceeds them, and some come near."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import spectral
from pytest_weightwatcher.checks import ALPHA, DRIFT, SPECTRUM, WEIGHTS
from pytest_weightwatcher.comparison import deviations
from pytest_weightwatcher.reach import UNRELATED, reach_of
from pytest_weightwatcher.records import LayerRecord, record_of

SIZE = 20


def record(values: NDArray[np.float64]) -> LayerRecord:
    (layer,) = spectral.analyze({"a.weight": values.astype(np.float32)}, min_evals=2, projections=True).layers
    return record_of(layer)


def matrix(decay: float, seed: int) -> NDArray[np.float64]:
    """Return a matrix of norm 1 whose singular values fall by a power of their rank: 0 is flat, 9 nearly rank one."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.normal(size=(SIZE, SIZE)))[0] for _ in range(2))
    sizes = np.arange(1.0, SIZE + 1.0) ** -decay
    found: NDArray[np.float64] = left * (sizes / np.linalg.norm(sizes)) @ right
    return found


@settings(deadline=None, max_examples=40)
@given(before=st.floats(0.0, 4.0), after=st.floats(0.0, 4.0), seed=st.integers(0, 99))
def test_no_layer_of_equal_norm_moves_further(before: float, after: float, seed: int) -> None:
    old, new = record(matrix(before, seed)), record(matrix(after, seed + 1))
    changes = deviations(new, old)
    for quantity in (SPECTRUM, DRIFT, "effective_rank", "stable_rank"):
        # Only a rise of drift is limited.
        size = changes[quantity] if quantity == DRIFT else abs(changes[quantity])
        assert size <= reach_of(quantity, [old]) + 1e-6


@pytest.mark.parametrize("quantity", ["effective_rank", "stable_rank"])
def test_a_collapse_and_a_flat_spectrum_reach_the_bounds(quantity: str) -> None:
    flat, thin, middle = (record(matrix(decay, 0)) for decay in (0.0, 4.0, 1.0))
    assert abs(deviations(thin, flat)[quantity]) == pytest.approx(reach_of(quantity, [flat]), abs=0.4)
    assert abs(deviations(flat, thin)[quantity]) == pytest.approx(reach_of(quantity, [thin]), abs=1e-3)
    # The layer with the most room decides.
    assert reach_of(quantity, [middle, flat]) == reach_of(quantity, [flat]) > reach_of(quantity, [middle])


def test_unrelated_weights_lie_that_far_apart() -> None:
    old = record(matrix(0.2, 0))
    found = [deviations(record(matrix(0.2, seed)), old)[WEIGHTS] for seed in range(1, 30)]
    assert np.sqrt(np.mean(np.square(found))) == pytest.approx(UNRELATED, rel=0.1)
    assert reach_of(WEIGHTS, [old]) == UNRELATED


@pytest.mark.parametrize("quantity", [ALPHA, "norm", "spectral_norm"])
def test_what_has_no_bound(quantity: str) -> None:
    assert reach_of(quantity, [record(matrix(1.0, 0))]) == math.inf
