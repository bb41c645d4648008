"""Files that Keras saves: the same names, matrices and values as the model in memory has, without Keras."""

from __future__ import annotations

import os

# Keras chooses its backend when it is imported.
os.environ["KERAS_BACKEND"] = "torch"

import gc
import json
import pickle
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from keras.src.quantizers import quantizers
from keras.src.quantizers.quantization_config import Int4QuantizationConfig

from spectral import analyze, describe
from spectral.errors import (
    CorruptCheckpointError,
    ModelError,
    ModelNotFoundError,
    UnsafeCheckpointError,
    UnsupportedModelError,
)
from spectral.loaders.hdf5_file import Hdf5File
from spectral.loaders.keras_file import open_h5, open_keras_archive
from spectral.loaders.opening import open_model
from tests.core.test_hdf5_file import read_all
from tests.core.test_keras import filled, sequence_model

LAYERS = keras.layers

pytestmark = pytest.mark.filterwarnings(
    "ignore"
)  # Keras warns of its own older format, and of layers it does not quantise


def nested_model() -> Any:
    """Two models built beforehand, whose layers have the same names: variable.path is the same for both."""
    one, two, three = keras.Input((16,)), keras.Input((12,)), keras.Input((16,))
    encoder = keras.Model(one, LAYERS.Dense(12, name="d")(one), name="encoder")
    decoder = keras.Model(two, LAYERS.Dense(16, name="d")(two), name="decoder")
    return filled(keras.Model(three, decoder(encoder(three)), name="both"))


def recurrent_model() -> Any:
    return keras.Sequential(
        [
            keras.Input((8, 6)),
            LAYERS.RNN([LAYERS.LSTMCell(5), LAYERS.GRUCell(4)], return_sequences=True),
            LAYERS.Bidirectional(LAYERS.LSTM(3, return_sequences=True, dropout=0.1)),
            LAYERS.Dense(3, dtype="bfloat16"),
            LAYERS.Dense(3, dtype="float16", use_bias=False),
            LAYERS.PReLU(),
            LAYERS.SpectralNormalization(LAYERS.Dense(4)),
            LAYERS.TimeDistributed(LAYERS.Dense(5)),
        ]
    )


def trained_model() -> Any:
    model = keras.Sequential(
        [
            keras.Input((6,)),
            LAYERS.Dense(5, name="a"),
            keras.Sequential([LAYERS.Dense(4, name="b")], name="inner"),
            LAYERS.Dropout(0.5),
            LAYERS.BatchNormalization(),
            LAYERS.LayerNormalization(center=False),
            LAYERS.BatchNormalization(scale=False),
            LAYERS.GroupNormalization(2),
            LAYERS.RMSNormalization(),
            LAYERS.Normalization(),
            LAYERS.Dense(3, use_bias=False),
        ],
        name="root",
    )
    model.compile("adam", "mse")
    model.fit(np.ones((4, 6)), np.ones((4, 3)), verbose=0)
    return model


def image_model() -> Any:
    image = keras.Input((9, 9, 6))
    x = LAYERS.Conv2D(10, (3, 2), name="conv", groups=2)(image)
    x = LAYERS.Conv2DTranspose(7, 2)(x)
    x = LAYERS.SeparableConv2D(8, 3)(x)
    x = LAYERS.DepthwiseConv2D(2)(x)
    x = LAYERS.Reshape((1, 5, 5, 8))(LAYERS.Resizing(5, 5)(x))
    x = LAYERS.Conv3D(12, (1, 2, 2), groups=4)(x)
    x = LAYERS.ConvLSTM1D(6, 2)(LAYERS.Reshape((4, 4, 12))(x))
    return filled(keras.Model(image, x))


def word_model() -> Any:
    words = keras.Input((5,))
    x = LAYERS.Embedding(40, 12, name="words")(words)
    x = LAYERS.AdditiveAttention()([x, x])
    x = LAYERS.Attention(use_scale=True)([x, x])
    x = LAYERS.MultiHeadAttention(2, 4, value_dim=3, use_bias=False)(x, x)
    return filled(keras.Model(words, x))


def shared_model() -> Any:
    shared = LAYERS.Dense(6, name="shared")
    one = keras.Input((6,))
    inside = keras.Sequential([shared, LAYERS.Dense(6, name="other")], name="holder")(one)
    return filled(keras.Model(one, shared(inside)))


