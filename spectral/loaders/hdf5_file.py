"""Read HDF5 files of arrays, without h5py: names and shapes from the headers, one array at a time.

Values that stand in one run, as h5py writes them unless it is asked for something else, are read by byte range.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from spectral.errors import CorruptCheckpointError, ModelError, ModelNotFoundError, UnsafeCheckpointError
from spectral.loaders.byte_ranges import read_range, stream_range
from spectral.loaders.dtypes import FLOAT_DTYPES, numpy_dtype, why_not_float
from spectral.loaders.hdf5_bytes import MalformedHdf5Error, UnsafeHdf5Error
from spectral.loaders.hdf5_chunks import read_chunks
from spectral.loaders.hdf5_scan import Hdf5Place, Hdf5Scan, StoredDataset, scan_hdf5
from spectral.loaders.naming import natural_order
from spectral.loaders.protocol import TensorInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray


class Dequantization(Protocol):
    """How a weight is computed from what is stored."""

    def compute(self, read: Callable[[str], NDArray[Any]]) -> NDArray[Any]:
        """Return the weight; ``read`` gives a stored tensor by its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hdf5File:
    """Tensors of one or several HDF5 files.

    Attributes
    ----------
    path : Path
        What to call them in messages.
    infos : dict of str to TensorInfo
        The headers.
    datasets : mapping of str to StoredDataset
        Tensor name -> where it is.
    recipes : mapping of str to Dequantization
        Tensors that are computed from what is stored.
    original_names : mapping of str to str
        Tensor name -> what a live model calls it, where that is known and another name.
    """

    path: Path
    infos: dict[str, TensorInfo] = field(repr=False)
    datasets: Mapping[str, StoredDataset] = field(repr=False)
    recipes: Mapping[str, Dequantization] = field(default_factory=dict, repr=False)
    original_names: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def label(self) -> str:
        return str(self.path)

    def tensors(self) -> tuple[TensorInfo, ...]:
        return tuple(self.infos.values())

    def load(self, name: str) -> NDArray[Any]:
        self._require(name)
        recipe = self.recipes.get(name)
        return self._read(name) if recipe is None else recipe.compute(self._read)

    def load_span(self, name: str, begin: int, end: int) -> NDArray[Any]:
        if name in self.recipes:
            return self.load(name).reshape(-1)[begin:end]
        self._require(name)
        return self.load_stored(name, begin, end)

    def load_stored(self, name: str, begin: int, end: int) -> NDArray[Any]:
        dataset = self._dataset(name)
        if dataset.begin < 0 or dataset.place.is_packed:
            return self._read(name).reshape(-1)[begin:end]
        size = dataset.datatype.size
        first = dataset.begin
        return _decode(read_range(dataset.place.path, name, first + begin * size, first + end * size), dataset)

    def stream(self, name: str) -> Iterator[memoryview] | None:
        self._require(name)
        dataset = self._dataset(name)
        is_little = not dataset.datatype.is_big_endian or dataset.datatype.size == 1
        if name in self.recipes or dataset.begin < 0 or dataset.place.is_packed or not is_little:
            return None
        return stream_range(dataset.place.path, name, dataset.begin, dataset.begin + dataset.n_bytes)

    def _require(self, name: str) -> None:
        refusal = self.infos[name].refusal
        if refusal is not None:
            raise ModelError(f"{self.path}: tensor {name[:200]!r}: {refusal}")

    def _dataset(self, name: str) -> StoredDataset:
        dataset = self.datasets.get(name)
        if dataset is None or dataset.refusal is not None:
            raise ModelError(f"{self.path}: tensor {name[:200]!r}: {self.infos[name].refusal}")
        return dataset

    def _read(self, name: str) -> NDArray[Any]:
        """Return the values of a dataset in their stored type."""
        import numpy as np

        dataset = self._dataset(name)
        if dataset.n_bytes == 0:
            return np.zeros(dataset.shape, dtype=_numpy_dtype(dataset.dtype))
        if dataset.layout.kind == "compact":
            return _decode(bytearray(dataset.layout.data), dataset).reshape(dataset.shape)
        if dataset.begin >= 0 and not dataset.place.is_packed:
            data = read_range(dataset.place.path, name, dataset.begin, dataset.begin + dataset.n_bytes)
            return _decode(data, dataset).reshape(dataset.shape)
        try:
            if dataset.begin >= 0:
                whole = dataset.place.content()
                part = bytearray(memoryview(whole)[dataset.begin : dataset.begin + dataset.n_bytes])
                return _decode(part, dataset).reshape(dataset.shape)
            return self._chunks(dataset)
        except (MalformedHdf5Error, struct.error) as error:
            raise CorruptCheckpointError(f"{self.path}: tensor {name[:200]!r}: {error}") from error
        except OSError as error:
            raise ModelError(f"{self.path}: tensor {name[:200]!r} cannot be read: {error.strerror}") from error

    def _chunks(self, dataset: StoredDataset) -> NDArray[Any]:
        stream, file = dataset.place.open()
        with stream:
            file.base = dataset.base
            values = read_chunks(file, dataset.shape, _storage(dataset), dataset.layout, dataset.filters)
        return _as_named(values, dataset)


