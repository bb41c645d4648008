"""Eigenvalues in units of their mean."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral.fits import FitFailure, FitFailureReason
from spectral.rescaling import RescaledEvals, check_evals, rescale_evals


def rescaled(values: list[float]) -> RescaledEvals:
    result = rescale_evals(np.array(values))
    assert isinstance(result, RescaledEvals), result
    return result


@given(st.lists(st.floats(0.0, 1e6), min_size=2), st.floats(-150.0, 150.0))
def test_mean_is_one_and_the_scale_leads_back(values: list[float], decades: float) -> None:
    evals = np.sort(np.array([*values, 1.0, 2.0])) * 10.0**decades
    result = rescaled(evals.tolist())
    assert np.mean(result.values) == pytest.approx(1.0, rel=1e-12)
    np.testing.assert_allclose(result.values / result.W_scale**2, evals, rtol=1e-12, atol=1e-14 * evals[-1])


def test_result_is_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        rescaled([1.0, 2.0]).values[0] = 3.0


@pytest.mark.parametrize("largest", [1e308, 1e-306])
def test_the_ends_of_the_floating_range(largest: float) -> None:
    result = rescaled([0.25 * largest, 0.75 * largest, largest, largest])
    np.testing.assert_allclose(result.values, [1 / 3, 1.0, 4 / 3, 4 / 3])
    assert result.W_scale == pytest.approx((0.75 * largest) ** -0.5)


@pytest.mark.parametrize(
    ("values", "reason", "detail"),
    [
        ([], FitFailureReason.TOO_FEW_EIGENVALUES, "0 eigenvalues, at least 2 are needed"),
        ([3.0], FitFailureReason.TOO_FEW_EIGENVALUES, "1 eigenvalues, at least 2 are needed"),
        ([0.0, 0.0], FitFailureReason.NO_SPECTRUM, "all 2 eigenvalues are zero"),
        ([1.0, 1.0 + 1e-15, 1.0 + 1e-15], FitFailureReason.NO_SPREAD, "all 3 eigenvalues are equal"),
    ],
)
def test_nothing_to_rescale(values: list[float], reason: FitFailureReason, detail: str) -> None:
    assert rescale_evals(np.array(values)) == FitFailure(reason=reason, detail=detail)


@pytest.mark.parametrize(
    "values", [[2.0, 1.0], [-1.0, 1.0], [1.0, np.inf], [np.nan, 1.0], [1.0, np.nan], [1.0, np.nan, 2.0], [[1.0, 2.0]]]
)
def test_impossible_eigenvalues(values: list[float]) -> None:
    with pytest.raises(ValueError, match="spectrum must be one-dimensional, ascending, finite and non-negative"):
        check_evals(np.array(values), "spectrum")
