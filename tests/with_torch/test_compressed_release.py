"""A compressed release beside its original, layer by layer, with the gate's own words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from pytest_weightwatcher.console.main import main
from spectral.loaders.protocol import Quantization
from spectral.rounding import round_to_nearest
from tests.core.builders import heavy_tailed

GROUP = 32
SHAPES = {
    "model.layers.0.self_attn.q_proj": (64, 64),
    "model.layers.0.self_attn.k_proj": (32, 64),
    "model.layers.0.mlp.down_proj": (64, 96),
    "model.layers.1.mlp.down_proj": (64, 96),
}


def original() -> dict[str, torch.Tensor]:
    return {
        f"{name}.weight": torch.from_numpy(heavy_tailed(*shape, seed=seed, degrees=5).astype(np.float32)) * 0.05
        for seed, (name, shape) in enumerate(SHAPES.items())
    } | {"model.norm.weight": torch.ones(64)}


def packed(
    weight: torch.Tensor, *, bits: int = 4, damage: Callable[[Any], Any] = lambda codes: codes
) -> dict[str, torch.Tensor]:
    """Return a weight in groups of symmetric integers, as compressed-tensors stores them."""
    groups = weight.numpy().reshape(len(weight), -1, GROUP)
    largest = 2 ** (bits - 1) - 1
    scales = np.abs(groups).max(axis=2, keepdims=True) / largest
    codes = damage(np.rint(groups / scales).reshape(weight.shape)).astype(np.int64) + 8
    words = (codes.reshape(len(weight), -1, 8) << (4 * np.arange(8))).sum(axis=2)
    return {
        "weight_packed": torch.from_numpy(words.astype(np.uint32).view(np.int32)),
        "weight_scale": torch.from_numpy(scales[..., 0]),
        "weight_shape": torch.tensor(weight.shape),
    }


def write_release(folder: Path, **layers: dict[str, torch.Tensor]) -> Path:
    """Write a release in four bits; some layers otherwise."""
    folder.mkdir()
    tensors = {"model.norm.weight": torch.ones(64)}
    for name, weight in original().items():
        if name.endswith("proj.weight"):
            stem = name.removesuffix("weight")
            parts = layers.get(stem.split(".")[2] + stem.split(".")[4], packed(weight))
            tensors |= {stem + part: values for part, values in parts.items()}
    safetensors.torch.save_file(tensors, folder / "model.safetensors")
    return folder


Judge = Callable[..., dict[tuple[str, str], dict[str, Any]]]


@pytest.fixture
def judge(capsys: pytest.CaptureFixture[str]) -> Judge:
    """Return the checks of ``ww-gate check`` by layer and name."""

    def run(model: Path, baseline: Path, *options: str) -> dict[tuple[str, str], dict[str, Any]]:
        capsys.readouterr()
        code = main(["check", str(model), f"--baseline={baseline}", "--format=json", *options])
        payload = json.loads(capsys.readouterr().out)
        assert code == (1 if payload["outcome"] == "fail" else 0)
        return {(check["layer"], check["check"]): check for check in payload["models"][0]["checks"]}

    return run


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "original"
    folder.mkdir()
    safetensors.torch.save_file(original(), folder / "model.safetensors")
    return folder


def test_a_release_that_rounds_to_the_nearest_passes(base: Path, judge: Judge, tmp_path: Path) -> None:
    checks = judge(write_release(tmp_path / "release"), base)
    for name in SHAPES:
        check = checks[name, "regression.rounding"]
        assert check["verdict"] == "pass"
        assert check["value"] == pytest.approx(1.0, abs=0.01)
        assert "rounding to the nearest by" in check["detail"]
        assert checks[name, "regression.clipped"]["verdict"] == "pass"
    assert not any(check["verdict"] == "fail" for check in checks.values())


def test_a_layer_worse_than_its_format_fails_alone(base: Path, judge: Judge, tmp_path: Path) -> None:
    weight = original()["model.layers.0.mlp.down_proj.weight"]
    # Only every fourth level is used: three bits less than are stated, nearly.
    coarse = packed(weight, damage=lambda codes: np.clip(np.rint(codes / 4) * 4, -7, 7))
    checks = judge(write_release(tmp_path / "release", **{"0down_proj": coarse}), base)
    found = checks["model.layers.0.mlp.down_proj", "regression.rounding"]
    assert found["verdict"] == "fail"
    assert found["value"] > 2.0
    assert "times the error of rounding the original to the nearest level" in found["detail"]
    failed = {layer for (layer, _), check in checks.items() if check["verdict"] == "fail"}
    assert failed - {None} == {"model.layers.0.mlp.down_proj"}


def test_clipped_outliers_are_named(judge: Judge, tmp_path: Path) -> None:
    weights = original()
    weights["model.layers.1.mlp.down_proj.weight"][:, 5] *= 8
    base = tmp_path / "original"
    base.mkdir()
    safetensors.torch.save_file(weights, base / "model.safetensors")
    checks = judge(write_release(tmp_path / "release"), base)
    found = checks["model.layers.1.mlp.down_proj", "regression.clipped"]
    assert found["verdict"] == "fail"
    assert "column 5 kept 1" in found["detail"]


def test_dense_layers_are_not_asked(base: Path, judge: Judge, tmp_path: Path) -> None:
    folder = tmp_path / "dense"
    folder.mkdir()
    said = Quantization(scheme="", bits=4, code="int", block=(1, GROUP))
    dense = {
        name: torch.from_numpy(round_to_nearest(weight.numpy(), said)) if weight.ndim == 2 else weight
        for name, weight in original().items()
    }
    safetensors.torch.save_file(dense, folder / "model.safetensors")
    checks = judge(folder, base)
    assert not any(name in ("regression.rounding", "regression.clipped") for _, name in checks)


def test_ww_yaml_changes_the_limits(base: Path, judge: Judge, tmp_path: Path) -> None:
    config = tmp_path / "ww.yaml"
    config.write_text("version: 1\nregression: {rounding: {max_excess: 0.5}, clipped: false}\n")
    checks = judge(write_release(tmp_path / "release"), base, f"--config={config}")
    assert {check["verdict"] for (_, name), check in checks.items() if name == "regression.rounding"} == {"fail"}
    assert not any(name == "regression.clipped" for _, name in checks)


def test_beside_a_recording_it_is_skipped_where_it_is_asked_for(
    base: Path, judge: Judge, tmp_path: Path, pytester: pytest.Pytester
) -> None:
    recorded = tmp_path / "base.ww.json"
    run = pytester.runpytest("--ww-model", base, "--ww-baseline", recorded, "--ww-update-baseline")
    assert run.ret == 0
    release, config = write_release(tmp_path / "release"), tmp_path / "ww.yaml"
    assert not any(name == "regression.rounding" for _, name in judge(release, recorded))
    config.write_text("version: 1\nregression: {rounding: {max_excess: 2}}\n")
    checks = judge(release, recorded, f"--config={config}")
    skipped = [check for (_, name), check in checks.items() if name == "regression.rounding"]
    assert {check["verdict"] for check in skipped} == {"skipped"}
    assert all("the weights of the original are not at hand" in check["detail"] for check in skipped)
