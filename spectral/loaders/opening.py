"""Choose the loader for whatever the user calls a model."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from spectral.errors import CorruptCheckpointError, ModelError, UnsupportedModelError
from spectral.loaders.derived import multiply_out
from spectral.loaders.folder import open_folder
from spectral.loaders.gguf_file import open_gguf
from spectral.loaders.hub_cache import look_up, nothing_there
from spectral.loaders.keras_file import KERAS_WEIGHTS, open_h5, open_keras_archive, open_keras_folder, open_keras_index
from spectral.loaders.keras_model import is_keras_layer, open_keras
from spectral.loaders.locations import as_location
from spectral.loaders.memory import open_mapping
from spectral.loaders.model_config import with_config
from spectral.loaders.msgpack_file import open_msgpack
from spectral.loaders.numpy_file import open_npy, open_npz
from spectral.loaders.onnx_file import open_onnx
from spectral.loaders.protocol import TensorSource
from spectral.loaders.quantized import Settings, dequantize, read_settings
from spectral.loaders.safetensors import open_safetensors
from spectral.loaders.tensorflow_file import SAVED_MODEL, open_checkpoint, open_saved_model
from spectral.loaders.torch_file import open_torch_file
from spectral.loaders.torch_module import is_torch_module, open_module

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_OPENERS: dict[str, Callable[[Path], TensorSource]] = {
    ".safetensors": open_safetensors,
    ".pt": open_torch_file,
    ".pth": open_torch_file,
    ".bin": open_torch_file,
    ".ckpt": open_torch_file,
    ".jit": open_torch_file,
    ".onnx": open_onnx,
    ".npz": open_npz,
    ".npy": open_npy,
    ".gguf": open_gguf,
    ".msgpack": open_msgpack,
    ".keras": open_keras_archive,
    ".h5": open_h5,
    ".hdf5": open_h5,
    ".weights.json": open_keras_index,
    ".index": open_checkpoint,
}


MAX_VALUES = 1 << 48
"""More than any tensor has."""


def open_model(model: object) -> TensorSource:
    """Open a model by its headers; no weights are read yet.

    Parameters
    ----------
    model : path, torch.nn.Module, Keras model, mapping or TensorSource
        A ``.safetensors``, ``.gguf``, ``.onnx``, ``.npz`` or ``.npy`` file, one of torch (``.pt``, ``.pth``, ``.bin``,
        ``.ckpt``, ``.jit``), of Flax (``.msgpack``), of Keras (``.keras``, ``.h5``, ``.hdf5``, ``.weights.json``) or of
        TensorFlow (``.index``), a folder with weights or shards (and a ``config.json`` that says how attention is
        laid), a SavedModel, a folder that torch's distributed training or DeepSpeed wrote, a torch module, a Keras
        model or layer, a state dict, or a dict of numpy arrays.
        A path may be a URL (``https://``, ``hf://organisation/model``, ``s3://``, ``gs://``, ..), which is read by
        ranges of bytes, or ``hf-cache:organisation/model``. A source that is open already is returned as it is.

    Returns
    -------
    TensorSource
        Names, shapes and dtypes of all tensors, and a way to load one of them.

    Raises
    ------
    ModelError
        One of its subclasses: not found, corrupt, unsafe, of an unsupported kind, or its format needs a
        package that is not installed. The message is one sentence that names the file and the place.
    """
    if isinstance(model, (str, os.PathLike)):
        return multiply_out(_open_path(as_location(model)))
    if is_keras_layer(model):  # Before torch: on that backend a Keras model is a torch module, too.
        return open_keras(model)
    if is_torch_module(model):
        return multiply_out(open_module(model))
    if isinstance(model, Mapping):
        return multiply_out(dequantize(open_mapping(model, label=type(model).__name__), Settings))
    if isinstance(model, TensorSource):
        return model
    raise UnsupportedModelError(
        f"cannot analyse a {type(model).__module__}.{type(model).__qualname__}: expected a path, a torch module, "
        "a Keras model, a state dict or a dict of numpy arrays"
    )


def _open_path(path: Path) -> TensorSource:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        index = path.with_name(f"{path.name}.index") if path.name else path
        if index.is_file():
            # TensorFlow calls a checkpoint by what the names of its files begin with.
            return open_checkpoint(index)
        cached = look_up(path.as_posix())
        if cached is not None:
            return _open_path(cached)
        raise nothing_there(path, path.as_posix()) from error
    except ModelError:
        raise
    except (OSError, ValueError) as error:
        raise ModelError(f"{str(path)[:200]!r}: cannot be read: {error}") from error
    if stat.S_ISDIR(mode):
        if (path / KERAS_WEIGHTS).is_file():
            return _checked(open_keras_folder(path), path)
        if (path / SAVED_MODEL).is_file():
            return _checked(open_saved_model(path), path)
        opened = _checked(open_folder(path, _open_file), path)
        return with_config(dequantize(opened, partial(read_settings, path)), path)
    return dequantize(_open_file(path), partial(read_settings, path.parent))


def _open_file(path: Path) -> TensorSource:
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise UnsupportedModelError(f"{path}: not a regular file")
    opener = _OPENERS.get(path.suffix.lower()) or _OPENERS.get("".join(path.suffixes[-2:]).lower())
    if opener is None:
        raise UnsupportedModelError(
            f"{path}: no loader for {path.suffix or 'a file without suffix'}; known are {', '.join(_OPENERS)}"
        )
    source = opener(path)
    if not source.tensors():
        raise CorruptCheckpointError(f"{path}: holds no tensors")
    return _checked(source, path)


def _checked(source: TensorSource, path: Path) -> TensorSource:
    """Refuse what no format forbids, and nothing behind the loaders could handle."""
    for info in source.tensors():
        if info.n_values == 0 and math.prod(filter(None, info.shape)) > MAX_VALUES:
            # An empty tensor takes no bytes, whatever its other axes claim; but no array has such a shape.
            raise CorruptCheckpointError(f"{path}: tensor {info.name[:200]!r}: a shape that no array has")
        # Half a surrogate pair is no text: it could be printed, written and compared nowhere.
        if any("\ud800" <= character <= "\udfff" for character in info.name):
            raise CorruptCheckpointError(f"{path}: tensor {info.name[:200]!r}: its name is not valid Unicode")
    return source
