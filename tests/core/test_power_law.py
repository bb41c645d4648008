"""The fast scan against a slow obvious one, and the laws a power-law fit obeys."""

from __future__ import annotations

import math
import pickle
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from spectral import power_law
from spectral.fits import FitFailure, FitFailureReason
from spectral.power_law import (
    EVALS_THRESHOLD,
    MIN_LOG_SPREAD,
    PowerLawFit,
    PowerLawProfile,
    alpha_at_tail,
    fit_power_law,
    power_law_profile,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROUNDING = 1e-9


def slow_scan(evals: NDArray[np.float64]) -> list[tuple[int, float, float]]:
    """Return (i, α_i, D_i) of every candidate, straight from the definition, one Python float at a time."""
    x = [float(value) for value in evals if value > EVALS_THRESHOLD]
    n = len(x)
    least = 8 if n < 20 else 2
    result = []
    for i in range(n - least + 1):
        tail = x[i:]
        logs = [math.log(value / tail[0]) for value in tail]
        if logs[-1] <= MIN_LOG_SPREAD:
            continue
        alpha = 1.0 + (len(tail) - 1 if n < 20 else len(tail)) / math.fsum(logs)
        distance = max(abs(1.0 - math.exp((1.0 - alpha) * log) - j / len(tail)) for j, log in enumerate(logs))
        result.append((i, alpha, distance))
    return result


def spectra(*, min_size: int = 2, max_size: int = 90) -> st.SearchStrategy[NDArray[np.float64]]:
    """Ascending spectra: any shape over eight decades, heavy tails, and few distinct values (ties)."""
    decades = st.floats(-4.5, 4.5).map(lambda exponent: 10.0**exponent)
    tails = st.floats(1e-9, 1.0).map(lambda quantile: 1e-3 * quantile**-2.0)
    tied = st.sampled_from([1e-6, 1e-5, 0.5, 1.0, 1.0 + 1e-12, 2.0, 3.0, 10.0])
    return st.one_of([st.lists(values, min_size=min_size, max_size=max_size) for values in (decades, tails, tied)]).map(
        lambda values: np.sort(np.array(values, dtype=np.float64))
    )


def pareto(alpha: float, n: int, seed: int) -> NDArray[np.float64]:
    """Draw from p(x) ∝ x^-α, x >= 1, by inversion."""
    quantiles = np.random.default_rng(seed).random(n)
    return np.asarray(np.sort((1.0 - quantiles) ** (-1.0 / (alpha - 1.0))), dtype=np.float64)


def fitted(evals: NDArray[np.float64], *, min_evals: int = 2) -> PowerLawFit:
    fit = fit_power_law(evals, min_evals=min_evals)
    assert isinstance(fit, PowerLawFit), fit
    return fit


class TestAgainstTheSlowScan:
    @settings(max_examples=300, deadline=None)
    @given(spectra())
    def test_any_spectrum(self, evals: NDArray[np.float64]) -> None:
        candidates = slow_scan(evals)
        fit = fit_power_law(evals, min_evals=2)
        if not candidates:
            assert isinstance(fit, FitFailure)
            return
        assert isinstance(fit, PowerLawFit)
        smallest = min(distance for _, _, distance in candidates)
        assert pytest.approx(smallest, abs=ROUNDING) == fit.D
        x = evals[evals > EVALS_THRESHOLD]
        # Where two candidates differ by rounding alone either may win; the winner is one of these.
        assert any(
            distance <= smallest + ROUNDING and x[i] == fit.xmin and alpha == pytest.approx(fit.alpha, rel=ROUNDING)
            for i, alpha, distance in candidates
        )

    @pytest.mark.parametrize("n", [8, 12, 19, 20, 21, 50, 333, 1200])
    @pytest.mark.parametrize("degrees", [1.5, 3.0, 30.0])
    def test_same_choice_on_generic_spectra(self, n: int, degrees: float) -> None:
        evals = np.sort(np.random.default_rng([n, int(degrees)]).standard_t(degrees, n) ** 2 + 1e-4)
        index, alpha, distance = min(slow_scan(evals), key=lambda candidate: candidate[2])
        fit = fitted(evals)
        assert fit.xmin == evals[index]
        assert fit.alpha == pytest.approx(alpha, rel=1e-11)
        assert pytest.approx(distance, abs=1e-12) == fit.D
        assert fit.n_tail == n - index

    def test_the_bounds_spare_most_of_the_work(self, monkeypatch: pytest.MonkeyPatch) -> None:
        evaluated: list[int] = []
        distance = power_law._distance

        def counted(log_x: NDArray[np.float64], alpha: float, start: int) -> float:
            evaluated.append(start)
            return distance(log_x, alpha, start)

        monkeypatch.setattr(power_law, "_distance", counted)
        fitted(np.sort(np.random.default_rng(1).standard_t(3, 2000) ** 2 + 1e-4))
        assert len(evaluated) < 200
        # The hardest case: a power law throughout, so that every candidate is a good one.
        evaluated.clear()
        fitted(pareto(2.5, 2000, 1))
        assert len(evaluated) < 1000

    @given(spectra(min_size=20))
    @settings(max_examples=100, deadline=None)
    def test_lower_bounds_are_bounds(self, evals: NDArray[np.float64]) -> None:
        x = evals[evals > EVALS_THRESHOLD]
        assume(len(x) >= 2)
        log_x = np.log(x)
        starts = np.flatnonzero(log_x[-1] - log_x > MIN_LOG_SPREAD)
        assume(len(starts))
        alphas = power_law._exponents(log_x)
        bounds = power_law._lower_bounds(log_x, alphas, starts)
        for start, bound in zip(starts, bounds, strict=True):
            assert bound <= power_law._distance(log_x, float(alphas[start]), int(start)) * (1.0 + power_law._SLACK)


class TestLaws:
    @settings(max_examples=150, deadline=None)
    @given(spectra(min_size=8))
    def test_the_record_is_coherent(self, evals: NDArray[np.float64]) -> None:
        fit = fit_power_law(evals, min_evals=2)
        assume(isinstance(fit, PowerLawFit))
        assert isinstance(fit, PowerLawFit)
        assert 1.0 < fit.alpha < math.inf
        assert 0.0 <= fit.D < 1.0
        assert fit.xmin in evals
        assert EVALS_THRESHOLD < fit.xmin < fit.xmax == evals[-1]
        assert fit.n_tail == np.count_nonzero(evals >= fit.xmin)

    def test_distance_is_that_of_the_two_distribution_functions(self) -> None:
        fit = fitted(pareto(2.5, 400, 3))
        tail = pareto(2.5, 400, 3)[-fit.n_tail :]
        cdf = 1.0 - (tail / fit.xmin) ** (1.0 - fit.alpha)
        below = np.arange(fit.n_tail) / fit.n_tail
        assert pytest.approx(np.max(np.abs(cdf - below)), rel=1e-12) == fit.D
        # The two-sided statistic also looks just right of every step, a step of 1/n further up.
        two_sided = np.max(np.maximum(np.abs(cdf - below), np.abs(cdf - below - 1.0 / fit.n_tail)))
        assert fit.D <= two_sided <= fit.D + 1.0 / fit.n_tail

    def test_sigma_is_the_asymptotic_error(self) -> None:
        fit = fitted(pareto(3.0, 300, 5))
        assert fit.sigma == pytest.approx((fit.alpha - 1.0) / math.sqrt(fit.n_tail), rel=1e-14)

    @pytest.mark.parametrize("n", [12, 40, 400])
    @pytest.mark.parametrize("factor", [1e-3, 0.25, 7.0, 1e6])
    def test_scale(self, n: int, factor: float) -> None:
        # All values stay above the threshold, so that the same ones are fitted.
        evals = pareto(2.2, n, 11) * 0.1
        fit, scaled = fitted(evals), fitted(evals * factor)
        assert scaled.alpha == pytest.approx(fit.alpha, rel=1e-10)
        assert pytest.approx(fit.D, rel=1e-10) == scaled.D
        assert scaled.xmin == pytest.approx(fit.xmin * factor, rel=1e-12)
        assert scaled.n_tail == fit.n_tail

    def test_the_threshold_breaks_the_scale_law(self) -> None:
        evals = pareto(2.2, 400, 11)
        assert fitted(evals * 1e-5 * 0.999).xmin > EVALS_THRESHOLD
        assert fitted(evals).n_tail != fitted(evals * 1e-5 * 0.5).n_tail

    def test_values_at_the_threshold_do_not_enter(self) -> None:
        evals = pareto(2.2, 60, 1)
        padded = np.concatenate([np.full(40, EVALS_THRESHOLD), evals])
        assert fitted(padded) == fitted(evals)

    @pytest.mark.parametrize("alpha", [1.5, 2.0, 3.0, 4.5, 7.0])
    @pytest.mark.parametrize("seed", range(4))
    def test_planted_exponent(self, alpha: float, seed: int) -> None:
        evals = pareto(alpha, 2000, seed)
        whole = alpha_at_tail(evals, 2000)
        assert whole is not None
        # With the whole sample the error is (α-1)/√n: four of them.
        assert abs(whole - alpha) < 4.0 * (alpha - 1.0) / math.sqrt(2000)
        fit = fitted(evals)
        # The chosen xmin adds an uncertainty of its own to that of the tail.
        assert abs(fit.alpha - alpha) < 5.0 * fit.sigma

    def test_stated_error_is_the_observed_scatter(self) -> None:
        # metrics.md: an exact Pareto with α = 3 has standard deviation 0.16 at n = 200, xmin free.
        alphas = [fitted(pareto(3.0, 200, seed)).alpha for seed in range(300)]
        fixed = [alpha_at_tail(pareto(3.0, 200, seed), 200) for seed in range(300)]
        # 300 draws give a standard deviation to 4%; four of these are 0.16.
        assert float(np.std(np.array(fixed, dtype=np.float64))) == pytest.approx(2.0 / math.sqrt(200), rel=0.16)
        assert float(np.std(alphas)) > 2.0 / math.sqrt(200)

    @pytest.mark.parametrize("n", [19, 20])
    def test_small_samples_are_bias_corrected(self, n: int) -> None:
        evals = np.geomspace(1.0, 100.0, n)
        total = float(np.sum(np.log(evals)))
        expected = 1.0 + (n - 1 if n < 20 else n) / total
        assert alpha_at_tail(evals, n) == pytest.approx(expected, rel=1e-13)

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.floats(-2.0, 4.0), min_size=8, max_size=19))
    def test_small_samples_keep_eight_points(self, exponents: list[float]) -> None:
        fit = fit_power_law(np.sort(10.0 ** np.array(exponents)), min_evals=2)
        assert isinstance(fit, FitFailure) or fit.n_tail >= 8


