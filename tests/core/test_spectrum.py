"""Spectra against numpy's SVD, their invariances, and everything that has no spectrum."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral import lanes
from spectral import spectrum as spectrum_module
from spectral.metrics import spectrum_metrics
from spectral.spectrum import GRAM_FLOOR, Spectrum, SpectrumFailure
from tests.core.builders import compute, heavy_tailed, spectrum_of, with_singular_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

ACCURACY = 1e-6
"""What the module promises for every eigenvalue; most are far better."""


def slow_evals(slices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the pooled squares of numpy's singular values."""
    return np.sort(np.concatenate([np.linalg.svd(block, compute_uv=False) ** 2 for block in slices]))


SHAPES = [(2, 2), (60, 60), (100, 60), (60, 100), (2, 500), (500, 2), (300, 299), (1000, 40)]


class TestAgainstNumpy:
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("degrees", [2.0, 50.0])
    def test_dense(self, shape: tuple[int, int], degrees: float) -> None:
        values = heavy_tailed(*shape, seed=1, degrees=degrees)
        spectrum = spectrum_of(values)
        np.testing.assert_allclose(spectrum.evals, slow_evals(values[None]), rtol=ACCURACY)
        assert (spectrum.N, spectrum.M, spectrum.rf) == (max(shape), min(shape), 1)
        assert spectrum.sv_max == pytest.approx(np.linalg.norm(values, 2), rel=1e-12)
        assert spectrum.sv_min == pytest.approx(np.sqrt(slow_evals(values[None])[0]), rel=ACCURACY)
        assert len(spectrum.evals) == min(shape)

    @pytest.mark.parametrize(
        ("shape", "name", "axes", "scale"),
        [
            ((30, 20, 3, 3), "conv.weight", (2, 3, 0, 1), 0.5),
            ((20, 30, 1, 1), "conv.weight", (2, 3, 0, 1), 0.5),
            ((30, 20, 5), "conv.weight", (2, 0, 1), 1.0),
            ((3, 3, 20, 30), "conv.kernel", (0, 1, 2, 3), 0.5),
            ((5, 20, 30), "conv/kernel", (0, 1, 2), 1.0),
        ],
        ids=["conv2d", "pointwise", "conv1d", "keras conv2d", "keras conv1d"],
    )
    def test_pooled_convolutions(self, shape: tuple[int, ...], name: str, axes: tuple[int, ...], scale: float) -> None:
        values = heavy_tailed(*shape, seed=2)
        turned = values.transpose(axes)
        slices = turned.reshape(-1, *turned.shape[-2:])
        spectrum = spectrum_of(values, name)
        np.testing.assert_allclose(spectrum.evals, scale * slow_evals(slices), rtol=ACCURACY)
        smallest = max(np.linalg.svd(block, compute_uv=False)[-1] for block in slices)
        assert spectrum.sv_min == pytest.approx(np.sqrt(scale) * smallest, rel=ACCURACY)
        assert (spectrum.rf, spectrum.N, spectrum.M) == (len(slices), 30, 20)

    @pytest.mark.parametrize("shape", [(400, 384), (1536, 384), (64, 50)])
    @pytest.mark.parametrize("smallest", [1e-16, 1e-12, GRAM_FLOOR / 2, GRAM_FLOOR * 2, 1e-6])
    def test_promised_accuracy_of_a_single_small_eigenvalue(self, shape: tuple[int, int], smallest: float) -> None:
        # One small value below many large ones: the hardest case for a Gram matrix.
        singular = np.append(np.linspace(1.0, 1.05, min(shape) - 1), np.sqrt(smallest))
        values = with_singular_values(singular, *shape)
        spectrum = spectrum_of(values)
        np.testing.assert_allclose(spectrum.evals, slow_evals(values[None]), rtol=ACCURACY)
        assert spectrum.method == ("svd" if smallest < GRAM_FLOOR else "gram")

    @pytest.mark.parametrize(("smallest", "method", "accuracy"), [(1e-10, "gram", 1e-3), (1e-14, "svd", ACCURACY)])
    def test_large_matrices_have_a_lower_floor(
        self, monkeypatch: pytest.MonkeyPatch, smallest: float, method: str, accuracy: float
    ) -> None:
        monkeypatch.setattr("spectral.spectrum.MAX_EXACT_M", 50)
        singular = np.append(np.linspace(1.0, 1.05, 99), np.sqrt(smallest))
        values = with_singular_values(singular, 120, 100)
        spectrum = spectrum_of(values)
        assert spectrum.method == method
        exact = slow_evals(values[None])
        np.testing.assert_allclose(spectrum.evals[1:], exact[1:], rtol=ACCURACY)
        assert spectrum.evals[0] == pytest.approx(exact[0], rel=accuracy)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float32"])
    def test_narrow_types_are_exact(self, dtype: str) -> None:
        numpy_type = np.dtype(getattr(ml_dtypes, dtype, dtype))
        bits = np.random.default_rng(0).integers(0, 256, 64 * 48 * numpy_type.itemsize, dtype=np.uint8)
        values = bits.view(numpy_type).reshape(64, 48).copy()
        with np.errstate(invalid="ignore"):  # signalling NaN
            wide = values.astype(np.float64)
        # All bit patterns, subnormals too, but for those that are no numbers and those that dwarf all others.
        values[~np.isfinite(wide) | (np.abs(wide) > 1e3)] = 1
        narrow, exact = spectrum_of(values), spectrum_of(values.astype(np.float64))
        np.testing.assert_array_equal(narrow.evals, exact.evals)

    @pytest.mark.parametrize(
        ("dtype", "tiny"), [("bfloat16", 2.0**-133), ("float32", 2.0**-149), ("float16", 2.0**-24)]
    )
    def test_subnormal_values_are_no_zeros(self, dtype: str, tiny: float) -> None:
        numpy_type = np.dtype(getattr(ml_dtypes, dtype, dtype))
        spectrum = spectrum_of((np.eye(60) * tiny).astype(numpy_type))
        np.testing.assert_allclose(spectrum.evals, np.full(60, tiny * tiny), rtol=1e-14)
        assert (spectrum.rank_loss, spectrum.n_dead_rows) == (0, 0)


