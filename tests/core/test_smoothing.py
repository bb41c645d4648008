"""Smoothing of layers and models: the rules, the laws, the incumbent beside it, and what is left untouched."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral.errors import OptionError
from spectral.fits import FitFailure
from spectral.power_law import PowerLawFit, fit_power_law
from spectral.smoothing import (
    SMOOTHING_METHODS,
    KeepByAlpha,
    KeepDetX,
    KeepPowerLawTail,
    KeepShare,
    KeepSpikes,
    SmoothLayer,
    keep_rule,
    smooth_model,
)
from spectral.transforms import LayerChange, Replacement
from spectral.truncation import drop_leading, keep_leading
from spectral.weights import as_weight_matrix
from tests.core.builders import heavy_tailed, spec_of, spectrum_of, with_singular_values
from tests.core.oracle import with_weights

TOLERANCE = 1e-6


def smoothed(values: Any, **options: Any) -> tuple[Any, LayerChange]:
    """Smooth one tensor."""
    result = smooth_model({"layer.weight": values}, **options)
    (change,) = result.changes
    return result.model["layer.weight"], change


def rank(matrix: Any) -> int:
    singular = np.linalg.svd(np.asarray(matrix, dtype=np.float64), compute_uv=False)
    return int(np.count_nonzero(singular > 1e-5 * singular[0]))


class TestLaws:
    @settings(max_examples=20, deadline=None)
    @given(shape=st.tuples(st.integers(2, 30), st.integers(2, 30)), seed=st.integers(0, 2**32 - 1))
    def test_keeping_all_is_the_identity(self, shape: tuple[int, int], seed: int) -> None:
        values = heavy_tailed(*shape, seed=seed)
        result, change = smoothed(values, method="svd", percent=1.0)
        assert np.array_equal(result, values)
        assert change == LayerChange(spec=change.spec)

    @settings(max_examples=20, deadline=None)
    @given(
        shape=st.tuples(st.integers(5, 30), st.integers(5, 30)),
        seed=st.integers(0, 2**32 - 1),
        percent=st.floats(0.25, 0.99),
    )
    def test_rank_is_what_was_kept(self, shape: tuple[int, int], seed: int, percent: float) -> None:
        values = heavy_tailed(*shape, seed=seed)
        result, change = smoothed(values, method="svd", percent=percent)
        n_keep = int(percent * min(shape))
        assert change.n_changed == min(shape) - n_keep
        assert np.linalg.matrix_rank(result) == n_keep
        np.testing.assert_allclose(result, keep_leading(values, n_keep), rtol=0.0, atol=1e-12 * np.abs(values).max())

    @settings(max_examples=10, deadline=None)
    @given(seed=st.integers(0, 2**32 - 1), percent=st.floats(0.1, 0.9))
    def test_idempotent(self, seed: int, percent: float) -> None:
        once, _ = smoothed(heavy_tailed(30, 20, seed=seed), method="svd", percent=percent)
        _, change = smoothed(once, method="svd", percent=percent)
        assert change.relative_change < 1e-12

    def test_a_negative_share_is_what_is_left(self) -> None:
        values = heavy_tailed(30, 20, seed=1)
        kept, _ = smoothed(values, method="svd", percent=0.25)
        left, change = smoothed(values, method="svd", percent=-0.25)
        assert change.n_changed == 5
        np.testing.assert_allclose(kept + left, values, rtol=0.0, atol=1e-12 * np.abs(values).max())


class TestRules:
    def test_power_law_tail(self) -> None:
        values = heavy_tailed(100, 60, seed=2)
        spectrum = spectrum_of(values)
        fit = fit_power_law(spectrum.evals)
        assert isinstance(fit, PowerLawFit)
        assert KeepPowerLawTail()(spectrum) == np.count_nonzero(spectrum.evals >= fit.xmin)
        result, change = smoothed(values, method="alpha_min")
        assert rank(result) == 60 - change.n_changed == fit.n_tail

    def test_spikes(self) -> None:
        noise = np.random.default_rng(0).standard_normal((300, 100)) / np.sqrt(300)
        values = noise + with_singular_values(np.array([9.0, 8.0, 7.0]), 300, 100)
        assert KeepSpikes()(spectrum_of(values)) == 3
        result, _ = smoothed(values, method="rmt")
        assert rank(result) == 3

    def test_det_x(self) -> None:
        values = heavy_tailed(100, 60, seed=2)
        evals = spectrum_of(values).evals
        x = evals / evals.mean()
        expected = next(n for n in range(1, 61) if np.prod(x[-n:]) < 1.0)
        assert KeepDetX()(spectrum_of(values)) == expected
        result, _ = smoothed(values)
        assert rank(result) == expected

    def test_by_alpha(self) -> None:
        heavy = spectrum_of(heavy_tailed(100, 60, seed=2))
        noise = spectrum_of(
            np.random.default_rng(0).standard_normal((300, 100)) / np.sqrt(300)
            + with_singular_values(np.array([1.75]), 300, 100)
        )
        alphas = [fit_power_law(spectrum.evals) for spectrum in (heavy, noise)]
        assert [fit.alpha > 6.0 for fit in alphas if isinstance(fit, PowerLawFit)] == [False, True]
        assert KeepByAlpha()(heavy) == KeepDetX()(heavy) != KeepSpikes()(heavy)
        assert KeepByAlpha()(noise) == KeepSpikes()(noise) == 1

    @pytest.mark.parametrize("percent", [0.0, -1.0, 1.5, -2.0, np.nan])
    def test_impossible_share(self, percent: float) -> None:
        with pytest.raises(OptionError, match="percent must be a fraction"):
            smooth_model({}, method="svd", percent=percent)

    def test_unknown_method(self) -> None:
        with pytest.raises(OptionError, match="method must be one of svd, detX, alpha_min, rmt, auto, got 'lambda'"):
            smooth_model({}, method="lambda")

    @pytest.mark.parametrize("method", SMOOTHING_METHODS)
    def test_by_name(self, method: str) -> None:
        values = heavy_tailed(100, 60, seed=2)
        by_name, change = smoothed(values, method=method, percent=0.5)
        by_rule, _ = smoothed(values, method=keep_rule(method, percent=0.5))
        assert change.n_changed > 0
        assert np.array_equal(by_name, by_rule)


class TestSlices:
    def test_pooled_slices_get_equal_parts_rounded_up(self) -> None:
        values = heavy_tailed(12, 10, 3, 3, seed=1)
        result, change = smoothed(values, method="svd", percent=0.33)
        # int(0.33 * 90) = 29 directions over 9 slices.
        assert change.n_changed == 9 * (10 - 4)
        for i in range(3):
            for j in range(3):
                np.testing.assert_allclose(result[:, :, i, j], keep_leading(values[:, :, i, j], 4), atol=1e-12)

    def test_pooled_slices_lose_equal_parts_rounded_down(self) -> None:
        values = heavy_tailed(12, 10, 3, 3, seed=1)
        result, change = smoothed(values, method="svd", percent=-0.33)
        assert change.n_changed == 9 * 3
        np.testing.assert_allclose(result[:, :, 1, 2], drop_leading(values[:, :, 1, 2], 3), atol=1e-12)

    def test_slice_by_slice(self) -> None:
        """A slice of rank one and one of many directions: together each keeps the mean of their tails."""
        values = np.stack([with_singular_values(np.geomspace(1e-2, 1.0, 20) ** power, 30, 20) for power in (1, 3)], 2)
        layers = [spectrum_of(values[:, :, index]) for index in range(2)]
        counts = [KeepDetX()(spectrum) for spectrum in layers]
        assert counts[0] != counts[1]
        result, change = smoothed(values, pool=False)
        assert [rank(result[:, :, index]) for index in range(2)] == counts
        assert change.n_changed == 40 - sum(counts)  # type: ignore[arg-type]

    def test_one_slice_without_a_rule_leaves_the_layer(self) -> None:
        values = heavy_tailed(12, 10, 3, seed=1)
        values[:, :, 1] = 0.0
        result, change = smoothed(values, pool=False)
        assert np.array_equal(result, values)
        assert change.reason == "slice 1: all 120 values are zero"


class TestWhatIsLeftUntouched:
    @pytest.mark.parametrize(
        ("values", "options", "reason"),
        [
            (np.full((12, 9), np.nan), {}, "108 of 108 values are NaN or infinite, the first at layer.weight[0, 0]"),
            (np.zeros((12, 9)), {}, "all 108 values are zero"),
            (np.full((12, 9), 1e200), {}, "the squares of the values exceed the range of float64"),
            (np.eye(9), {}, None),
            (heavy_tailed(40, 30) * 1e-8, {"method": "alpha_min"}, "0 eigenvalues above 1e-05"),
            (heavy_tailed(12, 9), {"method": "svd", "percent": 0.1}, "chose none of the 9 singular directions"),
            (heavy_tailed(12, 9), {"method": "svd", "percent": -0.1}, "chose none of the 9 singular directions"),
        ],
        ids=["NaN", "zero", "overflow", "equal", "no fit", "nothing kept", "nothing dropped"],
    )
    def test_reason(self, values: Any, options: dict[str, Any], reason: str | None) -> None:
        result, change = smoothed(values, **options)
        assert np.array_equal(result, values, equal_nan=True)
        assert change.reason is not None
        assert reason is None or reason in change.reason
        assert (change.n_changed, change.relative_change) == (0, 0.0)

    def test_no_convergence(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: Any, **__: Any) -> Any:
            raise np.linalg.LinAlgError("did not converge")

        values = heavy_tailed(12, 9)
        matrix = as_weight_matrix(spec_of(values), values)
        transform = SmoothLayer(rule=KeepShare(percent=0.5))
        assert isinstance(transform(matrix), Replacement)
        monkeypatch.setattr(np.linalg, "svd", fail)
        failure = transform(matrix)
        assert isinstance(failure, FitFailure)
        assert failure.detail == "LAPACK found no vectors: did not converge"

    def test_other_layers_go_on(self) -> None:
        broken = heavy_tailed(30, 20, seed=1)
        broken[2, 3] = np.nan
        result = smooth_model({"broken.weight": broken, "good.weight": heavy_tailed(30, 20, seed=2)})
        assert [bool(change.reason) for change in result.changes] == [True, False]
        assert rank(result.model["good.weight"]) < 20


def gapped(out: int, into: int, n_large: int, seed: int) -> Any:
    """Return a matrix whose leading singular values stand apart: there the incumbent's randomised SVD is exact."""
    size = min(out, into)
    singular = np.concatenate([np.geomspace(9.0, 3.0, n_large), np.geomspace(3e-4, 1e-4, size - n_large)])
    return with_singular_values(singular, out, into, seed=seed)


