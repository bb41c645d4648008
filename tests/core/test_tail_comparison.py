"""Other laws of a tail, and the tests between them, beside the ``powerlaw`` package."""

from __future__ import annotations

import math
import pickle
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import norm, truncnorm

from spectral.fits import FitFailure, FitFailureReason
from spectral.power_law import PowerLawFit, fit_power_law
from spectral.tail_comparison import ALTERNATIVES, Law, LikelihoodRatio, compare_tail, compare_tail_to_all
from spectral.tail_laws import ExponentialFit, LogNormalFit, fit_exponential, fit_lognormal
from tests.core.powerlaw_oracle import powerlaw_fit, quietly
from tests.core.spectra import pareto, truncated_pareto

if TYPE_CHECKING:
    from numpy.typing import NDArray


def at(evals: NDArray[np.float64], xmin: float) -> PowerLawFit:
    """A fit that says where the tail begins."""
    return PowerLawFit(alpha=2.0, sigma=0.1, xmin=xmin, xmax=float(evals[-1]), D=0.1, n_tail=len(evals))


def compared(evals: NDArray[np.float64], xmin: float, alternative: Law) -> LikelihoodRatio:
    result = compare_tail(evals, at(evals, xmin), alternative)
    assert isinstance(result, LikelihoodRatio), result
    return result


def lognormal(mu: float, sigma: float, n: int, seed: int) -> NDArray[np.float64]:
    return np.asarray(np.sort(np.random.default_rng(seed).lognormal(mu, sigma, n)), dtype=np.float64)


SPECTRA = {
    "lognormal": (lognormal(0.0, 1.0, 300, 1), 0.5),
    "narrow lognormal": (lognormal(1.0, 0.3, 200, 2), 2.0),
    "exponential": (np.sort(np.random.default_rng(3).exponential(1.0, 200)) + 0.5, 0.7),
    "cut off": (truncated_pareto(1.5, 0.2, 200, 4), 1.0),
}


class TestAgainstPowerlaw:
    @pytest.mark.parametrize("alternative", ALTERNATIVES)
    @pytest.mark.parametrize("name", SPECTRA)
    def test_ratio(self, name: str, alternative: Law) -> None:
        evals, xmin = SPECTRA[name]
        theirs = powerlaw_fit(evals, xmin=xmin)
        ratio, p_value = quietly(theirs.distribution_compare, "power_law", alternative)
        normalized, _ = quietly(theirs.distribution_compare, "power_law", alternative, normalized_ratio=True)
        ours = compared(evals, xmin, alternative)
        assert ours.ratio == pytest.approx(float(ratio), rel=1e-4)
        # Its simplex ends within 2e-4 of Λ, which the spread of the differences shows and their sum does not.
        assert ours.normalized_ratio == pytest.approx(float(normalized), rel=5e-4)
        # 1 - cdf of χ² has lost what lies below 1e-16.
        assert ours.p_value == pytest.approx(float(p_value), rel=2e-3, abs=1e-12)
        assert ours.alternative == alternative
        assert ours.is_nested is (alternative == "truncated_power_law")

    @pytest.mark.parametrize("name", SPECTRA)
    def test_parameters(self, name: str) -> None:
        evals, xmin = SPECTRA[name]
        theirs = powerlaw_fit(evals, xmin=xmin)
        law = quietly(getattr, theirs, "exponential")
        exponential = fit_exponential(evals, xmin)
        assert isinstance(exponential, ExponentialFit)
        assert exponential.Lambda == pytest.approx(law.Lambda, rel=1e-4)
        assert exponential.n_tail == len(theirs.data)
        law = quietly(getattr, theirs, "lognormal")
        ours = fit_lognormal(evals, xmin)
        assert isinstance(ours, LogNormalFit)
        assert ours.log_likelihood >= float(np.sum(quietly(law.loglikelihoods, theirs.data))) - 1e-7
        if name in ("lognormal", "narrow lognormal"):
            # Elsewhere the maximum is so flat that its simplex ends beside it.
            assert (ours.mu, ours.sigma) == pytest.approx((law.mu, law.sigma), abs=2e-4)


class TestLogNormal:
    @pytest.mark.parametrize("name", SPECTRA)
    def test_maximum_by_a_slow_optimiser(self, name: str) -> None:
        evals, xmin = SPECTRA[name]
        log_x = np.log(evals[evals >= xmin])

        def loss(point: NDArray[np.float64]) -> float:
            mu, sigma = float(point[0]), math.exp(float(point[1]))
            return -float(np.sum(norm.logpdf(log_x, mu, sigma) - norm.logsf(math.log(xmin), mu, sigma) - log_x))

        ours = fit_lognormal(evals, xmin)
        assert isinstance(ours, LogNormalFit)
        start = np.array([ours.mu + 0.1, math.log(ours.sigma) + 0.1])
        result = minimize(loss, start, method="Nelder-Mead", options={"maxiter": 2000})
        assert ours.log_likelihood == pytest.approx(-loss(np.array([ours.mu, math.log(ours.sigma)])), rel=1e-10)
        assert ours.log_likelihood >= -float(result.fun) - 1e-6

    @settings(max_examples=50, deadline=None)
    @given(st.floats(-8.0, 6.0), st.floats(0.1, 3.0))
    def test_moments_are_those_of_the_law(self, cut: float, sigma: float) -> None:
        """Quantiles of a cut normal give its parameters back, about as well as their number allows."""
        quantiles = (np.arange(4000) + 0.5) / 4000
        log_x = truncnorm.ppf(quantiles, cut, np.inf, loc=-cut * sigma, scale=sigma)
        ours = fit_lognormal(np.exp(np.minimum(log_x, 600.0)), 1.0)
        assert isinstance(ours, LogNormalFit)
        assert ours.sigma == pytest.approx(sigma, rel=0.05 if cut < 3.0 else 0.5)

    def test_heavier_than_a_power_law_is_refused(self) -> None:
        evals = np.sort(np.concatenate([pareto(3.0, 200, 1), [1e6, 1e7]]))
        ours = fit_lognormal(evals, 1.0)
        assert isinstance(ours, FitFailure)
        assert ours.reason is FitFailureReason.REFUSED
        # Its limit, the power law itself, is what the power law is compared with.
        ratio = compared(evals, 1.0, "lognormal")
        assert (ratio.ratio, ratio.normalized_ratio, ratio.p_value) == (0.0, 0.0, 1.0)

    @pytest.mark.parametrize("mu", [0.0, 2.0])
    def test_planted(self, mu: float) -> None:
        ours = fit_lognormal(lognormal(mu, 0.7, 5000, 3), math.exp(mu - 1.0))
        assert isinstance(ours, LogNormalFit)
        assert (ours.mu, ours.sigma) == pytest.approx((mu, 0.7), abs=0.06)


