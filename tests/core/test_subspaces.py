"""Singular subspaces of two matrices, and of two models."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral.errors import ModelMismatchError, OptionError
from spectral.model_comparison import compare_models, unfold
from spectral.spectrum import SpectrumFailure
from spectral.subspaces import SubspaceComparison, compare_subspaces, leading_singular_vectors
from spectral.weights import as_weight_matrix
from tests.core.builders import heavy_tailed, spec_of, with_singular_values

if TYPE_CHECKING:
    from numpy.typing import NDArray


def noise(*shape: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal(shape)


def orthogonal(n: int, seed: int) -> NDArray[np.float64]:
    return np.asarray(np.linalg.qr(noise(n, n, seed=seed))[0], dtype=np.float64)


def compare(one: NDArray[Any], two: NDArray[Any], k: int = 10) -> SubspaceComparison:
    found = compare_subspaces(one, two, k)
    assert isinstance(found, SubspaceComparison)
    return found


def spike(shape: tuple[int, int], size: float, seed: int) -> NDArray[np.float64]:
    left, right = noise(shape[0], seed=seed), noise(shape[1], seed=seed + 1)
    return np.asarray(size * np.outer(left / np.linalg.norm(left), right / np.linalg.norm(right)))


def slow(tuned: NDArray[np.float64], base: NDArray[np.float64], k: int) -> dict[str, NDArray[np.float64]]:
    """Compute the same from two full SVDs; the base has different singular values, none of them zero."""
    left, _, right = np.linalg.svd(tuned, full_matrices=False)
    base_left, _, base_right = np.linalg.svd(base, full_matrices=False)
    return {
        "left_cosines": np.abs(base_left.T @ left[:, :k]).max(axis=0),
        "right_cosines": np.abs(base_right @ right[:k].T).max(axis=0),
        "left_overlap": np.asarray(np.linalg.norm(base_left[:, :k].T @ left[:, :k]) ** 2 / k),
        "right_overlap": np.asarray(np.linalg.norm(base_right[:k] @ right[:k].T) ** 2 / k),
    }


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 90), st.integers(2, 90), st.integers(1, 12), st.floats(0, 3), st.integers(0, 999))
def test_as_two_full_svds(n_rows: int, n_columns: int, k: int, size: float, seed: int) -> None:
    base = heavy_tailed(n_rows, n_columns, seed=seed)
    tuned = base + size * noise(n_rows, n_columns, seed=seed)
    found = compare(tuned, base, k)
    assert found.k == min(k, n_rows, n_columns)
    for name, expected in slow(tuned, base, found.k).items():
        np.testing.assert_allclose(getattr(found, name), expected, atol=1e-6, err_msg=name)
    assert found.relative_change == pytest.approx(np.linalg.norm(tuned - base) / np.linalg.norm(base), rel=1e-9)


@pytest.mark.parametrize("shape", [(80, 50), (50, 80), (60, 60), (9, 5), (3, 200)])
def test_identical(shape: tuple[int, int]) -> None:
    values = heavy_tailed(*shape)
    found = compare(values, values.copy())
    assert found.left_overlap == pytest.approx(1.0, abs=1e-12)
    assert found.right_overlap == pytest.approx(1.0, abs=1e-12)
    assert found.left_angles.max() < 1e-6
    assert found.relative_change == 0.0
    assert found.n_intruders() == 0
    assert found.left_cosines.min() == pytest.approx(1.0, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(12, 60), st.integers(12, 60), st.integers(0, 999), st.floats(1e-3, 1e3))
def test_orthogonal_and_scale_invariance_and_transposition(
    n_rows: int, n_columns: int, seed: int, scale: float
) -> None:
    base = heavy_tailed(n_rows, n_columns, seed=seed)
    tuned = base + 0.5 * noise(n_rows, n_columns, seed=seed)
    left, right = orthogonal(n_rows, seed), orthogonal(n_columns, seed + 1)
    plain, moved, turned = (
        compare(tuned, base),
        compare(scale * left @ tuned @ right, scale * left @ base @ right),
        compare(tuned.T, base.T),
    )
    for name in ("left_overlap", "right_overlap", "left_cosines", "right_cosines", "relative_change", "relative_gap"):
        np.testing.assert_allclose(getattr(moved, name), getattr(plain, name), rtol=1e-5, atol=1e-6, err_msg=name)
    assert turned.left_overlap == pytest.approx(plain.right_overlap, abs=1e-9)
    np.testing.assert_allclose(turned.right_cosines, plain.left_cosines, atol=1e-9)
    np.testing.assert_allclose(turned.left_angles, plain.right_angles, atol=1e-9)


@pytest.mark.parametrize("shape", [(120, 90), (90, 120), (100, 100), (600, 60)])
@pytest.mark.parametrize("seed", [0, 10, 20])
def test_a_planted_spike_is_exactly_one_intruder(shape: tuple[int, int], seed: int) -> None:
    base = heavy_tailed(*shape, seed=seed, degrees=5.0)
    size = 1.5 * float(np.linalg.norm(base, 2))
    found = compare(base + spike(shape, size, seed), base)
    assert found.n_intruders() == 1
    assert found.left_cosines[0] < 0.5
    assert found.left_cosines[1:].min() > 0.5
    assert found.left_overlap == pytest.approx(0.9, abs=0.03)


def test_lora_plants_intruders_and_full_fine_tuning_does_not() -> None:
    # Two updates of one Frobenius norm: of rank 4, and spread over all directions.
    base = noise(240, 200)
    low_rank = noise(240, 4, seed=1) @ noise(4, 200, seed=2)
    full = noise(240, 200, seed=3)
    size = 0.35 * np.linalg.norm(base)
    lora, tuned = (compare(base + size * w / np.linalg.norm(w), base) for w in (low_rank, full))
    assert lora.relative_change == pytest.approx(tuned.relative_change, rel=1e-12)
    assert lora.n_intruders() == 4
    assert tuned.left_cosines.min() > lora.left_cosines[:4].max()
    assert compare(base + 0.05 * size * full / np.linalg.norm(full), base).n_intruders() == 0


def test_rotation_leaves_the_spectrum_and_is_seen() -> None:
    base = heavy_tailed(80, 60)
    tuned = orthogonal(80, 0) @ base
    np.testing.assert_allclose(np.linalg.svd(tuned)[1], np.linalg.svd(base)[1], rtol=1e-9)
    found = compare(tuned, base)
    assert found.left_overlap < 0.4
    assert found.right_overlap == pytest.approx(1.0, abs=1e-9)
    assert found.n_intruders() == 10


def test_equal_singular_values_count_as_one_subspace() -> None:
    # Every vector is a singular vector of an orthogonal matrix: there can be no intruder.
    base = orthogonal(60, 0)
    tuned = base + spike((60, 60), 3.0, 1)
    found = compare(tuned, base)
    assert found.n_intruders() == 0
    np.testing.assert_allclose(found.left_cosines, 1.0, atol=1e-9)
    assert found.relative_gap == pytest.approx(0.0, abs=1e-12)


def test_a_group_of_equal_values_that_the_first_look_cuts() -> None:
    # 41 values are looked at first; the group of the 30 equal ones ends at the 50th.
    singular = np.concatenate([np.linspace(40, 21, 20), np.full(30, 10.0), np.linspace(5, 1, 30)])
    base = with_singular_values(singular, 100, 80)
    left, _, right = np.linalg.svd(base, full_matrices=False)
    inside, weights = left[:, 20:50], noise(30)
    direction = inside @ (weights / np.linalg.norm(weights))
    tuned = base + 100.0 * np.outer(direction, right[70])
    found = compare(tuned, base)
    assert found.left_cosines[0] == pytest.approx(1.0, abs=1e-2)


def test_the_gap_tells_whether_the_leading_vectors_are_determined() -> None:
    values = np.linspace(20, 1, 20)
    base = with_singular_values(values, 30, 20)
    # 16 - 15 and 1 - 0, of 20.
    assert compare(base, base, k=5).relative_gap == pytest.approx(1 / 20, rel=1e-6)
    assert compare(base, base, k=20).relative_gap == pytest.approx(1 / 20, rel=1e-6)


@pytest.mark.parametrize("shape", [(60, 40), (40, 60)])
def test_low_rank(shape: tuple[int, int]) -> None:
    base = with_singular_values(np.array([5.0, 3.0, 2.0]), *shape)
    found = compare(base, base)
    assert found.k == 3
    assert found.left_overlap == pytest.approx(1.0, abs=1e-9)
    # A zero singular value is no direction: what the tuning adds outside the three is an intruder.
    tuned = base + spike(shape, 50.0, 3)
    assert compare(tuned, base).n_intruders() == 1
    assert compare(base, heavy_tailed(*shape)).k == 3


def test_small_singular_values_come_from_an_svd() -> None:
    singular = 10.0 ** np.linspace(0, -9, 30)
    base = with_singular_values(singular, 50, 30)
    left, values, right = leading_singular_vectors(base, 30)
    np.testing.assert_allclose(values, singular, rtol=1e-5)
    np.testing.assert_allclose(np.abs(np.einsum("ij,ij->j", left, base @ right)), values, rtol=1e-5)


@pytest.mark.parametrize("shape", [(50, 30), (30, 50)])
@pytest.mark.parametrize("k", [1, 7, 30])
def test_leading_vectors(shape: tuple[int, int], k: int) -> None:
    values = heavy_tailed(*shape)
    left, singular, right = leading_singular_vectors(values, k)
    assert (left.shape, right.shape) == ((shape[0], k), (shape[1], k))
    np.testing.assert_allclose(singular, np.linalg.svd(values, compute_uv=False)[:k], rtol=1e-9)
    np.testing.assert_allclose(left.T @ values @ right, np.diag(singular), atol=1e-9 * singular[0])
    np.testing.assert_allclose(left.T @ left, np.eye(k), atol=1e-7)


@pytest.mark.parametrize("turn", [False, True])
@pytest.mark.parametrize("rank", [7, 30])
def test_blocks_of_rows(turn: bool, rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    base = with_singular_values(np.linspace(9, 1, rank), 200, 30)
    tuned = base + 0.1 * noise(200, 30)
    pair = (tuned.T, base.T) if turn else (tuned, base)
    whole = compare(*pair)
    monkeypatch.setattr("spectral.subspaces.BLOCK_VALUES", 1000)
    found = compare(*pair)
    for name in ("left_cosines", "right_cosines", "left_overlap", "right_overlap", "relative_change"):
        np.testing.assert_allclose(getattr(found, name), getattr(whole, name), rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("k", [0, -1, 31])
def test_impossible_numbers_of_vectors(k: int) -> None:
    with pytest.raises(OptionError, match=rf"^k must be from 1 to 30 for a matrix of shape \(50, 30\), got {k}$"):
        leading_singular_vectors(heavy_tailed(50, 30), k)


@pytest.mark.parametrize("k", [0, -3, 2.0, True, None])
def test_impossible_k(k: Any) -> None:
    with pytest.raises(OptionError, match=r"^k must be an integer of at least 1, got "):
        compare_subspaces(np.ones((3, 3)), np.ones((3, 3)), k)
    with pytest.raises(OptionError, match=r"^k must be an integer of at least 1, got "):
        compare_models({"a": np.ones((3, 3))}, {"a": np.ones((3, 3))}, k=k)


@pytest.mark.parametrize("shapes", [((3, 4), (4, 3)), ((3,), (3,)), ((2, 3, 4), (2, 3, 4))])
def test_impossible_shapes(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(OptionError, match=r"^expected two matrices of one shape, got "):
        compare_subspaces(np.ones(shapes[0]), np.ones(shapes[1]))


@pytest.mark.parametrize(
    ("values", "kind", "detail"),
    [
        (np.zeros((3, 4)), "all_zero", "all 12 values are zero"),
        (np.array([[1.0, np.nan], [np.inf, 1.0]]), "non_finite", "2 of 4 values are NaN or infinite"),
        (np.full((3, 4), 1e200), "overflow", "the squares exceed the range of float64"),
        (np.full((3, 4), 1e-200), "underflow", "the squares vanish in the range of float64"),
        (np.ones((0, 4)), "all_zero", "an empty matrix"),
    ],
)
def test_matrices_without_directions(values: NDArray[np.float64], kind: str, detail: str) -> None:
    good = np.ones(values.shape)
    assert compare_subspaces(values, good) == SpectrumFailure(kind=kind, detail=f"the model: {detail}")  # type: ignore[arg-type]
    if values.size:
        assert compare_subspaces(good, values) == SpectrumFailure(kind=kind, detail=f"the base: {detail}")  # type: ignore[arg-type]


def test_constant_matrices_and_vectors() -> None:
    assert compare(np.ones((5, 4)), np.full((5, 4), 2.0)).k == 1
    assert compare(np.ones((1, 4)), np.ones((1, 4))).left_overlap == pytest.approx(1.0)


def test_a_frozen_record_that_survives_pickling() -> None:
    values = heavy_tailed(30, 20)
    before = values.tobytes()
    found = compare(values, noise(30, 20))
    again = pickle.loads(pickle.dumps(found))
    for name in ("left_cosines", "right_cosines", "left_angles", "right_angles"):
        assert not getattr(again, name).flags.writeable
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    assert (again.k, again.relative_change) == (found.k, found.relative_change)
    assert values.tobytes() == before


# --- models -------------------------------------------------------------------------------------------------


def test_rows_of_two_models() -> None:
    names = ("a.weight", "b.weight", "c.weight")
    base = {name: heavy_tailed(60, 40, seed=seed) for seed, name in enumerate(names)}
    tuned = {**base, "b.weight": base["b.weight"] + spike((60, 40), 90.0, 5), "head.weight": noise(5, 4)}
    tuned["c.weight"] = np.zeros((60, 40))
    details = compare_models(tuned, base, n_workers=1).details.set_index("longname")
    assert details["num_intruders"].tolist()[:2] == [0, 1]
    assert details.loc["a", "relative_change"] == 0.0
    expected = 90.0 / np.linalg.norm(base["b.weight"])
    assert details.loc["b", "relative_change"] == pytest.approx(expected, rel=1e-9)
    assert details.loc["c", "reason"] == "the model: all 2400 values are zero"
    assert details.loc["head", "reason"] == "no tensor of this name in the other model"
    assert details.loc[["c", "head"], ["num_intruders", "left_overlap", "k"]].isna().all(axis=None)
    assert details["layer_id"].tolist() == [0, 1, 2, 3]


def test_a_convolution_is_one_matrix_of_all_its_slices() -> None:
    kernel = noise(12, 8, 3, 2)
    flat = unfold(as_weight_matrix(spec_of(kernel, "conv.weight"), kernel))
    assert flat.shape == (12, 48)
    np.testing.assert_allclose(
        np.linalg.svd(flat, compute_uv=False), np.linalg.svd(kernel.reshape(12, 48), compute_uv=False), rtol=1e-9
    )
    other = kernel + 0.1 * noise(12, 8, 3, 2, seed=1)
    (layer,) = compare_models({"conv.weight": other}, {"conv.weight": kernel}, k=3).layers
    assert layer.comparison is not None
    expected = compare(other.reshape(12, 48), kernel.reshape(12, 48), 3)
    assert layer.comparison.left_overlap == pytest.approx(expected.left_overlap, rel=1e-9)


def test_the_same_bits_on_any_number_of_workers() -> None:
    base = {f"l{seed}": noise(120, 90, seed=seed) for seed in range(6)}
    tuned = {name: values + 0.1 * noise(120, 90, seed=99) for name, values in base.items()}
    one, two = (compare_models(tuned, base, n_workers=n).details for n in (1, 2))
    assert one.equals(two)


def test_models_of_different_architecture() -> None:
    with pytest.raises(ModelMismatchError, match=r"only in the first: a; only in the second: b$"):
        compare_models({"a": np.ones((3, 4))}, {"b": np.ones((3, 5))})
