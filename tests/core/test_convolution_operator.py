"""Singular values of a convolution, beside the operator written out as a matrix."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectral.analysis import analyze
from spectral.convolution_operator import GRID, complex_singular_values, conv2d_operator_spectrum
from spectral.forms import FormOptions, expand_specs
from spectral.loaders.protocol import LayerType, TensorInfo
from spectral.metrics import POWER_LAW_METRICS
from spectral.plots import plot_esd, plot_xmin_profile
from spectral.power_law import PowerLawFit, fit_power_law
from spectral.spectrum import Spectrum, SpectrumFailure
from spectral.weights import WeightMatrix, as_weight_matrix, plan_matrices
from tests.core.builders import heavy_tailed, spec_of, with_singular_values
from tests.core.formed import formed_spectra
from tests.core.oracle import oracle_rows, with_weights


def convolution(values: Any, *, norm: bool = False) -> WeightMatrix:
    """Return a torch kernel (out, in, k1, k2) as the pool of its slices."""
    info = TensorInfo(name="conv", shape=values.shape, dtype=values.dtype.name, role=LayerType.CONV2D)
    specs, _ = expand_specs(plan_matrices([info]).matrices, FormOptions(conv2d_norm=norm))
    return as_weight_matrix(specs[0], values)


def spectrum_of(matrix: WeightMatrix, grid: int = GRID) -> Spectrum:
    spectrum = conv2d_operator_spectrum(matrix, grid=grid)
    assert isinstance(spectrum, Spectrum), spectrum
    return spectrum


def operator(values: Any, n_rows: int, n_columns: int) -> Any:
    """Write the circular convolution as a matrix: torch applied to every unit image."""
    n_out, n_in, first, second = values.shape
    units = torch.eye(n_in * n_rows * n_columns, dtype=torch.float64).reshape(-1, n_in, n_rows, n_columns)
    # The last rows and columns again at the end, so that the window runs around the torus.
    around = torch.nn.functional.pad(units, (0, second - 1, 0, first - 1), mode="circular")
    images = torch.nn.functional.conv2d(around, torch.from_numpy(values.astype(np.float64)))
    return images.reshape(len(units), n_out * n_rows * n_columns).numpy().T


@pytest.mark.parametrize("grid", [4, 5])
@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (3, 4, 3, 3), (3, 3, 2, 3), (4, 3, 1, 3), (2, 3, 3, 1), (3, 2, 1, 1)])
def test_beside_the_written_out_operator(shape: tuple[int, ...], grid: int) -> None:
    values = heavy_tailed(*shape)
    spectrum = spectrum_of(convolution(values), grid)
    singular = np.linalg.svd(operator(values, grid, grid), compute_uv=False)
    np.testing.assert_allclose(np.sqrt(spectrum.evals), singular[::-1], rtol=1e-9, atol=1e-12)
    assert (spectrum.rf, len(spectrum.evals)) == (grid * grid, grid * grid * min(shape[:2]))
    assert (max(shape[:2]), min(shape[:2])) == (spectrum.N, spectrum.M)
    assert spectrum.sv_max == pytest.approx(singular[0], rel=1e-9)


def test_a_kernel_longer_than_the_grid_takes_its_own_length() -> None:
    values = heavy_tailed(3, 2, 5, 2)
    singular = np.linalg.svd(operator(values, 5, 3), compute_uv=False)
    spectrum = spectrum_of(convolution(values), 3)
    np.testing.assert_allclose(np.sqrt(spectrum.evals), singular[::-1], rtol=1e-9)


def test_beside_every_frequency() -> None:
    """No symmetry, no batches: an SVD of numpy's own transform at each of the 1024 frequencies."""
    values = heavy_tailed(7, 5, 3, 2).astype(np.float32)
    transformed = np.moveaxis(np.fft.fft2(values.astype(np.float64), (GRID, GRID), axes=(2, 3)), (2, 3), (0, 1))
    singular = np.linalg.svd(transformed, compute_uv=False).reshape(-1, 5)
    spectrum = spectrum_of(convolution(values))
    np.testing.assert_allclose(spectrum.evals, np.sort(singular.ravel() ** 2), rtol=1e-9)
    assert spectrum.sv_min == pytest.approx(singular[:, -1].max(), rel=1e-9)
    assert spectrum.rank_loss == 0


def test_batches_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = convolution(heavy_tailed(7, 5, 3, 3))
    whole = spectrum_of(matrix)
    monkeypatch.setattr("spectral.convolution_operator.BLOCK_VALUES", 7 * 5 * 3)
    np.testing.assert_allclose(spectrum_of(matrix).evals, whole.evals, rtol=1e-12)


