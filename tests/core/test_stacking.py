"""All layers as one matrix, beside the incumbent and beside scipy."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch

from spectral.errors import ModelError, OptionError
from spectral.loaders import open_model
from spectral.loaders.protocol import LayerType, TensorSource
from spectral.spectrum import Spectrum, SpectrumFailure, compute_spectrum
from spectral.stacking import GAUSSIAN_MAD, STACKED_NAME, StackedSource, stacked_source
from spectral.weights import as_weight_matrix, plan_matrices
from tests.core.builders import heavy_tailed
from tests.core.formed import assert_same_row, formed_spectra
from tests.core.oracle import module_tree, oracle_rows, with_weights


def stack_of(tensors: dict[str, Any]) -> StackedSource:
    source = open_model(tensors)
    return stacked_source(source, plan_matrices(source.tensors()).matrices)


def values_of(tensors: dict[str, Any]) -> Any:
    return stack_of(tensors).load(STACKED_NAME)


def standardised(values: Any) -> Any:
    return (values - np.median(values)) / scipy.stats.median_abs_deviation(values)


def test_one_below_the_other() -> None:
    first, second = heavy_tailed(9, 5), heavy_tailed(4, 7, seed=1)
    found = values_of({"a": first, "b": second})
    expected = np.zeros((13, 7))
    expected[:9, :5], expected[9:] = standardised(first), standardised(second)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_slices_side_by_side() -> None:
    """Torch kernels stand tall, Keras kernels lie wide (parity)."""
    torch_kernel, keras_kernel = heavy_tailed(4, 9, 2, 1), heavy_tailed(1, 2, 9, 4)
    found = values_of({"a.conv": torch_kernel})
    np.testing.assert_allclose(
        found, standardised(np.hstack([torch_kernel[:, :, 0, 0].T, torch_kernel[:, :, 1, 0].T])), rtol=1e-12
    )
    found = values_of({"a.conv": keras_kernel})
    np.testing.assert_allclose(found, standardised(np.hstack([keras_kernel[0, 0].T, keras_kernel[0, 1].T])), rtol=1e-12)


def test_view() -> None:
    stacked = stack_of({"a": heavy_tailed(9, 5).astype(np.float32), "b": heavy_tailed(4, 7).astype(np.float16)})
    assert isinstance(stacked, TensorSource)
    (info,) = stacked.tensors()
    assert (info.name, info.shape, info.dtype, info.role) == ("Stacked Layer", (13, 7), "float32", LayerType.STACKED)
    values = stacked.load(STACKED_NAME)
    assert (values.shape, values.dtype.name) == (info.shape, info.dtype)
    (spec,) = plan_matrices([info]).matrices
    assert (spec.layer_type, spec.name, spec.scale, spec.spectral_power) == (LayerType.STACKED, STACKED_NAME, 1.0, 2)
    again = pickle.loads(pickle.dumps(stacked))
    np.testing.assert_array_equal(again.load(STACKED_NAME), values)
    with pytest.raises(ModelError, match="dict: no tensor 'a', only 'Stacked Layer'"):
        stacked.load("a")


def test_arguments_stay_as_they_are() -> None:
    values = heavy_tailed(9, 5)
    before = values.copy()
    values_of({"a": values})
    np.testing.assert_array_equal(values, before)


class TestDegenerateColumns:
    """Where the median absolute deviation is 0."""

    def test_pruned(self) -> None:
        values = heavy_tailed(40, 5)
        values[:, 1] = np.where(np.arange(40) < 30, 0.0, values[:, 1])
        found = values_of({"a": values})
        with np.errstate(divide="ignore", invalid="ignore"):
            theirs = standardised(values)
        assert not np.all(np.isfinite(theirs[:, 1]))
        expected = (values[:, 1] - np.median(values)) / (GAUSSIAN_MAD * values[:, 1].std())
        np.testing.assert_allclose(found[:, 1], expected, rtol=1e-12)
        others = [0, 2, 3, 4]
        np.testing.assert_allclose(found[:, others], theirs[:, others], rtol=1e-12)

    def test_constant(self) -> None:
        values = heavy_tailed(40, 5)
        values[:, 2] = 70.1
        assert not values_of({"a": values})[:, 2].any()

    def test_the_substitute_is_the_deviation_of_gaussian_values(self) -> None:
        assert pytest.approx(scipy.stats.norm.ppf(0.75), rel=1e-15) == GAUSSIAN_MAD


def test_what_is_not_finite_stays_where_it_is() -> None:
    bad = heavy_tailed(9, 5)
    bad[2, 3] = np.nan
    stacked = stack_of({"a": heavy_tailed(4, 7), "b": bad})
    (spec,) = plan_matrices(stacked.tensors()).matrices
    failure = compute_spectrum(as_weight_matrix(spec, stacked.load(STACKED_NAME)))
    assert isinstance(failure, SpectrumFailure)
    assert failure.detail == "1 of 91 values are NaN or infinite, the first at Stacked Layer[6, 3]"


def test_nothing_to_stack() -> None:
    with pytest.raises(OptionError, match="dict: stacked needs at least one layer, none is selected"):
        stack_of({"bias": np.zeros(3)})


def model() -> Any:
    def weighted(layer: Any, seed: int) -> tuple[Any, Any]:
        return layer, heavy_tailed(*layer.weight.shape, seed=seed)

    return with_weights(
        {
            "tall": weighted(torch.nn.Conv2d(12, 70, 3), 1),
            "wide": weighted(torch.nn.Conv2d(30, 12, (3, 1)), 2),
            "table": weighted(torch.nn.Embedding(100, 30), 3),
            "fc": weighted(torch.nn.Linear(60, 50), 4),
        }
    )


class TestParity:
    """The incumbent, run live."""

    def test_row(self) -> None:
        (row,) = oracle_rows(model(), stacked=True)
        ((spec, spectrum),) = formed_spectra(model(), stacked=True)
        assert (row["name"], row["layer_type"]) == (spec.name, spec.layer_type.value)
        assert (row["N"], row["M"], row["rf"], row["num_evals"]) == (spec.N, spec.M, spec.rf, spec.n_evals)
        assert_same_row(spectrum, row)

    def test_the_incumbent_keeps_as_many_values_as_the_first_layer_has(self) -> None:
        """The width of the stack is 108, but where a narrow layer comes first only its 30 eigenvalues are taken."""
        layers = dict(model().named_children())
        reordered = torch.nn.Sequential()
        for name in ("table", "tall", "fc"):
            reordered.add_module(name, layers[name])
        (row,) = oracle_rows(reordered, stacked=True)
        ((spec, spectrum),) = formed_spectra(reordered, stacked=True)
        assert (row["M"], row["num_evals"], spec.n_evals) == (108, 30, 108)
        assert row["lambda_max"] == pytest.approx(spectrum.evals[-1], rel=1e-6)
        assert row["norm"] == pytest.approx(float(spectrum.evals[-30:].sum()), rel=1e-6)

    def test_real_model(self, minilm: Any) -> None:
        from safetensors.torch import load_file

        names = ("key", "query", "value")
        wanted = [f"encoder.layer.0.attention.self.{name}.weight" for name in names]
        tensors = load_file(minilm)
        layers = module_tree({name: tensors[name] for name in wanted})
        (row,) = oracle_rows(layers, stacked=True)
        ((spec, spectrum),) = formed_spectra(layers, stacked=True)
        assert (spec.N, spec.M) == (row["N"], row["M"]) == (1152, 384)
        assert_same_row(spectrum, row)


def test_the_stack_is_the_sum_of_its_parts() -> None:
    """The Gram matrix of a stack is the sum of the padded Gram matrices of its layers."""
    tensors = {"a": heavy_tailed(9, 5), "b": heavy_tailed(4, 7, seed=1), "c": heavy_tailed(12, 6, seed=2)}
    gram = np.zeros((7, 7))
    for values in tensors.values():
        part = standardised(values)
        n = part.shape[1]
        gram[:n, :n] += part.T @ part
    ((_, spectrum),) = formed_spectra(tensors, stacked=True)
    assert isinstance(spectrum, Spectrum)
    np.testing.assert_allclose(spectrum.evals, np.linalg.eigvalsh(gram), rtol=1e-9)
