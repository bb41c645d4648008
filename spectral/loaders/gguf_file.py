"""Read ``.gguf`` files, in one part or several: the header here, each tensor by its byte range.

Opening reads headers alone and needs no library, unless a tensor is quantised: then the package ``gguf`` must be
installed, which turns blocks into numbers when a tensor is loaded, some rows at a time. Axes are in the order of
numpy, (out, in). Tensors have the file's own names, and the values that the original model has
(:mod:`spectral.loaders.gguf_layout`); what they are called there is proposed by :attr:`GgufFile.original_names`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from spectral.errors import (
    CorruptCheckpointError,
    MissingDependencyError,
    ModelError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from spectral.loaders.byte_ranges import read_range, stream_range
from spectral.loaders.gguf_header import ORIGINAL_SHAPE, DescribedTensor, Header, Value, read_header
from spectral.loaders.gguf_layout import Change, Layout, layout_of, stores_transposed
from spectral.loaders.gguf_names import original_candidates
from spectral.loaders.gguf_types import KINDS, PIECE_VALUES, Kind, decode, needs_package
from spectral.loaders.inside import path_inside
from spectral.loaders.naming import natural_order
from spectral.loaders.protocol import TensorInfo

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

MAX_NOTED_AXES = 8

_PART = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf")
"""How llama.cpp names the parts of a split file; they count from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """Where a tensor is, and how it becomes what the original has.

    Attributes
    ----------
    path : Path
        The part that holds it.
    begin, end : int
        Its bytes.
    kind : Kind
        Its type.
    is_big_endian : bool
        Byte order of the part.
    change : Change, optional
        What must be taken back.
    """

    path: Path
    begin: int
    end: int
    kind: Kind
    is_big_endian: bool
    change: Change | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufFile:
    """A model in GGUF, opened by :func:`open_gguf`.

    Attributes
    ----------
    path : Path
        The file, or the first of its parts.
    architecture : str
        The family as llama.cpp calls it, for example ``llama``; empty where the file does not say.
    """

    path: Path
    architecture: str
    infos: dict[str, TensorInfo] = field(repr=False)
    stored: dict[str, StoredTensor] = field(repr=False)

    @property
    def label(self) -> str:
        return str(self.path)

    @property
    def original_names(self) -> dict[str, tuple[str, ...]]:
        """What each tensor may be called in the original, the likeliest first: :mod:`spectral.loaders.gguf_names`."""
        return {name: original_candidates(self.architecture, name) for name in self.infos}

    @property
    def transposed_names(self) -> frozenset[str]:
        """The matrices that the original stores the other way round, (in, out): GPT-2's own kind of layer."""
        return frozenset(name for name in self.infos if stores_transposed(self.architecture, name))

    def tensors(self) -> tuple[TensorInfo, ...]:
        return tuple(self.infos.values())

    def load(self, name: str) -> NDArray[Any]:
        import numpy as np

        info, stored = self._require(name)
        change = stored.change
        if not stored.kind.is_quantized and (change is None or not change.moves_rows):
            # A single array, as it is in the file.
            return self._values(name, stored, 0, info.n_values).reshape(info.shape)
        values = np.empty(info.n_values, dtype=self._dtype(info))
        if change is not None and change.moves_rows:
            rows = values.reshape(info.shape[0], -1)
            order = change.row_order(info.shape[0])
            step = max(1, PIECE_VALUES // max(1, rows.shape[1]))
            for first in range(0, len(rows), step):
                places = order[first : first + step]
                begin, end = first * rows.shape[1], (first + len(places)) * rows.shape[1]
                rows[places] = self._values(name, stored, begin, end).reshape(len(places), -1)
        else:
            for begin in range(0, info.n_values, PIECE_VALUES):
                end = min(begin + PIECE_VALUES, info.n_values)
                values[begin:end] = self._values(name, stored, begin, end)
        return values.reshape(info.shape)

    def load_span(self, name: str, begin: int, end: int) -> NDArray[Any]:
        import numpy as np

        info, stored = self._require(name)
        if stored.change is not None and stored.change.moves_rows:
            return self.load(name).reshape(-1)[begin:end]
        values = np.empty(max(0, end - begin), dtype=self._dtype(info))
        for first in range(begin, end, PIECE_VALUES):
            last = min(first + PIECE_VALUES, end)
            values[first - begin : last - begin] = self._values(name, stored, first, last)
        return values

    def stream(self, name: str) -> Iterator[memoryview] | None:
        info, stored = self._require(name)
        if stored.change is not None and stored.change.moves_rows:
            return None
        if stored.kind.is_quantized or stored.change is not None or stored.is_big_endian:
            return self._pieces(info, stored)
        return stream_range(stored.path, name, stored.begin, stored.end)

    def _pieces(self, info: TensorInfo, stored: StoredTensor) -> Iterator[memoryview]:
        for begin in range(0, info.n_values, PIECE_VALUES):
            end = min(begin + PIECE_VALUES, info.n_values)
            yield memoryview(self._values(info.name, stored, begin, end).tobytes())

    def _require(self, name: str) -> tuple[TensorInfo, StoredTensor]:
        info = self.infos[name]
        if info.refusal is not None:
            raise ModelError(f"{self.path}: tensor {name!r}: {info.refusal}")
        return info, self.stored[name]

    @staticmethod
    def _dtype(info: TensorInfo) -> Any:
        from spectral.loaders.dtypes import numpy_dtype

        return numpy_dtype(info.dtype)

    def _values(self, name: str, stored: StoredTensor, begin: int, end: int) -> NDArray[Any]:
        """Return the original's values for those between two flat positions of the file."""
        kind = stored.kind
        first, last = begin // kind.n_values, -(-end // kind.n_values)
        n_before = stored.begin + first * kind.n_bytes
        data = read_range(stored.path, name, n_before, stored.begin + last * kind.n_bytes)
        try:
            values = decode(kind, data, is_big_endian=stored.is_big_endian)
        except ModelError as error:
            raise type(error)(f"{self.path}: tensor {name!r}: {error}") from error
        skipped = first * kind.n_values
        values = values[begin - skipped : end - skipped]
        return values if stored.change is None else stored.change.take_back(values)


def open_gguf(path: Path) -> GgufFile:
    """Read and check the header of a ``.gguf`` file, and of the other parts where it is the first of several.

    Parameters
    ----------
    path : Path
        The file, or the first part.

    Raises
    ------
    ModelNotFoundError
        It is not there, or a part is missing.
    CorruptCheckpointError
        A header contradicts itself, its file, or the other parts; the message says where.
    UnsafeCheckpointError
        A part is a link that leaves the folder.
    UnsupportedModelError
        A version that is not read, or a part that is not the first.
    MissingDependencyError
        A tensor is quantised and the package gguf is not installed.
    """
    first = _read(path)
    headers = {path: first, **_other_parts(path, first)}
    architecture = first.values.get("general.architecture", "")
    architecture = architecture if isinstance(architecture, str) else ""
    infos: dict[str, TensorInfo] = {}
    stored: dict[str, StoredTensor] = {}
    for part, header in headers.items():
        ends = _check_layout(part, header)
        for tensor in header.tensors:
            if tensor.name in infos:
                raise CorruptCheckpointError(
                    f"{path}: the tensor {tensor.name[:200]!r} is in two parts, "
                    f"{stored[tensor.name].path.name} and {part.name}"
                )
            kind, layout = _kind(tensor.kind), _layout(architecture, tensor, first.values)
            infos[tensor.name] = _describe(tensor, kind, layout, is_big_endian=header.is_big_endian)
            stored[tensor.name] = StoredTensor(
                path=part,
                begin=header.data_begin + tensor.offset,
                end=ends[tensor.name],
                kind=kind,
                is_big_endian=header.is_big_endian,
                change=layout.change,
            )
    _require_package(path, infos, stored)
    names = sorted(infos, key=natural_order)
    return GgufFile(path=path, architecture=architecture, infos={name: infos[name] for name in names}, stored=stored)


def _read(path: Path) -> Header:
    try:
        n_file = path.stat().st_size
        with path.open("rb") as stream:
            return read_header(path, stream, n_file)
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"{path}: no such file") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error


