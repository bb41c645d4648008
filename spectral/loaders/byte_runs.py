"""Tensors whose values stand in files as they are, in one run of bytes or in several that follow each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

from spectral.errors import CorruptCheckpointError, ModelError
from spectral.loaders.byte_ranges import stream_range
from spectral.loaders.dtypes import FLOAT_DTYPES, numpy_dtype, stored_dtype

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from spectral.loaders.protocol import TensorInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Bytes of a file, from the first to behind the last."""

    path: Path
    begin: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSource:
    """Tensors by the runs that hold their values, little-endian and in C order.

    Attributes
    ----------
    path : Path
        The file or folder.
    infos : dict of str to TensorInfo
        The headers.
    runs : mapping of str to tuple of Run
        Name -> runs; together as long as the tensor. What is refused or empty may have none.
    """

    path: Path
    infos: dict[str, TensorInfo] = field(repr=False)
    runs: Mapping[str, tuple[Run, ...]] = field(repr=False)

    @property
    def label(self) -> str:
        return str(self.path)

    def tensors(self) -> tuple[TensorInfo, ...]:
        return tuple(self.infos.values())

    def load(self, name: str) -> NDArray[Any]:
        info = self._require(name)
        return self._read(name, 0, info.n_values).reshape(info.shape)

    def load_span(self, name: str, begin: int, end: int) -> NDArray[Any]:
        self._require(name)
        return self._read(name, begin, end)

    def stream(self, name: str) -> Iterator[memoryview]:
        self._require(name)
        return chain.from_iterable(stream_range(run.path, name, run.begin, run.end) for run in self._runs_of(name))

    def load_all(self) -> dict[str, NDArray[Any]]:
        """Return every tensor whose values are in the files, integers too."""
        return {
            name: self._read(name, 0, info.n_values).reshape(info.shape)
            for name, info in self.infos.items()
            if info.refusal is None or name in self.runs
        }

    def _require(self, name: str) -> TensorInfo:
        info = self.infos[name]
        if info.refusal is not None:
            raise ModelError(f"{self.path}: tensor {name!r}: {info.refusal}")
        return info

    def _runs_of(self, name: str) -> tuple[Run, ...]:
        return self.runs.get(name, ())

    def _read(self, name: str, begin: int, end: int) -> NDArray[Any]:
        import numpy as np

        info = self.infos[name]
        try:
            dtype = numpy_dtype(info.dtype) if info.dtype in FLOAT_DTYPES else stored_dtype(info.dtype)
        except TypeError:
            dtype = None  # A type of torch's or of ml_dtypes alone.
        if dtype is None:
            raise ModelError(f"{self.path}: tensor {name!r}: no array has the type {info.dtype}")
        values = np.empty(end - begin, dtype=dtype)
        self._fill(name, values.view(np.uint8).data, begin * dtype.itemsize)
        return values

    def _fill(self, name: str, target: memoryview, first: int) -> None:
        """Fill memory with the bytes of a tensor from one on."""
        filled = 0
        for run in self._runs_of(name):
            length = run.end - run.begin
            skipped = min(first, length)
            first -= skipped
            wanted = min(length - skipped, len(target) - filled)
            if wanted > 0:
                _read_into(name, run, run.begin + skipped, target[filled : filled + wanted])
                filled += wanted
        if filled != len(target):
            raise CorruptCheckpointError(f"{self.path}: tensor {name!r} has {filled} bytes of {len(target)}")


def _read_into(name: str, run: Run, begin: int, target: memoryview) -> None:
    try:
        with run.path.open("rb") as stream:
            stream.seek(begin)
            n_read = stream.readinto(target)
    except OSError as error:
        raise ModelError(f"{run.path}: tensor {name!r} cannot be read: {error.strerror}") from error
    if n_read != len(target):
        raise CorruptCheckpointError(
            f"{run.path}: tensor {name!r}: the file gave only {n_read} of {len(target)} bytes from byte {begin} on "
            "(it changed while it was read)"
        )
