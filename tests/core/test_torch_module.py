"""What only a live torch module tells: shared weights, parametrizations, groups."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils import parametrizations, parametrize

from spectral import WeightWatcher
from spectral.analysis import analyze, describe
from spectral.loaders.opening import open_model


def reasons(model: Any) -> dict[str, str]:
    return {item.name: item.reason for item in describe(model).unanalysed}


def names(model: Any) -> list[str]:
    return [spec.name for spec in describe(model).matrices]


def raising(error: BaseException) -> Any:
    """Return two layers; the first has a parametrization that raises, once it is registered."""

    class Raising(torch.nn.Module):  # type: ignore[misc, unused-ignore]
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            raise error

    model: Any = torch.nn.Sequential(torch.nn.Linear(60, 100, bias=False), torch.nn.Linear(100, 60, bias=False))
    parametrize.register_parametrization(model[0], "weight", Raising(), unsafe=True)
    return model


class TestTies:
    def test_one_parameter_in_two_modules(self) -> None:
        model = torch.nn.Sequential(torch.nn.Embedding(30, 20), torch.nn.Linear(20, 30))
        model[1].weight = model[0].weight
        for content in (model, model.state_dict()):
            description = describe(content)
            assert names(content) == ["0"]
            assert reasons(content) == {"1.weight": "tied to 0.weight"}
            assert description.coverage == 600 / 630
            assert description.other_tensors == ("1.bias",)

    def test_one_module_under_two_names(self) -> None:
        shared = torch.nn.Linear(20, 20, bias=False)
        model = torch.nn.Sequential(shared, torch.nn.ReLU(), shared)
        assert names(model) == names(model.state_dict()) == ["0"]
        assert reasons(model) == reasons(model.state_dict()) == {"2.weight": "tied to 0.weight"}
        assert describe(model).coverage == 1.0

    def test_one_parametrized_module_under_two_names(self) -> None:
        shared = parametrizations.orthogonal(torch.nn.Linear(20, 20, bias=False))
        model = torch.nn.Sequential(shared, shared)
        assert names(model) == ["0"]
        assert reasons(model)["1.weight"] == "tied to 0.weight"
        assert describe(model).coverage == 1.0

    def test_equal_copies_are_two(self) -> None:
        weight = torch.randn(20, 20, generator=torch.Generator().manual_seed(0))
        state = {"a": weight, "b": weight.clone(), "c": weight.double()}
        assert names(state) == ["a", "b", "c"]

    def test_a_transposed_weight_of_another_module(self) -> None:
        model = torch.nn.Sequential(torch.nn.Linear(20, 30, bias=False), torch.nn.Linear(30, 20, bias=False))
        model[1].weight = torch.nn.Parameter(model[0].weight.detach().t())
        for content in (model, model.state_dict()):
            assert names(content) == ["0"]
            assert reasons(content) == {"1.weight": "tied to 0.weight, transposed"}
            assert describe(content).coverage == 1.0

    def test_empty_and_meta_tensors_are_not_tied(self) -> None:
        model = torch.nn.Sequential(torch.nn.Linear(20, 30, device="meta"), torch.nn.Linear(20, 30, device="meta"))
        assert set(reasons(model).values()) == {"the tensor is on the meta device: it has no values"}
        state = {"a": torch.empty(0, 5), "b": torch.empty(0, 5)}
        assert reasons(state) == {"a": "an empty tensor", "b": "an empty tensor"}

    def test_a_torch_file_keeps_ties(self, tmp_path: Any) -> None:
        weight = torch.randn(30, 20)
        torch.save({"a.weight": weight, "b.weight": weight}, tmp_path / "m.pt")
        assert names(tmp_path / "m.pt") == ["a"]
        assert reasons(tmp_path / "m.pt") == {"b.weight": "tied to a.weight"}

    def test_a_torch_file_keeps_views(self, tmp_path: Any) -> None:
        weight = torch.randn(30, 20)
        torch.save({"a.weight": weight, "b.weight": weight.t(), "c.weight": weight[10:]}, tmp_path / "m.pt")
        assert names(tmp_path / "m.pt") == ["a"]
        assert reasons(tmp_path / "m.pt") == {
            "b.weight": "tied to a.weight, transposed",
            "c.weight": "a view of a part of a.weight",
        }

    def test_a_module_inside_itself(self) -> None:
        model = torch.nn.Module()
        model.inner = torch.nn.Linear(20, 30)
        model.inner.outer = model
        assert names(model) == ["inner"]


class TestParametrizations:
    def test_a_layer_that_shares_the_original_is_one_of_its_own(self) -> None:
        normed, plain = torch.nn.Linear(60, 60), torch.nn.Linear(60, 60)
        plain.weight = normed.weight
        torch.nn.utils.parametrizations.spectral_norm(normed)
        normed.eval()
        analysis = analyze(torch.nn.Sequential(normed, plain))
        largest = {layer.name: layer.metrics["spectral_norm"] for layer in analysis.layers}
        for index, layer in enumerate((normed, plain)):
            expected = float(torch.linalg.matrix_norm(layer.weight.detach().double(), 2)) ** 2
            assert largest[str(index)] == pytest.approx(expected, rel=1e-5)

    def test_training_mode_and_buffers_stay(self) -> None:
        layer: Any = parametrizations.spectral_norm(torch.nn.Linear(20, 30))
        before = copy.deepcopy(layer.state_dict())
        source = open_model(layer)
        one, two = source.load("weight"), source.load("weight")
        assert layer.training
        assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, layer.eval().weight.detach().numpy())

    def test_one_of_the_user_s_own_that_changes_the_shape(self) -> None:
        class Doubled(torch.nn.Module):  # type: ignore[misc, unused-ignore]
            def forward(self, weight: torch.Tensor) -> torch.Tensor:
                return torch.cat([weight, weight])

        layer: Any = torch.nn.Linear(20, 30, bias=False)
        parametrize.register_parametrization(layer, "weight", Doubled(), unsafe=True)
        (spec,) = describe(layer).matrices
        assert (spec.name, spec.shape) == ("weight", (60, 20))
        assert describe(layer).coverage == 1.0
        np.testing.assert_array_equal(open_model(layer).load("weight"), layer.weight.detach().numpy())

    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            (RuntimeError("no such\nbuffer"), "RuntimeError: no such"),
            (KeyError("scale"), "KeyError: 'scale'"),
            (AssertionError(), "AssertionError"),
            (MemoryError(), "MemoryError"),
        ],
        ids=repr,
    )
    def test_one_that_raises_is_a_reason(self, error: Exception, expected: str) -> None:
        """It used to end the run: the other layers are worth knowing."""
        model = raising(error)
        assert reasons(model) == {
            "0.weight": f"its parametrization raised {expected}",
            "0.parametrizations.weight.original": "0.weight is computed from it",
        }
        analysis = analyze(model)
        assert [layer.name for layer in analysis.layers] == ["1"]
        assert analysis.layers[0].status == "success"
        # It is a gap: its values are there, and not analysed.
        assert analysis.coverage == 6000 / 12000

    def test_what_ends_the_process_is_not_caught(self) -> None:
        with pytest.raises(KeyboardInterrupt):
            describe(raising(KeyboardInterrupt()))

    def test_one_that_returns_no_tensor(self) -> None:
        class Wrong(torch.nn.Module):  # type: ignore[misc, unused-ignore]
            def forward(self, weight: torch.Tensor) -> Any:
                return [weight]

        layer: Any = torch.nn.Linear(20, 30)
        parametrize.register_parametrization(layer, "weight", Wrong(), unsafe=True)
        assert reasons(layer)["weight"].startswith("its parametrization raised AttributeError: ")

    def test_one_that_raises_under_two_names(self) -> None:
        broken = raising(ValueError("no"))[0]
        model = torch.nn.Sequential(broken, broken)
        assert reasons(model)["1.weight"] == "tied to 0.weight"
        assert describe(model).coverage == 0.0

    def test_one_that_raises_in_the_drop_in_class(self) -> None:
        watcher = WeightWatcher(model=raising(ValueError("no")))
        assert watcher.analyze()["longname"].tolist() == ["1"]
        assert "its parametrization raised ValueError: no" in {entry.reason for entry in watcher.unanalysed}

    def test_of_a_bias(self) -> None:
        layer = parametrizations.weight_norm(torch.nn.Linear(20, 30), name="bias")
        assert names(layer) == ["weight"]
        assert describe(layer).coverage == 600 / 630

    def test_of_a_gate_matrix(self) -> None:
        layer: Any = parametrizations.weight_norm(torch.nn.LSTM(20, 24), name="weight_hh_l0")
        found = {item.name: item.content_hash for item in analyze(layer).layers}
        assert set(found) == {f"weight_{kind}_l0.{gate}" for kind in ("ih", "hh") for gate in "ifgo"}
        effective = layer.weight_hh_l0.detach()[24:48].clone()
        assert found["weight_hh_l0.f"] == analyze({"f": effective}).layers[0].content_hash

    def test_survives_another_process(self) -> None:
        source = open_model(parametrizations.orthogonal(torch.nn.Linear(20, 20)))
        sent = pickle.loads(pickle.dumps(source))
        np.testing.assert_array_equal(sent.load("weight"), source.load("weight"))


class TestGroups:
    @pytest.mark.parametrize("transposed", [False, True])
    def test_the_blocks_are_the_maps_of_the_layer(self, transposed: bool) -> None:
        """An impulse through the layer shows which block a group is."""
        if transposed:
            layer: Any = torch.nn.ConvTranspose1d(6, 4, 1, groups=2, bias=False)
        else:
            layer = torch.nn.Conv1d(6, 4, 1, groups=2, bias=False)
        columns = [layer(torch.eye(6)[index].reshape(1, 6, 1)).flatten() for index in range(6)]
        whole = torch.stack(columns, dim=1).detach().numpy()
        (spec,) = describe(layer).matrices
        blocks = spec.part.cut(open_model(layer).load("weight"))
        for group, block in enumerate(blocks):
            expected = whole[2 * group : 2 * group + 2, 3 * group : 3 * group + 3]
            np.testing.assert_allclose(block.T if transposed else block, expected, rtol=1e-6)
        assert np.count_nonzero(whole) == 12

    def test_depthwise_is_listed(self) -> None:
        model = torch.nn.ModuleDict(
            {
                "depthwise": torch.nn.Conv2d(8, 16, 3, groups=8),
                "transposed": torch.nn.ConvTranspose2d(8, 8, 3, groups=8),
                "narrow": torch.nn.Conv1d(8, 4, 3, groups=4),
            }
        )
        assert names(model) == []
        assert len(set(reasons(model).values())) == 1
        assert reasons(model)["narrow.weight"].startswith("only vectors")


def test_a_class_of_experts_needs_no_name() -> None:
    class MoeExperts(torch.nn.Module):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.w1 = torch.nn.Parameter(torch.randn(3, 40, 30))

    assert names(torch.nn.ModuleDict({"block": MoeExperts()})) == ["block.w1.0", "block.w1.1", "block.w1.2"]