def _other_parts(path: Path, first: Header) -> dict[Path, Header]:
    """Return the parts after the first, where there are several, and demand that all is there."""
    count, number = _number(first, "split.count"), _number(first, "split.no")
    if count <= 1:
        return {}
    found = _PART.fullmatch(path.name)
    if found is None or int(found["count"]) != count:
        raise UnsupportedModelError(
            f"{path}: is part {number + 1} of {count}, and the others are not to be found: its name must end in "
            f"-{number + 1:05d}-of-{count:05d}.gguf"
        )
    names = [f"{found['stem']}-{index + 1:05d}-of-{count:05d}.gguf" for index in range(count)]
    if number != 0 or path.name != names[0]:
        raise UnsupportedModelError(f"{path}: is part {number + 1} of {count}: name the first, {names[0]}")
    parts: dict[Path, Header] = {}
    for index, name in enumerate(names[1:], start=1):
        part = path_inside(path.parent, path, name)
        header = _read(part)
        if (_number(header, "split.no"), _number(header, "split.count")) != (index, count):
            raise CorruptCheckpointError(
                f"{part}: says that it is part {_number(header, 'split.no') + 1} of {_number(header, 'split.count')}, "
                f"and its name that it is part {index + 1} of {count}"
            )
        parts[part] = header
    n_tensors = sum(len(header.tensors) for header in (first, *parts.values()))
    announced = _number(first, "split.tensors.count")
    if "split.tensors.count" in first.values and announced != n_tensors:
        raise CorruptCheckpointError(f"{path}: announces {announced} tensors in {count} parts, which hold {n_tensors}")
    return parts


