"""A transform applied to whole models: what is chosen, where it is written back, and what stays as it was."""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from spectral import transforms
from spectral.analysis import analyze
from spectral.errors import ModelError, OptionError, UnsupportedModelError
from spectral.fits import FitFailure, FitFailureReason
from spectral.loaders import open_model
from spectral.transforms import Replacement, transform_model
from spectral.weights import WeightMatrix, as_weight_matrix
from tests.core.builders import heavy_tailed
from tests.core.zoo import every_layer_model


def number_slices(matrix: WeightMatrix) -> Replacement:
    """Write to every element where it stands: slice, row and column. Exact in float32, and no two are equal."""
    n_slices, rows, columns = matrix.slices.shape
    index, row, column = np.indices((n_slices, rows, columns))
    return Replacement(slices=1.0 + index + 100.0 * row + 10000.0 * column, n_changed=1)


def negate(matrix: WeightMatrix) -> Replacement:
    return Replacement(slices=-matrix.slices.astype(np.float64), n_changed=1)


def refuse(matrix: WeightMatrix) -> FitFailure:
    return FitFailure(reason=FitFailureReason.REFUSED, detail=f"no {matrix.spec.name}")


class Network(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = torch.nn.Embedding(30, 8)
        self.conv1 = torch.nn.Conv1d(8, 12, 3)
        self.conv2 = torch.nn.Conv2d(6, 10, (3, 2))
        self.wide = torch.nn.Linear(20, 8)
        self.norm = torch.nn.LayerNorm(8)
        self.depthwise = torch.nn.Conv2d(4, 4, 3, groups=4)
        self.head = torch.nn.Linear(8, 30)
        self.head.weight = self.embed.weight

    def forward(self, x: Any) -> Any:
        return self.head(self.embed(x))


MATRICES = ("embed.weight", "conv1.weight", "conv2.weight", "wide.weight")


def values_of(model: Any) -> dict[str, Any]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


class TestTorchModule:
    def test_the_original_stays(self) -> None:
        model = Network()
        before = values_of(model)
        result = transform_model(model, negate)
        after, new = values_of(model), values_of(result.model)
        assert type(result.model) is Network
        assert result.model is not model
        for name, old in before.items():
            assert torch.equal(after[name], old)
            expected = -old if name in (*MATRICES, "head.weight") else old
            assert torch.equal(new[name], expected), name

    def test_kinds_stay(self) -> None:
        result = transform_model(Network(), negate)
        for parameter in result.model.parameters():
            assert isinstance(parameter, torch.nn.Parameter)
            assert parameter.requires_grad
            assert parameter.dtype is torch.float32
        assert result.model.head.weight is result.model.embed.weight

    def test_inplace(self) -> None:
        model = Network()
        before = values_of(model)
        weight = model.wide.weight
        result = transform_model(model, negate, inplace=True)
        assert result.model is model
        assert model.wide.weight is weight
        assert torch.equal(weight, -before["wide.weight"])

    def test_every_element_returns_to_its_place(self) -> None:
        model = transform_model(Network(), number_slices).model
        wide, conv1, conv2 = (layer.weight.detach().numpy() for layer in (model.wide, model.conv1, model.conv2))
        row, column = np.indices((8, 20))
        assert np.array_equal(wide, 1.0 + 100.0 * row + 10000.0 * column)
        out, into, position = np.indices((12, 8, 3))
        assert np.array_equal(conv1, 1.0 + position + 100.0 * out + 10000.0 * into)
        out, into, first, second = np.indices((10, 6, 3, 2))
        assert np.array_equal(conv2, 1.0 + 2 * first + second + 100.0 * out + 10000.0 * into)

    def test_where_no_view_of_the_tensor_has_the_order(self, monkeypatch: pytest.MonkeyPatch) -> None:
        plain = as_weight_matrix

        def copying(spec: Any, values: Any) -> WeightMatrix:
            matrix = plain(spec, values)
            return replace(matrix, slices=matrix.slices.copy())

        expected = values_of(transform_model(Network(), number_slices).model)
        monkeypatch.setattr(transforms, "as_weight_matrix", copying)
        result = values_of(transform_model(Network(), number_slices).model)
        assert all(torch.equal(result[name], expected[name]) for name in expected)

    def test_account(self) -> None:
        result = transform_model(Network(), negate)
        assert [change.spec.name for change in result.changes] == ["embed", "conv1", "conv2", "wide"]
        assert [change.n_changed for change in result.changes] == [1, 1, 1, 1]
        assert [round(change.relative_change, 6) for change in result.changes] == [2.0, 2.0, 2.0, 2.0]
        assert {tensor.name for tensor in result.unanalysed} == {"depthwise.weight", "head.weight"}
        assert result.details["longname"].tolist() == ["embed", "conv1", "conv2", "wide"]
        assert result.details["reason"].tolist()[0] == ""

    def test_every_layer_type_and_part_returns_to_its_place(self) -> None:
        """Gates, heads, experts, groups: each part of a tensor is written where the analysis reads it."""
        # In place, because torch cannot copy its own old weight norm.
        result = transform_model(every_layer_model(0), number_slices, inplace=True)
        source = open_model(result.model)
        matrices = [change.spec for change in result.changes if change.reason is None]
        assert len(matrices) >= 100
        assert any(spec.shape != (spec.rows, spec.columns) and spec.rf == 1 for spec in matrices)
        for spec in matrices:
            matrix = as_weight_matrix(spec, source.load(spec.tensor))
            assert np.array_equal(matrix.slices, number_slices(matrix).slices), spec.name

    def test_a_computed_weight_cannot_be_written(self) -> None:
        model = torch.nn.Sequential(torch.nn.Linear(9, 8), torch.nn.Linear(8, 7))
        torch.nn.utils.parametrizations.weight_norm(model[0])
        result = transform_model(model, negate)
        assert [change.spec.name for change in result.changes if change.reason is None] == ["1"]
        (left,) = [change for change in result.changes if change.reason is not None]
        assert left.reason == "the model computes this weight from other tensors: it cannot be written back"
        assert torch.equal(result.model[0].weight, model[0].weight)
        assert torch.equal(result.model[1].weight, -model[1].weight)
        factored = transform_model(model.state_dict(), negate)
        assert [change.spec.name for change in factored.changes if change.reason is None] == ["1"]

    def test_a_refusal_leaves_the_layer(self) -> None:
        result = transform_model(Network(), refuse)
        assert [change.reason for change in result.changes][1:4] == ["no conv1", "no conv2", "no wide"]
        assert all(
            torch.equal(new, old)
            for new, old in zip(result.model.state_dict().values(), Network().state_dict().values(), strict=True)
        )

    def test_workers_do_not_matter(self) -> None:
        one, two = (transform_model(Network(), number_slices, n_workers=n) for n in (1, 2))
        assert one.details.equals(two.details)
        assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True))

    def test_what_cannot_be_copied(self) -> None:
        model = Network()
        model.cache = model.wide.weight * 2.0
        with pytest.raises(ModelError, match=r"Network: cannot be copied \(.*inplace=True"):
            transform_model(model, negate)
        assert transform_model(model, negate, inplace=True).model is model

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
    def test_types_stay(self, dtype: Any) -> None:
        model = torch.nn.Sequential(torch.nn.Linear(9, 8, bias=False))
        model[0].weight = torch.nn.Parameter(torch.randn(8, 9).to(dtype), requires_grad=False)
        new = transform_model(model, negate).model[0].weight
        assert new.dtype is dtype
        assert torch.equal(new.float(), -model[0].weight.float())

    def test_storage_that_is_not_contiguous(self) -> None:
        model = torch.nn.Sequential(torch.nn.Linear(9, 8, bias=False))
        model[0].weight = torch.nn.Parameter(torch.randn(9, 8).T)
        old = model[0].weight.detach().clone()
        assert torch.equal(transform_model(model, negate).model[0].weight, -old)
        transform_model(model, negate, inplace=True)
        assert torch.equal(model[0].weight, -old)


