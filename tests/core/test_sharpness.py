"""Taking traps out: on one matrix, on models, in law and beside the incumbent."""

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
from spectral.fits import FitFailure, FitFailureReason
from spectral.marchenko_pastur import MarchenkoPasturFit, fit_marchenko_pastur
from spectral.sharpness import (
    SeededPermutation,
    SharpenLayer,
    TrapEdge,
    clip_permuted,
    marchenko_pastur_edge,
    permute_elements,
    restore_elements,
    sharpen_model,
)
from spectral.spectrum import Spectrum
from spectral.truncation import drop_leading
from spectral.weights import as_weight_matrix
from tests.core.builders import heavy_tailed, spec_of, spectrum_of, with_singular_values
from tests.core.oracle import with_weights

SEEDS = st.integers(0, 2**32 - 1)


def noise(rows: int, columns: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal((rows, columns)) / np.sqrt(max(rows, columns))


def trapped(rows: int, columns: int, seed: int = 0, *, element: float = 8.0, signal: float = 12.0) -> Any:
    """Return noise, a delocalised direction stronger than any trap, and one element that makes a trap."""
    values = noise(rows, columns, seed) + with_singular_values(np.array([signal]), rows, columns, seed=seed)
    values[7, 9] = element
    return values


def singular_values(matrix: Any) -> Any:
    return np.linalg.svd(np.asarray(matrix, dtype=np.float64), compute_uv=False)


def permutation_of(matrix: Any, seed: int = 0) -> Any:
    return np.random.default_rng(seed).permutation(matrix.size)


class TestOneMatrix:
    @settings(max_examples=25, deadline=None)
    @given(shape=st.tuples(st.integers(2, 20), st.integers(2, 20)), seed=SEEDS, n_traps=st.integers(0, 19))
    def test_only_the_traps_of_the_permuted_matrix_change(
        self, shape: tuple[int, int], seed: int, n_traps: int
    ) -> None:
        matrix = heavy_tailed(*shape, seed=seed)
        n_traps = min(n_traps, min(shape) - 1)
        permutation = permutation_of(matrix, seed)
        before = singular_values(matrix.ravel()[permutation].reshape(shape))
        cleaned = clip_permuted(matrix, permutation=permutation, n_traps=n_traps)
        after = singular_values(cleaned.ravel()[permutation].reshape(shape))
        np.testing.assert_allclose(after, np.minimum(before, before[n_traps]), rtol=0.0, atol=1e-10 * before[0])
        if n_traps == 0:
            assert np.array_equal(cleaned, matrix)

    @settings(max_examples=25, deadline=None)
    @given(shape=st.tuples(st.integers(2, 20), st.integers(2, 20)), seed=SEEDS, threshold=st.floats(0.1, 20.0))
    def test_threshold(self, shape: tuple[int, int], seed: int, threshold: float) -> None:
        matrix = heavy_tailed(*shape, seed=seed)
        permutation = permutation_of(matrix, seed)
        cleaned = clip_permuted(matrix, permutation=permutation, threshold=threshold)
        after = singular_values(permute_elements(cleaned, permutation))
        assert after[0] <= threshold * (1.0 + 1e-9)
        again = clip_permuted(cleaned, permutation=permutation, threshold=threshold)
        np.testing.assert_allclose(again, cleaned, rtol=0.0, atol=1e-10 * np.abs(matrix).max())

    def test_both(self) -> None:
        """These many directions, and each to the threshold; one below it is not raised."""
        matrix = heavy_tailed(20, 12, seed=1)
        permutation = permutation_of(matrix)
        before = singular_values(permute_elements(matrix, permutation))
        threshold = 0.5 * float(before[2] + before[1])
        for n_traps, n_lowered in ((1, 1), (2, 2), (5, 2)):
            cleaned = clip_permuted(matrix, permutation=permutation, n_traps=n_traps, threshold=threshold)
            expected = np.sort(np.r_[[threshold] * n_lowered, before[n_lowered:]])[::-1]
            np.testing.assert_allclose(singular_values(permute_elements(cleaned, permutation)), expected, rtol=1e-9)

    def test_elements_return_to_their_places(self) -> None:
        matrix = np.arange(24.0).reshape(4, 6)
        permutation = permutation_of(matrix)
        permuted = permute_elements(matrix, permutation)
        assert permuted[1, 2] == matrix.ravel()[permutation[8]]
        assert not np.array_equal(permuted, matrix)
        assert np.array_equal(restore_elements(permuted, permutation), matrix)

    def test_a_view_and_its_type(self) -> None:
        matrix = np.moveaxis(heavy_tailed(20, 12, 3), 2, 0)[1].astype(np.float32)
        before = matrix.copy()
        cleaned = clip_permuted(matrix, permutation=permutation_of(matrix), n_traps=1)
        assert (cleaned.dtype.name, cleaned.shape) == ("float32", (20, 12))
        assert np.array_equal(matrix, before)

    def test_the_trap_is_lowered_and_the_signal_stays(self) -> None:
        matrix = trapped(100, 60)
        cleaned = clip_permuted(matrix, permutation=permutation_of(matrix), threshold=3.0)
        assert cleaned[7, 9] < 4.0
        _, singular, right = np.linalg.svd(cleaned, full_matrices=False)
        assert singular[0] == pytest.approx(12.0, rel=0.05)
        _, _, old_right = np.linalg.svd(np.where(matrix == 8.0, 0.0, matrix), full_matrices=False)
        assert abs(right[0] @ old_right[0]) > 0.95

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, "give n_traps, threshold or both"),
            ({"n_traps": 5}, r"n_traps must be from 0 to 4 for shape \(6, 5\), got 5"),
            ({"n_traps": -1}, r"n_traps must be from 0 to 4 for shape \(6, 5\), got -1"),
            ({"n_traps": -1, "threshold": 1.0}, "n_leading must be an integer of at least 0"),
            ({"threshold": -1.0}, "threshold must be a finite singular value"),
        ],
    )
    def test_impossible(self, options: dict[str, Any], message: str) -> None:
        matrix = heavy_tailed(6, 5)
        with pytest.raises(OptionError, match=message):
            clip_permuted(matrix, permutation=np.arange(30), **options)

    @pytest.mark.parametrize(
        "permutation", [np.arange(29), np.zeros(30, dtype=int), np.arange(1, 31), -np.arange(30), np.arange(30.0)]
    )
    def test_what_is_no_permutation(self, permutation: Any) -> None:
        with pytest.raises(OptionError, match="expected a permutation of 30 elements"):
            clip_permuted(heavy_tailed(6, 5), permutation=permutation, n_traps=1)


