"""Slices, scales, orientation, Fourier transform and inverse, beside the incumbent and beside plain numpy."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import spectral.spectrum
from spectral.errors import OptionError
from spectral.forms import FormOptions, expand_specs, form_matrix, form_slices, form_spectrum
from spectral.loaders.protocol import LayerType, TensorInfo
from spectral.spectrum import Spectrum, SpectrumFailure, compute_spectrum
from spectral.weights import MatrixSpec, as_weight_matrix, plan_matrices
from tests.core.builders import heavy_tailed, spec_of, with_singular_values
from tests.core.formed import assert_same_row, formed_spectra, formed_spectrum
from tests.core.oracle import module_tree, oracle_rows, with_weights


def network() -> Any:
    """Kernels wide and tall, of several sizes, and layers that are no convolutions."""

    def weighted(layer: Any, seed: int) -> tuple[Any, Any]:
        return layer, heavy_tailed(*layer.weight.shape, seed=seed)

    return with_weights(
        {
            "tall": weighted(torch.nn.Conv2d(12, 40, 3), 1),
            "oblong": weighted(torch.nn.Conv2d(40, 24, (3, 1)), 2),
            "wide": weighted(torch.nn.Conv2d(30, 16, (1, 5)), 3),
            "pointwise": weighted(torch.nn.Conv2d(24, 24, 1), 4),
            "table": weighted(torch.nn.Embedding(100, 30), 5),
            "fc": weighted(torch.nn.Linear(30, 50), 6),
            "square": weighted(torch.nn.Linear(50, 50), 7),
        }
    )


def kernel_spec(*shape: int, dtype: str = "float64") -> MatrixSpec:
    info = TensorInfo(name="conv.weight", shape=shape, dtype=dtype)
    (spec,) = plan_matrices([info]).matrices
    return spec


@pytest.fixture(scope="module")
def model() -> Any:
    return network()


class TestParity:
    """The incumbent, run live."""

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"conv2d_norm": False},
            {"pool": False},
            {"pool": False, "conv2d_norm": False},
            {"pool": False, "inverse": True},
            {"fft": True},
            {"fft": True, "pool": False},
        ],
        ids=lambda options: " ".join(f"{name}={value}" for name, value in options.items()) or "default",
    )
    def test_rows(self, options: dict[str, bool], model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        import weightwatcher.weightwatcher

        # The incumbent's fft reads an attribute that is misspelt; with it, what follows can be compared.
        monkeypatch.setattr(weightwatcher.weightwatcher.WWLayer, "skippe", False, raising=False)
        rows = oracle_rows(model, **options)
        found = formed_spectra(model, **options)
        assert len(rows) == len(found) == (3 * 3 + 3 + 5 + 1 + 3 if options.get("pool") is False else 7)
        for row, (spec, spectrum) in zip(rows, found, strict=True):
            assert (row["longname"], row["N"], row["M"], row["rf"]) == (spec.name, spec.N, spec.M, spec.rf)
            assert row["num_evals"] == spec.n_evals == len(spectrum.evals)
            assert row.get("slice_id") == spec.slice_id
            assert spectrum.rf == (spec.rf if spec.slice_id is None else 1)
            # numpy transforms float32, which the incumbent gives it, in single precision.
            assert_same_row(spectrum, row, smallest=1e-4 if "fft" in options else 0.0)

    def test_wide_kernels_with_an_even_number_of_slices(self) -> None:
        """The incumbent exchanges N and M once for every slice, so that an even number of them gives Q < 1."""
        layer = torch.nn.Conv2d(30, 16, 2)
        model = with_weights({"even": (layer, heavy_tailed(*layer.weight.shape))})
        (row,) = oracle_rows(model)
        ((spec, spectrum),) = formed_spectra(model)
        assert (row["N"], row["M"], row["Q"]) == (16, 30, 16 / 30)
        assert (spec.N, spec.M, spec.Q) == (30, 16, 30 / 16)
        assert_same_row(spectrum, row)

    def test_fft_of_the_incumbent_crashes(self, model: Any) -> None:
        with pytest.raises(AttributeError, match="skippe"):
            oracle_rows(model, fft=True)

    def test_inverse(self, model: Any) -> None:
        """Of pooled slices the incumbent inverts the first ones again and again, once for every slice that follows."""
        rows = oracle_rows(model, inverse=True)
        for row, (spec, spectrum) in zip(rows, formed_spectra(model, inverse=True), strict=True):
            if spec.rf == 1:
                assert_same_row(spectrum, row)
                continue
            plain = next(each for other, each in formed_spectra(model) if other.name == spec.name)
            np.testing.assert_allclose(spectrum.evals, np.sort(1.0 / plain.evals), rtol=1e-12)
            back_and_forth = 0.0
            slices = [each for other, each in formed_spectra(model, pool=False) if other.name == spec.name]
            for place, each in enumerate(slices):
                evals = each.evals / spec.rf  # Pooled, the scale is √(1/2), not √(rf/2).
                n_inversions = spec.rf - place
                back_and_forth += float(np.sum(1.0 / evals if n_inversions % 2 else evals))
            assert row["norm"] == pytest.approx(back_and_forth, rel=1e-6)
            assert row["norm"] != pytest.approx(float(spectrum.evals.sum()), rel=1e-2)

    def test_glorot_fix_of_the_incumbent_does_nothing(self, model: Any) -> None:
        plain, fixed = oracle_rows(model), oracle_rows(model, glorot_fix=True)
        assert [row["norm"] for row in plain] == [row["norm"] for row in fixed]

    @pytest.mark.parametrize("channels", ["first", "last"])
    def test_channels_of_the_incumbent_crash(self, channels: str, model: Any) -> None:
        with pytest.raises(TypeError, match="'str' object is not callable"):
            oracle_rows(model, channels=channels)

    @pytest.mark.parametrize("shape", [(40, 12, 3, 2), (12, 40, 3, 3), (3, 2, 12, 40), (3, 3, 40, 12)])
    @pytest.mark.parametrize("channels", ["first", "last"])
    def test_channels_beside_its_slicing(self, channels: str, shape: tuple[int, ...]) -> None:
        """What its method cuts out when it is called with the word that its options cannot pass."""
        import weightwatcher.weightwatcher

        values = heavy_tailed(*shape)
        layer = object.__new__(weightwatcher.weightwatcher.WWLayer)
        slices, *_, rf = layer.conv2D_Wmats(values, channels)
        (spec,), left_out = expand_specs([kernel_spec(*shape)], FormOptions(channels=channels))  # type: ignore[arg-type]
        ours = as_weight_matrix(spec, values).slices
        assert left_out == ()
        assert (spec.rf, spec.kernel_first) == (rf, channels == "first")
        for mine, theirs in zip(ours, slices, strict=True):
            np.testing.assert_array_equal(mine if mine.shape == theirs.shape else mine.T, theirs)


class TestOptions:
    """What contradicts itself is refused."""

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"conv2d_fft": True, "pool": False}, "conv2d_fft and pool=False contradict"),
            ({"conv2d_fft": True, "fft": True}, "conv2d_fft and fft contradict"),
            ({"conv2d_fft": True, "intra": True}, "intra and conv2d_fft contradict"),
            ({"conv2d_fft": True, "stacked": True}, "stacked and conv2d_fft contradict"),
            ({"stacked": True, "intra": True}, "stacked and intra contradict"),
            ({"stacked": True, "pool": False}, "stacked and pool=False contradict"),
            ({"intra": True, "pool": False}, "intra and pool=False contradict"),
            ({"channels": "middle"}, "channels must be 'first', 'last' or None, got 'middle'"),
            ({"channels": "FIRST"}, "got 'FIRST'"),
            ({"pool": 1}, "pool must be True or False, got 1"),
            ({"inverse": None}, "inverse must be True or False, got None"),
        ],
    )
    def test_refused(self, options: dict[str, Any], match: str) -> None:
        with pytest.raises(OptionError, match=match):
            FormOptions(**options)

    def test_pickles(self) -> None:
        options = FormOptions(inverse=True, channels="last")
        assert pickle.loads(pickle.dumps(options)) == options


class TestExpansion:
    """Slices, scale and orientation, from headers alone."""

    def test_slices(self) -> None:
        values = heavy_tailed(12, 20, 2, 3)
        slices, _ = expand_specs([kernel_spec(*values.shape)], FormOptions(pool=False))
        assert [spec.slice_id for spec in slices] == list(range(6))
        assert {(spec.index, spec.name, spec.rf, spec.n_evals) for spec in slices} == {(0, "conv", 6, 12)}
        for spec in slices:
            assert spec.slice_id is not None
            matrix = as_weight_matrix(spec, values)
            assert not matrix.slices.flags.writeable
            np.testing.assert_array_equal(matrix.slices, values[None, :, :, spec.slice_id // 3, spec.slice_id % 3])

    def test_slices_of_keras_kernels(self) -> None:
        values = heavy_tailed(2, 3, 12, 20)
        slices, _ = expand_specs([kernel_spec(*values.shape)], FormOptions(pool=False))
        np.testing.assert_array_equal(as_weight_matrix(slices[4], values).slices[0], values[1, 1])

    @pytest.mark.parametrize(
        ("layer_type", "options", "scale"),
        [
            ("conv2d", {}, math.sqrt(1 / 2)),
            ("conv2d", {"pool": False}, math.sqrt(6 / 2)),
            ("conv2d", {"conv2d_norm": False}, 1.0),
            ("conv2d", {"conv2d_norm": False, "pool": False}, 1.0),
            ("conv2d", {"glorot_fix": True}, math.sqrt((12 + 20) * 6 / 2)),
            ("conv2d", {"glorot_fix": True, "pool": False}, math.sqrt((12 + 20) * 6 / 2)),
            ("conv1d", {}, 1.0),
            ("conv1d", {"pool": False}, 1.0),
            ("conv1d", {"glorot_fix": True}, math.sqrt((12 + 20) * 6 / 2)),
            ("dense", {}, 1.0),
            ("dense", {"glorot_fix": True}, math.sqrt((12 + 20) / 2)),
        ],
    )
    def test_scale(self, layer_type: str, options: dict[str, Any], scale: float) -> None:
        shape = {"conv2d": (12, 20, 2, 3), "conv1d": (12, 20, 6), "dense": (12, 20)}[layer_type]
        spec = spec_of(np.zeros(shape), "conv.weight")
        assert str(spec.layer_type) == layer_type
        expanded, _ = expand_specs([spec], FormOptions(**options))
        assert {each.scale for each in expanded} == {scale}

    @pytest.mark.parametrize("shape", [(200, 300), (64, 48, 3, 3)])
    def test_glorot_fix_undoes_glorot_initialisation(self, shape: tuple[int, ...]) -> None:
        """torch's own initialiser draws with deviation κ: what is left has elements of deviation 1."""
        torch.manual_seed(0)
        weight = torch.nn.init.xavier_normal_(torch.empty(shape)).numpy()
        (spec,), _ = expand_specs([spec_of(weight, "conv.weight")], FormOptions(glorot_fix=True))
        spectrum = compute_spectrum(as_weight_matrix(spec, weight))
        assert isinstance(spectrum, Spectrum)
        assert float(spectrum.evals.sum()) / weight.size == pytest.approx(1.0, rel=0.03)

    def test_orientation_that_leaves_vectors_is_listed(self) -> None:
        spec = kernel_spec(40, 12, 1, 3)
        kept, (left_out,) = expand_specs([spec], FormOptions(channels="first"))
        assert (kept, left_out.spec, left_out.by_choice) == ((), spec, False)
        assert left_out.reason.startswith("only vectors under channels='first'")

    def test_orientation_of_other_layers_stays(self) -> None:
        specs = [spec_of(np.zeros((12, 20))), spec_of(np.zeros((12, 20, 4)), "conv.weight")]
        assert expand_specs(specs, FormOptions(channels="first"))[0] == tuple(specs)

    def test_a_scale_of_other_layers_stays(self) -> None:
        """Only ``w_norm`` of 2-D convolutions is decided here."""
        from dataclasses import replace

        spec = replace(spec_of(np.zeros((12, 20))), scale=0.25)
        assert expand_specs([spec], FormOptions(conv2d_norm=False))[0] == (spec,)

    @given(rf=st.integers(1, 5), rows=st.integers(2, 9), columns=st.integers(2, 9), seed=st.integers(0, 99))
    def test_the_pool_is_the_union_of_its_slices(self, rf: int, rows: int, columns: int, seed: int) -> None:
        values = heavy_tailed(rows, columns, rf, 1, seed=seed)
        info = TensorInfo(name="c", shape=values.shape, dtype="float64", role=LayerType.CONV2D)
        specs = plan_matrices([info]).matrices
        (pooled,), _ = expand_specs(specs, FormOptions())
        slices, _ = expand_specs(specs, FormOptions(pool=False))
        whole = compute_spectrum(as_weight_matrix(pooled, values))
        single = [compute_spectrum(as_weight_matrix(spec, values)) for spec in slices]
        assert isinstance(whole, Spectrum)
        union = np.sort(np.concatenate([each.evals for each in single if isinstance(each, Spectrum)]))
        # The Gram matrix resolves eigenvalues to eps·λmax; pooled, one bad slice takes all of them to the SVD.
        np.testing.assert_allclose(whole.evals, union / rf, rtol=1e-6, atol=1e-12 * union[-1])