MODELS: list[Callable[[], Any]] = [
    sequence_model, nested_model, recurrent_model, trained_model, image_model, word_model, shared_model,
]  # fmt: skip


def same_as_live(model: Any, source: Any, names: dict[str, str] | None = None) -> None:
    """The tensors of a file are those of the model: names, shapes, types, matrices and bits."""
    live = open_model(model)
    found = {info.name: info for info in source.tensors()}
    for info in live.tensors():
        name = info.name if names is None else names[info.name]
        other = found[name]
        assert (info.shape, info.dtype, info.parts) == (other.shape, other.dtype, other.parts), info.name
        assert (info.refusal is None, info.quantization) == (other.refusal is None, other.quantization), info.name
        if info.refusal is None:
            assert live.load(info.name).tobytes() == source.load(name).tobytes(), info.name
    extra = set(found) - {info.name for info in live.tensors()} if names is None else set()
    assert all(found[name].is_state or found[name].counted_in for name in extra), extra


@pytest.mark.parametrize("kind", [".keras", ".h5"])
@pytest.mark.parametrize("make", MODELS)
def test_names_matrices_and_bits_are_those_of_the_model(make: Callable[[], Any], kind: str, tmp_path: Path) -> None:
    model = make()
    path = tmp_path / f"model{kind}"
    model.save(path)
    source = open_model(path)
    same_as_live(model, source)
    described, expected = describe(path), describe(model)
    assert {spec.name for spec in described.matrices} == {spec.name for spec in expected.matrices}
    assert described.coverage == expected.coverage
    if make is not recurrent_model:
        # There the order of a wrapper's own variables is another.
        assert described.details.equals(expected.details)


@pytest.mark.parametrize("make", [sequence_model, nested_model, recurrent_model, word_model])
def test_a_model_is_named_as_the_same_one_loaded_from_its_file(make: Callable[[], Any], tmp_path: Path) -> None:
    """Which ``variable.path`` is not: it goes back only to where the model was built in one piece."""
    model = make()
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    same_as_live(model, open_model(loaded))


@pytest.mark.parametrize("make", [nested_model, recurrent_model, word_model])
def test_weights_alone_keep_the_names_of_the_file(make: Callable[[], Any], tmp_path: Path) -> None:
    model = make()
    model.save_weights(tmp_path / "m.weights.h5")
    source = open_model(tmp_path / "m.weights.h5")
    assert isinstance(source, Hdf5File)
    assert all("/vars/" in info.name for info in source.tensors())
    same_as_live(model, source, {live: name for name, live in source.original_names.items()})


def test_shards(tmp_path: Path) -> None:
    model = filled(keras.Sequential([keras.Input((90,)), *(LAYERS.Dense(90) for _ in range(4))]))
    model.save_weights(tmp_path / "m.weights.json", max_shard_size=0.00005)
    assert len(list(tmp_path.glob("*.h5"))) > 2
    for path in (tmp_path / "m.weights.json", tmp_path):
        source = open_model(path)
        assert isinstance(source, Hdf5File)
        same_as_live(model, source, {live: name for name, live in source.original_names.items()})
    index = json.loads((tmp_path / "m.weights.json").read_text())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "m.weights.json").write_text(json.dumps(index))
    with pytest.raises(ModelNotFoundError, match="which is missing"):
        open_model(tmp_path / "other" / "m.weights.json")
    index["weight_map"] = {"/layers/dense/vars": "../m_00000.weights.h5"}
    (tmp_path / "other" / "m.weights.json").write_text(json.dumps(index))
    with pytest.raises(UnsafeCheckpointError, match="outside its folder"):
        open_model(tmp_path / "other" / "m.weights.json")


def test_an_unpacked_archive(tmp_path: Path) -> None:
    model = nested_model()
    model.save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        archive.extractall(tmp_path / "folder")
    same_as_live(model, open_model(tmp_path / "folder"))


