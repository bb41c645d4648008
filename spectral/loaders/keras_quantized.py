"""Quantised weights of Keras layers: what they compute with, in files and in memory.

Keras 3 quantises Dense, EinsumDense and Embedding. int8 and int4 divide by a scale per output (per row of an
embedding); int4 with blocks, GPTQ and AWQ subtract a zero point and multiply by a scale per block; float8 rounds a
stored float kernel whenever it is used (keras/src/layers/core, quantizers/quantizers.py of Keras 3.15).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from spectral.loaders.dtypes import numpy_dtype
from spectral.loaders.keras_layers import KerasLayer, equation_axes
from spectral.loaders.protocol import Quantization, TensorInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

_WEIGHTS = ("kernel", "embeddings", "reverse_embeddings")
_FLOAT8 = "float8_e4m3fn"
_FLOAT8_MAX = 448.0
_ROWS_AT_ONCE = 1 << 18
"""Values that are unpacked at a time."""

_FLOATS = ("float32", "float16", "bfloat16")

_ROLES = (
    ("_scale", "the scales of {}"),
    ("_zero", "the zero points of {}"),
    ("g_idx", "the blocks of {}"),
    ("awq_scales", "the scales of {}"),
    ("_amax_history", "the state of float8 training of {}"),
)


class UnknownCodesError(ValueError):
    """What is stored does not say what a weight is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KerasWeight:
    """A quantised weight as a recipe on the variables of its layer.

    Attributes
    ----------
    kind : {"divided", "blocks", "transposed", "float8"}
        Codes divided by scales; blocks along the rows of a matrix; the same of the transposed matrix; rounding.
    codes, scale : str
        Names of the variables.
    zero, blocks, divisor : str, optional
        Zero points, number of the block of each row, and what rows are divided by at last (AWQ).
    matrix : (int, int)
        Shape of the unpacked codes, as a matrix of the kernel (not its transpose).
    shape : tuple of int
        Shape of the weight.
    axes : tuple of int
        Of divided codes: the shape that scales have beside the weight's.
    order : tuple of int
        Of divided codes: how the axes of scales, those of length one aside, come in the order of the weight's.
    is_packed : bool
        Whether two codes share a byte.
    is_signed : bool
        Whether codes go from -8.
    by_rows : bool
        Whether blocks run along the columns, as in an embedding.
    dtype : str
        Type of the result.
    """

    kind: str
    codes: str
    scale: str
    zero: str | None = None
    blocks: str | None = None
    divisor: str | None = None
    matrix: tuple[int, int] = (0, 0)
    shape: tuple[int, ...]
    axes: tuple[int, ...] = ()
    order: tuple[int, ...] = ()
    is_packed: bool = False
    is_signed: bool = True
    by_rows: bool = False
    dtype: str = "float32"

    def compute(self, read: Callable[[str], NDArray[Any]]) -> NDArray[Any]:
        """Return the weight, from variables by name; a damaged scale makes infinities, as it does in Keras."""
        import numpy as np

        with np.errstate(all="ignore"):
            return self._compute(read)

    def _compute(self, read: Callable[[str], NDArray[Any]]) -> NDArray[Any]:
        codes, scale = read(self.codes), read(self.scale)
        dtype = numpy_dtype(self.dtype)
        if self.kind == "float8":
            return _round_to_float8(codes.astype(dtype, copy=False), scale.astype(dtype))
        if self.kind == "divided":
            return self._divided(codes, scale.astype(dtype))
        return self._blocks(codes, scale.astype(dtype), read)

    def _divided(self, codes: NDArray[Any], scale: NDArray[Any]) -> NDArray[Any]:
        import numpy as np

        lengths = tuple(self.axes[axis] for axis in self.order)
        back = np.argsort(np.asarray(self.order, dtype=np.intp)) if self.order else ()
        scale = scale.reshape(lengths).transpose(back) if self.order else scale
        scale = scale.reshape(self.axes) if self.axes else scale
        if not self.is_packed:
            values = codes.astype(scale.dtype)
            values /= scale
            return values
        n_rows, n_columns = self.matrix
        values = np.empty(self.matrix, dtype=scale.dtype)
        beside = np.broadcast_to(scale, self.matrix)
        for begin, end in self._steps(n_rows, n_columns):
            values[begin:end] = unpack_int4(codes[begin:end], n_columns, is_signed=self.is_signed)
            values[begin:end] /= beside[begin:end]
        return values.reshape(self.shape)

    def _blocks(self, codes: NDArray[Any], scale: NDArray[Any], read: Callable[[str], NDArray[Any]]) -> NDArray[Any]:
        import numpy as np

        assert self.zero is not None
        zero = read(self.zero).astype(scale.dtype)
        n_rows, n_columns = self.matrix
        n_blocks = scale.shape[-1] if self.kind == "transposed" or self.by_rows else scale.shape[0]
        n_along = n_columns if self.by_rows else n_rows
        groups = np.zeros(n_along, dtype=np.intp)
        if self.blocks is not None:
            # A number that is no block would be an index outside the scales.
            groups = np.clip(np.nan_to_num(read(self.blocks).astype(np.float64)), 0, n_blocks - 1).astype(np.intp)
        if self.kind == "transposed":
            return self._transposed(codes, scale, zero, groups, read)
        values = np.empty(self.matrix, dtype=scale.dtype)
        for begin, end in self._steps(n_rows, n_columns):
            part = unpack_int4(codes[begin:end], n_columns, is_signed=True).astype(scale.dtype)
            if self.by_rows:
                part -= zero[begin:end][:, groups]
                part *= scale[begin:end][:, groups]
            else:
                part -= zero[groups[begin:end]]
                part *= scale[groups[begin:end]]
            values[begin:end] = part
        return values.reshape(self.shape)

    def _transposed(
        self,
        codes: NDArray[Any],
        scale: NDArray[Any],
        zero: NDArray[Any],
        groups: NDArray[Any],
        read: Callable[[str], NDArray[Any]],
    ) -> NDArray[Any]:
        import numpy as np

        n_rows, n_columns = self.matrix
        values = np.empty(self.matrix, dtype=scale.dtype)
        for begin, end in self._steps(n_columns, n_rows, even=True):
            stored = codes[begin // 2 : -(-end // 2)] if self.is_packed else codes[begin:end]
            part = unpack_int4(stored.T, end - begin, is_signed=False).T if self.is_packed else stored
            part = part.astype(scale.dtype)
            part -= zero[begin:end][:, groups]
            part *= scale[begin:end][:, groups]
            values[:, begin:end] = part.T
        if self.divisor is not None:
            values /= read(self.divisor).astype(scale.dtype)[:, None]
        return values.reshape(self.shape)

    def _steps(self, n: int, n_each: int, *, even: bool = False) -> list[tuple[int, int]]:
        step = max(1, _ROWS_AT_ONCE // max(1, n_each))
        step += step % 2 if even else 0
        return [(begin, min(n, begin + step)) for begin in range(0, n, step)]


def unpack_int4(packed: NDArray[Any], n: int, *, is_signed: bool) -> NDArray[Any]:
    """Return the codes of a matrix whose last axis has two of them in each byte, the lower half first."""
    import numpy as np

    data = np.ascontiguousarray(packed).view(np.uint8)
    codes = np.empty((len(data), 2 * data.shape[1]), dtype=np.int8)
    codes[:, ::2] = data & 15
    codes[:, 1::2] = data >> 4
    if is_signed:
        codes ^= 8
        codes -= 8
    return codes[:, :n]


def _round_to_float8(values: NDArray[Any], scale: NDArray[Any]) -> NDArray[Any]:
    import ml_dtypes
    import numpy as np

    most = values.dtype.type(_FLOAT8_MAX)
    scaled = values / scale
    np.clip(scaled, -most, most, out=scaled)
    rounded: NDArray[Any] = scaled.astype(ml_dtypes.float8_e4m3fn).astype(values.dtype)
    rounded *= scale
    return rounded


def dequantized(
    layer: KerasLayer, infos: Mapping[str, TensorInfo]
) -> tuple[dict[str, TensorInfo], dict[str, KerasWeight]]:
    """Return the headers of a layer's variables with quantised ones as they are read, and the recipes.

    Parameters
    ----------
    layer : KerasLayer
        The layer.
    infos : mapping of str to TensorInfo
        Its own variables, by what the layer calls them.
    """
    found: dict[str, TensorInfo] = dict(infos)
    recipes: dict[str, KerasWeight] = {}
    for weight in _WEIGHTS:
        if weight not in infos or f"{weight}_scale" not in infos:
            continue
        try:
            recipes[weight], quantization = _plan(layer, weight, infos)
        except UnknownCodesError as error:
            found[weight] = replace(infos[weight], refusal=str(error))
        else:
            found[weight] = replace(
                infos[weight],
                shape=recipes[weight].shape,
                dtype=recipes[weight].dtype,
                refusal=None,
                quantization=quantization,
            )
        name = infos[weight].name
        for other in infos:
            reason = _role(other, weight, infos)
            if reason is not None:
                found[other] = replace(infos[other], refusal=reason.format(name), counted_in=name)
    return found, recipes


def _role(other: str, weight: str, infos: Mapping[str, TensorInfo]) -> str | None:
    is_own = other in (f"{weight}_scale", f"{weight}_zero")
    is_of_all = other in ("g_idx", "awq_scales", "zero_point") or other.endswith("_amax_history")
    is_float8 = other in ("inputs_scale", "outputs_grad_scale") and "kernel_amax_history" in infos
    if is_float8:
        return "the state of float8 training of {}"
    if not is_own and not (is_of_all and weight != "reverse_embeddings"):
        return None
    return next((text for ending, text in _ROLES if other.endswith(ending)), "the zero points of {}")


def _plan(layer: KerasLayer, weight: str, infos: Mapping[str, TensorInfo]) -> tuple[KerasWeight, Quantization]:
    codes, scale = infos[weight], infos[f"{weight}_scale"]
    zero = next((name for name in (f"{weight}_zero", "zero_point") if name in infos), None)
    dtype = scale.dtype if scale.dtype in _FLOATS else "float32"
    if scale.dtype not in (*_FLOATS, "float64"):
        raise UnknownCodesError(f"its scales are no floats ({scale.dtype})")
    if codes.dtype in _FLOATS and scale.shape == ():
        recipe = KerasWeight(
            kind="float8", codes=weight, scale=scale_name(weight), shape=codes.shape, dtype=codes.dtype
        )
        return recipe, Quantization(scheme="keras float8", bits=8, code=_FLOAT8, block=codes.shape)
    if codes.dtype == "uint8" and zero is None:
        raise UnknownCodesError("its zero points are missing: Keras 3.15 leaves them out of files of GPTQ and AWQ")
    if codes.dtype == "uint8" and len(codes.shape) == 2 and zero is not None:
        return _plan_transposed(layer, weight, infos, zero, dtype)
    if codes.dtype != "int8":
        raise UnknownCodesError(f"quantised in a way that is not known ({codes.dtype})")
    if zero is not None:
        return _plan_blocks(layer, weight, infos, zero, dtype)
    return _plan_divided(layer, weight, infos, dtype)


def scale_name(weight: str) -> str:
    """Return what a layer calls the scales of a weight."""
    return f"{weight}_scale"


def _plan_divided(
    layer: KerasLayer, weight: str, infos: Mapping[str, TensorInfo], dtype: str
) -> tuple[KerasWeight, Quantization]:
    codes, scale = infos[weight], infos[scale_name(weight)]
    n_scales = math.prod(scale.shape)
    if weight == "embeddings":
        n_rows, n_stored = codes.shape if len(codes.shape) == 2 else (0, 0)
        is_packed = layer.mode == "int4"
        n_columns = layer.n_outputs if is_packed and layer.n_outputs else 2 * n_stored if is_packed else n_stored
        if (
            layer.mode not in ("int8", "int4")
            or scale.shape != (n_rows,)
            or (is_packed and -(-n_columns // 2) != n_stored)
        ):
            raise UnknownCodesError("int8 or packed int4: the file does not say which")
        return _divided(weight, dtype, (n_rows, n_columns), (n_rows, n_columns), (n_rows, 1), is_packed=is_packed)
    if weight == "reverse_embeddings":
        if layer.mode != "int8" or scale.shape != codes.shape[1:]:
            raise UnknownCodesError("an output embedding packed along its rows, which is not read")
        return _divided(weight, dtype, codes.shape, codes.shape, (1, codes.shape[1]), is_packed=False)
    n_letters = len(equation_axes(layer.equation)[1]) if layer.equation is not None else 0
    if layer.mode != "int4" and n_letters == len(codes.shape):
        return _plan_einsum(layer, weight, codes, n_scales, dtype)
    n_rows, n_stored = codes.shape if len(codes.shape) == 2 else (0, 0)
    if layer.class_name == "einsumdense" and layer.equation is None and n_rows == n_stored:
        raise UnknownCodesError("of its two axes, of one length, the file does not say which one the scales are of")
    if layer.mode != "int4" and n_scales == n_stored:
        return _divided(weight, dtype, codes.shape, codes.shape, (1, n_stored), is_packed=False)
    if -(-n_scales // 2) == n_stored:
        shape = _kernel_shape(layer, n_rows, n_scales)
        return _divided(weight, dtype, (n_rows, n_scales), shape, (1, n_scales), is_packed=True)
    raise UnknownCodesError(f"its {n_scales} scales fit neither int8 nor int4 codes of shape {codes.shape}")


def _divided(
    weight: str, dtype: str, matrix: tuple[int, ...], shape: tuple[int, ...], axes: tuple[int, ...], *, is_packed: bool
) -> tuple[KerasWeight, Quantization]:
    bits = 4 if is_packed else 8
    recipe = KerasWeight(
        kind="divided", codes=weight, scale=scale_name(weight), matrix=(matrix[0], matrix[1]), shape=shape, axes=axes,
        is_packed=is_packed, dtype=dtype,
    )  # fmt: skip
    block = tuple(1 if scales > 1 else n for scales, n in zip(axes, matrix, strict=True)) if shape == matrix else None
    return recipe, Quantization(scheme=f"keras int{bits}", bits=bits, code="int", block=block)


def _plan_einsum(
    layer: KerasLayer, weight: str, codes: TensorInfo, n_scales: int, dtype: str
) -> tuple[KerasWeight, Quantization]:
    """Scales stand in the order of the output's axes: they are divided into what comes out."""
    _, kernel, output = equation_axes(layer.equation or "")
    kept = [axis for axis, letter in enumerate(kernel) if letter in output]
    if len(kernel) != len(codes.shape) or math.prod(codes.shape[axis] for axis in kept) != n_scales:
        raise UnknownCodesError(f"its {n_scales} scales do not fit the equation {layer.equation!r}")
    axes = tuple(n if axis in kept else 1 for axis, n in enumerate(codes.shape))
    order = (
        *sorted(kept, key=lambda axis: output.index(kernel[axis])),
        *(axis for axis in range(len(axes)) if axis not in kept),
    )
    recipe = KerasWeight(
        kind="divided", codes=weight, scale=scale_name(weight), shape=codes.shape, axes=axes, order=order, dtype=dtype
    )
    block = tuple(1 if axis in kept else n for axis, n in enumerate(codes.shape))
    return recipe, Quantization(scheme="keras int8", bits=8, code="int", block=block)


def _plan_blocks(
    layer: KerasLayer, weight: str, infos: Mapping[str, TensorInfo], zero: str, dtype: str
) -> tuple[KerasWeight, Quantization]:
    codes, scale = infos[weight], infos[scale_name(weight)]
    blocks = infos.get("g_idx")
    if len(codes.shape) != 2 or len(scale.shape) != 2 or infos[zero].shape != scale.shape or blocks is None:
        raise UnknownCodesError("its scales and zero points do not belong together")
    if weight == "reverse_embeddings":
        raise UnknownCodesError("an output embedding packed along its rows, which is not read")
    is_embedding = weight == "embeddings"
    n_rows, n_stored = codes.shape
    n_columns = blocks.n_values if is_embedding else scale.shape[1]
    n_along = n_columns if is_embedding else n_rows
    if -(-n_columns // 2) != n_stored or blocks.shape != (n_along,) or (is_embedding and scale.shape[0] != n_rows):
        raise UnknownCodesError(f"its scales of shape {scale.shape} do not fit codes of shape {codes.shape}")
    shape = (n_rows, n_columns) if is_embedding else _kernel_shape(layer, n_rows, n_columns)
    recipe = KerasWeight(
        kind="blocks", codes=weight, scale=scale_name(weight), zero=zero, blocks="g_idx", matrix=(n_rows, n_columns),
        shape=shape, is_packed=True, by_rows=is_embedding, dtype=dtype,
    )  # fmt: skip
    n_block = -(-n_along // max(1, scale.shape[1] if is_embedding else scale.shape[0]))
    block = ((1, n_block) if is_embedding else (n_block, 1)) if len(shape) == 2 else None
    return recipe, Quantization(scheme="keras int4", bits=4, code="int", block=block, is_symmetric=False)


def _plan_transposed(
    layer: KerasLayer, weight: str, infos: Mapping[str, TensorInfo], zero: str, dtype: str
) -> tuple[KerasWeight, Quantization]:
    codes, scale, blocks = infos[weight], infos[scale_name(weight)], infos.get("g_idx")
    divisor = "awq_scales" if "awq_scales" in infos else None
    n_stored, n_rows = codes.shape
    if len(scale.shape) != 2 or infos[zero].shape != scale.shape or scale.shape[1] < 1:
        raise UnknownCodesError("its scales and zero points do not belong together")
    n_columns = scale.shape[0]
    is_packed = n_stored != n_columns
    if (is_packed and -(-n_columns // 2) != n_stored) or (blocks is not None and blocks.shape != (n_rows,)):
        raise UnknownCodesError(f"its scales of shape {scale.shape} do not fit codes of shape {codes.shape}")
    if divisor is not None and infos[divisor].shape != (n_rows,):
        raise UnknownCodesError("its scales per input do not fit")
    shape = _kernel_shape(layer, n_rows, n_columns)
    recipe = KerasWeight(
        kind="transposed", codes=weight, scale=scale_name(weight), zero=zero, blocks="g_idx" if blocks else None,
        divisor=divisor, matrix=(n_rows, n_columns), shape=shape, is_packed=is_packed, is_signed=False, dtype=dtype,
    )  # fmt: skip
    scheme = "awq" if divisor else "gptq"
    bits = 4 if is_packed else 8
    block = (-(-n_rows // scale.shape[1]), 1) if len(shape) == 2 and divisor is None else None
    return recipe, Quantization(scheme=f"keras {scheme}", bits=bits, code="int", block=block, is_symmetric=False)


def _kernel_shape(layer: KerasLayer, n_rows: int, n_columns: int) -> tuple[int, ...]:
    """Return the shape of a kernel that is stored as a matrix; the matrix's own where nothing tells it."""
    n_all = n_rows * n_columns
    shape = layer.kernel_shape or ()
    known = math.prod(length for length in shape if length > 0)
    if -1 in shape and known and n_all % known == 0:
        shape = tuple(n_all // known if length < 0 else length for length in shape)
    return shape if shape and -1 not in shape and math.prod(shape) == n_all else (n_rows, n_columns)
