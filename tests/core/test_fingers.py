"""The range of xmin about the peak, and the largest values dropped one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from spectral.fingers import Clipping, clip_fingers, peak_xmin_range
from spectral.fits import FitFailure, FitFailureReason
from spectral.power_law import PowerLawFit, fit_power_law
from tests.core.spectra import pareto

if TYPE_CHECKING:
    from numpy.typing import NDArray


class TestPeak:
    def test_lies_at_the_mode_of_the_logarithms(self) -> None:
        logs = np.sort(np.random.default_rng(0).normal(1.0, 0.3, 5000))
        peak_range = peak_xmin_range(10.0**logs)
        assert peak_range is not None
        lower, upper = peak_range
        assert np.log10(lower / 0.95) == pytest.approx(1.0, abs=0.15)
        assert upper / lower == pytest.approx(1.5 / 0.95)

    def test_is_the_lower_edge_of_the_first_fullest_bin(self) -> None:
        # Bins of log10 of width 0.02 from 0 to 2: three values in that from 0.50, three in that from 1.50.
        logs = np.array([0.0, 0.505, 0.51, 0.515, 1.505, 1.51, 1.515, 2.0])
        peak_range = peak_xmin_range(10.0**logs)
        assert peak_range == pytest.approx((0.95 * 10.0**0.5, 1.5 * 10.0**0.5))

    def test_xmin_max_is_the_upper_end(self) -> None:
        evals = pareto(2.0, 100, 0)
        default, given = peak_xmin_range(evals), peak_xmin_range(evals, 7.0)
        assert default is not None
        assert given == (default[0], 7.0)

    def test_values_below_the_threshold_do_not_count(self) -> None:
        evals = pareto(2.0, 100, 0)
        assert peak_xmin_range(np.concatenate([np.full(900, 1e-5), evals])) == peak_xmin_range(evals)

    def test_nothing_has_no_peak(self) -> None:
        assert peak_xmin_range(np.array([])) is None
        assert peak_xmin_range(np.full(10, 1e-6)) is None

    def test_one_value_repeated_is_its_own_peak(self) -> None:
        # numpy spreads the bins over a unit about it; the value lies at the edge of the 51st.
        assert peak_xmin_range(np.full(10, 100.0)) == pytest.approx((95.0, 150.0))

    def test_bad_evals(self) -> None:
        with pytest.raises(ValueError, match=r"^evals must be one-dimensional, ascending and finite"):
            peak_xmin_range(np.array([1.0, np.nan]))


def alphas(*values: float) -> list[PowerLawFit | FitFailure]:
    return [PowerLawFit(alpha=a, sigma=0.1, xmin=1.0, xmax=2.0, D=0.1, n_tail=10) for a in values]


def clip(
    fits: list[PowerLawFit | FitFailure], *, max_fingers: int = 10, finger_thresh: float = 1.0, n: int = 100
) -> tuple[Clipping | FitFailure, list[int]]:
    """Clip a spectrum whose fits are given, and say how long the fitted spectra were."""
    lengths: list[int] = []

    def fit_tail(evals: NDArray[np.float64]) -> PowerLawFit | FitFailure:
        lengths.append(len(evals))
        return fits[len(lengths) - 1]

    evals = np.arange(1.0, n + 1.0)
    return clip_fingers(evals, fit_tail, max_fingers=max_fingers, finger_thresh=finger_thresh), lengths


class TestClipping:
    def test_stops_at_the_first_fall(self) -> None:
        clipping, lengths = clip(alphas(5.0, 4.5, 3.9, 3.0))
        assert isinstance(clipping, Clipping)
        assert (clipping.n_fingers, clipping.raw_alpha, clipping.fit.alpha) == (2, 5.0, 3.9)
        assert lengths == [100, 99, 98]

    def test_one_finger_is_found(self) -> None:
        clipping, _ = clip(alphas(5.0, 4.0))
        assert isinstance(clipping, Clipping)
        assert (clipping.n_fingers, clipping.fit.alpha) == (1, 4.0)

    def test_max_fingers_may_all_be_dropped(self) -> None:
        clipping, lengths = clip(alphas(5.0, 4.9, 4.8, 3.5), max_fingers=3)
        assert isinstance(clipping, Clipping)
        assert clipping.n_fingers == 3
        assert lengths[-1] == 97

    def test_no_fall_drops_nothing(self) -> None:
        clipping, lengths = clip(alphas(5.0, 4.9, 4.8, 4.7), max_fingers=3)
        assert isinstance(clipping, Clipping)
        assert (clipping.n_fingers, clipping.raw_alpha, clipping.fit.alpha) == (0, 5.0, 5.0)
        assert len(lengths) == 4

    def test_a_tail_that_is_heavy_enough_is_left_alone(self) -> None:
        clipping, lengths = clip(alphas(2.5, 2.0, 1.0))
        assert isinstance(clipping, Clipping)
        assert clipping.n_fingers == 0
        assert len(lengths) == 2

    def test_at_most_half_is_dropped(self) -> None:
        _, lengths = clip(alphas(9.0, 8.9, 8.8, 8.7, 8.6), n=8)
        assert lengths == [8, 7, 6, 5, 4]

    def test_what_cannot_be_fitted_ends_it(self) -> None:
        failure = FitFailure(reason=FitFailureReason.NO_SPREAD, detail="equal")
        clipping, _ = clip([*alphas(5.0), failure])
        assert isinstance(clipping, Clipping)
        assert clipping.n_fingers == 0
        assert clip([failure])[0] is failure

    def test_planted_fingers(self) -> None:
        # A tail of exponent 6 makes the one of the whole; two values far beyond it do not.
        body = pareto(3.0, 300, 1)
        body = np.sort(body[body < 6.0])
        evals = np.concatenate([body, [40.0, 41.0, 42.0]])
        raw = fit_power_law(evals)
        clipping = clip_fingers(evals, fit_power_law, finger_thresh=0.01)
        assert isinstance(raw, PowerLawFit)
        assert isinstance(clipping, Clipping)
        assert clipping.raw_alpha == raw.alpha
        assert clipping.fit == fit_power_law(evals[: len(evals) - clipping.n_fingers])
