"""Checkpoint folders of DeepSpeed: the module's weights at every stage, and partitions put together."""

from __future__ import annotations

import os
import pickle
import random
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral import describe
from spectral.errors import (
    CorruptCheckpointError,
    ModelError,
    ModelNotFoundError,
    UnsafeCheckpointError,
    UnsupportedModelError,
)
from spectral.loaders.opening import open_model
from tests.core import deepspeed_files
from tests.core.deepspeed_files import model_state, part, write_stage_1_or_2, write_stage_3
from tests.core.test_bad_files import Reduced, check_refused
from tests.core.test_torch_file import BITS, run_without_torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MODEL = "mp_rank_00_model_states.pt"


@pytest.fixture(autouse=True)
def _deepspeed() -> Iterator[None]:
    yield from deepspeed_files.deepspeed_modules()


def tensors(seed: int = 0, *, n: int = 5, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = random.Random(seed)
    shapes = [(sizes.randint(2, 9), sizes.randint(2, 9)) for _ in range(n)]
    return {f"layers.{i}.weight": torch.randn(shape, generator=generator).to(dtype) for i, shape in enumerate(shapes)}


def bits(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().view(-1).view(torch.uint8).numpy())


def weights_of(source: Any) -> dict[str, bytes]:
    return {info.name: source.load(info.name).tobytes() for info in source.tensors() if info.refusal is None}


def expected(found: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {name: bits(tensor) for name, tensor in found.items()}


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("prefix", ["", "bf16_"])
def test_stages_1_and_2_give_what_the_model_computes_with(stage: int, prefix: str, tmp_path: Path) -> None:
    module = tensors(dtype=torch.bfloat16)
    folder = write_stage_1_or_2(tmp_path / "run" / "global_step10", module, stage=stage, prefix=prefix)
    (tmp_path / "run" / "latest").write_text("global_step10")
    (tmp_path / "run" / "zero_to_fp32.py").write_text("raise SystemExit")
    for path in (folder, tmp_path / "run", folder / MODEL):
        assert weights_of(open_model(path)) == expected(module)
        assert describe(path).coverage == 1.0, "no part of an optimizer counts"


def test_no_zero(tmp_path: Path) -> None:
    module = tensors()
    state = {**model_state(module), "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}}
    torch.save(state, tmp_path / MODEL)
    assert weights_of(open_model(tmp_path)) == expected(module)
    assert len(open_model(tmp_path).tensors()) == len(module)


def test_copies_of_frozen_parameters_are_not_counted_again(tmp_path: Path) -> None:
    module = tensors()
    frozen = {"layers.0.weight": module["layers.0.weight"].clone()}
    torch.save(
        model_state(module, frozen=frozen, frozen_shapes={"layers.0.weight": torch.Size((3, 3))}), tmp_path / MODEL
    )
    infos = {info.name: info for info in open_model(tmp_path).tensors()}
    copy = infos["frozen_param_fragments.layers.0.weight"]
    assert (copy.refusal, copy.counted_in) == ("a copy of layers.0.weight, which is frozen", "layers.0.weight")
    assert describe(tmp_path).coverage == 1.0


@pytest.mark.parametrize("n_processes", [1, 2, 3, 5])
@pytest.mark.parametrize("n_groups", [1, 3])
def test_stage_3_is_put_together(n_processes: int, n_groups: int, tmp_path: Path) -> None:
    """Compared with DeepSpeed's own zero_to_fp32.py once, on these files: equal bits."""
    parameters, frozen = tensors(n_processes), tensors(9, n=2, dtype=torch.bfloat16)
    frozen = {f"frozen.{name}": tensor for name, tensor in frozen.items()}
    buffers = {"norm.mean": torch.arange(4.0), "norm.n": torch.tensor(3)}
    folder = write_stage_3(
        tmp_path / "global_step10",
        parameters,
        n_processes=n_processes,
        n_groups=n_groups,
        frozen=frozen,
        buffers=buffers,
        shared={"head.weight": "layers.0.weight"},
    )
    (tmp_path / "latest").write_text("global_step10\n")
    for path in (folder, tmp_path):
        source: Any = open_model(path)
        found = weights_of(source)
        assert found == expected({**parameters, **frozen, "norm.mean": buffers["norm.mean"]})
    infos = {info.name: info for info in source.tensors()}
    tied = infos["head.weight"]
    assert (tied.refusal, tied.counted_in) == ("tied to layers.0.weight", "layers.0.weight")
    assert str(infos["norm.n"].refusal).startswith("holds positions")
    for name, tensor in parameters.items():
        flat = tensor.reshape(-1).numpy()
        np.testing.assert_array_equal(source.load_span(name, 1, len(flat) - 1), flat[1:-1])
        assert b"".join(map(bytes, source.stream(name))) == flat.tobytes()
    assert weights_of(pickle.loads(pickle.dumps(source))) == found
    assert source.load_all()["norm.n"] == 3
    assert len(run_without_torch(BITS, folder).splitlines()) == len(found)


def test_parameters_without_values(tmp_path: Path) -> None:
    folder = write_stage_3(tmp_path / "c", {"w": torch.ones(3, 3), "empty": torch.ones(0, 3)})
    source: Any = open_model(folder)
    assert source.load("empty").shape == (0, 3)
    assert list(source.stream("empty")) == []
    assert source.load_all()["empty"].shape == (0, 3)


def test_a_buffer_of_a_type_that_no_array_has(tmp_path: Path) -> None:
    bits8 = torch.ones(3, dtype=torch.uint8).view(torch.bits8)
    source: Any = open_model(write_stage_3(tmp_path / "c", tensors(), buffers={"codes": bits8}))
    assert {info.name: info.refusal for info in source.tensors()}["codes"] is not None
    with pytest.raises(ModelError, match="'codes': no array has the type bits8"):
        source.load_all()


def test_one_file_of_stage_3_alone_has_no_values(tmp_path: Path) -> None:
    folder = write_stage_3(tmp_path / "global_step10", tensors())
    description = describe(folder / "zero_pp_rank_0_mp_rank_00_model_states.pt")
    assert description.coverage == 0.0
    reasons = {tensor.reason for tensor in description.unanalysed}
    assert reasons == {"partitioned by ZeRO stage 3 over the files of the folder: open the folder"}


def test_experts_have_files_of_their_own(tmp_path: Path) -> None:
    module, experts = tensors(), tensors(4, n=2)
    write_stage_1_or_2(tmp_path / "c", module)
    for index, (name, tensor) in enumerate(experts.items()):
        torch.save(
            {f"moe.experts.{name}": tensor}, tmp_path / "c" / f"layer_0_expert_{index}_mp_rank_00_model_states.pt"
        )
    named = {f"moe.experts.{name}": tensor for name, tensor in experts.items()}
    source: Any = open_model(tmp_path / "c")
    assert weights_of(source) == expected({**module, **named})
    name = "moe.experts.layers.0.weight"
    np.testing.assert_array_equal(source.load_span(name, 1, 3), source.load(name).reshape(-1)[1:3])


def test_layers_of_a_pipeline(tmp_path: Path) -> None:
    torch.save(model_state(None), tmp_path / MODEL)
    for index in (0, 1, 10):
        torch.save(
            {"mlp.weight": torch.full((3, 4), float(index))}, tmp_path / f"layer_{index:02d}-model_00-model_states.pt"
        )
    source = open_model(tmp_path)
    assert [info.name for info in source.tensors()] == [f"layer_{n}.mlp.weight" for n in ("00", "01", "10")]
    assert source.load("layer_10.mlp.weight")[0, 0] == 10.0


def universal(path: Path, parameters: dict[str, torch.Tensor]) -> Path:
    for name, tensor in parameters.items():
        (path / "zero" / name).mkdir(parents=True)
        torch.save({"param": tensor, "cat_dim": 0}, path / "zero" / name / "fp32.pt")
        torch.save({"param": torch.zeros_like(tensor)}, path / "zero" / name / "exp_avg.pt")
    return path


def test_universal_checkpoints(tmp_path: Path) -> None:
    parameters = tensors()
    folder = universal(tmp_path / "global_step10_universal", parameters)
    module = {**{name: tensor.bfloat16() for name, tensor in parameters.items()}, "norm.mean": torch.arange(4.0)}
    torch.save(model_state(module), folder / MODEL)
    (tmp_path / "latest_universal").write_text("global_step10_universal")
    for path in (folder, tmp_path):
        assert weights_of(open_model(path)) == expected({**parameters, "norm.mean": module["norm.mean"]})


@pytest.mark.parametrize(
    ("kind", "name", "content", "match"),
    [
        (
            UnsupportedModelError,
            "mp_rank_01_model_states.pt",
            {},
            r"cut over 2 ranks of tensor parallelism .* convert it",
        ),
        (UnsupportedModelError, "zero_pp_rank_0_mp_rank_00_model_states.pt", {}, r"holds files of two checkpoints"),
        (UnsupportedModelError, "layer_00-model_01-model_states.pt", {}, r"cut over 1 ranks of tensor parallelism"),
        (CorruptCheckpointError, "expert_0_mp_rank_00_model_states.pt", tensors(), r"is in two files, mp_rank_00"),
        (UnsafeCheckpointError, "expert_0_mp_rank_00_model_states.pt", {"w": Reduced(os.system, "false")}, r"unsafe"),
    ],
)
def test_other_files_beside_the_model(kind: Any, name: str, content: Any, match: str, tmp_path: Path) -> None:
    folder = write_stage_1_or_2(tmp_path / "c", tensors())
    torch.save(content, folder / name)
    check_refused(folder, kind, match)


@pytest.mark.parametrize(
    ("kind", "tag", "match"),
    [
        (UnsafeCheckpointError, "../elsewhere", r"latest: names the shard '\.\./elsewhere', outside its folder"),
        (UnsafeCheckpointError, "/etc", r"outside its folder"),
        (UnsafeCheckpointError, "link", r"is a link that leaves its folder"),
        (ModelNotFoundError, "global_step11", r"latest: names the shard 'global_step11', which is missing"),
        (UnsafeCheckpointError, "", r"outside its folder"),
        (UnsafeCheckpointError, "a\x00b", r"outside its folder"),
        (ModelNotFoundError, "x" * 5000, r"which is missing"),
    ],
)
def test_what_is_called_the_latest(kind: Any, tag: str, match: str, tmp_path: Path) -> None:
    write_stage_1_or_2(tmp_path / "elsewhere", tensors())
    run = tmp_path / "run"
    write_stage_1_or_2(run / "global_step10", tensors())
    (run / "link").symlink_to(tmp_path / "elsewhere")
    (run / "latest").write_text(tag)
    check_refused(run, kind, match)


def test_the_weights_that_a_trainer_gathered_come_first(tmp_path: Path) -> None:
    write_stage_3(tmp_path / "global_step10", tensors())
    (tmp_path / "latest").write_text("global_step10")
    gathered = {"w": torch.ones(4, 4)}
    torch.save(gathered, tmp_path / "pytorch_model.bin")
    assert weights_of(open_model(tmp_path)) == expected(gathered)


def optimizer_of(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Change what the optimizer of rank 1 saved."""

    def apply(folder: Path) -> None:
        path = folder / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"
        saved = torch.load(path, weights_only=False)
        change(saved["optimizer_state_dict"])
        torch.save(saved, path)

    return apply


def model_of(change: Callable[[dict[str, Any]], object], rank: int = 0) -> Callable[[Path], None]:
    """Change what the file of a process's model holds."""

    def apply(folder: Path) -> None:
        path = folder / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt"
        saved = torch.load(path, weights_only=False)
        change(saved)
        torch.save(saved, path)

    return apply


def removed(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def grow(saved: dict[str, Any]) -> None:
    saved["param_shapes"][0]["layers.0.weight"] = torch.Size((90, 90))


@pytest.mark.parametrize(
    ("kind", "change", "match"),
    [
        (
            CorruptCheckpointError,
            removed("bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"),
            r"model states of 2 .* of 1",
        ),
        (CorruptCheckpointError, removed("bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"), r"not those of ranks 0, 1"),
        (
            CorruptCheckpointError,
            removed("zero_pp_rank_1_mp_rank_00_model_states.pt"),
            r"model states of 1 proc.* of 2",
        ),
        (CorruptCheckpointError, optimizer_of(lambda s: s.pop("fp32_flat_groups")), r"holds no 'fp32_flat_groups'"),
        (CorruptCheckpointError, optimizer_of(lambda s: s.update(fp32_flat_groups=[])), r"holds no 'fp32_flat_groups'"),
        (CorruptCheckpointError, optimizer_of(lambda s: s.update(fp32_flat_groups=[3])), r"are no tensors"),
        (CorruptCheckpointError, optimizer_of(lambda s: s["fp32_flat_groups"].pop()), r"the partition of rank 1 has"),
        (
            CorruptCheckpointError,
            optimizer_of(lambda s: s.update(fp32_flat_groups=[torch.ones(4, 4).T])),
            r"are no flat tensors of float32",
        ),
        (
            CorruptCheckpointError,
            optimizer_of(lambda s: s.update(fp32_flat_groups=[torch.ones(4), torch.ones(4).half()])),
            r"have 2 types",
        ),
        (
            UnsupportedModelError,
            optimizer_of(lambda s: s.update(partition_count=3)),
            r"was saved by 3 processes, and 2",
        ),
        (UnsupportedModelError, optimizer_of(lambda s: s.update(partition_count=[2, 1])), r"partitioned unevenly"),
        (
            UnsupportedModelError,
            optimizer_of(lambda s: s.update(ds_zero_partition_groups=[{"partition_count": 1}])),
            r"partitioned unevenly",
        ),
        (
            UnsupportedModelError,
            model_of(lambda s: s.update(ds_autoep_layers=[{}])),
            r"partitioned unevenly \(experts\)",
        ),
        (CorruptCheckpointError, model_of(lambda s: s.pop("param_shapes")), r"holds no 'module' and 'param_shapes'"),
        (CorruptCheckpointError, model_of(lambda s: s.update(module=None)), r"holds no 'module' and 'param_shapes'"),
        (CorruptCheckpointError, model_of(lambda s: s.update(param_shapes=[3])), r"'param_shapes' are no shapes"),
        (CorruptCheckpointError, model_of(lambda s: s.update(param_shapes=[{"w": 3}])), r"'w': no shape in"),
        (CorruptCheckpointError, model_of(lambda s: s.update(param_shapes=[{"w": (-3,)}])), r"'w': no shape in"),
        (
            CorruptCheckpointError,
            model_of(lambda s: s["param_shapes"].pop()),
            r"the parameters take \d+ values of each",
        ),
        (CorruptCheckpointError, model_of(grow), r"'layers\.0\.weight' ends at value 4050 of partitions of"),
        (
            CorruptCheckpointError,
            model_of(lambda s: s.pop("frozen_param_fragments"), 1),
            r"'f': no part of it is there",
        ),
        (
            CorruptCheckpointError,
            model_of(lambda s: s["frozen_param_fragments"].update(f=torch.ones(2)), 1),
            r"'f': another type than at rank 0",
        ),
        (
            CorruptCheckpointError,
            model_of(lambda s: s["frozen_param_fragments"].update(f=torch.ones(2).bfloat16()), 1),
            r"'f': its parts do not fill its shape",
        ),
    ],
)
def test_partitions_that_lie(kind: Any, change: Callable[[Path], None], match: str, tmp_path: Path) -> None:
    frozen = {"f": torch.ones(3, 3).bfloat16()}
    folder = write_stage_3(tmp_path / "c", tensors(), frozen=frozen)
    change(folder)
    check_refused(folder, kind, match)


def test_a_parameter_shared_with_none(tmp_path: Path) -> None:
    folder = write_stage_3(tmp_path / "c", tensors(), shared={"head.weight": "gone"})
    model_of(lambda saved: saved["module"].pop("head.weight"))(folder)
    infos = {info.name: info.refusal for info in open_model(folder).tensors()}
    assert infos["head.weight"] == "shared with an unknown parameter"


def test_universal_weights_that_are_none(tmp_path: Path) -> None:
    folder = universal(tmp_path / "c", tensors())
    torch.save({"other": 3}, folder / "zero" / "layers.1.weight" / "fp32.pt")
    check_refused(folder, CorruptCheckpointError, r"layers\.1\.weight/fp32\.pt: holds no tensor under 'param'")
    (tmp_path / "outside").mkdir()
    torch.save({"param": torch.ones(3)}, tmp_path / "outside" / "fp32.pt")
    folder = universal(tmp_path / "d", tensors())
    (folder / "zero" / "link").symlink_to(tmp_path / "outside")
    check_refused(folder, UnsafeCheckpointError, r"'link/fp32\.pt' is a link that leaves its folder")


def test_a_class_that_is_not_deepspeed_s(tmp_path: Path) -> None:
    folder = write_stage_3(tmp_path / "c", tensors())
    optimizer_of(lambda state: state.update(loss_scaler=Reduced(os.system, "false")))(folder)
    check_refused(folder, UnsafeCheckpointError, r"rank_1_mp_rank_00_optim_states\.pt: unsafe: its pickle asks for")


@settings(max_examples=100)
@given(
    shape=st.lists(st.integers(0, 5), max_size=3),
    n_processes=st.integers(1, 6),
)
def test_parts_are_the_whole(shape: list[int], n_processes: int) -> None:
    """The imitation of DeepSpeed's partition that the other tests rest on."""
    tensor = torch.rand(shape)
    parts = torch.cat([part(tensor, rank, n_processes) for rank in range(n_processes)])
    assert torch.equal(parts[: tensor.numel()], tensor.reshape(-1))
    assert len(parts) - tensor.numel() < n_processes or not tensor.numel()


@settings(max_examples=100)
@given(data=st.data())
def test_any_damage_ends_in_an_error_of_ours(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = write_stage_3(tmp_path_factory.mktemp("zero") / "c", OrderedDict(tensors(n=2)))
    file = folder / data.draw(st.sampled_from(sorted(file.name for file in folder.iterdir())))
    changed = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, min(len(changed), 3000) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(changed)
    said = str(folder)
    try:
        source = open_model(folder)
        for info in source.tensors():
            if info.refusal is None:
                assert source.load(info.name).shape == info.shape
    except ModelError as error:
        said = str(error)
    assert said.startswith(str(folder))
