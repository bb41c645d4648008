"""Which tensors of an ONNX file are codes of a weight, and what the graph computes the weight from.

Three ways are in use. The operators of ONNX and of onnxruntime that take codes, scales and zero points together
(https://onnx.ai/onnx/operators/, https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md); chains of
DequantizeLinear, or of Cast, Sub and Mul, that end in an ordinary operator; and integer products (MatMulInteger,
ConvInteger), whose scales stand in a Mul behind them.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from spectral.loaders.dtypes import FLOAT_DTYPES
from spectral.loaders.onnx_blocks import BLOCK_OPERATORS, block_recipe
from spectral.loaders.onnx_dequantize import Factor, Recipe
from spectral.loaders.onnx_graph import Constant, GraphIndex, Use, Value
from spectral.loaders.onnx_tensor import ELEMENT_TYPES
from spectral.loaders.protocol import Quantization

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from spectral.loaders.onnx_proto import Node
    from spectral.loaders.onnx_tensor import StoredValues

_CODES = frozenset(
    {"int8", "uint8", "int16", "uint16", "int32", "int4", "uint4", "int2", "uint2", "float4_e2m1fn"}
    | {"float6_e2m3fn", "float6_e3m2fn", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"}
)
"""Types that weights are quantised to."""

_MAX_STEPS = 32
_COLUMNS = -1

_OPERATORS: dict[tuple[str, int], tuple[int, int, int | None]] = {
    ("QLinearConv", 3): (4, 5, 0),
    ("QLinearMatMul", 0): (1, 2, 0),
    ("QLinearMatMul", 3): (4, 5, _COLUMNS),
    ("DynamicQuantizeMatMul", 1): (2, 3, _COLUMNS),
    ("MatMulIntegerToFloat", 1): (3, 5, _COLUMNS),
    ("QAttention", 1): (4, 7, _COLUMNS),
    ("QEmbedLayerNormalization", 2): (8, 13, None),
    ("QEmbedLayerNormalization", 3): (9, 14, None),
    ("QEmbedLayerNormalization", 4): (10, 15, None),
    ("QEmbedLayerNormalization", 5): (11, 16, None),
    ("QEmbedLayerNormalization", 6): (12, 17, None),
    ("QLinearAdd", 0): (1, 2, None),
    ("QLinearAdd", 3): (4, 5, None),
    ("QLinearMul", 0): (1, 2, None),
    ("QLinearMul", 3): (4, 5, None),
    ("GemmFloat8", 1): (4, -1, None),
}
"""Operator and input -> inputs of scales and zero points, and the axis along which there may be several."""

_BIASES: dict[tuple[str, int], tuple[int, int]] = {("QLinearConv", 8): (1, 4), ("QGemm", 6): (1, 4)}
"""Biases in int32 -> the inputs whose product is their scale."""

_PICKED: dict[tuple[str, int], tuple[int, int]] = {
    ("QLinearConv", 0): (1, 2),
    ("QLinearMatMul", 0): (1, 2),
    ("QGemm", 0): (1, 2),
    ("QLinearAdd", 0): (1, 2),
    ("QLinearAdd", 3): (4, 5),
    ("QAttention", 0): (3, 6),
}
"""Operators that take rows of an embedding as they take any quantised activation -> inputs of scale and zero point."""

_MOVES_OF_ROWS = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten"})
_OUTPUT_CHANNEL = {"MatMulInteger": -1, "ConvInteger": 1}


class Step(NamedTuple):
    """Codes on their way to where they become values.

    Attributes
    ----------
    value : Value
        The value of the graph that they are by now.
    view : tuple of int
        The shape into which they were brought, before they were transposed.
    axes : tuple of int
        For each axis now, which one of ``view`` it is.
    gather : Use, optional
        Where rows were picked, if they were: then blocks along the first axis are those of other rows.
    """

    value: Value
    view: tuple[int, ...]
    axes: tuple[int, ...]
    gather: Use | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape now."""
        return tuple(self.view[axis] for axis in self.axes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """A weight that is stored as codes.

    Attributes
    ----------
    recipe : Recipe
        How its values come about.
    use : Use, optional
        The operator that takes the codes themselves; otherwise None.
    value : Value, optional
        The value of the graph that the dequantised weight is.
    axes : tuple of int, optional
        For each axis of that value, which one of the tensor it is; None where it was reshaped on the way.
    """

    recipe: Recipe
    use: Use | None = None
    value: Value | None = None
    axes: tuple[int, ...] | None = None


class QuantizedWeights:
    """Looks for the codes among the constants of a model."""

    def __init__(self, index: GraphIndex, stored: Mapping[str, StoredValues]) -> None:
        self._index = index
        self._stored = stored

    def find(self, constant: Constant) -> Quantized | str | None:
        """Return how a tensor is dequantised, why that is not known, or None where it is not quantised."""
        stored = self._stored.get(constant.name)
        if stored is None:
            return None
        if stored.dtype not in _CODES:
            return self._rounded(constant, stored) if stored.dtype in FLOAT_DTYPES and stored.shape else None
        start = Step(constant.value, stored.shape, tuple(range(len(stored.shape))))
        problem: str | None = None
        for step, use in self._steps(start):
            found = self._made(constant.name, stored, step, use)
            if isinstance(found, Quantized):
                return found
            problem = problem or found
        return problem

    def _steps(self, start: Step) -> Iterator[tuple[Step, Use]]:
        """Yield where codes go, nearest first, through operators that only move them."""
        pending = deque([start])
        n_steps = 0
        while pending and n_steps < _MAX_STEPS:
            n_steps += 1
            step = pending.popleft()
            for use in self._index.uses_of(step.value):
                moved = self._moved(step, use)
                if moved is None:
                    yield step, use
                else:
                    pending.append(moved)

    def _moved(self, step: Step, use: Use) -> Step | None:
        """Return the codes behind an operator that moves them, or None where it does something else."""
        node, value = use.node, self._index.output_of(use.node)
        if use.index != 0 or value is None:
            return None
        is_plain = step.axes == tuple(range(len(step.view)))
        if node.op_type == "Identity" or (step.gather is not None and node.op_type in _MOVES_OF_ROWS):
            return step._replace(value=value)
        if node.op_type == "Transpose":
            order = node.ints.get("perm", tuple(reversed(range(len(step.axes)))))
            if sorted(order) != list(range(len(step.axes))):
                return None
            return step._replace(value=value, axes=tuple(step.axes[place] for place in order))
        if node.op_type == "Reshape" and is_plain:
            shape = self._target_shape(node, step.view)
            return None if shape is None else step._replace(value=value, view=shape, axes=tuple(range(len(shape))))
        if node.op_type == "Gather" and node.number("axis") == 0 and is_plain and step.gather is None:
            return step._replace(value=value, gather=use)
        return None

    def _target_shape(self, node: Node, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        constant = self._index.constant_of(self._index.input_of(node, 1))
        stored = self._stored.get(constant.name) if constant is not None else None
        if stored is None or stored.dtype != "int64" or stored.n_values > 64:
            return None
        sizes = [int(size) for size in stored.read(constant.name if constant is not None else "")]
        sizes = [shape[axis] if size == 0 and axis < len(shape) else size for axis, size in enumerate(sizes)]
        known = math.prod(size for size in sizes if size != -1)
        if sizes.count(-1) == 1 and known > 0 and math.prod(shape) % known == 0:
            sizes[sizes.index(-1)] = math.prod(shape) // known
        return tuple(sizes) if math.prod(sizes) == math.prod(shape) and min(sizes, default=0) >= 0 else None

    def _made(self, name: str, stored: StoredValues, step: Step, use: Use) -> Quantized | str | None:
        node, value = use.node, self._index.output_of(use.node)
        if node.op_type == "DequantizeLinear" and use.index == 0:
            made = self._linear(name, stored, step, node)
            return made if not isinstance(made, Recipe) else self._as_value(made, step, value)
        if node.op_type == "Cast" and use.index == 0 and stored.dtype != "int32":
            return self._cast(name, stored, step, node)
        if step.gather is not None:
            made = self._picked(name, stored, step, use)
            return self._as_value(made, step, None) if isinstance(made, Recipe) else made
        if step.view != stored.shape or step.axes != tuple(range(len(step.view))):
            return None
        if (node.op_type, use.index) in BLOCK_OPERATORS:
            made = block_recipe(name, stored, use, self._stored_input)
        elif (node.op_type, use.index) in _BIASES:
            made = self._bias(name, stored, node, *_BIASES[node.op_type, use.index])
        elif node.op_type in _OUTPUT_CHANNEL and use.index == 1:
            made = self._integer_product(name, stored, node)
        else:
            made = self._operator(name, stored, use)
        return Quantized(recipe=made, use=use) if isinstance(made, Recipe) else made

    def _as_value(self, recipe: Recipe, step: Step, value: Value | None) -> Quantized:
        if step.gather is not None:
            return Quantized(recipe=recipe, use=step.gather)
        axes = step.axes if recipe.view == recipe.shape else None
        return Quantized(recipe=recipe, value=value, axes=axes)

    def _stored_input(self, node: Node, index: int) -> tuple[str, StoredValues] | None:
        """Return the tensor that goes into a node, or None where nothing does or it is computed."""
        constant = self._index.constant_of(self._index.input_of(node, index)) if index >= 0 else None
        stored = self._stored.get(constant.name) if constant is not None else None
        return None if constant is None or stored is None else (constant.name, stored)

    def _linear(self, name: str, stored: StoredValues, step: Step, node: Node) -> Recipe | str:
        """Read DequantizeLinear: one scale, one for each place of an axis, or one for each block of an axis."""
        scale = self._stored_input(node, 1)
        if scale is None:
            return "its scales are computed, not stored"
        axis, block = node.number("axis", 1), node.number("block_size")
        grid = _grid(scale[1].shape, step.shape, axis, block)
        dtype = ELEMENT_TYPES.get(node.number("output_dtype"), (scale[1].dtype,))[0]
        return self._recipe(name, stored, step, dtype, [(scale, grid)], node, 2)

    def _operator(self, name: str, stored: StoredValues, use: Use) -> Recipe | str | None:
        """Read an operator that takes codes, scales and zero points."""
        node = use.node
        places = _OPERATORS.get((node.op_type, use.index))
        if (node.op_type, use.index) == ("QGemm", 3):
            places = (4, 5, 0 if node.number("transB") else 1)
        if (node.op_type, use.index) in {("DynamicQuantizeLSTM", 1), ("DynamicQuantizeLSTM", 2)}:
            places = (6 + 2 * use.index, 7 + 2 * use.index, None)
        if places is None:
            return None
        scale = self._stored_input(node, places[0])
        if scale is None:
            return "its scales are computed, not stored"
        start = Step(Value(0, ""), stored.shape, tuple(range(len(stored.shape))))
        if node.op_type == "DynamicQuantizeLSTM":
            grid = _by_direction(scale[1].shape, stored.shape)
        else:
            grid = _grid(scale[1].shape, stored.shape, places[2], 0)
        return self._recipe(name, stored, start, scale[1].dtype, [(scale, grid)], node, places[1])

    def _picked(self, name: str, stored: StoredValues, step: Step, use: Use) -> Recipe | str | None:
        """Read rows of codes that go on as an activation: there is one scale for all."""
        node = use.node
        if node.op_type in _OUTPUT_CHANNEL and use.index == 0:
            scale, place = self._scale_behind(node, side=0), 2
        elif (node.op_type, use.index) in _PICKED:
            scale_place, place = _PICKED[node.op_type, use.index]
            scale = self._stored_input(node, scale_place)
        else:
            return None
        if scale is None or scale[1].n_values != 1:
            return "its scale is computed, not stored"
        grid = (1,) * len(step.shape), step.shape
        return self._recipe(name, stored, step, scale[1].dtype, [(scale, grid)], node, place)

    def _bias(self, name: str, stored: StoredValues, node: Node, first: int, second: int) -> Recipe | str:
        scales = [self._stored_input(node, place) for place in (first, second)]
        start = Step(Value(0, ""), stored.shape, tuple(range(len(stored.shape))))
        if scales[0] is None or scales[1] is None:
            return "its scales are computed, not stored"
        grids = [(scale, _grid(scale[1].shape, stored.shape, _COLUMNS, 0)) for scale in scales if scale is not None]
        return self._recipe(name, stored, start, "float32", grids, node, -1)

    def _integer_product(self, name: str, stored: StoredValues, node: Node) -> Recipe | str:
        """Read MatMulInteger or ConvInteger: what comes out is multiplied by the scales of both sides."""
        scale = self._scale_behind(node)
        if scale is None:
            return "no multiplication by its scales was found behind it"
        n_axes, shape = len(stored.shape), scale[1].shape
        channel = _COLUMNS if node.op_type == "MatMulInteger" else 0
        # The scales are spread over what comes out: (.., columns), or (batch, channels, ..).
        behind = 0 if node.op_type == "MatMulInteger" else n_axes - 2
        place = len(shape) - 1 - behind
        is_one = math.prod(shape) == 1
        if not is_one and (place < 0 or any(n != 1 for axis, n in enumerate(shape) if axis != place)):
            return f"its scales have the shape {shape}, which does not fit"
        grid = _grid((math.prod(shape),), stored.shape, channel, 0)
        start = Step(Value(0, ""), stored.shape, tuple(range(n_axes)))
        return self._recipe(name, stored, start, scale[1].dtype, [(scale, grid)], node, 3)

    def _scale_behind(self, node: Node, side: int = 1) -> tuple[str, StoredValues] | None:
        value = self._index.output_of(node)
        for _ in range(_MAX_STEPS):
            use = next(self._index.uses_of(value), None) if value is not None else None
            if use is None or use.node.op_type not in ("Cast", "Mul", "Identity"):
                return None
            if use.node.op_type == "Mul":
                found = self._scale_among(use.node, 1 - use.index, side)
                if found is not None:
                    return found
            value = self._index.output_of(use.node)
        return None

    def _scale_among(self, node: Node, place: int, side: int) -> tuple[str, StoredValues] | None:
        """Return the scale that a product is multiplied by, perhaps in one number with that of the other side."""
        found = self._stored_input(node, place)
        if found is not None:
            return found
        value = self._index.input_of(node, place)
        for _ in range(_MAX_STEPS):
            producer = self._index.producers.get(value) if value is not None else None
            if producer is None:
                return None
            if producer.node.op_type == "Mul":
                # Where both are stored, that of the right side is the second, as onnxruntime writes it.
                return self._stored_input(producer.node, side) or self._stored_input(producer.node, 1 - side)
            if producer.node.op_type not in ("Reshape", "Unsqueeze", "Squeeze", "Identity", "Cast"):
                return None
            value = self._index.input_of(producer.node, 0)
        return None

    def _cast(self, name: str, stored: StoredValues, step: Step, node: Node) -> Quantized | str | None:
        """Read Cast, Sub and Mul (or Div): codes made floats, moved and scaled by hand."""
        dtype = ELEMENT_TYPES.get(node.number("to"), ("",))[0]
        value = self._index.output_of(node)
        if dtype not in FLOAT_DTYPES or dtype.startswith("float8") or value is None or len(stored.shape) < 2:
            return None
        zero: tuple[tuple[str, StoredValues], tuple[int, ...]] | None = None
        for _ in range(_MAX_STEPS):
            use = next((use for use in self._index.uses_of(value) if use.index < 2), None)
            if use is None:
                break
            moved = self._moved(step._replace(value=value), use)
            if moved is not None:
                step, value = moved, moved.value
                continue
            other = self._stored_input(use.node, 1 - use.index)
            after = self._index.output_of(use.node)
            grid = None if other is None else _spread_grid(other[1].shape, step.shape)
            if other is None or grid is None or after is None:
                break
            if use.node.op_type == "Sub" and use.index == 0 and zero is None:
                zero, value = (other, grid), after
                continue
            if use.node.op_type == "Mul" or (use.node.op_type == "Div" and use.index == 0):
                made = self._recipe(
                    name, stored, step, dtype, [(other, _whole_blocks(grid, step.shape))], node, -1, zero
                )
                if isinstance(made, str):
                    return made
                return self._as_value(replace(made, is_division=use.node.op_type == "Div"), step, after)
            break
        made = self._recipe(name, stored, step, dtype, [], node, -1, zero)
        return made if isinstance(made, str) else self._as_value(made, step, value)

    def _rounded(self, constant: Constant, stored: StoredValues) -> Quantized | str | None:
        """Read float values that the model quantises and dequantises, as it was trained to."""
        for use in self._index.uses_of(constant.value):
            node, value = use.node, self._index.output_of(use.node)
            scale = self._stored_input(node, 1)
            if node.op_type != "QuantizeLinear" or use.index != 0 or scale is None or value is None:
                continue
            zero = self._stored_input(node, 2)
            kind = zero[1].dtype if zero else ELEMENT_TYPES.get(node.number("output_dtype", 2), ("uint8",))[0]
            clip: tuple[float, float] | None = None
            after = next(self._index.uses_of(value), None)
            if after is not None and after.node.op_type == "Clip" and after.index == 0:
                bounds = [self._stored_input(after.node, place) for place in (1, 2)]
                if bounds[0] is None or bounds[1] is None:
                    return "its codes are clipped to bounds that are computed"
                low, high = (float(bound[1].read(bound[0], 0, 1)[0]) for bound in bounds if bound is not None)
                clip = (low, high)
                value = self._index.output_of(after.node)
                after = next(self._index.uses_of(value), None) if value is not None else None
            if after is None or after.node.op_type != "DequantizeLinear" or after.index != 0:
                continue
            back = self._stored_input(after.node, 1)
            if back is None or back[0] != scale[0] or kind not in _CODES:
                return "it is quantised and dequantised by other scales"
            start = Step(constant.value, stored.shape, tuple(range(len(stored.shape))))
            grid = _grid(scale[1].shape, stored.shape, node.number("axis", 1), node.number("block_size"))
            made = self._recipe(constant.name, stored, start, stored.dtype, [(scale, grid)], node, 2, kind=kind)
            if isinstance(made, str):
                return made
            made = replace(made, rounded_to=kind, clip=clip)
            return self._as_value(made, start, self._index.output_of(after.node))
        return None

    def _recipe(
        self,
        name: str,
        stored: StoredValues,
        step: Step,
        dtype: str,
        scales: list[tuple[tuple[str, StoredValues], tuple[tuple[int, ...], tuple[int, ...]] | None]],
        node: Node,
        zero_place: int,
        zero_spread: tuple[tuple[str, StoredValues], tuple[int, ...]] | None = None,
        kind: str = "",
    ) -> Recipe | str:
        factors = []
        for scale, grid in scales:
            if grid is None:
                return f"its scales have the shape {scale[1].shape}, which does not fit"
            if scale[1].dtype not in FLOAT_DTYPES:
                return f"its scales are no floats ({scale[1].dtype})"
            factors.append(_factor(scale[0], grid, step))
        zero = None
        if zero_spread is not None:
            zero = _factor(zero_spread[0][0], _whole_blocks(zero_spread[1], step.shape), step)
        elif zero_place >= 0 and zero_place < len(node.inputs) and node.inputs[zero_place]:
            found = self._stored_input(node, zero_place)
            if found is None:
                return "its zero points are computed, not stored"
            grid = scales[0][1] if found[1].n_values == scales[0][0][1].n_values else _grid_of_one(found[1], step.shape)
            if grid is None:
                return f"its zero points have the shape {found[1].shape}, which does not fit"
            zero = _factor(found[0], grid, step)
        if step.gather is not None and any(max(factor.grid) > 1 for factor in (*factors, *([zero] if zero else ()))):
            return "its rows are picked before they are scaled"
        code = kind or stored.dtype
        is_int = code.startswith(("int", "uint"))
        return Recipe(
            codes=name,
            shape=stored.shape,
            view=step.view,
            dtype=dtype if dtype in FLOAT_DTYPES else "float32",
            scales=tuple(factors),
            zero=zero,
            quantization=Quantization(
                scheme=f"onnx {code}",
                bits=next(bits for known, bits, _ in ELEMENT_TYPES.values() if known == code),
                code="int" if is_int else code,
                block=_smallest_block(factors, step.view) if step.view == stored.shape else None,
                is_symmetric=zero is None or self._is_centre(zero.tensor, code),
            ),
        )

    def _is_centre(self, name: str, code: str) -> bool:
        """Tell whether all zero points are that of symmetric codes; of many, that is not read."""
        stored = self._stored[name]
        if not code.startswith(("int", "uint")):
            return True
        if stored.n_values * stored.bits > 1 << 19:
            return False
        centre = 1 << (int(code.lstrip("uint")) - 1) if code.startswith("u") else 0
        return bool((stored.read(name) == centre).all())


def is_quantisation(node: Node) -> bool:
    """Tell whether an operator takes scales and zero points of activations."""
    known = {"QuantizeLinear", "DequantizeLinear", "QGemm", "QAttention", "MatMulIntegerToFloat", *_OUTPUT_CHANNEL}
    return node.op_type in known or node.op_type.startswith("QLinear")


def _factor(name: str, grid: tuple[tuple[int, ...], tuple[int, ...]], step: Step) -> Factor:
    """Return scales for codes as they were before they were transposed."""
    counts, blocks = grid
    order = [step.axes.index(axis) for axis in range(len(step.axes))]
    return Factor(
        tensor=name,
        grid=tuple(counts[place] for place in order),
        block=tuple(blocks[place] for place in order),
        order=tuple(order),
    )


def _grid(
    scales: tuple[int, ...], shape: tuple[int, ...], axis: int | None, block_size: int
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Return how many blocks there are along each axis and how long they are, or None where that does not fit."""
    ones = (1,) * len(shape)
    if math.prod(scales) == 1:
        return ones, shape
    if axis is None or not -len(shape) <= axis < len(shape):
        return None
    axis %= len(shape)
    if block_size == 0 and (len(scales) == 1 or math.prod(scales) == shape[axis] == scales[axis - len(shape)]):
        if math.prod(scales) != shape[axis]:
            return None
        grid = (*ones[:axis], shape[axis], *ones[axis + 1 :])
        return grid, _whole_blocks(grid, shape)[1]
    if len(scales) != len(shape):
        return None
    for place, (n, length) in enumerate(zip(scales, shape, strict=True)):
        fits = n == length or (n == 1 and block_size == 0)
        if place == axis and block_size > 0:
            fits = n == -(-length // block_size)
        if not fits:
            return None
    blocks = _whole_blocks(scales, shape)[1]
    return scales, (*blocks[:axis], block_size or blocks[axis], *blocks[axis + 1 :])


def _grid_of_one(stored: StoredValues, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    return ((1,) * len(shape), shape) if stored.n_values == 1 else None


def _whole_blocks(grid: tuple[int, ...], shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return a grid with its blocks, where there is one for each place of an axis or one for all."""
    return grid, tuple(length if n == 1 else 1 for n, length in zip(grid, shape, strict=True))


def _spread_grid(scales: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the grid of factors that numpy would spread over a shape, or None where it would not, or make it larger."""
    grid = (1,) * (len(shape) - len(scales)) + scales
    if math.prod(scales) == 1:
        return (1,) * len(shape)
    fits = len(grid) == len(shape) and all(n in (1, length) for n, length in zip(grid, shape, strict=True))
    return grid if fits else None


def _by_direction(scales: tuple[int, ...], shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Return the grid of a recurrent layer: scales (directions), or (directions, gates)."""
    if len(shape) != 3 or len(scales) not in (1, 2) or scales[0] != shape[0]:
        return None
    if len(scales) == 2 and scales[1] != shape[2]:
        return None
    grid = (shape[0], 1, scales[1] if len(scales) == 2 else 1)
    return _whole_blocks(grid, shape)


def _smallest_block(factors: list[Factor], shape: tuple[int, ...]) -> tuple[int, ...] | None:
    if not factors:
        return None
    return tuple(min(factor.block[axis] for factor in factors) for axis in range(len(shape)))
