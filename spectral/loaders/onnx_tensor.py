"""The values of a tensor in an ONNX file: where they lie, in which of the many ways, and how they are read.

``TensorProto`` (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto) holds values as raw bytes, as lists of numbers
in a field for their type, or in another file. Types of less than a byte are packed from the lowest bit on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from spectral.errors import CorruptCheckpointError
from spectral.loaders.byte_ranges import PIECE_BYTES, read_range
from spectral.loaders.dtypes import numpy_dtype
from spectral.loaders.onnx_proto import DATA_FIELDS, RAW_DATA, TensorProto
from spectral.loaders.protobuf_wire import FIXED32, VARINT, WireError, read_varints

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

ELEMENT_TYPES: dict[int, tuple[str, int, int]] = {
    1: ("float32", 32, 4),
    2: ("uint8", 8, 5),
    3: ("int8", 8, 5),
    4: ("uint16", 16, 5),
    5: ("int16", 16, 5),
    6: ("int32", 32, 5),
    7: ("int64", 64, 7),
    9: ("bool", 8, 5),
    10: ("float16", 16, 5),
    11: ("float64", 64, 10),
    12: ("uint32", 32, 11),
    13: ("uint64", 64, 11),
    14: ("complex64", 64, 4),
    15: ("complex128", 128, 10),
    16: ("bfloat16", 16, 5),
    17: ("float8_e4m3fn", 8, 5),
    18: ("float8_e4m3fnuz", 8, 5),
    19: ("float8_e5m2", 8, 5),
    20: ("float8_e5m2fnuz", 8, 5),
    21: ("uint4", 4, 5),
    22: ("int4", 4, 5),
    23: ("float4_e2m1fn", 4, 5),
    24: ("float8_e8m0fnu", 8, 5),
    25: ("uint2", 2, 5),
    26: ("int2", 2, 5),
    27: ("float6_e2m3fn", 6, 5),
    28: ("float6_e3m2fn", 6, 5),
}
"""Number of the type -> (our name, bits of a value, the field that holds a list of them)."""

STRING = 8
_COMPLEX = (14, 15)

_BIT_FLOATS: dict[str, tuple[int, int]] = {
    "float4_e2m1fn": (2, 1),
    "float6_e2m3fn": (2, 3),
    "float6_e3m2fn": (3, 2),
}
"""Small floats without infinity and NaN (OCP Microscaling Formats 1.0, section 5.3) -> bits of exponent, mantissa."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredValues:
    """The values of one tensor.

    Attributes
    ----------
    path : Path
        The file that holds them.
    shape : tuple of int
        Shape of the tensor.
    dtype : str
        Element type.
    bits : int
        Bits of a value.
    number : int
        Number of the field of the message that holds them; :data:`RAW_DATA` where they stand as in memory.
    pieces : tuple of (begin, end, is_tagged)
        Where they are in the file.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: str
    bits: int
    number: int
    pieces: tuple[tuple[int, int, bool], ...] = field(repr=False)

    @property
    def n_values(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def is_raw(self) -> bool:
        """Whether the values stand in one piece, each in its own bits."""
        return not self.pieces or (len(self.pieces) == 1 and not self.pieces[0][2] and self._is_as_in_memory)

    @property
    def _is_as_in_memory(self) -> bool:
        return self.number == RAW_DATA or (DATA_FIELDS[self.number] != VARINT and self.dtype in ("float32", "float64"))

    @property
    def byte_range(self) -> tuple[int, int]:
        """First byte of values that are raw, and the one behind the last."""
        return self.pieces[0][:2] if self.pieces else (0, 0)

    def read(self, name: str, begin: int = 0, end: int | None = None, *, as_bytes: int = 0) -> NDArray[Any]:
        """Return values from one flat position to another, one-dimensional.

        Those of less than a byte come as int8, uint8 or float32; others in their own type.

        Parameters
        ----------
        name : str
            What to call the tensor in messages.
        begin, end : int
            Flat positions.
        as_bytes : int
            Take the bytes as codes of so many bits instead, and positions as theirs.

        Raises
        ------
        ModelError, CorruptCheckpointError
            The file cannot be read, or the values are not what its header announced.
        """
        bits = as_bytes or self.bits
        end = self.n_values * self.bits // bits if end is None else end
        if not self.is_raw:
            values = self._decode(name)
            return unpack_bits(values, bits)[begin:end] if as_bytes else values[begin:end]
        # Values of less than a byte begin with one only in groups: of two, or of four.
        group = max(1, {6: 4}.get(bits, 8 // bits))
        aligned = begin // group * group
        first, _ = self.byte_range
        data = read_range(self.path, name, first + aligned * bits // 8, first + -(-end * bits // 8))
        values = unpack_bits(_bytes_of(data), bits) if as_bytes else self._from_bytes(data)
        return values[begin - aligned : end - aligned]

    def _from_bytes(self, data: bytearray) -> NDArray[Any]:
        import numpy as np

        if self.bits >= 8:
            return np.frombuffer(data, dtype=array_dtype(self.dtype))
        codes = unpack_bits(_bytes_of(data), self.bits)
        if self.dtype.startswith("float"):
            return decode_small_float(codes, self.dtype)
        if self.dtype.startswith("uint"):
            return codes
        half = 1 << (self.bits - 1)
        signed: NDArray[Any] = (codes ^ np.uint8(half)).view(np.int8) - np.int8(half)
        return signed

    def _decode(self, name: str) -> NDArray[Any]:
        """Return all values of a list of numbers."""
        import numpy as np

        per_entry = 8 // self.bits if self.bits in (2, 4) else 1
        n_entries = -(-self.n_values // per_entry)
        try:
            if self.number == RAW_DATA:
                raise WireError("raw values in several pieces")
            is_varint = DATA_FIELDS[self.number] == VARINT
            entries = self._varints(name, n_entries) if is_varint else self._fixed(name)
        except WireError as error:
            raise CorruptCheckpointError(f"{self.path}: tensor {name[:200]!r}: {error}") from error
        if self.dtype.startswith("complex"):
            entries = entries.view(self.dtype)
        if entries.size != n_entries:
            raise CorruptCheckpointError(
                f"{self.path}: tensor {name[:200]!r}: {entries.size} numbers in the file, {n_entries} by its shape"
            )
        if self.bits >= 8:
            return entries
        if self.bits == 6:
            return decode_small_float(entries & np.uint8(0x3F), self.dtype)
        return self._from_bytes(bytearray(entries.tobytes()))[: self.n_values]

    def _fixed(self, name: str) -> NDArray[Any]:
        """Return float_data or double_data."""
        import numpy as np

        n_bytes = 4 if DATA_FIELDS[self.number] == FIXED32 else 8
        arrays = []
        for begin, end, is_tagged in self.pieces:
            data = np.frombuffer(read_range(self.path, name, begin, end), dtype=np.uint8)
            if is_tagged:
                data = np.ascontiguousarray(data.reshape(-1, 1 + n_bytes)[:, 1:]).reshape(-1)
            if data.size % n_bytes:
                raise WireError("its list of numbers ends within one")
            arrays.append(data.view("<f4" if n_bytes == 4 else "<f8"))
        return np.concatenate(arrays)

    def _varints(self, name: str, most: int) -> NDArray[Any]:
        """Return int32_data, int64_data or uint64_data, of each number the bits that the type has."""
        import numpy as np

        n_bytes = max(8, self.bits) // 8
        values = np.empty(most, dtype=f"<u{n_bytes}")
        n_read = 0
        for piece in self.pieces:
            for numbers in self._pieces_of(name, piece):
                if n_read + numbers.size > most:
                    raise WireError(f"more than {most} numbers in the file, {most} by its shape")
                values[n_read : n_read + numbers.size] = numbers.astype(values.dtype)  # the low bits of each
                n_read += numbers.size
        whole = values[:n_read]
        return whole.view(array_dtype(self.dtype)) if self.bits >= 8 else whole

    def _pieces_of(self, name: str, piece: tuple[int, int, bool]) -> Iterator[NDArray[Any]]:
        begin, end, is_tagged = piece
        while begin < end:
            data = bytes(read_range(self.path, name, begin, min(end, begin + PIECE_BYTES)))
            n_whole = len(data) if begin + len(data) == end else _until_number_ends(data, is_tagged=is_tagged)
            yield read_varints(data[:n_whole], is_tagged=is_tagged)
            begin += n_whole


def array_dtype(name: str) -> np.dtype[Any]:
    """Return the numpy dtype of a type of a byte or more."""
    import numpy as np

    if name.startswith(("float", "bfloat")):
        return numpy_dtype(name)
    return np.dtype(name).newbyteorder("<")


def unpack_bits(data: NDArray[Any], bits: int) -> NDArray[Any]:
    """Return codes of 2, 4, 6 or 8 bits, packed from the lowest bit of each byte on, as uint8."""
    import numpy as np

    if bits == 8:
        return data
    if bits == 6:
        flags = np.unpackbits(data, bitorder="little")
        sixths: NDArray[Any] = flags[: flags.size // 6 * 6].reshape(-1, 6) @ np.array([1, 2, 4, 8, 16, 32], np.uint8)
        return sixths
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    codes: NDArray[Any] = (data[:, np.newaxis] >> shifts) & np.uint8((1 << bits) - 1)
    return codes.reshape(-1)


def decode_small_float(codes: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Return the values of floats of four or six bits, as float32."""
    import numpy as np

    n_exponent, n_mantissa = _BIT_FLOATS[dtype]
    half = 1 << (n_exponent + n_mantissa)
    bias = (1 << (n_exponent - 1)) - 1
    levels = []
    for code in range(half):
        exponent, mantissa = code >> n_mantissa, code & ((1 << n_mantissa) - 1)
        fraction = mantissa / (1 << n_mantissa)
        levels.append(2.0 ** (1 - bias) * fraction if exponent == 0 else 2.0 ** (exponent - bias) * (1 + fraction))
    table = np.array([*levels, *(-level for level in levels)], dtype=np.float32)
    values: NDArray[Any] = table[codes]
    return values


