"""Which tensors of an ONNX file are codes of a weight, and what the graph computes the weight from.

Three ways are in use. The operators of ONNX (https://onnx.ai/onnx/operators/) and of onnxruntime
(https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md) that take codes, scales and zero points
together; chains of DequantizeLinear, or of Cast, Sub and Mul, that end in an ordinary operator; and integer products
(MatMulInteger, ConvInteger), whose scales stand in a Mul behind them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from spectral.loaders.dtypes import FLOAT_DTYPES
from spectral.loaders.onnx_blocks import BLOCK_OPERATORS, block_recipe
from spectral.loaders.onnx_dequantize import Factor, Recipe
from spectral.loaders.onnx_graph import SAME_VALUES, Constant, GraphIndex, Use, Value
from spectral.loaders.onnx_grids import (
    Grid,
    grid_by_direction,
    grid_of_one,
    linear_grid,
    smallest_block,
    spread_grid,
)
from spectral.loaders.onnx_steps import MAX_STEPS, CodeWalk, Step, Tensor, first_step
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
    ("DynamicQuantizeLSTM", 1): (8, 9, None),
    ("DynamicQuantizeLSTM", 2): (10, 11, None),
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

_INTEGER_PRODUCTS = frozenset({"MatMulInteger", "ConvInteger"})
COMPUTED = "its scales are computed, not stored"
_UNKNOWN = Quantization(scheme="", bits=0, code="")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """Scales and zero points, each with the grid that it is laid in; None where it fits none.

    Attributes
    ----------
    scales : tuple of (Tensor, Grid or None)
        Factors of each value.
    zero : (Tensor, Grid or None), optional
        Zero points.
    """

    scales: tuple[tuple[Tensor, Grid | None], ...] = ()
    zero: tuple[Tensor, Grid | None] | None = None

    def all(self) -> Iterator[tuple[tuple[Tensor, Grid | None], str]]:
        """Yield scales, then zero points, each with what to call it."""
        yield from ((scale, "scales") for scale in self.scales)
        if self.zero is not None:
            yield self.zero, "zero points"


class QuantizedWeights:
    """Looks for the codes among the constants of a model."""

    def __init__(self, index: GraphIndex, stored: Mapping[str, StoredValues]) -> None:
        self._index = index
        self._stored = stored
        self._walk = CodeWalk(index, stored)

    def find(self, constant: Constant) -> Quantized | str | None:
        """Return how a tensor is dequantised, why that is not known, or None where it is not quantised."""
        stored = self._stored.get(constant.name)
        if stored is None:
            return None
        codes = Tensor(constant.name, stored)
        start = first_step(constant.value, stored.shape)
        if stored.dtype not in _CODES:
            return self._rounded(codes, start) if stored.dtype in FLOAT_DTYPES and stored.shape else None
        problem: str | None = None
        for step, use in self._walk.steps(start):
            found = self._made(codes, step, use)
            if isinstance(found, Quantized):
                return found
            problem = problem or found
        return problem

    def _made(self, codes: Tensor, step: Step, use: Use) -> Quantized | str | None:
        """Return what an operator makes of codes that come to it."""
        node, key = use.node, (use.node.op_type, use.place)
        if key == ("Cast", 0) and codes.stored.dtype != "int32":
            return self._cast(codes, step, node)
        made: Recipe | str | None
        if key == ("DequantizeLinear", 0):
            made = self._linear(codes, step, node)
            return self._as_value(made, step, self._index.output_of(node)) if isinstance(made, Recipe) else made
        if step.gather is not None:
            made = self._picked(codes, step, use)
            return self._as_value(made, step, None) if isinstance(made, Recipe) else made
        if step.shape != codes.stored.shape or not step.is_plain:
            return None
        if key in BLOCK_OPERATORS:
            made = block_recipe(codes.name, codes.stored, use, self._walk.stored_input)
        elif key in _BIASES:
            made = self._bias(codes, step, node, _BIASES[key])
        elif node.op_type in _INTEGER_PRODUCTS and use.place == 1:
            made = self._integer_product(codes, step, node)
        else:
            made = self._operator(codes, step, use)
        return Quantized(recipe=made, use=use) if isinstance(made, Recipe) else made

    def _as_value(self, recipe: Recipe, step: Step, value: Value | None) -> Quantized:
        if step.gather is not None:
            return Quantized(recipe=recipe, use=step.gather)
        axes = step.axes if recipe.view == recipe.shape else None
        return Quantized(recipe=recipe, value=value, axes=axes)

    def _linear(self, codes: Tensor, step: Step, node: Node) -> Recipe | str:
        """Read DequantizeLinear: one scale, one for each place of an axis, or one for each block of an axis."""
        scale = self._walk.stored_input(node, 1)
        if scale is None:
            return COMPUTED
        grid = linear_grid(scale.stored.shape, step.shape, node.number("axis", 1), node.number("block_size"))
        dtype = ELEMENT_TYPES.get(node.number("output_dtype"), (scale.stored.dtype,))[0]
        return self._scaled(codes, step, dtype, (scale, grid), (node, 2))

    def _operator(self, codes: Tensor, step: Step, use: Use) -> Recipe | str | None:
        """Read an operator that takes codes, scales and zero points."""
        node, key = use.node, (use.node.op_type, use.place)
        places = _OPERATORS.get(key)
        if key == ("QGemm", 3):
            places = (4, 5, 0 if node.number("transB") else 1)
        if places is None:
            return None
        scale = self._walk.stored_input(node, places[0])
        if scale is None:
            return COMPUTED
        if node.op_type == "DynamicQuantizeLSTM":
            grid = grid_by_direction(scale.stored.shape, step.shape)
        else:
            grid = linear_grid(scale.stored.shape, step.shape, places[2], 0)
        return self._scaled(codes, step, scale.stored.dtype, (scale, grid), (node, places[1]))

    def _picked(self, codes: Tensor, step: Step, use: Use) -> Recipe | str | None:
        """Read rows of codes that go on as an activation: there is one scale for all."""
        node, key = use.node, (use.node.op_type, use.place)
        if node.op_type in _INTEGER_PRODUCTS and use.place == 0:
            scale, zero_place = self._scale_behind(node, side=0), 2
        elif key in _PICKED:
            scale_place, zero_place = _PICKED[key]
            scale = self._walk.stored_input(node, scale_place)
        else:
            return None
        if scale is None or scale.stored.n_values != 1:
            return COMPUTED
        return self._scaled(codes, step, scale.stored.dtype, (scale, grid_of_one(step.shape)), (node, zero_place))

    def _bias(self, codes: Tensor, step: Step, node: Node, places: tuple[int, int]) -> Recipe | str:
        """Read a bias in int32, whose scale is that of the activations times that of the weights."""
        scales = [self._walk.stored_input(node, place) for place in places]
        found = [scale for scale in scales if scale is not None]
        if len(found) != len(scales):
            return COMPUTED
        grids = tuple((scale, linear_grid(scale.stored.shape, step.shape, _COLUMNS, 0)) for scale in found)
        return self._recipe(codes, step, "float32", Scaling(scales=grids))

    def _integer_product(self, codes: Tensor, step: Step, node: Node) -> Recipe | str:
        """Read MatMulInteger or ConvInteger: what comes out is multiplied by the scales of both sides."""
        scale = self._scale_behind(node, side=1)
        if scale is None:
            return "no multiplication by its scales was found behind it"
        shape = scale.stored.shape
        # The scales are spread over what comes out: (.., columns), or (batch, channels, ..).
        n_behind, axis = (0, _COLUMNS) if node.op_type == "MatMulInteger" else (len(step.shape) - 2, 0)
        place = len(shape) - 1 - n_behind
        others = [length for other, length in enumerate(shape) if other != place]
        if math.prod(shape) != 1 and (place < 0 or math.prod(others) != 1):
            return f"its scales have the shape {shape}, which does not fit"
        grid = linear_grid((math.prod(shape),), step.shape, axis, 0)
        return self._scaled(codes, step, scale.stored.dtype, (scale, grid), (node, 3))

    def _scale_behind(self, node: Node, *, side: int) -> Tensor | None:
        """Return the scale of the left or right side of an integer product, which multiplies what comes out."""
        value = self._index.output_of(node)
        for _ in range(MAX_STEPS):
            use = next(self._index.uses_of(value), None) if value is not None else None
            if use is None or use.node.op_type not in ("Cast", "Mul", "Identity"):
                return None
            if use.node.op_type == "Mul":
                found = self._scale_among(use.node, 1 - use.place, side)
                if found is not None:
                    return found
            value = self._index.output_of(use.node)
        return None

    def _scale_among(self, node: Node, place: int, side: int) -> Tensor | None:
        """Return the scale that a product is multiplied by, perhaps in one number with that of the other side."""
        found = self._walk.stored_input(node, place)
        if found is not None:
            return found
        value = self._index.input_of(node, place)
        for _ in range(MAX_STEPS):
            producer = self._index.producers.get(value) if value is not None else None
            if producer is not None and producer.node.op_type == "Mul":
                # Where both are stored, that of the right side is the second, as onnxruntime writes it.
                own, other = (self._walk.stored_input(producer.node, number) for number in (side, 1 - side))
                return own or other
            if producer is None or producer.node.op_type not in SAME_VALUES:
                return None
            value = self._index.input_of(producer.node, 0)
        return None

    def _cast(self, codes: Tensor, step: Step, node: Node) -> Quantized | str | None:
        """Read Cast, Sub and Mul (or Div): codes made floats, moved and scaled by hand."""
        dtype = ELEMENT_TYPES.get(node.number("to"), ("",))[0]
        value = self._index.output_of(node)
        if dtype not in FLOAT_DTYPES or dtype.startswith("float8") or value is None or len(codes.stored.shape) < 2:
            return None
        zero: tuple[Tensor, Grid | None] | None = None
        step = step._replace(value=value)
        for _ in range(MAX_STEPS):
            use = next((use for use in self._index.uses_of(step.value) if use.place < 2), None)
            moved = self._walk.moved(step, use) if use is not None else None
            if use is None or moved is not None:
                if moved is None:
                    break
                step = moved
                continue
            other, after = self._walk.stored_input(use.node, 1 - use.place), self._index.output_of(use.node)
            grid = spread_grid(other.stored.shape, step.shape) if other is not None else None
            if other is None or grid is None or after is None:
                break
            if (use.node.op_type, use.place) == ("Sub", 0) and zero is None:
                zero, step = (other, grid), step._replace(value=after)
            elif use.node.op_type == "Mul" or (use.node.op_type, use.place) == ("Div", 0):
                made = self._recipe(codes, step, dtype, Scaling(scales=((other, grid),), zero=zero))
                if isinstance(made, str):
                    return made
                return self._as_value(replace(made, is_division=use.node.op_type == "Div"), step, after)
            else:
                break
        made = self._recipe(codes, step, dtype, Scaling(zero=zero))
        return self._as_value(made, step, step.value) if isinstance(made, Recipe) else made

    def _rounded(self, weights: Tensor, start: Step) -> Quantized | str | None:
        """Read float values that the model quantises and dequantises, as it was trained to."""
        for use in self._index.uses_of(start.value):
            scale = self._walk.stored_input(use.node, 1)
            if (use.node.op_type, use.place) == ("QuantizeLinear", 0) and scale is not None:
                return self._rounded_by(weights, start, use.node, scale)
        return None

    def _rounded_by(self, weights: Tensor, start: Step, node: Node, scale: Tensor) -> Quantized | str | None:
        zero = self._walk.stored_input(node, 2)
        code = zero.stored.dtype if zero else ELEMENT_TYPES.get(node.number("output_dtype", 2), ("uint8",))[0]
        after = self._after(node)
        clip: tuple[float, float] | None = None
        if after is not None and (after.node.op_type, after.place) == ("Clip", 0):
            bounds = [self._walk.small_input(after.node, place) for place in (1, 2)]
            low, high = (bound[0] if bound is not None and len(bound) == 1 else None for bound in bounds)
            if low is None or high is None:
                return "its codes are clipped to bounds that are not known"
            clip = (low, high)
            after = self._after(after.node)
        if after is None or (after.node.op_type, after.place) != ("DequantizeLinear", 0):
            return None
        back = self._walk.stored_input(after.node, 1)
        if back is None or back.name != scale.name or code not in _CODES:
            return "it is quantised and dequantised by other scales"
        grid = linear_grid(scale.stored.shape, start.shape, node.number("axis", 1), node.number("block_size"))
        made = self._scaled(weights, start, weights.stored.dtype, (scale, grid), (node, 2))
        if isinstance(made, str):
            return made
        made = replace(made, rounded_to=code, clip=clip, quantization=self._described(code, made))
        return self._as_value(made, start, self._index.output_of(after.node))

    def _after(self, node: Node) -> Use | None:
        value = self._index.output_of(node)
        return None if value is None else next(self._index.uses_of(value), None)

    def _scaled(
        self, codes: Tensor, step: Step, dtype: str, scale: tuple[Tensor, Grid | None], zero: tuple[Node, int]
    ) -> Recipe | str:
        """Return a recipe of one scale, and of zero points in the same grid, or one for all."""
        node, place = zero
        if not 0 <= place < len(node.inputs) or not node.inputs[place]:
            return self._recipe(codes, step, dtype, Scaling(scales=(scale,)))
        found = self._walk.stored_input(node, place)
        if found is None:
            return "its zero points are computed, not stored"
        n_zeros = found.stored.n_values
        grid = grid_of_one(step.shape) if n_zeros == 1 else scale[1]
        fits = grid is not None and n_zeros == math.prod(grid[0])
        return self._recipe(codes, step, dtype, Scaling(scales=(scale,), zero=(found, grid if fits else None)))

    def _recipe(self, codes: Tensor, step: Step, dtype: str, scaling: Scaling) -> Recipe | str:
        factors = []
        for (tensor, grid), kind in scaling.all():
            if grid is None:
                return f"its {kind} have the shape {tensor.stored.shape}, which does not fit"
            if tensor.stored.dtype not in (FLOAT_DTYPES if kind == "scales" else FLOAT_DTYPES | _CODES):
                return f"its {kind} are of the type {tensor.stored.dtype}"
            factors.append(_factor(tensor.name, grid, step))
        if step.gather is not None and any(max(factor.grid, default=1) > 1 for factor in factors):
            return "its rows are picked before they are scaled"
        recipe = Recipe(
            codes=codes.name,
            shape=codes.stored.shape,
            view=step.view,
            dtype=dtype if dtype in FLOAT_DTYPES else "float32",
            scales=tuple(factors[: len(scaling.scales)]),
            zero=factors[-1] if scaling.zero is not None else None,
            quantization=_UNKNOWN,
        )
        return replace(recipe, quantization=self._described(codes.stored.dtype, recipe))

    def _described(self, code: str, recipe: Recipe) -> Quantization:
        is_int = code.startswith(("int", "uint"))
        return Quantization(
            scheme=f"onnx {code}",
            bits=next(bits for known, bits, _ in ELEMENT_TYPES.values() if known == code),
            code="int" if is_int else code,
            block=smallest_block(recipe.scales, recipe.view) if recipe.view == recipe.shape else None,
            is_symmetric=not is_int or recipe.zero is None or self._is_centre(recipe.zero.tensor, code),
        )

    def _is_centre(self, name: str, code: str) -> bool:
        """Tell whether all zero points are that of symmetric codes; of very many, that is not looked at."""
        centre = 1 << (int(code.lstrip("uint")) - 1) if code.startswith("u") else 0
        values = self._walk.small_values(Tensor(name, self._stored[name]))
        return values is not None and all(value == centre for value in values)


def is_quantisation(node: Node) -> bool:
    """Tell whether an operator takes scales and zero points of activations."""
    known = {"QuantizeLinear", "DequantizeLinear", "QGemm", "QAttention", "MatMulIntegerToFloat", *_INTEGER_PRODUCTS}
    return node.op_type in known or node.op_type.startswith("QLinear")


def _factor(name: str, grid: Grid, step: Step) -> Factor:
    """Return scales for codes as they were before they were transposed."""
    counts, blocks = grid
    order = [step.axes.index(axis) for axis in range(len(step.axes))]
    return Factor(
        tensor=name,
        grid=tuple(counts[place] for place in order),
        block=tuple(blocks[place] for place in order),
        order=tuple(order),
    )
