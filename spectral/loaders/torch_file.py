"""Read files that ``torch.save`` and ``torch.jit.save`` wrote, without torch, and executing nothing.

A storage is an entry of the archive (:mod:`spectral.loaders.torch_archive`), and a tensor a range of bytes in the file.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from spectral.errors import ModelError, UnsupportedModelError
from spectral.loaders.byte_ranges import read_range, stream_range
from spectral.loaders.dtypes import PLAIN_DTYPES, numpy_dtype, stored_dtype
from spectral.loaders.state_dict import find_weights, list_outside, mark_partitioned, name_tensors
from spectral.loaders.ties import mark_ties
from spectral.loaders.torch_archive import TorchArchive, read_archive

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from spectral.loaders.protocol import TensorInfo
    from spectral.loaders.torch_pickle import StoredTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchFile:
    """One archive of ``torch.save`` or ``torch.jit.save``; a tensor is read when it is loaded."""

    path: Path
    infos: dict[str, TensorInfo] = field(repr=False)
    values: Mapping[str, StoredTensor] = field(repr=False)
    ranges: Mapping[str, tuple[int, int]] = field(repr=False)
    """Key of a storage -> where it lies in the file."""
    is_big_endian: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What the file says of tensors that are made of several."""

    @property
    def label(self) -> str:
        return str(self.path)

    def tensors(self) -> tuple[TensorInfo, ...]:
        return tuple(self.infos.values())

    def load(self, name: str) -> NDArray[Any]:
        tensor, begin = self._located(name)
        return self._whole(name, tensor, begin, numpy_dtype(tensor.dtype))

    def load_stored(self, name: str, begin: int, end: int) -> NDArray[Any]:
        tensor = self.values.get(name)
        dtype = None if tensor is None else _plain_dtype(tensor)
        if tensor is None or tensor.storage is None or dtype is None:
            raise ModelError(f"{self.path}: tensor {name!r}: {self.infos[name].refusal}")
        if not tensor.is_contiguous:
            first = self.ranges[tensor.storage.key][0] + tensor.offset
            return self._whole(name, tensor, first, dtype).reshape(-1)[begin:end]
        return self._span(name, tensor, begin, end, dtype)

    def _whole(self, name: str, tensor: StoredTensor, begin: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        import numpy as np
        from numpy.lib.stride_tricks import as_strided

        data = read_range(self.path, name, begin, begin + tensor.reach)
        values = self._decode(tensor, np.frombuffer(data, dtype=dtype))
        if not tensor.is_contiguous:
            steps = as_strided(values, tensor.shape, tensor.strides, writeable=False)
            values = np.ascontiguousarray(steps)
        return values.reshape(tensor.shape)

    def load_span(self, name: str, begin: int, end: int) -> NDArray[Any]:
        tensor, _ = self._located(name)
        if not tensor.is_contiguous:
            return self.load(name).reshape(-1)[begin:end]
        return self._span(name, tensor, begin, end, numpy_dtype(tensor.dtype))

    def _span(self, name: str, tensor: StoredTensor, begin: int, end: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        import numpy as np

        assert tensor.storage is not None, "whoever asks has seen to it"
        first, n_bytes = self.ranges[tensor.storage.key][0] + tensor.offset, tensor.itemsize
        data = read_range(self.path, name, first + begin * n_bytes, first + end * n_bytes)
        return self._decode(tensor, np.frombuffer(data, dtype=dtype))

    def stream(self, name: str) -> Iterator[memoryview] | None:
        tensor, begin = self._located(name)
        if self.is_big_endian or tensor.is_negative or not tensor.is_contiguous:
            return None
        return stream_range(self.path, name, begin, begin + tensor.reach)

    def load_all(self) -> dict[str, torch.Tensor]:
        """Return the tensors as torch's own; names that share their memory still share it."""
        import torch

        if self.is_big_endian:
            raise UnsupportedModelError(f"{self.path}: was written on a machine of another byte order")
        storages: dict[str, torch.Tensor] = {}
        found: dict[str, torch.Tensor] = {}
        for name, tensor in self.values.items():
            storage = tensor.storage
            if storage is None:
                raise UnsupportedModelError(f"{self.path}: tensor {name!r}: {tensor.refusal}")
            if storage.key not in storages:
                begin, _ = self.ranges[storage.key]
                data = read_range(self.path, name, begin, begin + storage.n_bytes)
                storages[storage.key] = torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0)
            whole = torch.empty(0, dtype=getattr(torch, tensor.dtype))
            steps = tuple(stride // tensor.itemsize for stride in tensor.strides)
            memory = storages[storage.key].untyped_storage()
            whole.set_(memory, tensor.offset // tensor.itemsize, tensor.shape, steps)
            found[name] = torch._neg_view(whole) if tensor.is_negative else whole  # noqa: SLF001 (no public way)
        return found

    def _located(self, name: str) -> tuple[StoredTensor, int]:
        """Return a tensor and the byte of the file at which it begins."""
        refusal = self.infos[name].refusal
        tensor = self.values.get(name)
        if tensor is None or tensor.storage is None or tensor.describe(name).refusal is not None:
            raise ModelError(f"{self.path}: tensor {name!r}: {refusal}")
        return tensor, self.ranges[tensor.storage.key][0] + tensor.offset

    def _decode(self, tensor: StoredTensor, values: NDArray[Any]) -> NDArray[Any]:
        if self.is_big_endian:
            values = values.byteswap()
        return -values if tensor.is_negative else values


def _plain_dtype(tensor: StoredTensor) -> np.dtype[Any] | None:
    """Return the type of numbers as numpy has them, also of those that are no weights as they stand, or None."""
    if tensor.dtype not in PLAIN_DTYPES or tensor.refusal is not None:
        return None
    return stored_dtype(tensor.dtype)


def open_torch_file(path: Path) -> TorchFile:
    """Open a file of ``torch.save`` or ``torch.jit.save``, without torch and without executing anything in it.

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    ModelError
        One of its subclasses: see :func:`spectral.loaders.torch_archive.read_archive`; and ``UnsupportedModelError``
        where it holds no tensors where a state dict is expected.
    """
    return weights_in(read_archive(path))


def weights_in(archive: TorchArchive) -> TorchFile:
    """Return the weights of an archive, with what lies beside them listed.

    Raises
    ------
    UnsupportedModelError
        It holds no tensors where a state dict is expected.
    CorruptCheckpointError
        Two tensors have one name.
    """
    path, content = archive.path, archive.content
    wrapped: dict[str, str] = {}
    tensors = name_tensors(path, content if archive.is_script else find_weights(path, content), wrapped)
    if not tensors:
        raise UnsupportedModelError(f"{path}: holds no tensors")
    source = replace(tensors_of(archive, tensors), metadata=wrapped)
    if not archive.is_script:
        mark_partitioned(content, source.infos)
        source.infos.update({info.name: info for info in list_outside(path, content, tensors)})
    return source


def tensors_of(archive: TorchArchive, tensors: Mapping[str, StoredTensor]) -> TorchFile:
    """Return chosen tensors of an archive under the given names."""
    return TorchFile(
        path=archive.path,
        infos=mark_ties({name: tensor.describe(name) for name, tensor in tensors.items()}, tensors),
        values=tensors,
        ranges=archive.ranges,
        is_big_endian=archive.is_big_endian,
    )
