"""The fit the options ask for, beside the incumbent's for the same options."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from spectral.bounded_power_law import fit_bounded_power_law
from spectral.errors import OptionError
from spectral.fits import FitFailure, FitFailureReason
from spectral.power_law import PowerLawFit, fit_power_law
from spectral.tail_fit import TailFit, TailOptions, fit_tail
from spectral.truncated_power_law import TruncatedPowerLawFit, fit_truncated_power_law
from tests.core.builders import heavy_tailed, spectrum_of
from tests.core.oracle import OracleResult, run_oracle, with_weights
from tests.core.powerlaw_oracle import run_oracle_with_powerlaw
from tests.core.spectra import pareto, truncated_pareto

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

SHAPES = {"square": (100, 100), "oblong": (130, 100), "tall": (320, 80), "thin": (2400, 30)}
"""Q = 1, 1.3, 4 and 80."""


def weights(name: str) -> NDArray[np.float64]:
    return heavy_tailed(*SHAPES[name], seed=len(name)).astype(np.float32).astype(np.float64) / 8.0


def model(*names: str) -> Any:
    return with_weights({name: (torch.nn.Linear(*SHAPES[name][::-1]), weights(name)) for name in names})


def evals_of(name: str) -> NDArray[np.float64]:
    return spectrum_of(weights(name).astype(np.float32)).evals


def fitted(evals: NDArray[np.float64], **options: Any) -> TailFit:
    fit = fit_tail(evals, TailOptions(**options))
    assert isinstance(fit, TailFit), fit
    return fit


def check(ours: TailFit, theirs: OracleResult, name: str, *, rel: float = 1e-6) -> None:
    columns = ["alpha", "xmin", "D"]
    # With the powerlaw package it knows no xmax.
    if theirs.details.loc[name, "xmax"] is not None:
        columns.append("xmax")
    for column in columns:
        assert getattr(ours.fit, column) == pytest.approx(theirs.value(name, column), rel=rel), column
    assert ours.num_pl_spikes == theirs.value(name, "num_pl_spikes")


class TestAgainstTheIncumbent:
    def test_ignored_eigenvalues(self) -> None:
        n_ignored = 3
        theirs = run_oracle(model(*SHAPES), xmax=-n_ignored)
        for name in SHAPES:
            ours = fitted(evals_of(name), xmax=-n_ignored)
            check(ours, theirs, name)
            assert isinstance(ours.fit, PowerLawFit)
            assert ours.fit.sigma == pytest.approx(theirs.value(name, "sigma"), rel=1e-6)
            assert ours.n_ignored == n_ignored

    def test_clipped_fingers(self) -> None:
        theirs = run_oracle(model(*SHAPES), fix_fingers="clip_xmax", finger_thresh=0.3)
        counts = []
        for name in SHAPES:
            ours = fitted(evals_of(name), fix_fingers="clip_xmax", finger_thresh=0.3)
            assert ours.raw_alpha == pytest.approx(theirs.value(name, "raw_alpha"), rel=1e-6)
            their_count = int(theirs.value(name, "num_fingers"))
            assert ours.n_fingers is not None
            counts.append(ours.n_fingers)
            # It begins with two, and reports one less than it drops.
            if ours.n_fingers >= 2:
                assert their_count == ours.n_fingers - 1
            if ours.n_fingers != 1:
                check(ours, theirs, name)
        assert max(counts) >= 2

    def test_a_single_finger_it_cannot_find(self) -> None:
        values = heavy_tailed(60, 60, seed=1).astype(np.float32)
        evals = spectrum_of(values).evals
        options = {"fix_fingers": "clip_xmax", "finger_thresh": 0.4}
        ours = fitted(evals, **options)
        theirs = run_oracle(with_weights({"layer": (torch.nn.Linear(60, 60), values.astype(np.float64))}), **options)
        # It has dropped two, the finger and a good value, and says one.
        assert theirs.value("layer", "num_fingers") == ours.n_fingers == 1
        assert theirs.value("layer", "xmax") == pytest.approx(evals[-3], rel=1e-6)
        assert ours.fit.xmax == evals[-2]

    @pytest.mark.parametrize(
        "options", [{"fit": "TPL"}, {"fix_fingers": "xmin_peak"}, {"fit": "E_TPL"}, {"xmax": "force"}]
    )
    def test_what_needs_the_powerlaw_package_fails_there(self, options: dict[str, Any]) -> None:
        """With powerlaw 2.0 and later: it is handed an argument it does not know, and every layer is -1."""
        theirs = run_oracle(model("tall"), pl_package="powerlaw", **options)
        assert theirs.value("tall", "alpha") == -1.0
        assert theirs.details.loc["tall", "status"] == "failed"
        assert fitted(evals_of("tall"), **options).fit.alpha > 0.0

    def test_truncated_power_law(self, monkeypatch: pytest.MonkeyPatch) -> None:
        values = np.diag(np.sqrt(truncated_pareto(1.5, 0.1, 35, 6) * 0.02)).astype(np.float32)
        theirs = run_oracle_with_powerlaw(
            monkeypatch, with_weights({"layer": (torch.nn.Linear(35, 35), values.astype(np.float64))}), fit="TPL"
        )
        ours = fitted(spectrum_of(values).evals, fit="TPL")
        check(ours, theirs, "layer", rel=1e-4)
        assert isinstance(ours.fit, TruncatedPowerLawFit)
        assert ours.fit.Lambda == pytest.approx(theirs.value("layer", "Lambda"), rel=1e-4)

    def test_peak_where_its_range_does_not_matter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its range begins at the logarithm of the peak; here nothing lies between that and the peak."""
        evals = (1.0 - (np.arange(100) + 0.5) / 100.0) ** (-1.0 / 1.4)
        values = np.diag(np.sqrt(evals)).astype(np.float32)
        theirs = run_oracle_with_powerlaw(
            monkeypatch,
            with_weights({"layer": (torch.nn.Linear(100, 100), values.astype(np.float64))}),
            fix_fingers="xmin_peak",
        )
        check(fitted(spectrum_of(values).evals, fix_fingers="xmin_peak"), theirs, "layer")

    def test_peak_where_its_range_is_wrong(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A peak at λ = 100, and a good power law from λ = 5 on: 5 lies above log10 of 95, not above 95."""
        evals = np.sort(np.concatenate([5.0 * pareto(1.6, 100, 3), 100.0 * 10.0 ** np.linspace(0.0, 0.01, 15)]))
        evals = evals[evals < 2e4]
        values = np.diag(np.sqrt(evals)).astype(np.float32)
        size = len(evals)
        theirs = run_oracle_with_powerlaw(
            monkeypatch,
            with_weights({"layer": (torch.nn.Linear(size, size), values.astype(np.float64))}),
            fix_fingers="xmin_peak",
        )
        ours = fitted(spectrum_of(values).evals, fix_fingers="xmin_peak").fit
        assert theirs.value("layer", "xmin") < 90.0
        assert 90.0 <= ours.xmin <= 155.0


class TestChoice:
    @pytest.mark.parametrize(
        ("options", "fit"),
        [
            ({}, fit_power_law),
            ({"fit": "power_law"}, fit_power_law),
            ({"xmax": "force"}, fit_bounded_power_law),
            ({"fit": "TPL"}, fit_truncated_power_law),
            ({"fit": "truncated_power_law"}, fit_truncated_power_law),
            ({"fit": "TPL", "xmax": "force"}, fit_truncated_power_law),
        ],
    )
    def test_law(self, options: dict[str, Any], fit: Callable[..., Any]) -> None:
        evals = evals_of("tall")
        ours = fitted(evals, **options)
        assert ours.fit == fit(evals)
        assert (ours.n_fingers, ours.raw_alpha, ours.n_ignored) == (None, None, 0)
        assert ours.num_pl_spikes == ours.fit.n_tail

    def test_default_is_the_plain_power_law(self) -> None:
        assert fit_tail(evals_of("tall")) == TailFit(fit=fit_power_law(evals_of("tall")))  # type: ignore[arg-type]

    def test_extended_is_truncated_near_the_peak(self) -> None:
        evals = evals_of("square")
        extended = fitted(evals, fit="E_TPL")
        assert extended == fitted(evals, fit="TPL", fix_fingers="xmin_peak")
        assert isinstance(extended.fit, TruncatedPowerLawFit)
        assert extended.fit.xmin > fitted(evals, fit="TPL").fit.xmin

    def test_largest_xmin(self) -> None:
        evals = evals_of("square")
        wide = fitted(evals, fix_fingers="xmin_peak", xmin_max=float(evals[-1]))
        peak = fitted(evals, fix_fingers="xmin_peak")
        assert wide.fit.D <= peak.fit.D
        failed = fit_tail(evals, TailOptions(fix_fingers="xmin_peak", xmin_max=1e-9))
        assert isinstance(failed, FitFailure)
        assert failed.reason is FitFailureReason.REFUSED

    @pytest.mark.parametrize(("xmax", "seed"), [(None, 0), ("force", 11)])
    def test_clipping_refits_what_is_left(self, xmax: str | None, seed: int) -> None:
        evals = spectrum_of(heavy_tailed(60, 60, seed=seed)).evals
        ours = fitted(evals, fix_fingers="clip_xmax", finger_thresh=0.4, xmax=xmax)
        law = fit_bounded_power_law if xmax else fit_power_law
        assert ours.n_fingers == 2
        assert ours.fit == law(evals[:-2])
        raw = law(evals)
        assert isinstance(raw, PowerLawFit)
        assert ours.raw_alpha == raw.alpha
        assert ours.num_pl_spikes == ours.fit.n_tail + 2

    def test_clipping_for_the_truncated_law_uses_the_power_law(self) -> None:
        evals = spectrum_of(heavy_tailed(60, 60, seed=0)).evals
        options = {"fix_fingers": "clip_xmax", "finger_thresh": 0.4}
        plain, truncated = fitted(evals, **options), fitted(evals, fit="TPL", **options)
        assert plain.n_fingers == 2
        assert (truncated.n_fingers, truncated.raw_alpha) == (plain.n_fingers, plain.raw_alpha)
        assert truncated.fit == fit_truncated_power_law(evals[:-2])

    def test_too_many_ignored(self) -> None:
        evals = evals_of("thin")
        assert isinstance(fit_tail(evals, TailOptions(xmax=-15)), TailFit)
        failed = fit_tail(evals, TailOptions(xmax=-16))
        assert isinstance(failed, FitFailure)
        assert failed.detail == "xmax=-16 would ignore more than half of the 30 eigenvalues"

    @pytest.mark.parametrize(
        "options", [{}, {"fit": "TPL"}, {"fit": "E_TPL"}, {"fix_fingers": "clip_xmax"}, {"xmax": "force"}, {"xmax": -1}]
    )
    @pytest.mark.parametrize(
        ("evals", "reason"),
        [
            (np.array([]), "too_few_eigenvalues"),
            (np.geomspace(1.0, 9.0, 20), "too_few_eigenvalues"),
            (np.full(60, 1e-7), "too_few_eigenvalues"),
            (np.full(60, 2.0), "no_spread"),
        ],
        ids=["empty", "below min_evals", "below the threshold", "constant"],
    )
    def test_degenerate(self, evals: NDArray[np.float64], reason: str, options: dict[str, Any]) -> None:
        fit = fit_tail(evals, TailOptions(min_evals=50, **options))
        assert isinstance(fit, FitFailure)
        assert fit.reason is FitFailureReason(reason)

    def test_min_evals_speaks_of_the_whole_spectrum(self) -> None:
        evals = evals_of("thin")
        assert isinstance(fit_tail(evals, TailOptions(min_evals=30, xmax=-5)), TailFit)
        assert isinstance(fit_tail(evals, TailOptions(min_evals=31)), FitFailure)

    def test_bad_evals(self) -> None:
        with pytest.raises(ValueError, match=r"^evals must be one-dimensional, ascending and finite"):
            fit_tail(np.array([2.0, 1.0] * 20))

    def test_records_are_values(self) -> None:
        ours = fitted(evals_of("tall"), fix_fingers="clip_xmax")
        assert pickle.loads(pickle.dumps(ours)) == ours
        options = TailOptions(fit="truncated_power_law")
        assert pickle.loads(pickle.dumps(options)) == options == TailOptions(fit="TPL")


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"fit": "LN"}, r"^fit must be one of 'PL', 'power_law', .* got 'LN'$"),
            ({"fit": None}, r"^fit must be one of"),
            ({"fix_fingers": "all"}, r"^fix_fingers must be None, 'xmin_peak' or 'clip_xmax', got 'all'$"),
            ({"fit": "E_TPL", "fix_fingers": "clip_xmax"}, r"^fit='E_TPL' keeps xmin near the peak"),
            ({"fix_fingers": "clip_xmax", "xmax": -2}, r"^fix_fingers='clip_xmax' and xmax=-2 both act"),
            ({"fix_fingers": "xmin_peak", "xmax": -2}, r"^fix_fingers='xmin_peak' and xmax=-2 both act"),
            ({"xmax": 0}, r"^xmax must be None, 'force' or a negative number .* got 0$"),
            ({"xmax": 3}, r"^xmax must be"),
            ({"xmax": True}, r"^xmax must be"),
            ({"xmax": False}, r"^xmax must be"),
            ({"xmax": -1.0}, r"^xmax must be"),
            ({"xmax": "auto"}, r"^xmax must be"),
            ({"max_fingers": 0}, r"^max_fingers must be an integer of at least 1, got 0$"),
            ({"max_fingers": 2.0}, r"^max_fingers must be"),
            ({"max_fingers": None}, r"^max_fingers must be"),
            ({"finger_thresh": 0.0}, r"^finger_thresh must be a positive number, got 0.0$"),
            ({"finger_thresh": float("nan")}, r"^finger_thresh must be"),
            ({"finger_thresh": True}, r"^finger_thresh must be"),
            ({"min_evals": 1}, r"^min_evals must be an integer of at least 2, got 1$"),
            ({"xmin_max": -1.0, "fix_fingers": "xmin_peak"}, r"^xmin_max must be None or a positive number, got -1.0$"),
            ({"xmin_max": float("inf"), "fit": "E_TPL"}, r"^xmin_max must be None or a positive number"),
            ({"xmin_max": 2.0}, r"^xmin_max bounds xmin near the peak: it needs"),
        ],
    )
    def test_impossible(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(OptionError, match=message):
            TailOptions(**options)

    @pytest.mark.parametrize(
        "options",
        [
            {"fix_fingers": "clip_xmax", "xmax": "force", "max_fingers": 1, "finger_thresh": 1},
            {"fit": "E_TPL", "fix_fingers": "xmin_peak", "xmin_max": 100},
            {"fit": "E_TPL", "xmax": -3},
            {"fit": "TPL", "fix_fingers": "clip_xmax"},
        ],
    )
    def test_possible(self, options: dict[str, Any]) -> None:
        evals = spectrum_of(heavy_tailed(60, 60, seed=0)).evals
        assert isinstance(fit_tail(evals, TailOptions(**options)), TailFit)
