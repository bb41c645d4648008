"""The power law that ends at the largest value, against slow fits, ``powerlaw``, and the laws it obeys."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from spectral.bounded_power_law import fit_bounded_power_law
from spectral.fits import FitFailure, FitFailureReason
from spectral.power_law import PowerLawFit, fit_power_law
from tests.core.powerlaw_oracle import powerlaw, powerlaw_fit, quietly
from tests.core.spectra import bounded_pareto

if TYPE_CHECKING:
    from numpy.typing import NDArray


def fitted(evals: NDArray[np.float64]) -> PowerLawFit:
    fit = fit_bounded_power_law(evals, min_evals=2)
    assert isinstance(fit, PowerLawFit), fit
    return fit


def log_likelihood(tail: NDArray[np.float64], alpha: float) -> float:
    """Of p(x) = (α-1) x^-α / (xmin^(1-α) - xmax^(1-α)) between the first and the last value."""
    norm = (alpha - 1.0) / (tail[0] ** (1.0 - alpha) - tail[-1] ** (1.0 - alpha))
    return float(np.sum(np.log(norm) - alpha * np.log(tail)))


def slow_scan(evals: NDArray[np.float64]) -> list[tuple[float, float, float]]:
    """Return (xmin, α, D) of every candidate, each likelihood maximised on its own."""
    result = []
    for i in range(len(evals) - 1):
        tail = evals[i:]
        best = minimize_scalar(
            lambda alpha, tail=tail: -log_likelihood(tail, alpha),
            bounds=(1.0 + 1e-7, 100.0),
            method="bounded",
            options={"xatol": 1e-9},
        )
        alpha = float(best.x)
        if alpha > 1.0 + 1e-6:
            cdf = (tail[0] ** (1 - alpha) - tail ** (1 - alpha)) / (tail[0] ** (1 - alpha) - tail[-1] ** (1 - alpha))
            result.append((float(tail[0]), alpha, float(np.max(np.abs(cdf - np.arange(len(tail)) / len(tail))))))
    return result


class TestAgainstSlowFits:
    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("n", [30, 120])
    def test_whole_scan(self, n: int, seed: int) -> None:
        evals = bounded_pareto(2.5, 30.0, n, seed) * np.random.default_rng(seed).uniform(0.9, 1.1, n)
        evals.sort()
        xmin, alpha, distance = min(slow_scan(evals), key=lambda candidate: candidate[2])
        fit = fitted(evals)
        assert fit.xmin == xmin
        assert fit.alpha == pytest.approx(alpha, rel=1e-6)
        assert pytest.approx(distance, abs=1e-7) == fit.D
        assert fit.xmax == evals[-1]
        assert fit.n_tail == np.count_nonzero(evals >= xmin)

    def test_against_powerlaw(self) -> None:
        evals = bounded_pareto(2.5, 30.0, 150, 3)
        fit = fitted(evals)
        tail = evals[evals >= fit.xmin]
        theirs = quietly(
            powerlaw().Power_Law,
            data=tail,
            xmin=fit.xmin,
            xmax=fit.xmax,
            force_numerical_fit=True,
            parameter_ranges={"alpha": [0, None]},
            verbose=0,
        )
        assert fit.alpha == pytest.approx(theirs.alpha, rel=1e-4)
        assert pytest.approx(theirs.D, abs=1e-5) == fit.D
        assert log_likelihood(tail, fit.alpha) >= log_likelihood(tail, theirs.alpha)

    def test_powerlaw_leaves_the_unbounded_exponent(self) -> None:
        """With xmax it bounds the density, but between 1.5 and 3 it keeps the exponent of the unbounded law."""
        evals = bounded_pareto(2.0, 20.0, 400, 1)
        theirs = powerlaw_fit(evals, xmin=1.0, xmax=float(evals[-1]))
        alpha = quietly(getattr, theirs, "power_law").alpha
        assert alpha == pytest.approx(1.0 + len(evals) / float(np.sum(np.log(evals))), rel=1e-12)
        assert alpha > 2.2
        ours = fit_bounded_power_law(evals, xmin_range=(1.0, float(evals[0])))
        assert isinstance(ours, PowerLawFit)
        assert abs(ours.alpha - 2.0) < 3.0 * ours.sigma
        assert log_likelihood(evals, ours.alpha) > log_likelihood(evals, alpha) + 2.0


class TestLaws:
    @settings(max_examples=60, deadline=None)
    @given(st.floats(1.3, 6.0), st.floats(2.0, 1000.0), st.integers(0, 10_000))
    def test_lies_below_the_unbounded_exponent(self, alpha: float, largest: float, seed: int) -> None:
        """At the same tail: a tail that ends is flatter than one thought to go on."""
        evals = bounded_pareto(alpha, largest, 60, seed)
        at_first = (float(evals[0]), float(evals[0]))
        bounded, unbounded = (
            fit_bounded_power_law(evals, xmin_range=at_first),
            fit_power_law(evals, xmin_range=at_first),
        )
        assert isinstance(unbounded, PowerLawFit)
        if isinstance(bounded, FitFailure):
            assert bounded.reason is FitFailureReason.REFUSED
            return
        assert 1.0 < bounded.alpha < unbounded.alpha
        assert bounded.sigma > 0.0

    def test_stated_error_is_the_observed_scatter(self) -> None:
        fits = [
            fit_bounded_power_law(evals, xmin_range=(0.0, float(evals[0])))
            for evals in (bounded_pareto(2.0, 20.0, 300, seed) for seed in range(300))
        ]
        kept = [fit for fit in fits if isinstance(fit, PowerLawFit)]
        assert len(kept) == 300
        # 300 draws give a standard deviation to 4%; four of these are 0.16. The mean is planted.
        scatter = float(np.std([fit.alpha for fit in kept]))
        assert scatter == pytest.approx(float(np.mean([fit.sigma for fit in kept])), rel=0.16)
        assert abs(float(np.mean([fit.alpha for fit in kept])) - 2.0) < 4.0 * scatter / math.sqrt(300)

    def test_a_far_end_changes_little(self) -> None:
        """Exact quantiles over three decades: less than 1% of the density lies beyond."""
        evals = np.asarray((1.0 - (np.arange(1000) + 0.5) / 1000.0) ** (-1.0 / 2.0), dtype=np.float64)
        at_first = (1.0, float(evals[0]))
        bounded, unbounded = (
            fit_bounded_power_law(evals, xmin_range=at_first),
            fit_power_law(evals, xmin_range=at_first),
        )
        assert isinstance(bounded, PowerLawFit)
        assert isinstance(unbounded, PowerLawFit)
        assert bounded.alpha == pytest.approx(unbounded.alpha, rel=0.02)
        assert bounded.sigma == pytest.approx(unbounded.sigma, rel=0.02)

    @pytest.mark.parametrize("factor", [1e-3, 7.0, 1e6])
    def test_scale(self, factor: float) -> None:
        evals = bounded_pareto(2.5, 30.0, 200, 2)
        fit, scaled = fitted(evals), fitted(evals * factor)
        assert scaled.alpha == pytest.approx(fit.alpha, rel=1e-9)
        assert scaled.sigma == pytest.approx(fit.sigma, rel=1e-9)
        assert pytest.approx(fit.D, rel=1e-9) == scaled.D

    def test_log_uniform_values_are_refused(self) -> None:
        """Towards large values ever more of them: no tail."""
        evals = np.sort(100.0 - np.geomspace(1.0, 99.0, 60))
        fit = fit_bounded_power_law(evals)
        assert isinstance(fit, FitFailure)
        assert fit.reason is FitFailureReason.REFUSED
        assert fit.detail == "no tail up to the largest eigenvalue is a power law with alpha > 1"

    @pytest.mark.parametrize(
        ("evals", "reason"),
        [
            (np.array([]), "too_few_eigenvalues"),
            (np.geomspace(1e-9, 1e-5, 60), "too_few_eigenvalues"),
            (np.full(60, 2.0), "no_spread"),
        ],
    )
    def test_failures(self, evals: NDArray[np.float64], reason: str) -> None:
        fit = fit_bounded_power_law(evals)
        assert isinstance(fit, FitFailure)
        assert fit.reason is FitFailureReason(reason)

    def test_bad_evals(self) -> None:
        with pytest.raises(ValueError, match=r"^evals must be one-dimensional, ascending and finite"):
            fit_bounded_power_law(np.array([2.0, 1.0] * 20))