class TestSeededPermutation:
    def test_it_is_one(self) -> None:
        assert np.array_equal(np.sort(SeededPermutation()("layer", 0, 50)), np.arange(50))

    def test_it_depends_on_seed_name_and_slice_alone(self) -> None:
        first = SeededPermutation(seed=1)("layer", 0, 50)
        assert np.array_equal(first, SeededPermutation(seed=1)("layer", 0, 50))
        others = [
            SeededPermutation(seed=seed)(name, index, 50)
            for seed, name, index in (
                (2, "layer", 0),
                (1, "other", 0),
                (1, "layer", 1),
                (11, "layer", 0),
                (1, "1:layer", 0),
            )
        ]
        assert not any(np.array_equal(first, other) for other in others)

    def test_every_order_is_as_likely(self) -> None:
        """Of 6 orders of 3 elements, in 1200 draws: chi-squared with 5 degrees of freedom, 99.9% below 20.5."""
        draws = [tuple(SeededPermutation(seed=seed)("layer", 0, 3)) for seed in range(1200)]
        counts = np.unique(draws, axis=0, return_counts=True)[1]
        assert len(counts) == 6
        assert np.sum((counts - 200.0) ** 2 / 200.0) < 20.5


class TestModels:
    def test_edge_is_that_of_the_fit(self) -> None:
        spectrum = spectrum_of(noise(200, 100))
        fit = fit_marchenko_pastur(spectrum.evals, N=200, M=100)
        assert isinstance(fit, MarchenkoPasturFit)
        assert marchenko_pastur_edge(spectrum) == TrapEdge(above=fit.spike_threshold, clip_to=fit.bulk_max)

    def test_trap(self) -> None:
        arrays = {"trapped.weight": trapped(200, 100), "clean.weight": noise(150, 100, 1)}
        before = copy.deepcopy(arrays)
        result = sharpen_model(arrays)
        trapped_change, clean_change = result.changes
        assert (trapped_change.n_changed, clean_change.n_changed) == (1, 0)
        assert clean_change.reason is None
        assert np.array_equal(result.model["clean.weight"], before["clean.weight"])
        permutation = SeededPermutation()("trapped", 0, 20000)
        permuted = permute_elements(before["trapped.weight"], permutation)
        edge = marchenko_pastur_edge(spectrum_of(permuted))
        assert isinstance(edge, TrapEdge)
        expected = clip_permuted(
            before["trapped.weight"], permutation=permutation, n_traps=1, threshold=float(np.sqrt(edge.clip_to))
        )
        np.testing.assert_allclose(result.model["trapped.weight"], expected, rtol=0.0, atol=1e-12)
        assert np.array_equal(arrays["trapped.weight"], before["trapped.weight"])

    def test_slices_of_a_convolution_are_scaled_as_their_spectrum_is(self) -> None:
        """A rule in the scale of the spectrum (√½ on every slice) clips σ in the scale of the weights."""
        values = noise(40, 30, 1)[:, :, None, None] * np.ones((1, 1, 2, 1))
        values[3, 4, 1, 0] = 20.0
        # In the scale of the spectrum no trap; its square would be one.
        values[3, 4, 0, 0] = 12.0
        seen = []

        def edge(spectrum: Spectrum) -> TrapEdge:
            seen.append(spectrum)
            return TrapEdge(above=0.5 * 15.0**2, clip_to=0.5 * 3.0**2)

        result = sharpen_model({"conv.weight": values}, edge=edge)
        (change,) = result.changes
        assert change.n_changed == 1
        assert seen[0].rf == 2
        assert seen[0].evals[-1] == pytest.approx(0.5 * 20.0**2, rel=0.05)
        new = result.model["conv.weight"]
        assert np.array_equal(new[:, :, 0, 0], values[:, :, 0, 0])
        permuted = permute_elements(new[:, :, 1, 0], SeededPermutation()("conv", 1, 1200))
        assert singular_values(permuted)[0] == pytest.approx(3.0)

    def test_idempotent(self) -> None:
        def edge(_: Spectrum) -> TrapEdge:
            return TrapEdge(above=2.8**2, clip_to=2.6**2)

        once = sharpen_model({"layer.weight": trapped(200, 100)}, edge=edge)
        twice = sharpen_model(once.model, edge=edge)
        assert once.changes[0].n_changed == 1
        assert twice.changes[0].n_changed == 0
        assert np.array_equal(twice.model["layer.weight"], once.model["layer.weight"])

    def test_seeds_workers_and_order(self) -> None:
        arrays = {f"layer{index}.weight": trapped(60, 40, index) for index in range(3)}
        first = sharpen_model(arrays, seed=3, n_workers=1)
        for other in (
            sharpen_model(arrays, seed=3, n_workers=2),
            sharpen_model(dict(reversed(arrays.items())), seed=3),
        ):
            for name, values in first.model.items():
                assert np.array_equal(other.model[name], values)
        assert not np.array_equal(sharpen_model(arrays, seed=4).model["layer0.weight"], first.model["layer0.weight"])

    def test_other_permutations(self) -> None:
        """With the identity for a permutation the spikes of the weights themselves are clipped."""
        values = trapped(200, 100)
        result = sharpen_model({"layer.weight": values}, permute=lambda name, index, size: np.arange(size))
        assert result.changes[0].n_changed == 2
        assert singular_values(result.model["layer.weight"])[0] < 3.0

    @pytest.mark.parametrize(
        ("values", "reason"),
        [
            (np.full((12, 9), np.inf), "108 of 108 values are NaN or infinite"),
            (np.zeros((12, 9)), "all 108 values are zero"),
        ],
    )
    def test_without_a_spectrum(self, values: Any, reason: str) -> None:
        result = sharpen_model({"layer.weight": values})
        assert reason in (result.changes[0].reason or "")
        assert np.array_equal(result.model["layer.weight"], values)

    def test_without_an_edge(self) -> None:
        def edge(_: Spectrum) -> FitFailure:
            return FitFailure(reason=FitFailureReason.REFUSED, detail="no bulk")

        result = sharpen_model({"layer.weight": trapped(60, 40)}, edge=edge)
        assert result.changes[0].reason == "no bulk"

    def test_no_convergence(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: Any, **__: Any) -> Any:
            raise np.linalg.LinAlgError("did not converge")

        values = trapped(60, 40)
        transform = SharpenLayer(edge=marchenko_pastur_edge, permute=SeededPermutation())
        matrix = as_weight_matrix(spec_of(values), values)
        monkeypatch.setattr(np.linalg, "svd", fail)
        failure = transform(matrix)
        assert isinstance(failure, FitFailure)
        assert failure.reason is FitFailureReason.NO_CONVERGENCE

    @pytest.mark.parametrize(
        ("above", "clip_to"), [(1.0, 2.0), (1.0, -1.0), (np.nan, 0.0), (np.inf, 1.0), (1.0, np.nan)]
    )
    def test_impossible_edge(self, above: float, clip_to: float) -> None:
        with pytest.raises(OptionError, match="expected 0 <= clip_to <= above"):
            TrapEdge(above=above, clip_to=clip_to)