def test_keras_kernels() -> None:
    values = heavy_tailed(5, 4, 3, 2)
    keras = np.ascontiguousarray(np.transpose(values, (2, 3, 1, 0)))
    info = TensorInfo(name="conv/kernel", shape=keras.shape, dtype="float64")
    specs, _ = expand_specs(plan_matrices([info]).matrices, FormOptions(conv2d_norm=False, channels="first"))
    spectrum = spectrum_of(as_weight_matrix(specs[0], keras))
    np.testing.assert_allclose(spectrum.evals, spectrum_of(convolution(values)).evals, rtol=1e-12)


@given(seed=st.integers(0, 999), factor=st.floats(1e-3, 1e3), k1=st.integers(1, 3), k2=st.integers(1, 3))
def test_laws(seed: int, factor: float, k1: int, k2: int) -> None:
    """Scale; transposed channels and a mirrored kernel (the adjoint); a shifted kernel (a unitary factor); Parseval."""
    values = heavy_tailed(3, 2, k1, k2, seed=seed)
    evals = spectrum_of(convolution(values), 4).evals
    close = {"rtol": 1e-8, "atol": 1e-9 * evals[-1]}
    np.testing.assert_allclose(
        spectrum_of(convolution(values * factor), 4).evals,
        evals * factor**2,
        **{**close, "atol": 1e-9 * evals[-1] * factor**2},
    )
    adjoint = np.ascontiguousarray(values.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1])
    np.testing.assert_allclose(spectrum_of(convolution(adjoint), 4).evals, evals, **close)
    shifted = np.pad(values, ((0, 0), (0, 0), (1, 0), (0, 1)))
    np.testing.assert_allclose(spectrum_of(convolution(shifted), 4).evals, evals, **close)
    assert evals.sum() == pytest.approx(16 * (values**2).sum(), rel=1e-10)


def test_scale() -> None:
    values = heavy_tailed(5, 4, 3, 3)
    plain, normed = spectrum_of(convolution(values)), spectrum_of(convolution(values, norm=True))
    np.testing.assert_allclose(normed.evals, plain.evals / 2, rtol=1e-14)
    assert normed.sv_max == pytest.approx(plain.sv_max / np.sqrt(2), rel=1e-14)


def test_rank_and_dead_channels() -> None:
    """A dead output channel of three, and the wavelength of two, which a kernel (1, 1) along an axis cannot see."""
    values = np.zeros((3, 3, 2, 1))
    values[:2, :, 0, 0] = values[:2, :, 1, 0] = heavy_tailed(2, 3)
    spectrum = spectrum_of(convolution(values), 4)
    # At u = 2 the kernel vanishes: 3 zeros; elsewhere the dead channel: 1.
    assert spectrum.rank_loss == 4 * (3 + 3 * 1)
    assert np.count_nonzero(spectrum.evals < 1e-12) == spectrum.rank_loss
    assert (spectrum.n_dead_rows, spectrum.n_dead_columns, spectrum.method) == (1, 0, "svd")


def test_complex_singular_values_are_resolved() -> None:
    rng = np.random.default_rng(0)
    left, _ = np.linalg.qr(rng.standard_normal((9, 4)) + 1j * rng.standard_normal((9, 4)))
    right, _ = np.linalg.qr(rng.standard_normal((4, 4)) + 1j * rng.standard_normal((4, 4)))
    singular = np.array([2e-6, 1e-4, 0.3, 2.0])
    matrices = np.stack([(left * singular) @ right, ((left * singular) @ right * 3.0)])
    expected = np.stack([singular, 3 * singular])
    np.testing.assert_allclose(complex_singular_values(matrices), expected, rtol=1e-6)
    np.testing.assert_allclose(complex_singular_values(matrices.swapaxes(1, 2)), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "kind", "detail"),
    [
        (np.zeros((3, 3, 2, 2)), "all_zero", "all 36 values are zero"),
        (np.full((3, 3, 2, 2), 1e200), "overflow", "the squares of the values exceed the range of float64"),
        (np.full((3, 3, 2, 2), 1e-200), "underflow", "the squares of the values vanish in the range of float64"),
    ],
)
def test_no_spectrum(values: Any, kind: str, detail: str) -> None:
    failure = conv2d_operator_spectrum(convolution(values))
    assert failure == SpectrumFailure(kind=kind, detail=detail)  # type: ignore[arg-type]


def test_not_finite() -> None:
    values = heavy_tailed(3, 3, 2, 2)
    values[1, 2, 0, 1] = np.nan
    failure = conv2d_operator_spectrum(convolution(values))
    assert isinstance(failure, SpectrumFailure)
    assert failure.detail == "1 of 36 values are NaN or infinite, the first at conv[1, 2, 0, 1]"


