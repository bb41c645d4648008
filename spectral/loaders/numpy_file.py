"""Read ``.npy`` and ``.npz`` files without pickle: arrays of numbers, one at a time.

An ``.npz`` file is a ZIP archive of ``.npy`` files. Entries that are not packed are read by byte range; packed ones are
unpacked when they are loaded, and never beyond the size that their header gives.
"""

from __future__ import annotations

import io
import math
import tokenize
import warnings
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

from spectral.errors import CorruptCheckpointError, ModelError, ModelNotFoundError
from spectral.loaders.byte_ranges import read_range, stream_range
from spectral.loaders.dtypes import why_not_float
from spectral.loaders.naming import natural_order
from spectral.loaders.protocol import TensorInfo, as_little_endian
from spectral.loaders.stored_zip import BadArchiveError, Entry, find_ranges, read_directory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

MAX_HEADER_BYTES = 1 << 16
"""numpy writes a hundred; a header of the second version may have more."""

_USUAL_HEADER_BYTES = 1 << 12
"""What is looked at first: more would be read in vain, over a network too."""

MAX_AXES = 64
_SUFFIX = ".npy"

_DAMAGE = (
    ValueError,
    EOFError,
    SyntaxError,
    RecursionError,
    MemoryError,
    TypeError,
    AttributeError,
    tokenize.TokenError,
)
"""What numpy hands on from Python's own parser when a header is damaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredArray:
    """One array as its header describes it.

    Attributes
    ----------
    dtype : numpy.dtype
        Type and byte order of the values in the file.
    shape : tuple of int
        Its shape.
    is_fortran : bool
        Whether the first axis varies fastest.
    begin, end : int
        Bytes of the file: of the values, or of the whole entry where that is packed.
    skipped : int
        Bytes of a packed entry before the values; -1 where the values stand in the file as they are.
    checksum : int
        CRC-32 of what is packed in an entry.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    is_fortran: bool
    begin: int
    end: int
    skipped: int = -1
    checksum: int = 0

    @property
    def n_bytes(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def is_plain(self) -> bool:
        """Whether the values stand in the file as an array has them in memory, little-endian and in C order."""
        is_flat = sum(length > 1 for length in self.shape) <= 1
        is_little = self.dtype.newbyteorder("<") == self.dtype
        return self.skipped < 0 and is_little and (is_flat or not self.is_fortran)


@dataclass(frozen=True, slots=True, kw_only=True)
class NumpyFile:
    """One ``.npy`` or ``.npz`` file."""

    path: Path
    infos: dict[str, TensorInfo] = field(repr=False)
    arrays: dict[str, StoredArray] = field(repr=False)

    @property
    def label(self) -> str:
        return str(self.path)

    def tensors(self) -> tuple[TensorInfo, ...]:
        return tuple(self.infos.values())

    def load(self, name: str) -> NDArray[Any]:
        return self._whole(name, self._require(name))

    def load_span(self, name: str, begin: int, end: int) -> NDArray[Any]:
        return self._span(name, self._require(name), begin, end)

    def load_stored(self, name: str, begin: int, end: int) -> NDArray[Any]:
        array = self.arrays[name]
        if array.dtype.hasobject or array.dtype.kind not in "fiub":
            raise ModelError(f"{self.path}: tensor {name!r}: {self.infos[name].refusal}")
        return self._span(name, array, begin, end)

    def stream(self, name: str) -> Iterator[memoryview] | None:
        array = self._require(name)
        return stream_range(self.path, name, array.begin, array.end) if array.is_plain else None

    def _whole(self, name: str, array: StoredArray) -> NDArray[Any]:
        import numpy as np

        data = read_range(self.path, name, array.begin, array.end)
        if array.skipped >= 0:
            data = self._unpack(name, bytes(data), array)
        values = np.frombuffer(data, dtype=array.dtype)
        order = values.reshape(array.shape[::-1]).T if array.is_fortran else values.reshape(array.shape)
        return as_little_endian(order)

    def _span(self, name: str, array: StoredArray, begin: int, end: int) -> NDArray[Any]:
        import numpy as np

        if not array.is_plain:
            return self._whole(name, array).reshape(-1)[begin:end]
        size = array.dtype.itemsize
        data = read_range(self.path, name, array.begin + begin * size, array.begin + end * size)
        return np.frombuffer(data, dtype=array.dtype)

    def _require(self, name: str) -> StoredArray:
        refusal = self.infos[name].refusal
        if refusal is not None:
            raise ModelError(f"{self.path}: tensor {name!r}: {refusal}")
        return self.arrays[name]

    def _unpack(self, name: str, packed: bytes, array: StoredArray) -> bytearray:
        try:
            unpacked = unpack(packed, array.skipped + array.n_bytes)
        except zlib.error as error:
            raise CorruptCheckpointError(f"{self.path}: tensor {name!r} cannot be unpacked: {error}") from error
        if len(unpacked) != array.skipped + array.n_bytes:
            raise CorruptCheckpointError(f"{self.path}: tensor {name!r} ends before its values do")
        if zlib.crc32(unpacked) != array.checksum:
            raise CorruptCheckpointError(f"{self.path}: tensor {name!r} is damaged: its checksum is another")
        return bytearray(unpacked[array.skipped :])


def open_npz(path: Path) -> NumpyFile:
    """Read the headers of all arrays of an ``.npz`` file.

    Raises
    ------
    ModelNotFoundError, CorruptCheckpointError, ModelError
        The file is missing, is no such archive, or contradicts itself.
    """
    try:
        entries = {
            name.removesuffix(_SUFFIX): entry for name, entry in read_directory(path).items() if name.endswith(_SUFFIX)
        }
        ranges = find_ranges(path, entries.values(), may_be_packed=True)
        with path.open("rb") as stream:
            arrays = {}
            for name in sorted(entries, key=natural_order):
                begin, end = ranges[entries[name].name]
                arrays[name] = _first_array(stream, entries[name], begin, end)
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"{path}: no such file") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    except (BadArchiveError, zlib.error) as error:
        raise CorruptCheckpointError(f"{path}: not a readable npz file ({error})") from error
    return _make_file(path, arrays)


