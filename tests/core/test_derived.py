"""Weights stored as factors: multiplied out as torch does it, or listed."""

from __future__ import annotations

import pickle
import warnings
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import safetensors.torch
import torch
from torch.nn.utils import parametrizations, prune

from spectral.analysis import analyze, describe
from spectral.loaders.derived import UNKNOWN_AXIS, UNKNOWN_PARAMETRIZATION
from spectral.loaders.opening import open_model
from tests.core.builders import heavy_tailed

if TYPE_CHECKING:
    from pathlib import Path


def old_weight_norm(layer: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return torch.nn.utils.weight_norm(layer, **options)


def old_spectral_norm(layer: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return torch.nn.utils.spectral_norm(layer, **options)


def pruned(layer: Any) -> Any:
    prune.random_unstructured(layer, "weight", amount=0.5)  # type: ignore[no-untyped-call, unused-ignore]
    return layer


def scramble(layer: Any) -> Any:
    """Give every parameter new values, so that g is not the norm of v."""
    with torch.no_grad():
        for index, parameter in enumerate(layer.parameters()):
            parameter.copy_(torch.from_numpy(heavy_tailed(*parameter.shape, seed=index)))
    return layer


LAYERS = {
    "linear": lambda: parametrizations.weight_norm(torch.nn.Linear(20, 30)),
    "other axis": lambda: parametrizations.weight_norm(torch.nn.Linear(20, 30), dim=1),
    "one number": lambda: parametrizations.weight_norm(torch.nn.Linear(20, 30), dim=cast("int", None)),
    "convolution": lambda: parametrizations.weight_norm(torch.nn.Conv2d(20, 30, 3)),
    "last axis": lambda: parametrizations.weight_norm(torch.nn.Conv1d(20, 30, 3), dim=2),
    "float64": lambda: parametrizations.weight_norm(torch.nn.Linear(20, 30).double()),
    "old": lambda: old_weight_norm(torch.nn.Linear(20, 30)),
    "old, one number": lambda: old_weight_norm(torch.nn.Linear(20, 30), dim=None),
    "old, of a gate": lambda: old_weight_norm(torch.nn.LSTM(20, 30), name="weight_hh_l0"),
    "pruned": lambda: pruned(torch.nn.Linear(20, 30)),
}


@pytest.mark.parametrize("case", LAYERS)
def test_equals_what_the_module_computes(case: str, tmp_path: Path) -> None:
    layer = scramble(LAYERS[case]())
    torch.save(layer.state_dict(), tmp_path / "m.pt")
    if not case.startswith("old, of"):
        layer(torch.zeros(1, 20, *([8] * (layer.weight.ndim - 2)), dtype=layer.weight.dtype))
    name = "weight_hh_l0" if case == "old, of a gate" else "weight"
    if case == "old, of a gate":
        expected = layer.weight_hh_l0_g * layer.weight_hh_l0_v / layer.weight_hh_l0_v.norm(dim=1, keepdim=True)
    else:
        expected = layer.weight
    for source in (open_model(tmp_path / "m.pt"), open_model(layer.state_dict()), open_model(layer)):
        found = source.load(name)
        assert found.dtype == (np.float64 if case == "float64" else np.float32)
        np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-5, atol=1e-6)
        description = describe(source)
        assert name in {spec.tensor for spec in description.matrices}
        n_biases = sum(value.numel() for key, value in layer.state_dict().items() if "bias" in key)
        n_weights = sum(spec.part.n_values for spec in description.matrices)
        assert description.coverage == n_weights / (n_weights + n_biases)
        # Its factors are neither analysed nor counted, and not checked for NaN twice.
        assert all("bias" in other for other in description.other_tensors)


def test_layer_names_are_those_without_factors() -> None:
    layer = torch.nn.ModuleDict({"fc": LAYERS["linear"]()})
    assert [spec.name for spec in describe(layer.state_dict()).matrices] == ["fc"]
    assert [spec.name for spec in describe(layer).matrices] == ["fc"]


def test_a_nan_in_a_factor_is_found() -> None:
    state = LAYERS["linear"]().state_dict()
    state["parametrizations.weight.original0"][3] = torch.nan
    (layer,) = analyze(state).layers
    assert layer.reason is not None
    assert layer.reason.startswith("20 of 600 values are NaN or infinite, the first at weight[3, 0]")


def test_a_direction_of_length_zero_is_a_finding() -> None:
    state = LAYERS["old"]().state_dict()
    state["weight_v"][2] = 0.0
    (layer,) = analyze(state).layers
    assert layer.status == "failed"
    assert "20 of 600 values are NaN" in str(layer.reason)


def test_half_precision_factors_are_multiplied_in_float32() -> None:
    state = {name: value.bfloat16() for name, value in LAYERS["old"]().state_dict().items()}
    source = open_model(state)
    g, v = state["weight_g"].double(), state["weight_v"].double()
    np.testing.assert_allclose(source.load("weight"), g * v / v.norm(dim=1, keepdim=True), rtol=1e-6)


def test_survives_another_process(tmp_path: Path) -> None:
    torch.save(LAYERS["linear"]().state_dict(), tmp_path / "m.pt")
    source = open_model(tmp_path / "m.pt")
    sent = pickle.loads(pickle.dumps(source))
    assert sent.tensors() == source.tensors()
    np.testing.assert_array_equal(sent.load("weight"), source.load("weight"))


def array(*shape: int) -> Any:
    return heavy_tailed(*shape).astype(np.float32)


@pytest.mark.parametrize(
    "tensors",
    [
        {"parametrizations.weight.original": array(30, 20)},
        {"weight_orig": array(30, 20), "weight_u": array(30)},
        {"weight_orig": array(30, 20), "weight_u": array(30), "weight_v": array(19)},
        {"parametrizations.weight.original": array(30, 20), "parametrizations.weight.0._u": array(30)},
        # Two originals, but not in the shapes of weight norm: some parametrization of the user's own.
        {"parametrizations.weight.original0": array(30, 20), "parametrizations.weight.original1": array(30, 20)},
        {"parametrizations.weight.original0": array(30, 4), "parametrizations.weight.original1": array(4, 20)},
        # Weight norm, and something after it.
        {
            "parametrizations.weight.original0": array(30, 1),
            "parametrizations.weight.original1": array(30, 20),
            "parametrizations.weight.1._u": array(30),
        },
    ],
    ids=[
        "one original",
        "spectral norm of an old torch",
        "vectors of another length",
        "one vector",
        "equal shapes",
        "low rank",
        "two parametrizations",
    ],
)
def test_what_a_file_does_not_tell_is_listed(tensors: dict[str, Any]) -> None:
    description = describe(tensors)
    assert description.matrices == ()
    assert {item.reason for item in description.unanalysed} == {UNKNOWN_PARAMETRIZATION}
    assert {item.name for item in description.unanalysed} == {
        name for name, values in tensors.items() if values.ndim > 1
    }


@pytest.mark.parametrize(
    "names",
    [
        {"weight_v": (30, 20), "weight_g": (7, 1)},
        {"weight_v": (30, 20), "weight_g": (30, 20)},
        {"weight_v": (30, 20), "weight_g": (30,)},
        {"q_v": (30, 20), "q_g": (30, 1)},
        {"weight_v": (30, 20), "weight_g": (30, 1), "weight": (30, 20)},
        {"weight_orig": (30, 20), "weight_mask": (20, 30)},
        {"weight": (30, 20), "weight_u": (30,), "weight_v": (20,)},
    ],
    ids=[
        "other size",
        "no norm",
        "other rank",
        "no weight",
        "the weight is there",
        "mask of another shape",
        "norm removed",
    ],
)
def test_tensors_that_are_no_factors_stay(names: dict[str, tuple[int, ...]]) -> None:
    source = open_model({name: array(*shape) for name, shape in names.items()})
    assert [info.name for info in source.tensors()] == list(names)
    assert all(info.counted_in is None for info in source.tensors())


SPECTRAL_LAYERS: dict[str, tuple[Any, int]] = {
    "linear": (lambda: torch.nn.Linear(20, 30), 0),
    "linear, columns": (lambda: torch.nn.Linear(20, 30), 1),
    "convolution": (lambda: torch.nn.Conv2d(20, 30, 3), 0),
    "transposed": (lambda: torch.nn.ConvTranspose2d(20, 30, 3), 1),
    "last axis": (lambda: torch.nn.Conv1d(20, 30, 3), 2),
    "grouped": (lambda: torch.nn.Conv1d(40, 60, 3, groups=2), 0),
    "embedding": (lambda: torch.nn.Embedding(40, 20), 0),
    "float64": (lambda: torch.nn.Linear(20, 30).double(), 0),
}

SQUARE_LAYERS: dict[str, tuple[Any, int]] = {
    "square": (lambda: torch.nn.Linear(24, 24), 0),
    "square, columns": (lambda: torch.nn.Linear(24, 24), 1),
    "square convolution": (lambda: torch.nn.Conv2d(20, 20, 3), 0),
    "square, transposed": (lambda: torch.nn.ConvTranspose2d(20, 20, 3), 1),
}


def under_spectral_norm(case: str, style: str) -> Any:
    """Return a layer whose weight has moved on since its last power iteration, as after a step of training."""
    make, axis = (SPECTRAL_LAYERS | SQUARE_LAYERS)[case]
    wrap = old_spectral_norm if style == "old" else parametrizations.spectral_norm
    layer = wrap(scramble(make()), dim=axis)
    forward(layer)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.from_numpy(heavy_tailed(*parameter.shape, seed=1)) * 0.1)
    layer.eval()
    forward(layer)
    return layer


