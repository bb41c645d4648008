"""The operators of onnxruntime whose weights are packed in blocks: MatMulNBits and its kin.

Layouts are those of https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md: codes of a row follow
one another from the lowest bit of each byte on, and so do its zero points, which fill their last byte.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from spectral.loaders.dtypes import FLOAT_DTYPES
from spectral.loaders.onnx_dequantize import Factor, Recipe
from spectral.loaders.protocol import Quantization

if TYPE_CHECKING:
    from collections.abc import Callable

    from spectral.loaders.onnx_graph import Use
    from spectral.loaders.onnx_proto import Node
    from spectral.loaders.onnx_tensor import StoredValues

    Inputs = Callable[[Node, int], tuple[str, StoredValues] | None]

BLOCK_OPERATORS = frozenset(
    {("MatMulNBits", 1), ("MatMulNBitsMlp", 3), ("MatMulNBitsMlp", 6), ("MatMulBnb4", 1), ("GatherBlockQuantized", 0)}
    | {("MatMulNBitsQkv", 3), ("MatMulNBitsQkv", 6), ("MatMulNBitsQkv", 9), ("QMoE", 2), ("QMoE", 5), ("QMoE", 8)}
)
"""Operator and the input that holds the codes."""

_BITS = (2, 4, 8)
"""Widths whose packing a kernel of onnxruntime shows; of three bits there is none to compare with."""

_NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""NormalFloat with four bits (Dettmers et al. 2023, arXiv 2305.14314, appendix E)."""

_FP4_POSITIVE = (0.0, 5.208333333e-03, 0.6666666667, 1.0, 0.3333333333, 0.5, 0.1666666667, 0.25)
_FP4 = (*_FP4_POSITIVE, *(-level for level in _FP4_POSITIVE))
"""Four-bit floats of bitsandbytes, scaled so that the largest is 1."""

_DEFAULT_BITS = 4
_DEFAULT_BLOCK = 128


def block_recipe(name: str, stored: StoredValues, use: Use, inputs: Inputs) -> Recipe | str:
    """Return how the weight of a block operator is dequantised, or why that is not known.

    Parameters
    ----------
    name : str
        The tensor that holds the codes.
    stored : StoredValues
        Its header.
    use : Use
        The operator, and which of its inputs the tensor is.
    inputs : callable
        Gives the tensor that goes into a node at some place, or None.
    """
    if use.node.op_type == "QMoE":
        return _experts(name, stored, use, inputs)
    if use.node.op_type == "GatherBlockQuantized":
        return _gathered(name, stored, use.node, inputs)
    if use.node.op_type == "MatMulBnb4":
        return _bitsandbytes(name, stored, use.node, inputs)
    return _matmul(name, stored, use, inputs)


