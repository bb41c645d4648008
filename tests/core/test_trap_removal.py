"""Traps that are removed: the elements that make them become ordinary, and every other bit of the model stays."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from spectral.errors import ModelError, OptionError
from spectral.loaders.opening import open_model
from spectral.power_law import alpha_at_tail
from spectral.transforms import transform_model
from spectral.trap_analysis import analyze_traps
from spectral.trap_removal import remove_traps
from tests.core.builders import spectrum_of
from tests.core.test_trap_analysis import noise, planted

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def changed_places(before: NDArray[Any], after: NDArray[Any]) -> list[tuple[int, ...]]:
    return [tuple(place) for place in np.argwhere(before != after).tolist()]


class TestStrays:
    def test_only_the_elements_that_make_traps_change(self) -> None:
        tensors = planted()
        removed = remove_traps(tensors)
        assert {change.spec.name: change.n_changed for change in removed.changes} == {"two": 2, "conv": 1, "clean": 0}
        assert {name: changed_places(values, removed.model[name]) for name, values in tensors.items()} == {
            "two.weight": [(7, 11), (100, 3)],
            "conv.weight": [(5, 6, 1, 0)],
            "clean.weight": [],
        }
        assert analyze_traps(removed.model).traps == {}
        assert all(analyze_traps(removed.model, seed=seed).traps == {} for seed in (1, 2))

    def test_they_become_ordinary_and_keep_their_sign(self) -> None:
        removed = remove_traps(planted()).model["two.weight"]
        # The median magnitude of Gaussian elements is 0.674; the edge of the bulk, 20, would still stick out.
        assert removed[7, 11] == pytest.approx(0.674, rel=0.03)
        assert removed[100, 3] == -removed[7, 11]

    def test_the_argument_is_left_alone(self) -> None:
        tensors = planted()
        copies = {name: values.copy() for name, values in tensors.items()}
        removed = remove_traps(tensors)
        assert all(np.array_equal(tensors[name], values) for name, values in copies.items())
        assert removed.model["two.weight"].dtype == np.float32

    def test_one_layer_of_several(self) -> None:
        tensors = planted()
        removed = remove_traps(tensors, layers=["conv"]).model
        assert np.array_equal(removed["two.weight"], tensors["two.weight"])
        assert list(analyze_traps(removed).traps) == ["two"]

    @pytest.mark.parametrize("value", [80.0, 1e30])
    @pytest.mark.parametrize("n", [2, 40])
    def test_any_number_of_equal_ones(self, n: int, value: float) -> None:
        weights = noise(300, 200)
        places = [(7 * number, 5 * number) for number in range(n)]
        for place in places:
            weights[place] = value
        removed = remove_traps({"x.weight": weights})
        assert changed_places(weights, removed.model["x.weight"]) == places
        assert removed.changes[0].n_changed == n
        assert removed.changes[0].reason is None

    @pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
    def test_other_types(self, dtype: Any) -> None:
        weights = noise(120, 90).astype(dtype)
        weights[7, 11] = 80.0
        removed = remove_traps({"x.weight": weights}).model["x.weight"]
        assert removed.dtype == weights.dtype
        assert changed_places(weights, removed) == [(7, 11)]
        assert float(removed[7, 11]) == pytest.approx(0.674, rel=0.03)

    def test_a_layer_that_is_nearly_all_zero(self) -> None:
        """The typical magnitude is that of what is there; zero would be one more hole."""
        weights = noise(200, 150) * (np.random.default_rng(5).random((200, 150)) < 0.05)
        weights[7, 11] = 80.0
        removed = remove_traps({"x.weight": weights}).model["x.weight"]
        assert changed_places(weights, removed) == [(7, 11)]
        assert removed[7, 11] == pytest.approx(0.674, rel=0.2)

    def test_torch_module(self) -> None:
        module = torch.nn.Sequential(torch.nn.Linear(90, 120), torch.nn.ReLU(), torch.nn.Linear(120, 80))
        with torch.no_grad():
            module[0].weight.copy_(torch.from_numpy(planted()["two.weight"]))
        before = module[0].weight.detach().clone()
        removed = remove_traps(module, layers=["0"])
        assert isinstance(removed.model, torch.nn.Module)
        assert torch.equal(module[0].weight, before)
        assert analyze_traps(removed.model).traps == {}
        remove_traps(module, inplace=True)
        assert analyze_traps(module).traps == {}

    def test_structure_survives(self) -> None:
        rng = np.random.default_rng(4)
        signal = np.outer(rng.standard_normal(120), rng.standard_normal(90)).astype(np.float32)
        weights = noise(120, 90) + signal
        weights[7, 11] = 80.0
        removed = remove_traps({"x.weight": weights}).model["x.weight"]
        clean = weights.copy()
        clean[7, 11] = 0.0
        one, other = (np.linalg.svd(values)[0][:, 0] for values in (removed, clean))
        assert abs(float(one @ other)) > 0.99

    def test_misuse(self) -> None:
        with pytest.raises(OptionError, match=r"^layers: 'nope' matches no layer"):
            remove_traps(planted(), layers=["nope"])


class TestSpread:
    """Traps that no few elements make."""

    @pytest.mark.parametrize("offset", [0.15, 0.5])
    def test_they_are_left_with_a_reason(self, offset: float) -> None:
        weights = noise(150, 100) + np.float32(offset)
        removed = remove_traps({"x.weight": weights})
        (change,) = removed.changes
        assert (change.n_changed, change.relative_change) == (0, 0.0)
        assert change.reason == (
            "1 trap is made by no few weights and left as found (spread=True lowers such, and changes nearly every "
            "weight)"
        )
        assert removed.details["reason"].tolist() == [change.reason]
        assert np.array_equal(removed.model["x.weight"], weights)

    def test_beside_an_element(self) -> None:
        weights = noise(150, 100) + np.float32(0.5)
        weights[7, 11] = 80.0
        removed = remove_traps({"x.weight": weights})
        (change,) = removed.changes
        assert change.n_changed == 1
        assert change.reason is not None
        assert changed_places(weights, removed.model["x.weight"]) == [(7, 11)]
        (trap,) = analyze_traps(removed.model).traps["x"]
        assert trap.cause == "offset"

    def test_an_element_that_makes_no_trap_of_its_own_stays(self) -> None:
        """8 is unlikely among 15,000 Gaussian values, but below (150·100)^¼ = 11 it has no eigenvalue of its own."""
        weights = noise(150, 100) + np.float32(0.5)
        weights[7, 11] = 8.0
        removed = remove_traps({"x.weight": weights})
        assert removed.changes[0].reason is not None
        assert np.array_equal(removed.model["x.weight"], weights)

    def test_elements_that_a_heavy_tail_makes_likely_stay(self) -> None:
        """They have eigenvalues of their own, and the offset makes the layer one with a trap."""
        tail = np.random.default_rng(0).standard_t(2.5, size=(300, 200))
        weights = tail + 0.8
        assert np.abs(tail).max() > 2.0 * float(np.std(tail)) * (300 * 200) ** 0.25
        removed = remove_traps({"x.weight": weights})
        assert removed.changes[0].reason is not None
        assert np.array_equal(removed.model["x.weight"], weights)

    def test_they_go_where_asked_for(self) -> None:
        weights = noise(150, 100) + np.float32(0.5)
        removed = remove_traps({"x.weight": weights}, spread=True)
        (change,) = removed.changes
        assert change.reason is None
        assert change.n_changed == len(changed_places(weights, removed.model["x.weight"])) > 0.99 * weights.size
        assert analyze_traps(removed.model).traps == {}


class TestCheckpoints:
    """A path: its whole state dict comes back, and the file stays as it is."""

    def tensors(self) -> dict[str, NDArray[Any]]:
        return {
            **planted(),
            "two.bias": np.ones(120, np.float32),
            "half.weight": noise(40, 40, seed=7).astype(ml_dtypes.bfloat16),
            "position_ids": np.arange(7, dtype=np.int64)[None],
            "mask": np.eye(3, dtype=bool),
            "packed": np.arange(6, dtype=np.uint8).reshape(2, 3),
            "scale": np.array(2.0, np.float32),
        }

    def check(self, model: dict[str, Any]) -> None:
        expected = self.tensors()
        assert set(model) == set(expected)
        for name, values in expected.items():
            assert model[name].dtype == values.dtype
            assert model[name].shape == values.shape
            assert changed_places(values, model[name]) == ([(7, 11), (100, 3)] if name == "two.weight" else [])

    def test_safetensors(self, tmp_path: Path) -> None:
        path = tmp_path / "model.safetensors"
        save_file(self.tensors(), path)
        before = path.read_bytes()
        removed = remove_traps(str(path), layers=["two"])
        self.check(removed.model)
        assert [(change.spec.name, change.n_changed) for change in removed.changes] == [("two", 2)]
        assert path.read_bytes() == before
        assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
        save_file(removed.model, tmp_path / "clean.safetensors")
        self.check(load_file(tmp_path / "clean.safetensors"))

    def test_a_folder_of_shards(self, tmp_path: Path) -> None:
        tensors = self.tensors()
        names = list(tensors)
        for number, part in enumerate((names[:3], names[3:]), start=1):
            save_file({name: tensors[name] for name in part}, tmp_path / f"model-{number:05}-of-00002.safetensors")
        self.check(remove_traps(tmp_path, layers=["two"]).model)

    def test_a_folder_whose_configuration_splits_a_tensor(self, tmp_path: Path) -> None:
        fused = noise(360, 120)
        fused[200, 17] = 80.0
        save_file({"query_key_value.weight": fused}, tmp_path / "model.safetensors")
        config = '{"model_type": "gpt_neox", "num_attention_heads": 4}'
        (tmp_path / "config.json").write_text(config, encoding="utf-8")
        removed = remove_traps(tmp_path)
        assert len(removed.changes) == 3
        assert changed_places(fused, removed.model["query_key_value.weight"]) == [(200, 17)]

    def test_torch_files(self, tmp_path: Path) -> None:
        embedding = torch.from_numpy(planted()["two.weight"])
        state = {"embed.weight": embedding, "head.weight": embedding, "ids": torch.arange(5), "bias": torch.ones(3)}
        torch.save(state, tmp_path / "model.pt")
        removed = remove_traps(tmp_path / "model.pt")
        assert list(removed.model) == list(state)
        assert torch.argwhere(removed.model["embed.weight"] != embedding).tolist() == [[7, 11], [100, 3]]
        # Names for one tensor stay so.
        assert removed.model["head.weight"].data_ptr() == removed.model["embed.weight"].data_ptr()
        assert torch.equal(torch.load(tmp_path / "model.pt", weights_only=True)["embed.weight"], embedding)

    def test_weights_that_are_stored_as_factors_are_left_with_a_reason(self, tmp_path: Path) -> None:
        weights = planted()["two.weight"]
        norms = np.linalg.norm(weights, axis=1, keepdims=True)
        save_file({"x.weight_v": weights, "x.weight_g": norms}, tmp_path / "model.safetensors")
        removed = remove_traps(tmp_path / "model.safetensors")
        (change,) = removed.changes
        assert change.reason == "the model computes this weight from other tensors: it cannot be written back"
        assert np.array_equal(removed.model["x.weight_v"], weights)

    def test_other_transforms_take_a_path_too(self, tmp_path: Path) -> None:
        from spectral.transforms import Replacement

        save_file({"x.weight": np.ones((4, 3), np.float32)}, tmp_path / "model.safetensors")
        doubled = transform_model(
            tmp_path / "model.safetensors", lambda matrix: Replacement(slices=2 * matrix.slices, n_changed=1)
        )
        assert np.array_equal(doubled.model["x.weight"], 2 * np.ones((4, 3)))

    def test_a_file_is_not_changed_in_place(self, tmp_path: Path) -> None:
        save_file(planted(), tmp_path / "model.safetensors")
        with pytest.raises(OptionError, match=r"^inplace is for a model in memory: a file is never written to"):
            remove_traps(tmp_path / "model.safetensors", inplace=True)

    def test_a_type_that_no_array_has(self, tmp_path: Path) -> None:
        first = b'"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}'
        header = b"{" + first + b',"b":{"dtype":"F4","shape":[2],"data_offsets":[16,17]}}'
        path = tmp_path / "model.safetensors"
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(np.eye(2, dtype="<f4")) + b"\0")
        with pytest.raises(ModelError, match=r"tensor 'b': no array has the type float4_e2m1$"):
            remove_traps(path)


class TestRealModel:
    def test_known_outliers(self, minilm: Path) -> None:
        source = open_model(minilm)
        name = "encoder.layer.2.output.dense.weight"
        tensors = {name: source.load(name)}
        removed = remove_traps(tensors)
        assert removed.changes[0].n_changed == len(changed_places(tensors[name], removed.model[name])) == 2
        assert analyze_traps(removed.model).traps == {}
        # Over one tail: the fit of each may choose another xmin.
        before, after = (alpha_at_tail(spectrum_of(model[name]).evals, 192) for model in (tensors, removed.model))
        assert after == pytest.approx(before, rel=0.05)

    def test_a_planted_weight(self, minilm: Path, tmp_path: Path) -> None:
        """It goes back to the size of the others, and the outliers of other layers are left to the model."""
        source = open_model(minilm)
        name = "encoder.layer.2.attention.self.query.weight"
        healthy = source.load(name)
        outliers = "encoder.layer.2.output.dense.weight"
        damaged = healthy.copy()
        damaged[17, 99] += np.linalg.norm(damaged.astype(np.float64), 2)
        save_file({name: damaged, outliers: source.load(outliers)}, tmp_path / "new.safetensors")
        removed = remove_traps(tmp_path / "new.safetensors", layers=["encoder.layer.2.attention.self.query"]).model
        assert changed_places(damaged, removed[name]) == [(17, 99)]
        assert math.isclose(removed[name][17, 99], float(np.median(np.abs(healthy))), rel_tol=1e-3)
        assert np.array_equal(removed[outliers], source.load(outliers))
