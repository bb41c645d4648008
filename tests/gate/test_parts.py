"""Tensors that hold several matrices: each is its own layer to the gate."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.gate.conftest import flat, healthy_tensors


def test_each_part_is_judged_by_its_own_values(pytester: pytest.Pytester) -> None:
    good = healthy_tensors()["head.weight"][:64]
    fused = np.concatenate([good, flat((64, 64)), good[::-1]])
    save_file({"attn.in_proj_weight": fused}, pytester.path / "model.safetensors")
    pytester.runpytest("--ww-model=model.safetensors", "--ww-report=json:out.json")
    (model,) = json.loads((pytester.path / "out.json").read_text(encoding="utf-8"))["models"]
    layers = {layer["name"]: layer for layer in model["layers"]}
    assert list(layers) == [f"attn.in_proj_weight.{letter}" for letter in "qkv"]
    assert len({layer["hash"] for layer in layers.values()}) == 3
    found = [check["id"] for check in model["checks"] if check["verdict"] == "warn"]
    assert found == [f"ww.yaml::model.safetensors::attn.in_proj_weight.k::{name}" for name in ("alpha", "noise")]


def test_one_part_by_its_node_id(pytester: pytest.Pytester) -> None:
    fused = np.concatenate([healthy_tensors()["head.weight"][:64]] * 3)
    save_file({"attn.in_proj_weight": fused}, pytester.path / "model.safetensors")
    pytester.path.joinpath("ww.yaml").write_text("version: 1\nmodels: [{path: model.safetensors}]\n")
    result = pytester.runpytest("ww.yaml::model.safetensors::attn.in_proj_weight.v", "-v")
    result.stdout.fnmatch_lines(["*::attn.in_proj_weight.v::alpha*"])
    result.stdout.no_fnmatch_line("*in_proj_weight.q*")


def test_a_nan_in_a_part_that_is_left_out_is_found(pytester: pytest.Pytester) -> None:
    good = healthy_tensors()["head.weight"][:64]
    fused = np.concatenate([good, good, good])
    fused[70, 3] = np.nan
    save_file({"attn.in_proj_weight": fused}, pytester.path / "model.safetensors")
    pytester.path.joinpath("ww.yaml").write_text(
        'version: 1\nmodels: [{path: model.safetensors}]\nanalysis: {exclude: ["*.k"]}\n'
    )
    result = pytester.runpytest("ww.yaml")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*attn.in_proj_weight*1 of 12288*"])
