"""What several test modules build: heavy-tailed matrices, raw safetensors bytes, pickles."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from spectral.analysis import LayerAnalysis, analyze
from spectral.loaders.protocol import TensorInfo
from spectral.spectrum import Spectrum, SpectrumFailure, compute_spectrum
from spectral.weights import MatrixSpec, as_weight_matrix, plan_matrices

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray


def heavy_tailed(*shape: int, seed: int = 0, degrees: float = 2.5) -> NDArray[np.float64]:
    """Draw Student-t values: few degrees of freedom give a spectrum with a power-law tail."""
    return np.random.default_rng(seed).standard_t(degrees, size=shape)


def with_singular_values(
    singular: NDArray[np.float64], n_rows: int, n_columns: int, *, seed: int = 0
) -> NDArray[np.float64]:
    """Return a matrix with these singular values and random singular vectors."""
    rng = np.random.default_rng(seed)
    left, _ = np.linalg.qr(rng.standard_normal((n_rows, len(singular))))
    right, _ = np.linalg.qr(rng.standard_normal((n_columns, len(singular))))
    return np.asarray((left * singular) @ right.T, dtype=np.float64)


def spec_of(values: NDArray[Any], name: str = "layer.weight") -> MatrixSpec:
    """Return the one matrix that a tensor of this name and shape is."""
    info = TensorInfo(name=name, shape=values.shape, dtype=values.dtype.name)
    (spec,) = plan_matrices([info]).matrices
    return spec


def compute(values: NDArray[Any], name: str = "layer.weight") -> Spectrum | SpectrumFailure:
    """Compute the spectrum of one tensor."""
    return compute_spectrum(as_weight_matrix(spec_of(values, name), values))


def spectrum_of(values: NDArray[Any], name: str = "layer.weight") -> Spectrum:
    """Compute the spectrum of one tensor that has one."""
    spectrum = compute(values, name)
    assert isinstance(spectrum, Spectrum)
    return spectrum


def analyze_one(values: NDArray[Any], *, min_evals: int = 8, name: str = "layer.weight") -> LayerAnalysis:
    """Analyse one tensor."""
    (layer,) = analyze({name: values}, min_evals=min_evals, n_workers=1).layers
    return layer


def safetensors_bytes(header: object, data: bytes = b"") -> bytes:
    """Return a safetensors file with this header (JSON text as bytes stays as it is)."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(begin: int, end: int, *, shape: object = None, dtype: object = "F32") -> dict[str, object]:
    """Return the header entry of one tensor; by default a vector of float32."""
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


def write_safetensors(path: Path, tensors: Mapping[str, NDArray[np.float32]]) -> Path:
    """Write float32 tensors by hand, in the order given."""
    header: dict[str, object] = {}
    position = 0
    for name, values in tensors.items():
        header[name] = entry(position, position + values.nbytes, shape=list(values.shape))
        position += values.nbytes
    path.write_bytes(safetensors_bytes(header, b"".join(values.tobytes() for values in tensors.values())))
    return path


def write_index(folder: Path, weight_map: object, *, name: str = "model.safetensors.index.json") -> Path:
    """Write the index file of a sharded checkpoint."""
    path = folder / name
    path.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}))
    return path
