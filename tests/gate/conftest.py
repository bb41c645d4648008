"""Small models for the plugin's tests, written as safetensors, so that no test here needs torch."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

Tensors = dict[str, NDArray[Any]]
MakeModel = Callable[..., Path]

PRELOADED = [
    import_module(name)
    for name in (
        "hypothesis.extra.numpy",
        "pandas",
        "pytest_weightwatcher.assertions",
        "pytest_weightwatcher.fixtures",
        "pytest_weightwatcher.gate",
        "pytest_weightwatcher.hooks",
        "pytest_weightwatcher.report",
        "pytest_weightwatcher.session",
        "scipy.linalg.cython_lapack",
        "threadpoolctl",
    )
]
"""pytester takes back what an inner run imports; numpy and pydantic must not be loaded twice, nor each time."""

LAYERS = ("encoder.0.query", "encoder.0.key", "encoder.1.query", "head")

RECORD = ("--ww-model=model.safetensors", "--ww-baseline=b.ww.json", "--ww-update-baseline")
COMPARE = ("--ww-model=model.safetensors", "--ww-baseline=b.ww.json")


def healthy_tensors(seed: int = 0) -> Tensors:
    """Four layers whose singular values follow a power law, so that each alpha lies near 3.

    Singular values (i/n)^(-1/4) give eigenvalues with P(λ > x) = x^-2, a density of exponent 3.
    """
    rng = np.random.default_rng(seed)
    tensors: Tensors = {}
    for name in LAYERS:
        left, _ = np.linalg.qr(rng.normal(size=(96, 64)))
        right, _ = np.linalg.qr(rng.normal(size=(64, 64)))
        sizes = (np.arange(1, 65) / 64.0) ** -0.25
        tensors[f"{name}.weight"] = (left * sizes @ right).astype(np.float32)
        tensors[f"{name}.bias"] = np.zeros(96, dtype=np.float32)
    return tensors


@pytest.fixture
def make_model(pytester: pytest.Pytester) -> MakeModel:
    """Return a function that writes a model into the test's folder: healthy, but for the tensors given."""

    def make(name: str = "model.safetensors", /, **changes: NDArray[Any]) -> Path:
        tensors = healthy_tensors()
        for layer, values in changes.items():
            tensors[f"{layer.replace('__', '.')}.weight"] = values
        path = pytester.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path)
        return path

    return make


@pytest.fixture
def recorded(pytester: pytest.Pytester, make_model: MakeModel) -> Path:
    """The baseline of the healthy model."""
    make_model()
    assert pytester.runpytest(*RECORD).ret == pytest.ExitCode.OK
    return pytester.path / "b.ww.json"


def noise(shape: tuple[int, int] = (96, 64), seed: int = 1) -> NDArray[np.float32]:
    """A layer drawn anew, with the scale of the healthy ones."""
    return (0.15 * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def flat(shape: tuple[int, int] = (96, 64), seed: int = 1) -> NDArray[np.float32]:
    """A layer with all singular values within 1%: its alpha is far above 6."""
    rng = np.random.default_rng(seed)
    left, _ = np.linalg.qr(rng.normal(size=shape))
    right, _ = np.linalg.qr(rng.normal(size=(shape[1], shape[1])))
    sizes = np.linspace(1.0, 1.01, shape[1])
    product: NDArray[Any] = left * sizes @ right
    return product.astype(np.float32)
