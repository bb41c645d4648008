"""What the pickle in a file of ``torch.save`` or ``torch.jit.save`` may say, and the tensors that it describes.

The names are those that torch itself allows in a file that is loaded with ``weights_only=True``, those of
:mod:`spectral.loaders.inert_names`, and no others; none of them is looked up. A tensor is a storage (an entry of the
archive), an offset, a shape and strides.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from spectral.loaders.dtypes import CODED, why_not_float
from spectral.loaders.inert_names import INERT
from spectral.loaders.pickle_machine import (
    ForbiddenPickleError,
    MalformedPickleError,
    Name,
    Opaque,
    Record,
    checked_key,
)
from spectral.loaders.protocol import TensorInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_AXES = 64

ITEM_BYTES = {
    **dict.fromkeys(("float64", "int64", "uint64", "complex64"), 8),
    **dict.fromkeys(("float32", "int32", "uint32", "qint32", "complex32"), 4),
    **dict.fromkeys(("float16", "bfloat16", "int16", "uint16", "bits16"), 2),
    **dict.fromkeys(("int8", "uint8", "bool", "qint8", "quint8", "quint4x2", "quint2x4"), 1),
    **dict.fromkeys(("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"), 1),
    **dict.fromkeys(("float4_e2m1fn_x2", "bits8", "bits1x8", "bits2x4", "bits4x2"), 1),
    **{f"{sign}int{bits}": 1 for sign in ("", "u") for bits in range(1, 8)},
    "complex128": 16,
}
"""torch's element types -> bytes of a value, or of what holds several."""

_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
    "QUInt8Storage": "quint8",
    "QInt8Storage": "qint8",
    "QInt32Storage": "qint32",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
}
"""Classes of storages in files -> their element type."""

