"""The truncated power law against a slow optimiser, the ``powerlaw`` package, and the laws it obeys."""

from __future__ import annotations

import math
import pickle
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from spectral.cutoff_integrals import cutoff_moments
from spectral.fits import FitFailure, FitFailureReason
from spectral.power_law import fit_power_law
from spectral.truncated_likelihood import maximise_likelihood
from spectral.truncated_power_law import (
    MIN_TRUNCATED_TAIL,
    TruncatedPowerLawFit,
    fit_truncated_power_law,
    truncated_log_likelihoods,
)
from tests.core.powerlaw_oracle import mpmath, powerlaw_fit, quietly
from tests.core.spectra import pareto, truncated_pareto

if TYPE_CHECKING:
    from numpy.typing import NDArray

PLANTED = [(1.5, 0.1), (2.0, 0.05), (0.5, 0.3), (2.8, 0.2)]


def fitted(evals: NDArray[np.float64], **options: float) -> TruncatedPowerLawFit:
    fit = fit_truncated_power_law(evals, min_evals=2, **options)  # type: ignore[arg-type]
    assert isinstance(fit, TruncatedPowerLawFit), fit
    return fit


def slow_log_likelihood(tail: NDArray[np.float64], alpha: float, Lambda: float, xmin: float) -> float:
    """Straight from the definition, with the incomplete gamma function in arbitrary precision."""
    library = mpmath()
    norm = library.mpf(Lambda) ** (alpha - 1) * library.gammainc(1 - library.mpf(alpha), Lambda * xmin)
    return float(-len(tail) * library.log(norm)) - float(np.sum(alpha * np.log(tail) + Lambda * tail))


