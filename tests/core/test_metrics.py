"""Norms and ranks by their definitions, and the summary."""

from __future__ import annotations

import math

import numpy as np
import pytest

from spectral.metrics import (
    LAYER_METRICS,
    POWER_LAW_METRICS,
    SPECTRUM_METRICS,
    SUMMARY_METRICS,
    power_law_metrics,
    spectrum_metrics,
    summarise,
    training_warning,
)
from spectral.power_law import PowerLawFit, fit_power_law
from spectral.tail_fit import TailFit
from tests.core.builders import heavy_tailed, spectrum_of, with_singular_values


def test_every_number_by_its_definition() -> None:
    singular = np.array([5.0, 4.0, 3.0, 1e-4, 0.0])
    metrics = spectrum_metrics(spectrum_of(with_singular_values(singular, 9, 5)))
    share = np.array([25.0, 16.0, 9.0, 1e-8, 0.0]) / 50.00000001 + 1e-10
    expected = {
        "num_evals": 5,
        "lambda_max": 25.0,
        "sv_max": 5.0,
        "rank_loss": 1,
        "weak_rank_loss": 2,
        "norm": 50.00000001,
        "log_norm": math.log10(50.00000001),
        "spectral_norm": 25.0,
        "log_spectral_norm": math.log10(25.0),
        "stable_rank": 2.0000000004,
        "matrix_rank": 4,
        "entropy": float(-np.sum(share * np.log(share)) / math.log(4 + 1e-10)),
        "effective_rank": math.exp(-sum(s / 12.0001 * math.log(s / 12.0001) for s in (5.0, 4.0, 3.0, 1e-4))),
        "participation_ratio": 50.00000001**2 / (25.0**2 + 16.0**2 + 9.0**2 + 1e-16),
        "nuclear_norm": 12.0001,
        "rank_gd": 0,  # ω(5/9) = 2.25 times the median, 3, is more than the largest
        "n_dead_rows": 0,
        "n_dead_columns": 0,
    }
    sv_min = metrics.pop("sv_min")
    assert sv_min < 1e-14
    assert metrics.pop("alpha_hill") == pytest.approx(1.0 + 1.0 / math.log(25.0 / 16.0), rel=1e-9)
    assert metrics == pytest.approx(expected, rel=1e-9)
    assert all(type(metrics[name]) is type(value) for name, value in expected.items())


def test_names_and_order() -> None:
    spectrum = spectrum_of(heavy_tailed(80, 60))
    fit = fit_power_law(spectrum.evals)
    assert isinstance(fit, PowerLawFit)
    assert tuple(spectrum_metrics(spectrum)) == SPECTRUM_METRICS
    assert tuple(power_law_metrics(spectrum, TailFit(fit=fit))) == POWER_LAW_METRICS
    assert len(set(LAYER_METRICS)) == len(SPECTRUM_METRICS) + len(POWER_LAW_METRICS)


def test_rank_one_has_no_entropy() -> None:
    metrics = spectrum_metrics(spectrum_of(np.ones((30, 20))))
    assert metrics["matrix_rank"] == 1
    assert "entropy" not in metrics


@pytest.mark.parametrize("n", [2, 50, 1000])
def test_entropy_of_equal_eigenvalues_is_one(n: int) -> None:
    # But for the 1e-10 added to each share, whose own weight grows with n.
    assert spectrum_metrics(spectrum_of(np.eye(n)))["entropy"] == pytest.approx(1.0, abs=2e-10 * n + 1e-12)


def test_stable_rank_lies_between_one_and_the_rank() -> None:
    for seed in range(5):
        metrics = spectrum_metrics(spectrum_of(heavy_tailed(80, 60, seed=seed)))
        assert 1.0 <= metrics["stable_rank"] <= metrics["matrix_rank"]


def test_log_alpha_norm_is_the_sum_and_does_not_overflow() -> None:
    spectrum = spectrum_of(heavy_tailed(80, 60))
    fit = fit_power_law(spectrum.evals)
    assert isinstance(fit, PowerLawFit)
    metrics = power_law_metrics(spectrum, TailFit(fit=fit))
    assert metrics["log_alpha_norm"] == pytest.approx(math.log10(math.fsum(spectrum.evals**fit.alpha)), rel=1e-12)
    assert metrics["alpha_weighted"] == pytest.approx(fit.alpha * math.log10(spectrum.evals[-1]), rel=1e-12)
    steep = PowerLawFit(alpha=300.0, sigma=1.0, xmin=fit.xmin, xmax=fit.xmax, D=0.1, n_tail=fit.n_tail)
    with np.errstate(over="ignore"):
        assert np.isinf(np.sum(spectrum.evals**300.0))
    assert power_law_metrics(spectrum, TailFit(fit=steep))["log_alpha_norm"] == pytest.approx(
        300.0 * math.log10(spectrum.evals[-1]), rel=1e-6
    )


def test_zero_eigenvalues_do_not_enter_log_alpha_norm() -> None:
    values = heavy_tailed(80, 60)
    values[:, :4] = 0.0
    spectrum = spectrum_of(values)
    fit = fit_power_law(spectrum.evals)
    assert isinstance(fit, PowerLawFit)
    assert math.isfinite(power_law_metrics(spectrum, TailFit(fit=fit))["log_alpha_norm"])


@pytest.mark.parametrize(
    ("alpha", "warning"),
    [
        (1.01, "over-trained"),
        (np.nextafter(2.0, 0.0), "over-trained"),
        (2.0, ""),
        (4.0, ""),
        (6.0, ""),
        (np.nextafter(6.0, 9.0), "under-trained"),
        (80.0, "under-trained"),
    ],
)
def test_warning(alpha: float, warning: str) -> None:
    assert training_warning(alpha) == warning


class TestSummary:
    def test_each_mean_is_over_the_layers_that_have_it(self) -> None:
        rows: list[dict[str, float | int]] = [
            {"alpha": 2.0, "log_norm": 1.0},
            {"log_norm": 4.0},
            {"alpha": 5.0, "log_norm": 1.0},
        ]
        assert summarise(rows) == {"log_norm": 2.0, "alpha": 3.5}

    def test_order_and_other_numbers(self) -> None:
        rows = [dict.fromkeys([*reversed(SUMMARY_METRICS), "xmin"], 3.0)]
        assert list(summarise(rows)) == list(SUMMARY_METRICS)

    def test_nothing_to_average(self) -> None:
        assert summarise([]) == {}
        assert summarise([{}]) == {}
