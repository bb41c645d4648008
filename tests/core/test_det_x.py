"""The trace-log tail: exact where the incumbent overflows, equal to it where not, and what noise has of it."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.optimize import brentq

from spectral.det_x import DET_X_METRICS, ROUNDING_UP, DetX, det_x_metrics, find_det_x, null_det_x
from spectral.execution import single_threaded_blas
from spectral.fits import FitFailure, FitFailureReason
from spectral.marchenko_pastur_law import marchenko_pastur_cdf, marchenko_pastur_density, marchenko_pastur_edges
from spectral.rescaling import MIN_SPREAD
from tests.core.builders import heavy_tailed

RATIOS = (1.0, 1.3, 4.0, 80.0)


def exact_tail(evals: NDArray[np.float64]) -> int:
    """Return the size of the smallest tail with product below one, in integers: each float is m / 2^k.

    Π_{j>=i} λ_j n/S < 1, with nothing rounded: neither the mean nor the product.
    """
    fractions = [value.as_integer_ratio() for value in evals.tolist()]
    common = max(denominator for _, denominator in fractions)
    total = sum(numerator * (common // denominator) for numerator, denominator in fractions)  # over `common`
    above = below = 1
    for size, (numerator, denominator) in enumerate(reversed(fractions), start=1):
        above *= numerator * len(fractions) * common
        below *= denominator * total
        if above < below:
            return size
    raise AssertionError("the product over the whole spectrum is below one")


def incumbent(evals: NDArray[np.float64]) -> tuple[int, int]:
    """Return its number of values in the tail, and its index."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from weightwatcher.RMT_Util import detX_constraint, rescale_eigenvalues

        n_tail, index = detX_constraint(rescale_eigenvalues(evals)[0], rescale=False)
    return int(n_tail), int(index)


def found(evals: NDArray[np.float64]) -> DetX:
    det_x = find_det_x(evals)
    assert isinstance(det_x, DetX), det_x
    return det_x


def eigenvalues(W: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.linalg.svd(W, compute_uv=False)[::-1] ** 2)


def gram_eigenvalues(W: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.maximum(np.linalg.eigvalsh(W.T @ W), 0.0), dtype=np.float64)


def noise_quantiles(N: int, M: int, seed: int | None = None) -> NDArray[np.float64]:
    """Return M eigenvalues as pure noise has them, without the matrix: one quantile from every M-th of the law."""
    low, high = marchenko_pastur_edges(Q=N / M)
    angles = np.linspace(np.pi, 0.0, 100_001)
    x = 0.5 * (low + high) + 0.5 * (high - low) * np.cos(angles)
    where = 0.5 if seed is None else np.random.default_rng(seed).random(M)
    return N * np.interp((np.arange(M) + where) / M, marchenko_pastur_cdf(x, Q=N / M), x)


class TestOverflow:
    """The incumbent multiplies eigenvalues; here, integers without end say who is right."""

    @pytest.mark.parametrize(
        ("N", "M", "right", "wrong"), [(3000, 3000, 2194, 2200), (4096, 4096, 2995, 2952), (6144, 4096, 3213, 3292)]
    )
    def test_noise(self, N: int, M: int, right: int, wrong: int) -> None:
        evals = noise_quantiles(N, M)
        assert exact_tail(evals) == right
        assert found(evals).n_tail == right
        assert incumbent(evals)[0] == wrong

    @pytest.mark.parametrize("seed", range(3))
    def test_random_spectra(self, seed: int) -> None:
        evals = noise_quantiles(3500, 3500, seed)
        right = exact_tail(evals)
        assert found(evals).n_tail == right
        assert incumbent(evals)[0] != right

    def test_heavy_tail(self) -> None:
        evals = np.sort(np.random.default_rng(4096).gamma(0.6, size=4096) ** 1.5)
        assert found(evals).n_tail == exact_tail(evals) == 2243
        assert incumbent(evals)[0] == 2212