def _number(header: Header, key: str) -> int:
    value = header.values.get(key, 0)
    return value if isinstance(value, int) else -1


def _check_layout(path: Path, header: Header) -> dict[str, int]:
    """Demand that the tensors tile the data but for padding, as ggml does, and return where each ends in the file.

    Of a type whose sizes are not known, a tensor ends where the next one begins.
    """
    ends: dict[str, int] = {}
    begin, alignment = header.data_begin, header.alignment
    ordered = sorted(header.tensors, key=lambda tensor: (tensor.offset, math.prod(tensor.shape) > 0))
    following = [*(begin + tensor.offset for tensor in ordered), header.n_file][1:]
    position = begin
    for tensor, after in zip(ordered, following, strict=True):
        where = f"{path}: tensor {tensor.name[:200]!r}"
        first = begin + tensor.offset
        if tensor.offset % alignment:
            raise CorruptCheckpointError(f"{where} at byte {first} is not aligned to {alignment} bytes")
        n_bytes = _n_bytes(where, tensor)
        end = max(first, after) if n_bytes is None else first + n_bytes
        if end > header.n_file:
            raise CorruptCheckpointError(
                f"{where} ends at byte {end}, outside the file of {header.n_file} bytes "
                "(truncated, or a damaged header)"
            )
        if first < position or first - position >= alignment:
            problem = "overlaps the tensor before it" if first < position else "leaves a hole before it"
            raise CorruptCheckpointError(f"{where} at byte {first} {problem} (byte {position})")
        ends[tensor.name] = position = end
    if ordered and header.n_file - position > alignment:
        raise CorruptCheckpointError(f"{path}: {header.n_file - position} bytes follow the last tensor")
    return ends


def _n_bytes(where: str, tensor: DescribedTensor) -> int | None:
    """Return how many bytes a tensor takes, or None where its type is not known."""
    kind = KINDS.get(tensor.kind)
    if kind is None:
        return None
    if kind.n_values > 1 and (not tensor.shape or tensor.shape[-1] % kind.n_values):
        raise CorruptCheckpointError(
            f"{where}: its shape {tensor.shape} is not made of blocks of {kind.n_values} values, as {kind.name} is"
        )
    return math.prod(tensor.shape) // kind.n_values * kind.n_bytes


def _layout(architecture: str, tensor: DescribedTensor, values: Mapping[str, Value]) -> Layout:
    """Return how to read a tensor: in the shape that image models note where ggml could not store it, or in its own."""
    noted = values.get(ORIGINAL_SHAPE + tensor.name)
    is_shape = isinstance(noted, tuple) and len(noted) <= MAX_NOTED_AXES and min(noted, default=0) > 0
    if not isinstance(noted, tuple) or not is_shape or math.prod(noted) != math.prod(tensor.shape):
        noted = tensor.shape
    return layout_of(architecture, tensor.name, noted, values)


def _describe(tensor: DescribedTensor, kind: Kind, layout: Layout, *, is_big_endian: bool) -> TensorInfo:
    refusal = kind.refusal
    if is_big_endian and kind.is_quantized and kind.swapped is None:
        refusal = f"how {kind.name} lies in a big-endian file is not settled: nothing writes it"
    quantization = kind.quantization(len(tensor.shape))
    if quantization is not None and layout.shape != tensor.shape:
        quantization = replace(quantization, block=None)
    return TensorInfo(
        name=tensor.name,
        shape=layout.shape,
        dtype=kind.dtype,
        role=layout.role,
        refusal=refusal,
        parts=layout.parts,
        quantization=quantization,
    )


def _kind(number: int) -> Kind:
    return KINDS.get(number) or Kind(
        number=number,
        name=f"number {number}",
        n_values=1,
        n_bytes=1,
        refusal=f"its element type has the number {number}, which the package gguf does not know",
    )


def _require_package(path: Path, infos: Mapping[str, TensorInfo], stored: Mapping[str, StoredTensor]) -> None:
    """Say at once, and once, that the package is missing: not in every layer."""
    kinds = [stored[name].kind for name, info in infos.items() if info.refusal is None]
    names = sorted({kind.name for kind in kinds if kind.is_quantized})
    if names and find_spec("gguf") is None:
        raise MissingDependencyError(f"{path}: {needs_package(', '.join(names))}")