def forward(layer: Any) -> None:
    weight = layer.weight
    if isinstance(layer, torch.nn.Embedding):
        layer(torch.zeros(1, dtype=torch.int64))
    else:
        n_in = getattr(layer, "in_channels", 0) or layer.in_features
        layer(torch.ones(1, n_in, *([8] * (weight.ndim - 2)), dtype=weight.dtype))


class TestSpectralNorm:
    @pytest.mark.parametrize("style", ["old", "new"])
    @pytest.mark.parametrize("case", SPECTRAL_LAYERS)
    def test_equals_what_the_module_computes(self, case: str, style: str, tmp_path: Path) -> None:
        layer = under_spectral_norm(case, style)
        expected = layer.weight.detach().numpy()
        # The weight and not its original: the norm is far from 1.
        original = dict(layer.named_parameters())
        stored = original["weight_orig" if style == "old" else "parametrizations.weight.original"].detach().numpy()
        assert np.linalg.norm(stored) > 2.0 * np.linalg.norm(expected)
        torch.save(layer.state_dict(), tmp_path / "m.pt")
        safetensors.torch.save_file(layer.state_dict(), tmp_path / "m.safetensors")
        for content in (tmp_path / "m.pt", tmp_path / "m.safetensors", layer.state_dict(), layer, layer.train()):
            source = open_model(content)
            found = source.load("weight")
            assert found.dtype == expected.dtype
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
            description = describe(source)
            assert [spec.name for spec in description.matrices] == ["weight"]
            n_biases = sum(value.numel() for key, value in layer.state_dict().items() if "bias" in key)
            # The weight is counted once, its original and the vectors of the iteration are not.
            assert description.coverage == expected.size / (expected.size + n_biases)
            assert all("bias" in other for other in description.other_tensors)

    @pytest.mark.parametrize("style", ["old", "new"])
    @pytest.mark.parametrize("case", SQUARE_LAYERS)
    def test_only_a_module_tells_the_axis_of_a_square_weight(self, case: str, style: str) -> None:
        layer = under_spectral_norm(case, style)
        expected = layer.weight.detach().numpy()
        np.testing.assert_allclose(open_model(layer).load("weight"), expected, rtol=1e-6, atol=1e-6)
        description = describe(layer.state_dict())
        assert description.matrices == ()
        (listed,) = description.unanalysed
        assert listed.name == ("weight_orig" if style == "old" else "parametrizations.weight.original")
        assert listed.reason == UNKNOWN_AXIS.format(axes="0 and 1", shape=tuple(expected.shape))
        assert description.coverage == 0.0

    def test_the_bits_of_a_file_are_those_of_the_module(self) -> None:
        layer = under_spectral_norm("convolution", "old")
        (one,), (two,) = (analyze(content).layers for content in (layer, layer.state_dict()))
        assert one.content_hash == two.content_hash

    def test_a_norm_of_zero_is_a_finding(self) -> None:
        state = under_spectral_norm("linear", "old").state_dict()
        state["weight_u"].zero_()
        (layer,) = analyze(state).layers
        assert layer.status == "failed"
        assert "600 of 600 values are NaN or infinite" in str(layer.reason)

    def test_pruned_as_well(self) -> None:
        """The names do not tell which of the two came first."""
        state = {"weight_orig": array(30, 20), "weight_mask": array(30, 20)}
        state |= {"weight_u": array(30), "weight_v": array(20)}
        assert describe(state).matrices == ()

    def test_half_precision_factors_are_divided_in_float32(self) -> None:
        state = {name: value.half() for name, value in under_spectral_norm("linear", "old").state_dict().items()}
        weight, u, v = (state[f"weight_{name}"].double() for name in ("orig", "u", "v"))
        np.testing.assert_allclose(open_model(state).load("weight"), weight / (u @ weight @ v), rtol=1e-6)


