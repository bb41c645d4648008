"""Models and runs of the command line, shared by its tests."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from pytest_weightwatcher.console.main import main
from tests.gate.conftest import healthy_tensors

ROOT = Path(__file__).resolve().parents[2]


def write_model(path: Path, **changes: NDArray[Any]) -> Path:
    """Write the healthy model, with some tensors changed or added; ``__`` in a name stands for a dot."""
    tensors = healthy_tensors()
    tensors.update({name.replace("__", "."): values for name, values in changes.items()})
    save_file(tensors, path)
    return path


def write_named(path: Path, tensors: Mapping[str, NDArray[Any]]) -> Path:
    """Write tensors under any names, as a file from elsewhere may have them."""
    header, blobs, end = {}, [], 0
    for name, values in tensors.items():
        blob = values.astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [end, end + len(blob)]}
        blobs.append(blob)
        end += len(blob)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))
    return path


def with_element(value: float, layer: str = "head") -> NDArray[np.float32]:
    """The layer of the healthy model with one element of another size."""
    values = np.array(healthy_tensors()[f"{layer}.weight"])
    values[5, 7] = value
    return values.astype(np.float32)


def run(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    """Carry out a command line in this process, demand its exit code, and return what it wrote.

    That is stdout where the code is 0, otherwise stderr; the other must be empty.
    """
    assert main([str(argument) for argument in arguments]) == code
    captured = capsys.readouterr()
    wanted, other = (captured.out, captured.err) if code == 0 else (captured.err, captured.out)
    assert other == ""
    return wanted


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    """Carry out a command line and return its JSON, read strictly."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    found: dict[str, Any] = json.loads(run(capsys, *arguments, "--format=json"), parse_constant=refuse)
    return found
