"""Keras models in memory, on the torch backend: each layer's weights cut as Keras defines them."""

from __future__ import annotations

import os

# Keras chooses its backend when it is imported.
os.environ["KERAS_BACKEND"] = "torch"

from typing import Any

import keras
import numpy as np
import pytest

from spectral.analysis import Analysis, analyze, describe
from spectral.errors import UnsupportedModelError
from spectral.loaders.keras_model import KerasVariable, is_keras_layer
from spectral.loaders.memory import MemorySource
from spectral.loaders.opening import open_model
from spectral.spectrum import Spectrum
from tests.core.builders import heavy_tailed


def sequence_model() -> Any:
    inputs = keras.Input((20, 12))
    layers = keras.layers
    x = layers.LSTM(16, return_sequences=True, name="lstm")(inputs)
    x = layers.Bidirectional(layers.GRU(8, return_sequences=True, name="gru"), name="both")(x)
    x = layers.MultiHeadAttention(4, 5, name="attention")(x, x)
    x = layers.GroupQueryAttention(5, 4, 2, name="grouped")(x, x)
    x = layers.Conv1D(12, 3, groups=2, name="conv")(x)
    x = layers.Conv1DTranspose(9, 3, name="transposed")(x)
    x = layers.SeparableConv1D(10, 3, name="separable")(x)
    x = layers.DepthwiseConv1D(3, depth_multiplier=2, name="depthwise")(x)
    inner = keras.Sequential([layers.Dense(14, name="one"), layers.BatchNormalization(name="norm")], name="inner")
    x = layers.TimeDistributed(layers.Dense(11, name="dense"), name="timed")(inner(x))
    x = layers.EinsumDense("abc,cd->abd", output_shape=(None, 13), name="einsum")(x)
    x = layers.SimpleRNN(10, name="rnn")(x)
    return filled(keras.Model(inputs, x))


def filled(model: Any) -> Any:
    for index, variable in enumerate(model.weights):
        variable.assign(heavy_tailed(*variable.shape, seed=index).astype(np.float32))
    return model


@pytest.fixture(scope="module")
def model() -> Any:
    return sequence_model()


@pytest.fixture(scope="module")
def analysis(model: Any) -> Analysis:
    return analyze(model)


def expected_slices(model: Any) -> dict[str, list[Any]]:
    """Layer name -> slices, by the definitions in Keras's own documentation of each layer."""
    get = model.get_layer
    layers = {
        "lstm/lstm_cell": get("lstm").cell,
        "both/forward_gru/gru_cell": get("both").forward_layer.cell,
        "both/backward_gru/gru_cell": get("both").backward_layer.cell,
        "rnn/simple_rnn_cell": get("rnn").cell,
        **{f"attention/{name}": getattr(get("attention"), f"_{name}_dense") for name in ("query", "key", "value")},
        **{f"grouped/{name}": getattr(get("grouped"), f"_{name}_dense") for name in ("query", "key", "value")},
        "attention/attention_output": get("attention")._output_dense,
        "grouped/attention_output": get("grouped")._output_dense,
        "inner/one": get("inner").get_layer("one"),
        "timed/dense": get("timed").layer,
        **{name: get(name) for name in ("conv", "transposed", "separable", "einsum")},
    }
    values = {
        f"{name}/{variable.name}": variable.value.detach().double().numpy()
        for name, layer in layers.items()
        for variable in layer.weights
    }
    cuts: dict[str, list[Any]] = {}
    cells = {
        "lstm/lstm_cell": "ifco",
        "both/forward_gru/gru_cell": "zrh",
        "both/backward_gru/gru_cell": "zrh",
    }
    for cell, gates in cells.items():
        for kernel in ("kernel", "recurrent_kernel"):
            for gate, block in zip(gates, np.split(values[f"{cell}/{kernel}"], len(gates), axis=1), strict=True):
                cuts[f"{cell}/{kernel}.{gate}"] = [block]
    for kernel in ("kernel", "recurrent_kernel"):
        cuts[f"rnn/simple_rnn_cell/{kernel}"] = [values[f"rnn/simple_rnn_cell/{kernel}"]]
    for attention in ("attention", "grouped"):
        for name in ("query", "key", "value"):
            kernel = values[f"{attention}/{name}/kernel"]
            cuts[f"{attention}/{name}"] = [kernel.reshape(len(kernel), -1)]
        kernel = values[f"{attention}/attention_output/kernel"]
        cuts[f"{attention}/attention_output"] = [kernel.reshape(-1, kernel.shape[-1])]
    blocks = np.split(values["conv/kernel"], 2, axis=2)
    cuts["conv"] = [position for block in blocks for position in block]
    cuts["transposed"] = list(values["transposed/kernel"])
    cuts["separable/pointwise_kernel"] = list(values["separable/pointwise_kernel"])
    for name in ("inner/one", "timed/dense", "einsum"):
        cuts[name] = [values[f"{name}/kernel"]]
    return cuts


