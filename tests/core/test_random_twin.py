"""The comparison of a spectrum with its randomised twin."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial import distance as scipy_distance

from spectral.random_twin import TWIN_METRICS, compare_with_twin, jensen_shannon_distance, twin_metrics
from tests.core.builders import heavy_tailed


def spectra(size: int) -> st.SearchStrategy[NDArray[np.float64]]:
    values = st.one_of(st.floats(0.0, 10.0), st.just(0.0), st.floats(-6.0, 6.0).map(lambda decades: 10.0**decades))
    return st.lists(values, min_size=size, max_size=size).map(lambda drawn: np.sort(np.array([*drawn, 1e-3])))


def incumbent_distance(evals: NDArray[np.float64], rand_evals: NDArray[np.float64]) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from weightwatcher.RMT_Util import jensen_shannon_distance as theirs

        return float(theirs(evals, rand_evals))


def eigenvalues(W: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.linalg.svd(W, compute_uv=False)[::-1] ** 2, dtype=np.float64)


def twin_of(W: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    return eigenvalues(np.random.default_rng(seed).permutation(W.ravel()).reshape(W.shape))


class TestDistance:
    @pytest.mark.parametrize("shape", [(60, 60), (200, 50)])
    def test_parity(self, shape: tuple[int, int]) -> None:
        W = heavy_tailed(*shape)
        W[:, 0] *= 5.0
        evals, rand_evals = eigenvalues(W), twin_of(W, 0)
        ours = jensen_shannon_distance(evals, rand_evals)
        assert ours == pytest.approx(incumbent_distance(evals, rand_evals), rel=1e-9)
        assert ours > 0.05
        # Permuting keeps the total, so that the reference is the mean of the two distributions.
        assert ours == pytest.approx(scipy_distance.jensenshannon(evals, rand_evals), rel=1e-9)

    @given(spectra(8), spectra(8))
    def test_parity_for_other_totals(self, evals: NDArray[np.float64], rand_evals: NDArray[np.float64]) -> None:
        ours, theirs = jensen_shannon_distance(evals, rand_evals), incumbent_distance(evals, rand_evals)
        assume(theirs != math.inf)  # it divides by shares that have vanished
        # The incumbent takes the root of a difference that rounding may leave below zero.
        assert ours == pytest.approx(0.0 if math.isnan(theirs) else theirs, rel=1e-6, abs=1e-7)

    @given(spectra(8), spectra(8), st.floats(-100.0, 100.0))
    def test_laws_of_a_distance(self, evals: NDArray[np.float64], other: NDArray[np.float64], decades: float) -> None:
        """Symmetric, zero for equal spectra, at most √ln 2 for equal totals, the same for both scaled by c."""
        other = np.sort(other * (np.sum(evals) / np.sum(other)))
        distance = jensen_shannon_distance(evals, other)
        assert 0.0 <= distance <= math.sqrt(math.log(2.0)) + 1e-9
        assert jensen_shannon_distance(other, evals) == pytest.approx(distance, abs=1e-7)
        assert jensen_shannon_distance(evals, evals) == pytest.approx(0.0, abs=1e-7)
        scaled = jensen_shannon_distance(evals * 10.0**decades, other * 10.0**decades)
        assert scaled == pytest.approx(distance, abs=1e-7)

    def test_eigenvalues_that_all_but_vanish(self) -> None:
        """A share of 1e-321 counts as little as none; the incumbent divides it by half of it, which is zero."""
        nothing, hardly = np.array([0.0, 0.0, 1e-3]), np.array([0.0, 5e-324, 1e-3])
        assert jensen_shannon_distance(nothing, hardly) == jensen_shannon_distance(hardly, nothing) == 0.0
        assert incumbent_distance(nothing, hardly) == math.inf

    def test_largest_distance(self) -> None:
        """Ranks that share nothing: as ascending spectra cannot be, so all in one against one each of very many."""
        n = 100_000
        alone = np.zeros(n)
        alone[-1] = 1.0
        assert jensen_shannon_distance(alone, np.full(n, 1.0 / n)) == pytest.approx(math.sqrt(math.log(2.0)), abs=1e-4)

    @pytest.mark.parametrize(
        ("evals", "rand_evals", "message"),
        [
            ([1.0, 2.0], [1.0, 2.0, 3.0], "got 2 and 3"),
            ([], [], "0 eigenvalues is empty or all zero"),
            ([0.0, 0.0], [1.0, 2.0], "2 eigenvalues is empty or all zero"),
            ([1.0, 2.0], [0.0, 0.0], "2 eigenvalues is empty or all zero"),
            ([2.0, 1.0], [1.0, 2.0], "^evals must be one-dimensional"),
            ([1.0, 2.0], [1.0, np.nan], "rand_evals must be one-dimensional"),
        ],
    )
    def test_bad_input(self, evals: list[float], rand_evals: list[float], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            jensen_shannon_distance(np.array(evals), np.array(rand_evals))


class TestComparison:
    def test_which_replica_says_what(self) -> None:
        comparison = compare_with_twin(
            np.array([1.0, 2.0, 8.0]),
            pooled_rand_evals=np.array([1.0, 2.0, 3.0, 3.5, 4.0, 5.0]),
            rand_evals=np.array([3.0, 3.5, 4.0]),
        )
        assert comparison.max_rand_eval == 5.0
        assert comparison.ww_softrank == 0.5
        assert comparison.ww_maxdist == 4.0
        assert comparison.rand_distance == jensen_shannon_distance(np.array([1.0, 2.0, 8.0]), np.array([3.0, 3.5, 4.0]))
        metrics = twin_metrics(comparison)
        assert tuple(metrics) == TWIN_METRICS
        assert {type(value) for value in metrics.values()} == {float}
        assert list(metrics.values()) == [5.0, comparison.rand_distance, 0.5, 4.0]

    @pytest.mark.parametrize(
        ("pooled", "message"), [([], "pooled_rand_evals is empty"), ([2.0, 1.0], "pooled_rand_evals must be one-dim")]
    )
    def test_bad_replicas(self, pooled: list[float], message: str) -> None:
        evals = np.array([1.0, 2.0])
        with pytest.raises(ValueError, match=message):
            compare_with_twin(evals, pooled_rand_evals=np.array(pooled), rand_evals=evals)