def to_zero(spectrum: Spectrum) -> TrapEdge | FitFailure:
    """The incumbent's way: what sticks out is not clipped but removed."""
    edge = marchenko_pastur_edge(spectrum)
    return edge if isinstance(edge, FitFailure) else TrapEdge(above=edge.above, clip_to=0.0)


class TestParity:
    """The incumbent announces permute, cut, permute back; its parts can be put together so, though it does not."""

    def test_its_parts_put_together(self) -> None:
        import weightwatcher
        from weightwatcher.RMT_Util import unpermute_matrix

        values = trapped(80, 50)
        permutation = SeededPermutation()("layer", 0, values.size)
        permuted = values.ravel()[permutation].reshape(values.shape)
        cut = weightwatcher.WeightWatcher().smooth_W_alt(permuted, -1, "accurate")
        expected = unpermute_matrix(cut, permutation)
        ours = sharpen_model({"layer.weight": values}, edge=to_zero).model["layer.weight"]
        np.testing.assert_allclose(ours, expected, rtol=0.0, atol=1e-6 * np.abs(values).max())

    def test_number_of_traps_in_distribution(self) -> None:
        """12 draws each, of 8 borderline elements: theirs from numpy's own random state, ours from seeds."""
        values = noise(50, 36, 3)
        values[np.arange(8), np.arange(8)] = np.linspace(1.4, 2.2, 8)
        theirs = [oracle_traps(values) for _ in range(12)]
        ours = [sharpen_model({"layer.weight": values}, seed=seed).changes[0].n_changed for seed in range(12)]
        assert 0 < np.mean(ours) < 8
        spread = np.sqrt((np.var(theirs) + np.var(ours)) / 12)
        assert abs(np.mean(theirs) - np.mean(ours)) <= 4.0 * spread + 0.05


