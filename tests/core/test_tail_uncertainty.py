"""The two bootstraps: calibrated, seeded, and honest about failures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from spectral.errors import OptionError
from spectral.fits import FitFailure, FitFailureReason
from spectral.power_law import PowerLawFit, fit_power_law
from spectral.tail_uncertainty import AlphaUncertainty, GoodnessOfFit, bootstrap_alpha, goodness_of_fit
from tests.core.spectra import pareto, truncated_pareto

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


def fitted(evals: NDArray[np.float64]) -> PowerLawFit:
    fit = fit_power_law(evals, min_evals=2)
    assert isinstance(fit, PowerLawFit)
    return fit


def interval(evals: NDArray[np.float64], **options: Any) -> AlphaUncertainty:
    result = bootstrap_alpha(evals, fitted(evals), **options)
    assert isinstance(result, AlphaUncertainty)
    return result


def goodness(evals: NDArray[np.float64], **options: Any) -> GoodnessOfFit:
    result = goodness_of_fit(evals, fitted(evals), **options)
    assert isinstance(result, GoodnessOfFit)
    return result


class TestInterval:
    def test_coverage(self) -> None:
        """95.6% in 1,900 draws of 500 values with 200 replicas (benchmarks/tails.py); fewer of both here."""
        intervals = [interval(pareto(3.0, 200, seed), n_replicas=50, seed=seed) for seed in range(60)]
        covered = sum(one.low <= 3.0 <= one.high for one in intervals)
        # 60 draws of 0.94: below 49 once in a thousand.
        assert 49 <= covered <= 60
        # All of them would also cover if they were as wide as one likes.
        assert float(np.median([one.high - one.low for one in intervals])) < 1.2

    def test_does_not_depend_on_the_exponent_but_by_scale(self) -> None:
        """x -> x^c turns α-1 into (α-1)/c, and nothing else changes."""
        narrow, wide = pareto(2.0, 300, 4), pareto(2.0, 300, 4) ** 0.5
        one, other = interval(narrow, seed=1), interval(wide, seed=1)
        assert (other.low - 1.0, other.high - 1.0) == pytest.approx(
            (2.0 * (one.low - 1.0), 2.0 * (one.high - 1.0)), rel=1e-6
        )
        assert other.standard_error == pytest.approx(2.0 * one.standard_error, rel=1e-6)

    def test_by_hand(self) -> None:
        """Each replica fitted by itself."""
        evals = pareto(2.5, 80, 3)
        rng = np.random.default_rng(np.random.SeedSequence(7))
        alphas = [fitted(np.sort(evals[rng.integers(0, 80, 80)])).alpha for _ in range(50)]
        result = interval(evals, n_replicas=50, seed=7, level=0.8)
        assert (result.low, result.high) == tuple(np.quantile(alphas, [0.1, 0.9]))
        assert result.standard_error == pytest.approx(float(np.std(alphas, ddof=1)), rel=1e-12)
        assert (result.alpha, result.level, result.n_replicas) == (fitted(evals).alpha, 0.8, 50)

    def test_a_longer_tail_is_known_better(self) -> None:
        short, long = (interval(pareto(3.0, n, 2), seed=1) for n in (100, 2000))
        assert long.high - long.low < 0.5 * (short.high - short.low)

    def test_a_higher_level_is_wider(self) -> None:
        evals = pareto(3.0, 200, 2)
        narrow, wide = (interval(evals, seed=1, level=level) for level in (0.5, 0.99))
        assert wide.low < narrow.low < narrow.high < wide.high

    def test_values_below_the_threshold_do_not_enter(self) -> None:
        evals = pareto(3.0, 100, 2)
        assert interval(np.concatenate([np.full(50, 1e-6), evals]), seed=1) == interval(evals, seed=1)


class TestGoodnessOfFit:
    def test_true_power_laws_are_kept_at_the_nominal_rate(self) -> None:
        p_values = [goodness(pareto(3.0, 150, seed), n_replicas=40, seed=seed).p_value for seed in range(80)]
        share = float(np.mean(np.array(p_values) <= 0.1))
        # 80 draws of 0.1: none or above 18 once in a thousand.
        assert 0 < share <= 18 / 80
        assert 0.3 < float(np.mean(p_values)) < 0.7

    def test_a_bend_is_seen(self) -> None:
        """A spectrum with a body, an end, and no power law between."""
        evals = np.sort(np.random.default_rng(0).beta(2.0, 3.0, 800)) + 0.1
        assert goodness(evals, seed=1).p_value <= 0.1

    def test_log_normal_tails(self) -> None:
        """Rejected where the tail is long; left free, xmin may flee into the last few values."""
        p_values = []
        for seed in range(5):
            evals = np.sort(np.random.default_rng(seed).lognormal(0.0, 1.0, 4000))
            whole = fit_power_law(evals, xmin_range=(float(evals[400]), float(evals[2000])))
            assert isinstance(whole, PowerLawFit)
            result = goodness_of_fit(evals, whole, n_replicas=40, seed=seed)
            assert isinstance(result, GoodnessOfFit)
            p_values.append(result.p_value)
        assert max(p_values) <= 0.1

    def test_by_hand(self) -> None:
        evals = np.sort(np.concatenate([np.random.default_rng(1).uniform(0.2, 1.0, 60), pareto(2.5, 60, 3)]))
        fit = fitted(evals)
        body = evals[evals < fit.xmin]
        rng = np.random.default_rng(np.random.SeedSequence(3))
        n_farther = 0
        for _ in range(30):
            n_tail = rng.binomial(120, 1.0 - len(body) / 120)
            tail = fit.xmin * (1.0 - rng.random(n_tail)) ** (-1.0 / (fit.alpha - 1.0))
            replica = np.sort(np.concatenate([body[rng.integers(0, len(body), 120 - n_tail)], tail]))
            n_farther += fitted(replica).D >= fit.D
        assert goodness(evals, n_replicas=30, seed=3) == GoodnessOfFit(p_value=n_farther / 30, n_replicas=30)

    def test_exponent_near_one(self) -> None:
        """The law asks for more than a float64 holds."""
        evals = np.exp(np.linspace(-11.0, 600.0, 60))
        fit = PowerLawFit(alpha=1.0005, sigma=0.1, xmin=float(evals[0]), xmax=float(evals[-1]), D=0.3, n_tail=60)
        assert isinstance(goodness_of_fit(evals, fit, n_replicas=20, seed=1), GoodnessOfFit)


@pytest.mark.parametrize("estimate", [bootstrap_alpha, goodness_of_fit])
class TestBoth:
    def test_same_seed_same_bits(self, estimate: Callable[..., Any]) -> None:
        evals = truncated_pareto(1.5, 0.1, 200, 1)
        evals.flags.writeable = False
        fit = fitted(evals)
        np.random.seed(0)  # noqa: NPY002  # the global state must not matter
        first = estimate(evals, fit, seed=5)
        np.random.seed(1)  # noqa: NPY002
        assert estimate(evals, fit, seed=5) == first
        assert estimate(evals, fit, seed=6) != first

    @pytest.mark.parametrize("n_replicas", [0, 19, 50.0, True])
    def test_number_of_replicas(self, estimate: Callable[..., Any], n_replicas: Any) -> None:
        evals = pareto(2.0, 50, 1)
        with pytest.raises(OptionError, match=r"^n_replicas must be an integer of at least 20, got "):
            estimate(evals, fitted(evals), n_replicas=n_replicas, seed=1)

    @pytest.mark.parametrize("seed", [-1, None, 1.5])
    def test_seed(self, estimate: Callable[..., Any], seed: Any) -> None:
        evals = pareto(2.0, 50, 1)
        with pytest.raises(OptionError, match=r"^seed must be an integer of at least 0, got "):
            estimate(evals, fitted(evals), seed=seed)

    def test_replicas_without_a_fit(self, estimate: Callable[..., Any]) -> None:
        evals = np.array([1e-6] * 30 + [1.0, 2.0, 3.0])
        fit = PowerLawFit(alpha=2.0, sigma=0.1, xmin=1.0, xmax=3.0, D=0.1, n_tail=3)
        result = estimate(evals, fit, n_replicas=20, seed=1)
        assert isinstance(result, FitFailure)
        assert result.reason is FitFailureReason.NO_CONVERGENCE
        assert result.detail == "only 0 of 20 replicas have a fit"

    def test_bad_evals(self, estimate: Callable[..., Any]) -> None:
        with pytest.raises(ValueError, match=r"^evals must be one-dimensional, ascending and finite"):
            estimate(np.array([2.0, 1.0] * 20), fitted(pareto(2.0, 50, 1)), seed=1)


@pytest.mark.parametrize("level", [0.0, 1.0, -1.0, float("nan")])
def test_level(level: float) -> None:
    evals = pareto(2.0, 50, 1)
    with pytest.raises(OptionError, match=r"^level must be between 0 and 1, got "):
        bootstrap_alpha(evals, fitted(evals), seed=1, level=level)
