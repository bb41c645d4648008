"""The drop-in class on Keras models. The incumbent needs tensorflow for them, so that parity itself is measured by
benchmarks/against_weightwatcher_keras.py; here, on the torch backend, is what it found there."""

from __future__ import annotations

import os

# Keras chooses its backend when it is imported.
os.environ["KERAS_BACKEND"] = "torch"

from typing import Any

import keras
import numpy as np
import pytest

import spectral as ww
from tests.core.builders import heavy_tailed


def model() -> Any:
    layers = keras.layers
    built = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Conv2D(24, 3, name="first"),
            layers.ReLU(name="bend"),
            layers.Conv2D(12, 5, name="second"),
            layers.Flatten(name="flat"),
            layers.Dense(30, name="hidden"),
            layers.LayerNormalization(name="norm"),
            layers.Dense(20, use_bias=False, name="last"),
        ]
    )
    for index, variable in enumerate(built.weights):
        variable.assign(heavy_tailed(*variable.shape, seed=index).astype(np.float32))
    return built


def values(built: Any, name: str) -> Any:
    return built.get_layer(name).kernel.value.detach().numpy()


def test_layers_are_counted_from_0_whether_they_have_weights_or_not() -> None:
    watcher = ww.WeightWatcher(model=model())
    details = watcher.analyze()
    assert watcher.framework == ww.KERAS
    rows = details[["layer_id", "name", "longname", "layer_type", "N", "M", "rf"]].to_numpy().tolist()
    assert rows == [
        [0, "first", "first", "conv2d", 24, 3, 9],
        [2, "second", "second", "conv2d", 24, 12, 25],
        [4, "hidden", "hidden", "dense", 1200, 30, 1],
        [6, "last", "last", "dense", 30, 20, 1],
    ]
    assert watcher.describe(start_ids=1)["layer_id"].tolist() == [1, 3, 5, 7]
    assert watcher.describe(layers=["hidden", 0])["name"].tolist() == ["first", "hidden"]
    assert str(watcher.get_framework_layer(layer="hidden").name) == "hidden"


def test_kernels_are_cut_along_their_first_axes() -> None:
    built = model()
    kernel = values(built, "first").astype(float)
    singular = [np.linalg.svd(kernel[row, column], compute_uv=False) for row in range(3) for column in range(3)]
    evals = np.sort(np.concatenate(singular)) ** 2
    watcher = ww.WeightWatcher(model=built)
    np.testing.assert_allclose(watcher.get_ESD(layer="first"), evals, rtol=1e-6)
    assert watcher.analyze(layers=["first"])["lambda_max"].tolist() == pytest.approx([evals[-1] / 2.0], rel=1e-6)
    # Wide, as there; the output of a torch kernel stands first, and its slices are tall.
    assert [block.shape for block in watcher.get_Weights(layer="second")] == [(12, 24)] * 25


def test_smoothing_in_place() -> None:
    built = model()
    assert ww.WeightWatcher(model=built).SVDSmoothing(layers=["hidden"], method=ww.SVD, percent=0.5) is built
    assert np.linalg.matrix_rank(values(built, "hidden")) == 15


def test_distances() -> None:
    mean_w, mean_b, rows = ww.WeightWatcher().distances(model(), model())
    assert (mean_w, mean_b) == (0.0, 0.0)
    assert rows["b_shape"].tolist() == ["unknown", "unknown", 30, "unknown"]