def oracle_traps(values: Any) -> int:
    """Permute with the incumbent and count what it finds above its bulk."""
    import weightwatcher

    model = with_weights({"layer": (torch.nn.Linear(values.shape[1], values.shape[0]), values)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        watcher = weightwatcher.WeightWatcher(model=model)
        params = {**weightwatcher.weightwatcher.DEFAULT_PARAMS, "layers": []}
        (layer,) = [
            layer
            for layer in watcher.make_layer_iterator(model=model, params=params)
            if not layer.skipped and layer.has_weights
        ]
        watcher.apply_permute_W(layer, params)
        watcher.apply_esd(layer, params)
        watcher.apply_mp_fit(layer, random=False, params=params)
    return int(layer.num_spikes)


class TestWhereTheIncumbentIsWrong:
    def test_it_cuts_the_matrix_that_was_not_permuted(self) -> None:
        """It counts the traps of the permuted weights, then removes as many directions of the weights themselves."""
        import weightwatcher

        values = trapped(120, 80)
        model = with_weights({"layer": (torch.nn.Linear(80, 120), values)})
        before = model.state_dict()["layer.weight"].numpy().astype(np.float64)
        theirs = copy.deepcopy(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            weightwatcher.WeightWatcher(model=theirs).SVDSharpness(model=theirs)
        damaged = theirs.state_dict()["layer.weight"].numpy()
        np.testing.assert_allclose(damaged, drop_leading(before, 1), atol=1e-4)
        # The signal is gone and the trap is there.
        assert singular_values(damaged)[0] == pytest.approx(singular_values(before)[1], rel=1e-3)
        assert oracle_traps(damaged) == 1
        result = sharpen_model(model)
        ours = result.model.state_dict()["layer.weight"].numpy()
        assert result.changes[0].n_changed == 1
        assert singular_values(ours)[0] == pytest.approx(12.0, rel=0.05)
        assert ours[7, 9] < 0.5 * before[7, 9]