class TestMappings:
    def test_state_dict(self) -> None:
        state = Network().state_dict()
        # Without its module this shape reads as a kernel in the order of Keras.
        del state["depthwise.weight"]
        before = copy.deepcopy(state)
        result = transform_model(state, negate)
        assert type(result.model) is OrderedDict
        assert list(result.model) == list(state)
        assert result.model._metadata == state._metadata  # type: ignore[attr-defined]
        for name, old in before.items():
            assert torch.equal(state[name], old)
            expected = -old if name in (*MATRICES, "head.weight") else old
            assert torch.equal(result.model[name], expected)
            assert result.model[name].data_ptr() != state[name].data_ptr()

    @pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, ">f4"])
    def test_arrays(self, dtype: Any) -> None:
        arrays = {"layer.weight": heavy_tailed(20, 12).astype(dtype), "mask": np.ones((3, 3), dtype=bool)}
        before = copy.deepcopy(arrays)
        result = transform_model(arrays, negate)
        assert type(result.model) is dict
        assert result.model["layer.weight"].dtype == arrays["layer.weight"].dtype
        assert np.array_equal(result.model["layer.weight"], -before["layer.weight"])
        assert np.array_equal(result.model["mask"], before["mask"])
        assert np.array_equal(arrays["layer.weight"], before["layer.weight"])

    def test_order_in_memory(self) -> None:
        values = heavy_tailed(6, 20, 12)
        for array in (np.asfortranarray(values[0]), values[:, :, 0], values[0, ::2, ::-1]):
            result = transform_model({"layer.weight": array}, negate)
            assert np.array_equal(result.model["layer.weight"], -array)

    def test_inplace_writes_to_the_arrays_themselves(self) -> None:
        array = heavy_tailed(20, 12)
        before = array.copy()
        arrays = {"layer.weight": array}
        assert transform_model(arrays, negate, inplace=True).model is arrays
        assert arrays["layer.weight"] is array
        assert np.array_equal(array, -before)

    def test_read_only_arrays(self) -> None:
        array = heavy_tailed(20, 12)
        array.flags.writeable = False
        assert np.array_equal(transform_model({"layer.weight": array}, negate).model["layer.weight"], -array)
        with pytest.raises(ModelError, match=r"'layer\.weight' is a read-only array"):
            transform_model({"layer.weight": array}, negate, inplace=True)

    def test_nothing_to_change_writes_nothing(self) -> None:
        array = heavy_tailed(20, 12)
        array.flags.writeable = False
        assert transform_model({"layer.weight": array}, refuse, inplace=True).model["layer.weight"] is array

    def test_one_array_under_two_names(self) -> None:
        array = heavy_tailed(20, 12)
        result = transform_model({"a.weight": array, "b.weight": array}, negate)
        assert np.array_equal(result.model["a.weight"], -array)
        assert result.model["b.weight"] is result.model["a.weight"]
        assert [(change.spec.tensor, change.reason) for change in result.changes] == [("a.weight", None)]
        assert [(item.name, item.reason) for item in result.unanalysed] == [("b.weight", "tied to a.weight")]

    def test_a_transposed_view_follows(self) -> None:
        array = heavy_tailed(20, 12)
        before = array.copy()
        arrays = {"a.weight": array, "b.weight": array.T}
        transform_model(arrays, negate, inplace=True)
        assert np.array_equal(arrays["b.weight"], -before.T)

    def test_a_read_only_mapping(self) -> None:
        array = heavy_tailed(20, 12)
        result = transform_model(MappingProxyType({"layer.weight": array}), negate)
        assert np.array_equal(result.model["layer.weight"], -array)

    def test_empty(self) -> None:
        assert transform_model({}, negate).changes == ()


