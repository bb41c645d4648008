"""Folders: shards and their index, a single weight file, and the cache of Hugging Face."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import safetensors.torch
import torch

from spectral.analysis import analyze, describe
from spectral.errors import (
    CorruptCheckpointError,
    ModelError,
    ModelNotFoundError,
    UnsafeCheckpointError,
    UnsupportedModelError,
)
from spectral.loaders import folder as folder_module
from spectral.loaders.opening import open_model
from tests.core.builders import heavy_tailed, write_index, write_safetensors

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def weights(n_layers: int = 12) -> dict[str, NDArray[np.float32]]:
    return {f"layer.{i}.weight": heavy_tailed(20, 16, seed=i).astype(np.float32) for i in range(n_layers)}


def split(tensors: dict[str, NDArray[np.float32]]) -> tuple[dict[str, NDArray[np.float32]], ...]:
    names = list(tensors)
    return ({name: tensors[name] for name in names[::2]}, {name: tensors[name] for name in names[1::2]})


def write_shards(folder: Path, tensors: dict[str, NDArray[np.float32]], suffix: str = ".safetensors") -> Path:
    """Write two shards and their index."""
    weight_map: dict[str, str] = {}
    for number, part in enumerate(split(tensors), 1):
        file = f"model-{number:05}-of-00002{suffix}"
        if suffix == ".safetensors":
            write_safetensors(folder / file, part)
        else:
            torch.save({name: torch.from_numpy(values) for name, values in part.items()}, folder / file)
        weight_map.update(dict.fromkeys(part, file))
    name = "model.safetensors.index.json" if suffix == ".safetensors" else "pytorch_model.bin.index.json"
    write_index(folder, weight_map, name=name)
    return folder


def hashes(model: object) -> dict[str, str]:
    return {layer.name: layer.content_hash for layer in analyze(model, n_workers=1).layers}


def test_every_format_gives_the_same_values_and_names(tmp_path: Path) -> None:
    tensors = weights()
    expected = hashes(tensors)
    as_torch = {name: torch.from_numpy(values) for name, values in tensors.items()}
    for suffix in (".safetensors", ".bin"):
        shards = tmp_path / suffix[1:]
        shards.mkdir()
        assert hashes(write_shards(shards, tensors, suffix)) == expected
    safetensors.torch.save_file(as_torch, tmp_path / "m.safetensors")
    torch.save(as_torch, tmp_path / "m.pt")
    for model in (tmp_path / "m.safetensors", str(tmp_path / "m.pt"), as_torch):
        assert hashes(model) == expected


def test_natural_order_over_all_shards(tmp_path: Path) -> None:
    source = open_model(write_shards(tmp_path, weights()))
    assert [info.name for info in source.tensors()] == [f"layer.{i}.weight" for i in range(12)]
    assert source.label == str(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "other.safetensors"])
def test_a_single_file(name: str, tmp_path: Path) -> None:
    write_safetensors(tmp_path / name, weights(2))
    (tmp_path / "config.json").write_text("{}")
    assert hashes(tmp_path) == hashes(weights(2))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "checkpoint.pth"])
def test_a_single_torch_file(name: str, tmp_path: Path) -> None:
    torch.save({key: torch.from_numpy(values) for key, values in weights(2).items()}, tmp_path / name)
    assert hashes(tmp_path) == hashes(weights(2))


def test_safetensors_come_before_torch_files(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", weights(2))
    (tmp_path / "pytorch_model.bin").write_bytes(b"no torch file")
    assert hashes(tmp_path) == hashes(weights(2))


def test_shards_without_an_index(tmp_path: Path) -> None:
    for number, part in enumerate(split(weights())):
        write_safetensors(tmp_path / f"part-{number}.safetensors", part)
    assert hashes(tmp_path) == hashes(weights())


def test_shards_in_a_subfolder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write_safetensors(tmp_path / "sub" / "one.safetensors", weights(2))
    write_index(tmp_path, dict.fromkeys(weights(2), "sub/one.safetensors"))
    assert hashes(tmp_path) == hashes(weights(2))


def test_tensors_that_the_index_forgot_are_analysed(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "one.safetensors", weights(3))
    write_index(tmp_path, {"layer.0.weight": "one.safetensors"})
    assert hashes(tmp_path) == hashes(weights(3))


@pytest.mark.parametrize("subfolder", ["", "transformer"])
def test_the_cache_of_hugging_face(subfolder: str, tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--org--name"
    snapshot = repository / "snapshots" / "abc123" / subfolder
    blobs = repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    write_shards(blobs, weights())
    up = "/".join([".."] * (3 if subfolder else 2))
    for number, file in enumerate(sorted(blobs.iterdir())):
        blob = file.rename(blobs / f"{number:064x}")
        (snapshot / file.name).symlink_to(f"{up}/blobs/{blob.name}")
    assert hashes(snapshot) == hashes(weights())
    assert hashes(repository / "snapshots" / "abc123" / subfolder) == hashes(weights())


@pytest.mark.parametrize(
    ("folder", "target"),
    [("weights", "blobs/x"), ("snapshots/abc", "blobs/deep/x"), ("snapshots/abc", "other/x"), ("snapshots/abc", "x")],
)
def test_links_that_only_look_like_the_cache(folder: str, target: str, tmp_path: Path) -> None:
    inside, outside = tmp_path / "repo" / folder, tmp_path / "repo" / target
    inside.mkdir(parents=True)
    outside.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(outside, weights(2))
    (inside / "one.safetensors").symlink_to(outside)
    write_index(inside, {"layer.0.weight": "one.safetensors"})
    with pytest.raises(UnsafeCheckpointError, match=r"index\.json: the shard 'one\.safetensors' is a link that leaves"):
        open_model(inside)


def test_a_link_within_the_folder(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "real.safetensors", weights(2))
    (tmp_path / "one.safetensors").symlink_to("real.safetensors")
    write_index(tmp_path, {"layer.0.weight": "one.safetensors"})
    assert hashes(tmp_path) == hashes(weights(2))


def test_an_index_of_many_tensors_is_checked_in_no_time(tmp_path: Path) -> None:
    # Looked up one by one in a list these took minutes.
    names = [f"layer.{i}.bias" for i in range(40_000)]
    write_safetensors(tmp_path / "one.safetensors", dict.fromkeys(names, np.ones(1, np.float32)))
    write_index(tmp_path, dict.fromkeys(names, "one.safetensors"))
    assert len(open_model(tmp_path).tensors()) == 40_000


def test_opening_reads_headers_alone(tmp_path: Path) -> None:
    tensors = {name: np.zeros((2, 2), np.float32) for name in ("a.weight", "b.weight")}
    source = open_model(write_shards(tmp_path, tensors))
    file = tmp_path / "model-00001-of-00002.safetensors"
    data = bytearray(file.read_bytes())
    data[-4:] = np.float32(7.0).tobytes()
    file.write_bytes(data)
    assert source.load("a.weight")[-1, -1] == 7.0


def bad_index(folder: Path, content: str | bytes) -> None:
    data = content if isinstance(content, bytes) else content.encode()
    (folder / "model.safetensors.index.json").write_bytes(data)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", r"not valid JSON"),
        (b"{", r"not valid JSON"),
        (b"\xff\xfe{}", r"not valid JSON"),
        (b"[" * 200_000, r"nested too deeply"),
        (b"[]", r"has no weight_map that names shards"),
        (b"3", r"has no weight_map that names shards"),
        (b"{}", r"has no weight_map that names shards"),
        (b'{"weight_map": []}', r"has no weight_map that names shards"),
        (b'{"weight_map": {}}', r"has no weight_map that names shards"),
        (b'{"weight_map": null}', r"has no weight_map that names shards"),
        (b'{"weight_map": {"a": 3}}', r"weight_map\['a'\] is not a file name"),
        (b'{"weight_map": {"a": null}}', r"weight_map\['a'\] is not a file name"),
        (b'{"weight_map": {"a": ["one.safetensors"]}}', r"weight_map\['a'\] is not a file name"),
        (b'{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}', r"the name 'a' appears twice"),
        (b'{"weight_map": {"a": "x", "n": ' + b"9" * 5000 + b"}}", r"not valid JSON"),
    ],
)  # fmt: skip
def test_damaged_index(content: bytes, match: str, tmp_path: Path) -> None:
    bad_index(tmp_path, content)
    with pytest.raises(CorruptCheckpointError, match=rf"^{tmp_path}/model\.safetensors\.index\.json: .*{match}"):
        open_model(tmp_path)


@pytest.mark.parametrize(
    "shard",
    [
        "../../etc/passwd", "..", "a/../../b.safetensors", "/etc/passwd", "", ".", "..\\..\\b.safetensors",
        "C:\\b.safetensors", "a\0b.safetensors", "a\nb.safetensors", "\x1b[2J.safetensors", "\ud800.safetensors",
    ],
)  # fmt: skip
def test_an_index_that_leaves_its_folder(shard: str, tmp_path: Path) -> None:
    inside = tmp_path / "in" / "side"
    inside.mkdir(parents=True)
    write_safetensors(tmp_path / "b.safetensors", weights(1))
    write_index(inside, {"layer.0.weight": shard})
    with pytest.raises(
        UnsafeCheckpointError, match=rf"^{inside}/model\.safetensors\.index\.json: names the shard .*outside"
    ):
        open_model(inside)


@pytest.mark.parametrize(
    "shard", ["gone.safetensors", "x" * 300 + ".safetensors", "y/" * 3000 + "z.safetensors", "loop.safetensors"]
)
def test_a_missing_shard(shard: str, tmp_path: Path) -> None:
    (tmp_path / "loop.safetensors").symlink_to("loop.safetensors")
    write_index(tmp_path, {"a": shard})
    with pytest.raises(ModelNotFoundError, match=r"index\.json: names the shard '.{12,200}', which is missing$"):
        open_model(tmp_path)


def test_a_dangling_link(tmp_path: Path) -> None:
    (tmp_path / "one.safetensors").symlink_to("gone")
    write_index(tmp_path, {"a": "one.safetensors"})
    with pytest.raises(ModelNotFoundError, match=r"names the shard 'one\.safetensors', which is missing$"):
        open_model(tmp_path)


def test_a_tensor_that_its_shard_does_not_hold(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "one.safetensors", weights(1))
    write_index(tmp_path, {"layer.9.weight": "one.safetensors"})
    with pytest.raises(CorruptCheckpointError, match=r"names the tensor 'layer\.9\.weight' in one\.safetensors, which"):
        open_model(tmp_path)


@pytest.mark.parametrize("has_index", [True, False])
def test_a_tensor_in_two_shards(has_index: bool, tmp_path: Path) -> None:
    write_safetensors(tmp_path / "one.safetensors", weights(2))
    write_safetensors(tmp_path / "two.safetensors", weights(1))
    if has_index:
        write_index(tmp_path, {"layer.0.weight": "one.safetensors", "layer.1.weight": "two.safetensors"})
        write_safetensors(tmp_path / "two.safetensors", weights(2))
    with pytest.raises(CorruptCheckpointError, match=rf"^{tmp_path}: the tensor 'layer\.0\.weight' is in two shards"):
        open_model(tmp_path)


def test_an_index_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "MAX_INDEX_BYTES", 50)
    bad_index(tmp_path, json.dumps({"weight_map": {"a": "x" * 50}}))
    with pytest.raises(CorruptCheckpointError, match=r"index\.json: larger than 50 bytes, which no index is$"):
        open_model(tmp_path)


@pytest.mark.parametrize("shard", ["sub", "sub/", "config.json", "model.safetensors.index.json"])
def test_a_shard_that_is_no_weight_file(shard: str, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "config.json").write_text("{}")
    write_index(tmp_path, {"a": shard})
    with pytest.raises(UnsupportedModelError, match=rf"^{tmp_path}/.*: (not a regular file|no loader for \.json)"):
        open_model(tmp_path)


def test_several_torch_files_and_no_index(tmp_path: Path) -> None:
    for name in ("a.pt", "b.bin"):
        torch.save({"w": torch.ones(2, 2)}, tmp_path / name)
    with pytest.raises(
        UnsupportedModelError, match=rf"^{tmp_path}: several weight files and no index: name one of a\.pt, b\.bin"
    ):
        open_model(tmp_path)


@pytest.mark.parametrize("names", [[], ["config.json", "README.md"], ["model.safetensors.txt"]])
def test_no_weights(names: list[str], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).write_text("{}")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(ModelNotFoundError, match=rf"^{tmp_path}: the folder holds no weights \(looked for model"):
        open_model(tmp_path)


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "iterdir", refuse)
    with pytest.raises(ModelError, match=rf"^{tmp_path}: cannot be listed: Permission denied$"):
        open_model(tmp_path)


def test_describe_reports_the_coverage_of_all_shards(tmp_path: Path) -> None:
    tensors = weights(3) | {"layer.0.bias": np.ones(320, np.float32)}
    assert describe(write_shards(tmp_path, tensors)).coverage == 0.75


def test_an_index_beside_a_file_that_it_does_not_name_is_refused(tmp_path: Path) -> None:
    """Loaders disagree on which of the two counts."""
    write_safetensors(tmp_path / "model-1.safetensors", {"a.weight": np.ones((3, 2), np.float32)})
    write_safetensors(tmp_path / "model.safetensors", {"a.weight": np.zeros((3, 2), np.float32)})
    index = {"weight_map": {"a.weight": "model-1.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(UnsupportedModelError, match=r"holds model\.safetensors and model\.safetensors\.index\.json"):
        open_model(tmp_path)
