"""Products of successive layers, beside the incumbent and beside plain numpy."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import spectral.intra
from spectral.errors import ModelError, OptionError
from spectral.intra import IntraSource, UnalignedPair, intra_source
from spectral.loaders import open_model
from spectral.loaders.protocol import LayerType, TensorSource
from spectral.spectrum import Spectrum, SpectrumFailure
from spectral.weights import plan_matrices
from tests.core.builders import heavy_tailed
from tests.core.formed import assert_same_row, formed_spectra, formed_spectrum
from tests.core.oracle import module_tree, oracle_rows, with_weights


def products(tensors: dict[str, Any], **options: Any) -> IntraSource:
    source = open_model(tensors)
    return intra_source(source, plan_matrices(source.tensors()).matrices, **options)


def product(first: Any, second: Any, **options: Any) -> Any:
    return products({"a": first, "b": second}, **options).load("0 X 1")


def normed(values: Any) -> Any:
    return values / np.linalg.norm(values)


@pytest.mark.parametrize(
    ("first", "second"),
    [((9, 5), (5, 7)), ((5, 9), (5, 7)), ((9, 5), (7, 5)), ((5, 9), (7, 5)), ((5, 5), (5, 7)), ((5, 5), (7, 5))],
)
def test_the_shared_dimension_meets(first: tuple[int, int], second: tuple[int, int]) -> None:
    a, b = heavy_tailed(*first), heavy_tailed(*second, seed=1)
    left = a if a.shape[1] == 5 else a.T
    right = b if b.shape[0] == 5 else b.T
    np.testing.assert_allclose(product(a, b, sparsify=False), normed(left) @ normed(right), rtol=1e-12)


def test_the_larger_of_two_shared_dimensions_meets() -> None:
    a, b = heavy_tailed(9, 5), heavy_tailed(9, 5, seed=1)
    np.testing.assert_allclose(product(a, b, sparsify=False), normed(a).T @ normed(b), rtol=1e-12)


def test_view() -> None:
    tensors = {
        "e.first.weight": heavy_tailed(9, 5),
        "e.second.weight": heavy_tailed(5, 7).astype(np.float32),
        "e.third.weight": heavy_tailed(8, 6),
        "e.fourth.weight": heavy_tailed(8, 6, seed=2),
    }
    source = products(tensors, sparsify=False)
    assert isinstance(source, TensorSource)
    assert [(info.name, info.shape, info.dtype, info.role, info.max_rank) for info in source.tensors()] == [
        ("0 X 1", (9, 7), "float64", LayerType.INTRA, 5),
        ("2 X 3", (6, 6), "float64", LayerType.INTRA, None),
    ]
    assert source.longnames == {"0 X 1": "e.first X e.second", "2 X 3": "e.third X e.fourth"}
    reason = "no shared dimension: 5 x 7 and 8 x 6"
    assert source.unaligned == (UnalignedPair(name="1 X 2", longname="e.second X e.third", reason=reason),)
    for info in source.tensors():
        assert source.load(info.name).shape == info.shape
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again.load("2 X 3"), source.load("2 X 3"))
    with pytest.raises(ModelError, match="dict: no product '1 X 2' of successive layers"):
        source.load("1 X 2")


def test_the_spectrum_is_of_singular_values() -> None:
    """σ of the product in place of λ, √σ in place of σ, and no more of them than the shared dimension lets be."""
    a, b = heavy_tailed(9, 5), heavy_tailed(5, 7, seed=1)
    ((spec, spectrum),) = formed_spectra({"a": a, "b": b}, intra=True, sparsify=False)
    singular = np.linalg.svd(normed(a) @ normed(b), compute_uv=False)[4::-1]
    assert (spec.n_evals, spec.spectral_power) == (5, 1)
    np.testing.assert_allclose(spectrum.evals, singular, rtol=1e-9)
    assert (spectrum.sv_max, spectrum.sv_min) == pytest.approx((singular[-1] ** 0.5, singular[0] ** 0.5), rel=1e-9)
    assert spectrum.rank_loss == 0
    ((_, inverted),) = formed_spectra({"a": a, "b": b}, intra=True, sparsify=False, inverse=True)
    np.testing.assert_allclose(inverted.evals, 1.0 / singular[::-1], rtol=1e-9)


def test_a_real_loss_of_rank_is_counted() -> None:
    a, b = heavy_tailed(9, 5), heavy_tailed(5, 7, seed=1)
    a[:, 0] = 0.0
    source = products({"a": a, "b": b}, sparsify=False)
    (spec,) = plan_matrices(source.tensors()).matrices
    spectrum = formed_spectrum(source, spec)
    assert isinstance(spectrum, Spectrum)
    assert len(spectrum.evals) == 5
    failure = formed_spectrum(source, spec, inverse=True)
    assert isinstance(failure, SpectrumFailure)
    assert failure.detail == "1 of 5 singular values are zero to rounding: no inverse"


@pytest.mark.parametrize(
    ("value", "kind"), [(np.nan, "non_finite"), (np.inf, "non_finite"), (0.0, "all_zero")], ids=str
)
@pytest.mark.parametrize("sparsify", [True, False])
def test_degenerate(value: float, kind: str, sparsify: bool) -> None:
    source = products({"a": np.full((9, 5), value), "b": heavy_tailed(5, 7)}, sparsify=sparsify)
    (spec,) = plan_matrices(source.tensors()).matrices
    failure = formed_spectrum(source, spec)
    assert isinstance(failure, SpectrumFailure)
    assert failure.kind == kind


def test_a_product_too_large_to_be_made_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectral.intra, "MAX_PRODUCT_VALUES", 62)
    source = products({"a": heavy_tailed(9, 5), "b": heavy_tailed(5, 7), "c": heavy_tailed(7, 6)})
    assert [info.name for info in source.tensors()] == ["1 X 2"]
    assert source.unaligned[0].reason == "a product of 9 x 7 values is too large to be made"


@pytest.mark.parametrize(
    ("tensors", "options", "match"),
    [
        ({"a": np.ones((9, 5))}, {}, "dict: intra needs at least two layers, 1 selected"),
        ({"a": np.ones((9, 5)), "b": np.ones((9, 5))}, {"seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"a": np.ones((9, 5)), "b": np.ones((9, 5))}, {"seed": True}, "seed must be an integer"),
        ({"a": np.ones((9, 5)), "b": np.ones((9, 5))}, {"seed": 1.5}, "seed must be an integer"),
    ],
)
def test_refused(tensors: dict[str, Any], options: dict[str, Any], match: str) -> None:
    with pytest.raises(OptionError, match=match):
        products(tensors, **options)


@given(factor=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
def test_laws(factor: float, seed: int) -> None:
    """The scale of either layer cancels; a rotation of the outer side changes no singular value."""
    a, b = heavy_tailed(9, 5, seed=seed), heavy_tailed(5, 7, seed=seed + 1)
    x = product(a, b, sparsify=False)
    np.testing.assert_allclose(product(a * factor, b, sparsify=False), x, rtol=1e-9, atol=1e-14)
    rotation, _ = np.linalg.qr(heavy_tailed(9, 9, seed=seed + 2))
    rotated = np.linalg.svd(product(rotation @ a, b, sparsify=False), compute_uv=False)
    np.testing.assert_allclose(rotated, np.linalg.svd(x, compute_uv=False), rtol=1e-9, atol=1e-14)


class TestSparsify:
    """A random matrix of zeros and ones between the layers."""

    def test_is_a_matrix_of_zeros_and_ones(self) -> None:
        """With the identity on its left it can be read off: X = S·W1 / (‖I‖·‖W1‖ + √‖S‖)."""
        n = 12
        identity = np.eye(n)
        x = product(identity, np.eye(n))
        ones = np.count_nonzero(x)
        assert 0.3 * n * n < ones < 0.7 * n * n
        np.testing.assert_allclose(x[x != 0], 1.0 / (n + np.sqrt(np.sqrt(ones))), rtol=1e-12)

    def test_blocks_are_of_one_matrix(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Drawn row by row, S has the same distribution; what it multiplies must be the same rows."""
        monkeypatch.setattr(spectral.intra, "_BLOCK_ROWS", 5)
        n = 12
        bits = product(np.eye(n), np.eye(n)) != 0
        left = heavy_tailed(4, n)
        generator = spectral.intra._generator(0, "a X b")
        found, ones = spectral.intra._times_random_bits(left, generator)
        assert ones == bits.sum()
        np.testing.assert_allclose(found, left @ bits, rtol=1e-12)

    def test_the_seed_and_the_names_decide(self) -> None:
        a, b = heavy_tailed(9, 5), heavy_tailed(5, 7)
        x = product(a, b, seed=3)
        np.testing.assert_array_equal(product(a, b, seed=3), x)
        assert not np.array_equal(product(a, b, seed=4), x)
        # Another layer before them changes the ids, not the bits.
        shifted = products({"zero": heavy_tailed(3, 3), "a": a, "b": b}, seed=3)
        np.testing.assert_array_equal(shifted.load("1 X 2"), x)
        renamed = products({"a": a, "c": b}, seed=3)
        assert not np.array_equal(renamed.load("0 X 1"), x)

    def test_in_distribution_as_the_incumbent(self) -> None:
        """The means of 20 draws, where one draw varies by a few per cent: within 4 standard errors."""
        model = network("square", "fc")
        # The incumbent draws from the global state.
        state = np.random.get_state()  # noqa: NPY002
        np.random.seed(0)  # noqa: NPY002
        try:
            rows = [oracle_rows(model, intra=True, sparsify=True)[0] for _ in range(20)]
        finally:
            np.random.set_state(state)  # noqa: NPY002
        ours = [formed_spectra(model, intra=True, seed=seed)[0][1] for seed in range(20)]
        for name, mine in (
            ("norm", [float(each.evals.sum()) for each in ours]),
            ("lambda_max", [float(each.evals[-1]) for each in ours]),
            ("stable_rank", [float(each.evals.sum() / each.evals[-1]) for each in ours]),
        ):
            theirs = [row[name] for row in rows]
            error = np.hypot(np.std(mine, ddof=1), np.std(theirs, ddof=1)) / np.sqrt(20)
            assert abs(np.mean(mine) - np.mean(theirs)) < 4 * error, name
            assert error < 0.05 * np.mean(theirs), name