def test_an_archive_that_is_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nested_model()
    model.save(tmp_path / "m.keras")
    path = tmp_path / "packed.keras"
    with zipfile.ZipFile(tmp_path / "m.keras") as archive, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in archive.namelist():
            packed.writestr(name, archive.read(name))
    source = open_model(path)
    same_as_live(model, source)
    same_as_live(model, pickle.loads(pickle.dumps(source)))
    monkeypatch.setattr("spectral.loaders.keras_file.MAX_UNPACKED", 100)
    with pytest.raises(
        UnsupportedModelError, match=r"its weights are packed \([0-9]+ bytes unpacked\).*unpack the archive"
    ):
        open_model(path)


def without_names(path: Path) -> Path:
    """Take from the weights what only newer versions of Keras write: the names of layers, beside their variables."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    weights = path.with_suffix(".h5")
    weights.write_bytes(parts["model.weights.h5"])
    with h5py.File(weights, "r+") as file:
        file.visititems(lambda _, item: item.attrs.pop("name", None) and None)
        file["vars"].attrs.pop("name", None)
    parts["model.weights.h5"] = weights.read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("make", MODELS)
def test_a_file_of_an_older_keras_is_named_by_its_configuration(make: Callable[[], Any], tmp_path: Path) -> None:
    model = make()
    model.save(tmp_path / "m.keras")
    same_as_live(model, open_model(without_names(tmp_path / "m.keras")))


def test_a_whole_model_of_tf_keras_2(tmp_path: Path) -> None:
    """As TensorFlow 2.15 wrote it: names with a number behind, wrappers for what they wrap, no backward layer named."""
    arrays = {
        "d/d/kernel:0": (6, 5), "d/d/bias:0": (5,), "td/td/kernel:0": (5, 4), "lstm/lstm/lstm_cell_3/kernel:0": (4, 24),
        "lstm/lstm/lstm_cell_3/recurrent_kernel:0": (6, 24), "b/b/forward_gru/gru_cell/kernel:0": (6, 9),
        "b/b/backward_gru/gru_cell/kernel:0": (6, 9), "conv/conv/kernel:0": (3, 3, 2, 7), "own/own/thing:0": (4, 4),
    }  # fmt: skip
    layers = [
        {"class_name": "Dense", "config": {"name": "d"}},
        {
            "class_name": "TimeDistributed",
            "config": {"name": "td", "layer": {"class_name": "Dense", "config": {"name": "inner"}}},
        },
        {"class_name": "LSTM", "config": {"name": "lstm"}},
        {
            "class_name": "Bidirectional",
            "config": {"name": "b", "layer": {"class_name": "GRU", "config": {"name": "gru"}}},
        },
        {"class_name": "Conv2D", "config": {"name": "conv", "groups": 1}},
        {"class_name": "Own", "config": {"name": "own"}},
    ]
    config = {"class_name": "Sequential", "config": {"name": "m", "layers": layers}}
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["model_config"] = json.dumps(config)
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [layer["config"]["name"].encode() for layer in layers]  # type: ignore[index]
        for name, shape in arrays.items():
            group[name] = np.ones(shape, dtype=np.float32)
        file["optimizer_weights/Adam/m/d/kernel:0"] = np.ones((6, 5))
    source = open_h5(tmp_path / "m.h5")
    assert [info.name for info in source.tensors() if not info.is_state] == [
        "d/kernel", "d/bias", "td/inner/kernel", "lstm/lstm_cell_3/kernel", "lstm/lstm_cell_3/recurrent_kernel",
        "b/forward_gru/gru_cell/kernel", "b/backward_gru/gru_cell/kernel", "conv/kernel", "own/thing",
    ]  # fmt: skip
    names = [spec.name for spec in describe(tmp_path / "m.h5").matrices]
    assert names[:2] == ["d", "td/inner"]
    assert "lstm/lstm_cell_3/kernel.i" in names
    assert "b/backward_gru/gru_cell/kernel.z" in names
    (conv,) = [spec for spec in describe(tmp_path / "m.h5").matrices if spec.name == "conv"]
    assert (conv.rows, conv.columns, conv.rf) == (2, 7, 9)


class Block(keras.Model):  # type: ignore[misc, unused-ignore]
    """A model whose configuration says nothing of its layers."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.one = LAYERS.Dense(12)
        self.many = [LAYERS.Conv1D(9, 3, padding="same"), LAYERS.Dense(14)]
        self.sequence = LAYERS.LSTM(10)

    def build(self, shape: Any) -> None:
        self.w = self.add_weight(shape=(3, 4), name="w")
        super().build(shape)

    def call(self, x: Any) -> Any:
        for layer in (self.one, *self.many, self.sequence):
            x = layer(x)
        return x


