"""Eigenvector measures: against one vector at a time, the incumbent, and what they must not depend on."""

from __future__ import annotations

import pickle
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral import eigenvectors
from spectral.analysis import analyze
from spectral.eigenvectors import (
    EIGENVECTOR_METRICS,
    EigenvectorStatistics,
    divide_at,
    eigenvector_metrics,
    eigenvector_statistics,
    measure_vectors,
    vector_metrics,
)
from spectral.errors import OptionError
from spectral.fits import FitFailure, FitFailureReason
from spectral.loaders import open_model
from spectral.power_law import PowerLawFit, fit_power_law
from spectral.weights import as_weight_matrix
from tests.core.builders import heavy_tailed, spectrum_of, with_singular_values
from tests.core.oracle import run_oracle, with_weights

if TYPE_CHECKING:
    from collections.abc import Iterator

TOLERANCE = 1e-6


@contextmanager
def quiet() -> Iterator[None]:
    """What the incumbent warns of is its own affair."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def slow_measures(vector: Any) -> tuple[float, float, float]:
    """Return the three measures of one vector, straight from their definitions."""
    magnitudes = np.abs(vector)
    counts, edges = np.histogram(magnitudes, bins=100)
    density = counts / (len(vector) * np.diff(edges)) + 1e-10
    share = density / density.sum()
    entropy = -sum(p * np.log(p) for p in share)
    return (
        float(entropy),
        float(np.linalg.norm(vector, 1) / np.linalg.norm(vector, np.inf)),
        float(np.linalg.norm(vector, 2) / np.linalg.norm(vector, 4)),
    )


def slow_metrics(slices: Any, scale: float, n_tail: int) -> dict[str, float]:
    """Split at a number of eigenvalues, one slice and one vector at a time, from an SVD."""
    rows = []
    for block in slices:
        # X = WWᵀ unless W is tall, so that a square matrix is measured on its left side.
        tall = block if block.shape[0] > block.shape[1] else block.T
        _, singular, right = np.linalg.svd(tall * scale, full_matrices=False)
        rows += [(value**2, *slow_measures(vector)) for value, vector in zip(singular, right, strict=True)]
    ordered = np.array(sorted(rows))
    result = {}
    for column, measure in enumerate(("vec_entropy", "loc_ratio", "part_ratio"), start=1):
        for part, values in (("bulk", ordered[:-n_tail, column]), ("tail", ordered[-n_tail:, column])):
            result[f"{part}_mean_{measure}"] = float(values.mean())
            result[f"{part}_var_{measure}"] = float(values.var())
    return result


def fit_of(values: Any) -> PowerLawFit:
    fit = fit_power_law(spectrum_of(values).evals)
    assert isinstance(fit, PowerLawFit)
    return fit


def statistics_of(slices: Any, scale: float = 1.0) -> EigenvectorStatistics:
    statistics = eigenvector_statistics(slices, scale)
    assert isinstance(statistics, EigenvectorStatistics)
    return statistics


class TestAgainstTheDefinition:
    @settings(max_examples=25, deadline=None)
    @given(seed=st.integers(0, 2**32 - 1), length=st.integers(2, 400), n_vectors=st.integers(1, 5))
    def test_measures(self, seed: int, length: int, n_vectors: int) -> None:
        vectors = heavy_tailed(n_vectors, length, seed=seed)
        expected = np.array([slow_measures(vector) for vector in vectors]).T
        np.testing.assert_allclose(measure_vectors(vectors), expected, rtol=1e-9, atol=1e-9)

    def test_blocks_do_not_matter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        vectors = heavy_tailed(37, 11, seed=1)
        whole = measure_vectors(vectors)
        monkeypatch.setattr(eigenvectors, "_BLOCK_VALUES", 50)
        assert np.array_equal(measure_vectors(vectors), whole)

    @pytest.mark.parametrize("shape", [(60, 40), (40, 60), (50, 50), (20, 24, 3, 3)])
    def test_metrics(self, shape: tuple[int, ...]) -> None:
        values = heavy_tailed(*shape, seed=3)
        (layer,) = analyze({"layer.weight": values}).layers
        slices = as_weight_matrix(layer.spec, values).slices
        assert isinstance(layer.fit, PowerLawFit)
        metrics = eigenvector_metrics(slices, layer.spec.scale, layer.fit.xmin)
        assert isinstance(metrics, dict)
        assert tuple(metrics) == EIGENVECTOR_METRICS
        assert metrics == pytest.approx(slow_metrics(slices, layer.spec.scale, layer.fit.n_tail), rel=TOLERANCE)

    def test_table_is_ascending_and_read_only(self) -> None:
        statistics = statistics_of(heavy_tailed(3, 20, 30, seed=5))
        assert np.all(np.diff(statistics.evals) >= 0.0)
        assert all(len(getattr(statistics, name)) == 60 for name in statistics.__slots__)
        with pytest.raises(ValueError, match="read-only"):
            statistics.entropy[0] = 1.0

    def test_pickle(self) -> None:
        statistics = statistics_of(heavy_tailed(1, 20, 30, seed=5))
        copied = pickle.loads(pickle.dumps(statistics))
        assert np.array_equal(copied.localization, statistics.localization)
        assert not copied.localization.flags.writeable

    def test_each_slice_keeps_its_own_vectors(self) -> None:
        """Slices of known vectors: a diagonal matrix has single entries, its rotation spreads them."""
        localised = np.diag(np.arange(1.0, 9.0))
        slices = np.stack([localised, localised @ np.linalg.qr(heavy_tailed(8, 8, seed=1))[0] * 10.0])
        statistics = statistics_of(slices)
        # X = WWᵀ on the smaller (or equal) side: the rotation on the right does not show.
        np.testing.assert_allclose(statistics.localization, 1.0)
        np.testing.assert_allclose(statistics_of(slices.transpose(0, 2, 1)).localization[:1], 1.0)
        assert statistics_of(slices.transpose(0, 2, 1)).localization[-1] > 1.5


class TestLaws:
    """On a simple spectrum the measures depend on nothing but the lines that the eigenvectors span."""

    @settings(max_examples=15, deadline=None)
    @given(seed=st.integers(0, 2**32 - 1), scale=st.floats(1e-3, 1e3))
    def test_scale(self, seed: int, scale: float) -> None:
        slices = heavy_tailed(1, 30, 20, seed=seed, degrees=5.0)
        plain, scaled = statistics_of(slices), statistics_of(slices, scale)
        np.testing.assert_allclose(scaled.evals, plain.evals * scale**2, rtol=1e-6)
        np.testing.assert_allclose(scaled.participation, plain.participation, rtol=1e-5)

    def test_signs_do_not_matter(self) -> None:
        vectors = heavy_tailed(6, 50, seed=2)
        signs = np.random.default_rng(1).choice([-1.0, 1.0], size=vectors.shape)
        assert np.array_equal(measure_vectors(vectors * signs), measure_vectors(vectors))

    def test_transposed(self) -> None:
        slices = heavy_tailed(2, 30, 20, seed=4)
        plain, turned = statistics_of(slices), statistics_of(slices.transpose(0, 2, 1))
        for name in plain.__slots__:
            np.testing.assert_allclose(getattr(turned, name), getattr(plain, name), rtol=1e-9)

    @pytest.mark.parametrize(
        ("vector", "localization", "participation"),
        [([0.0, 0.0, 3.0, 0.0], 1.0, 1.0), ([2.0] * 16, 16.0, 2.0), ([1e200, -1e200], 2.0, 2.0**0.25)],
        ids=["a single entry", "spread evenly", "fourth powers overflow"],
    )
    def test_extremes(self, vector: list[float], localization: float, participation: float) -> None:
        entropy, *ratios = measure_vectors(np.array([vector]))[:, 0]
        assert ratios == pytest.approx([localization, participation])
        assert 0.0 <= entropy < 1.0

    def test_equal_magnitudes_but_for_rounding(self) -> None:
        """A range of one rounding error cannot be divided into bins: numpy 2 refuses, and the incumbent."""
        vector = np.array([[0.7, 0.7 * (1 + 2e-16), -0.7]])
        assert abs(vector[0, 1]) > abs(vector[0, 0])
        assert measure_vectors(vector)[0, 0] == pytest.approx(0.0, abs=1e-8)

    def test_same_bits_twice(self) -> None:
        slices = heavy_tailed(1, 60, 40, seed=6).astype(np.float32)
        before = slices.copy()
        assert np.array_equal(statistics_of(slices).entropy, statistics_of(slices).entropy)
        assert np.array_equal(slices, before)


class TestWhereTheTailBegins:
    def test_the_last_bit_does_not_decide(self) -> None:
        """xmin is an eigenvalue from another solver: off by rounding either way, its vector stays in the tail."""
        statistics = statistics_of(heavy_tailed(1, 60, 40, seed=1))
        xmin = float(statistics.evals[25])
        rounding = 4e-16 * float(statistics.evals[-1])
        assert divide_at(statistics, xmin - rounding) == divide_at(statistics, xmin + rounding)
        assert divide_at(statistics, float(statistics.evals[26])) != divide_at(statistics, xmin)
        assert divide_at(statistics, xmin)["tail_mean_loc_ratio"] == np.mean(statistics.localization[25:])

    def test_empty_bulk_has_no_numbers(self) -> None:
        statistics = statistics_of(heavy_tailed(1, 60, 40, seed=1))
        metrics = divide_at(statistics, float(statistics.evals[0]))
        assert set(metrics) == {name for name in EIGENVECTOR_METRICS if name.startswith("tail")}

    def test_empty_tail_has_no_numbers(self) -> None:
        statistics = statistics_of(heavy_tailed(1, 60, 40, seed=1))
        metrics = divide_at(statistics, 2.0 * float(statistics.evals[-1]))
        assert set(metrics) == {name for name in EIGENVECTOR_METRICS if name.startswith("bulk")}

    @pytest.mark.parametrize("xmin", [0.0, -1.0, np.nan, np.inf])
    def test_impossible_xmin(self, xmin: float) -> None:
        with pytest.raises(OptionError, match="xmin must be a positive number"):
            eigenvector_metrics(heavy_tailed(1, 9, 9), 1.0, xmin)

    def test_no_fit_is_a_reason(self) -> None:
        fit = FitFailure(reason=FitFailureReason.NO_SPREAD, detail="all equal")
        failure = eigenvector_metrics(heavy_tailed(1, 9, 9), 1.0, fit)
        assert isinstance(failure, FitFailure)
        assert failure.reason is FitFailureReason.NO_SPREAD
        assert failure.detail == "no fit, so no xmin to divide the eigenvectors: all equal"


@pytest.mark.parametrize(
    ("slices", "detail"),
    [
        (np.full((1, 3, 4), np.nan), "not finite"),
        (np.full((1, 3, 4), np.inf), "not finite"),
        (np.zeros((2, 3, 4)), "all values are zero"),
        (np.full((1, 3, 4), 1e200), "exceed the range"),
        (np.full((1, 3, 4), 1e-200), "vanish in the range"),
    ],
    ids=["NaN", "infinite", "zero", "overflow", "underflow"],
)
def test_no_spectrum(slices: Any, detail: str) -> None:
    failure = eigenvector_statistics(slices)
    assert isinstance(failure, FitFailure)
    assert failure.reason is FitFailureReason.NO_SPECTRUM
    assert detail in failure.detail


def test_no_convergence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> Any:
        raise np.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(np.linalg, "eigh", fail)
    failure = eigenvector_statistics(heavy_tailed(1, 9, 9))
    assert isinstance(failure, FitFailure)
    assert failure.reason is FitFailureReason.NO_CONVERGENCE


def test_rank_deficient_spectrum_has_finite_numbers() -> None:
    """The vectors of the eigenvalue zero are arbitrary, but there are as many as there should be."""
    statistics = statistics_of(with_singular_values(np.arange(1.0, 11.0), 60, 40)[None])
    assert len(statistics.evals) == 40
    assert all(np.isfinite(getattr(statistics, name)).all() for name in statistics.__slots__)


class TestVectorMetrics:
    def test_against_the_incumbent(self) -> None:
        import weightwatcher

        vectors = heavy_tailed(5, 70, seed=8)
        watcher = weightwatcher.WeightWatcher()
        with quiet():
            theirs = watcher.vector_metrics(vectors)
        ours = vector_metrics(vectors)
        # The incumbent's own column of this name stays empty; the numbers are in one that it misspells.
        assert theirs["discrete_entropy"].isna().all()
        pairs = {name: name for name in ours.columns} | {"discrete_entropy": "discete_entropy"}
        for our_name, their_name in pairs.items():
            np.testing.assert_allclose(ours[our_name], theirs[their_name].astype(float), rtol=TOLERANCE)

    def test_kinds_of_input(self) -> None:
        first, second = heavy_tailed(30, seed=1), heavy_tailed(20, seed=2)
        assert vector_metrics(first)["length"].tolist() == [30]
        assert vector_metrics(first.tolist())["length"].tolist() == [30]
        assert vector_metrics([first, second])["length"].tolist() == [30, 20]

    @pytest.mark.parametrize("vectors", [[], [[]], [[0.0, 0.0]], [[1.0, np.nan]], np.ones((1, 2, 2))])
    def test_what_is_no_vector(self, vectors: Any) -> None:
        with pytest.raises(OptionError, match="vector"):
            vector_metrics(vectors)


def _layers() -> dict[str, Any]:
    def linear(out: int, into: int, seed: int) -> Any:
        return torch.nn.Linear(into, out), heavy_tailed(out, into, seed=seed) / np.sqrt(into)

    def conv(out: int, into: int, kernel: int, seed: int) -> Any:
        layer = torch.nn.Conv2d(into, out, kernel)
        return layer, heavy_tailed(*layer.weight.shape, seed=seed) / np.sqrt(into)

    return {
        "tall": linear(160, 90, 1),
        "wide": linear(60, 180, 2),
        "square": linear(96, 96, 3),
        "small": linear(12, 40, 4),
        "conv": conv(24, 32, 3, 5),
        "pointwise": conv(48, 30, 1, 6),
        "table": (torch.nn.Embedding(200, 50), heavy_tailed(200, 50, seed=7)),
    }


class TestParity:
    """``analyze(vectors=True)`` of the incumbent."""

    def test_same_numbers(self) -> None:
        model = with_weights(_layers())
        with quiet():
            theirs = run_oracle(model, vectors=True, plot=False).details
        source = open_model(model)
        n_moved = 0
        layers = analyze(model).layers
        for layer in layers:
            slices = as_weight_matrix(layer.spec, source.load(layer.spec.tensor)).slices
            statistics = statistics_of(slices, layer.spec.scale)
            assert isinstance(layer.fit, PowerLawFit)
            expected = theirs.loc[layer.name, list(EIGENVECTOR_METRICS)].to_dict()
            ours = eigenvector_metrics(slices, layer.spec.scale, layer.fit.xmin)
            if ours != pytest.approx(expected, rel=TOLERANCE):
                # By rounding, the incumbent finds the eigenvalue that *is* xmin below it, and its vector in the bulk.
                n_moved += 1
                ours = divide_at(statistics, layer.fit.xmin * (1.0 + 1e-9))
            assert ours == pytest.approx(expected, rel=TOLERANCE), layer.name
        assert len(layers) == 7
        assert n_moved < 7

    def test_failed_fit_is_a_row_of_nan_there(self) -> None:
        """xmin is -1 there, so that all vectors are the tail and the bulk has no mean."""
        weights = heavy_tailed(64, 64, seed=3) * 1e-8
        model = with_weights({"layer": (torch.nn.Linear(64, 64), weights)})
        with quiet():
            theirs = run_oracle(model, vectors=True, plot=False)
        assert np.isnan(theirs.value("layer", "bulk_mean_vec_entropy"))
        assert theirs.value("layer", "tail_mean_vec_entropy") > 0.0
        fit = fit_power_law(spectrum_of(weights).evals)
        assert isinstance(fit, FitFailure)
        assert isinstance(eigenvector_metrics(weights[None], 1.0, fit), FitFailure)
