"""The gate on .pt files and torch modules; apart from the other plugin tests because these need torch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_weightwatcher import assert_layers_well_trained
from tests.gate.conftest import flat, healthy_tensors, make_model  # a fixture, used by its name

__all__ = ["make_model"]

MakeModel = Callable[..., Path]


def as_state_dict() -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(values) for name, values in healthy_tensors().items()}


class Malicious:
    """Unpickling it would create a file."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self._call = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._call


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("beside_weights", [False, True], ids=["alone", "beside weights"])
def test_malicious_pickle(pytester: pytest.Pytester, legacy: bool, beside_weights: bool) -> None:
    attack = Malicious(os.mkdir, str(pytester.path / "pwned"))
    content = {**as_state_dict(), "attack": attack} if beside_weights else attack
    torch.save(content, pytester.path / "model.pt", _use_new_zipfile_serialization=not legacy)
    result = pytester.runpytest("--ww-model=model.pt")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.errlines if line.startswith("ERROR: ")]
    assert "model.pt: unsafe: its pickle asks for posix.mkdir" in line
    assert "nothing was run" in line
    assert not (pytester.path / "pwned").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not really", b"random bytes, no pickle at all"])
def test_damaged_torch_file(pytester: pytest.Pytester, content: bytes) -> None:
    (pytester.path / "model.pt").write_bytes(content)
    result = pytester.runpytest("--ww-model=model.pt")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.errlines if line.startswith("ERROR: ")]
    assert "model.pt: " in line


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "pytorch_model.bin"])
def test_same_verdicts_as_safetensors(pytester: pytest.Pytester, make_model: MakeModel, name: str) -> None:
    make_model()
    torch.save({"state_dict": as_state_dict(), "epoch": 3}, pytester.path / name)
    results = []
    for model in ("model.safetensors", name):
        pytester.runpytest(f"--ww-model={model}", "--ww-report=json:out.json")
        result = json.loads((pytester.path / "out.json").read_text(encoding="utf-8"))["models"][0]
        results.append(
            (
                sorted((layer["name"], layer["hash"], str(layer["metrics"])) for layer in result["layers"]),
                sorted((check["layer"] or "", check["check"], check["verdict"]) for check in result["checks"]),
            )
        )
    assert results[0] == results[1]


def test_baseline_of_safetensors_serves_a_torch_file(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model()
    pytester.runpytest("--ww-model=model.safetensors", "--ww-baseline=b.ww.json", "--ww-update-baseline")
    torch.save(as_state_dict(), pytester.path / "model.pt")
    result = pytester.runpytest("--ww-model=model.pt", "--ww-baseline=b.ww.json", "-p", "xdist", "-n", "0")
    assert result.parseoutcomes() == {"passed": 41}


def test_assertion_takes_modules_and_state_dicts() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(64, 96), torch.nn.ReLU(), torch.nn.Linear(64, 96))
    for layer, name in ((module[0], "encoder.0.query.weight"), (module[2], "head.weight")):
        layer.weight.data = torch.from_numpy(healthy_tensors()[name])
    analysis = assert_layers_well_trained(module)
    assert [layer.name for layer in analysis.layers] == ["0", "2"]
    assert_layers_well_trained(module.state_dict())
    module[2].weight.data = torch.from_numpy(flat())
    with pytest.raises(AssertionError, match=r"2: alpha 101\.3 is 95\.34 above the limit of 2 to 6"):
        assert_layers_well_trained(module)


def test_files_of_torch_are_read_without_torch(pytester: pytest.Pytester) -> None:
    torch.save(as_state_dict(), pytester.path / "model.pt")
    with_torch = pytester.runpytest_subprocess("--ww-model=model.pt").parseoutcomes()
    pytester.makeconftest("import sys; sys.modules['torch'] = None")
    result = pytester.runpytest_subprocess("--ww-model=model.pt")
    assert result.ret == pytest.ExitCode.OK
    assert result.parseoutcomes() == with_torch
