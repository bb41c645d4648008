"""What the gate asks of the core beyond an analysis: known matrices, a second way to the spectrum, levels of traps."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from spectral import analyze, describe
from spectral.analysis import LayerAnalysis
from spectral.errors import CorruptCheckpointError, ModelError
from spectral.loaders.protocol import TensorInfo
from spectral.loaders.safetensors import SafetensorsFile
from spectral.pipeline import KnownMatrix, analyze_matrix, analyze_unless_known
from spectral.spectrum import Spectrum
from spectral.trap_report import describe_layer_traps

RNG = np.random.default_rng(0)
PLAIN = RNG.normal(size=(128, 96)).astype(np.float32)


def with_elements(*values: float) -> np.ndarray:
    matrix = PLAIN.copy()
    for index, value in enumerate(values):
        matrix[7 * index + 3, 11 * index + 5] = value
    return matrix


def test_a_known_matrix_is_not_computed() -> None:
    (task,) = describe({"w": PLAIN}).tasks()
    (layer,) = analyze({"other": PLAIN}).layers
    called: list[bool] = []
    found = analyze_unless_known(task, {layer.content_hash}, before=lambda: called.append(True))
    assert found == KnownMatrix(spec=task.spec, content_hash=layer.content_hash)
    assert not called
    computed = analyze_unless_known(task, {"another"}, before=lambda: called.append(True))
    assert isinstance(computed, LayerAnalysis)
    assert called == [True]
    assert dict(computed.metrics) == dict(analyze_matrix(task).metrics)


def checkpoint_of(tmp_path: Path, kind: str, tensors: dict[str, np.ndarray]) -> Path:
    """Write tensors as one file, as two shards, or beside a configuration that explains a fused projection."""
    if kind == "file":
        save_file(tensors, tmp_path / "model.safetensors")
        return tmp_path / "model.safetensors"
    names = sorted(tensors)
    shards = {"shard-1.safetensors": names[::2], "shard-2.safetensors": names[1::2]} if kind == "shards" else None
    for file, held in (shards or {"model.safetensors": names}).items():
        save_file({name: tensors[name] for name in held}, tmp_path / file)
    if shards is not None:
        weight_map = {name: file for file, held in shards.items() for name in held}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    else:
        (tmp_path / "config.json").write_text('{"hidden_size": 96, "num_attention_heads": 4}')
    return tmp_path


@pytest.mark.parametrize("kind", ["file", "shards", "config"])
def test_a_known_matrix_of_a_file_is_passed_over_in_pieces(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = RNG.normal(size=(700, 400)).astype(np.float32)  # more than one piece, and no whole number of them
    fused = RNG.normal(size=(288, 96)).astype(np.float32)
    path = checkpoint_of(tmp_path, kind, {"a.weight": large, "b.weight": PLAIN, "h.attn.qkv.weight": fused})
    tasks = describe(path).tasks()
    hashes = {task.spec.name: analyze_matrix(task).content_hash for task in tasks}
    # Q, K and V are pieces of a tensor, and are read as such.
    assert len(tasks) == 5
    loaded: list[str] = []
    read = SafetensorsFile._read

    def watched(file: SafetensorsFile, info: TensorInfo, begin: int, end: int) -> np.ndarray:
        loaded.append(info.name)
        return read(file, info, begin, end)

    monkeypatch.setattr(SafetensorsFile, "_read", watched)
    for task in tasks:
        found = analyze_unless_known(task, set(hashes.values()))
        assert found == KnownMatrix(spec=task.spec, content_hash=hashes[task.spec.name])
    assert set(loaded) == {"h.attn.qkv.weight"}


def test_an_unknown_matrix_is_hashed_as_it_is_when_it_is_computed(tmp_path: Path) -> None:
    save_file({"w": PLAIN}, tmp_path / "model.safetensors")
    (task,) = describe(tmp_path / "model.safetensors").tasks()

    def change() -> None:
        save_file({"w": PLAIN + 1.0}, tmp_path / "model.safetensors")

    class Known(set[str]):
        """Lets the file change after the first look into it."""

        def __contains__(self, digest: object) -> bool:
            if not self:
                change()
                self.add("changed")
            return False

        def __bool__(self) -> bool:
            return True

    found = analyze_unless_known(task, Known())
    assert isinstance(found, LayerAnalysis)
    assert found.content_hash == analyze_matrix(task).content_hash


def test_a_file_that_ends_while_it_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": RNG.normal(size=(700, 400)).astype(np.float32)}, path)
    (task,) = describe(path).tasks()
    os.truncate(path, path.stat().st_size - 8)
    with pytest.raises(
        CorruptCheckpointError, match=r"'w' ends at byte \d+, but the file gave only 1119992 of its 1120000"
    ):
        analyze_unless_known(task, {"another"})
    path.unlink()
    with pytest.raises(ModelError, match=r"'w' cannot be read: No such file"):
        analyze_unless_known(task, {"another"})


@pytest.mark.parametrize("shape", [(128, 96), (96, 128), (32, 16, 3, 3)])
def test_a_full_svd_gives_the_same_numbers(shape: tuple[int, ...]) -> None:
    (task,) = describe({"w": RNG.normal(size=shape)}).tasks()
    by_gram, by_svd = analyze_matrix(task), analyze_matrix(replace(task, by_svd=True))
    assert isinstance(by_svd.spectrum, Spectrum)
    assert by_svd.spectrum.method == "svd"
    assert isinstance(by_gram.spectrum, Spectrum)
    assert by_gram.spectrum.method == "gram"
    assert by_svd.metrics == pytest.approx(dict(by_gram.metrics), rel=1e-9)


@pytest.mark.parametrize("values", [(), (40.0,), (40.0, -60.0), (15.0, 40.0, 90.0)])
def test_levels_count_what_n_traps_counts(values: tuple[float, ...]) -> None:
    (layer,) = analyze({"w": with_elements(*values)}, traps=True).layers
    assert layer.traps is not None
    levels = layer.traps.levels(0.05)
    assert list(levels) == sorted(levels)
    for level in (1e-30, 1e-12, 1e-6, 1e-4, 0.01, 0.05):
        assert sum(each <= level for each in levels) == layer.traps.n_traps(level)


def test_traps_of_one_layer_name_their_elements() -> None:
    matrix = with_elements(40.0, -60.0)
    (task,) = describe({"w": matrix}, traps=True).tasks()
    traps = describe_layer_traps(task, 1e-4)
    heaviest = [trap.elements[0] for trap in traps]
    assert [(element.row, element.column, element.value) for element in heaviest] == [(10, 16, -60.0), (3, 5, 40.0)]
    (quiet,) = describe({"w": PLAIN}, traps=True).tasks()
    assert describe_layer_traps(quiet, 1e-4) == ()