def test_every_matrix_and_its_spectrum(model: Any, analysis: Analysis) -> None:
    expected = expected_slices(model)
    assert sorted(layer.name for layer in analysis.layers) == sorted(expected)
    for layer in analysis.layers:
        slices = expected[layer.name]
        evals = np.sort(np.concatenate([np.linalg.svd(part, compute_uv=False) ** 2 for part in slices]))
        assert isinstance(layer.spectrum, Spectrum)
        np.testing.assert_allclose(layer.spectrum.evals, evals, rtol=1e-6, atol=1e-6 * evals[-1], err_msg=layer.name)
        assert (layer.spec.rf, layer.spec.rows, layer.spec.columns) == (len(slices), *slices[0].shape)


def test_types(analysis: Analysis) -> None:
    types = {layer.name: layer.spec.layer_type.value for layer in analysis.layers}
    assert types["lstm/lstm_cell/kernel.i"] == "recurrent"
    assert types["conv"] == types["transposed"] == types["separable/pointwise_kernel"] == "conv1d"
    assert types["inner/one"] == types["attention/query"] == "dense"


def test_what_is_left_is_listed(analysis: Analysis) -> None:
    reasons = {item.name: item.reason for item in analysis.unanalysed if "bias" not in item.name}
    vectors = "only vectors: each slice has a single row or column, so no spectrum"
    assert reasons == {"separable/depthwise_kernel": vectors, "depthwise/kernel": vectors}


def test_coverage(model: Any, analysis: Analysis) -> None:
    n_analysed = sum(part.size for slices in expected_slices(model).values() for part in slices)
    assert analysis.coverage == n_analysed / model.count_params()


def test_convolutions_and_embeddings() -> None:
    layers = keras.layers
    image = keras.Input((9, 9, 6))
    x = layers.Conv2D(10, (3, 2), name="conv")(image)
    x = layers.Conv2DTranspose(7, 2, name="transposed")(x)
    x = layers.SeparableConv2D(8, 3, name="separable")(x)
    x = layers.DepthwiseConv2D(2, name="depthwise")(x)
    x = layers.Reshape((1, 5, 5, 8))(layers.Resizing(5, 5)(x))
    x = layers.Conv3D(12, (1, 2, 2), groups=4, name="volume")(x)
    x = layers.ConvLSTM1D(6, 2, name="conv_lstm")(layers.Reshape((4, 4, 12))(x))
    model = filled(keras.Model(image, x))
    details = analyze(model).details.set_index("longname")
    found = {name: tuple(row) for name, row in details[["layer_type", "N", "M", "rf"]].iterrows()}
    assert found == {
        "conv": ("conv2d", 10, 6, 6),
        "transposed": ("conv2d", 10, 7, 4),
        "separable/pointwise_kernel": ("conv2d", 8, 7, 1),
        "volume": ("conv3d", 3, 2, 16),
        **{f"conv_lstm/conv_lstm_cell/kernel.{gate}": ("recurrent", 12, 6, 2) for gate in "ifco"},
        **{f"conv_lstm/conv_lstm_cell/recurrent_kernel.{gate}": ("recurrent", 6, 6, 2) for gate in "ifco"},
    }
    words = filled(keras.Sequential([keras.Input((5,)), layers.Embedding(40, 12, name="words")]))
    (layer,) = analyze(words).layers
    assert (layer.name, layer.spec.layer_type.value) == ("words", "embedding")
    kernel = model.get_layer("conv").kernel.value.detach().double().numpy()
    evals = np.sort(np.concatenate([np.linalg.svd(part, compute_uv=False) ** 2 for part in kernel.reshape(-1, 6, 10)]))
    (conv,) = [item for item in analyze(model).layers if item.name == "conv"]
    assert isinstance(conv.spectrum, Spectrum)
    np.testing.assert_allclose(conv.spectrum.evals, evals / 2, rtol=1e-6)