def n_bytes_of(shape: tuple[int, ...], bits: int) -> int:
    """Return how many bytes raw values take."""
    return (math.prod(shape) * bits + 7) // 8


def why_wrong_size(tensor: TensorProto, bits: int, list_field: int) -> str | None:
    """Return why the values of a tensor in the file itself cannot be all and only those of its shape."""
    n_values = math.prod(tensor.dims)
    n_held = sum(end - begin for begin, end, _ in tensor.pieces)
    if tensor.field == 0:
        return None if n_values == 0 else f"{n_values} values by its shape, none in the file"
    if tensor.field == RAW_DATA:
        n_expected = n_bytes_of(tensor.dims, bits)
        return None if n_held == n_expected else f"{n_expected} bytes by its shape, {n_held} in the file"
    if tensor.field != list_field:
        return f"its values are in field {tensor.field}, those of its type belong in field {list_field}"
    per_entry = 8 // bits if bits in (2, 4) else 1
    n_entries = -(-n_values // per_entry) * (2 if tensor.data_type in _COMPLEX else 1)
    wire = DATA_FIELDS[tensor.field]
    n_tagged = sum(end - begin for begin, end, is_tagged in tensor.pieces if is_tagged)
    if wire == VARINT:
        # A number takes one to ten bytes, and one more with its tag.
        if not n_entries <= n_held <= n_entries * (11 if n_tagged else 10):
            return f"{n_entries} numbers by its shape, {n_held} bytes in the file"
        return None
    n_number = 4 if wire == FIXED32 else 8
    n_found = n_tagged / (n_number + 1) + (n_held - n_tagged) / n_number
    return None if n_found == n_entries else f"{n_entries} numbers by its shape, {n_held} bytes in the file"


def _bytes_of(data: bytearray) -> NDArray[Any]:
    import numpy as np

    return np.frombuffer(data, dtype=np.uint8)


def _until_number_ends(data: bytes, *, is_tagged: bool) -> int:
    """Return how many bytes hold whole numbers, and where they have tags, a number for each."""
    import numpy as np

    ends = np.flatnonzero(np.frombuffer(data, dtype=np.uint8) < 0x80)
    n = ends.size - (ends.size % 2 if is_tagged else 0)
    if n == 0:
        raise WireError("a number that does not end")
    return int(ends[n - 1]) + 1