def oracle_smooth(model: Any, **options: Any) -> dict[str, Any]:
    """Smooth a copy with the incumbent and return its weights."""
    import weightwatcher

    theirs = copy.deepcopy(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weightwatcher.WeightWatcher(model=theirs).SVDSmoothing(model=theirs, **options)
    return {name: value.numpy() for name, value in theirs.state_dict().items() if name.endswith("weight")}


def differences(model: Any, theirs: dict[str, Any], **options: Any) -> dict[str, float]:
    """‖ours - theirs‖ / ‖W‖ per weight."""
    ours = smooth_model(model, **options).model.state_dict()
    return {
        name: float(np.linalg.norm(ours[name].numpy() - theirs[name]) / np.linalg.norm(old.numpy()))
        for name, old in model.state_dict().items()
        if name in theirs
    }


def _linear(values: Any) -> tuple[Any, Any]:
    return torch.nn.Linear(values.shape[1], values.shape[0]), values


def _conv(out: int, into: int, kernel: tuple[int, int], n_large: int) -> tuple[Any, Any]:
    blocks = [gapped(out, into, n_large, seed) for seed in range(kernel[0] * kernel[1])]
    return torch.nn.Conv2d(into, out, kernel), np.stack(blocks, axis=2).reshape(out, into, *kernel)


def gapped_network() -> Any:
    return with_weights(
        {
            "tall": _linear(gapped(120, 60, 30, 1)),
            "wide": _linear(gapped(50, 140, 25, 2)),
            "square": _linear(gapped(70, 70, 35, 3)),
            "conv": _conv(30, 20, (2, 3), 10),
            "oblong": _conv(16, 36, (3, 1), 8),
            "table": (torch.nn.Embedding(150, 40), gapped(150, 40, 20, 4)),
        }
    )


def small_network() -> Any:
    """So few directions that the incumbent's ten extra ones make it exact, whether the spectrum has a gap or not."""

    def values(out: int, into: int, seed: int) -> Any:
        size = min(out, into)
        return with_singular_values(np.geomspace(3.0, 0.1, size) ** (1 + seed % 2), out, into, seed=seed)

    kernel = np.stack([values(12, 10, seed) for seed in range(9)], axis=2).reshape(12, 10, 3, 3)
    return with_weights(
        {
            "tall": _linear(values(30, 10, 1)),
            "wide": _linear(values(9, 25, 2)),
            "square": _linear(values(10, 10, 3)),
            "conv": (torch.nn.Conv2d(10, 12, 3), kernel),
            "table": (torch.nn.Embedding(40, 10), values(40, 10, 5)),
        }
    )


class TestParity:
    @pytest.mark.parametrize(
        "options",
        [
            {"method": "svd", "percent": 0.5},
            {"method": "svd", "percent": -0.5},
        ],
        ids=str,
    )
    def test_where_the_spectrum_has_a_gap(self, options: dict[str, Any]) -> None:
        model = gapped_network()
        found = differences(model, oracle_smooth(model, **options), **options)
        assert len(found) == 6
        assert max(found.values()) < TOLERANCE, found
        assert all(change.n_changed > 0 for change in smooth_model(model, **options).changes)

    @pytest.mark.parametrize(
        "options",
        [
            {"method": "svd", "percent": 0.8},
            {"method": "svd", "percent": 0.3},
            {"method": "svd", "percent": -0.3},
            {"method": "alpha_min"},
            {"method": "detX"},
            {"method": "auto"},
        ],
        ids=str,
    )
    def test_small_layers_of_any_spectrum(self, options: dict[str, Any]) -> None:
        model = small_network()
        found = differences(model, oracle_smooth(model, **options), **options)
        assert len(found) == 5
        assert max(found.values()) < TOLERANCE, found
        assert any(change.n_changed > 0 for change in smooth_model(model, **options).changes)

    def test_spikes_above_noise(self) -> None:
        def spiked(out: int, into: int, seed: int) -> Any:
            noise = np.random.default_rng(seed).standard_normal((out, into)) / np.sqrt(max(out, into))
            return noise + with_singular_values(np.array([9.0, 8.0, 7.0]), out, into, seed=seed)

        kernel = np.stack([spiked(40, 30, seed) for seed in range(4)], axis=2).reshape(40, 30, 2, 2)
        model = with_weights(
            {
                "tall": _linear(spiked(120, 60, 1)),
                "wide": _linear(spiked(50, 140, 2)),
                "conv": (torch.nn.Conv2d(30, 40, 2), kernel),
            }
        )
        found = differences(model, oracle_smooth(model, method="rmt"), method="rmt")
        assert max(found.values()) < TOLERANCE, found
        assert [change.n_changed for change in smooth_model(model, method="rmt").changes] == [57, 47, 4 * 27]

    @pytest.mark.parametrize("method", ["alpha_min", "detX", "rmt"])
    def test_same_number_of_directions(self, method: str) -> None:
        """Where its randomised SVD is inexact, its weights still have the rank that ours have."""
        model = with_weights(
            {
                "tall": _linear(heavy_tailed(160, 70, seed=1) / 8.0),
                "wide": _linear(heavy_tailed(60, 180, seed=2) / 8.0),
                "square": _linear(heavy_tailed(80, 80, seed=3) / 8.0),
            }
        )
        theirs = oracle_smooth(model, method=method)
        for change in smooth_model(model, method=method).changes:
            assert rank(theirs[change.spec.tensor]) == change.spec.n_evals - change.n_changed


class TestWhereTheIncumbentIsWrong:
    """Ours right, beside its wrong."""

    def test_its_truncation_is_not_the_best(self) -> None:
        """It keeps the right number of directions, but not the leading ones (a randomised SVD, seven iterations)."""
        values = np.random.default_rng(0).standard_normal((200, 200)) / 14.0
        model = with_weights({"layer": _linear(values)})
        theirs = oracle_smooth(model, method="svd", percent=0.2)["layer.weight"]
        ours = smooth_model(model, method="svd", percent=0.2).model.state_dict()["layer.weight"].numpy()
        singular = np.linalg.svd(values, compute_uv=False)
        best = float(np.linalg.norm(singular[40:]))
        assert rank(theirs) == rank(ours) == 40
        assert np.linalg.norm(values - ours) == pytest.approx(best, rel=1e-6)
        assert np.linalg.norm(values - theirs) > best * (1.0 + 1e-4)
        assert np.linalg.norm(ours - theirs) > 0.02 * np.linalg.norm(values)

    def test_a_failed_fit_takes_away_the_leading_direction(self) -> None:
        """-1 stands for no fit there, and a negative number for that many leading directions to remove."""
        values = heavy_tailed(64, 40, seed=3) * 1e-8
        model = with_weights({"layer": _linear(values)})
        theirs = oracle_smooth(model, method="alpha_min")["layer.weight"]
        np.testing.assert_allclose(theirs, drop_leading(values, 1), atol=1e-6 * np.abs(values).max())
        result = smooth_model(model, method="alpha_min")
        assert "eigenvalues above 1e-05" in (result.changes[0].reason or "")
        assert torch.equal(result.model.state_dict()["layer.weight"], model.state_dict()["layer.weight"])

    def test_a_refused_bulk_is_none(self) -> None:
        """Where no bulk fits, it takes the smallest of its grid and cuts there."""
        values = with_singular_values(np.geomspace(3.0, 0.1, 10) ** 2, 30, 10, seed=1)
        model = with_weights({"layer": _linear(values)})
        assert rank(oracle_smooth(model, method="rmt")["layer.weight"]) == 3
        (change,) = smooth_model(model, method="rmt").changes
        assert (change.reason or "").startswith("no bulk of Q = 3 holds the mode")

    def test_it_changes_the_type_and_the_caller(self) -> None:
        values = heavy_tailed(40, 20, seed=1) / 5.0
        model = with_weights({"layer": _linear(values)})
        assert oracle_smooth(model, method="svd", percent=-0.2)["layer.weight"].dtype == np.float64
        half = copy.deepcopy(model).half()
        assert oracle_smooth(half, method="svd", percent=0.2)["layer.weight"].dtype == np.float32
        for kind in (model, half):
            before = copy.deepcopy(kind.state_dict())
            for percent in (0.2, -0.2):
                new = smooth_model(kind, method="svd", percent=percent).model.state_dict()["layer.weight"]
                assert new.dtype == before["layer.weight"].dtype
            assert torch.equal(kind.state_dict()["layer.weight"], before["layer.weight"])

    def test_an_unknown_method_is_the_percentage(self) -> None:
        values = heavy_tailed(30, 10, seed=1)
        model = with_weights({"layer": _linear(values)})
        theirs = oracle_smooth(model, method="no such method", percent=0.5)["layer.weight"]
        assert rank(theirs) == 5
        with pytest.raises(OptionError, match="method must be one of"):
            smooth_model(model, method="no such method", percent=0.5)