def test_values_beyond_the_type_leave_the_layer() -> None:
    def enlarge(matrix: WeightMatrix) -> Replacement:
        return Replacement(slices=matrix.slices.astype(np.float64) * 1e5, n_changed=1)

    arrays = {"layer.weight": heavy_tailed(20, 12).astype(np.float16)}
    result = transform_model(arrays, enlarge)
    assert [change.reason for change in result.changes] == ["the new values exceed the range of float16"]
    assert np.array_equal(result.model["layer.weight"], arrays["layer.weight"])


@pytest.mark.parametrize("model", [3, np.ones((3, 3)), None])
def test_other_models(model: Any) -> None:
    with pytest.raises(UnsupportedModelError, match=r"cannot change the weights of a .*: expected a torch module"):
        transform_model(model, negate)


class TestLayers:
    @pytest.mark.parametrize(
        ("layers", "chosen"),
        [
            ((), ["embed", "conv1", "conv2", "wide"]),
            ([0, 3], ["embed", "wide"]),
            ([-1, -3], ["embed", "conv2"]),
            (["conv2"], ["conv2"]),
            (["conv*", 3], ["conv1", "conv2", "wide"]),
        ],
    )
    def test_choice(self, layers: Any, chosen: list[str]) -> None:
        result = transform_model(Network(), negate, layers=layers)
        assert [change.spec.name for change in result.changes] == chosen
        for name, new in result.model.state_dict().items():
            old = Network().state_dict()[name]
            is_chosen = name.removesuffix(".weight") in chosen
            if name not in ("embed.weight", "head.weight"):
                assert torch.equal(new, -old if is_chosen else old), name

    def test_entries_mean_what_they_mean_to_analyze(self) -> None:
        arrays = {"enc.w1": heavy_tailed(20, 12), "enc.w2": heavy_tailed(20, 12), "embed.weight": heavy_tailed(30, 12)}
        entries: list[Any] = [["dense"], ["-embed"], ["w*"], "w1", [np.int64(1)], [-2], ["enc.*", "-w2"]]
        for layers in entries:
            chosen = [layer.name for layer in analyze(arrays, layers=layers).layers]
            changed = transform_model(arrays, negate, layers=layers).changes
            assert [change.spec.name for change in changed] == chosen, layers

    def test_a_name_with_brackets_is_no_pattern(self) -> None:
        arrays = {"layer[0].weight": heavy_tailed(20, 12), "layer0.weight": heavy_tailed(20, 12)}
        result = transform_model(arrays, negate, layers=["layer[0]"])
        assert [change.spec.name for change in result.changes] == ["layer[0]"]
        result = transform_model(arrays, negate, layers=["layer[0-9]"])
        assert [change.spec.name for change in result.changes] == ["layer0"]

    @pytest.mark.parametrize(
        ("layers", "message"),
        [
            ([1.5], "layers must hold ids and names, got 1.5"),
            ([True], "layers must hold ids and names, got True"),
            ([1, -2], "layer ids must be all kept"),
            ([17], "layers: no layer has the id 17"),
            ([-17], "layers: no layer has the id 17"),
            (["bert*"], r"layers: 'bert\*' matches no layer"),
        ],
    )
    def test_impossible(self, layers: Any, message: str) -> None:
        with pytest.raises(OptionError, match=message):
            transform_model(Network(), negate, layers=layers)