def test_a_model_of_one_s_own_class(tmp_path: Path) -> None:
    """Names of layers stand in the file, classes in its keys; what the class itself holds keeps the file's name."""
    model = Block(name="block")
    model(np.zeros((1, 5, 7), dtype=np.float32))
    filled(model)
    model.save(tmp_path / "m.keras")
    source = open_keras_archive(tmp_path / "m.keras")
    live = open_model(model)
    names = {info.name: info.name for info in live.tensors()}
    same_as_live(model, source, names | {"w": "vars/0"})
    assert describe(tmp_path / "m.keras").coverage == describe(model).coverage


@keras.saving.register_keras_serializable(package="tests")
class Wrapped(keras.layers.Layer):  # type: ignore[misc, unused-ignore]
    """A layer that keeps another one under a key of which its configuration knows nothing."""

    def __init__(self, inside: Any, **options: Any) -> None:
        super().__init__(**options)
        self.kept = inside

    def call(self, x: Any) -> Any:
        return self.kept(x)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "inside": keras.saving.serialize_keras_object(self.kept)}


def test_a_layer_is_found_by_its_name_in_the_configuration(tmp_path: Path) -> None:
    """Only the configuration of the layer within knows its groups."""
    image = keras.Input((8, 8, 6))
    model = filled(keras.Model(image, Wrapped(LAYERS.Conv2D(9, 3, groups=3, name="kernels"), name="outer")(image)))
    model.save(tmp_path / "m.keras")
    source = open_model(tmp_path / "m.keras")
    same_as_live(model, source)
    assert [info.name for info in source.tensors()] == ["outer/kernels/kernel", "outer/kernels/bias"]
    (spec,) = describe(source).matrices
    assert (spec.rows, spec.columns, spec.rf) == (2, 3, 27)


def test_state_is_listed_and_is_no_parameter(tmp_path: Path) -> None:
    model = trained_model()
    for kind in (".keras", ".h5"):
        model.save(tmp_path / f"m{kind}")
        source = open_model(tmp_path / f"m{kind}")
        states = [info for info in source.tensors() if info.is_state]
        assert {info.refusal for info in states} == {"state of the training, no weight"}
        assert any(len(info.shape) == 2 for info in states)
        description = describe(tmp_path / f"m{kind}")
        assert description.coverage == describe(model).coverage
        assert not description.unanalysed
        with pytest.raises(ModelError, match=r"state of the training, no weight$"):
            source.load(states[0].name)


def test_states_of_generators(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((6,)), LAYERS.Dense(5), LAYERS.Dropout(0.5)])
    model.save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        names = archive.namelist()
        (tmp_path / "w.h5").write_bytes(archive.read("model.weights.h5"))
    assert "model.weights.h5" in names
    with h5py.File(tmp_path / "w.h5", "r+") as file:
        # As Keras 3 before 3.7 wrote it for every dropout.
        file["layers/dropout/seed_generator/vars/0"] = np.ones(2, dtype=np.uint32)
    states = [info for info in open_h5(tmp_path / "w.h5").tensors() if info.is_state]
    assert [info.refusal for info in states] == ["state of a random generator, no weight"]


def quantised_model() -> Any:
    words = keras.Input((7,))
    x = LAYERS.Embedding(40, 13, name="words")(words)
    x = LAYERS.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = LAYERS.GroupQueryAttention(5, 4, 2, name="grouped")(x, x)
    x = LAYERS.EinsumDense("abc,cd->abd", output_shape=(None, 11), name="einsum", bias_axes="d")(x)
    x = LAYERS.Dense(15, name="one")(x)
    x = LAYERS.Dense(8, use_bias=False, name="two")(x)
    x = LAYERS.EinsumDense("abc,dc->adb", output_shape=(6, None), name="turned")(x)
    return filled(keras.Model(words, x))


def quantise(model: Any, mode: str, block: int | None = None) -> None:
    """Quantise all layers as ``model.quantize`` does, but for making the model run again."""
    config = None if block is None else Int4QuantizationConfig(block_size=block)
    # Keras collects garbage at every weight that it replaces: half a second each, with all that pytest has loaded.
    gc.freeze()
    for layer in model._flatten_layers():
        if type(layer) in (LAYERS.Dense, LAYERS.EinsumDense) or (type(layer) is LAYERS.Embedding and mode != "float8"):
            layer.quantize(mode, config=config)
    gc.unfreeze()


