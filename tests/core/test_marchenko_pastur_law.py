"""The law: density, distribution function, edges, moments."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from spectral.marchenko_pastur_law import (
    marchenko_pastur_cdf,
    marchenko_pastur_density,
    marchenko_pastur_edges,
    quarter_circle_curve,
    tail_share,
)

RATIOS = (1.0, 1.001, 1.3, 4.0, 80.0)


def integral(power: float, *, Q: float, sigma: float, upto: float = math.inf) -> float:
    """∫ x^power ρ(x) dx, by substitution of x = u², which tames the root at the lower edge for Q = 1."""
    low, high = marchenko_pastur_edges(Q=Q, sigma=sigma)

    def integrand(u: float) -> float:
        return float(2.0 * u ** (2.0 * power + 1.0) * marchenko_pastur_density(u * u, Q=Q, sigma=sigma))

    value, _ = quad(integrand, math.sqrt(low), math.sqrt(min(high, upto)), limit=300)
    return float(value)


@pytest.mark.parametrize("Q", RATIOS)
@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
class TestMoments:
    def test_density_integrates_to_one(self, Q: float, sigma: float) -> None:
        assert integral(0, Q=Q, sigma=sigma) == pytest.approx(1.0, abs=1e-7)

    def test_mean_is_the_variance_of_an_entry(self, Q: float, sigma: float) -> None:
        assert integral(1, Q=Q, sigma=sigma) == pytest.approx(sigma**2, rel=1e-7)

    def test_second_moment(self, Q: float, sigma: float) -> None:
        """E x² = σ⁴ (1 + 1/Q)."""
        assert integral(2, Q=Q, sigma=sigma) == pytest.approx(sigma**4 * (1.0 + 1.0 / Q), rel=1e-7)

    @pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.9])
    def test_distribution_is_the_integral_of_the_density(self, Q: float, sigma: float, share: float) -> None:
        low, high = marchenko_pastur_edges(Q=Q, sigma=sigma)
        x = low + share * (high - low)
        expected = integral(0, Q=Q, sigma=sigma, upto=x)
        assert float(marchenko_pastur_cdf(x, Q=Q, sigma=sigma)) == pytest.approx(expected, abs=1e-7)


@given(st.floats(1.0, 1e4), st.floats(1e-3, 1e3), st.floats(0.0, 5.0), st.floats(0.01, 100.0))
def test_scale_law(Q: float, sigma: float, x: float, factor: float) -> None:
    """σ·f stretches the law by f²."""
    point = x * sigma * sigma
    narrow = float(marchenko_pastur_cdf(point, Q=Q, sigma=sigma))
    wide = float(marchenko_pastur_cdf(point * factor**2, Q=Q, sigma=sigma * factor))
    assert wide == pytest.approx(narrow, abs=1e-6)


@given(st.floats(1.0, 1e4), st.lists(st.floats(-1.0, 6.0), min_size=2))
def test_distribution_rises_from_zero_to_one(Q: float, points: list[float]) -> None:
    values = marchenko_pastur_cdf(np.sort(points), Q=Q)
    assert np.all(np.diff(values) >= -1e-9)
    assert np.all((values >= -1e-9) & (values <= 1.0 + 1e-9))
    low, high = marchenko_pastur_edges(Q=Q)
    assert marchenko_pastur_cdf([low - 1.0, high + 1.0], Q=Q).tolist() == pytest.approx([0.0, 1.0], abs=1e-9)


@pytest.mark.parametrize("Q", RATIOS)
def test_density_is_zero_outside_and_on_the_edges(Q: float) -> None:
    low, high = marchenko_pastur_edges(Q=Q)
    assert marchenko_pastur_density([-1.0, 0.0, low, high, high + 1.0], Q=Q).tolist() == [0.0] * 5
    assert marchenko_pastur_density(0.5 * (low + high), Q=Q) > 0.0


def test_edges_of_known_matrices() -> None:
    assert marchenko_pastur_edges(Q=1.0) == (0.0, 4.0)
    assert marchenko_pastur_edges(Q=4.0, sigma=2.0) == pytest.approx((1.0, 9.0))


@pytest.mark.parametrize("Q", [1.0, 2.0])
def test_spectrum_of_noise(Q: float) -> None:
    """The law against the eigenvalues of a random matrix: rigid to a few 1/M."""
    M, N = 300, int(300 * Q)
    W = np.random.default_rng(7).standard_normal((N, M)) / math.sqrt(N)
    evals = np.linalg.svd(W, compute_uv=False)[::-1] ** 2
    ranks = (np.arange(M) + 0.5) / M
    assert np.max(np.abs(marchenko_pastur_cdf(evals, Q=Q) - ranks)) < 4.0 / M


def test_quarter_circle_is_the_law_of_a_square_matrix() -> None:
    s = np.linspace(0.01, 1.99, 50)
    np.testing.assert_allclose(quarter_circle_curve(s), 2.0 * s * marchenko_pastur_density(s * s, Q=1.0), rtol=1e-12)
    assert quarter_circle_curve([2.0, 3.0]).tolist() == [0.0, 0.0]


def test_sigma_is_the_height_of_the_quarter_circle_curve() -> None:
    s = np.linspace(0.0, 2.0, 9)
    np.testing.assert_allclose(quarter_circle_curve(s, sigma=2.0), 0.25 * quarter_circle_curve(s), rtol=1e-12)


def test_tail_share_from_edge_to_edge() -> None:
    np.testing.assert_allclose(tail_share([0.0, np.pi], 1.7), [0.0, 1.0], atol=1e-14)


@pytest.mark.parametrize(("Q", "sigma"), [(0.5, 1.0), (2.0, 0.0), (2.0, -1.0), (np.nan, 1.0), (np.inf, 1.0)])
def test_impossible_parameters(Q: float, sigma: float) -> None:
    with pytest.raises(ValueError, match="Q must be at least 1 and sigma positive"):
        marchenko_pastur_density(1.0, Q=Q, sigma=sigma)
    with pytest.raises(ValueError, match="Q must be at least 1 and sigma positive"):
        marchenko_pastur_cdf(1.0, Q=Q, sigma=sigma)


def test_impossible_height() -> None:
    with pytest.raises(ValueError, match="sigma positive"):
        quarter_circle_curve(1.0, sigma=0.0)