_SCRIPT = "__torch__"
_SCRIPT_CLASS = re.compile(rf"{_SCRIPT}(\.|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """Values in a row that tensors are cut from.

    Attributes
    ----------
    key : str
        Its entry in the archive is named so.
    dtype : str or None
        Its element type; None where every tensor brings its own.
    n_bytes : int
        Its length.
    """

    key: str
    dtype: str | None
    n_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """One tensor as the pickle describes it.

    Attributes
    ----------
    dtype : str
        torch's name of the element type.
    shape, strides : tuple of int
        Strides in bytes, as numpy has them.
    storage : Storage or None
        None where there are no values to read.
    offset : int
        Byte of the storage at which the first value stands.
    is_negative : bool
        Whether the values are those of the storage with the other sign.
    refusal : str or None
        Why it cannot be analysed, whatever its type.
    """

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...] = ()
    storage: Storage | None = field(default=None, repr=False)
    offset: int = 0
    is_negative: bool = False
    refusal: str | None = None

    @property
    def n_values(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return ITEM_BYTES[self.dtype]

    @property
    def reach(self) -> int:
        """Bytes of the storage from the first value to behind the last."""
        if self.n_values == 0:
            return 0
        steps = ((length - 1) * stride for length, stride in zip(self.shape, self.strides, strict=True))
        return sum(steps) + self.itemsize

    @property
    def is_contiguous(self) -> bool:
        """Whether the values stand in the storage one after the other, in C order."""
        expected = self.itemsize
        for length, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if length != 1 and stride != expected:
                return False
            expected *= length
        return True

    def describe(self, name: str) -> TensorInfo:
        """Return the tensor as a header."""
        refusal = self.refusal or why_not_float(self.dtype)
        if refusal is None and self.storage is not None and self.n_values * self.itemsize > self.storage.n_bytes:
            # A few bytes of a file can claim terabytes this way.
            refusal = "an expanded view: it repeats values that are stored once"
        return TensorInfo(name=name, shape=self.shape, dtype=self.dtype, refusal=refusal)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapped:
    """A tensor of torchao, which is made of others.

    Attributes
    ----------
    kind : str
        Its class.
    parts : dict of str to StoredTensor
        Codes, scales, zero points.
    target_dtype : str, optional
        The type of codes that are kept in a wider one.
    """

    kind: str
    parts: dict[str, StoredTensor]
    target_dtype: str | None = None

    @property
    def description(self) -> str:
        """What torchao writes of it into the header of a safetensors file, as far as it is needed."""
        target = {"_type": "torch.dtype", "_data": self.target_dtype}
        return json.dumps({"_type": self.kind, "_data": {"target_dtype": target} if self.target_dtype else {}})


class TorchVocabulary:
    """What a file of torch may say.

    Parameters
    ----------
    sizes : mapping of str to int
        Key of a storage -> bytes of its entry in the archive.
    is_script : bool
        Whether the file is one of ``torch.jit.save``, which names the classes of its own code.
    """

    def __init__(self, sizes: Mapping[str, int], *, is_script: bool = False) -> None:
        self._sizes = sizes
        self._is_script = is_script

    def knows(self, name: Name) -> bool:
        """Tell whether a name is among torch's own, or a class of a script."""
        if self._is_script and _SCRIPT_CLASS.match(name.module):
            return True
        return (name.module, name.name) in _KNOWN or dtype_of(name) is not None or _is_storage(name)

    def call(self, name: Name, arguments: tuple[Any, ...]) -> Any:
        """Return the value or the tensor that a call stands for."""
        if self._is_script and _SCRIPT_CLASS.match(name.module):
            return {}
        call = _KNOWN.get((name.module, name.name))
        if call is None:
            raise ForbiddenPickleError(f"it calls {name}", name=str(name))
        try:
            return call(*arguments)
        except TypeError as error:
            raise MalformedPickleError(f"a call of {name} with other arguments than it takes") from error

    def persistent(self, reference: Any) -> Storage:
        """Return the storage of a reference ("storage", class, key, location, number of values)."""
        if type(reference) is not tuple or len(reference) != 5 or reference[0] != "storage":
            raise MalformedPickleError("a reference to what is no storage")
        _, kind, key, _, n_values = reference
        if type(kind) is not Name or not _is_storage(kind) or type(key) is not str or type(n_values) is not int:
            raise MalformedPickleError("a reference to what is no storage")
        dtype = _STORAGES.get(kind.name)
        n_bytes = n_values * (1 if dtype is None else ITEM_BYTES[dtype])
        if key not in self._sizes:
            raise MalformedPickleError(f"the storage {key[:100]!r} is not in the archive")
        if not 0 <= n_bytes <= self._sizes[key]:
            raise MalformedPickleError(
                f"the storage {key[:100]!r} has {self._sizes[key]} bytes where its tensors need {n_bytes}"
            )
        return Storage(key=key, dtype=dtype, n_bytes=n_bytes)

    def set_state(self, value: Any, state: Any) -> None:
        """Give an object of a script its attributes; those of a dictionary of torch's are of no interest."""
        if self._is_script and type(value) is dict:
            # What is no dictionary comes from a __getstate__ of the script's own.
            value.update(state if type(state) is dict else {"state": state})
        elif type(value) is Record:
            value.state = state
        elif type(value) not in (dict, Opaque):
            raise ForbiddenPickleError("a state for what takes none")


def _is_storage(name: Name) -> bool:
    if name.name in ("UntypedStorage", "TypedStorage"):
        return name.module in ("torch", "torch.storage")
    return name.module in ("torch", "torch.cuda") and name.name in _STORAGES


def dtype_of(name: Name) -> str | None:
    """Return torch's name of the element type that a name stands for, or None where it is none."""
    return name.name if name.module == "torch" and name.name in ITEM_BYTES else None


def _tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, *, dtype: str | None = None, metadata: Any = None
) -> StoredTensor:
    if type(storage) is not Storage:
        raise MalformedPickleError("a tensor without a storage")
    dtype = dtype or storage.dtype
    if dtype is None:
        raise MalformedPickleError("a tensor without a type")
    lengths, steps = _counts(shape), _counts(strides)
    if len(lengths) != len(steps) or type(offset) is not int or offset < 0:
        raise MalformedPickleError("a tensor whose shape and strides do not fit")
    itemsize = ITEM_BYTES[dtype]
    is_negative, is_conjugate = (type(metadata) is dict and bool(metadata.get(key)) for key in ("neg", "conj"))
    tensor = StoredTensor(
        dtype=dtype,
        shape=lengths,
        strides=tuple(step * itemsize for step in steps),
        storage=storage,
        offset=offset * itemsize,
        is_negative=is_negative,
        refusal="complex values are not analysed (conjugate)" if is_conjugate else None,
    )
    if tensor.offset + tensor.reach > storage.n_bytes:
        raise MalformedPickleError(
            f"a tensor that ends at byte {tensor.offset + tensor.reach} of a storage of {storage.n_bytes}"
        )
    return tensor