def keras_weight(layer: Any) -> Any:
    """What a quantised layer computes with, by Keras's own functions."""
    dtype = layer.compute_dtype
    if isinstance(layer, LAYERS.Embedding):
        return ops.convert_to_numpy(layer(np.arange(layer.input_dim)[None]))[0]
    is_einsum = isinstance(layer, LAYERS.EinsumDense)
    if layer.quantization_mode == "int8":
        scale = layer._adjust_scale_for_dequant(layer.kernel_scale) if is_einsum else layer.kernel_scale
        return ops.convert_to_numpy(ops.divide(ops.cast(layer._kernel, dtype), scale))
    if layer.quantization_mode == "float8":
        kernel, scale = (ops.convert_to_tensor(value) for value in (layer._kernel, layer.kernel_scale))
        return ops.convert_to_numpy(quantizers.quantize_and_dequantize(kernel, scale, "float8_e4m3fn", dtype))
    n_columns = layer._int4_unpacked_column_size if is_einsum else layer._orig_output_dim
    codes = quantizers.unpack_int4(layer._kernel, n_columns, axis=-1)
    if getattr(layer, "kernel_zero", None) is None:
        values = ops.divide(ops.cast(codes, dtype), layer.kernel_scale)
    else:
        values = quantizers.dequantize_with_sz_map(
            codes, layer.kernel_scale, layer.kernel_zero, layer.g_idx, group_axis=0
        )
    return ops.convert_to_numpy(ops.reshape(values, layer.original_kernel_shape) if is_einsum else values)


@pytest.mark.parametrize(
    ("mode", "block", "n_bits"),
    [("int8", None, 8), ("int4", 4, 4), ("int4", -1, 4), ("float8", None, 8)],
)
def test_quantised_models(mode: str, block: int | None, n_bits: int, tmp_path: Path) -> None:
    model = quantised_model()
    quantise(model, mode, block)
    source = open_model(model)
    infos = {info.name: info for info in source.tensors()}
    n_checked = 0
    for layer in model._flatten_layers():
        leaf = "embeddings" if isinstance(layer, LAYERS.Embedding) else "kernel"
        if getattr(layer, "quantization_mode", None) != mode or not hasattr(layer, f"_{leaf}"):
            continue
        expected = keras_weight(layer)
        names = [name for name in infos if name.split("/")[-2:] == [layer.name, leaf]]
        same = [name for name in names if np.array_equal(source.load(name), expected)]
        assert len(same) == 1, layer.name
        info = infos[same[0]]
        assert info.quantization is not None
        assert (info.quantization.bits, info.dtype, info.shape) == (n_bits, "float32", expected.shape)
        n_checked += 1
    assert n_checked == (12 if mode == "float8" else 13)
    assert describe(model).coverage > 0.9
    others = [info for info in infos.values() if info.refusal is not None]
    assert others
    assert all(info.counted_in in infos for info in others)
    for kind in (".keras", ".h5"):
        model.save(tmp_path / f"m{kind}")
        same_as_live(model, open_model(tmp_path / f"m{kind}"))
    model.save_weights(tmp_path / "m.weights.h5")
    weights = {info.name: info for info in open_model(tmp_path / "m.weights.h5").tensors()}
    kept = weights["layers/dense/vars/0"]
    assert kept.quantization == infos["one/kernel"].quantization


def test_an_embedding_that_may_be_int8_or_packed(tmp_path: Path) -> None:
    model = quantised_model()
    quantise(model, "int8")
    model.save_weights(tmp_path / "m.weights.h5")
    infos = {info.name: info for info in open_model(tmp_path / "m.weights.h5").tensors()}
    assert infos["layers/embedding/vars/0"].refusal == "int8 or packed int4: the file does not say which"


