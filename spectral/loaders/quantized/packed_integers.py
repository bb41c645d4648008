"""Integers of a few bits packed along a row: the format ``pack-quantized`` of compressed-tensors.

``weight_packed`` holds int32 words, ``weight_shape`` the true shape, ``weight_scale`` (rows, groups), and where zero
is no level ``weight_zero_point``, packed along the rows. Codes are offset by half their range. In newer versions they
lie without a gap; before, as many as fit were put into each word (https://github.com/vllm-project/compressed-tensors).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spectral.loaders.protocol import Quantization, TensorInfo
from spectral.loaders.quantized.codes import as_bytes, unpack_bits

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from spectral.loaders.quantized.recipe import Reader
    from spectral.loaders.quantized.settings import Settings

_WORD_BITS = 32
_BITS = (4, 8, 3, 2, 1, 5, 6, 7)
"""Bits of a code, the common ones first: a few columns may take as many words by several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedIntegers:
    """One layer.

    Attributes
    ----------
    info : TensorInfo
        The weight.
    name : str
        What the names of its parts begin with.
    bits : int
        Of a code.
    is_dense : bool
        Whether codes may lie across two words.
    group_size : int
        Columns that share a scale.
    zeros : {None, "packed", "plain"}
        How zero points are stored.
    has_order : bool
        Whether ``weight_g_idx`` gives each column its group.
    beside : tuple of str
        Other parts: the shape.
    """

    info: TensorInfo
    name: str
    bits: int
    is_dense: bool
    group_size: int
    zeros: str | None
    has_order: bool
    beside: tuple[str, ...]

    @property
    def parts(self) -> Mapping[str, str]:
        found = {f"{self.name}_packed": "codes", f"{self.name}_scale": "scales"}
        found |= dict.fromkeys(self.beside, "shape")
        if self.zeros is not None:
            found[f"{self.name}_zero_point"] = "zero points"
        if self.has_order:
            found[f"{self.name}_g_idx"] = "groups"
        return found

    def slab(self, read: Reader, begin: int, end: int) -> NDArray[np.float32]:
        import numpy as np

        n_rows, *_, n_columns = self.info.shape
        offset = np.float32(1 << (self.bits - 1))
        values = self._unpack(read.rows(f"{self.name}_packed", begin, end), n_columns).astype(np.float32)
        values -= offset
        scales = read.floats(f"{self.name}_scale")
        scales = scales if scales.size == 1 else scales[begin:end]
        n_groups = scales.shape[-1]
        groups = None
        if self.has_order or n_groups > 1:
            groups = (
                read.whole(f"{self.name}_g_idx").astype(np.int64)
                if self.has_order
                else np.arange(n_columns) // self.group_size
            )
            is_known = (groups >= 0) & (groups < n_groups)
            groups = np.where(is_known, groups, 0)
        if self.zeros is not None:
            zeros = read.whole(f"{self.name}_zero_point")
            if self.zeros == "packed":
                # Along the rows: each column of the zero points is a row of codes.
                turned = np.moveaxis(zeros, -2, -1)
                zeros = np.moveaxis(self._unpack(turned, n_rows), -1, -2).astype(np.float32) - offset
            zeros = zeros.astype(np.float32)
            zeros = zeros if zeros.size == 1 else zeros[begin:end]
            values -= zeros if groups is None else zeros[..., groups]
        with np.errstate(over="ignore", invalid="ignore"):
            values *= scales if groups is None else scales[..., groups]
        if groups is not None:
            values[..., ~is_known] = np.nan
        return values

    def _unpack(self, words: NDArray[np.int32], n: int) -> NDArray[np.uint8]:
        if self.is_dense:
            return unpack_bits(as_bytes(words), self.bits, n)
        per_word = _WORD_BITS // self.bits
        each = unpack_bits(as_bytes(words).reshape(*words.shape, 4), self.bits, per_word)
        return each.reshape(*words.shape[:-1], -1)[..., :n]


def find(infos: Mapping[str, TensorInfo], settings: Settings, read: Reader) -> Iterator[PackedIntegers]:
    """Yield the layers of a checkpoint that are stored so; the shape of each is read, sixteen bytes."""
    for name, packed in infos.items():
        if not name.endswith("_packed") or packed.dtype != "int32" or len(packed.shape) != 2:
            continue
        made = _layer(name.removesuffix("_packed"), packed, infos, settings, read)
        if made is not None:
            yield made


def _layer(
    name: str, packed: TensorInfo, infos: Mapping[str, TensorInfo], settings: Settings, read: Reader
) -> PackedIntegers | None:
    scale, stored_shape = infos.get(f"{name}_scale"), infos.get(f"{name}_shape")
    if scale is None or stored_shape is None or not _fit(packed, scale, stored_shape):
        return None
    n_rows, n_words = packed.shape
    n_groups = scale.shape[-1] if len(scale.shape) == 2 else 1
    rows_said, n_columns = (int(length) for length in read.whole(stored_shape.name))
    packing = _packing(n_words, n_columns, settings)
    zeros, order = infos.get(f"{name}_zero_point"), infos.get(f"{name}_g_idx")
    if packing is None or rows_said != n_rows or n_groups > n_columns:
        return None
    bits, is_dense = packing
    n_packed = -(-n_rows * bits // _WORD_BITS) if is_dense else -(-n_rows // (_WORD_BITS // bits))
    are_packed = zeros is not None and zeros.dtype == "int32" and zeros.shape == (n_packed, n_groups)
    if (zeros is not None and not are_packed and zeros.shape != scale.shape) or (
        order is not None and (order.shape != (n_columns,) or "int" not in order.dtype)
    ):
        return None
    group_size = n_columns if n_groups == 1 else settings.group_size or -(-n_columns // n_groups)
    if -(-n_columns // group_size) != n_groups:
        group_size = -(-n_columns // n_groups)
    block = (n_rows if scale.n_values == 1 else 1, group_size)
    quantization = Quantization(
        scheme=f"compressed-tensors int{bits}", bits=bits, code="int", block=block, is_symmetric=zeros is None
    )
    return PackedIntegers(
        info=TensorInfo(name=name, shape=(n_rows, n_columns), dtype="float32", quantization=quantization),
        name=name,
        bits=bits,
        is_dense=is_dense,
        group_size=group_size,
        zeros=None if zeros is None else "packed" if are_packed else "plain",
        has_order=order is not None,
        beside=(stored_shape.name,),
    )


def _fit(packed: TensorInfo, scale: TensorInfo, shape: TensorInfo) -> bool:
    """Tell whether scales and the shape, by their own shapes and types, may belong to these codes."""
    n_rows, n_words = packed.shape
    by_row = len(scale.shape) == 2 and scale.shape[0] == n_rows and scale.shape[1] > 0
    are_scales = scale.dtype in ("float16", "bfloat16", "float32") and (by_row or scale.shape in {(1,), (1, 1), ()})
    return bool(n_rows and n_words and are_scales and shape.shape == (2,) and shape.dtype.startswith("int"))


def _packing(n_words: int, n_columns: int, settings: Settings) -> tuple[int, bool] | None:
    """Return (bits, whether codes lie without a gap) by which so many columns take so many words."""
    if not 0 < n_columns <= n_words * _WORD_BITS:
        return None
    fitting = [
        (bits, is_dense)
        for is_dense in (True, False)
        for bits in _BITS
        if n_words == (-(-n_columns * bits // _WORD_BITS) if is_dense else -(-n_columns // (_WORD_BITS // bits)))
    ]
    preferred = [packing for packing in fitting if packing[0] == settings.bits]
    return next(iter(preferred or fitting), None)
