"""The largest weight of a layer, and its place."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from spectral import analyze
from spectral.largest import LARGEST_WEIGHT, LargestWeight, find_largest
from spectral.weights import load_matrix


@given(
    arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=3, max_dims=3, max_side=6),
        elements=st.floats(-10, 10, width=32),
    )
)
def test_as_the_obvious_way(slices: NDArray[Any]) -> None:
    found = find_largest(slices)
    assert abs(found.value) == np.abs(slices).max()
    assert slices[found.slice_id, found.row, found.column] == found.value


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16, np.int8])
@pytest.mark.parametrize("sign", [1, -1])
def test_every_type_and_both_signs(dtype: Any, sign: int) -> None:
    slices = np.ones((2, 5, 7)).astype(dtype)
    slices[1, 3, 6] = 64 * sign
    assert find_largest(slices) == LargestWeight(value=64.0 * sign, slice_id=1, row=3, column=6)


def test_the_smallest_int8_has_a_magnitude() -> None:
    assert find_largest(np.array([[[-128, 127]]], dtype=np.int8)).value == -128.0


def test_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    slices = np.random.default_rng(0).standard_normal((2, 20, 7))
    whole = find_largest(slices)
    monkeypatch.setattr("spectral.largest.BLOCK_VALUES", 3 * 7)
    assert find_largest(slices) == whole


def test_the_first_of_equals() -> None:
    assert find_largest(np.array([[[1.0, -2.0], [2.0, 0.0]]])) == LargestWeight(value=-2.0, slice_id=0, row=0, column=1)


def test_the_metric_is_in_the_values_of_the_tensor() -> None:
    """The spectrum of a convolution is scaled; its weights are not."""
    kernel = np.random.default_rng(0).standard_normal((8, 6, 3, 3)).astype(np.float32)
    kernel[4, 2, 1, 2] = -9.0
    analysis = analyze({"conv.weight": kernel}, projections=True)
    (layer,) = analysis.layers
    assert layer.metrics[LARGEST_WEIGHT] == 9.0
    found = find_largest(load_matrix(analysis.description.source, layer.spec).slices)
    assert (found.slice_id, found.row, found.column) == (1 * 3 + 2, 4, 2)


def test_not_unless_asked_for() -> None:
    assert LARGEST_WEIGHT not in analyze({"w": np.eye(8)}).details