def network(*names: str) -> Any:
    def weighted(layer: Any, seed: int) -> tuple[Any, Any]:
        return layer, heavy_tailed(*layer.weight.shape, seed=seed)

    layers = {
        "tall": weighted(torch.nn.Conv2d(12, 40, 3), 1),
        "oblong": weighted(torch.nn.Conv2d(40, 24, (3, 1)), 2),
        "table": weighted(torch.nn.Embedding(100, 30), 3),
        "fc": weighted(torch.nn.Linear(50, 30), 4),
        "square": weighted(torch.nn.Linear(50, 50), 5),
        "head": weighted(torch.nn.Linear(50, 20), 6),
    }
    return with_weights({name: layers[name] for name in names or layers})


class TestParity:
    """The incumbent, run live, without its random matrix."""

    def test_rows(self) -> None:
        model = network()
        rows = oracle_rows(model, intra=True, sparsify=False, conv2d_norm=False)
        found = formed_spectra(model, intra=True, sparsify=False)
        assert [spec.name for spec, _ in found] == ["0 X 1", "2 X 3", "3 X 4", "4 X 5"]
        # Its ids count the modules from the outermost, and its names end in a space.
        assert [row["name"] for row in rows] == ["1 X 2 ", "3 X 4 ", "4 X 5 ", "5 X 6 "]
        for row, (spec, spectrum) in zip(rows, found, strict=True):
            assert (row["N"], row["M"]) == (spec.N, spec.M)
            assert_same_row(spectrum, row)

    def test_the_incumbent_scales_products_that_end_in_a_convolution(self) -> None:
        """Its √(1/2) for 2-D convolutions falls on a product that is normed already."""
        model = network("tall", "oblong")
        (plain,) = oracle_rows(model, intra=True, sparsify=False, conv2d_norm=False)
        (scaled,) = oracle_rows(model, intra=True, sparsify=False)
        assert scaled["norm"] == pytest.approx(plain["norm"] / np.sqrt(2), rel=1e-6)
        ((_, spectrum),) = formed_spectra(model, intra=True, sparsify=False)
        assert float(spectrum.evals.sum()) == pytest.approx(plain["norm"], rel=1e-6)

    def test_real_model(self, minilm: Any) -> None:
        from safetensors.torch import load_file

        wanted = [f"encoder.layer.0.attention.self.{name}.weight" for name in ("key", "query")]
        tensors = load_file(minilm)
        model = module_tree({name: tensors[name] for name in wanted})
        (row,) = oracle_rows(model, intra=True, sparsify=False)
        ((_, spectrum),) = formed_spectra(model, intra=True, sparsify=False)
        # It multiplies in float32, which leaves the smallest singular value three digits.
        assert_same_row(spectrum, row, smallest=1e-3)
