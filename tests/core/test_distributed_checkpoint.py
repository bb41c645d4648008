"""Folders of torch.distributed.checkpoint: the bits that torch puts together, pieces checked, nothing executed."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import time
import warnings
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from spectral import describe
from spectral.errors import (
    CorruptCheckpointError,
    ModelError,
    ModelNotFoundError,
    UnsafeCheckpointError,
    UnsupportedModelError,
)
from spectral.loaders import dcp_metadata, pickle_machine
from spectral.loaders.dcp_folder import DistributedFolder
from spectral.loaders.opening import open_model
from spectral.loaders.split_safetensors import SplitSafetensors
from spectral.loaders.tiling import Budget, why_not_tiled
from spectral.loaders.torch_file import open_torch_file
from tests.core.builders import heavy_tailed, safetensors_bytes
from tests.core.test_bad_files import Reduced, check_refused
from tests.core.test_torch_file import BITS, run_without_torch

if TYPE_CHECKING:
    from collections.abc import Callable

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn)


def save(content: dict[str, Any], folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that there is one process
        dcp.save(content, checkpoint_id=folder, no_dist=True)
    return folder


def trained() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(9, 7), torch.nn.Linear(7, 5))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 9)).sum().backward()
    optimizer.step()
    return model, optimizer


def bits(values: Any) -> bytes:
    return np.ascontiguousarray(values).tobytes()


def weights_of(source: Any) -> dict[str, bytes]:
    return {info.name: bits(source.load(info.name)) for info in source.tensors() if info.refusal is None}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model, _: model,
        lambda model, _: {"model": model},
        lambda model, optimizer: {"model": model, "optim": optimizer, "step": 3},
        lambda model, optimizer: {"state_dict": model, "optimizer_0": optimizer},
    ],
    ids=["bare", "model", "with its optimizer", "lightning"],
)
def test_the_bits_that_torch_puts_together(wrap: Callable[[Any, Any], dict[str, Any]], tmp_path: Path) -> None:
    model, optimizer = trained()
    folder = save(wrap(model.state_dict(), optimizer.state_dict()), tmp_path / "step-10")
    dcp_to_torch_save(folder, tmp_path / "whole.pt")
    source, whole = open_model(folder), open_torch_file(tmp_path / "whole.pt")
    assert isinstance(source, DistributedFolder)
    assert weights_of(source) == weights_of(whole)
    assert set(weights_of(source)) == set(model.state_dict())
    assert describe(source).coverage == pytest.approx(98 / 110), "no moment counts as a parameter"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_types_and_layouts(dtype: torch.dtype, tmp_path: Path) -> None:
    whole = torch.from_numpy(heavy_tailed(8, 6)).to(dtype)
    content = {"w": whole, "turned": whole.T, "part": whole[2:5, 1:4], "empty": whole[:0], "one": whole[0, 0]}
    source = open_model(save({"model": content}, tmp_path / "c"))
    for name, tensor in content.items():
        values = source.load(name)
        assert values.shape == tuple(tensor.shape)
        assert bits(values) == tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def test_integers_are_listed_and_refused(tmp_path: Path) -> None:
    source = open_model(
        save({"w": torch.ones(4, 4), "ids": torch.arange(5), "q": torch.ones(3, 3).char()}, tmp_path / "c")
    )
    assert {info.name: info.refusal for info in source.tensors() if info.refusal} == {
        "ids": "holds positions or a mask, not weights (int64)",
        "q": "quantised or packed values are not decoded (int8)",
    }
    with pytest.raises(ModelError, match=r"c: tensor 'q': quantised"):
        source.load("q")
    assert isinstance(source, DistributedFolder)
    assert source.load_all()["ids"].tolist() == [0, 1, 2, 3, 4]


def test_what_belongs_to_the_training_is_listed_as_that(tmp_path: Path) -> None:
    model, optimizer = trained()
    source = open_model(save({"model": model.state_dict(), "optim": optimizer.state_dict()}, tmp_path / "c"))
    moments = {info.name: info for info in source.tensors() if info.name.startswith("optim")}
    assert "optim.state.0.exp_avg" in moments
    assert {info.refusal for info in moments.values()} == {"state of the training (optim), not a weight"}
    assert all(info.counted_in == "optim" for info in moments.values())


def test_a_layer_called_as_a_scaler_is_a_layer(tmp_path: Path) -> None:
    content = {"model": {"scaler.weight": torch.ones(4, 4), "optim.scheduler.weight": torch.ones(4, 4)}}
    source = open_model(save(content, tmp_path / "c"))
    assert [info.name for info in source.tensors() if info.refusal is None] == [
        "optim.scheduler.weight",
        "scaler.weight",
    ]


def test_beside_the_weights(tmp_path: Path) -> None:
    source = open_model(save({"model": {"w": torch.ones(4, 4)}, "ema": {"w": torch.zeros(4, 4)}}, tmp_path / "c"))
    refused = {info.name: info.refusal for info in source.tensors()}
    assert refused == {"w": None, "ema.w": "lies outside the state dict that is analysed"}


def test_only_an_optimizer(tmp_path: Path) -> None:
    _, optimizer = trained()
    save({"optim": optimizer.state_dict()}, tmp_path / "c")
    check_refused(
        tmp_path / "c", UnsupportedModelError, r"c: holds no weights, only 12 tensors of the state of the tra"
    )


def test_without_torch(tmp_path: Path) -> None:
    folder = save({"model": trained()[0].state_dict()}, tmp_path / "c")
    assert len(run_without_torch(BITS, folder).splitlines()) == 4


def test_the_folder_of_a_training(tmp_path: Path) -> None:
    """As Accelerate lays it out: weights, optimizer and the state of the schedule beside each other."""
    model, optimizer = trained()
    save({"model": model.state_dict()}, tmp_path / "pytorch_model_fsdp_0")
    save({"optimizer": optimizer.state_dict()}, tmp_path / "optimizer_0")
    torch.save({"last_epoch": 3}, tmp_path / "scheduler.pt")
    torch.save({"states": 3}, tmp_path / "rng_state_0.pth")
    assert set(weights_of(open_model(tmp_path))) == set(model.state_dict())


def test_lightning_s_sharded_folder(tmp_path: Path) -> None:
    model, optimizer = trained()
    folder = save(
        {"model": model.state_dict(), "optimizer_0": optimizer.state_dict()}, tmp_path / "epoch=0-step=3.ckpt"
    )
    torch.save({"epoch": 0, "pytorch-lightning_version": "2.6.6", "loops": {}}, folder / "meta.pt")
    assert set(weights_of(open_model(folder))) == set(model.state_dict())


PROGRAM = """
import sys, warnings
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp

def run(rank, folder):
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(folder + "/store", 2), rank=rank, world_size=2)
    from torch.distributed._shard import sharded_tensor
    from torch.distributed._shard.sharding_spec import ChunkShardingSpec
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict import get_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor
    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(9, 7), torch.nn.Linear(7, 5))
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 9)).sum().backward()
    optimizer.step()
    weights, moments = get_state_dict(model, optimizer)
    whole = torch.arange(35.0).reshape(5, 7)
    weights["columns"] = distribute_tensor(whole, mesh, [Shard(1)])
    weights["replica"] = distribute_tensor(whole + 1, mesh, [Replicate()])
    dcp.save(dict(weights), storage_writer=HuggingFaceStorageWriter(folder + "/hf", save_distributed=True))
    spec = ChunkShardingSpec(dim=0, placements=["rank:0/cpu", "rank:1/cpu"])
    weights["old"] = sharded_tensor.full(spec, (9, 4), 2.0)
    dcp.save({"app": {"model": weights, "optim": moments, "step": 3}}, checkpoint_id=folder + "/dcp")
    dist.destroy_process_group()

if __name__ == "__main__":
    mp.start_processes(run, (sys.argv[1],), nprocs=2, start_method="fork")
"""


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes of FSDP2 saved, with tensors cut along other axes, too."""
    folder = tmp_path_factory.mktemp("gloo")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_what_two_processes_saved(two_processes: Path, tmp_path: Path) -> None:
    dcp_to_torch_save(two_processes / "dcp", tmp_path / "whole.pt")
    expected = torch.load(tmp_path / "whole.pt", weights_only=True)["app"]["model"]
    source = open_model(two_processes / "dcp")
    assert isinstance(source, DistributedFolder)
    assert {name: len(tensor.pieces) for name, tensor in source.values.items()}["columns"] == 2
    found = weights_of(source)
    assert found == {name: tensor.numpy().tobytes() for name, tensor in expected.items()}
    for name, data in found.items():
        values = np.frombuffer(data, np.float32)
        np.testing.assert_array_equal(source.load_span(name, 1, len(values) - 1), values[1:-1])
        pieces = source.stream(name)
        assert (pieces is None) == (name == "columns")
        assert pieces is None or b"".join(map(bytes, pieces)) == data
    loaded = source.load_all()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())
    assert pickle.loads(pickle.dumps(source)).load("columns").tobytes() == found["columns"]
    assert {info.counted_in for info in source.tensors() if info.name.startswith("app.optim")} == {"optim"}