class TestParity:
    """Where nothing overflows, counts and values are the incumbent's."""

    @pytest.mark.parametrize("Q", [1.0, 1.3, 4.0])
    @pytest.mark.parametrize("kind", ["noise", "heavy"])
    @pytest.mark.parametrize("M", [40, 200])
    def test_matrices(self, Q: float, kind: str, M: int) -> None:
        shape = (int(Q * M), M)
        W = heavy_tailed(*shape) if kind == "heavy" else np.random.default_rng(0).standard_normal(shape)
        evals = eigenvalues(W)
        det_x = found(evals)
        assert (det_x.n_tail, M - det_x.n_tail) == incumbent(evals)
        assert det_x.value == evals[M - det_x.n_tail]
        assert det_x.value_unrescaled == pytest.approx(det_x.value / np.mean(evals), rel=1e-12)

    @given(st.lists(st.floats(0.01, 100.0), min_size=3, max_size=60))
    def test_any_spectrum(self, values: list[float]) -> None:
        evals = np.sort(np.array(values))
        assume(evals[0] < evals[-1] * (1.0 - 1e-6))
        n_tail = exact_tail(evals)
        logs = np.log(evals / np.mean(evals))
        # A product within rounding of one may fall to either side.
        assume(np.min(np.abs(np.cumsum(logs[::-1])[:-1])) > 1e-9)
        assert found(evals).n_tail == n_tail
        if n_tail < len(evals):
            assert incumbent(evals)[0] == n_tail

    def test_the_whole_spectrum(self) -> None:
        """Where only all values together fall below one, the incumbent counts all, but names the second smallest."""
        evals = np.array([0.5, 1.2, 1.3])
        det_x = found(evals)
        assert exact_tail(evals) == 3
        assert det_x == DetX(n_tail=3, value=0.5, value_unrescaled=0.5)
        assert incumbent(evals) == (3, 1)


class TestEdges:
    @pytest.mark.parametrize(("excess", "n_tail"), [(-1e-9, 2), (1e-9, 3)])
    def test_products_just_below_and_above_one(self, excess: float, n_tail: int) -> None:
        middle = (1.0 + excess) / 2.2
        assert found(np.array([3.0 - 2.2 - middle, middle, 2.2])).n_tail == n_tail

    def test_a_zero_ends_the_tail(self) -> None:
        """Products with a zero are zero: the first one belongs to the tail if nothing before it has ended that."""
        det_x = found(np.array([0.0, 0.0, 1.9, 2.0, 2.1]))
        assert (det_x.n_tail, det_x.value, det_x.value_unrescaled) == (4, 0.0, 0.0)

    def test_zeros_below_the_tail_change_only_the_unit(self) -> None:
        det_x = found(np.array([0.0, 0.1, 0.2, 3.0]))
        assert (det_x.n_tail, det_x.value) == (2, 0.2)

    @pytest.mark.parametrize(
        ("values", "reason"),
        [
            ([], FitFailureReason.TOO_FEW_EIGENVALUES),
            ([2.0], FitFailureReason.TOO_FEW_EIGENVALUES),
            ([0.0, 0.0], FitFailureReason.NO_SPECTRUM),
            ([1.0, 1.0, 1.0], FitFailureReason.NO_SPREAD),
        ],
    )
    def test_nothing_below_one(self, values: list[float], reason: FitFailureReason) -> None:
        failure = find_det_x(np.array(values))
        assert isinstance(failure, FitFailure)
        assert failure.reason is reason

    @pytest.mark.parametrize("n", [2, 3, 100, 5000])
    def test_hardly_any_spread(self, n: int) -> None:
        """Rounding of the mean is larger than ln x of the whole spectrum: the tail is still one of 1 to n values."""
        evals = np.sort(1.0 + 3.0 * MIN_SPREAD * np.random.default_rng(n).random(n))
        evals[0], evals[-1] = 1.0, 1.0 + 3.0 * MIN_SPREAD
        assert 1 < found(evals).n_tail <= n

    @pytest.mark.parametrize("values", [[2.0, 1.0], [-1.0, 1.0], [1.0, np.nan]])
    def test_impossible_eigenvalues(self, values: list[float]) -> None:
        with pytest.raises(ValueError, match="evals must be one-dimensional, ascending, finite and non-negative"):
            find_det_x(np.array(values))

    @settings(max_examples=50)
    @given(st.integers(0, 99), st.floats(-140.0, 140.0))
    def test_scale_law(self, seed: int, decades: float) -> None:
        """λ·c has the same tail, beginning at c times the value."""
        evals = np.sort(np.random.default_rng(seed).chisquare(2, 50))
        det_x, scaled = found(evals), found(evals * 10.0**decades)
        assert scaled.n_tail == det_x.n_tail
        assert scaled.value == pytest.approx(det_x.value * 10.0**decades, rel=1e-12, abs=0.0)
        assert scaled.value_unrescaled == pytest.approx(det_x.value_unrescaled, rel=1e-9)

    def test_input_is_untouched(self) -> None:
        evals = np.sort(np.random.default_rng(0).chisquare(2, 50))
        before = evals.copy()
        found(evals)
        np.testing.assert_array_equal(evals, before)


