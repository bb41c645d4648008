"""The noise test: laws, rates on noise, and what it finds; and the moments and the edge it rests on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from spectral.elements import CLIP_SHARE, ElementStatistics, clipped, element_statistics, in_own_units
from spectral.execution import single_threaded_blas
from spectral.noise import (
    SPIKE_LEVEL,
    NoiseTest,
    any_of,
    compare_with_noise,
    largest_eigenvalue,
    level_of_each,
    noise_level,
)
from spectral.noise_edge import MAX_KURTOSIS_SHARE, edge_factors
from spectral.tracy_widom import (
    TRACY_WIDOM_MEAN,
    TRACY_WIDOM_VARIANCE,
    largest_eigenvalue_scale,
    largest_share_scale,
    tracy_widom_sf,
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with single_threaded_blas():
        yield


Draw = Callable[[np.random.Generator, tuple[int, int]], NDArray[np.float64]]

DISTRIBUTIONS: dict[str, Draw] = {
    "gaussian": lambda rng, shape: rng.standard_normal(shape),
    "uniform": lambda rng, shape: rng.uniform(-1.0, 1.0, shape),
    "signs": lambda rng, shape: rng.choice([-1.0, 1.0], shape),
    "t5": lambda rng, shape: rng.standard_t(5.0, shape),
    "nearly half": lambda rng, shape: rng.standard_normal(shape) * (rng.random(shape) < 0.45),
}


def evals_of(matrix: NDArray[Any]) -> NDArray[np.float64]:
    tall = matrix.astype(np.float64) if matrix.shape[0] >= matrix.shape[1] else matrix.T.astype(np.float64)
    return np.asarray(np.linalg.eigvalsh(tall.T @ tall), dtype=np.float64)


def compared(*blocks: NDArray[Any]) -> NoiseTest:
    return compare_with_noise(
        np.stack(blocks), np.stack([evals_of(block) for block in blocks]), np.random.default_rng(0)
    )


def statistics_of(matrix: NDArray[Any]) -> ElementStatistics:
    return element_statistics(in_own_units(matrix)[0])


def with_spike(noise: NDArray[np.float64], strength: float, seed: int = 0) -> NDArray[np.float64]:
    """Add a rank-one signal of `strength` times the limit of detectability of unit noise."""
    rng = np.random.default_rng([7, seed])
    left, right = (rng.standard_normal(length) for length in noise.shape)
    size = strength * noise.size**0.25
    direction = np.outer(left / np.linalg.norm(left), right / np.linalg.norm(right))
    return np.asarray(noise + direction * size, dtype=np.float64)


class TestOwnUnits:
    @pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e-40, 1e-12, 1.0, 1e12, 1e150, 1e300])
    def test_any_magnitude(self, scale: float) -> None:
        matrix = np.random.default_rng(0).standard_normal((40, 30))
        values, unit = in_own_units(matrix * scale)
        assert values.dtype == np.float32
        assert np.mean(values.astype(np.float64) ** 2) == pytest.approx(1.0, rel=1e-6)
        assert unit == pytest.approx(scale * math.sqrt(np.mean(matrix**2)), rel=1e-12)

    @pytest.mark.parametrize(
        ("dtype", "scale"),
        [
            (np.float16, 2e4),
            (np.float16, 1e-6),
            (np.float32, 1e38),
            (np.float32, 1e-42),
            (ml_dtypes.bfloat16, 1e38),
            (ml_dtypes.float8_e4m3fn, 100.0),
            (np.int8, 100.0),
        ],
    )
    def test_any_type(self, dtype: Any, scale: float) -> None:
        matrix = (np.random.default_rng(0).uniform(-1.25, 1.25, (50, 50)) * scale).astype(dtype)
        values, unit = in_own_units(matrix)
        assert values.astype(np.float64) * unit == pytest.approx(matrix.astype(np.float64), rel=1e-6, abs=1e-6 * unit)
        assert np.mean(values.astype(np.float64) ** 2) == pytest.approx(1.0, rel=1e-4)

    def test_the_most_negative_integer(self) -> None:
        values, unit = in_own_units(np.full((3, 3), -128, dtype=np.int8))
        assert unit == pytest.approx(128.0)
        assert np.all(values == -1.0)

    @pytest.mark.parametrize("value", [0.0, math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
    def test_refused_values(self, value: float, dtype: Any) -> None:
        matrix = np.zeros((4, 5), dtype=dtype)
        matrix[2, 3] = value
        with pytest.raises(ValueError, match="finite values that are not all zero"):
            in_own_units(matrix)

    @pytest.mark.parametrize("shape", [(0, 3), (3, 0), (5,)])
    def test_refused_shapes(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="expected a matrix with values"):
            in_own_units(np.ones(shape))


class TestElementStatistics:
    @pytest.mark.parametrize("name", ["gaussian", "uniform", "signs"])
    def test_moments(self, name: str) -> None:
        matrix = DISTRIBUTIONS[name](np.random.default_rng(1), (300, 200))
        found = element_statistics(matrix)
        scaled = matrix / math.sqrt(np.mean(matrix**2))
        m4, m6 = np.mean(scaled**4), np.mean(scaled**6)
        assert found.variance == pytest.approx(np.mean(matrix**2), rel=1e-12)
        assert found.excess_kurtosis == pytest.approx(m4 - 3.0, abs=1e-10)
        assert found.sixth_cumulant == pytest.approx(m6 - 15.0 * m4 + 30.0, abs=1e-9)
        assert found.n_clipped == 0
        assert clipped(matrix, found) is matrix

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 10**6), st.floats(0.05, 1.0), st.floats(1.0, 12.0), st.sampled_from([(40, 40), (32, 90)]))
    def test_clipped_moments_are_those_of_the_clipped_matrix(
        self, seed: int, density: float, degrees: float, shape: tuple[int, int]
    ) -> None:
        rng = np.random.default_rng(seed)
        matrix = in_own_units(rng.standard_t(degrees, shape) * (rng.random(shape) < density))[0]
        found = element_statistics(matrix)
        left = clipped(matrix, found).astype(np.float64)
        assert found.variance == pytest.approx(np.mean(left**2), rel=1e-4)
        assert found.excess_kurtosis + 3.0 == pytest.approx(np.mean(left**4) / np.mean(left**2) ** 2, rel=1e-4)
        if found.n_clipped:
            assert found.n_clipped == np.count_nonzero(np.abs(matrix) > found.clip_level)
            is_at_rest = found.clip_level == pytest.approx(CLIP_SHARE * found.detectability_limit, rel=1e-5)
            # A level exists where the second inequality says so; else every element that is not zero is clipped.
            n_values = np.count_nonzero(matrix)
            assert is_at_rest == (CLIP_SHARE**2 * math.sqrt(matrix.size) * n_values > matrix.size)
            assert is_at_rest or found.n_clipped == n_values

    @pytest.mark.parametrize("n_values", [1, 2, 50, 200])
    def test_nearly_all_zero(self, n_values: int) -> None:
        matrix = np.zeros((128, 128), dtype=np.float32)
        matrix.flat[np.random.default_rng(0).choice(matrix.size, n_values, replace=False)] = np.arange(1, n_values + 1)
        found = statistics_of(matrix)
        assert found.n_clipped == n_values
        assert found.excess_kurtosis == pytest.approx(matrix.size / n_values - 3.0)
        assert not found.is_calibrated

    def test_an_element_beyond_float32_squares(self) -> None:
        matrix = np.random.default_rng(0).standard_normal((64, 64))
        plain = statistics_of(matrix)
        matrix[3, 4] = 1e15
        found = statistics_of(matrix)
        assert found.n_clipped == 1
        assert found.excess_kurtosis == pytest.approx(plain.excess_kurtosis, abs=0.1)

    def test_without_a_sixth_moment(self) -> None:
        with pytest.raises(ValueError, match="no sixth moment in range"):
            element_statistics(np.zeros((4, 4)))


class TestEdge:
    @given(st.integers(24, 10**5), st.integers(24, 10**5))
    def test_gaussian_is_marchenko_pastur_with_the_usual_width(self, n_rows: int, n_columns: int) -> None:
        assert edge_factors(n_rows, n_columns, excess_kurtosis=0.0, sixth_cumulant=0.0) == pytest.approx(
            (1.0, 1.0), rel=1e-9
        )

    @given(st.integers(100, 5000), st.integers(100, 5000), st.floats(-1e-3, 1e-3))
    def test_first_order_in_the_kurtosis(self, n_rows: int, n_columns: int, x: float) -> None:
        kurtosis = x * math.sqrt(n_rows * n_columns)
        edge, _ = edge_factors(n_rows, n_columns, excess_kurtosis=kurtosis, sixth_cumulant=0.0)
        ratio = (n_rows + n_columns) / math.sqrt(n_rows * n_columns)
        assert edge == pytest.approx(1.0 + x, abs=30.0 * ratio * x * x + 1e-12)

    @settings(max_examples=60, deadline=None)
    @given(st.integers(-5, 30), st.integers(0, 20), st.sampled_from([(100, 100), (100, 300), (900, 100)]))
    def test_the_edge_is_the_least_image_and_the_density_behind_it_a_square_root(
        self, x_percent: int, y_percent: int, shape: tuple[int, int]
    ) -> None:
        """Minimised by search, and the density solved for just inside the edge: no derivative by hand."""
        x, y = x_percent / 100.0, y_percent / 100.0
        n = math.sqrt(shape[0] * shape[1])
        r = (shape[0] + shape[1]) / n
        series = np.polynomial.Polynomial([0.0, 1.0, x, y, r * x * x])
        image = 1.0 + r * series + series**2
        least = minimize_scalar(
            lambda u: image(math.exp(u)) / math.exp(u), bounds=(-3.0, 1.3), method="bounded", options={"xatol": 1e-9}
        )
        edge, width = edge_factors(*shape, excess_kurtosis=x * n, sixth_cumulant=y * n * n)
        assert edge == pytest.approx(least.fun / (2.0 + r), rel=1e-9)
        inside = least.fun * (1.0 - 1e-5)
        roots = np.polynomial.polynomial.polyroots(image.coef - inside * np.eye(1, len(image.coef), 1)[0])
        nearest = roots[np.argmin(np.abs(roots - math.exp(least.x)))]
        # z·g = -1 - Mφ: its imaginary part over λ is the density, up to constants that the Gaussian one shares.
        density = abs(series(nearest).imag) / inside / math.sqrt(least.fun - inside)
        assert width == pytest.approx((density * (2.0 + r)) ** (-2.0 / 3.0), rel=1e-3)

    @given(st.integers(24, 4000), st.integers(24, 4000), st.floats(-2.0, 1e4), st.floats(-1e3, 1e8))
    def test_symmetric_and_finite(self, n_rows: int, n_columns: int, kurtosis: float, sixth: float) -> None:
        edge, width = edge_factors(n_rows, n_columns, excess_kurtosis=kurtosis, sixth_cumulant=sixth)
        assert (edge, width) == pytest.approx(
            edge_factors(n_columns, n_rows, excess_kurtosis=kurtosis, sixth_cumulant=sixth), rel=1e-9
        )
        assert 0.0 < edge < math.inf
        assert 0.0 < width < math.inf


SHAPES = [(128, 128), (192, 96)]


class TestRates:
    """120 draws a cell. Standard errors of mean and spread of t: 0.12 and 0.10; of a rate of 5%: 2%."""

    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("name", ["gaussian", "uniform", "signs", "t5", "nearly half"])
    def test_noise(self, name: str, shape: tuple[int, int]) -> None:
        seed = [20, list(DISTRIBUTIONS).index(name), *shape]
        values = []
        for draw in range(120):
            matrix = DISTRIBUTIONS[name](np.random.default_rng([*seed, draw]), shape)
            moments = statistics_of(matrix)
            left = clipped(in_own_units(matrix)[0], moments)
            assert moments.is_calibrated
            values.append(moments.statistic(float(evals_of(left)[-1])))
        t = np.array(values)
        assert np.mean(t) == pytest.approx(TRACY_WIDOM_MEAN, abs=0.27)
        assert np.std(t) == pytest.approx(math.sqrt(TRACY_WIDOM_VARIANCE), abs=0.22)
        assert np.mean([tracy_widom_sf(float(value)) <= 0.05 for value in t]) <= 0.10

    @pytest.mark.parametrize("name", ["uniform", "t5"])
    def test_uncorrected_it_would_not_hold(self, name: str) -> None:
        values = []
        for draw in range(120):
            matrix = DISTRIBUTIONS[name](
                np.random.default_rng([20, list(DISTRIBUTIONS).index(name), 128, 128, draw]), (128, 128)
            )
            centre, width = largest_share_scale(128, 128)
            values.append((evals_of(matrix)[-1] / np.mean(matrix**2) - centre) / width)
        assert abs(np.mean(values) - TRACY_WIDOM_MEAN) > 0.27

    def test_the_whole_test_on_slices(self) -> None:
        p_values = []
        for draw in range(100):
            rng = np.random.default_rng([11, draw])
            p_values.append(compared(*rng.uniform(-1.0, 1.0, (3, 48, 64))).p_value)
        assert 0.0 <= np.mean(np.array(p_values) <= 0.05) <= 0.11
        assert np.mean(p_values) == pytest.approx(0.5, abs=0.09)

    @pytest.mark.parametrize("density", [0.1, 0.03, 0.005])
    def test_nearly_all_zero_never_alarms_too_often(self, density: float) -> None:
        """Uncorrected 13 to 24%: the heaviest row or column has an eigenvalue of its own."""
        alarms = 0
        for draw in range(20):
            rng = np.random.default_rng([12, draw])
            found = compared(rng.standard_normal((200, 200)) * (rng.random((200, 200)) < density))
            assert not found.is_calibrated
            alarms += found.p_value <= 0.05
        assert alarms <= 1


class TestPower:
    def test_a_spike_above_the_limit_is_found_and_one_below_is_not(self) -> None:
        noise = [np.random.default_rng([13, draw]).standard_normal((256, 256)) for draw in range(30)]

        def n_found(strength: float) -> int:
            return sum(
                compared(with_spike(matrix, strength, draw)).p_value <= 0.05 for draw, matrix in enumerate(noise)
            )

        assert n_found(1.5) == 30
        assert n_found(1.2) >= 15  # the most powerful test there is finds 75%
        assert n_found(0.7) <= 5

    @pytest.mark.parametrize("shape", [(200, 120), (120, 200), (150, 150)])
    def test_spikes_are_counted_and_the_noise_behind_them_is_found(self, shape: tuple[int, int]) -> None:
        matrix = np.random.default_rng(3).standard_normal(shape)
        for index, strength in enumerate([8.0, 5.0, 2.5]):
            matrix = with_spike(matrix, strength, index)
        found = compared(0.01 * matrix)
        assert found.n_spikes == 3
        assert found.noise_sigma == pytest.approx(0.01, rel=0.02)
        assert found.detectability_limit == pytest.approx(found.noise_sigma * matrix.size**0.25)
        assert found.p_value < 1e-12
        # Without the spikes' energy taken out, σ would be 1.7% and more above.
        assert math.sqrt(np.mean((0.01 * matrix) ** 2)) > 0.0104

    def test_the_inversion_of_benaych_georges_and_nadakuditi(self) -> None:
        """Spikes at their almost sure places over a bulk of known energy: σ² comes back exactly."""
        n, m, variance = 400, 100, 2.5
        strengths = np.array([4.0, 2.0, 1.5]) ** 2 * variance * math.sqrt(n * m)
        spikes = (strengths + n * variance) * (strengths + m * variance) / strengths
        total = variance * n * m + strengths.sum()
        bulk = np.full(m - 3, (total - spikes.sum()) / (m - 3))
        gaussian = ElementStatistics(
            n_rows=n, n_columns=m, variance=total / n / m, excess_kurtosis=0.0, sixth_cumulant=0.0,
            clip_level=math.inf, n_clipped=0, largest=1.0, norm_bound=0.0,
        )  # fmt: skip
        found, n_spikes = noise_level(np.sort(np.concatenate([bulk, spikes])), gaussian, level=SPIKE_LEVEL)
        assert n_spikes == 3
        assert found == pytest.approx(variance, rel=1e-8)

    def test_large_elements_are_not_structure(self) -> None:
        matrix = np.random.default_rng(4).standard_normal((128, 128))
        alone = compared(matrix)
        matrix[5, 6] = 100.0
        found = compared(matrix)
        assert found.n_clipped == alone.n_clipped + 1
        assert found.p_value == pytest.approx(alone.p_value, abs=0.05)
        assert found.n_spikes == alone.n_spikes == 0


class TestLaws:
    @pytest.mark.parametrize("scale", [1e-150, 1e-30, 1e-12, 1e12, 1e30, 1e150])
    @pytest.mark.parametrize("name", ["gaussian", "t5"])
    def test_scale(self, name: str, scale: float) -> None:
        matrix = DISTRIBUTIONS[name](np.random.default_rng(5), (64, 64))
        plain, scaled = compared(matrix), compared(matrix * scale)
        assert scaled.p_value == pytest.approx(plain.p_value, rel=1e-3)
        assert scaled.noise_sigma == pytest.approx(plain.noise_sigma * scale, rel=1e-9)
        assert (scaled.n_spikes, scaled.n_clipped) == (plain.n_spikes, plain.n_clipped)

    def test_transposition_and_permuted_rows(self) -> None:
        matrix = np.random.default_rng(6).standard_t(5.0, (90, 64))
        plain = compared(matrix)
        for other in (matrix.T, matrix[::-1], -matrix, np.asfortranarray(matrix)):
            assert compared(other).p_value == pytest.approx(plain.p_value, rel=2e-2)
            assert compared(other).noise_sigma == pytest.approx(plain.noise_sigma, rel=1e-9)

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, ml_dtypes.bfloat16])
    def test_stored_types(self, dtype: Any) -> None:
        matrix = (3e4 * np.random.default_rng(7).uniform(-1.0, 1.0, (100, 64))).astype(dtype)
        kept = matrix.copy()
        matrix.flags.writeable = False
        exact = compared(matrix.astype(np.float64))
        assert compared(matrix).p_value == pytest.approx(exact.p_value, rel=1e-3)
        assert np.array_equal(matrix, kept)

    def test_quantised_noise_is_noise(self) -> None:
        p_values = []
        for draw in range(60):
            levels = np.round(np.random.default_rng([8, draw]).standard_normal((96, 96)) * 1.5)
            p_values.append(compared(levels).p_value)
        assert np.mean(np.array(p_values) <= 0.05) <= 0.12
        assert np.mean(p_values) == pytest.approx(0.5, abs=0.12)

    def test_same_bits_twice(self) -> None:
        matrix = np.random.default_rng(9).standard_t(3.0, (2, 80, 64))
        assert compared(*matrix) == compared(*matrix.copy())

    def test_slices(self) -> None:
        rng = np.random.default_rng(10)
        quiet, loud = rng.standard_normal((64, 80)), with_spike(rng.standard_normal((64, 80)), 4.0)
        alone, both = compared(loud), compared(quiet, loud, 1e-5 * quiet)
        assert both.statistic == alone.statistic
        assert both.p_value == any_of(alone.p_value, 3)
        assert both.n_spikes == 1
        assert both.noise_sigma == pytest.approx(math.sqrt((2.0 + 1e-10) / 3.0), rel=0.02)


class TestDegenerate:
    @pytest.mark.parametrize("rank", [1, 3])
    def test_exact_low_rank_has_its_rank_in_spikes_and_no_noise(self, rank: int) -> None:
        rng = np.random.default_rng(0)
        found = compared(rng.standard_normal((100, rank)) @ rng.standard_normal((rank, 80)))
        assert found.n_spikes == rank
        assert found.noise_sigma == 0.0
        assert found.p_value == 0.0

    def test_constant(self) -> None:
        found = compared(np.full((64, 64), 0.3))
        assert (found.n_spikes, found.noise_sigma, found.p_value) == (1, 0.0, 0.0)

    def test_equal_rows(self) -> None:
        row = np.random.default_rng(0).standard_normal(64)
        found = compared(np.tile(row, (128, 1)))
        assert (found.n_spikes, found.noise_sigma, found.p_value) == (1, 0.0, 0.0)

    @pytest.mark.parametrize("n_values", [1, 5])
    def test_a_few_elements_alone_are_not_structure(self, n_values: int) -> None:
        matrix = np.zeros((64, 64))
        matrix.flat[: 65 * n_values : 65] = 1.0
        found = compared(matrix)
        assert found.p_value == 1.0
        assert not found.is_calibrated

    @pytest.mark.parametrize("shape", [(50000, 8), (16, 20000), (2, 2), (1, 9), (1, 1)])
    def test_any_shape_has_an_answer(self, shape: tuple[int, int]) -> None:
        found = compared(np.random.default_rng(0).standard_normal(shape))
        assert 0.0 <= found.p_value <= 1.0
        assert 0.0 < found.noise_sigma < 2.0

    @pytest.mark.parametrize("bad", [0.0, math.nan])
    def test_a_slice_of_nothing(self, bad: float) -> None:
        good = np.random.default_rng(0).standard_normal((8, 8))
        slices = np.stack([good, np.full((8, 8), bad)])
        with pytest.raises(ValueError, match="finite values that are not all zero"):
            compare_with_noise(slices, np.ones((2, 8)), np.random.default_rng(0))

    @pytest.mark.parametrize(
        ("slices", "evals"), [((0, 4, 4), (0, 4)), ((4, 4), (4,)), ((2, 4, 3), (2, 4)), ((2, 4, 3), (1, 3))]
    )
    def test_shapes_that_do_not_fit(self, slices: tuple[int, ...], evals: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="slices and their eigenvalues, got shapes"):
            compare_with_noise(np.ones(slices), np.ones(evals), np.random.default_rng(0))


class TestHelpers:
    def test_the_largest_eigenvalue_is_lapacks(self) -> None:
        for seed in range(5):
            values = in_own_units(np.random.default_rng(seed).standard_normal((100, 80)))[0]
            moments = element_statistics(values)
            found = largest_eigenvalue(values, moments, np.random.default_rng(seed))
            assert moments.statistic(found) == pytest.approx(moments.statistic(float(evals_of(values)[-1])), abs=0.05)

    @given(st.floats(0.0, 1.0), st.integers(1, 500))
    def test_any_of(self, p_value: float, n_tests: int) -> None:
        found = any_of(p_value, n_tests)
        assert found == pytest.approx(1.0 - (1.0 - p_value) ** n_tests, abs=1e-12)
        assert p_value * (1.0 - 1e-12) <= found <= min(1.0, n_tests * p_value * (1.0 + 1e-12))
        assert math.copysign(1.0, found) == 1.0

    @pytest.mark.parametrize("bad", [math.nan, -1e-9, 1.1])
    def test_any_of_refuses(self, bad: float) -> None:
        with pytest.raises(ValueError, match="a p-value lies in"):
            any_of(bad, 3)

    def test_limits_fit_together(self) -> None:
        assert MAX_KURTOSIS_SHARE < 0.1
        centre, _ = largest_eigenvalue_scale(100, 100)
        assert centre > CLIP_SHARE**2 * 100


@settings(max_examples=50, deadline=None)
@given(st.floats(1e-9, 0.999), st.integers(1, 5000))
def test_many_tests_share_a_level(level: float, n_tests: int) -> None:
    each = level_of_each(level, n_tests)
    assert 0.0 < each <= level * (1.0 + 1e-12)
    assert any_of(each, n_tests) == pytest.approx(level, rel=1e-9)
