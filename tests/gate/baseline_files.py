"""What the tests of --ww-baseline share: the two runs, and how to read and write what they leave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from pytest_weightwatcher.baseline import SEAL, _seal_of_file, sealed
from tests.gate.conftest import LAYERS, Tensors, healthy_tensors

N_REGRESSIONS = 7
"""alpha, spectrum, weights, effective_rank, largest_weight, correlation_traps and noise, of each layer."""

N_CHECKS = 5 + len(LAYERS) * (2 + N_REGRESSIONS)
"""Coverage, integrity, layers, weights and tensors of the model; integrity, alpha and regressions of each layer."""


def head() -> NDArray[Any]:
    return healthy_tensors()["head.weight"].copy()


def failing_ids(result: pytest.RunResult) -> set[str]:
    return {line.split(" ")[1].partition("safetensors::")[2] for line in result.outlines if line.startswith("FAILED")}


def failing_layers(result: pytest.RunResult) -> set[str]:
    return {name.partition("::")[0] for name in failing_ids(result)}


def payload_of(path: Path) -> dict[str, Any]:
    payload: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return payload


def result_of(pytester: pytest.Pytester, *arguments: str) -> dict[str, Any]:
    """Run, and return what the JSON report says of the one model."""
    pytester.runpytest(*arguments, "--ww-report=json:out.json")
    (model,) = payload_of(pytester.path / "out.json")["models"]
    assert isinstance(model, dict)
    return model


def resealed(payload: dict[str, Any]) -> dict[str, Any]:
    """Return a baseline with the seals that a recording of this very content would have."""
    matrices = {
        name: sealed({key: value for key, value in entry.items() if key != SEAL})
        for name, entry in payload["matrices"].items()
    }
    changed = {**payload, "matrices": matrices}
    return {**changed, SEAL: _seal_of_file(changed)}


def save(pytester: pytest.Pytester, tensors: Tensors, name: str = "model.safetensors") -> Path:
    path = pytester.path / name
    save_file(tensors, path)
    return path


def with_one_weight(value: float) -> NDArray[Any]:
    values = head()
    values[3, 7] = value
    return values