class TestAtTail:
    @settings(max_examples=150, deadline=None)
    @given(spectra(min_size=8))
    def test_equals_the_fit_at_its_own_tail(self, evals: NDArray[np.float64]) -> None:
        fit = fit_power_law(evals, min_evals=2)
        assume(isinstance(fit, PowerLawFit))
        assert isinstance(fit, PowerLawFit)
        # A fit may begin inside a run of equal values; a tail of a given size then means another run.
        assume(np.count_nonzero(evals == fit.xmin) == 1)
        assert alpha_at_tail(evals, fit.n_tail) == pytest.approx(fit.alpha, rel=ROUNDING)

    @pytest.mark.parametrize(
        ("evals", "n_tail"),
        [
            (np.geomspace(1.0, 9.0, 30), 1),
            (np.geomspace(1.0, 9.0, 30), 0),
            (np.geomspace(1.0, 9.0, 30), -3),
            (np.geomspace(1.0, 9.0, 30), 31),
            (np.geomspace(1e-9, 9.0, 30), 30),
            (np.full(30, 2.0), 30),
            (np.linspace(2.0, 2.0 * (1 + 1e-13), 30), 30),
            (np.array([]), 2),
        ],
        ids=["one", "none", "negative", "too many", "below the threshold", "constant", "rounding", "empty"],
    )
    def test_no_number_where_there_is_none(self, evals: NDArray[np.float64], n_tail: int) -> None:
        assert alpha_at_tail(evals, n_tail) is None

    def test_a_small_change_moves_it_a_little(self) -> None:
        evals = pareto(2.5, 500, 2)
        noise = np.random.default_rng(0).uniform(-1e-6, 1e-6, 500)
        before, after = alpha_at_tail(evals, 100), alpha_at_tail(np.sort(evals * (1.0 + noise)), 100)
        assert before != after
        assert after == pytest.approx(before, rel=1e-5)