def _counts(values: Any) -> tuple[int, ...]:
    if type(values) is not tuple or len(values) > MAX_AXES or any(type(value) is not int for value in values):
        raise MalformedPickleError("a shape that is none")
    if any(not 0 <= value < 1 << 63 for value in values):
        raise MalformedPickleError("a shape with a length that no tensor has")
    return values


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> StoredTensor:
    return _tensor(storage, offset, shape, strides)


def _rebuild_tensor_v2(
    storage: Any, offset: Any, shape: Any, strides: Any, _gradient: Any, _hooks: Any, metadata: Any = None
) -> StoredTensor:
    return _tensor(storage, offset, shape, strides, metadata=metadata)


def _rebuild_tensor_v3(storage: Any, offset: Any, shape: Any, strides: Any, *others: Any) -> StoredTensor:
    # Whether it has a gradient, hooks, its type, and perhaps metadata.
    kind, metadata = (*others, None)[2:4] if len(others) in (3, 4) else (None, None)
    dtype = dtype_of(kind) if type(kind) is Name else None
    if dtype is None:
        raise MalformedPickleError("a tensor of an unknown type")
    return _tensor(storage, offset, shape, strides, dtype=dtype, metadata=metadata)


def _rebuild_parameter(tensor: Any, _gradient: Any, _hooks: Any, _state: Any = None) -> StoredTensor:
    if type(tensor) is not StoredTensor:
        raise MalformedPickleError("a parameter that is no tensor")
    return tensor


def _rebuild_quantised(
    storage: Any, offset: Any, shape: Any, strides: Any, _quantizer: Any, _gradient: Any, _hooks: Any
) -> StoredTensor:
    tensor = _tensor(storage, offset, shape, strides)
    return _without_values(tensor.dtype, shape, CODED.format(dtype=tensor.dtype))


def _rebuild_sparse(layout: Any, data: Any) -> StoredTensor:
    kind = layout.state if type(layout) is Opaque and layout.kind == "layout" else "unknown"
    parts = data if type(data) is tuple else ()
    values = next((part for part in reversed(parts) if type(part) is StoredTensor), None)
    shape = next((part for part in parts if type(part) is tuple), None)
    if values is None or shape is None:
        raise MalformedPickleError("a sparse tensor without values and shape")
    return _without_values(values.dtype, shape, f"sparse storage is not read ({kind})")


def _rebuild_without_storage(kind: Any, shape: Any, _strides: Any, _gradient: Any) -> StoredTensor:
    dtype = dtype_of(kind) if type(kind) is Name else None
    if dtype is None:
        raise MalformedPickleError("a tensor of an unknown type")
    return _without_values(dtype, shape, "the tensor is on the meta device: it has no values")


def _without_values(dtype: str, shape: Any, refusal: str) -> StoredTensor:
    lengths = _counts(shape)
    return StoredTensor(dtype=dtype, shape=lengths, strides=(0,) * len(lengths), refusal=refusal)


def _rebuild_from_type(function: Any, kind: Any, arguments: Any, state: Any) -> StoredTensor | Wrapped:
    """Return the tensor of a subclass that is one of torch's own, and adds nothing to the values."""
    call = _KNOWN.get((function.module, function.name)) if type(function) is Name else None
    if call is _rebuild_wrapper and type(kind) is Name and (kind.module, kind.name) in _WRAPPERS:
        return _wrapped(kind.name, state)
    if call is None or type(kind) is not Name or (kind.module, kind.name) not in _TENSOR_CLASSES:
        raise ForbiddenPickleError("a tensor of a class of its own")
    tensor = call(*arguments) if type(arguments) is tuple else None
    if type(tensor) is not StoredTensor:
        raise MalformedPickleError("a tensor that is none")
    return tensor


def _rebuild_wrapper(*_: Any) -> Any:
    raise ForbiddenPickleError("a tensor of a class of its own")


def _wrapped(kind: str, state: Any) -> Wrapped:
    """Return the tensors that one of torchao's is made of."""
    # A state of an object with slots is a pair.
    attributes = state[0] if type(state) is tuple and state else state
    if type(attributes) is not dict:
        raise MalformedPickleError("a tensor without parts")
    target = attributes.get("target_dtype")
    parts = {key: part for key, part in attributes.items() if type(key) is str and type(part) is StoredTensor}
    return Wrapped(kind=kind, parts=parts, target_dtype=dtype_of(target) if type(target) is Name else None)


