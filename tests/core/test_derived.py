"""Weights stored as factors: multiplied out as torch does it, or listed."""

from __future__ import annotations

import pickle
import warnings
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from torch.nn.utils import parametrizations, prune

from spectral.analysis import analyze, describe
from spectral.loaders.derived import UNKNOWN_PARAMETRIZATION
from spectral.loaders.opening import open_model
from tests.core.builders import heavy_tailed

if TYPE_CHECKING:
    from pathlib import Path


def old_weight_norm(layer: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return torch.nn.utils.weight_norm(layer, **options)


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
    assert layer.reason.startswith("20 of 600 values are NaN or infinite, the first at row 3, column 0")


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
        {"weight_orig": array(30, 20), "weight_u": array(30), "weight_v": array(20)},
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
    ids=["one original", "old spectral norm", "equal shapes", "low rank", "two parametrizations"],
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
    ],
    ids=["other size", "no norm", "other rank", "no weight", "the weight is there", "mask of another shape"],
)
def test_tensors_that_are_no_factors_stay(names: dict[str, tuple[int, ...]]) -> None:
    source = open_model({name: array(*shape) for name, shape in names.items()})
    assert [info.name for info in source.tensors()] == list(names)
    assert all(info.counted_in is None for info in source.tensors())