class TestFourier:
    """The real part of the 2-D transform of each slice."""

    @pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
    def test_beside_the_sums(self, dtype: Any) -> None:
        """Re F(u, v) = Σ W[a, b] cos(2π(ua/n + vb/m)), as two cosine-sine products."""
        slices = heavy_tailed(3, 6, 5).astype(dtype)
        rows = 2 * np.pi * np.outer(np.arange(6), np.arange(6)) / 6
        columns = 2 * np.pi * np.outer(np.arange(5), np.arange(5)) / 5
        exact = slices.astype(np.float64)
        expected = np.cos(rows) @ exact @ np.cos(columns) - np.sin(rows) @ exact @ np.sin(columns)
        formed = form_slices(slices, FormOptions(fft=True))
        np.testing.assert_allclose(formed, expected, rtol=1e-10, atol=1e-10)
        assert (formed.dtype, formed.flags.writeable) == (np.dtype(np.float64), False)

    def test_nothing_else_changes_values(self) -> None:
        values = heavy_tailed(12, 20)
        matrix = as_weight_matrix(spec_of(values), values)
        for options in (FormOptions(), FormOptions(glorot_fix=True), FormOptions(inverse=True)):
            assert form_matrix(matrix, options).slices is matrix.slices

    def test_what_is_not_finite_stays_where_it_is(self) -> None:
        values = heavy_tailed(12, 20)
        values[3, 4] = np.nan
        matrix = form_matrix(as_weight_matrix(spec_of(values), values), FormOptions(fft=True))
        failure = compute_spectrum(matrix)
        assert isinstance(failure, SpectrumFailure)
        assert failure.detail == "1 of 240 values are NaN or infinite, the first at layer.weight[3, 4]"

    def test_a_bad_slice_is_named_by_its_place_in_the_kernel(self) -> None:
        values = heavy_tailed(12, 20, 2, 3)
        values[3, 4, 1, 1] = np.inf
        slices, _ = expand_specs([kernel_spec(*values.shape)], FormOptions(pool=False))
        failures = [compute_spectrum(as_weight_matrix(spec, values)) for spec in slices]
        (failure,) = [each for each in failures if isinstance(each, SpectrumFailure)]
        assert failure.detail.endswith("the first at conv.weight[3, 4, 1, 1]")


