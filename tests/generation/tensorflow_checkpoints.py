"""Writes the checkpoints in tests/core/tensorflow_checkpoints with TensorFlow, and what TensorFlow reads from them.

TensorFlow takes minutes to install, so the suite has these files instead. They were made with TensorFlow 2.21 and
Keras 3.15, in an environment of their own: ``python tests/generation/tensorflow_checkpoints.py``.
"""

from __future__ import annotations

import os

os.environ["KERAS_BACKEND"] = "tensorflow"

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parents[1] / "core" / "tensorflow_checkpoints"
TYPES = ("float16", "float64", "bfloat16", "int8", "uint16", "bool", "complex64")


def trained_model() -> Any:
    import keras

    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((4, 6)),
            layers.LSTM(5, name="lstm", return_sequences=True),
            layers.Conv1D(4, 2, name="conv"),
            layers.Dense(3, name="dense"),
        ],
        name="model",
    )
    model.compile("adam", "mse")
    model.fit(np.ones((2, 4, 6)), np.ones((2, 3, 3)), verbose=0)
    return model


def write_objects(folder: Path) -> None:
    """A checkpoint of objects: attributes, the optimizer's state, the description of the objects."""
    import tensorflow as tf

    model = trained_model()
    tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(str(folder / "objects"))
    model.export(str(folder / "exported"), verbose=False)
    # What a SavedModel computes is not read.
    (folder / "exported" / "saved_model.pb").write_bytes(b"")
    (folder / "exported" / "fingerprint.pb").unlink()


def write_types(folder: Path) -> None:
    import tensorflow as tf

    values = {dtype: tf.Variable(tf.cast(np.arange(12).reshape(3, 4) % 2, dtype)) for dtype in TYPES}
    tf.train.Checkpoint(**values, text=tf.Variable("abc")).write(str(folder / "types"))


def write_sessions(folder: Path) -> None:
    """A checkpoint of TensorFlow 1: variables by name, slots of Adam beside them, one variable in pieces."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default():
        weights, biases = v1.get_variable("layer/weights", (4, 3)), v1.get_variable("layer/biases", (3,))
        v1.get_variable("pieces", (6, 4), partitioner=v1.fixed_size_partitioner(2))
        step = v1.train.get_or_create_global_step()
        loss = tf.reduce_sum(tf.matmul(tf.ones((2, 4)), weights) + biases)
        train = v1.train.AdamOptimizer().minimize(loss, global_step=step)
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            session.run(train)
            v1.train.Saver().save(session, str(folder / "session.ckpt"), write_meta_graph=False)


def expected(prefix: Path) -> dict[str, Any]:
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(prefix))
    found = {}
    for name, dtype in reader.get_variable_to_dtype_map().items():
        if dtype.name != "string":
            values = np.asarray(reader.get_tensor(name))
            # An .npy file has no bfloat16.
            found[f"{prefix.name}:{name}"] = values.view(np.uint16) if dtype.name == "bfloat16" else values
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_objects(folder)
        write_types(folder)
        write_sessions(folder)
        values: dict[str, Any] = {}
        for prefix in ("objects-1", "exported/variables/variables", "types", "session.ckpt"):
            values |= expected(folder / prefix)
        np.savez_compressed(folder / "expected.npz", **values)
        for extra in folder.glob("checkpoint"):
            extra.unlink()
        shutil.rmtree(FOLDER, ignore_errors=True)
        shutil.copytree(folder, FOLDER)


if __name__ == "__main__":
    main()