class TestInvariance:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_transposition(self, shape: tuple[int, int]) -> None:
        values = heavy_tailed(*shape, seed=3)
        np.testing.assert_allclose(spectrum_of(values.T.copy()).evals, spectrum_of(values).evals, rtol=ACCURACY)

    @settings(max_examples=25, deadline=None)
    @given(st.integers(2, 40), st.integers(2, 40), st.integers(0, 1000))
    def test_permutation_of_rows_and_columns(self, n_rows: int, n_columns: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        values = rng.standard_normal((n_rows, n_columns))
        moved = values[rng.permutation(n_rows)][:, rng.permutation(n_columns)]
        evals = spectrum_of(values).evals
        np.testing.assert_allclose(spectrum_of(moved).evals, evals, rtol=ACCURACY, atol=1e-13 * evals[-1])

    @settings(max_examples=25, deadline=None)
    @given(st.integers(2, 40), st.integers(2, 40), st.integers(0, 1000))
    def test_orthogonal_factors(self, n_rows: int, n_columns: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        values = rng.standard_normal((n_rows, n_columns))
        left, _ = np.linalg.qr(rng.standard_normal((n_rows, n_rows)))
        right, _ = np.linalg.qr(rng.standard_normal((n_columns, n_columns)))
        evals = spectrum_of(values).evals
        np.testing.assert_allclose(
            spectrum_of(left @ values @ right).evals, evals, rtol=ACCURACY, atol=1e-13 * evals[-1]
        )

    @pytest.mark.parametrize("factor", [2.0**-200, 2.0**-20, 2.0**40, 2.0**200])
    def test_scale(self, factor: float) -> None:
        values = heavy_tailed(80, 60, seed=4)
        np.testing.assert_array_equal(spectrum_of(values * factor).evals, spectrum_of(values).evals * factor**2)

    def test_sum_is_the_squared_frobenius_norm(self) -> None:
        values = heavy_tailed(80, 60, seed=5)
        assert float(np.sum(spectrum_of(values).evals)) == pytest.approx(float(np.sum(values**2)), rel=1e-12)


class TestStreaming:
    @pytest.mark.parametrize("n_values", [1, 61, 640, 4000])
    @pytest.mark.parametrize("shape", [(500, 60), (60, 500), (90, 90)])
    def test_blocks_do_not_matter(self, shape: tuple[int, int], n_values: int, monkeypatch: pytest.MonkeyPatch) -> None:
        values = heavy_tailed(*shape, seed=6)
        values[7] = values[:, 11] = 0.0
        whole = spectrum_of(values)
        monkeypatch.setattr(spectrum_module, "BLOCK_VALUES", n_values)
        blocked = spectrum_of(values)
        np.testing.assert_allclose(blocked.evals, whole.evals, rtol=ACCURACY, atol=1e-24 * whole.evals[-1])
        assert (blocked.n_dead_rows, blocked.n_dead_columns) == (whole.n_dead_rows, whole.n_dead_columns) == (1, 1)

    @pytest.mark.parametrize("rank", [1, 5, 39])
    @pytest.mark.parametrize("n_values", [40, 900, 10**9])
    def test_triangular_factors_of_blocks(self, rank: int, n_values: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(spectrum_module, "BLOCK_VALUES", n_values)
        planted = np.geomspace(10.0, 0.1, rank)
        for values in (with_singular_values(planted, 400, 40), with_singular_values(planted, 40, 400)):
            spectrum = spectrum_of(values)
            assert spectrum.method == "svd"
            assert spectrum.rank_loss == 40 - rank
            np.testing.assert_allclose(np.sqrt(spectrum.evals[-rank:]), planted[::-1], rtol=1e-12)

    def test_a_block_is_all_that_becomes_float64(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(spectrum_module, "BLOCK_VALUES", 600)
        blocks = list(spectrum_module._tall_blocks(heavy_tailed(60, 480).astype(np.float32)))
        assert {block.shape for block in blocks} == {(30, 60)}  # half a square
        assert {block.dtype for block in blocks} == {np.dtype(np.float64)}


class TestRank:
    @pytest.mark.parametrize("shape", [(100, 60), (60, 100), (60, 60)])
    @pytest.mark.parametrize("rank", [1, 2, 30, 59])
    def test_planted_rank(self, shape: tuple[int, int], rank: int) -> None:
        spectrum = spectrum_of(with_singular_values(np.linspace(1.0, 2.0, rank), *shape))
        metrics = spectrum_metrics(spectrum)
        assert (metrics["matrix_rank"], metrics["rank_loss"]) == (rank, 60 - rank)
        assert metrics["weak_rank_loss"] == 60 - rank

    def test_full_rank(self) -> None:
        metrics = spectrum_metrics(spectrum_of(heavy_tailed(100, 60)))
        assert (metrics["matrix_rank"], metrics["rank_loss"]) == (60, 0)

    def test_an_empty_slice_of_a_kernel(self) -> None:
        values = heavy_tailed(30, 20, 3)
        values[:, :, 1] = 0.0
        spectrum = spectrum_of(values, "conv.weight")
        # By definition every σ of a zero slice is at most 0 = max σ · N · eps.
        assert spectrum.rank_loss == 20
        assert np.count_nonzero(spectrum.evals == 0.0) == 20
        assert (spectrum.n_dead_rows, spectrum.n_dead_columns) == (0, 0)

    @pytest.mark.parametrize("shape", [(100, 60), (60, 100)])
    def test_dead_rows_and_columns(self, shape: tuple[int, int]) -> None:
        values = heavy_tailed(*shape)
        values[[3, 5, 8]] = 0.0
        values[:, [1, 9]] = 0.0
        spectrum = spectrum_of(values)
        assert (spectrum.n_dead_rows, spectrum.n_dead_columns) == (3, 2)

    def test_dead_means_dead_in_every_slice(self) -> None:
        values = heavy_tailed(30, 20, 3, 3)
        values[4] = 0.0
        values[:, 7, 0, 0] = 0.0
        spectrum = spectrum_of(values, "conv.weight")
        assert (spectrum.n_dead_rows, spectrum.n_dead_columns) == (1, 0)


class TestDegenerate:
    def test_constant(self) -> None:
        spectrum = spectrum_of(np.full((50, 20), 0.5))
        assert spectrum.evals[-1] == pytest.approx(0.25 * 1000)
        assert spectrum.rank_loss == 19
        assert np.all(spectrum.evals[:-1] < 1e-25)

    @pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float8_e4m3fn", "float8_e5m2"])
    @pytest.mark.parametrize("zero", [0.0, -0.0])
    def test_all_zero(self, dtype: str, zero: float) -> None:
        failure = compute(np.full((6, 5), zero).astype(np.dtype(getattr(ml_dtypes, dtype, dtype))))
        assert failure == SpectrumFailure(kind="all_zero", detail="all 30 values are zero")

    @pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"])
    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("shape", [(60, 50), (50, 60)])
    def test_not_finite(self, shape: tuple[int, int], bad: float, dtype: str) -> None:
        values = heavy_tailed(*shape).astype(np.dtype(getattr(ml_dtypes, dtype, dtype)))
        for row, column in ((31, 2), (31, 3), (45, 0)):
            values[row, column] = bad
        failure = compute(values)
        assert failure == SpectrumFailure(
            kind="non_finite", detail="3 of 3000 values are NaN or infinite, the first at layer.weight[31, 2]"
        )

    def test_signalling_nan(self) -> None:
        values = np.ones((60, 50), dtype=np.float32)
        values.view(np.uint32)[7, 8] = 0x7F800001
        failure = compute(values)
        assert isinstance(failure, SpectrumFailure)
        assert failure.detail == "1 of 3000 values are NaN or infinite, the first at layer.weight[7, 8]"

    def test_infinities_that_cancel(self) -> None:
        values = np.ones((10, 10))
        values[2, 2], values[2, 3] = np.inf, -np.inf
        failure = compute(values)
        assert isinstance(failure, SpectrumFailure)
        assert failure.detail == "2 of 100 values are NaN or infinite, the first at layer.weight[2, 2]"

    def test_not_finite_in_a_slice(self) -> None:
        values = heavy_tailed(30, 20, 3, 3)
        values[4, 5, 1, 2] = np.nan
        values[2, 3, 2, 0] = np.nan
        failure = compute(values, "conv.weight")
        assert isinstance(failure, SpectrumFailure)
        assert failure.detail == "2 of 5400 values are NaN or infinite, the first at conv.weight[4, 5, 1, 2]"

    @pytest.mark.parametrize("factor", [1e154, 1e200, 1e300])
    def test_overflow(self, factor: float) -> None:
        assert compute(np.eye(60) * factor + factor / 10) == SpectrumFailure(
            kind="overflow", detail="the squares of the values exceed the range of float64"
        )

    @pytest.mark.parametrize("factor", [1e-157, 1e-200, 5e-324])
    @pytest.mark.parametrize("name", ["fc.weight", "conv.weight"])
    def test_underflow(self, factor: float, name: str) -> None:
        shape = (60, 50) if name == "fc.weight" else (60, 50, 2, 2)
        assert compute(np.full(shape, factor), name) == SpectrumFailure(
            kind="underflow", detail="the squares of the values vanish in the range of float64"
        )

    @pytest.mark.parametrize("factor", [1e-150, 1e150])
    def test_extreme_but_representable(self, factor: float) -> None:
        values = heavy_tailed(60, 50)
        np.testing.assert_allclose(
            spectrum_of(values * factor).evals, spectrum_of(values).evals * factor * factor, rtol=ACCURACY
        )

    def test_lapack_gives_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(matrix: NDArray[np.float64], *, overwrite: bool) -> None:
            raise np.linalg.LinAlgError("Eigenvalues did not converge")

        monkeypatch.setattr(spectrum_module, "symmetric_eigenvalues", fail)
        assert compute(heavy_tailed(6, 5)) == SpectrumFailure(
            kind="no_convergence", detail="LAPACK found no spectrum: Eigenvalues did not converge"
        )


class TestRecord:
    def test_eigenvalues_ascend_and_are_read_only(self) -> None:
        spectrum = spectrum_of(heavy_tailed(30, 20, 3), "conv.weight")
        assert np.all(np.diff(spectrum.evals) >= 0.0)
        with pytest.raises(ValueError, match=r"read-only"):
            spectrum.evals[0] = 1.0

    def test_a_pickled_copy_is_the_same_and_read_only(self) -> None:
        spectrum = spectrum_of(heavy_tailed(60, 50))
        copy: Spectrum = pickle.loads(pickle.dumps(spectrum))
        np.testing.assert_array_equal(copy.evals, spectrum.evals)
        assert (copy.N, copy.sv_min, copy.method) == (spectrum.N, spectrum.sv_min, spectrum.method)
        assert not copy.evals.flags.writeable

    @pytest.mark.parametrize("dtype", [np.float64, np.float32])
    def test_values_are_not_written_to(self, dtype: Any) -> None:
        values = with_singular_values(np.ones(3), 60, 50).astype(dtype)
        before = values.copy()
        spectrum_of(values)
        np.testing.assert_array_equal(values, before)


class TestLanes:
    """A large matrix is added up on two threads: the sums are those of one thread, in another order."""

    @pytest.mark.parametrize("shape", [(90, 60), (60, 90), (7, 5), (64, 64)])
    def test_same_spectrum(self, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
        values = heavy_tailed(*shape)
        expected = spectrum_of(values)
        monkeypatch.setattr(spectrum_module, "BLOCK_VALUES", 4 * min(shape))
        monkeypatch.setattr(spectrum_module, "LANES_FROM", 1.0)
        monkeypatch.setattr(lanes, "LANES_FROM", 1.0)
        found = spectrum_of(values)
        np.testing.assert_allclose(found.evals, expected.evals, rtol=1e-9)
        assert (found.n_dead_rows, found.n_dead_columns) == (0, 0)
        assert [spectrum_of(values).evals.tobytes() for _ in range(5)] == [found.evals.tobytes()] * 5

    def test_dead_rows_are_counted_in_every_lane(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(spectrum_module, "BLOCK_VALUES", 40)
        monkeypatch.setattr(spectrum_module, "LANES_FROM", 1.0)
        monkeypatch.setattr(lanes, "LANES_FROM", 1.0)
        values = heavy_tailed(90, 10)
        values[::3] = 0.0
        assert spectrum_of(values).n_dead_rows == 30

    def test_an_overflow_is_found_in_every_lane(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(spectrum_module, "BLOCK_VALUES", 40)
        monkeypatch.setattr(spectrum_module, "LANES_FROM", 1.0)
        monkeypatch.setattr(lanes, "LANES_FROM", 1.0)
        values = heavy_tailed(90, 10)
        values[70, 3] = 1e200
        found = compute(values)
        assert isinstance(found, SpectrumFailure)
        assert found.kind == "overflow"


@pytest.mark.filterwarnings("error")
def test_a_signalling_nan_of_bfloat16_and_a_sum_beyond_float64_warn_of_nothing() -> None:
    bits = np.random.default_rng(0).standard_normal((100, 80)).astype(ml_dtypes.bfloat16)
    bits.view(np.uint16)[3, 4] = 0x7F81
    found = compute(bits)
    assert isinstance(found, SpectrumFailure)
    assert found.detail == "1 of 8000 values are NaN or infinite, the first at layer.weight[3, 4]"
    found = compute(np.random.default_rng(0).standard_normal((300, 200)) * 1e152)
    assert isinstance(found, SpectrumFailure)
    assert found.kind == "overflow"