class TestRatio:
    def test_power_law_is_kept(self) -> None:
        evals = pareto(2.5, 1000, 5)
        exponential = compared(evals, 1.0, "exponential")
        assert exponential.ratio > 0.0
        assert exponential.p_value < 1e-3
        assert compared(evals, 1.0, "truncated_power_law").p_value > 0.1
        assert compared(evals, 1.0, "lognormal").p_value > 0.1

    def test_cut_off_is_seen(self) -> None:
        ratio = compared(truncated_pareto(1.5, 0.2, 500, 5), 1.0, "truncated_power_law")
        assert ratio.ratio < 0.0
        assert ratio.p_value < 1e-6

    @settings(max_examples=40, deadline=None)
    @given(st.floats(1.3, 5.0), st.integers(0, 1000))
    def test_a_law_it_is_a_case_of_is_never_worse(self, alpha: float, seed: int) -> None:
        evals = pareto(alpha, 60, seed)
        for alternative in ("truncated_power_law", "lognormal"):
            ratio = compare_tail(evals, at(evals, 1.0), alternative)
            assert isinstance(ratio, LikelihoodRatio)
            assert ratio.ratio <= 1e-9
            assert 0.0 <= ratio.p_value <= 1.0

    def test_p_values_under_the_power_law(self) -> None:
        """Λ >= 0: half of the draws have p = 1, and p <= 0.1 comes in half of 10%."""
        ratios = [compared(pareto(2.5, 400, seed), 1.0, "truncated_power_law") for seed in range(300)]
        share = float(np.mean([ratio.p_value <= 0.1 for ratio in ratios]))
        assert 0.01 < share < 0.10

    @pytest.mark.parametrize("alternative", ALTERNATIVES)
    @pytest.mark.parametrize("factor", [1e-2, 1e5])
    def test_unit_does_not_matter(self, alternative: Law, factor: float) -> None:
        evals, xmin = SPECTRA["cut off"]
        one, other = compared(evals, xmin, alternative), compared(evals * factor, xmin * factor, alternative)
        assert other.ratio == pytest.approx(one.ratio, rel=1e-6)
        assert other.p_value == pytest.approx(one.p_value, rel=1e-5, abs=1e-30)

    def test_all(self) -> None:
        evals = pareto(2.5, 300, 1)
        fit = fit_power_law(evals)
        assert isinstance(fit, PowerLawFit)
        results = compare_tail_to_all(evals, fit)
        assert tuple(results) == ALTERNATIVES
        assert all(results[name] == compare_tail(evals, fit, name) for name in ALTERNATIVES)
        assert pickle.loads(pickle.dumps(results)) == results


class TestFailures:
    @pytest.mark.parametrize("alternative", ALTERNATIVES)
    @pytest.mark.parametrize(
        ("evals", "xmin", "reason"),
        [
            (np.array([]), 1.0, "too_few_eigenvalues"),
            (np.array([3.0]), 1.0, "too_few_eigenvalues"),
            (np.full(50, 1e-6), 1e-7, "too_few_eigenvalues"),
            (np.full(50, 2.0), 1.0, "no_spread"),
        ],
    )
    def test_degenerate(self, evals: NDArray[np.float64], xmin: float, reason: str, alternative: Law) -> None:
        fit = PowerLawFit(alpha=2.0, sigma=0.1, xmin=xmin, xmax=2.0, D=0.1, n_tail=1)
        for result in (compare_tail(evals, fit, alternative), fit_exponential(evals, xmin), fit_lognormal(evals, xmin)):
            assert isinstance(result, FitFailure)
            assert result.reason is FitFailureReason(reason)

    def test_too_short_for_two_parameters(self) -> None:
        evals = np.geomspace(1.0, 9.0, 7)
        result = compare_tail(evals, at(evals, 1.0), "truncated_power_law")
        assert isinstance(result, FitFailure)
        assert result.reason is FitFailureReason.TOO_FEW_EIGENVALUES

    def test_unknown_law(self) -> None:
        evals = pareto(2.0, 50, 1)
        with pytest.raises(ValueError, match=r"^alternative must be one of 'truncated_power_law', .* got 'weibull'$"):
            compare_tail(evals, at(evals, 1.0), "weibull")  # type: ignore[arg-type]

    def test_bad_arguments(self) -> None:
        with pytest.raises(ValueError, match=r"^evals must be one-dimensional, ascending and finite"):
            fit_exponential(np.array([2.0, 1.0]), 1.0)
        with pytest.raises(ValueError, match=r"^xmin must be positive and finite"):
            fit_lognormal(pareto(2.0, 50, 1), 0.0)