def slow_fit_at(tail: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return α, Λ and the log-likelihood at x >= tail[0], by a simplex from several places."""

    def loss(point: NDArray[np.float64]) -> float:
        alpha, Lambda = float(point[0]), math.exp(float(point[1]))
        return -slow_log_likelihood(tail, alpha, Lambda, float(tail[0])) if alpha >= 0.0 else math.inf

    begins = [(alpha, math.log(share / float(np.mean(tail)))) for alpha in (0.5, 2.0) for share in (0.05, 1.0)]
    results = [
        minimize(loss, np.array(begin), method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-9})
        for begin in begins
    ]
    best = min(results, key=lambda result: float(result.fun))
    return float(best.x[0]), math.exp(float(best.x[1])), -float(best.fun)


class TestAgainstSlowFits:
    @pytest.mark.parametrize(("alpha", "rate"), PLANTED)
    def test_maximum_of_the_likelihood(self, alpha: float, rate: float) -> None:
        tail = truncated_pareto(alpha, rate, 60, 3)
        fit = fitted(tail, xmin=float(tail[0]))
        slow_alpha, slow_rate, slow_value = slow_fit_at(tail)
        assert fit.log_likelihood == pytest.approx(slow_value, abs=1e-6)
        assert fit.alpha == pytest.approx(slow_alpha, rel=1e-4, abs=1e-4)
        assert fit.Lambda == pytest.approx(slow_rate, rel=1e-4)

    @pytest.mark.parametrize(("alpha", "rate"), PLANTED)
    def test_chosen_start_has_the_smallest_distance(self, alpha: float, rate: float) -> None:
        evals = truncated_pareto(alpha, rate, 90, 4)
        fit = fitted(evals)
        every = [fit_truncated_power_law(evals, min_evals=2, xmin=float(x)) for x in evals[: -MIN_TRUNCATED_TAIL + 1]]
        kept = [one for one in every if isinstance(one, TruncatedPowerLawFit)]
        best = min(kept, key=lambda one: one.D)
        assert (fit.xmin, fit.n_tail) == (best.xmin, best.n_tail)
        assert pytest.approx(best.D, abs=1e-9) == fit.D
        assert fit.alpha == pytest.approx(best.alpha, rel=1e-6)

    def test_distance_is_that_of_the_two_distribution_functions(self) -> None:
        evals = truncated_pareto(1.5, 0.1, 120, 5)
        fit = fitted(evals)
        tail, library = evals[evals >= fit.xmin], mpmath()
        beyond = [library.gammainc(1 - fit.alpha, fit.Lambda * float(x)) for x in tail]
        cdf = np.array([1.0 - float(value / beyond[0]) for value in beyond])
        assert pytest.approx(float(np.max(np.abs(cdf - np.arange(len(tail)) / len(tail)))), abs=1e-10) == fit.D


class TestAgainstPowerlaw:
    @pytest.mark.parametrize(("alpha", "rate"), [PLANTED[0], PLANTED[2]])
    def test_whole_fit(self, alpha: float, rate: float) -> None:
        # In units in which its rule "Λ < 0.01 is no fit" does not reach.
        evals = truncated_pareto(alpha, rate, 35, 6) * 0.02
        theirs = powerlaw_fit(evals, xmin_distribution="truncated_power_law")
        law = quietly(getattr, theirs, "truncated_power_law")
        fit = fitted(evals)
        assert fit.xmin == pytest.approx(theirs.xmin, rel=1e-12)
        assert fit.n_tail == len(theirs.data)
        assert fit.alpha == pytest.approx(law.alpha, rel=1e-4)
        assert fit.Lambda == pytest.approx(law.Lambda, rel=1e-4)
        assert pytest.approx(fit.D, rel=1e-4) == theirs.D
        assert fit.log_likelihood >= float(np.sum(quietly(law.loglikelihoods, theirs.data))) - 1e-9

    def test_its_range_ends_at_three(self) -> None:
        evals = truncated_pareto(6.0, 0.02, 300, 7)
        law = quietly(getattr, powerlaw_fit(evals, xmin=1.0, parameter_ranges=None), "truncated_power_law")
        fit = fitted(evals, xmin=1.0)
        assert law.alpha <= 3.0
        assert fit.alpha > 4.0
        assert fit.log_likelihood > float(np.sum(quietly(law.loglikelihoods, evals))) + 0.5

    def test_its_verdict_depends_on_the_unit(self) -> None:
        """It discards fits with Λ < 0.01, whatever λ is measured in; ours scales."""
        evals = truncated_pareto(1.5, 0.1, 200, 9)
        laws = [quietly(getattr, powerlaw_fit(evals * unit, xmin=unit), "truncated_power_law") for unit in (0.1, 100.0)]
        assert [law.noise_flag for law in laws] == [False, True]
        assert laws[1].alpha == pytest.approx(laws[0].alpha, rel=1e-2)
        fits = [fitted(evals * unit, xmin=unit) for unit in (0.1, 100.0)]
        assert fits[1].alpha == pytest.approx(fits[0].alpha, rel=1e-9)


class TestLaws:
    @settings(max_examples=40, deadline=None)
    @given(st.floats(0.3, 4.0), st.floats(0.005, 0.5), st.integers(0, 1000))
    def test_no_worse_than_the_power_law_it_contains(self, alpha: float, rate: float, seed: int) -> None:
        evals = truncated_pareto(alpha, rate, 80, seed)
        power_law = fit_power_law(evals)
        assert not isinstance(power_law, FitFailure)
        fit = fit_truncated_power_law(evals, xmin=power_law.xmin)
        if isinstance(fit, FitFailure):
            assert fit.reason in (FitFailureReason.REFUSED, FitFailureReason.TOO_FEW_EIGENVALUES)
            return
        tail = evals[evals >= power_law.xmin]
        value = len(tail) * math.log((power_law.alpha - 1.0) / fit.xmin) - power_law.alpha * float(
            np.sum(np.log(tail / fit.xmin))
        )
        assert fit.log_likelihood >= value - 1e-9
        assert fit.alpha >= 0.0
        assert fit.Lambda >= 0.0
        assert 0.0 <= fit.D < 1.0

    @pytest.mark.parametrize("factor", [1e-3, 0.25, 1e6])
    def test_scale(self, factor: float) -> None:
        evals = truncated_pareto(1.5, 0.1, 200, 2)
        fit, scaled = fitted(evals), fitted(evals * factor)
        assert scaled.alpha == pytest.approx(fit.alpha, rel=1e-7)
        assert scaled.Lambda == pytest.approx(fit.Lambda / factor, rel=1e-7)
        assert pytest.approx(fit.D, rel=1e-8) == scaled.D
        assert scaled.xmin == pytest.approx(fit.xmin * factor, rel=1e-12)
        assert scaled.log_likelihood == pytest.approx(fit.log_likelihood - fit.n_tail * math.log(factor), rel=1e-8)

    @pytest.mark.parametrize(("alpha", "rate"), PLANTED)
    def test_planted_parameters(self, alpha: float, rate: float) -> None:
        evals = truncated_pareto(alpha, rate, 3000, 1)
        fit = fitted(evals, xmin=1.0)
        assert abs(fit.alpha - alpha) < 4.0 * fit.sigma
        # Wilks: twice the gain over the planted point is χ² with two degrees of freedom, above 18 once in 8,000.
        planted = float(np.sum(truncated_log_likelihoods(evals, alpha=alpha, Lambda=rate, xmin=1.0)))
        assert 0.0 <= 2.0 * (fit.log_likelihood - planted) < 18.0

    def test_stated_error_is_the_observed_scatter(self) -> None:
        fits = [fitted(truncated_pareto(1.5, 0.1, 400, seed), xmin=1.0) for seed in range(200)]
        scatter = float(np.std([fit.alpha for fit in fits]))
        # 200 draws give a standard deviation to 5%; four of these are 0.2.
        assert scatter == pytest.approx(float(np.mean([fit.sigma for fit in fits])), rel=0.2)

    def test_without_a_cut_off_it_is_the_power_law(self) -> None:
        # Evenly spaced in ln x but for a last value far out: heavier than any cut-off allows.
        evals = np.append(np.exp(-np.log1p(-np.arange(60) / 60.0) / 2.0), 400.0)
        fit = fitted(evals, xmin=1.0)
        assert fit.Lambda == 0.0
        assert fit.alpha == pytest.approx(1.0 + len(evals) / float(np.sum(np.log(evals))), rel=1e-12)
        assert fit.sigma == pytest.approx((fit.alpha - 1.0) / math.sqrt(len(evals)), rel=1e-12)

    def test_log_likelihoods_sum_to_that_of_the_record(self) -> None:
        evals = truncated_pareto(2.0, 0.05, 100, 8)
        fit = fitted(evals)
        tail = evals[evals >= fit.xmin]
        each = truncated_log_likelihoods(tail, alpha=fit.alpha, Lambda=fit.Lambda, xmin=fit.xmin)
        assert float(np.sum(each)) == pytest.approx(fit.log_likelihood, rel=1e-12)
        assert fit.log_likelihood == pytest.approx(slow_log_likelihood(tail, fit.alpha, fit.Lambda, fit.xmin), rel=1e-9)

    def test_values_at_the_threshold_do_not_enter(self) -> None:
        evals = truncated_pareto(1.5, 0.1, 100, 1)
        assert fitted(np.concatenate([np.full(40, 1e-5), evals])) == fitted(evals)

    def test_range_of_xmin(self) -> None:
        evals = truncated_pareto(1.5, 0.1, 200, 1)
        fit = fit_truncated_power_law(evals, xmin_range=(2.0, 3.0))
        assert isinstance(fit, TruncatedPowerLawFit)
        assert 2.0 <= fit.xmin <= 3.0
        assert fitted(evals).xmin < 2.0

    def test_same_bits_and_pickles(self) -> None:
        evals = truncated_pareto(1.5, 0.1, 100, 1)
        evals.flags.writeable = False
        fit = fitted(evals)
        assert fitted(evals.copy()) == fit
        assert pickle.loads(pickle.dumps(fit)) == fit


class TestFailures:
    @pytest.mark.parametrize(
        ("evals", "options", "reason", "detail"),
        [
            (np.array([]), {}, "too_few_eigenvalues", "0 eigenvalues, at least 8"),
            (np.geomspace(1, 9, 7), {"min_evals": 2}, "too_few_eigenvalues", "7 eigenvalues above 1e-05"),
            (np.geomspace(1e-9, 1e-5, 60), {}, "too_few_eigenvalues", "0 eigenvalues above 1e-05"),
            (np.full(60, 2.0), {}, "no_spread", "all eigenvalues in the tail are equal"),
            (np.full(60, 2.0), {"xmin": 1.0}, "no_spread", "all eigenvalues in the tail are equal"),
            (np.geomspace(1, 9, 60), {"xmin": 8.9}, "too_few_eigenvalues", "1 eigenvalues from xmin=8.9 on"),
            (np.geomspace(1, 9, 7), {"xmin": 1.0}, "too_few_eigenvalues", "7 eigenvalues, at least 8"),
            (np.linspace(1, 2, 60), {"xmin": 1.0}, "refused", "no tail is a truncated power law"),
            (np.geomspace(1, 9, 60), {"xmin_range": (20.0, 30.0)}, "refused", "no tail begins at an eigenvalue"),
            (np.geomspace(1, 9, 60), {"xmin_range": (8.0, 9.0)}, "too_few_eigenvalues", "no tail of 8 eigenvalues"),
        ],
    )
    def test_reason(self, evals: NDArray[np.float64], options: dict[str, float], reason: str, detail: str) -> None:
        fit = fit_truncated_power_law(evals, **options)  # type: ignore[arg-type]
        assert isinstance(fit, FitFailure)
        assert fit.reason is FitFailureReason(reason)
        assert fit.detail.startswith(detail)

    @pytest.mark.parametrize("xmin", [0.0, -1.0, math.inf, math.nan])
    def test_bad_xmin(self, xmin: float) -> None:
        with pytest.raises(ValueError, match=r"^xmin must be positive and finite"):
            fit_truncated_power_law(np.geomspace(1, 9, 60), xmin=xmin)

    def test_bad_evals(self) -> None:
        with pytest.raises(ValueError, match=r"^evals must be one-dimensional, ascending and finite"):
            fit_truncated_power_law(np.append(np.geomspace(1, 9, 30), np.nan))


class TestScoring:
    @settings(max_examples=200, deadline=None)
    @given(
        st.lists(st.floats(0.0, 3.0), min_size=8, max_size=60, unique=True),
        st.floats(-5.0, 0.8),
        st.floats(0.0, 20.0),
    )
    def test_every_tail_that_has_a_maximum_ends_there(
        self, log_values: list[float], exponent: float, outlier: float
    ) -> None:
        """Means under the law are those of the tail; or α, or z, is at its edge and would go beyond."""
        u = np.sort(np.array(log_values)) * 10.0**exponent
        u -= u[0]
        u[-1] += outlier
        assume(u[-1] > 1e-6)
        mean_logs, mean_values = np.array([u.mean()]), np.array([np.exp(u).mean()])
        optima = maximise_likelihood(mean_logs, mean_values)
        edge = np.array([1.0 / (float(mean_values[0]) - 1.0)])
        has_one = bool(cutoff_moments(np.zeros(1), edge)[1][0, 0] > mean_logs[0])
        assert bool(optima.has_one[0]) is has_one
        if has_one and optima.z[0] > 0.0:
            assert optima.alpha[0] > 0.0
            _, means, covariances = cutoff_moments(optima.alpha, optima.z)
            # In units of the standard deviation of one value.
            assert abs(means[0, 0] - mean_logs[0]) < 1e-4 * math.sqrt(covariances[0, 0])
            assert abs(means[0, 1] - mean_values[0]) < 1e-4 * math.sqrt(covariances[0, 2])
        elif has_one:
            assert optima.alpha[0] == pytest.approx(1.0 + 1.0 / float(mean_logs[0]), rel=1e-12)
            assert optima.alpha[0] > 2.0

    def test_far_value(self) -> None:
        """A step that let α go along with z ended nowhere on this one."""
        fit = fitted(pareto(2.0, 60, 0), xmin=1.0)
        assert fit.Lambda == pytest.approx(6.47e-5, rel=1e-2)
        assert fit.alpha == pytest.approx(1.9716, abs=1e-3)