def calibrated_model(policy: str) -> Any:
    """A model in the state in which GPTQ or AWQ leave it, with codes of chance."""
    chance = np.random.default_rng(0)
    one = keras.Input((7, 16))
    x = LAYERS.Dense(15, name="dense", dtype=policy)(one)
    x = LAYERS.EinsumDense("abc,cde->abde", output_shape=(None, 4, 4), bias_axes="de", name="query", dtype=policy)(x)
    model = keras.Model(one, x)
    for layer in model.layers[1:]:
        layer.is_gptq_calibrated = layer.is_awq_calibrated = True
        for variable in layer.weights:
            if str(variable.dtype) == "uint8":
                most = 256 if variable.name == "kernel" else 16
                variable.assign(chance.integers(0, most, size=variable.shape).astype(np.uint8))
            elif variable.name == "g_idx":
                variable.assign(np.arange(variable.shape[0]) * layer.kernel_scale.shape[1] // variable.shape[0])
            elif variable.name == "bias":
                variable.assign(np.zeros(variable.shape))
            else:
                variable.assign(chance.uniform(0.1, 1, size=variable.shape))
    return model


@pytest.mark.parametrize("policy", ["gptq/4/8_from_float32", "gptq/8/-1_from_float32", "awq/4/8_from_float32"])
def test_gptq_and_awq(policy: str, tmp_path: Path) -> None:
    model = calibrated_model(policy)
    source = open_model(model)
    dense, query = model.layers[1:]
    # A layer without a bias computes its own weight from the unit vectors.
    np.testing.assert_array_equal(source.load("dense/kernel"), ops.convert_to_numpy(dense(np.eye(16)[None]))[0])
    np.testing.assert_array_equal(source.load("query/kernel"), ops.convert_to_numpy(query(np.eye(15)[None]))[0])
    model.save(tmp_path / "m.h5")
    same_as_live(model, open_model(tmp_path / "m.h5"))
    model.save(tmp_path / "m.keras")
    kernel = {info.name: info for info in open_model(tmp_path / "m.keras").tensors()}["dense/kernel"]
    if kernel.refusal is not None:
        assert kernel.refusal == "its zero points are missing: Keras 3.15 leaves them out of files of GPTQ and AWQ"
    else:
        same_as_live(model, open_model(tmp_path / "m.keras"))


@pytest.mark.parametrize("mode", [None, "int8"])
def test_a_live_lora_is_added_to_its_weight(mode: str | None, tmp_path: Path) -> None:
    model = quantised_model()
    if mode is not None:
        quantise(model, mode)
    chance = np.random.default_rng(1)
    for layer in model._flatten_layers():
        if isinstance(layer, (LAYERS.Dense, LAYERS.EinsumDense, LAYERS.Embedding)):
            layer.enable_lora(2, lora_alpha=3)
            for variable in layer.weights:
                if "lora" in variable.name:
                    variable.assign(chance.normal(size=variable.shape))
    source = open_model(model)
    infos = {info.name: info for info in source.tensors()}
    one = model.get_layer("one")
    update = 1.5 * ops.convert_to_numpy(ops.matmul(one.lora_kernel_a, one.lora_kernel_b))
    base = keras_weight(one) if mode else ops.convert_to_numpy(one._kernel)
    np.testing.assert_allclose(source.load("one/kernel"), base + update, rtol=1e-5, atol=1e-5)
    assert infos["one/lora_kernel_a"].counted_in == "one/kernel"
    if mode is None:
        # Keras adds it before it saves.
        model.save(tmp_path / "m.keras")
        saved = open_model(tmp_path / "m.keras")
        np.testing.assert_allclose(
            saved.load("words/embeddings"), source.load("words/embeddings"), rtol=1e-5, atol=1e-5
        )
        np.testing.assert_allclose(saved.load("one/kernel"), source.load("one/kernel"), rtol=1e-5, atol=1e-5)


def test_no_layer_is_built_and_no_lambda_run(tmp_path: Path) -> None:
    """The archive asks for a Lambda whose code would write a file, and for a class of any module."""
    model = nested_model()
    model.save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(parts["config.json"])
    evil = {"module": "os", "class_name": "system", "config": {"name": "x", "command": f"touch {tmp_path}/ran"}}
    config["config"]["layers"] += [
        evil,
        {"class_name": "Lambda", "config": {"name": "l", "function": ["4wEAAAA", None, None]}},
    ]
    parts["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(tmp_path / "evil.keras", "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    same_as_live(model, open_model(tmp_path / "evil.keras"))
    assert not (tmp_path / "ran").exists()


def archive_of(path: Path, config: Any, weights: bytes | None, name: str = "model.weights.h5") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        if config is not None:
            archive.writestr("config.json", config if isinstance(config, (str, bytes)) else json.dumps(config))
        if weights is not None:
            archive.writestr(name, weights)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("small") / "m.weights.h5"
    filled(keras.Sequential([keras.Input((6,)), LAYERS.Dense(5)])).save_weights(path)
    return path.read_bytes()


def test_archives_that_are_none(small: bytes, tmp_path: Path) -> None:
    cases: list[tuple[Path, type[ModelError], str]] = [
        (archive_of(tmp_path / "a.keras", {}, None), CorruptCheckpointError, "it holds no model.weights.h5"),
        (archive_of(tmp_path / "b.keras", {}, b"x", "model.weights.npz"), UnsupportedModelError, "pickles"),
        (archive_of(tmp_path / "c.keras", "{", small), CorruptCheckpointError, "not valid JSON"),
        (archive_of(tmp_path / "d.keras", "[" * 100_000, small), CorruptCheckpointError, "nested too deeply"),
        (archive_of(tmp_path / "e.keras", b"\xff", small), CorruptCheckpointError, "not valid JSON"),
        (archive_of(tmp_path / "f.keras", {}, small[:700]), CorruptCheckpointError, "not a readable HDF5 file"),
        (archive_of(tmp_path / "g.keras", {}, b""), CorruptCheckpointError, "not a readable HDF5 file"),
    ]
    (tmp_path / "h.keras").write_bytes(b"no archive")
    cases.append((tmp_path / "h.keras", CorruptCheckpointError, "no directory at its end"))
    cases.append((tmp_path / "missing.keras", ModelNotFoundError, "no such file"))
    for path, kind, match in cases:
        with pytest.raises(kind, match=rf"{path.name}: .*{match}"):
            open_model(path)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["dense", "LSTM", "kernel"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["class_name", "config", "name", "layers", "layer", "cell", "cells", "dtype", "groups", "equation"]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=150)
@given(config=VALUES, layer=VALUES)
def test_any_configuration_leaves_the_weights_readable(
    config: Any, layer: Any, small: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """It says what weights mean, and never what they are."""
    folder = tmp_path_factory.mktemp("config")
    both = {"class_name": "Sequential", "config": {"layers": [config, {"class_name": "Dense", "config": layer}]}}
    for payload in (config, both):
        source = open_model(archive_of(folder / "m.keras", json.dumps(payload), small))
        describe(source)
        assert sorted(info.shape for info in source.tensors()) == [(5,), (6, 5)]
        assert all(source.load(info.name).shape == info.shape for info in source.tensors())


def test_bytes_changed_anywhere(tmp_path: Path) -> None:
    model = quantised_model()
    quantise(model, "int4", 4)
    bases = {}
    for kind in (".keras", ".h5", ".weights.h5"):
        path = tmp_path / f"m{kind}"
        (model.save_weights if kind == ".weights.h5" else model.save)(path)
        bases[kind] = path.read_bytes()
    chance = random.Random(0)
    for _ in range(400):
        kind = chance.choice(list(bases))
        changed = bytearray(bases[kind])
        for _ in range(chance.choice([1, 2, 8, 30, 200])):
            at = chance.randrange(min(len(changed), chance.choice([300, 30_000, 1 << 20])))
            changed[at if chance.random() < 0.7 else -1 - at] = chance.choice([0, 255, 127, 128, chance.randrange(256)])
        path = tmp_path / f"changed{kind}"
        path.write_bytes(changed[: chance.randrange(len(changed))] if chance.random() < 0.1 else changed)
        read_all(path)


def test_the_same_numbers_as_the_model(tmp_path: Path) -> None:
    model = sequence_model()
    model.save(tmp_path / "m.keras")
    assert analyze(tmp_path / "m.keras").details.equals(analyze(model).details)


def test_nothing_but_numpy_is_imported(tmp_path: Path) -> None:
    nested_model().save(tmp_path / "m.keras")
    code = (
        "import sys\nfor name in ('h5py', 'keras', 'torch', 'tensorflow'): sys.modules[name] = None\n"
        "from spectral import describe\n"
        f"print([spec.name for spec in describe({str(tmp_path / 'm.keras')!r}).matrices])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "['encoder/d', 'decoder/d']"
