"""Random projections: they say how far two copies of a matrix lie apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral import analyze
from spectral.projections import N_PROJECTIONS, RELATIVE_ERROR, project, relative_change


def drawn(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def change_of(new: np.ndarray, old: np.ndarray) -> float:
    return relative_change(project(new), project(old), reference_norm=float(np.sum(old * old)))


def test_an_unchanged_matrix_has_moved_by_nothing() -> None:
    matrix = drawn((1, 40, 30), 0)
    assert change_of(matrix.copy(), matrix) == 0.0


@given(row=st.integers(0, 39), column=st.integers(0, 29), size=st.floats(1e-3, 1e3))
def test_one_element_is_measured_exactly(row: int, column: int, size: float) -> None:
    matrix = drawn((1, 40, 30), 0)
    changed = matrix.copy()
    changed[0, row, column] += size
    assert change_of(changed, matrix) == pytest.approx(size / np.linalg.norm(matrix), rel=1e-6)


def test_the_error_of_the_estimate_is_the_one_that_is_told() -> None:
    """Over 400 changes of a matrix the estimates have the mean and the spread of the theory."""
    matrix = drawn((1, 64, 48), 0)
    ratios = []
    for seed in range(400):
        change = 0.1 * drawn(matrix.shape, seed + 1)
        ratios.append(change_of(matrix + change, matrix) / (np.linalg.norm(change) / np.linalg.norm(matrix)))
    assert np.mean(np.square(ratios)) == pytest.approx(1.0, abs=0.06)
    assert np.std(ratios) == pytest.approx(RELATIVE_ERROR, rel=0.2)


def test_unrelated_matrices_lie_apart_by_the_root_of_two() -> None:
    assert change_of(drawn((1, 200, 100), 1), drawn((1, 200, 100), 2)) == pytest.approx(np.sqrt(2), rel=0.4)


@pytest.mark.parametrize("order", ["rows", "columns", "slices"])
def test_another_order_is_another_matrix(order: str) -> None:
    """The spectrum would not know."""
    matrix = drawn((4, 40, 30), 0)
    axis = ("slices", "rows", "columns").index(order)
    assert change_of(np.roll(matrix, 1, axis=axis), matrix) > 0.7


def test_rows_are_projected_in_blocks_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = drawn((2, 100, 30), 0).astype(np.float32)
    whole = project(matrix, scale=0.5)
    monkeypatch.setattr("spectral.projections.BLOCK_VALUES", 30 * 7)
    assert project(matrix, scale=0.5) == pytest.approx(whole, rel=1e-12)


def test_signs_depend_on_the_shape_alone_and_never_change() -> None:
    """Baselines record these numbers: another stream of signs would make every recorded one worthless."""
    (layer,) = analyze({"any.name.weight": np.ones((3, 5)) * [[1.0], [2.0], [4.0]]}, projections=True).layers
    assert layer.projections is not None
    assert len(layer.projections) == N_PROJECTIONS
    assert layer.projections.tolist() == [
        3.0,
        9.0,
        5.0,
        3.0,
        -21.0,
        -3.0,
        7.0,
        9.0,
        -15.0,
        -5.0,
        -15.0,
        -5.0,
        5.0,
        -7.0,
        25.0,
        35.0,
        1.0,
        5.0,
        -1.0,
        1.0,
        -5.0,
        -7.0,
        1.0,
        -5.0,
    ]


def test_no_projections_unless_asked_for() -> None:
    assert analyze({"w": drawn((8, 6), 0)}).layers[0].projections is None


def test_other_numbers_of_projections_are_refused() -> None:
    with pytest.raises(ValueError, match="as many projections"):
        relative_change(np.ones(3), np.ones(4), reference_norm=1.0)