class TestFailures:
    @pytest.mark.parametrize(
        ("evals", "min_evals", "reason", "detail"),
        [
            (np.array([]), 2, "too_few_eigenvalues", "0 eigenvalues, at least 2 are needed for a fit"),
            (np.array([3.0]), 2, "too_few_eigenvalues", "1 eigenvalues, at least 2 are needed for a fit"),
            (np.geomspace(1, 9, 49), 50, "too_few_eigenvalues", "49 eigenvalues, at least 50 are needed for a fit"),
            (np.geomspace(1, 9, 7), 2, "too_few_eigenvalues", "7 eigenvalues above 1e-05, at least 8"),
            (np.geomspace(1e-9, 1e-5, 60), 50, "too_few_eigenvalues", "0 eigenvalues above 1e-05, at least 8"),
            (np.full(60, 2.0), 50, "no_spread", "all eigenvalues in the tail are equal"),
            (np.linspace(2.0, 2.0 + 1e-12, 60), 50, "no_spread", "all eigenvalues in the tail are equal"),
            (np.full(10, 2.0), 8, "no_spread", "all eigenvalues in the tail are equal"),
        ],
        ids=["empty", "single", "below min_evals", "below eight", "threshold", "constant", "rounding", "constant, few"],
    )
    def test_reason(self, evals: NDArray[np.float64], min_evals: int, reason: str, detail: str) -> None:
        fit = fit_power_law(evals, min_evals=min_evals)
        assert isinstance(fit, FitFailure)
        assert fit.reason is FitFailureReason(reason)
        assert str(fit.reason) == reason
        assert fit.detail.startswith(detail)

    def test_exactly_min_evals_are_fitted(self) -> None:
        assert isinstance(fit_power_law(np.geomspace(1, 9, 50), min_evals=50), PowerLawFit)

    def test_equal_values_at_the_top_are_no_tail_of_their_own(self) -> None:
        evals = np.concatenate([pareto(2.0, 60, 1), np.full(40, 1e6) * (1.0 + np.arange(40) * 1e-15)])
        assert fitted(evals).alpha < 10.0

    @pytest.mark.parametrize(
        "evals",
        [
            np.array([3.0, 1.0, 2.0] * 10),
            np.append(np.geomspace(1, 9, 30), np.nan),
            np.append(np.geomspace(1, 9, 30), np.inf),
            np.ones((5, 5)),
        ],
        ids=["not ascending", "nan", "infinite", "two-dimensional"],
    )
    def test_bad_arguments(self, evals: NDArray[np.float64]) -> None:
        with pytest.raises(ValueError, match=r"^evals must be one-dimensional, ascending and finite"):
            fit_power_law(evals)
        with pytest.raises(ValueError, match=r"^evals must be one-dimensional, ascending and finite"):
            alpha_at_tail(evals, 4)

    def test_arguments_are_not_written_to(self) -> None:
        evals = pareto(2.0, 100, 1)
        before = evals.copy()
        evals.flags.writeable = False
        fit_power_law(evals)
        alpha_at_tail(evals, 30)
        np.testing.assert_array_equal(evals, before)


