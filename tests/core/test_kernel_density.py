"""The fast kernel density against the sum it stands for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral.kernel_density import linear_kernel_density

if TYPE_CHECKING:
    from numpy.typing import NDArray


def slow_density(points: NDArray[np.float64], grid: NDArray[np.float64], bandwidth: float) -> NDArray[np.float64]:
    distances = np.abs(grid[:, None] - points[None, :]) / bandwidth
    return np.asarray(np.sum(np.maximum(0.0, 1.0 - distances), axis=1) / (len(points) * bandwidth))


@given(
    st.lists(st.one_of(st.floats(0.0, 5.0), st.sampled_from([0.0, 1.0, 1.1, 1.2, 4000.0])), min_size=1, max_size=60),
    st.sampled_from([0.1, 0.3, 2.0]),
)
def test_against_the_sum(values: list[float], bandwidth: float) -> None:
    points = np.sort(np.array(values))
    grid = np.concatenate([points, np.linspace(-0.5, points[-1] + 0.5, 400)])
    np.testing.assert_allclose(
        linear_kernel_density(points, grid, bandwidth=bandwidth),
        slow_density(points, grid, bandwidth),
        atol=1e-9,
        rtol=0.0,
    )


def test_against_scikit_learn() -> None:
    KernelDensity = import_module("sklearn.neighbors").KernelDensity  # the incumbent's dependency, without types
    points = np.sort(np.random.default_rng(3).chisquare(2, 500))
    grid = np.linspace(0.0, points[-1] + 0.5, 1000)
    theirs = np.exp(KernelDensity(kernel="linear", bandwidth=0.1).fit(points[:, None]).score_samples(grid[:, None]))
    np.testing.assert_allclose(linear_kernel_density(points, grid, bandwidth=0.1), theirs, atol=1e-12, rtol=0.0)


def test_integrates_to_one() -> None:
    points = np.sort(np.random.default_rng(0).chisquare(3, 200))
    grid = np.linspace(-0.1, points[-1] + 0.1, 50_001)
    density = linear_kernel_density(points, grid, bandwidth=0.1)
    assert np.sum(0.5 * (density[1:] + density[:-1]) * np.diff(grid)) == pytest.approx(1.0, abs=1e-6)