class TestInverse:
    """1/λ, or the reason why there is none."""

    def test_singular(self) -> None:
        values = with_singular_values(np.array([3.0, 2.0, 1.0]), 9, 5)
        failure = _inverse_of(values)
        assert isinstance(failure, SpectrumFailure)
        assert failure.kind == "singular"
        assert failure.detail == "2 of 5 singular values are zero to rounding: no inverse"

    def test_planted(self) -> None:
        singular = np.geomspace(1e-6, 10.0, 12)
        spectrum = _inverse_of(with_singular_values(singular, 40, 12))
        assert isinstance(spectrum, Spectrum)
        np.testing.assert_allclose(spectrum.evals, np.sort(singular**-2.0), rtol=1e-6)
        # These remain those of the matrix.
        assert (spectrum.sv_max, spectrum.sv_min) == pytest.approx((10.0, 1e-6), rel=1e-6)

    def test_large_matrices_are_resolved(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Beyond MAX_EXACT_M the plain spectrum is content with less; the inverse is not."""
        monkeypatch.setattr(spectral.spectrum, "MAX_EXACT_M", 20)
        singular = np.concatenate([[3e-6], np.linspace(0.5, 1.0, 39)])
        values = with_singular_values(singular, 60, 40)
        spec = spec_of(values)
        plain = compute_spectrum(as_weight_matrix(spec, values))
        assert isinstance(plain, Spectrum)
        assert plain.method == "gram"
        spectrum = _inverse_of(values)
        assert isinstance(spectrum, Spectrum)
        assert spectrum.evals[-1] == pytest.approx(3e-6**-2.0, rel=1e-6)
        assert 1.0 / plain.evals[0] != pytest.approx(3e-6**-2.0, rel=1e-6)

    def test_beyond_the_range_of_float64(self) -> None:
        spectrum = _spectrum(np.array([1e-310, 1e-300]))
        failure = form_spectrum(spectrum, spec_of(np.zeros((5, 2))), FormOptions(inverse=True))
        assert isinstance(failure, SpectrumFailure)
        assert failure.kind == "overflow"

    @given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=9))
    def test_twice_is_the_spectrum_itself(self, evals: list[float]) -> None:
        spectrum = _spectrum(np.sort(evals))
        spec = spec_of(np.zeros((20, len(evals))))
        once = form_spectrum(spectrum, spec, FormOptions(inverse=True))
        assert isinstance(once, Spectrum)
        assert not once.evals.flags.writeable
        twice = form_spectrum(once, spec, FormOptions(inverse=True))
        assert isinstance(twice, Spectrum)
        np.testing.assert_allclose(twice.evals, spectrum.evals, rtol=1e-14)


def _inverse_of(values: Any) -> Spectrum | SpectrumFailure:
    from spectral.loaders import open_model

    return formed_spectrum(open_model({"layer.weight": values}), spec_of(values), inverse=True)


def _spectrum(evals: Any) -> Spectrum:
    singular = np.sqrt(evals)
    return Spectrum(
        evals=np.array(evals),
        N=20,
        M=len(evals),
        rf=1,
        sv_max=float(singular[-1]),
        sv_min=float(singular[0]),
        rank_loss=0,
        n_dead_rows=0,
        n_dead_columns=0,
        method="svd",
    )


class TestRealModel:
    """A square matrix of all-MiniLM-L6-v2."""

    @pytest.mark.parametrize("options", [{"inverse": True}, {"fft": True}], ids=["inverse", "fft"])
    def test_rows(self, options: dict[str, bool], minilm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        import weightwatcher.weightwatcher

        monkeypatch.setattr(weightwatcher.weightwatcher.WWLayer, "skippe", False, raising=False)
        model = minilm_layers(minilm)
        rows = oracle_rows(model, **options)
        found = formed_spectra(model, **options)
        for row, (spec, spectrum) in zip(rows, found, strict=True):
            assert row["longname"] == spec.name
            assert_same_row(spectrum, row, smallest=1e-4 if "fft" in options else 0.0)


def minilm_layers(path: Any) -> Any:
    """Return one matrix of the model, as a torch module."""
    from safetensors.torch import load_file

    name = "encoder.layer.0.attention.self.query.weight"
    return module_tree({name: load_file(path)[name]})