def test_what_they_saved_as_safetensors(two_processes: Path) -> None:
    source = open_model(two_processes / "hf")
    assert isinstance(source, SplitSafetensors)
    found, expected = weights_of(source), weights_of(open_model(two_processes / "dcp"))
    assert found == {name: data for name, data in expected.items() if name != "old"}
    for name, data in found.items():
        values = np.frombuffer(data, np.float32)
        np.testing.assert_array_equal(source.load_span(name, 1, len(values) - 1), values[1:-1])
    assert source.stream("columns") is None
    assert pickle.loads(pickle.dumps(source)).load("columns").tobytes() == found["columns"]


def test_a_missing_process(two_processes: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(two_processes / "hf", tmp_path / "hf")
    next(folder.glob("shard-00001*")).unlink()
    check_refused(folder, CorruptCheckpointError, r"hf: the shard of process 1 of 2 is missing")
    folder = shutil.copytree(two_processes / "dcp", tmp_path / "dcp")
    (folder / "__1_0.distcp").unlink()
    check_refused(folder, ModelNotFoundError, r"\.metadata: names the shard '__1_0\.distcp', which is missing")


def one_piece(name: str, header: dict[str, Any], offsets: object) -> bytes:
    info = json.dumps({name: {"saved_offsets": offsets}})
    entry = {"__metadata__": {"DCP_SHARDING_INFO": info}, name: header}
    return safetensors_bytes(entry, bytes(header["data_offsets"][1]))


HALF = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


@pytest.mark.parametrize(
    ("second", "offsets", "match"),
    [
        (HALF, [1, 0], r"its pieces have 12 values where its shape \[3, 3\] has 9"),
        (HALF, [0, 0], r"its pieces have 12 values"),
        (HALF, [3, 0], r"its pieces have 12 values where its shape \[5, 3\] has 15"),
        (HALF, [2], r"saved_offsets are no place in it"),
        (HALF, [2, -1], r"saved_offsets are no place in it"),
        (HALF, [2, 1.0], r"saved_offsets are no place in it"),
        (HALF, "text", r"saved_offsets are no place in it"),
        (HALF, [2**70, 0], r"saved_offsets are no place in it"),
        ({"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}, [2, 0], r"is float32 \[2, 3\] in"),
        ({"dtype": "F32", "shape": [6], "data_offsets": [0, 24]}, [2], r"is float32 \[2, 3\] in"),
    ],
)
def test_pieces_that_do_not_fit(second: dict[str, Any], offsets: object, match: str, tmp_path: Path) -> None:
    (tmp_path / "shard-00001-model-00001-of-00001.safetensors").write_bytes(one_piece("w", HALF, [0, 0]))
    (tmp_path / "shard-00002-model-00001-of-00001.safetensors").write_bytes(one_piece("w", second, offsets))
    check_refused(tmp_path, CorruptCheckpointError, match)


@settings(max_examples=200)
@given(st.data())
def test_boxes_fill_a_tensor_or_do_not(data: st.DataObject) -> None:
    """Against counting every value; the boxes are cuts of the tensor, some of them moved."""
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    cuts = [sorted({0, n, *data.draw(st.lists(st.integers(0, n), max_size=2))}) for n in shape]
    grid: list[tuple[tuple[int, ...], tuple[int, ...]]] = [((), ())]
    for edges in cuts:
        steps = list(pairwise(edges))
        grid = [((*o, a), (*s, b - a)) for o, s in grid for a, b in steps]
    if data.draw(st.booleans()):
        index = data.draw(st.integers(0, len(grid) - 1))
        moved = tuple(data.draw(st.integers(0, n)) for n in shape)
        grid[index] = (moved, grid[index][1])
    counts = np.zeros(shape, int)
    is_inside = all(o + n <= full for offsets, sizes in grid for o, n, full in zip(offsets, sizes, shape, strict=True))
    for offsets, sizes in grid:
        counts[tuple(slice(o, o + n) for o, n in zip(offsets, sizes, strict=True))] += 1
    is_filled = bool(is_inside and (counts == 1).all())
    assert (why_not_tiled(shape, data.draw(st.permutations(grid)), Budget()) is None) == is_filled


def test_boxes_without_end() -> None:
    boxes = [((0, index), (1, 1)) for index in range(3000)]
    assert why_not_tiled((1, 3000), boxes, Budget(3000)) is None
    square = [((row, column), (1, 1)) for row in range(20) for column in range(20)]
    assert why_not_tiled((20, 20), square, Budget(1000)) == "more pieces beside each other than any checkpoint has"
    assert why_not_tiled((20, 20), square, Budget(20**3)) is None
    assert why_not_tiled((), [((), ())], Budget()) is None
    assert (
        why_not_tiled((1, 2), [((0, 0), (1, 1)), ((0, 0), (1, 1))], Budget())
        == "the pieces at [0, 0] and [0, 0] overlap"
    )


def described(
    folder: Path,
    *,
    chunks: Chunks,
    shape: tuple[int, ...] = (4, 3),
    dtype: Any = torch.float32,
    changed: Callable[[Metadata], object] = lambda metadata: None,
    stored: Callable[[torch.Tensor], object] = lambda tensor: tensor,
) -> Path:
    """Write a checkpoint of one tensor in these pieces, one after the other in one file, as several processes would."""
    folder.mkdir(exist_ok=True)
    whole = torch.arange(12.0).reshape(4, 3)
    places: dict[MetadataIndex, _StorageInfo] = {}
    with (folder / "__0_0.distcp").open("wb") as stream:
        for offsets, sizes in chunks:
            begin = stream.tell()
            piece = whole[tuple(slice(o, o + n) for o, n in zip(offsets, sizes, strict=True))].clone()
            torch.save(stored(piece), stream)
            places[MetadataIndex("w", offsets)] = _StorageInfo("__0_0.distcp", begin, stream.tell() - begin)
    pieces = [ChunkStorageMetadata(torch.Size(o), torch.Size(n)) for o, n in chunks]
    tensor = TensorStorageMetadata(TensorProperties(dtype), torch.Size(shape), pieces)
    metadata = Metadata({"w": tensor}, {"w": ("w",)}, places)
    changed(metadata)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    return folder


Chunks = list[tuple[tuple[int, ...], tuple[int, ...]]]

ROWS: Chunks = [((0, 0), (2, 3)), ((2, 0), (2, 3))]
TILES: Chunks = [((0, 0), (2, 2)), ((0, 2), (2, 1)), ((2, 0), (2, 2)), ((2, 2), (2, 1))]


@pytest.mark.parametrize("chunks", [ROWS, TILES, [*ROWS, ((4, 0), (0, 3))]], ids=["rows", "tiles", "an empty one"])
def test_pieces_by_hand(chunks: Any, tmp_path: Path) -> None:
    source = open_model(described(tmp_path / "c", chunks=chunks))
    np.testing.assert_array_equal(source.load("w"), np.arange(12.0).reshape(4, 3))


def move(place: str, value: object) -> Callable[[Metadata], object]:
    """Change where every piece but the first is."""

    def changed(metadata: Metadata) -> None:
        for info in list(metadata.storage_data.values())[1:]:
            setattr(info, place, value)

    return changed


def set_in(attribute: str, value: object) -> Callable[[Metadata], object]:
    return lambda metadata: setattr(metadata, attribute, value)


def set_tensor(attribute: str, value: object) -> Callable[[Metadata], object]:
    return lambda metadata: setattr(metadata.state_dict_metadata["w"], attribute, value)


@pytest.mark.parametrize(
    ("kind", "changed", "match"),
    [
        (CorruptCheckpointError, set_tensor("size", torch.Size((5, 3))), r"'w': its pieces have 12 values where"),
        (
            CorruptCheckpointError,
            set_tensor("size", torch.Size((3, 4))),
            r"'w': the piece at \[2, 0\] of shape .* outsi",
        ),
        (CorruptCheckpointError, set_tensor("size", torch.Size((12,))), r"'w': a piece has 2 and 2 axes, the tensor 1"),
        (CorruptCheckpointError, set_tensor("size", (4, -3)), r"'w': a shape or a place that is none"),
        (CorruptCheckpointError, set_tensor("size", "text"), r"'w': a shape or a place that is none"),
        (CorruptCheckpointError, set_tensor("chunks", None), r"'w': no list of pieces"),
        (CorruptCheckpointError, set_tensor("chunks", []), r"'w': its pieces have 0 values"),
        (CorruptCheckpointError, set_tensor("chunks", [3]), r"no ChunkStorageMetadata"),
        (CorruptCheckpointError, set_tensor("properties", 3), r"'w': an unknown element type"),
        (CorruptCheckpointError, set_in("storage_data", None), r"does not say where its tensors are"),
        (CorruptCheckpointError, set_in("storage_data", {}), r"'w': it does not say where the piece at \[0, 0\] is"),
        (CorruptCheckpointError, set_in("storage_data", {3: 4}), r"no MetadataIndex"),
        (CorruptCheckpointError, set_in("state_dict_metadata", None), r"describes no state dict"),
        (CorruptCheckpointError, set_in("state_dict_metadata", {"w": 3}), r"an entry of the state dict that is none"),
        (UnsupportedModelError, set_in("state_dict_metadata", {}), r"c: holds no tensors"),
        (
            UnsafeCheckpointError,
            move("relative_path", "../secret"),
            r"names the shard '\.\./secret', outside its folder",
        ),
        (UnsafeCheckpointError, move("relative_path", "/etc/passwd"), r"outside its folder"),
        (UnsafeCheckpointError, move("relative_path", "link"), r"is a link that leaves its folder"),
        (ModelNotFoundError, move("relative_path", "gone"), r"names the shard 'gone', which is missing"),
        (CorruptCheckpointError, move("relative_path", 3), r"no file, offset and length"),
        (CorruptCheckpointError, move("offset", 5), r"tensors 'w' and 'w' share bytes of '__0_0\.distcp'"),
        (CorruptCheckpointError, move("offset", 2**60), r"'w' ends at byte \d+, outside the \d+ bytes"),
        (CorruptCheckpointError, move("offset", -1), r"no file, offset and length"),
        (CorruptCheckpointError, move("length", 2**61), r"outside the \d+ bytes"),
        (CorruptCheckpointError, move("length", 3), r"has 24 bytes of values in 3 of the file"),
        (CorruptCheckpointError, move("length", 2.0), r"no file, offset and length"),
    ],
)
def test_descriptions_that_lie(kind: Any, changed: Any, match: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    folder = tmp_path / "c"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "secret")
    described(folder, chunks=ROWS, changed=changed)
    check_refused(folder, kind, match)


@pytest.mark.parametrize(
    ("kind", "options", "match"),
    [
        (CorruptCheckpointError, {"dtype": torch.int32}, None),
        (
            CorruptCheckpointError,
            {"dtype": torch.float16},
            r"should be float16 \[2, 3\], and __0_0\.distcp holds float32",
        ),
        (CorruptCheckpointError, {"stored": lambda piece: piece.T.contiguous()}, r"holds float32 \[3, 2\] there"),
        (CorruptCheckpointError, {"stored": lambda piece: {"w": piece}}, r"holds something else there"),
        (CorruptCheckpointError, {"changed": move("offset", 1700)}, r"from byte 1700 on: .*no archive begins at"),
        (UnsafeCheckpointError, {"stored": lambda piece: Reduced(os.system, "false")}, r"unsafe: its pickle asks for"),
    ],
)
def test_pieces_that_are_something_else(kind: Any, options: Any, match: str | None, tmp_path: Path) -> None:
    folder = described(tmp_path / "c", chunks=ROWS, **options)
    if match is None:
        assert open_model(folder).tensors()[0].refusal is not None
        return
    if "changed" in options:
        with (folder / "__0_0.distcp").open("ab") as stream:
            stream.write(bytes(4000))
    with pytest.raises(kind, match=rf"c: tensor 'w': the piece at .*{match}"):
        open_model(folder).load("w")


def test_packed_pieces_are_listed(tmp_path: Path) -> None:
    folder = described(tmp_path / "c", chunks=ROWS, changed=move("transform_descriptors", ["stream.zstd/1"]))
    (info,) = open_model(folder).tensors()
    assert info.refusal == "packed by stream.zstd/1, which is not read: save without extensions"


def test_a_description_that_would_run(tmp_path: Path) -> None:
    folder = described(tmp_path / "c", chunks=ROWS, changed=set_in("planner_data", Reduced(os.system, "false")))
    check_refused(folder, UnsafeCheckpointError, r"\.metadata: unsafe: its pickle asks for \w+\.system, which")


def test_two_pieces_at_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(metadata: Metadata) -> None:
        first = next(iter(metadata.storage_data.values()))
        monkeypatch.setattr(MetadataIndex, "__hash__", object.__hash__)
        monkeypatch.setattr(MetadataIndex, "__eq__", object.__eq__)
        metadata.storage_data[MetadataIndex("w", (2, 0))] = first

    folder = described(tmp_path / "c", chunks=ROWS, changed=changed)
    check_refused(folder, CorruptCheckpointError, r"'w': two pieces begin at \[2, 0\]")


def test_a_file_of_the_same_name_is_no_description(tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_text("notes")
    torch.save({"w": torch.ones(3, 3)}, tmp_path / "model.pt")
    assert [info.name for info in open_model(tmp_path).tensors()] == ["w"]


def test_two_keys_to_one_place(tmp_path: Path) -> None:
    def changed(metadata: Metadata) -> None:
        tensor = metadata.state_dict_metadata["w"]
        metadata.state_dict_metadata["v"] = tensor
        metadata.planner_data = {"w": ("a", "b"), "v": ("a",)}
        for index, info in list(metadata.storage_data.items()):
            moved = _StorageInfo("other", info.offset, info.length)
            metadata.storage_data[MetadataIndex("v", index.offset)] = moved

    folder = described(tmp_path / "c", chunks=ROWS, changed=changed)
    shutil.copy(folder / "__0_0.distcp", folder / "other")
    check_refused(folder, CorruptCheckpointError, r"c: two tensors, or too many keys, at 'a'")


def test_a_description_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = described(tmp_path / "c", chunks=ROWS)
    monkeypatch.setattr(pickle_machine, "MAX_INSTRUCTIONS", 100)
    check_refused(folder, UnsupportedModelError, r"describes more pieces than are read .*dcp_to_torch_save")


def test_ten_thousand_tensors_open_at_once(tmp_path: Path) -> None:
    tensors, places = {}, {}
    for index in range(10_000):
        piece = ChunkStorageMetadata(torch.Size((0, 0)), torch.Size((2, 2)))
        tensors[f"layers.{index}.weight"] = TensorStorageMetadata(
            TensorProperties(torch.float32), torch.Size((2, 2)), [piece]
        )
        places[MetadataIndex(f"layers.{index}.weight", (0, 0))] = _StorageInfo("__0_0.distcp", index * 20, 20)
    (tmp_path / "__0_0.distcp").write_bytes(bytes(200_000))
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Metadata(tensors, None, places)))
    begin = time.perf_counter()
    assert len(open_model(tmp_path).tensors()) == 10_000
    assert time.perf_counter() - begin < 30.0, "one on an idle machine"


@pytest.mark.parametrize("file", [".metadata", "__0_0.distcp"])
def test_cut_short_at_every_boundary(file: str, tmp_path: Path) -> None:
    folder = described(tmp_path / "c", chunks=ROWS)
    data = (folder / file).read_bytes()
    for n in sorted({*range(0, len(data), 37), len(data) - 1}):
        (folder / file).write_bytes(data[:n])
        check_refused(folder, CorruptCheckpointError, r"c")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), file=st.sampled_from([".metadata", "__0_0.distcp"]))
