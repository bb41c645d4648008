"""The Tracy-Widom law against published values, against its differential equation and against its far tail."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.integrate import quad, solve_ivp
from scipy.special import airy, airye

from spectral import tracy_widom
from spectral.tracy_widom import (
    TRACY_WIDOM_MEAN,
    TRACY_WIDOM_VARIANCE,
    holm,
    largest_eigenvalue_scale,
    largest_share_scale,
    largest_share_sf,
    tracy_widom_cdf,
    tracy_widom_quantile,
    tracy_widom_sf,
)
from spectral.tracy_widom_table import PIECES
from tests.generation.tracy_widom_table import DEGREE, EDGES, chebyshev_coefficients, log_survival


def painleve_cdf(points: list[float]) -> list[float]:
    """F₁ by Painlevé II, q″ = xq + 2q³ with q ~ Ai: the route of Tracy and Widom (1996), quite another one."""
    start = 6.0
    value, slope = airy(start)[:2]

    def step(x: float, state: NDArray[np.float64]) -> list[float]:
        q, dq, _, squares, _ = (float(value) for value in state)
        # The last three are the integrals over (x, ∞) of q, of q² and of (y - x)q².
        return [dq, x * q + 2.0 * q**3, -q, -q * q, -squares]

    tail = quad(lambda x: airy(x)[0], start, 20.0)[0]
    squares = quad(lambda x: airy(x)[0] ** 2, start, 20.0)[0]
    moment = quad(lambda x: (x - start) * airy(x)[0] ** 2, start, 20.0)[0]
    solution = solve_ivp(
        step,
        (start, min(points)),
        [value, slope, tail, squares, moment],
        method="DOP853",
        t_eval=sorted(points, reverse=True),
        rtol=1e-12,
        atol=1e-16,
    )
    found = {float(x): math.exp(-(y[2] + y[4]) / 2.0) for x, y in zip(solution.t, solution.y.T, strict=True)}
    return [found[point] for point in points]


def airy_tail(t: float) -> float:
    """½∫Ai from t: the trace of the kernel, all that is left of 1 - F₁ far to the right."""
    scaled = quad(
        lambda x: airye(x)[0] * math.exp(-(2 / 3) * (x**1.5 - t**1.5)), t, t + 30.0 / math.sqrt(t), epsrel=1e-12
    )
    return float(0.5 * math.exp(-(2 / 3) * t**1.5) * scaled[0])


class TestTheTable:
    def test_it_is_what_its_generator_makes(self) -> None:
        assert [piece[:2] for piece in PIECES] == list(pairwise(EDGES))
        for left, right, coefficients in PIECES:
            expected = chebyshev_coefficients(left, right, DEGREE)
            assert coefficients == pytest.approx(expected, rel=0.0, abs=1e-11)

    @settings(deadline=None)
    @given(st.floats(-8.0, 80.0, exclude_min=True, exclude_max=True))
    def test_it_is_the_determinant(self, t: float) -> None:
        assert tracy_widom_sf(t) == pytest.approx(math.exp(log_survival(t)), rel=1e-11)

    @pytest.mark.parametrize("t", EDGES[1:-1])
    def test_pieces_meet_with_their_slopes(self, t: float) -> None:
        left, right = math.nextafter(t, -math.inf), t
        for n_derivatives, tolerance in ((0, 1e-12), (1, 1e-10), (2, 1e-8)):
            found = [tracy_widom._log_survival(x, n_derivatives) for x in (left, right)]
            assert found[0] == pytest.approx(found[1], rel=tolerance)


class TestTheLaw:
    @pytest.mark.parametrize(
        ("share", "quantile"),
        [
            (0.01, -3.90),
            (0.05, -3.18),
            (0.10, -2.78),
            (0.30, -1.91),
            (0.50, -1.27),
            (0.70, -0.59),
            (0.90, 0.45),
            (0.99, 2.02),
        ],
    )
    def test_table_1_of_johnstone_2001(self, share: float, quantile: float) -> None:
        assert tracy_widom_quantile(1.0 - share) == pytest.approx(quantile, abs=0.0051)

    def test_quantiles_of_bejan_2005(self) -> None:
        assert tracy_widom_quantile(0.10) == pytest.approx(0.4501, abs=1e-4)
        assert tracy_widom_quantile(0.05) == pytest.approx(0.9793, abs=1e-4)
        assert tracy_widom_quantile(0.01) == pytest.approx(2.0234, abs=1e-4)

    def test_against_painleve(self) -> None:
        points = [3.0, 2.0, 1.0, 0.0, -1.0, -2.0, -3.0, -4.0, -5.0]
        for point, value in zip(points, painleve_cdf(points), strict=True):
            assert tracy_widom_cdf(point) == pytest.approx(value, rel=1e-7)
            assert tracy_widom_sf(point) == pytest.approx(1.0 - value, abs=1e-9)

    def test_mean_and_variance_are_the_published_ones(self) -> None:
        nodes, weights = np.polynomial.legendre.leggauss(80)
        points, weights = 10.0 * nodes + 2.0, 10.0 * weights  # from -8 to 12
        survival = np.array([tracy_widom_sf(float(point)) for point in points])
        # E t = a + ∫ P(T > t), E t² = a² + ∫ 2t P(T > t), with a = -8 at the left end.
        mean = -8.0 + float(weights @ survival)
        square = 64.0 + float(weights @ (2.0 * points * survival))
        assert mean == pytest.approx(TRACY_WIDOM_MEAN, abs=1e-9)
        assert square - mean**2 == pytest.approx(TRACY_WIDOM_VARIANCE, abs=1e-8)
        assert pytest.approx(-1.2065335745820, abs=1e-13) == TRACY_WIDOM_MEAN
        assert pytest.approx(1.6077810345810, abs=1e-12) == TRACY_WIDOM_VARIANCE

    @pytest.mark.parametrize("t", [5.0, 8.0, 12.0, 20.0, 35.0, 50.0, 79.0])
    def test_the_far_tail_keeps_its_digits(self, t: float) -> None:
        neglected = math.exp(-(2 / 3) * t**1.5)
        assert tracy_widom_sf(t) == pytest.approx(airy_tail(t), rel=1e-9 + neglected)
        first_order = math.exp(-(2 / 3) * t**1.5) / (4.0 * math.sqrt(math.pi) * t**0.75)
        assert tracy_widom_sf(t) == pytest.approx(first_order, rel=1.0 / t**1.5)

    @pytest.mark.parametrize("t", [-7.9, -6.0, -3.0, 0.0, 4.0, 30.0, 79.0])
    def test_more_nodes_change_nothing(self, t: float, monkeypatch: pytest.MonkeyPatch) -> None:
        few = tracy_widom_sf(t), tracy_widom_cdf(t)
        monkeypatch.setattr(tracy_widom, "_gauss_legendre", lambda: np.polynomial.legendre.leggauss(90))
        assert few[0] == pytest.approx(tracy_widom_sf(t), rel=1e-9)
        assert few[1] == pytest.approx(tracy_widom_cdf(t), rel=1e-4 if t < -7 else 1e-9)

    @settings(max_examples=80, deadline=None)
    @given(st.floats(-12.0, 90.0), st.floats(1e-6, 5.0))
    def test_monotone_within_0_and_1(self, t: float, step: float) -> None:
        left, right = tracy_widom_sf(t), tracy_widom_sf(t + step)
        assert 0.0 <= right <= left + 1e-14 <= 1.0 + 1e-14
        assert left + tracy_widom_cdf(t) == pytest.approx(1.0, abs=1e-14)

    @settings(max_examples=25, deadline=None)
    @given(st.floats(-200.0, -1e-6))
    def test_quantile_inverts(self, log10_p: float) -> None:
        p_value = 10.0**log10_p
        assert tracy_widom_sf(tracy_widom_quantile(p_value)) == pytest.approx(p_value, rel=1e-7)

    def test_ends(self) -> None:
        assert tracy_widom_sf(math.inf) == tracy_widom_sf(80.0) == 0.0
        assert math.copysign(1.0, tracy_widom_sf(80.0)) == 1.0
        assert tracy_widom_sf(-math.inf) == tracy_widom_sf(-8.0) == 1.0
        assert tracy_widom_cdf(-math.inf) == 0.0

    @pytest.mark.parametrize("function", [tracy_widom_sf, tracy_widom_cdf])
    def test_nan_is_refused(self, function: object) -> None:
        with pytest.raises(ValueError, match="statistic is NaN"):
            function(math.nan)  # type: ignore[operator]

    @pytest.mark.parametrize("p_value", [0.0, 1.0, -0.1, 1e-201, math.nan])
    def test_quantile_refuses(self, p_value: float) -> None:
        with pytest.raises(ValueError, match="p_value must lie in"):
            tracy_widom_quantile(p_value)


class TestScales:
    @pytest.mark.parametrize(("n_rows", "n_columns"), [(30, 30), (30, 90), (400, 20)])
    def test_mean_and_spread_of_the_largest_eigenvalue(self, n_rows: int, n_columns: int) -> None:
        rng = np.random.default_rng([n_rows, n_columns])
        largest, shares = [], []
        for _ in range(400):
            evals = np.linalg.svd(rng.standard_normal((n_rows, n_columns)), compute_uv=False) ** 2
            largest.append(evals[0])
            shares.append(evals[0] / evals.sum() * n_rows * n_columns)
        for values, scale in ((largest, largest_eigenvalue_scale), (shares, largest_share_scale)):
            centre, width = scale(n_rows, n_columns)
            t = (np.array(values) - centre) / width
            # 400 draws: standard errors 0.063 and 0.05.
            assert np.mean(t) == pytest.approx(TRACY_WIDOM_MEAN, abs=0.15)
            assert np.std(t) == pytest.approx(math.sqrt(TRACY_WIDOM_VARIANCE), abs=0.13)
        # The share varies less, by the variance of the trace.
        assert np.std(shares) < np.std(largest)
        assert np.var(np.log(largest)) - np.var(np.log(shares)) == pytest.approx(2 / (n_rows * n_columns), rel=0.5)

    @given(st.integers(1, 10**6), st.integers(1, 10**6))
    def test_laws(self, n_rows: int, n_columns: int) -> None:
        for scale in (largest_eigenvalue_scale, largest_share_scale):
            centre, width = scale(n_rows, n_columns)
            assert (centre, width) == pytest.approx(scale(n_columns, n_rows), rel=1e-14)
            assert 0.0 < width < math.inf
        edge = (math.sqrt(n_rows) + math.sqrt(n_columns)) ** 2
        assert largest_eigenvalue_scale(n_rows, n_columns)[0] < edge
        assert largest_share_scale(n_rows, n_columns)[1] < largest_eigenvalue_scale(n_rows, n_columns)[1]

    @pytest.mark.parametrize("shape", [(0, 3), (3, 0), (-1, 5)])
    @pytest.mark.parametrize("scale", [largest_eigenvalue_scale, largest_share_scale])
    def test_no_matrix(self, scale: object, shape: tuple[int, int]) -> None:
        with pytest.raises(ValueError, match="at least one row and one column"):
            scale(*shape)  # type: ignore[operator]


def slow_holm(p_values: list[float]) -> list[float]:
    """The smallest level at which the step-down procedure of Holm (1979) rejects each, from its definition."""

    def rejected(level: float) -> set[int]:
        found: set[int] = set()
        for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
            if not p_values[index] * (len(p_values) - rank) <= level:
                break
            found.add(index)
        return found

    levels = sorted({min(1.0, p * k) for p in p_values for k in range(1, len(p_values) + 1)} | {1.0})
    return [next((level for level in levels if index in rejected(level)), 1.0) for index in range(len(p_values))]


PROBABILITIES = st.one_of(st.floats(0.0, 1.0), st.sampled_from([0.0, 1e-300, 0.001, 0.01, 0.5, 1.0]))


class TestHolm:
    @given(st.lists(PROBABILITIES, max_size=12))
    def test_against_the_definition(self, p_values: list[float]) -> None:
        assert holm(p_values) == slow_holm(p_values)

    @given(st.lists(PROBABILITIES, min_size=1, max_size=12), st.randoms(use_true_random=False))
    def test_properties(self, p_values: list[float], random: object) -> None:
        adjusted = holm(p_values)
        n = len(p_values)
        for p, a in zip(p_values, adjusted, strict=True):
            assert p <= a <= min(1.0, n * p)
        assert min(adjusted) == min(1.0, n * min(p_values))
        order = list(range(n))
        random.shuffle(order)  # type: ignore[attr-defined]
        assert holm([p_values[i] for i in order]) == [adjusted[i] for i in order]

    def test_examples(self) -> None:
        assert holm([]) == []
        assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])

    @pytest.mark.parametrize("bad", [math.nan, -0.1, 1.1])
    def test_refuses(self, bad: float) -> None:
        with pytest.raises(ValueError, match="p-values must lie in"):
            holm([0.5, bad])


class TestShareSurvival:
    @pytest.mark.parametrize("size", [32, 64, 256, 1024])
    @pytest.mark.parametrize("t", [-1.0, 0.5, 2.0, 4.0, 8.0])
    def test_spreading_it_by_the_trace_gives_the_law_of_the_eigenvalue(self, size: int, t: float) -> None:
        """The eigenvalue is the ratio times the trace: its law is that of the ratio, spread by that of the trace."""
        scale = largest_share_scale(size, size)[1] / largest_eigenvalue_scale(size, size)[1]
        spread = math.sqrt(TRACY_WIDOM_VARIANCE * (1.0 - scale**2))
        nodes, weights = np.polynomial.hermite_e.hermegauss(24)

        def ratio_sf(point: float) -> float:
            return largest_share_sf(TRACY_WIDOM_MEAN + (point - TRACY_WIDOM_MEAN) / scale, size, size)

        spread_out = sum(w * ratio_sf(t - spread * x) for x, w in zip(nodes, weights, strict=True)) / weights.sum()
        # Far out the first order leaves the tail a little too thick, never too thin.
        assert 0.97 < spread_out / tracy_widom_sf(t) < 1.05 + 0.4 * spread**4 * max(1.0, t / 4.0)

    @pytest.mark.parametrize("shape", [(32, 32), (64, 256), (1024, 1024)])
    def test_falls_without_a_step(self, shape: tuple[int, int]) -> None:
        points = np.arange(-7.5, 40.0, 0.1)
        survival = np.array([largest_share_sf(float(point), *shape) for point in points])
        assert np.all(np.diff(survival) < 0.0)
        assert np.all(survival > 0.0)
        assert np.max(np.abs(np.diff(survival))) < 0.04

    @pytest.mark.parametrize("statistic", [-3.0, 0.0, 3.0, 10.0])
    def test_large_matrices_know_their_variance(self, statistic: float) -> None:
        assert largest_share_sf(statistic, 10**6, 10**6) == pytest.approx(tracy_widom_sf(statistic), rel=0.02)

    def test_the_tail_is_thicker_than_the_scale_alone_says(self) -> None:
        for statistic in (2.0, 4.0, 6.0):
            assert largest_share_sf(statistic, 64, 64) > 1.1 * tracy_widom_sf(statistic)

    def test_ends(self) -> None:
        assert largest_share_sf(-math.inf, 64, 64) == 1.0
        assert largest_share_sf(math.inf, 64, 64) == 0.0
        with pytest.raises(ValueError, match=r"^the statistic is NaN$"):
            largest_share_sf(math.nan, 64, 64)
