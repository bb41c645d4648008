"""Keras models: recognised without being imported, cloned, and written back in their own order of axes."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from spectral.errors import ModelError
from spectral.smoothing import smooth_model
from spectral.transforms import Replacement, transform_model
from spectral.truncation import keep_leading
from spectral.weights import WeightMatrix

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")


def negate(matrix: WeightMatrix) -> Replacement:
    return Replacement(slices=-matrix.slices.astype(np.float64), n_changed=1)


def network() -> Any:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((9, 8, 3)),
            # Fewer channels than taps: no shape tells which axes are which.
            keras.layers.Conv2D(2, 4, name="stem"),
            keras.layers.Reshape((-1, 2)),
            keras.layers.Conv1D(6, 5, name="line"),
            keras.layers.Flatten(),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dense(12, name="dense"),
            keras.layers.Dense(7, use_bias=False, name="head"),
        ]
    )


def to_numpy(value: Any) -> Any:
    """Return the values of a variable or an output; on the torch backend Keras's own way to do so warns."""
    held = getattr(value, "value", value)
    return np.array(held.detach().numpy() if hasattr(held, "detach") else held)


def weights_of(model: Any) -> dict[str, Any]:
    return {variable.path.removeprefix(f"{model.name}/"): to_numpy(variable) for variable in model.weights}


def test_the_original_stays() -> None:
    model = network()
    before = weights_of(model)
    result = transform_model(model, negate)
    assert isinstance(result.model, keras.Sequential)
    after, new = weights_of(model), weights_of(result.model)
    assert [change.spec.name for change in result.changes] == ["stem", "line", "dense", "head"]
    for name, old in before.items():
        assert np.array_equal(after[name], old)
        assert np.array_equal(new[name], -old if name.endswith("kernel") else old), name


def test_inplace() -> None:
    model = network()
    before = weights_of(model)
    assert transform_model(model, negate, layers=["head"], inplace=True).model is model
    for name, new in weights_of(model).items():
        assert np.array_equal(new, -before[name] if name == "head/kernel" else before[name])


def test_slices_of_a_kernel() -> None:
    """(k1, k2, in, out): each position is a matrix of its own."""
    model = network()
    result = smooth_model(model, method="svd", percent=0.5, layers=["stem", "line"])
    assert [(change.spec.N, change.spec.M, change.spec.rf) for change in result.changes] == [(3, 2, 16), (6, 2, 5)]
    old, new = weights_of(model), weights_of(result.model)
    for i in range(4):
        for j in range(4):
            expected = keep_leading(old["stem/kernel"][i, j], 1)
            np.testing.assert_allclose(new["stem/kernel"][i, j], expected, atol=1e-7)
    for i in range(5):
        np.testing.assert_allclose(new["line/kernel"][i], keep_leading(old["line/kernel"][i], 1), atol=1e-7)


def test_embedding_and_shared_layers() -> None:
    """A layer that is called twice is one layer."""
    tokens = keras.Input((4,), dtype="int32")
    shared = keras.layers.Dense(5, name="shared")
    model = keras.Model(tokens, shared(shared(keras.layers.Embedding(20, 5, name="table")(tokens))))
    result = transform_model(model, negate)
    assert result.details["layer_type"].tolist() == ["embedding", "dense"]
    old, new = weights_of(model), weights_of(result.model)
    assert all(np.array_equal(new[name], old[name] if name.endswith("bias") else -old[name]) for name in old)


def test_the_clone_computes() -> None:
    model = network()
    images = np.random.default_rng(0).standard_normal((2, 9, 8, 3)).astype(np.float32)

    def outputs(network: Any) -> Any:
        return to_numpy(network(images))

    same = smooth_model(model, method="svd", percent=1.0).model
    assert np.array_equal(outputs(same), outputs(model))
    other = smooth_model(model, method="svd", percent=0.5).model
    assert not np.allclose(outputs(other), outputs(model))


def test_what_cannot_be_cloned() -> None:
    base: Any = keras.Model

    class Own(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(5, name="only")

        def call(self, inputs: Any) -> Any:
            return self.dense(inputs)

    model = Own()
    model(np.ones((2, 9), dtype=np.float32))
    with pytest.raises(ModelError, match=r"Own: cannot be copied \(.*\); give a copy of your own with inplace=True$"):
        transform_model(model, negate)
    before = weights_of(model)
    transform_model(model, negate, inplace=True)
    assert np.array_equal(weights_of(model)["only/kernel"], -before["only/kernel"])


def test_bfloat16_stays() -> None:
    model = keras.Sequential([keras.Input((9,)), keras.layers.Dense(8, name="dense", dtype="bfloat16")])
    result = transform_model(model, negate)
    assert result.model.weights[0].dtype == "bfloat16"
    assert result.changes[0].spec.dtype == "bfloat16"
    assert bool((result.model.weights[0].value == -model.weights[0].value).all())
