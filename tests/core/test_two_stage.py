"""The two-stage reduction beside numpy's eigenvalues."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral import lanes, lapack, two_stage
from spectral.execution import single_threaded_blas
from spectral.lapack import symmetric_eigenvalues
from spectral.two_stage import BAND, STRIPE, TWO_STAGES_FROM, reduce_in_two_stages
from tests.core.builders import heavy_tailed

if TYPE_CHECKING:
    from numpy.typing import NDArray


def gram(n: int, seed: int = 0) -> NDArray[np.float64]:
    values = heavy_tailed(2 * n, n, seed=seed)
    return np.asarray(values.T @ values)


@pytest.fixture
def _small_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lapack, "TWO_STAGES_FROM", 1)


SIZES = [1, 2, 3, BAND - 1, BAND, BAND + 1, BAND + 2, 2 * BAND, 2 * BAND + 1, STRIPE, STRIPE + BAND + 1, 3 * STRIPE + 7]


def test_the_routines_are_there() -> None:
    # Otherwise everything below compares the reduction in one stage with numpy.
    assert reduce_in_two_stages(gram(10)) is not None


@pytest.mark.usefixtures("_small_too")
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("factor", [2.0**-400, 1.0, 2.0**400])
def test_equals_numpy(n: int, factor: float) -> None:
    matrix = gram(n) * factor
    expected = np.linalg.eigvalsh(matrix)
    np.testing.assert_allclose(symmetric_eigenvalues(matrix), expected, rtol=0.0, atol=1e-14 * n**0.5 * expected[-1])


@pytest.mark.usefixtures("_small_too")
@settings(deadline=None, max_examples=25)
@given(st.integers(1, 3 * STRIPE), st.integers(0, 10**6))
def test_any_size_and_any_symmetric_matrix(n: int, seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal((n, n))
    matrix = values + values.T
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lapack, "TWO_STAGES_FROM", 1)
        found = symmetric_eigenvalues(matrix)
    scale = np.abs(found).max()
    np.testing.assert_allclose(found, np.linalg.eigvalsh(matrix), rtol=0.0, atol=1e-13 * scale)
    # Similarity keeps the trace and the norm.
    assert found.sum() == pytest.approx(np.trace(matrix), abs=1e-12 * n * scale)
    assert found @ found == pytest.approx(np.sum(matrix**2), rel=1e-12)


@pytest.mark.usefixtures("_small_too")
@pytest.mark.parametrize("n", [BAND + 5, 2 * STRIPE + 3])
@pytest.mark.parametrize(
    "kind", ["zero", "identity", "diagonal", "rank one", "zero panel", "two blocks", "band already"]
)
def test_special_matrices(kind: str, n: int) -> None:
    rng = np.random.default_rng(0)
    vector = rng.standard_normal(n)
    matrix = {
        "zero": np.zeros((n, n)),
        "identity": np.eye(n),
        "diagonal": np.diag(vector),
        "rank one": np.outer(vector, vector),
        "zero panel": gram(n) * np.outer(np.arange(n) >= BAND, np.arange(n) >= BAND),
        "two blocks": gram(n) * (np.add.outer(np.arange(n) >= n // 2, np.arange(n) >= n // 2) != 1),
        "band already": np.diag(vector) + np.diag(vector[1:], 1) + np.diag(vector[1:], -1),
    }[kind]
    expected = np.linalg.eigvalsh(matrix)
    scale = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(symmetric_eigenvalues(matrix), expected, rtol=0.0, atol=1e-13 * scale)


@pytest.mark.usefixtures("_small_too")
def test_only_the_upper_triangle_counts() -> None:
    matrix = gram(2 * STRIPE + 1)
    torn = np.triu(matrix) + np.tril(np.full(matrix.shape, np.nan), -1)
    np.testing.assert_array_equal(symmetric_eigenvalues(torn), symmetric_eigenvalues(matrix))


@pytest.mark.usefixtures("_small_too")
def test_lanes_at_once_give_the_bits_of_lanes_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = gram(4 * STRIPE + 11)
    with single_threaded_blas():
        expected = symmetric_eigenvalues(matrix)
        monkeypatch.setattr(lanes, "LANES_FROM", 1.0)
        assert all(symmetric_eigenvalues(matrix).tobytes() == expected.tobytes() for _ in range(5))


def test_large_matrices_go_this_way_and_small_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(lapack, "reduce_in_two_stages", lambda matrix: sizes.append(len(matrix)))
    for n in (TWO_STAGES_FROM - 1, TWO_STAGES_FROM):
        symmetric_eigenvalues(np.eye(n))
    assert sizes == [TWO_STAGES_FROM]


@pytest.mark.parametrize("missing", ["_load_panel_routines", "_load_bulge_chasing"])
def test_without_the_routines_one_stage_does_it(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = gram(BAND + 9)
    expected = symmetric_eigenvalues(matrix)
    monkeypatch.setattr(two_stage, missing, lambda: None)
    monkeypatch.setattr(lapack, "TWO_STAGES_FROM", 1)
    np.testing.assert_array_equal(symmetric_eigenvalues(matrix), expected)
