"""The Hill estimate, and the windows that free it from the shape of the matrix."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from spectral.errors import OptionError
from spectral.fits import FitFailure, FitFailureReason
from spectral.hill import alpha_farms, alpha_hill, window_starts
from spectral.power_law import MIN_LOG_SPREAD
from tests.core.builders import heavy_tailed
from tests.core.spectra import pareto

if TYPE_CHECKING:
    from numpy.typing import NDArray


def number(estimate: float | FitFailure) -> float:
    assert isinstance(estimate, float), estimate
    return estimate


class TestHill:
    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.floats(1e-4, 1e4), min_size=4, max_size=60, unique=True), st.integers(1, 3))
    def test_definition(self, values: list[float], n_tail: int) -> None:
        x = sorted(values)
        estimate = alpha_hill(np.array(x), n_tail)
        total = math.fsum(math.log(value / x[-n_tail - 1]) for value in x[-n_tail:])
        spread = math.log(x[-1] / x[-n_tail - 1])
        assume(abs(spread - MIN_LOG_SPREAD) > 1e-12)
        if spread < MIN_LOG_SPREAD:
            assert isinstance(estimate, FitFailure)
        else:
            assert number(estimate) == pytest.approx(1.0 + n_tail / total, rel=1e-9)

    @pytest.mark.parametrize("n", [9, 10])
    def test_default_is_half(self, n: int) -> None:
        evals = pareto(2.0, n, 1)
        assert alpha_hill(evals) == alpha_hill(evals, n // 2)

    def test_planted(self) -> None:
        # The error of a Hill estimate with k values is (α-1)/√k: four of them.
        assert number(alpha_hill(pareto(3.0, 4000, 1))) == pytest.approx(3.0, abs=4.0 * 2.0 / math.sqrt(2000))

    @pytest.mark.parametrize("factor", [0.1, 1e6])
    def test_scale(self, factor: float) -> None:
        evals = pareto(3.0, 400, 1)
        assert number(alpha_hill(evals * factor)) == pytest.approx(number(alpha_hill(evals)), rel=1e-10)

    def test_values_below_the_threshold_do_not_count(self) -> None:
        evals = pareto(3.0, 100, 1)
        assert alpha_hill(np.concatenate([np.zeros(500), evals])) == alpha_hill(evals)

    @pytest.mark.parametrize(
        ("evals", "n_tail", "reason", "detail"),
        [
            (np.array([]), None, "too_few_eigenvalues", "0 eigenvalues above 1e-05, more than 1 are needed"),
            (np.array([2.0]), None, "too_few_eigenvalues", "1 eigenvalues above 1e-05, more than 1 are needed"),
            (np.geomspace(1, 9, 5), 5, "too_few_eigenvalues", "5 eigenvalues above 1e-05, more than 5 are needed"),
            (np.full(9, 1e-6), None, "too_few_eigenvalues", "0 eigenvalues above"),
            (np.full(9, 3.0), None, "no_spread", "all eigenvalues in the tail are equal"),
        ],
    )
    def test_failures(self, evals: NDArray[np.float64], n_tail: int | None, reason: str, detail: str) -> None:
        estimate = alpha_hill(evals, n_tail)
        assert isinstance(estimate, FitFailure)
        assert estimate.reason is FitFailureReason(reason)
        assert estimate.detail.startswith(detail)

    @pytest.mark.parametrize("n_tail", [0, -1, 2.0, True])
    def test_bad_tail(self, n_tail: Any) -> None:
        with pytest.raises(OptionError, match=r"^n_tail must be None or an integer of at least 1, got "):
            alpha_hill(pareto(2.0, 20, 1), n_tail)

    def test_bad_evals(self) -> None:
        with pytest.raises(ValueError, match=r"^evals must be one-dimensional, ascending and finite"):
            alpha_hill(np.array([2.0, 1.0]))


class TestWindows:
    @given(st.integers(1, 500), st.integers(1, 500))
    def test_cover_the_axis_with_the_fewest(self, length: int, window: int) -> None:
        window = min(window, length)
        starts = window_starts(length, window)
        assert len(starts) == math.ceil(length / window)
        assert starts[-1] + window == length or len(starts) == 1
        assert starts[0] == 0
        assert all(later - earlier <= window for earlier, later in pairwise(starts))
        assert max(starts) + window <= length

    def test_slow(self) -> None:
        """Singular values of the windows cut by hand."""
        weights = heavy_tailed(2, 50, 20, seed=1)
        pooled = [
            np.linalg.svd(matrix[row : row + 20, :], compute_uv=False) ** 2 for matrix in weights for row in (0, 15, 30)
        ]
        assert number(alpha_farms(weights)) == pytest.approx(
            number(alpha_hill(np.sort(np.concatenate(pooled)))), rel=1e-9
        )

    def test_slow_small_windows(self) -> None:
        weights = heavy_tailed(1, 50, 20, seed=1)
        pooled = [
            np.linalg.svd(weights[0, row : row + 24, column : column + 12], compute_uv=False) ** 2
            for row in (0, 13, 26)
            for column in (0, 8)
        ]
        expected = number(alpha_hill(np.sort(np.concatenate(pooled))))
        assert number(alpha_farms(weights, aspect_ratio=2.0, window=12)) == pytest.approx(expected, rel=1e-9)

    def test_square_is_its_own_window(self) -> None:
        weights = heavy_tailed(60, 60, seed=2)
        evals = np.asarray(np.linalg.svd(weights, compute_uv=False)[::-1] ** 2, dtype=np.float64)
        assert number(alpha_farms(weights[None])) == pytest.approx(number(alpha_hill(evals)), rel=1e-6)

    def test_shape_no_longer_matters(self) -> None:
        """Pure noise: the estimate of the whole matrix triples from Q = 1 to 16, that of its windows stays."""
        noises = [np.random.default_rng(0).standard_normal(shape) for shape in ((100, 100), (400, 100), (1600, 100))]
        whole = [
            number(alpha_hill(np.asarray(np.linalg.svd(noise, compute_uv=False)[::-1] ** 2, dtype=np.float64)))
            for noise in noises
        ]
        windows = [number(alpha_farms(noise[None])) for noise in noises]
        assert whole[2] > 2.5 * whole[0]
        assert max(windows) - min(windows) < 0.1

    @pytest.mark.parametrize("dtype", ["float16", "float32"])
    def test_orientation_and_dtype(self, dtype: str) -> None:
        weights = heavy_tailed(2, 70, 30, seed=1).astype(dtype)
        turned = np.ascontiguousarray(weights.transpose(0, 2, 1))
        weights.flags.writeable = False
        assert number(alpha_farms(weights)) == pytest.approx(number(alpha_farms(turned)), rel=1e-9)
        assert alpha_farms(weights) == alpha_farms(weights.astype(np.float64))
        oblong: dict[str, Any] = {"aspect_ratio": 2.0, "window": 15}
        assert number(alpha_farms(weights, **oblong)) == pytest.approx(number(alpha_farms(turned, **oblong)), rel=1e-9)

    @pytest.mark.parametrize(
        ("shape", "options", "reason"),
        [
            ((1, 9, 1), {}, "too_few_eigenvalues"),
            ((1, 20, 20), {"aspect_ratio": 15.0}, "too_few_eigenvalues"),
            ((1, 20, 20), {"window": 21}, "too_few_eigenvalues"),
        ],
    )
    def test_no_window_fits(self, shape: tuple[int, ...], options: dict[str, Any], reason: str) -> None:
        estimate = alpha_farms(np.ones(shape), **options)
        assert isinstance(estimate, FitFailure)
        assert estimate.reason is FitFailureReason(reason)
        assert estimate.detail.startswith("no window of")

    def test_degenerate(self) -> None:
        for weights in (np.zeros((1, 20, 20)), np.ones((1, 20, 20))):
            assert isinstance(alpha_farms(weights), FitFailure)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"aspect_ratio": 0.5}, r"^aspect_ratio must be a number of at least 1, got 0.5$"),
            ({"aspect_ratio": float("nan")}, r"^aspect_ratio must be"),
            ({"aspect_ratio": float("inf")}, r"^aspect_ratio must be"),
            ({"window": 1}, r"^window must be None or an integer of at least 2, got 1$"),
            ({"window": 3.0}, r"^window must be"),
        ],
    )
    def test_bad_options(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(OptionError, match=message):
            alpha_farms(np.ones((1, 20, 20)), **options)

    @pytest.mark.parametrize("weights", [np.ones((20, 20)), np.full((1, 20, 20), np.nan), np.ones((0, 20, 20))])
    def test_bad_slices(self, weights: NDArray[np.float64]) -> None:
        with pytest.raises(ValueError, match=r"^slices must be finite numbers of shape \(rf, rows, columns\)"):
            alpha_farms(weights)
