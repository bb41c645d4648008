"""Lanczos' values against LAPACK's, and what it says of its own errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from spectral import lanczos
from spectral.lanczos import LeadingEigenvalues, leading_eigenvalues
from tests.core.builders import with_singular_values


def start_for(matrix: NDArray[Any], seed: int = 0) -> NDArray[np.float64]:
    return np.asarray(np.random.default_rng(seed).standard_normal(min(matrix.shape)))


def exact(matrix: NDArray[Any]) -> NDArray[np.float64]:
    singular: NDArray[np.float64] = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    return np.asarray(singular * singular, dtype=np.float64)


def leading(
    matrix: NDArray[Any], *, n_values: int = 3, tolerance: float = 1e-10, max_steps: int = 400, seed: int = 0
) -> LeadingEigenvalues:
    return leading_eigenvalues(
        matrix,
        enough=lambda found: bool(
            np.all(found.errors <= tolerance * found.values[0]) and len(found.values) >= n_values
        ),
        start=start_for(matrix, seed),
        n_values=n_values,
        max_steps=max_steps,
    )


@pytest.mark.parametrize("shape", [(60, 60), (300, 40), (40, 300), (5, 1), (1, 5), (1, 1), (5000, 64), (30000, 8)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-9), (np.float32, 2e-6)])
def test_against_lapack(shape: tuple[int, int], dtype: Any, tolerance: float) -> None:
    matrix = np.random.default_rng(shape[0]).standard_normal(shape).astype(dtype)
    matrix.flags.writeable = False
    found = leading(matrix, tolerance=tolerance / 10)
    expected = exact(matrix)[:3]
    assert found.values == pytest.approx(expected, rel=tolerance)
    assert found.vectors.shape == (min(shape), len(expected))
    assert found.vectors.dtype == dtype
    tall = matrix if shape[0] >= shape[1] else matrix.T
    assert found.vectors.T @ found.vectors == pytest.approx(np.eye(len(expected)), abs=1e-4)
    assert np.linalg.norm(tall @ found.vectors, axis=0) ** 2 == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("n_rows", [1, 7, 100])
def test_blocks_of_rows_add_up(n_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = np.random.default_rng(0).standard_normal((300, 40))
    monkeypatch.setattr(lanczos, "BLOCK_VALUES", 40 * n_rows)
    assert leading(matrix, tolerance=1e-12).values == pytest.approx(exact(matrix)[:3], rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(80, 80), (60, 200), (250, 30)]), st.integers(6, 60))
def test_values_come_from_below_and_each_error_reaches_an_eigenvalue(
    seed: int, shape: tuple[int, int], steps: int
) -> None:
    """Cauchy interlacing; and the residual is a bound whatever the gap (Parlett, theorem 4.5.1)."""
    matrix = np.random.default_rng(seed).standard_normal(shape)
    evals = exact(matrix)
    found = leading(matrix, n_values=4, tolerance=0.0, max_steps=steps, seed=seed)
    rounding = 1e-12 * evals[0]
    assert np.all(found.values <= evals[: len(found.values)] + rounding)
    assert np.all(np.diff(found.values) <= 0.0)
    # The squared residual over the gap of the Ritz values, not of the eigenvalues: true where both agree, near the end.
    small = found.errors < 1e-4 * (evals[0] - evals[3]) / 3
    for value, error in zip(found.values[small], found.errors[small], strict=True):
        assert np.min(np.abs(evals - value)) <= 2.0 * error + rounding


def test_errors_by_the_residual_or_its_square_over_the_nearer_gap() -> None:
    values, residuals = np.array([10.0, 9.0, 5.0, 4.9]), np.array([0.1, 0.2, 0.5, 0.3])
    assert lanczos._errors(values, residuals) == pytest.approx([0.01, 0.04, 0.5, 0.3])
    assert lanczos._errors(values[:3], residuals[:3]) == pytest.approx([0.01, 0.04, 0.0625])
    assert lanczos._errors(values[:1], residuals[:1]) == pytest.approx([0.1])


@pytest.mark.parametrize("seed", range(25))
def test_the_largest_is_as_near_as_the_error_says_when_it_is_taken(seed: int) -> None:
    matrix = np.random.default_rng(seed).standard_normal((100, 100))
    found = leading(matrix, n_values=1, tolerance=2e-4, seed=seed)
    assert found.errors[0] <= 2e-4 * found.values[0]
    # Not a multiple of the error itself: a second eigenvalue as near as the tolerance may not be found yet.
    assert 0.0 <= exact(matrix)[0] - found.values[0] + 1e-10 <= 2.0 * found.errors[0] + 1e-3 * found.values[0]


def test_it_stops_when_it_is_told_enough() -> None:
    matrix = with_singular_values(np.array([10.0, *np.linspace(1.0, 0.1, 79)]), 80, 80)
    sizes = []
    found = leading_eigenvalues(
        matrix,
        enough=lambda found: sizes.append(len(found.values)) or bool(found.errors[0] < 1e-6),  # type: ignore[func-returns-value]
        start=start_for(matrix),
        n_values=1,
        max_steps=80,
    )
    assert len(sizes) <= 2
    assert found.values[0] == pytest.approx(100.0, abs=1e-6)


@pytest.mark.parametrize("max_steps", [1, 4, 6, 7, 500])
def test_too_few_steps_say_so(max_steps: int) -> None:
    matrix = np.random.default_rng(0).standard_normal((50, 50))
    found = leading(matrix, n_values=2, tolerance=0.0, max_steps=max_steps)
    assert len(found.values) == min(max_steps, 2)
    if max_steps < 10:
        assert found.errors[0] > 0.01
        assert found.values[0] < exact(matrix)[0]
    else:
        assert found.values == pytest.approx(exact(matrix)[:2], rel=1e-12)
        assert np.all(found.errors == 0.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rank", [1, 2, 5])
def test_low_rank(rank: int, dtype: Any) -> None:
    matrix = with_singular_values(np.arange(rank, 0.0, -1.0), 90, 70).astype(dtype)
    found = leading(matrix, n_values=rank + 1, tolerance=1e-6)
    assert found.values[:rank] == pytest.approx(np.arange(rank, 0.0, -1.0) ** 2, rel=1e-5)
    assert np.all(found.values >= 0.0)
    assert np.all(found.values[rank:] < 1e-5)


def test_equal_eigenvalues_are_found_once() -> None:
    found = leading(2.0 * np.eye(30), n_values=3)
    assert found.values[0] == pytest.approx(4.0)
    assert np.all(found.values[1:] < 1e-12)


def test_nearly_equal_eigenvalues_are_found_apart() -> None:
    singular = np.array([1000.0 + 1e-4, 1000.0, *np.linspace(2.0, 0.1, 98)])
    found = leading(with_singular_values(singular, 100, 100), n_values=3, tolerance=1e-11)
    assert found.values[:2] == pytest.approx(singular[:2] ** 2, rel=1e-11)
    assert found.values[2] == pytest.approx(4.0, rel=1e-5)


def test_zero_matrix() -> None:
    found = leading(np.zeros((20, 10)), n_values=2)
    assert found.values.tolist() == [0.0]
    assert found.errors.tolist() == [0.0]


def test_same_bits_twice() -> None:
    matrix = np.random.default_rng(3).standard_normal((200, 90)).astype(np.float32)
    first, second = leading(matrix), leading(matrix.copy())
    assert first.values.tobytes() == second.values.tobytes()
    assert first.vectors.tobytes() == second.vectors.tobytes()


@pytest.mark.parametrize("start", [np.zeros(4), np.full(4, np.nan)])
def test_useless_starts_are_refused(start: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match="finite start vector"):
        leading_eigenvalues(np.eye(4), enough=lambda found: True, start=start, n_values=1, max_steps=3)


def test_an_empty_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match=r"matrix with values .* \(0, 4\)"):
        leading_eigenvalues(np.empty((0, 4)), enough=lambda found: True, start=np.ones(4), n_values=1, max_steps=3)