def _matmul(  # noqa: PLR0911 (each return is another reason)
    name: str, stored: StoredValues, use: Use, inputs: Inputs
) -> Recipe | str:
    node = use.node
    bits, block = node.number("bits", _DEFAULT_BITS), node.number("block_size")
    n_in = node.number("K")
    n_out = node.number("N")
    if node.op_type == "MatMulNBitsQkv":
        n_out = node.number("Nq" if use.place == 3 else "Nkv")
    if node.number("weight_prepacked") != 0:
        return "its codes are packed for one kind of device"
    if bits not in _BITS:
        return f"codes of {bits} bits, whose packing is not known"
    if block < 1 or block * bits % 8 or n_in < 1 or n_out < 1:
        return "its sizes do not fit each other"
    n_blocks = -(-n_in // block)
    if stored.dtype != "uint8" or stored.n_values * 8 != n_out * n_blocks * block * bits:
        return f"{stored.n_values} bytes of codes do not fit {n_out} x {n_in} of {bits} bits"
    grid, blocks = (n_out, n_blocks), (1, block)
    scale = inputs(node, use.place + 1)
    if scale is None or scale[1].n_values != n_out * n_blocks:
        return "its scales are computed, or do not fit"
    zero: Factor | None = None
    # The fused operators have no zero points.
    has_extras = node.op_type == "MatMulNBits"
    if has_extras and len(node.inputs) > 3 and node.inputs[3]:
        found = _zero_points(inputs(node, 3), grid, blocks, bits)
        if isinstance(found, str):
            return found
        zero = found
    has_index = has_extras and len(node.inputs) > 4 and bool(node.inputs[4])
    index = inputs(node, 4) if has_index else None
    fits = index is not None and index[1].dtype in ("int32", "int64") and index[1].n_values >= n_in
    if has_index and not fits:
        return "its groups are computed, or do not fit"
    place = index[0] if index is not None else ""
    return Recipe(
        codes=name,
        shape=(n_out, n_in),
        view=(n_out, n_in),
        dtype="float32",
        scales=(Factor(tensor=scale[0], grid=grid, block=blocks, index=place),),
        zero=None if zero is None else replace(zero, index=place),
        zero_value=1 << (bits - 1),
        code_bits=bits,
        n_stored=n_blocks * block,
        quantization=_integers(bits, blocks if not place else None, is_symmetric=zero is None),
    )


def _zero_points(
    found: tuple[str, StoredValues] | None, grid: tuple[int, ...], blocks: tuple[int, ...], bits: int
) -> Factor | str:
    """Read zero points: packed as the codes are, each row to whole bytes, or one float for each block."""
    if found is None:
        return "its zero points are computed, not stored"
    name, stored = found
    if stored.dtype in FLOAT_DTYPES and stored.n_values == math.prod(grid):
        return Factor(tensor=name, grid=grid, block=blocks)
    n_bytes = -(-grid[-1] * bits // 8)
    if stored.dtype != "uint8" or stored.n_values != math.prod(grid[:-1]) * n_bytes:
        return f"its zero points have the shape {stored.shape}, which does not fit"
    return Factor(tensor=name, grid=grid, block=blocks, bits=bits, n_stored=n_bytes * 8 // bits)


def _gathered(name: str, stored: StoredValues, node: Node, inputs: Inputs) -> Recipe | str:
    """Read an embedding: rows of codes, in their own type or several in a byte."""
    scale, zero = inputs(node, 2), inputs(node, 3)
    n_axes = len(stored.shape)
    block = node.number("block_size", _DEFAULT_BLOCK)
    axis = node.number("quantize_axis", 1)
    if scale is None or not -n_axes <= axis < n_axes:
        return "its scales are computed, not stored"
    is_bytes = stored.dtype == "uint8"
    bits = node.number("bits", _DEFAULT_BITS) if is_bytes else stored.bits
    if bits not in _BITS:
        return f"codes of {bits} bits, whose packing is not known"
    is_float = stored.dtype.startswith("float")
    shape = (*stored.shape[:-1], stored.shape[-1] * 8 // bits) if is_bytes else stored.shape
    axis %= n_axes
    block = block or shape[axis]
    whole = tuple(-(-length // block) if place == axis else length for place, length in enumerate(shape))
    grid = scale[1].shape
    if (
        len(grid) != n_axes
        or block < 1
        or any(n != m and not (is_float and n == 1) for n, m in zip(grid, whole, strict=True))
    ):
        return f"its scales have the shape {grid}, which does not fit"
    blocks = tuple(
        length if n == 1 else block if place == axis else 1
        for place, (n, length) in enumerate(zip(grid, shape, strict=True))
    )
    factor: Factor | None = None
    if len(node.inputs) > 3 and node.inputs[3]:
        if is_bytes:
            found = _zero_points(zero, grid, blocks, bits)
            if isinstance(found, str):
                return found
            factor = found
        elif zero is None or zero[1].shape != grid:
            return "its zero points are computed, or do not fit"
        else:
            factor = Factor(tensor=zero[0], grid=grid, block=blocks)
    described = _integers(bits, blocks, is_symmetric=factor is None)
    if is_float:
        described = Quantization(scheme=f"onnx {stored.dtype}", bits=bits, code=stored.dtype, block=blocks)
    return Recipe(
        codes=name,
        shape=shape,
        view=shape,
        dtype="float32",
        scales=(Factor(tensor=scale[0], grid=grid, block=blocks),),
        zero=factor,
        zero_value=1 << (bits - 1) if is_bytes else 0,
        code_bits=bits if is_bytes else 0,
        quantization=described,
    )


def _bitsandbytes(name: str, stored: StoredValues, node: Node, inputs: Inputs) -> Recipe | str:
    """Read NF4 and FP4: the matrix as one row of codes, the first of each byte in its high bits."""
    n_values = node.number("N") * node.number("K")
    block, kind = node.number("block_size"), node.number("quant_type", 1)
    scale = inputs(node, 2)
    if scale is None or n_values < 1 or block < 1 or kind not in (0, 1):
        return "its scales are computed, or its kind is not known"
    n_blocks = -(-n_values // block)
    if stored.dtype != "uint8" or stored.n_values != (n_values + 1) // 2 or scale[1].n_values != n_blocks:
        return "its codes and scales do not fit its shape"
    scheme = "nf4" if kind else "fp4"
    is_in_rows = node.number("K") % block == 0
    return Recipe(
        codes=name,
        shape=(node.number("N"), node.number("K")),
        view=(n_values,),
        dtype="float32",
        scales=(Factor(tensor=scale[0], grid=(n_blocks,), block=(block,)),),
        code_bits=4,
        levels=_NF4 if kind else _FP4,
        is_high_first=True,
        quantization=Quantization(
            scheme=f"onnx bitsandbytes {scheme}", bits=4, code=scheme, block=(1, block) if is_in_rows else None
        ),
    )


def _experts(  # noqa: PLR0911 (each return is another reason)
    name: str, stored: StoredValues, use: Use, inputs: Inputs
) -> Recipe | str:
    """Read the experts of QMoE: (experts, out, in), a scale for each row of an expert, or for blocks of it."""
    node = use.node
    kind = node.texts.get("quant_type", "int")
    # Without the attribute, and with -1, the layout is that of the device: of graphics cards, another one.
    if kind != "int" or node.number("weights_prepacked", -1) != 0:
        return f"experts of the kind {kind[:40]!r} that may be packed for one kind of device are not decoded"
    which = {2: "fc1", 5: "fc2", 8: "fc3"}[use.place]
    bits = node.number(f"{which}_expert_weight_bits", node.number("expert_weight_bits", _DEFAULT_BITS))
    if bits not in _BITS:
        return f"codes of {bits} bits, whose packing is not known"
    scale = inputs(node, use.place + 1)
    if stored.dtype != "uint8" or len(stored.shape) != 3 or scale is None:
        return "its codes or scales are computed, or do not fit"
    n_experts, n_out, n_bytes = stored.shape
    n_in = n_bytes * 8 // bits
    shape = (n_experts, n_out, n_in)
    block = node.number("block_size") or n_in
    grid = (n_experts, n_out, -(-n_in // block)) if block > 0 else ()
    if not grid or scale[1].n_values != math.prod(grid):
        return f"its scales have the shape {scale[1].shape}, which does not fit"
    blocks = (1, 1, block)
    zero: Factor | None = None
    place = {2: 11, 5: 12, 8: 13}[use.place]
    if len(node.inputs) > place and node.inputs[place]:
        is_by_row = grid[2] == 1 and not node.number("block_size")
        found = _zero_points(inputs(node, place), grid[:2] if is_by_row else grid, blocks, bits)
        if isinstance(found, str):
            return found
        if is_by_row and found.bits:
            return "zero points of whole rows, several in a byte, are not decoded"
        zero = Factor(tensor=found.tensor, grid=grid, block=blocks, bits=found.bits, n_stored=found.n_stored)
    return Recipe(
        codes=name,
        shape=shape,
        view=shape,
        dtype="float32",
        scales=(Factor(tensor=scale[0], grid=grid, block=blocks),),
        zero=zero,
        zero_value=1 << (bits - 1),
        code_bits=bits,
        quantization=_integers(bits, blocks, is_symmetric=zero is None),
    )


def _integers(bits: int, block: tuple[int, ...] | None, *, is_symmetric: bool) -> Quantization:
    return Quantization(
        scheme=f"onnx blockwise int{bits}", bits=bits, code="int", block=block, is_symmetric=is_symmetric
    )
