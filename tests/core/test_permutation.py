"""Permutations are permutations, depend on what they should, and on nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from spectral.permutation import MIN_SCRAMBLED, generator_for, scrambled, shuffled

SHAPES = [
    (1, 1),
    (1, 7),
    (8, 3),
    (63, 500),
    (64, 64),
    (64, 200),
    (200, 64),
    (128, 128),
    (3000, 64),
    (64, 3000),
    (9000, 65),
    (256, 260),
    (257, 512),
    (768, 256),
]


def indices(shape: tuple[int, int]) -> NDArray[np.int64]:
    return np.arange(shape[0] * shape[1], dtype=np.int64).reshape(shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_element_once_and_the_way_back(shape: tuple[int, int]) -> None:
    values = np.random.default_rng(0).standard_normal(shape)
    mixed = scrambled(values, generator_for(3, "a"))
    places = scrambled(indices(shape), generator_for(3, "a"))
    assert mixed.shape == shape
    assert np.array_equal(np.sort(places, axis=None), np.arange(values.size))
    assert np.array_equal(mixed.ravel(), values.ravel()[places.ravel()])
    restored = np.empty(values.size)
    restored[places.ravel()] = mixed.ravel()
    assert np.array_equal(restored.reshape(shape), values)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 150), st.integers(1, 150), st.integers(0, 2**64))
def test_any_shape_is_permuted(n_rows: int, n_columns: int, seed: int) -> None:
    for function in (scrambled, shuffled):
        mixed = function(indices((n_rows, n_columns)), generator_for(seed, "layer"))
        assert np.array_equal(np.sort(mixed, axis=None), np.arange(n_rows * n_columns))


@pytest.mark.parametrize("function", [scrambled, shuffled])
@pytest.mark.parametrize("shape", [(40, 30), (96, 70)])
def test_the_argument_stays_and_its_layout_does_not_matter(function: object, shape: tuple[int, int]) -> None:
    values = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    kept = values.copy()
    values.flags.writeable = False
    spread = np.zeros((shape[0] * 2, shape[1] * 3), dtype=np.float32)
    spread[::2, ::3] = values
    layouts = (values, np.asfortranarray(values), spread[::2, ::3], values[::-1][::-1])
    first, *others = [function(layout, generator_for(0, "x")) for layout in layouts]  # type: ignore[operator]
    for other in others:
        assert np.array_equal(first, other)
    assert np.array_equal(values, kept)
    assert not np.shares_memory(first, values)


def test_seed_name_and_replica_decide() -> None:
    def places(seed: int, name: str, *purpose: int) -> bytes:
        return scrambled(indices((64, 64)), generator_for(seed, name, *purpose)).tobytes()

    keys = [
        (0, "a"),
        (1, "a"),
        (2**32, "a"),
        (0, "b"),
        (0, ""),
        (0, "a", 0),
        (0, "a", 1),
        (0, "a", 0, 0),
        (0, "a", 1, 0),
    ]
    seen = [places(*key) for key in keys]  # type: ignore[arg-type]
    assert len(set(seen)) == len(keys)
    assert seen == [places(*key) for key in keys]  # type: ignore[arg-type]
    assert places(0, "\ud800 lone surrogate") != places(0, "�")


def test_the_same_numbers_everywhere() -> None:
    # Kept from the first release: a change here changes every user's traps.
    assert generator_for(0, "encoder.layer.0", 7).integers(0, 1000, 4).tolist() == [716, 762, 668, 462]


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="non-negative"):
        generator_for(-1, "a")


@pytest.mark.parametrize(
    "shape", [(MIN_SCRAMBLED, 64), (128, 128), (64, 400), (400, 64), (5000, 64), (256, 300), (2000, 256)]
)
def test_no_two_rows_are_mixed_alike(shape: tuple[int, int]) -> None:
    """Else two equal rows would stay equal, and keep their correlation."""
    columns = np.tile(np.arange(shape[1]), (shape[0], 1))
    rows = np.tile(np.arange(shape[0])[:, None], (1, shape[1]))
    for labels in (columns, rows):
        mixed = scrambled(labels, generator_for(5, "rows"))
        assert len(np.unique(mixed, axis=0)) == len(mixed)
        assert len(np.unique(mixed, axis=1).T) == mixed.shape[1]


@pytest.mark.parametrize("shape", [(128, 128), (512, 128), (128, 512), (512, 512)])
def test_scrambled_places_are_as_spread_as_shuffled_ones(shape: tuple[int, int]) -> None:
    """χ² of where the elements of one block of W come to lie, per degree of freedom: 1 for uniform places."""
    block = np.zeros(shape, dtype=bool)
    block[: shape[0] // 4, : shape[1] // 4] = True
    statistics = []
    for replica in range(40):
        mixed = scrambled(block, generator_for(0, "spread", replica))
        counts = mixed.reshape(8, shape[1] // 8, 8, shape[0] // 8).sum(axis=(1, 3))
        expected = block.sum() / 64
        statistics.append(float(np.sum((counts - expected) ** 2) / (expected * (1 - 1 / 16)) / 63))
    assert np.mean(statistics) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("n", [128, 256])
@pytest.mark.parametrize(
    "structure", ["rank one", "circulant", "equal rows", "scaled rows", "period of four", "smooth", "equal blocks"]
)
def test_structure_is_destroyed(structure: str, n: int) -> None:
    rng = np.random.default_rng(2)
    waves = np.cos(2.0 * np.pi * np.add.outer(np.arange(n) / 4, [0.0, 0.25]))
    signs = rng.choice([-1.0, 1.0], n)
    signs[: n // 2] = -signs[n // 2 :]  # mean zero: an offset is not destroyed by any permutation
    matrices = {
        "rank one": np.outer(signs, rng.choice([-1.0, 1.0], n)),
        "circulant": signs[np.add.outer(np.arange(n), np.arange(n)) % n],
        "equal rows": np.tile(signs, (n, 1)),
        "scaled rows": rng.standard_normal((n, n)) * np.linspace(0.5, 1.5, n)[:, None],
        "period of four": waves @ waves.T + 0.1 * rng.standard_normal((n, n)),
        "smooth": np.cos(np.add.outer(np.arange(n), np.arange(n)) * 6.0 * np.pi / n),
        "equal blocks": np.kron(rng.standard_normal((n // 4, n // 4)), np.ones((4, 4))),
    }
    matrix = matrices[structure]
    limit = 1.06 * 2.0 * np.sqrt(np.sum(matrix**2) / n)  # Marchenko-Pastur, and three widths
    assert spectral_norm(matrix) > limit or structure == "scaled rows"
    for replica in range(3):
        assert spectral_norm(scrambled(matrix, generator_for(0, structure, replica))) < limit


def spectral_norm(matrix: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.linalg.eigvalsh(matrix.T @ matrix)[-1]))


@pytest.mark.parametrize("shape", [(384, 384), (320, 512), (260, 512), (128, 128)])
@pytest.mark.parametrize("period", [2, 4, 8, 64])
def test_columns_that_differ_with_a_period_are_mixed(shape: tuple[int, int], period: int) -> None:
    """Every column takes as many elements of each kind as chance has it: χ² per degree of freedom."""
    kinds = np.tile(np.arange(shape[1]) % period, (shape[0], 1))
    mixed = scrambled(kinds, generator_for(0, "period"))
    for lines in (mixed, mixed.T):
        counts = np.array([np.bincount(line, minlength=period) for line in lines])
        expected = lines.shape[1] / period
        statistic = float(np.sum((counts - expected) ** 2) / expected / (len(lines) * (period - 1)))
        assert statistic == pytest.approx(1.0, abs=0.25)


@pytest.mark.parametrize("shape", [(128, 128), (200, 100), (100, 200)])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_heavy_line_is_no_heavier_than_elements_anywhere(shape: tuple[int, int], axis: int) -> None:
    """The largest singular value beside that after a uniform shuffle, over 40 draws each."""
    matrix = np.zeros(shape)
    np.moveaxis(matrix, axis, 0)[3] = 1.0
    samples = [
        [spectral_norm(function(matrix, generator_for(0, "line", replica))) for replica in range(40)]
        for function in (scrambled, shuffled)
    ]
    error = np.sqrt(sum(np.var(sample) for sample in samples) / 40)
    assert abs(np.mean(samples[0]) - np.mean(samples[1])) < 4.0 * error