def open_hdf5(path: Path) -> Hdf5File:
    """Open an HDF5 file of arrays; they are named by their paths.

    Raises
    ------
    ModelNotFoundError, CorruptCheckpointError, UnsafeCheckpointError, ModelError
        The file is missing, is no such file, contradicts itself, or refers to other files.
    """
    scan = read_scan(path)
    infos, datasets = describe_datasets(scan)
    return Hdf5File(path=path, infos=infos, datasets=datasets)


def read_scan(path: Path, place: Hdf5Place | None = None) -> Hdf5Scan:
    """Return what an HDF5 file holds, with errors that name it."""
    try:
        return scan_hdf5(place or Hdf5Place(path=path, end=path.stat().st_size))
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"{path}: no such file") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    except MalformedHdf5Error as error:
        raise CorruptCheckpointError(f"{path}: not a readable HDF5 file ({error})") from error
    except UnsafeHdf5Error as error:
        raise UnsafeCheckpointError(f"{path}: reaches outside itself: {error}") from error


def describe_datasets(scan: Hdf5Scan) -> tuple[dict[str, TensorInfo], dict[str, StoredDataset]]:
    """Return headers and places of all datasets and further names, in natural order of their paths."""
    infos: dict[str, TensorInfo] = {}
    for path in sorted({*scan.datasets, *scan.links}, key=natural_order):
        dataset = scan.datasets.get(path)
        if dataset is not None:
            infos[path] = describe_dataset(path, dataset)
            continue
        target = _final_target(path, scan)
        if target is not None:
            info = describe_dataset(path, scan.datasets[target])
            infos[path] = replace(info, refusal=f"tied to {target}", counted_in=target)
        elif scan.links[path] not in scan.groups:
            infos[path] = TensorInfo(name=path, shape=(), dtype="bool", refusal="a link that leads nowhere")
    return infos, dict(scan.datasets)


def describe_dataset(name: str, dataset: StoredDataset) -> TensorInfo:
    """Return a dataset's header as a tensor's."""
    refusal = dataset.refusal or why_not_float(dataset.dtype)
    return TensorInfo(name=name, shape=dataset.shape, dtype=dataset.dtype, refusal=refusal)


def _final_target(path: str, scan: Hdf5Scan) -> str | None:
    """Follow a name to the dataset that it stands for; a circle of names stands for none."""
    seen: set[str] = set()
    while path in scan.links and path not in seen:
        seen.add(path)
        path = scan.links[path]
    return path if path in scan.datasets else None


def _decode(data: bytearray, dataset: StoredDataset) -> NDArray[Any]:
    import numpy as np

    return _as_named(np.frombuffer(data, dtype=_storage(dataset)), dataset)


def _storage(dataset: StoredDataset) -> str:
    """Return the type in which the bytes are read: one that numpy has, in the file's byte order."""
    dtype = _numpy_dtype(dataset.dtype)
    kind = dtype.str[1:] if dtype.kind in "fiub" else f"u{dtype.itemsize}"
    return (
        f"{'>' if dataset.datatype.is_big_endian and dtype.itemsize > 1 else '<' if dtype.itemsize > 1 else '|'}{kind}"
    )


def _as_named(values: NDArray[Any], dataset: StoredDataset) -> NDArray[Any]:
    import numpy as np

    if values.dtype.byteorder == ">":
        values = values.astype(values.dtype.newbyteorder("<"))
    return np.ascontiguousarray(values).view(_numpy_dtype(dataset.dtype)).reshape(values.shape)


def _numpy_dtype(name: str) -> np.dtype[Any]:
    import numpy as np

    return numpy_dtype(name) if name in FLOAT_DTYPES else np.dtype(name)
