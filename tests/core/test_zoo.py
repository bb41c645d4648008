"""A torch model with every kind of layer: each row against a spectrum from slices that were cut by hand."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from spectral.analysis import Analysis, analyze, describe
from spectral.spectrum import Spectrum
from tests.core.zoo import every_layer_model, hand_cut

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

TYPES = {
    "linear": "dense",
    "embedding": "embedding",
    "bag": "embedding",
    "bilinear": "bilinear",
    "lstm.weight_hh_l1_reverse.o": "recurrent",
    "lstm_projected.weight_hr_l0": "recurrent",
    "rnn.weight_ih_l0": "recurrent",
    "gru_cell.weight_hh.n": "recurrent",
    "attention.in_proj_weight.v": "attention",
    "attention.out_proj": "dense",
    "cross_attention.k_proj_weight": "attention",
    "c_attn.q": "attention",
    "qkv.k": "attention",
    "experts.down_proj.2": "expert",
    "weight_norm": "dense",
    "conv1d": "conv1d",
    "transposed2d_grouped": "conv2d",
    "old_weight_norm": "conv2d",
    "conv3d_grouped": "conv3d",
}


def evals_of(slices: list[NDArray[Any]]) -> NDArray[np.float64]:
    return np.sort(np.concatenate([np.linalg.svd(part, compute_uv=False) ** 2 for part in slices]))


@pytest.fixture(scope="module")
def model() -> Any:
    return every_layer_model(7)


@pytest.fixture(scope="module")
def analysis(model: Any) -> Analysis:
    return analyze(model)


def test_every_matrix_and_no_other(model: Any, analysis: Analysis) -> None:
    assert sorted(layer.name for layer in analysis.layers) == sorted(hand_cut(model))


def test_spectra(model: Any, analysis: Analysis) -> None:
    expected = hand_cut(model)
    for layer in analysis.layers:
        slices = expected[layer.name]
        scale = 0.5 if layer.spec.layer_type == "conv2d" else 1.0
        assert isinstance(layer.spectrum, Spectrum)
        evals = evals_of(slices) * scale
        np.testing.assert_allclose(layer.spectrum.evals, evals, rtol=1e-6, atol=1e-6 * evals[-1], err_msg=layer.name)
        assert (layer.spec.rf, layer.spec.rows, layer.spec.columns) == (len(slices), *slices[0].shape)


def test_types(analysis: Analysis) -> None:
    types = {layer.name: layer.spec.layer_type.value for layer in analysis.layers}
    assert {name: types[name] for name in TYPES} == TYPES


def test_what_is_left_is_listed(analysis: Analysis) -> None:
    reasons = {item.name: item.reason for item in analysis.unanalysed}
    assert reasons == {
        "conv2d_depthwise.weight": "only vectors: each slice has a single row or column, so no spectrum",
        "tied.weight": "tied to embedding.weight",
        "weight_norm.parametrizations.weight.original0": "weight_norm.weight is computed from it",
        "weight_norm.parametrizations.weight.original1": "weight_norm.weight is computed from it",
        "spectral_norm.parametrizations.weight.original": "spectral_norm.weight is computed from it",
        "orthogonal.parametrizations.weight.original": "orthogonal.weight is computed from it",
        "orthogonal.parametrizations.weight.0.base": "orthogonal.weight is computed from it",
        "old_weight_norm.weight_g": "a factor of old_weight_norm.weight",
        "old_weight_norm.weight_v": "a factor of old_weight_norm.weight",
        "pruned.weight_orig": "a factor of pruned.weight",
        "pruned.weight_mask": "a factor of pruned.weight",
    }


def test_coverage_counts_every_value_once(model: Any, analysis: Analysis) -> None:
    n_analysed = sum(part.size for slices in hand_cut(model).values() for part in slices)
    n_biases = sum(value.numel() for name, value in model.named_parameters() if "bias" in name or name == "norm.weight")
    n_total = n_analysed + n_biases + model["conv2d_depthwise"].weight.numel()
    assert analysis.coverage == n_analysed / n_total
    assert sum(layer.spec.part.n_values for layer in analysis.layers) == n_analysed


def test_the_model_is_left_as_it_was(model: Any) -> None:
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    analyze(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())


def test_hashes_are_those_of_the_matrix_alone(analysis: Analysis, model: Any) -> None:
    hashes = {layer.name: layer.content_hash for layer in analysis.layers}
    alone = {
        "attention.in_proj_weight.k": model["attention"].in_proj_weight[24:48],
        "c_attn.v": model["c_attn"].weight[:, 48:],
        "lstm.weight_ih_l0.g": model["lstm"].weight_ih_l0[40:60],
        "experts.down_proj.1": model["experts"].down_proj[1],
        "conv2d_grouped": model["conv2d_grouped"].weight,
    }
    for name, value in alone.items():
        (layer,) = analyze({"w": value.detach().clone()}).layers
        assert hashes[name] == layer.content_hash, name
    # Of all the matrices, no two are equal.
    assert len(set(hashes.values())) == len(hashes)


class TestStateDictsAndFiles:
    """Names and shapes alone: the same matrices, but for what only the module knows."""

    ONLY_THE_MODULE_KNOWS = ("conv1d_grouped", "conv2d_grouped", "conv3d_grouped", "transposed2d_grouped")
    NOT_FROM_A_FILE = ("orthogonal",)
    READ_AS_KERAS = ("conv2d_wide_kernel",)

    def check(self, content: Any, analysis: Analysis) -> None:
        ours = {layer.name: layer for layer in analyze(content).layers}
        theirs = {layer.name: layer for layer in analysis.layers}
        assert set(theirs) - set(ours) == set(self.NOT_FROM_A_FILE)
        assert set(ours) <= set(theirs)
        computed = ("weight_norm", "spectral_norm")
        for name in set(ours) - {*self.ONLY_THE_MODULE_KNOWS, *self.READ_AS_KERAS, *computed}:
            assert ours[name].content_hash == theirs[name].content_hash, name
            assert ours[name].metrics == theirs[name].metrics, name
        for name in computed:
            np.testing.assert_allclose(ours[name].metrics["norm"], theirs[name].metrics["norm"], rtol=1e-6)

    def test_state_dict(self, model: Any, analysis: Analysis) -> None:
        self.check(model.state_dict(), analysis)

    def test_torch_file(self, model: Any, analysis: Analysis, tmp_path: Path) -> None:
        path = tmp_path / "model.pt"
        torch.save(model.state_dict(), path)
        self.check(path, analysis)
        reasons = {item.name: item.reason for item in describe(path).unanalysed}
        assert reasons["tied.weight"] == "tied to embedding.weight"
        # The effective weight of these is not in the file, nor how to compute it.
        assert reasons["orthogonal.parametrizations.weight.original"].startswith("the model computes a weight")

    def test_safetensors_file(self, model: Any, analysis: Analysis, tmp_path: Path) -> None:
        path = tmp_path / "model.safetensors"
        state = {name: value.contiguous() for name, value in model.state_dict().items() if name != "tied.weight"}
        save_file(state, path)
        self.check(path, analysis)

    def test_grouped_convolutions_are_read_as_stored(self, model: Any) -> None:
        specs = {spec.name: spec for spec in describe(model.state_dict()).matrices}
        assert (specs["conv2d_grouped"].rows, specs["conv2d_grouped"].columns) == (96, 20)

    def test_tasks_survive_another_process(self, model: Any, tmp_path: Path) -> None:
        path = tmp_path / "model.pt"
        torch.save(model.state_dict(), path)
        tasks = describe(path).tasks()
        sent = pickle.loads(pickle.dumps(tasks))
        assert [task.spec for task in sent] == [task.spec for task in tasks]
