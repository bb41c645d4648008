"""One matrix: Eckart-Young, idempotence, transposition, types, and what is refused."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral.errors import OptionError
from spectral.truncation import clip_singular_values, drop_leading, keep_leading
from tests.core.builders import heavy_tailed

SHAPES = st.tuples(st.integers(1, 24), st.integers(1, 24))
SEEDS = st.integers(0, 2**32 - 1)


def singular_values(matrix: Any) -> Any:
    return np.linalg.svd(matrix.astype(np.float64), compute_uv=False)


def slow_sum(matrix: Any, singular: Any) -> Any:
    """Return Σ σ'_i u_i v_iᵀ, one direction at a time, for other singular values σ'."""
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    total = np.zeros_like(matrix)
    for index, value in enumerate(singular):
        total += value * np.outer(left[:, index], right[index])
    return total


class TestLaws:
    @settings(max_examples=40, deadline=None)
    @given(shape=SHAPES, seed=SEEDS, fraction=st.floats(0.0, 1.0))
    def test_keep(self, shape: tuple[int, int], seed: int, fraction: float) -> None:
        """Eckart and Young: rank k, error √(Σ_{i>k} σ_i²), and nothing of this rank is closer."""
        matrix = heavy_tailed(*shape, seed=seed)
        before = singular_values(matrix)
        n_keep = int(fraction * len(before))
        kept = keep_leading(matrix, n_keep)
        rounding = 1e-12 * before[0]
        after = singular_values(kept)
        np.testing.assert_allclose(after[:n_keep], before[:n_keep], rtol=1e-9, atol=rounding)
        assert np.all(after[n_keep:] <= rounding)
        error = np.linalg.norm(matrix - kept)
        assert error == pytest.approx(np.linalg.norm(before[n_keep:]), rel=1e-9, abs=rounding * len(before))
        rng = np.random.default_rng(seed)
        other = rng.standard_normal((shape[0], n_keep))
        best_of_other = other @ np.linalg.lstsq(other, matrix, rcond=None)[0]
        assert error <= np.linalg.norm(matrix - best_of_other) + rounding * len(before)

    @settings(max_examples=40, deadline=None)
    @given(shape=SHAPES, seed=SEEDS, fraction=st.floats(0.0, 1.0))
    def test_against_the_slow_sum(self, shape: tuple[int, int], seed: int, fraction: float) -> None:
        matrix = heavy_tailed(*shape, seed=seed)
        singular = singular_values(matrix)
        count = int(fraction * len(singular))
        threshold = float(fraction * singular[0])
        index = np.arange(len(singular))
        expected = {
            "keep": (keep_leading(matrix, count), np.where(index < count, singular, 0.0)),
            "drop": (drop_leading(matrix, count), np.where(index < count, 0.0, singular)),
            "clip": (clip_singular_values(matrix, threshold), np.minimum(singular, threshold)),
            "clip some": (
                clip_singular_values(matrix, threshold, n_leading=count),
                np.where(index < count, np.minimum(singular, threshold), singular),
            ),
        }
        for name, (result, changed) in expected.items():
            np.testing.assert_allclose(
                result, slow_sum(matrix, changed), rtol=0.0, atol=1e-10 * singular[0], err_msg=name
            )

    @settings(max_examples=25, deadline=None)
    @given(shape=SHAPES, seed=SEEDS, count=st.integers(0, 24))
    def test_parts_add_up(self, shape: tuple[int, int], seed: int, count: int) -> None:
        matrix = heavy_tailed(*shape, seed=seed)
        total = keep_leading(matrix, count) + drop_leading(matrix, count)
        np.testing.assert_allclose(total, matrix, rtol=0.0, atol=1e-10 * np.abs(matrix).max())

    @settings(max_examples=25, deadline=None)
    @given(shape=SHAPES, seed=SEEDS, count=st.integers(1, 24), threshold=st.floats(0.01, 10.0))
    def test_idempotent(self, shape: tuple[int, int], seed: int, count: int, threshold: float) -> None:
        matrix = heavy_tailed(*shape, seed=seed)
        for once, twice in (
            (kept := keep_leading(matrix, count), keep_leading(kept, count)),
            (clipped := clip_singular_values(matrix, threshold), clip_singular_values(clipped, threshold)),
        ):
            np.testing.assert_allclose(twice, once, rtol=0.0, atol=1e-10 * np.abs(matrix).max())

    @settings(max_examples=25, deadline=None)
    @given(rows=st.integers(1, 24), columns=st.integers(1, 24), seed=SEEDS, count=st.integers(0, 24))
    def test_transposition_commutes_to_the_last_bit(self, rows: int, columns: int, seed: int, count: int) -> None:
        if rows == columns:
            columns += 1
        matrix = heavy_tailed(rows, columns, seed=seed)
        assert np.array_equal(keep_leading(matrix.T, count), keep_leading(matrix, count).T)
        assert np.array_equal(drop_leading(matrix.T, count), drop_leading(matrix, count).T)
        assert np.array_equal(clip_singular_values(matrix.T, 0.5), clip_singular_values(matrix, 0.5).T)

    def test_transposition_of_a_square_matrix(self) -> None:
        matrix = heavy_tailed(20, 20, seed=1)
        np.testing.assert_allclose(keep_leading(matrix.T, 7), keep_leading(matrix, 7).T, rtol=0.0, atol=1e-12)

    @settings(max_examples=25, deadline=None)
    @given(shape=SHAPES, seed=SEEDS)
    def test_nothing_to_change_is_the_same_to_the_last_bit(self, shape: tuple[int, int], seed: int) -> None:
        matrix = heavy_tailed(*shape, seed=seed)
        results = (
            keep_leading(matrix, min(shape)),
            keep_leading(matrix, 1000),
            drop_leading(matrix, 0),
            clip_singular_values(matrix, 1.0001 * float(singular_values(matrix)[0])),
            clip_singular_values(matrix, 0.0, n_leading=0),
        )
        for result in results:
            assert np.array_equal(result, matrix)
            assert not np.shares_memory(result, matrix)


@pytest.mark.parametrize(
    "dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn], ids=lambda t: t.__name__
)
@pytest.mark.parametrize("shape", [(20, 30), (30, 20)])
def test_type_and_shape_stay_and_the_input_too(dtype: Any, shape: tuple[int, int]) -> None:
    matrix = heavy_tailed(*shape, seed=3).astype(dtype)
    before = matrix.copy()
    exact = keep_leading(matrix.astype(np.float64), 5)
    for result in (keep_leading(matrix, 5), drop_leading(matrix, 5), clip_singular_values(matrix, 2.0)):
        assert (result.dtype, result.shape, result.flags.c_contiguous) == (matrix.dtype, shape, True)
    # Rounded once, and by no more than the type demands.
    assert np.array_equal(keep_leading(matrix, 5), exact.astype(dtype))
    assert np.array_equal(matrix, before)


def test_all_zero() -> None:
    zeros = np.zeros((4, 6))
    for result in (keep_leading(zeros, 2), drop_leading(zeros, 2), clip_singular_values(zeros, 0.0)):
        assert np.array_equal(result, zeros)


def test_keeping_nothing_and_dropping_all() -> None:
    matrix = heavy_tailed(6, 4)
    assert not keep_leading(matrix, 0).any()
    assert not drop_leading(matrix, 9).any()


def test_values_beyond_the_type_become_infinite() -> None:
    """The best approximation may have larger elements than the matrix."""
    matrix = np.array([[0.0, 1.0], [1.0, 1.0]])
    golden = (1.0 + 5.0**0.5) / 2.0
    expected = golden / (1.0 + golden**2) * np.array([[1.0, golden], [golden, golden**2]])
    np.testing.assert_allclose(keep_leading(matrix, 1), expected, rtol=1e-12)
    assert expected[1, 1] == pytest.approx(1.17, abs=0.01)
    assert np.isinf(keep_leading((matrix * 65000.0).astype(np.float16), 1)).tolist() == [[False, False], [False, True]]


@pytest.mark.parametrize("count", [-1, 1.0, True, None])
@pytest.mark.parametrize("function", [keep_leading, drop_leading])
def test_impossible_count(function: Any, count: Any) -> None:
    with pytest.raises(OptionError, match=r"must be an integer of at least 0, got"):
        function(heavy_tailed(4, 5), count)


@pytest.mark.parametrize("threshold", [-1.0, np.nan, np.inf])
def test_impossible_threshold(threshold: float) -> None:
    with pytest.raises(OptionError, match="threshold must be a finite singular value"):
        clip_singular_values(heavy_tailed(4, 5), threshold)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones(3), r"expected a matrix with values, got shape \(3,\)"),
        (np.ones((0, 3)), r"expected a matrix with values, got shape \(0, 3\)"),
        (np.array([[1.0, np.nan], [np.inf, 1.0]]), "expected finite values, got 2 that are not"),
    ],
)
def test_what_is_no_matrix(matrix: Any, message: str) -> None:
    for function in (keep_leading, drop_leading):
        with pytest.raises(ValueError, match=message):
            function(matrix, 9)
    with pytest.raises(ValueError, match=message):
        clip_singular_values(matrix, 1.0)
