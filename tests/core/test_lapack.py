"""LAPACK called directly, beside numpy's own eigenvalues."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from spectral import lapack
from spectral.lapack import symmetric_eigenvalues
from tests.core.builders import heavy_tailed

if TYPE_CHECKING:
    from numpy.typing import NDArray


def gram(n: int, seed: int = 0) -> NDArray[np.float64]:
    values = heavy_tailed(2 * n, n, seed=seed)
    return np.asarray(values.T @ values)


@pytest.mark.parametrize("n", [1, 2, 3, 33, 64, 200, 501])
@pytest.mark.parametrize("factor", [2.0**-400, 1.0, 2.0**400])
def test_equals_numpy(n: int, factor: float) -> None:
    matrix = gram(n) * factor
    expected = np.linalg.eigvalsh(matrix)
    np.testing.assert_allclose(symmetric_eigenvalues(matrix), expected, rtol=0.0, atol=1e-14 * n**0.5 * expected[-1])


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        (np.zeros((4, 4)), [0.0] * 4),
        (np.eye(4), [1.0] * 4),
        (np.diag([3.0, 1.0, 2.0]), [1.0, 2.0, 3.0]),
        (np.ones((2, 2)), [0.0, 2.0]),
        (np.zeros((0, 0)), []),
    ],
    ids=["zero", "identity", "diagonal", "rank one", "empty"],
)
def test_special_matrices(matrix: NDArray[np.float64], expected: list[float]) -> None:
    np.testing.assert_allclose(symmetric_eigenvalues(matrix), expected, rtol=0.0, atol=1e-15)


def test_the_argument_is_not_written_to() -> None:
    matrix = gram(50)
    before = matrix.copy()
    matrix.flags.writeable = False
    symmetric_eigenvalues(matrix)
    np.testing.assert_array_equal(matrix, before)


def test_without_the_routines_numpy_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lapack, "_load_routines", lambda: None)
    matrix = gram(50)
    np.testing.assert_array_equal(symmetric_eigenvalues(matrix), np.linalg.eigvalsh(matrix, UPLO="U"))


def test_the_routines_are_those_of_scipy() -> None:
    # Otherwise everything above compares numpy with itself.
    assert lapack._load_routines() is not None


@pytest.mark.parametrize("broken", [0, 1])
def test_what_lapack_reports_is_raised(broken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        arguments[-1]._obj.value = 7

    routines = [lambda *_: None, lambda *_: None]
    routines[broken] = fail
    monkeypatch.setattr(lapack, "_load_routines", lambda: tuple(routines))
    with pytest.raises(
        np.linalg.LinAlgError, match=r"^eigenvalues of a 5 x 5 matrix did not converge \(LAPACK info 7\)$"
    ):
        symmetric_eigenvalues(gram(5))


def test_many_threads_at_once() -> None:
    matrices = [gram(60 + seed % 5, seed) for seed in range(40)]
    expected = [symmetric_eigenvalues(matrix).tobytes() for matrix in matrices]
    with ThreadPoolExecutor(8) as executor:
        found = [values.tobytes() for values in executor.map(symmetric_eigenvalues, matrices)]
    assert found == expected


def test_only_the_upper_triangle_counts() -> None:
    matrix = gram(40)
    expected = symmetric_eigenvalues(matrix)
    torn = np.triu(matrix) + np.tril(np.full((40, 40), np.nan), -1)
    np.testing.assert_array_equal(symmetric_eigenvalues(torn), expected)


def test_overwriting_gives_the_same_bits() -> None:
    matrix = gram(40)
    expected = symmetric_eigenvalues(matrix)
    np.testing.assert_array_equal(symmetric_eigenvalues(matrix, overwrite=True), expected)
    assert not np.array_equal(matrix, gram(40))
