"""What a fuzzed file goes through: opened, listed and read, as the gate would."""

from __future__ import annotations

from pathlib import Path

from spectral.errors import ModelError
from spectral.loaders.opening import open_model
from spectral.weights import plan_matrices

CORPUS = Path(__file__).parent / "corpus"

SUFFIXES = {
    "safetensors": ".safetensors",
    "torch": ".pt",
    "npz": ".npz",
    "npy": ".npy",
    "gguf": ".gguf",
    "onnx": ".onnx",
    "msgpack": ".msgpack",
}
"""Format -> how its file ends."""

MAX_VALUES = 1 << 20
"""Of a tensor that is read; larger ones are described alone."""


def read_all(path: Path) -> bool:
    """Read whatever a file holds; return whether it was accepted. Anything but a :class:`ModelError` is a defect."""
    try:
        source = open_model(path)
        plan_matrices(source.tensors())
    except ModelError:
        return False
    for info in source.tensors():
        if info.refusal is not None or info.n_values > MAX_VALUES:
            continue
        try:
            values = source.load(info.name)
        except ModelError:
            continue
        assert values.shape == info.shape, (values.shape, info)
        assert values.dtype.name == info.dtype, (values.dtype, info)
    return True