class TestNull:
    @pytest.mark.parametrize("Q", RATIOS)
    def test_against_quadrature(self, Q: float) -> None:
        """The root of ∫ ln x ρ dx by general-purpose integration over x and root search."""
        low, high = marchenko_pastur_edges(Q=Q)

        def trace_log(x: float) -> float:
            value, _ = quad(lambda t: math.log(t) * float(marchenko_pastur_density(t, Q=Q)), x, high, limit=200)
            return float(value)

        root = brentq(trace_log, low + 1e-3 * (high - low), 1.0, xtol=1e-12)
        assert null_det_x(round(Q * 1000), 1000) == pytest.approx(
            1.0 - float(marchenko_pastur_cdf(root, Q=Q)), abs=1e-7
        )

    @pytest.mark.parametrize(
        ("N", "M", "n_draws"), [(100, 100, 120), (130, 100, 120), (400, 100, 120), (2000, 25, 120)]
    )
    def test_against_random_matrices(self, N: int, M: int, n_draws: int) -> None:
        """Mean within five standard errors of the expected count, and the spread that the documentation states."""
        rng = np.random.default_rng(N)
        with single_threaded_blas():
            counts = [found(gram_eigenvalues(rng.standard_normal((N, M)))).n_tail for _ in range(120)]
        assert np.mean(counts) == pytest.approx(M * null_det_x(N, M) + ROUNDING_UP, abs=0.25)
        assert np.std(counts) < 0.6

    def test_distribution_of_the_elements_does_not_matter(self) -> None:
        rng = np.random.default_rng(5)
        with single_threaded_blas():
            counts = [found(gram_eigenvalues(rng.uniform(-1.0, 1.0, size=(200, 100)))).n_tail for _ in range(60)]
        assert np.mean(counts) == pytest.approx(100 * null_det_x(200, 100) + ROUNDING_UP, abs=0.3)

    def test_a_trained_spectrum_is_far_from_it(self) -> None:
        evals = eigenvalues(heavy_tailed(200, 200, degrees=2.0))
        assert found(evals).n_tail < 200 * null_det_x(200, 200) - 5

    @given(st.integers(1, 2000), st.integers(0, 10**6))
    def test_share_grows_with_the_ratio(self, M: int, more: int) -> None:
        share, larger = null_det_x(M + more, M), null_det_x(M + more + 1, M)
        assert 0.7310650 < share <= larger + 1e-9 < 1.0 + 1e-9

    def test_only_the_ratio_matters(self) -> None:
        assert null_det_x(3000, 1000) == null_det_x(300, 100)

    @pytest.mark.parametrize(("N", "M"), [(2, 3), (0, 0), (5, -1)])
    def test_impossible_shape(self, N: int, M: int) -> None:
        with pytest.raises(ValueError, match="N must be the larger and M the smaller dimension"):
            null_det_x(N, M)


class TestMetrics:
    def test_names_values_and_plain_types(self) -> None:
        det_x = found(np.array([0.1, 0.5, 0.9, 4.0]))
        metrics = det_x_metrics(det_x, N=4, M=4, n_evals=4, n_pl_spikes=1)
        assert tuple(metrics) == DET_X_METRICS
        assert metrics["detX_num"] == metrics["num_ERG_spikes"] == 3
        assert metrics["ERG_gap"] == 2
        assert metrics["detX_val"] == 0.5
        assert metrics["detX_val_unrescaled"] == pytest.approx(0.5 / 1.375)
        assert metrics["detX_num_null"] == pytest.approx(4 * 0.7310651 + 0.5, abs=1e-6)
        assert [type(value) for value in metrics.values()] == [int, int, float, float, float, int]

    def test_no_gap_without_a_power_law(self) -> None:
        det_x = found(np.array([0.1, 0.5, 0.9, 4.0]))
        assert "ERG_gap" not in det_x_metrics(det_x, N=4, M=4, n_evals=4)
