"""The normalising constant of the truncated power law, against arbitrary precision and its own recurrences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral.cutoff_integrals import cutoff_moments, cutoff_survival
from tests.core.powerlaw_oracle import mpmath

ORDERS = (-1.0, 0.0, 0.3, 0.99, 1.0, 1.5, 2.0, 2.05, 3.0, 8.0, 60.0)
STEEP = ((1e4, 1e-3), (1e6, 1.0), (1e3, 1e5), (1.0, 1e6))
ARGUMENTS = (1e-12, 1e-5, 0.03, 1.0, 5.0, 40.0)


def moments(alpha: float, z: float) -> tuple[float, Any, Any]:
    log_norm, means, covariances = cutoff_moments(np.array([alpha]), np.array([z]))
    return float(log_norm[0]), means[0], covariances[0]


@pytest.mark.parametrize("z", ARGUMENTS)
@pytest.mark.parametrize("alpha", ORDERS)
def test_against_arbitrary_precision(alpha: float, z: float) -> None:
    library = mpmath()
    with library.workdps(40):
        # Moments of y are exponential integrals of lower order: E[y^k] = E_(α-k)(z) / E_α(z).
        norm, first, second = (library.expint(library.mpf(alpha) - k, library.mpf(z)) for k in range(3))
        expected_log = float(library.log(norm))
        mean, variance = float(first / norm), float(second / norm - (first / norm) ** 2)
    log_norm, means, covariances = moments(alpha, z)
    assert log_norm == pytest.approx(expected_log, rel=1e-10, abs=1e-10)
    assert means[1] == pytest.approx(mean, rel=1e-10)
    assert covariances[2] == pytest.approx(variance, rel=1e-9)


@pytest.mark.parametrize(("alpha", "z"), STEEP)
def test_steep(alpha: float, z: float) -> None:
    """mpmath's expint is wrong there (by 34 units of ln E at α = 60, z = 300), its quadrature is not."""
    library, rate = mpmath(), abs(alpha - 1.0) + z
    with library.workdps(40):
        panels = [0, *(library.mpf(2) ** k for k in range(-2, 12))]
        expected = library.quad(
            lambda t: library.exp((1 - library.mpf(alpha)) * t / rate - z * library.expm1(t / rate)) / rate, panels
        )
    assert moments(alpha, z)[0] + z == pytest.approx(float(library.log(expected)), rel=1e-10)


@settings(max_examples=60, deadline=None)
@given(st.floats(-0.5, 20.0), st.floats(-3.0, 2.0))
def test_derivatives_of_the_norm_are_the_moments(alpha: float, exponent: float) -> None:
    """An exponential family: -∂ ln E/∂α = E[ln y], -∂ ln E/∂z = E[y], and once more for the covariances."""
    z = 10.0**exponent
    step_alpha, step_z = 1e-4, 1e-3 * z
    _, means, covariances = moments(alpha, z)
    up, down = moments(alpha + step_alpha, z), moments(alpha - step_alpha, z)
    assert (down[0] - up[0]) / (2 * step_alpha) == pytest.approx(means[0], rel=1e-5)
    assert (down[1][1] - up[1][1]) / (2 * step_alpha) == pytest.approx(covariances[1], rel=1e-4)
    assert (down[1][0] - up[1][0]) / (2 * step_alpha) == pytest.approx(covariances[0], rel=1e-4)
    up, down = moments(alpha, z + step_z), moments(alpha, z - step_z)
    assert (down[0] - up[0]) / (2 * step_z) == pytest.approx(means[1], rel=1e-4)


@pytest.mark.parametrize(("alpha", "z"), [(2.0, 0.01), (0.5, 0.2), (3.0, 1e-6), (1.2, 3.0), (20.0, 0.5)])
def test_survival_against_arbitrary_precision(alpha: float, z: float) -> None:
    library = mpmath()
    log_y = np.sort(np.random.default_rng(0).exponential(0.7, 200))
    log_y[0] = 0.0
    survival = cutoff_survival(alpha, z, log_y)
    assert survival[0] == 1.0
    assert bool(np.all(np.diff(survival) <= 0.0))
    for j in (1, 50, 120, 180, 199):
        y = library.exp(library.mpf(float(log_y[j])))
        expected = y ** (1 - library.mpf(alpha)) * library.expint(alpha, z * y) / library.expint(alpha, z)
        assert survival[j] == pytest.approx(float(expected), rel=1e-9, abs=1e-14)


def test_rows_do_not_depend_on_each_other() -> None:
    alpha, z = np.array([0.5, 2.0, 7.0]), np.array([1.0, 1e-6, 0.1])
    together = cutoff_moments(alpha, z)
    for i in range(3):
        alone = cutoff_moments(alpha[i : i + 1], z[i : i + 1])
        for joint, single in zip(together, alone, strict=True):
            np.testing.assert_array_equal(joint[i], single[0])