def test_any_damage_ends_in_an_error_of_ours(
    data: st.DataObject, file: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = described(tmp_path_factory.mktemp("dcp"), chunks=TILES)
    changed = bytearray((folder / file).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    (folder / file).write_bytes(changed)
    said = str(folder)
    try:
        source = open_model(folder)
        for info in source.tensors():
            if info.refusal is None:
                assert source.load(info.name).shape == info.shape
    except ModelError as error:
        said = str(error)
    assert said.startswith(str(folder))


def test_one_description_for_each_process(tmp_path: Path) -> None:
    (tmp_path / "__0.metadata").write_bytes(b"")
    check_refused(tmp_path, UnsupportedModelError, r"a description for each process is not read: save with")


@pytest.mark.parametrize("inner", [".", "10", "default"])
def test_orbax_is_refused_with_the_way_out(inner: str, tmp_path: Path) -> None:
    folder = tmp_path / "orbax"
    (folder / inner).mkdir(parents=True)
    (folder / inner / "_METADATA").write_text("{}")
    check_refused(folder, UnsupportedModelError, r"orbax: a checkpoint of Orbax is not read: restore it with orbax")


def test_metadata_modules_are_those_of_torch() -> None:
    for module in (Metadata.__module__, _StorageInfo.__module__):
        assert module in dcp_metadata._CLASSES
