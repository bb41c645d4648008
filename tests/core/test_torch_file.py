"""The torch loader: values bit for bit, containers found, and nothing executed."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from spectral.analysis import analyze, describe
from spectral.errors import CorruptCheckpointError, MissingDependencyError, ModelError, UnsupportedModelError
from spectral.loaders.torch_file import open_torch_file
from tests.core.builders import heavy_tailed
from tests.core.test_safetensors import TORCH_FLOATS, TORCH_OTHERS, any_bits

if TYPE_CHECKING:
    from pathlib import Path

FORMATS = pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])


def save(content: object, path: Path, *, is_zip: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    return path


def names_in(path: Path) -> list[str]:
    return [info.name for info in open_torch_file(path).tensors()]


# torch cannot read back what it saves of float8 in its legacy format, with or without weights_only.
@pytest.mark.parametrize(
    ("dtype", "is_zip"),
    [(dtype, is_zip) for dtype in TORCH_FLOATS for is_zip in (True, False) if is_zip or "float8" not in dtype],
)
def test_floats_come_back_bit_for_bit(dtype: str, is_zip: bool, tmp_path: Path) -> None:
    tensor = any_bits(TORCH_FLOATS[dtype])
    source = open_torch_file(save({"w": tensor}, tmp_path / "m.pt", is_zip=is_zip))
    (info,) = source.tensors()
    values = source.load("w")
    assert (info.name, info.shape, info.dtype, info.refusal) == ("w", (64, 64), dtype, None)
    assert values.dtype.name == dtype
    assert values.tobytes() == tensor.view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("dtype", [*TORCH_OTHERS, "complex64"])
def test_other_types_are_listed_and_refused(dtype: str, tmp_path: Path) -> None:
    tensor = torch.ones(4, 4).to(getattr(torch, dtype))
    source = open_torch_file(save({"w": tensor}, tmp_path / "m.pt"))
    (unanalysed,) = describe(source).unanalysed
    assert unanalysed.reason.endswith(f"({dtype})")
    with pytest.raises(ModelError, match=r"m\.pt: tensor 'w': (holds positions|quantised or packed|complex)"):
        source.load("w")


@FORMATS
def test_slices_and_transposes_are_the_values_they_show(is_zip: bool, tmp_path: Path) -> None:
    whole = torch.from_numpy(heavy_tailed(20, 30))
    content = {"turned": whole.T, "part": whole[3:9, ::2], "negated": torch._neg_view(whole)}
    source = open_torch_file(save(content, tmp_path / "m.pt", is_zip=is_zip))
    np.testing.assert_array_equal(source.load("turned"), whole.T.numpy())
    np.testing.assert_array_equal(source.load("part"), whole[3:9, ::2].numpy())
    np.testing.assert_array_equal(source.load("negated"), -whole.numpy())
    assert source.load("turned").flags.c_contiguous


STATE = {"a.weight": torch.ones(3, 2), "a.bias": torch.ones(3)}


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (STATE, ["a.weight", "a.bias"]),
        (OrderedDict(STATE), ["a.weight", "a.bias"]),
        (torch.ones(3, 2), ["tensor"]),
        ({"state_dict": STATE, "epoch": 3}, ["a.weight", "a.bias"]),
        ({"model_state_dict": STATE, "optimizer_state_dict": {"x": torch.ones(2, 2)}}, ["a.weight", "a.bias"]),
        ({"model": {"state_dict": STATE}}, ["a.weight", "a.bias"]),
        ({"module": STATE, "ema": {"b": torch.ones(2, 2)}}, ["a.weight", "a.bias"]),
        ({"step": torch.tensor(5), "model": STATE, "optimizer": {"m": torch.ones(2, 2)}}, ["a.weight", "a.bias"]),
        ({"generator": STATE, "critic": {"w": torch.ones(2)}}, ["generator.a.weight", "generator.a.bias", "critic.w"]),
        (
            {"encoder": STATE, "lr_scheduler": {"s": torch.ones(2)}, "optim": {"s": torch.ones(2)}},
            ["encoder.a.weight", "encoder.a.bias"],
        ),
        (
            {"top": torch.ones(2, 2), "inner": {"deep": STATE}, "rng_state": {"s": torch.ones(2, 2)}},
            ["top", "inner.deep.a.weight", "inner.deep.a.bias"],
        ),
        ({0: torch.ones(2, 2), "state_dict": "no mapping"}, ["0"]),
        ({"state_dict": {}, "net": STATE}, ["a.weight", "a.bias"]),
        ({"a": {"b": [torch.ones(2, 2)]}, "w": torch.ones(2, 2)}, ["a.b.0", "w"]),
        ({"scheduled_head": STATE, "w": torch.ones(2, 2)}, ["scheduled_head.a.weight", "scheduled_head.a.bias", "w"]),
    ],
    ids=[
        "state dict",
        "ordered",
        "bare tensor",
        "state_dict",
        "model_state_dict",
        "model.state_dict",
        "module before ema",
        "a tensor beside the container",
        "several networks",
        "training state",
        "tensors at two levels",
        "number as name",
        "empty container",
        "lists",
        "a name that begins like training state",
    ],
)
def test_containers(content: object, names: list[str], tmp_path: Path) -> None:
    infos = open_torch_file(save(content, tmp_path / "m.pt")).tensors()
    assert [info.name for info in infos if info.refusal is None] == names


def test_what_lies_beside_the_container_is_listed(tmp_path: Path) -> None:
    """A trainer may load the other one: it is not analysed, so it must count against coverage."""
    content = {"state_dict": STATE, "ema": {"a.weight": torch.ones(3, 2) * 2}, "teacher": [torch.ones(4, 4)]}
    infos = open_torch_file(save(content, tmp_path / "m.pt")).tensors()
    beside = {info.name: info.refusal for info in infos if info.refusal is not None}
    assert beside == dict.fromkeys(["ema.a.weight", "teacher.0"], "lies outside the state dict that is analysed")
    assert describe(tmp_path / "m.pt").coverage == pytest.approx(6 / (9 + 6 + 16))


def test_one_tensor_in_two_places_is_no_gap(tmp_path: Path) -> None:
    infos = open_torch_file(save({"state_dict": STATE, "model": STATE}, tmp_path / "m.pt")).tensors()
    assert [info.name for info in infos] == ["a.weight", "a.bias"]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ([torch.ones(2)], r"holds a list, expected a state dict"),
        (3, r"holds a int, expected a state dict"),
        ({}, r"no state dict found: its top-level keys are 'none'"),
        ({"epoch": 3, "lr": 0.1}, r"no state dict found: its top-level keys are 'epoch, lr'"),
        ({"optimizer": {"m": torch.ones(2)}}, r"no state dict found: its top-level keys are 'optimizer'"),
    ],
    ids=["list", "number", "empty", "no tensors", "training state alone"],
)
def test_no_state_dict(content: object, match: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"m\.pt: " + match):
        open_torch_file(save(content, tmp_path / "m.pt"))


def test_two_tensors_of_one_name(tmp_path: Path) -> None:
    path = save({"a.b": torch.ones(2, 2), "a": {"b": torch.ones(2, 2)}}, tmp_path / "m.pt")
    with pytest.raises(CorruptCheckpointError, match=r"m\.pt: two tensors would be named 'a\.b'"):
        open_torch_file(path)


def test_a_container_that_holds_itself(tmp_path: Path) -> None:
    content: dict[str, Any] = {"epoch": 1, "parts": {"w": torch.ones(2, 2)}}
    content["state_dict"] = content
    assert [name.rpartition(".")[2] for name in names_in(save(content, tmp_path / "m.pt"))] == ["w"]


def test_a_container_that_is_contained_very_often(tmp_path: Path) -> None:
    content: dict[str, Any] = {"w": torch.ones(2, 2)}
    for _ in range(6):
        content = {f"k{index}": content for index in range(40)}
    # 40 to the sixth paths lead to the one tensor.
    assert len(names_in(save(content, tmp_path / "m.pt"))) == 1


def test_an_expanded_view_claims_no_memory(tmp_path: Path) -> None:
    bomb = torch.ones(1).expand(2**20, 2**20)
    source = open_torch_file(save({"bomb": bomb, "w": torch.ones(3, 2)}, tmp_path / "m.pt"))
    assert (tmp_path / "m.pt").stat().st_size < 10_000
    (unanalysed,) = describe(source).unanalysed
    assert (unanalysed.name, unanalysed.reason) == (
        "bomb",
        "an expanded view: it repeats values that are stored once",
    )
    with pytest.raises(ModelError, match=r"m\.pt: tensor 'bomb': an expanded view"):
        source.load("bomb")


def test_sparse_and_quantised_tensors_are_listed(tmp_path: Path) -> None:
    content = {"sparse": torch.eye(4).to_sparse(), "w": torch.ones(3, 2)}
    (unanalysed,) = describe(save(content, tmp_path / "m.pt")).unanalysed
    assert unanalysed.reason == "sparse storage is not read (torch.sparse_coo)"


def test_values_are_mapped_and_not_read_at_opening(tmp_path: Path) -> None:
    tensor = torch.ones(1000, 1000)
    path = save({"w": tensor}, tmp_path / "m.pt")
    source = open_torch_file(path)
    offset = path.read_bytes().index(tensor.numpy().tobytes())
    with path.open("r+b") as stream:
        stream.seek(offset + 3_999_996)
        stream.write(np.float32(7.0).tobytes())
    assert source.load("w")[-1, -1] == 7.0


def test_loading_does_not_change_the_file(tmp_path: Path) -> None:
    path = save({"w": torch.from_numpy(heavy_tailed(60, 50))}, tmp_path / "m.pt")
    before = path.read_bytes()
    open_torch_file(path).load("w")[:] = 0.0
    assert path.read_bytes() == before


def test_pickles_as_its_path(tmp_path: Path) -> None:
    source = open_torch_file(save({"w": torch.from_numpy(heavy_tailed(60, 50))}, tmp_path / "m.pt"))
    data = pickle.dumps(source)
    assert len(data) < 1000
    np.testing.assert_array_equal(pickle.loads(data).load("w"), source.load("w"))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".PT"])
def test_suffixes(suffix: str, tmp_path: Path) -> None:
    path = save({"a.weight": torch.from_numpy(heavy_tailed(60, 50))}, tmp_path / f"m{suffix}")
    assert analyze(path).details["longname"].tolist() == ["a"]


@pytest.mark.parametrize("version", ["2.5.1", "2.9.1"])
def test_a_torch_that_files_can_exploit_is_refused(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(STATE, tmp_path / "m.pt")
    monkeypatch.setattr(torch, "__version__", type(torch.__version__)(version))
    with pytest.raises(
        MissingDependencyError, match=rf"m\.pt: torch {version} cannot read files safely: update to 2\.10"
    ):
        open_torch_file(path)


def test_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(STATE, tmp_path / "m.pt")
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(MissingDependencyError, match=r"m\.pt: reading torch files needs torch: pip install"):
        open_torch_file(path)
