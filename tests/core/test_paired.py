"""Sketches of spectra, and the displacement between two."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral.paired import (
    SKETCH_BLOCKS,
    SKETCH_TOP,
    relative_displacement,
    sketch_counts,
    sketch_spectrum,
    spectral_displacement,
)
from tests.core.builders import heavy_tailed, spectrum_of


def test_counts_add_up() -> None:
    for n in range(1, 2001):
        counts = sketch_counts(n)
        assert counts.sum() == n
        assert counts.min() == 1
        assert len(counts) == min(n, SKETCH_TOP + SKETCH_BLOCKS)
        assert np.all(counts[:SKETCH_TOP] == 1)
        assert np.ptp(counts[SKETCH_TOP:]) <= 1 if n > SKETCH_TOP else True


@pytest.mark.parametrize("n", [1, 2, 31, 32, 33, 95, 96, 97, 500, 1999])
def test_sketch_keeps_the_largest_and_the_means_of_the_rest(n: int) -> None:
    evals = np.sort(heavy_tailed(n, seed=n) ** 2)
    singular = np.sqrt(evals)[::-1]
    sketch = sketch_spectrum(evals)
    np.testing.assert_array_equal(sketch[: min(n, SKETCH_TOP)], singular[:SKETCH_TOP])
    edges = np.cumsum(sketch_counts(n))
    for position, (begin, end) in enumerate(zip(np.append(0, edges[:-1]), edges, strict=True)):
        assert sketch[position] == pytest.approx(np.mean(singular[begin:end]), rel=1e-13)
    assert np.all(np.diff(sketch) <= 1e-13 * sketch[0])


def displacement(
    new: np.ndarray[tuple[int, ...], np.dtype[np.float64]], old: np.ndarray[tuple[int, ...], np.dtype[np.float64]]
) -> float:
    first, second = spectrum_of(new).evals, spectrum_of(old).evals
    return spectral_displacement(
        sketch_spectrum(first), sketch_spectrum(second), n_values=len(second), reference_norm=float(second.sum())
    )


@pytest.mark.parametrize("shape", [(9, 5), (60, 50), (300, 200)])
def test_zero_for_equal_weights(shape: tuple[int, int]) -> None:
    values = heavy_tailed(*shape)
    assert displacement(values, values.copy()) == 0.0


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 150), st.integers(2, 150), st.integers(0, 10_000), st.floats(-6.0, 1.0).map(lambda x: 10.0**x))
def test_bounded_by_the_relative_change_of_the_weights(n_rows: int, n_columns: int, seed: int, size: float) -> None:
    # Hoffman and Wielandt: Σ(σ_i(W) - σ_i(W'))² <= ‖W - W'‖_F².
    rng = np.random.default_rng(seed)
    old = rng.standard_t(2.5, (n_rows, n_columns))
    new = old + size * rng.standard_normal((n_rows, n_columns))
    bound = float(np.linalg.norm(new - old) / np.linalg.norm(old))
    assert 0.0 <= displacement(new, old) <= bound * (1.0 + 1e-9) + 1e-12


def test_without_blocks_it_is_the_displacement_of_the_whole_spectrum() -> None:
    old, new = heavy_tailed(60, 30, seed=1), heavy_tailed(60, 30, seed=2)
    first, second = (np.linalg.svd(values, compute_uv=False) for values in (new, old))
    expected = float(np.linalg.norm(first - second) / np.linalg.norm(old))
    assert displacement(new, old) == pytest.approx(expected, rel=1e-9)


def test_a_block_counts_as_many_values_as_stand_behind_it() -> None:
    # The means of 64 blocks, each repeated: what the sketch knows of the whole spectrum.
    old, new = heavy_tailed(500, 400, seed=1), heavy_tailed(500, 400, seed=2)
    counts = sketch_counts(400)
    whole_new, whole_old = (np.repeat(sketch_spectrum(spectrum_of(values).evals), counts) for values in (new, old))
    expected = float(np.linalg.norm(whole_new - whole_old) / np.linalg.norm(old))
    assert displacement(new, old) == pytest.approx(expected, rel=1e-9)


def test_scaling_by_a_factor_displaces_by_it() -> None:
    values = heavy_tailed(60, 30)
    assert displacement(values * 1.25, values) == pytest.approx(0.25, rel=1e-9)


def test_a_spike_is_seen_in_a_long_spectrum() -> None:
    old = np.random.default_rng(0).standard_normal((600, 400))
    new = old.copy()
    new[3, 4] += 100.0
    # The largest singular value goes from about √600 + √400 to 100.
    assert displacement(new, old) == pytest.approx((100.0 - 44.0) / np.linalg.norm(old), rel=0.1)


@pytest.mark.parametrize(("first", "second", "n"), [(96, 96, 90), (10, 96, 500), (96, 10, 500), (10, 10, 11)])
def test_sketches_of_other_spectra(first: int, second: int, n: int) -> None:
    with pytest.raises(
        ValueError, match=rf"^sketches of {n} values have {min(n, 96)} entries, got {first} and {second}$"
    ):
        spectral_displacement(np.ones(first), np.ones(second), n_values=n, reference_norm=1.0)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), size=st.sampled_from([0.0, 1e-6, 1e-2, 1.0]))
def test_whole_spectra_bound_their_sketches_and_are_bounded_by_the_weights(seed: int, size: float) -> None:
    """Jensen below, Hoffman-Wielandt above (Horn and Johnson, Matrix Analysis, 2nd ed., corollary 7.3.5)."""
    rng = np.random.default_rng(seed)
    old = rng.normal(size=(200, 150))
    new = old + size * rng.normal(size=(200, 150))
    evals, reference = (np.sort(np.linalg.svd(values, compute_uv=False)) ** 2 for values in (new, old))
    whole = relative_displacement(evals, reference)
    sketched = spectral_displacement(
        sketch_spectrum(evals), sketch_spectrum(reference), n_values=150, reference_norm=float(np.sum(reference))
    )
    assert sketched <= whole + 1e-12
    assert whole <= np.linalg.norm(new - old) / np.linalg.norm(old) + 1e-12
    assert relative_displacement(4.0 * evals, 4.0 * reference) == pytest.approx(whole, rel=1e-12)
    assert (whole == 0.0) == (size == 0.0)


def test_displacement_of_whole_spectra_by_hand() -> None:
    assert relative_displacement(np.array([1.0, 16.0]), np.array([0.0, 25.0])) == pytest.approx(np.sqrt(2.0) / 5.0)


@pytest.mark.parametrize(
    ("evals", "reference", "message"),
    [([1.0], [1.0, 2.0], "of one length"), ([], [], "of one length"), ([1.0], [0.0], "reference are zero")],
)
def test_displacement_refuses(evals: list[float], reference: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        relative_displacement(np.array(evals), np.array(reference))