def test_misuse() -> None:
    values = heavy_tailed(9, 8)
    with pytest.raises(ValueError, match=r"layer: expected a 2-D convolution, got the shape \(9, 8\)"):
        conv2d_operator_spectrum(as_weight_matrix(spec_of(values), values))
    matrix = convolution(heavy_tailed(3, 3, 2, 2))
    with pytest.raises(ValueError, match="the grid must have at least 1 point a side, got 0"):
        conv2d_operator_spectrum(matrix, grid=0)
    one = replace(matrix, slices=matrix.slices[:1])
    with pytest.raises(ValueError, match=r"expected all slices of a 2-D convolution, got \(1, 3, 3\)"):
        conv2d_operator_spectrum(one)


class TestFit:
    """Copies of an eigenvalue are no evidence."""

    @pytest.mark.parametrize("fit", ["PL", "TPL"])
    def test_one_point_is_fitted_as_the_matrix_that_it_is(self, fit: str) -> None:
        values = heavy_tailed(80, 60, 1, 1)
        options: dict[str, Any] = {"fit": fit} | ({"bootstrap": 50, "compare_tails": True} if fit == "PL" else {})
        (plain,) = analyze({"conv": values}, **options).layers
        (layer,) = analyze({"conv": values}, conv2d_fft=True, **options).layers
        names = [name for name in plain.metrics if name in POWER_LAW_METRICS and name != "log_alpha_norm"]
        names += [name for name in plain.metrics if name.startswith(("pl_vs", "alpha_"))]
        assert len(names) >= 7
        for name in names:
            assert layer.metrics[name] == pytest.approx(plain.metrics[name], rel=1e-6), name
        assert isinstance(layer.spectrum, Spectrum)
        assert len(layer.spectrum.evals) == layer.metrics["num_evals"] == 60 * GRID**2
        assert layer.metrics["norm"] == pytest.approx(GRID**2 * plain.metrics["norm"], rel=1e-9)
        assert len(layer.fitted_evals) == 60
        assert not layer.fitted_evals.flags.writeable

    @pytest.mark.parametrize(("kernel", "n_distinct"), [((1, 3), 17), ((3, 1), 17), ((3, 3), 514)])
    def test_conjugate_frequencies_count_once(self, kernel: tuple[int, int], n_distinct: int) -> None:
        (layer,) = analyze({"conv": heavy_tailed(12, 10, *kernel)}, conv2d_fft=True).layers
        assert isinstance(layer.fit, PowerLawFit)
        # Of 32 frequencies on a line two are their own conjugates, of 32 x 32 four.
        assert len(layer.fitted_evals) == 10 * n_distinct
        assert isinstance(layer.spectrum, Spectrum)
        values, counts = np.unique(layer.spectrum.evals, return_counts=True)
        np.testing.assert_array_equal(values, layer.fitted_evals)
        assert set(counts) == ({1, 2} if kernel == (3, 3) else {GRID, 2 * GRID})
        direct = fit_power_law(values)
        assert layer.fit == direct
        assert layer.metrics["sigma"] == pytest.approx(
            (layer.metrics["alpha"] - 1) / layer.metrics["num_pl_spikes"] ** 0.5
        )

    def test_few_of_them_are_not_fitted(self) -> None:
        """5·1024 eigenvalues, but 5 facts."""
        (layer,) = analyze({"conv": heavy_tailed(7, 5, 1, 1)}, conv2d_fft=True).layers
        assert layer.status == "skipped"
        assert layer.reason == (
            "5 eigenvalues, at least 8 are needed for a fit (each counted once; with their copies they are 5120)"
        )
        assert layer.metrics["num_evals"] == 5120

    @pytest.mark.parametrize("options", [{}, {"xmax": -2}, {"fix_fingers": "clip_xmax"}], ids=str)
    def test_the_gap_counts_copies_on_both_sides(self, options: dict[str, Any]) -> None:
        values = heavy_tailed(80, 60, 1, 1)
        (layer,) = analyze({"conv": values}, conv2d_fft=True, detX=True, **options).layers
        n_spikes = layer.metrics["detX_num"] - layer.metrics["ERG_gap"]
        assert n_spikes == GRID**2 * layer.metrics["num_pl_spikes"]

    def test_other_layers_keep_their_copies(self) -> None:
        """Equal eigenvalues of a matrix are its own: nothing made them equal."""
        singular = np.repeat(np.geomspace(1.0, 30.0, 40), 2)
        values = with_singular_values(singular, 90, 80)
        (layer,) = analyze({"dense": values}, conv2d_fft=True).layers
        assert layer.distinct_evals is None
        assert layer.fitted_evals is layer.spectrum.evals  # type: ignore[union-attr]

    def test_inverted(self) -> None:
        values = heavy_tailed(80, 60, 1, 1)
        (plain,) = analyze({"conv": values}, inverse=True).layers
        (layer,) = analyze({"conv": values}, conv2d_fft=True, inverse=True).layers
        assert layer.metrics["alpha"] == pytest.approx(plain.metrics["alpha"], rel=1e-6)

    def test_a_layer_without_spectrum_has_none_to_fit(self) -> None:
        (layer,) = analyze({"conv": np.zeros((7, 5, 1, 1))}, conv2d_fft=True).layers
        assert len(layer.fitted_evals) == 0

    def test_the_record_survives_another_process(self) -> None:
        (layer,) = analyze({"conv": heavy_tailed(12, 10, 3, 3)}, conv2d_fft=True).layers
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(layer)).fitted_evals, layer.fitted_evals)

    def test_its_figures_show_the_fit_that_was_made(self) -> None:
        (layer,) = analyze({"conv": heavy_tailed(80, 60, 1, 1)}, conv2d_fft=True).layers
        (plain,) = analyze({"conv": heavy_tailed(80, 60, 1, 1)}).layers
        for draw in (plot_esd, plot_xmin_profile):
            curves = [
                max(np.size(line.get_xdata()) for axes in draw(record).axes for line in axes.get_lines())
                for record in (plain, layer)
            ]
            assert curves[0] == curves[1]
        lines = [
            next(line for line in plot_esd(record).axes[0].get_lines() if "power law" in str(line.get_label()))
            for record in (plain, layer)
        ]
        heights = [np.asarray(line.get_ydata(), dtype=np.float64) for line in lines]
        np.testing.assert_allclose(heights[0], heights[1], rtol=1e-6)