def test_a_shared_layer_is_analysed_once() -> None:
    shared = keras.layers.Dense(12, name="shared")
    one, two = keras.Input((12,)), keras.Input((12,))
    model = keras.Model([one, two], [shared(one), shared(shared(two))])
    assert describe(model).details["longname"].tolist() == ["shared"]


def test_layers_of_one_name_are_two() -> None:
    class Pair(keras.Model):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__(name="pair")
            self.one = keras.layers.Dense(12, name="dense")
            self.two = keras.layers.Dense(12, name="dense")

        def call(self, x: Any) -> Any:
            return self.two(self.one(x))

    model = Pair()
    model(np.zeros((1, 12), dtype=np.float32))
    assert describe(model).details["longname"].tolist() == ["dense", "dense_1"]


def test_a_model_without_shapes() -> None:
    with pytest.raises(UnsupportedModelError, match=r"^Sequential 'new' is not built: call it once"):
        describe(keras.Sequential([keras.layers.Dense(3)], name="new"))


def test_a_single_layer() -> None:
    layer = keras.layers.Dense(12, name="alone")
    layer.build((None, 14))
    assert describe(layer).details["longname"].tolist() == ["alone"]


def test_bfloat16_is_read_bit_for_bit() -> None:
    layer = keras.layers.Dense(12, dtype="bfloat16", name="alone")
    layer.build((None, 14))
    source = open_model(layer)
    assert source.load("alone/kernel").dtype.name == "bfloat16"
    expected = layer.kernel.value.detach().float().numpy()
    np.testing.assert_array_equal(source.load("alone/kernel").astype(np.float32), expected)


def test_variables_of_another_backend_become_arrays_when_loaded() -> None:
    class Variable:
        """Stands for one of TensorFlow or JAX, which cannot be imported beside torch in one process."""

        name = "dense/kernel:0"
        shape = (6, 5)
        dtype = np.dtype("float32")
        n_reads = 0

        def numpy(self) -> Any:
            Variable.n_reads += 1
            return np.arange(30, dtype=np.float32).reshape(6, 5)

    class Layer:
        """As tf.keras calls its base class."""

        name = "dense"
        built = True

        def __init__(self) -> None:
            self.weights = [Variable()]

        def _flatten_layers(self, recursive: bool = True, include_self: bool = True) -> list[Any]:
            return [self] if include_self else []

    Layer.__module__ = "tf_keras.src.engine.base_layer"
    layer = Layer()
    assert is_keras_layer(layer)
    source = open_model(layer)
    assert isinstance(source, MemorySource)
    assert isinstance(source.values["dense/kernel"], KerasVariable)
    (spec,) = describe(source).matrices
    assert (spec.name, spec.rows, spec.columns, Variable.n_reads) == ("dense", 6, 5, 0)
    np.testing.assert_array_equal(source.load("dense/kernel"), np.arange(30).reshape(6, 5))
    assert Variable.n_reads == 1


def test_other_classes_called_layer_are_none_of_keras() -> None:
    class Layer:
        pass

    assert not is_keras_layer(Layer())