class TestRange:
    def test_smallest_distance_within(self) -> None:
        evals = pareto(2.5, 300, 4)
        profile = power_law_profile(evals)
        assert isinstance(profile, PowerLawProfile)
        inside = (profile.xmins >= 2.0) & (profile.xmins <= 4.0)
        fit = fit_power_law(evals, xmin_range=(2.0, 4.0))
        assert isinstance(fit, PowerLawFit)
        best = int(np.argmin(profile.distances[inside]))
        assert (fit.xmin, fit.alpha) == (profile.xmins[inside][best], profile.alphas[inside][best])
        assert fit.xmin != fitted(evals).xmin

    def test_ends_are_candidates(self) -> None:
        evals = pareto(2.5, 300, 4)
        for value in (evals[0], evals[7]):
            fit = fit_power_law(evals, xmin_range=(float(value), float(value)))
            assert isinstance(fit, PowerLawFit)
            assert fit.xmin == value

    def test_no_candidate(self) -> None:
        fit = fit_power_law(pareto(2.5, 300, 4), xmin_range=(0.1, 0.2))
        assert isinstance(fit, FitFailure)
        assert fit.reason is FitFailureReason.REFUSED
        assert fit.detail == "no tail begins at an eigenvalue between 0.1 and 0.2, where xmin was to lie"


class TestProfile:
    @pytest.mark.parametrize("n", [12, 300])
    def test_is_the_slow_scan(self, n: int) -> None:
        evals = pareto(2.5, n, 4)
        profile = power_law_profile(evals)
        assert isinstance(profile, PowerLawProfile)
        expected = slow_scan(evals)
        np.testing.assert_array_equal(profile.xmins, [evals[i] for i, _, _ in expected])
        np.testing.assert_allclose(profile.alphas, [alpha for _, alpha, _ in expected], rtol=1e-10)
        np.testing.assert_allclose(profile.distances, [distance for _, _, distance in expected], atol=1e-11)

    @settings(max_examples=60, deadline=None)
    @given(spectra(min_size=8))
    def test_the_fit_is_its_first_minimum(self, evals: NDArray[np.float64]) -> None:
        profile, fit = power_law_profile(evals, min_evals=2), fit_power_law(evals, min_evals=2)
        if isinstance(profile, FitFailure):
            assert profile == fit
            return
        assert isinstance(fit, PowerLawFit)
        best = int(np.argmin(profile.distances))
        assert (fit.xmin, fit.alpha, fit.D) == (profile.xmins[best], profile.alphas[best], profile.distances[best])

    def test_is_read_only_also_in_another_process(self) -> None:
        profile = power_law_profile(pareto(2.5, 60, 1))
        assert isinstance(profile, PowerLawProfile)
        copy = pickle.loads(pickle.dumps(profile))
        for name in ("xmins", "alphas", "distances"):
            np.testing.assert_array_equal(getattr(copy, name), getattr(profile, name))
            with pytest.raises(ValueError, match="read-only"):
                getattr(copy, name)[0] = 0.0


def test_many_starts_are_bounded_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    evals = pareto(2.5, 400, 6)
    whole = fitted(evals)
    monkeypatch.setattr(power_law, "_BLOCK_VALUES", 1000)
    assert fitted(evals) == whole