def open_npy(path: Path) -> NumpyFile:
    """Read the header of an ``.npy`` file; its array is named as the file is.

    Raises
    ------
    ModelNotFoundError, CorruptCheckpointError, ModelError
        The file is missing, is no array, or shorter or longer than its header says.
    """
    try:
        n_file = path.stat().st_size
        with path.open("rb") as stream:
            head = stream.read(min(MAX_HEADER_BYTES, n_file))
        entry = Entry(name=path.name, size=n_file, packed_size=n_file, is_stored=True, header=0)
        array = _stored_array(head, entry, 0, n_file)
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"{path}: no such file") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    except BadArchiveError as error:
        raise CorruptCheckpointError(f"{path}: not a readable npy file ({error})") from error
    return _make_file(path, {path.stem: array})


def unpack(packed: bytes, most: int) -> bytes:
    """Return at most so many bytes of what was packed by deflate (RFC 1951)."""
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, most) if most else b""


def _first_array(stream: BinaryIO, entry: Entry, begin: int, end: int) -> StoredArray:
    """Return where the values of an entry are, from as few of its bytes as will do."""
    for n_bytes in (_USUAL_HEADER_BYTES, MAX_HEADER_BYTES):
        stream.seek(begin)
        try:
            return _stored_array(stream.read(min(n_bytes, end - begin)), entry, begin, end)
        except (BadArchiveError, zlib.error):
            if n_bytes == MAX_HEADER_BYTES or end - begin <= n_bytes:
                raise
    raise AssertionError("the last try returns or raises")


def _stored_array(head: bytes, entry: Entry, begin: int, end: int) -> StoredArray:
    """Return where the values of an entry are, from its first bytes."""
    start = head if entry.is_stored else unpack(head, min(MAX_HEADER_BYTES, entry.size))
    stream = io.BytesIO(start)
    shape, is_fortran, dtype = _read_header(stream, entry.name)
    n_header = stream.tell()
    n_bytes = math.prod(shape) * dtype.itemsize
    # The values of objects are a pickle, of any length; they are listed and never read.
    if not dtype.hasobject and n_header + n_bytes != entry.size:
        raise BadArchiveError(
            f"entry {entry.name[:100]!r} has {entry.size} bytes where its header announces {n_header + n_bytes}"
        )
    if entry.is_stored:
        return StoredArray(dtype=dtype, shape=shape, is_fortran=is_fortran, begin=begin + n_header, end=end)
    return StoredArray(
        dtype=dtype,
        shape=shape,
        is_fortran=is_fortran,
        begin=begin,
        end=end,
        skipped=n_header,
        checksum=entry.checksum,
    )


def _read_header(stream: io.BytesIO, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    from numpy.lib import format as numpy_format

    try:
        version = numpy_format.read_magic(stream)
        # The third version differs from the second in the encoding of field names alone, which no plain type has.
        read = numpy_format.read_array_header_1_0 if version == (1, 0) else numpy_format.read_array_header_2_0
        with warnings.catch_warnings():
            # That a header looks like one of Python 2 is of no interest.
            warnings.simplefilter("ignore")
            shape, is_fortran, dtype = read(stream)
    except _DAMAGE as error:
        text = " ".join(str(error).split())[:100]
        raise BadArchiveError(f"entry {name[:100]!r} has no header of an array: {text}") from error
    if len(shape) > MAX_AXES or any(not 0 <= length < 1 << 48 for length in shape):
        raise BadArchiveError(f"entry {name[:100]!r} has a shape that no array has")
    return shape, bool(is_fortran), dtype


def _make_file(path: Path, arrays: dict[str, StoredArray]) -> NumpyFile:
    infos = {
        name: TensorInfo(name=name, shape=array.shape, dtype=array.dtype.name[:40], refusal=_refusal(array.dtype))
        for name, array in arrays.items()
    }
    return NumpyFile(path=path, infos=infos, arrays=arrays)


def _refusal(dtype: np.dtype[Any]) -> str | None:
    if dtype.hasobject:
        return "holds Python objects, which are a pickle and not read"
    if dtype.kind not in "fiubc":
        return f"holds no numbers ({dtype.str[:20]})"
    return why_not_float(dtype.name)