def _dictionary(pairs: Any = ()) -> dict[Any, Any]:
    items = pairs.items() if type(pairs) is dict else pairs
    found: dict[Any, Any] = {}
    if type(items) not in (list, tuple, type({}.items())):
        raise MalformedPickleError("a dictionary of what are no pairs")
    for item in items:
        if type(item) not in (list, tuple) or len(item) != 2:
            raise MalformedPickleError("a dictionary of what are no pairs")
        found[checked_key(item[0])] = item[1]
    return found


def _encode(text: Any, encoding: Any = "utf-8") -> bytes:
    if type(text) is not str or encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise MalformedPickleError("bytes of no text")
    return text.encode("latin-1" if encoding != "utf-8" else "utf-8", "replace")


def _size(values: Any = ()) -> tuple[Any, ...]:
    if type(values) not in (list, tuple):
        raise MalformedPickleError("a size of no numbers")
    return tuple(values)


def _opaque(kind: str) -> Callable[..., Opaque]:
    return lambda *arguments: Opaque(kind, arguments[0] if arguments and type(arguments[0]) is str else None)


def _class(*_: Any) -> Any:
    raise ForbiddenPickleError("an object of a class that is only named in files")


def _script_list(values: Any = ()) -> list[Any]:
    return list(values) if type(values) in (list, tuple) else []


def _script_tagged(value: Any, _kind: Any) -> Any:
    return value


_TENSOR_CLASSES: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch", "Tensor"): _class,
    ("torch._tensor", "Tensor"): _class,
    ("torch.nn.parameter", "Parameter"): _class,
    ("torch.nn.parameter", "Buffer"): _class,
}

_WRAPPERS = frozenset(
    ("torchao.quantization", name) for name in ("Int8Tensor", "IntxUnpackedToInt8Tensor", "Float8Tensor", "Int4Tensor")
)
"""Tensors of torchao that say with plain tensors what they are."""

_TORCHAO_OPTIONS = (
    ("torchao.quantization.quantize_.common.kernel_preference", "KernelPreference"),
    ("torchao.quantization.quant_primitives", "MappingType"),
    ("torchao.float8.inference", "Float8MMConfig"),
)
"""Options of theirs, which say nothing of the values."""

_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    **INERT,
    **_TENSOR_CLASSES,
    ("collections", "OrderedDict"): _dictionary,
    ("collections", "Counter"): _dictionary,
    ("builtins", "set"): _opaque("set"),
    ("__builtin__", "set"): _opaque("set"),
    # How the second protocol writes that there are no bytes.
    ("builtins", "bytes"): _opaque("bytes"),
    ("__builtin__", "bytes"): _opaque("bytes"),
    ("builtins", "bytearray"): _opaque("bytearray"),
    ("__builtin__", "bytearray"): _opaque("bytearray"),
    ("builtins", "complex"): _opaque("complex"),
    ("__builtin__", "complex"): _opaque("complex"),
    ("_codecs", "encode"): _encode,
    ("torch", "Size"): _size,
    ("torch", "device"): _opaque("device"),
    ("torch.serialization", "_get_layout"): _opaque("layout"),
    ("torch", "per_tensor_affine"): _class,
    ("torch", "per_tensor_symmetric"): _class,
    ("torch", "per_channel_affine"): _class,
    ("torch", "per_channel_symmetric"): _class,
    ("torch", "per_channel_affine_float_qparams"): _class,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor_v2,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_tensor_v3,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
    ("torch._utils", "_rebuild_qtensor"): _rebuild_quantised,
    ("torch._utils", "_rebuild_sparse_tensor"): _rebuild_sparse,
    ("torch._utils", "_rebuild_meta_tensor_no_storage"): _rebuild_without_storage,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
    ("torch._utils", "_rebuild_wrapper_subclass"): _rebuild_wrapper,
    **dict.fromkeys(_WRAPPERS, _class),
    **{name: _opaque(name[1]) for name in _TORCHAO_OPTIONS},
    ("torch.jit._pickle", "build_intlist"): _script_list,
    ("torch.jit._pickle", "build_doublelist"): _script_list,
    ("torch.jit._pickle", "build_boollist"): _script_list,
    ("torch.jit._pickle", "build_tensorlist"): _script_list,
    ("torch.jit._pickle", "build_tensor_from_id"): _class,
    ("torch.jit._pickle", "restore_type_tag"): _script_tagged,
}
"""Names that a file may hold, and what a call of them stands for."""