class TestWhatOnlyTheModuleTells:
    """The role and the groups of a weight are those of the factor with its shape."""

    def test_of_old_weight_norm(self) -> None:
        model = torch.nn.ModuleDict(
            {
                "table": old_weight_norm(torch.nn.Embedding(40, 20)),
                "grouped": old_weight_norm(torch.nn.Conv1d(40, 60, 3, groups=2)),
                "up": old_weight_norm(torch.nn.ConvTranspose1d(40, 30, 4)),
            }
        )
        specs = {spec.name: spec for spec in describe(model).matrices}
        assert {name: spec.layer_type.value for name, spec in specs.items()} == {
            "table": "embedding",
            "grouped": "conv1d",
            "up": "conv1d",
        }
        assert (specs["grouped"].rf, specs["grouped"].rows, specs["grouped"].columns) == (6, 30, 20)

    def test_of_pruning_and_spectral_norm(self) -> None:
        for layer in (pruned(torch.nn.Conv2d(40, 60, 3, groups=2)), old_spectral_norm(torch.nn.Conv2d(40, 60, 3, 2))):
            (spec,) = describe(layer).matrices
            assert spec.layer_type == "conv2d"
        assert describe(pruned(torch.nn.Conv2d(40, 60, 3, groups=2))).matrices[0].rf == 18

    def test_one_layer_under_two_names(self) -> None:
        for wrap in (old_weight_norm, old_spectral_norm):
            shared = wrap(torch.nn.Linear(20, 30, bias=False))
            for content in (torch.nn.Sequential(shared, shared), torch.nn.Sequential(shared, shared).state_dict()):
                description = describe(content)
                assert [spec.name for spec in description.matrices] == ["0"]
                assert description.coverage == 1.0


@pytest.mark.parametrize("factor", ["weight_v", "weight_g"])
@pytest.mark.parametrize("is_live", [True, False])
def test_a_pruned_factor_of_a_weight_norm_is_no_weight(factor: str, is_live: bool) -> None:
    layer = old_weight_norm(torch.nn.Linear(70, 60))
    prune.l1_unstructured(layer, factor, 0.3)  # type: ignore[no-untyped-call, unused-ignore]
    model = torch.nn.Sequential(layer)
    description = describe(model if is_live else model.state_dict())
    assert description.matrices == ()
    assert description.coverage == 0.0
    assert {tensor.reason for tensor in description.unanalysed} == {UNKNOWN_PARAMETRIZATION}