class TestBesideTheIncumbent:
    """Its conv2d_fft keeps the real part only, and for torch kernels takes the SVD over the frequencies."""

    def test_torch_kernels(self) -> None:
        layer = torch.nn.Conv2d(5, 7, 3)
        values = heavy_tailed(7, 5, 3, 3)
        (row,) = oracle_rows(with_weights({"conv": (layer, values)}), conv2d_fft=True)
        ((spec, spectrum),) = formed_spectra(with_weights({"conv": (layer, values)}), conv2d_fft=True)
        real = np.fft.fft2(values.astype(np.float32).astype(np.float64), (GRID, GRID)).real
        over_frequencies = np.sort(np.linalg.svd(real, compute_uv=False).ravel())[::-1] ** 2 / 2
        # It keeps 3·7·5 of the 7·5·32 values, as if every channel pair had a spectrum of its own.
        assert row["num_evals"] == 3 * 7 * 5
        assert row["norm"] == pytest.approx(over_frequencies[: 3 * 7 * 5].sum(), rel=1e-5)
        assert spectrum.evals[-1] != pytest.approx(row["lambda_max"], rel=1e-2)
        assert len(spectrum.evals) == 5 * GRID**2
        assert spec.n_evals == 5 * 9

    def test_kernels_of_one_point_have_its_norm(self) -> None:
        """The transform of a 1 x 1 kernel is constant, so that the axes do not matter: the Frobenius norm agrees."""
        layer = torch.nn.Conv2d(60, 80, 1)
        model = with_weights({"conv": (layer, heavy_tailed(80, 60, 1, 1))})
        (row,) = oracle_rows(model, conv2d_fft=True)
        (plain,) = oracle_rows(model)
        (ours,) = analyze(model, conv2d_fft=True).layers
        assert ours.metrics["norm"] == pytest.approx(row["norm"], rel=1e-6)
        # What it fits are one value for each of 4,800 pairs of channels; we fit what it fits without the option.
        assert row["num_evals"] == 60 * 80
        assert row["alpha"] != pytest.approx(plain["alpha"], rel=0.01)
        for name in ("alpha", "sigma", "D", "num_pl_spikes"):
            assert ours.metrics[name] == pytest.approx(plain[name], rel=1e-4)

    def test_keras_kernels_of_one_point(self) -> None:
        """Here the transform is real and the axes are right: all that it keeps are copies of the largest value."""
        layer = torch.nn.Conv2d(1, 1, (12, 20))
        model = with_weights({"conv": (layer, heavy_tailed(1, 1, 12, 20))})
        (row,) = oracle_rows(model, conv2d_fft=True)
        values = model.conv.weight.numpy()
        ((spec, spectrum),) = formed_spectra({"conv/kernel": values}, conv2d_fft=True)
        assert (spec.rows, spec.columns) == (12, 20)
        assert row["num_evals"] == 12 * 20
        assert spectrum.evals[-1] == pytest.approx(row["lambda_max"], rel=1e-6)
        assert row["norm"] == pytest.approx(float(spectrum.evals[-12 * 20 :].sum()), rel=1e-6)
