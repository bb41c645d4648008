"""Our numbers beside weightwatcher's on Keras models, which it reads with tensorflow only.

Run it where tensorflow (2.21 was used), weightwatcher 0.7.7 and this package are installed:
``python benchmarks/against_weightwatcher_keras.py``. It prints one line per call and ends with 1 where one disagrees.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")

OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"pool": False},
    {"start_ids": 1, "detX": True},
    {"layers": ["dense"]},
    {"layers": [0, 1, 2]},
    {"conv2d_norm": False, "mp_fit": True},
)
TOLERANCES = {"sigma_mp": 1e-4, "mp_softrank": 1e-4, "bulk_max": 1e-4, "bulk_min": 1e-4}


def models() -> dict[str, Any]:
    """Return a convolutional network and one of embeddings, with the weights that Keras draws from a seed."""
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    convolutions = [
        keras.Input((16, 16, 3)),
        layers.Conv2D(24, 3),
        layers.ReLU(),
        layers.Conv2D(12, 5),
        layers.Flatten(),
    ]
    dense = [layers.Dense(30), layers.LayerNormalization(), layers.Dense(20, use_bias=False)]
    words = [keras.Input((5,)), layers.Embedding(60, 22), layers.LSTM(20), layers.Dense(10)]
    return {"convolutions": keras.Sequential([*convolutions, *dense]), "words": keras.Sequential(words)}


def disagreements(theirs: Any, ours: Any) -> list[str]:
    """Return the columns that differ, or what else does."""
    import numpy as np

    if list(theirs.columns) != list(ours.columns) or len(theirs) != len(ours):
        return ["columns or rows"]
    return [
        name
        for name in ours.columns
        if not (
            np.allclose(ours[name], theirs[name], rtol=TOLERANCES.get(name, 1e-6), atol=0.0)
            if ours[name].dtype.kind == "f"
            else ours[name].tolist() == theirs[name].tolist()
        )
    ]


def main() -> int:
    """Compare every call."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    import tensorflow as tf
    import weightwatcher

    import spectral

    n_wrong = 0
    for name, model in models().items():
        for options in OPTIONS:
            theirs = weightwatcher.WeightWatcher(model=model).analyze(**options)
            ours = spectral.WeightWatcher(model=model).analyze(**options)
            wrong = disagreements(theirs, ours)
            n_wrong += bool(wrong)
            print(f"tensorflow {tf.__version__}  {name}  {options}: {len(ours)} rows  {wrong or 'same'}")
    return 1 if n_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
