"""The torch loader: values bit for bit, containers found, and nothing executed."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
import warnings
import zipfile
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from spectral.analysis import analyze, describe
from spectral.errors import CorruptCheckpointError, ModelError, UnsupportedModelError
from spectral.loaders.torch_file import open_torch_file
from tests.core.builders import heavy_tailed
from tests.core.test_safetensors import TORCH_FLOATS, TORCH_OTHERS, any_bits

if TYPE_CHECKING:
    from pathlib import Path


def save(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def names_in(path: Path) -> list[str]:
    return [info.name for info in open_torch_file(path).tensors()]


@pytest.mark.parametrize("dtype", TORCH_FLOATS)
def test_floats_come_back_bit_for_bit(dtype: str, tmp_path: Path) -> None:
    tensor = any_bits(TORCH_FLOATS[dtype])
    source = open_torch_file(save({"w": tensor}, tmp_path / "m.pt"))
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


def test_slices_and_transposes_are_the_values_they_show(tmp_path: Path) -> None:
    whole = torch.from_numpy(heavy_tailed(20, 30))
    content = {"turned": whole.T, "part": whole[3:9, ::2], "negated": torch._neg_view(whole)}
    source = open_torch_file(save(content, tmp_path / "m.pt"))
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


def run_without_torch(program: str, *arguments: object) -> str:
    """Run a program where torch cannot be imported, and return what it prints."""
    block = "import sys\nsys.modules['torch'] = None\n"
    command = [sys.executable, "-c", block + program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


BITS = """
import hashlib, sys
from spectral.loaders.opening import open_model
source = open_model(sys.argv[1])
for info in source.tensors():
    if info.refusal is None:
        print(info.name, info.dtype, *info.shape, hashlib.sha256(source.load(info.name).tobytes()).hexdigest())
"""


def test_the_same_bits_without_torch(tmp_path: Path) -> None:
    whole = torch.from_numpy(heavy_tailed(40, 30))
    content = {
        "whole": whole,
        "turned": whole.T,
        "half": whole.bfloat16(),
        "part": whole[3:9, ::2].clone(),
        "parameter": torch.nn.Parameter(torch.from_numpy(heavy_tailed(20, 10, seed=3))),
    }
    path = save(content, tmp_path / "m.pt")
    lines = run_without_torch(BITS, path).splitlines()
    assert len(lines) == 4, "the transpose is tied to the whole"
    for line in lines:
        name, _, *_, digest = line.split()
        expected = torch.load(path, weights_only=True)[name].detach().contiguous()
        assert hashlib.sha256(expected.view(torch.uint8).numpy().tobytes()).hexdigest() == digest


def test_opening_and_loading_import_no_torch(tmp_path: Path) -> None:
    path = save(STATE, tmp_path / "m.pt")
    program = "import sys\nfrom spectral.loaders.opening import open_model\nsource = open_model(sys.argv[1])\n"
    program += "source.load('a.weight')\nprint([name for name in sys.modules if name.partition('.')[0] == 'torch'])"
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def nested_module() -> Any:
    """A module with a child that is called as a container is, a transposed weight and a buffer of whole numbers."""
    inner = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.BatchNorm1d(6))
    head = torch.nn.Linear(6, 4)
    head.weight.data = torch.from_numpy(heavy_tailed(6, 4, seed=1)).float().T
    return torch.nn.Sequential(OrderedDict(model=inner, head=head)).eval()


def test_the_parameters_of_a_script(tmp_path: Path) -> None:
    module = nested_module()
    path = tmp_path / "m.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates what it still lets people save
        trace: Any = torch.jit.trace  # torch gives it no types
        torch.jit.save(trace(module, torch.ones(3, 8)), str(path))
    source = open_torch_file(path)
    state = module.state_dict()
    assert {info.name for info in source.tensors()} == set(state), "a child called model is no container"
    for name, tensor in state.items():
        if tensor.is_floating_point():
            np.testing.assert_array_equal(source.load(name), tensor.numpy())
    assert run_without_torch(BITS, path).count("\n") == len(state) - 2, (
        "all but a whole number, and no line end at the last"
    )


def test_a_file_of_another_byte_order(tmp_path: Path) -> None:
    values = heavy_tailed(20, 30)
    path = save({"w": torch.from_numpy(values)}, tmp_path / "little.pt")
    big = tmp_path / "big.pt"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(big, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            data = values.byteswap().tobytes() if name.endswith("data/0") else data
            new.writestr(name, b"big" if name.endswith("byteorder") else data)
    source = open_torch_file(big)
    np.testing.assert_array_equal(source.load("w"), values)
    np.testing.assert_array_equal(source.load_span("w", 30, 60), values[1])
    assert source.stream("w") is None
    assert source.load("w").dtype.byteorder in "=<"


def test_spans_and_streams_are_the_bytes_of_the_tensor(tmp_path: Path) -> None:
    whole = torch.from_numpy(heavy_tailed(700, 500))
    source = open_torch_file(save({"part": whole[100:], "turned": whole.clone().T}, tmp_path / "m.pt"))
    expected = whole[100:].numpy()
    pieces = source.stream("part")
    assert pieces is not None
    assert b"".join(map(bytes, pieces)) == expected.tobytes()
    np.testing.assert_array_equal(source.load_span("part", 1000, 1500), expected[2])
    assert source.stream("turned") is None
    np.testing.assert_array_equal(source.load_span("turned", 0, 700), whole.numpy()[:, 0])


def test_tensors_of_the_callers_own_share_what_they_shared(tmp_path: Path) -> None:
    whole = torch.from_numpy(heavy_tailed(20, 30))
    path = save({"w": whole, "tied": whole, "turned": whole.T, "negated": torch._neg_view(whole)}, tmp_path / "m.pt")
    loaded = open_torch_file(path).load_all()
    for name, tensor in torch.load(path, weights_only=True).items():
        assert torch.equal(loaded[name], tensor)
    loaded["w"][0, 0] = 7.0
    assert loaded["turned"][0, 0] == 7.0
    assert loaded["negated"][0, 0] == -7.0
    assert torch.load(path, weights_only=True)["w"][0, 0] != 7.0


def test_a_tensor_that_ends_outside_its_storage(tmp_path: Path) -> None:
    path = save({"w": torch.ones(5, 7)}, tmp_path / "m.pt")
    data = path.read_bytes()
    assert data.count(b"K\x05K\x07") == 1, "the shape in the pickle"
    path.write_bytes(data.replace(b"K\x05K\x07", b"K\x06K\x07"))
    with pytest.raises(CorruptCheckpointError, match=r"a tensor that ends at byte 168 of a storage of 140"):
        open_torch_file(path)


def test_quantised_and_empty_tensors_are_listed(tmp_path: Path) -> None:
    content = {"empty": torch.empty(0, 4), "meta": torch.empty(3, 4, device="meta"), "w": torch.ones(3, 2)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates quantised tensors
        content["q"] = torch.quantize_per_tensor(torch.ones(4, 4), 0.1, 0, torch.qint8)
        path = save(content, tmp_path / "m.pt")
    infos = {info.name: info for info in open_torch_file(path).tensors()}
    assert infos["q"].refusal == "quantised or packed values are not decoded (qint8)"
    assert infos["q"].shape == (4, 4)
    assert infos["meta"].refusal == "the tensor is on the meta device: it has no values"
    assert open_torch_file(path).load("empty").shape == (0, 4)
