"""Codes of a weight on their way through a graph, to the operator that makes values of them."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from spectral.loaders.onnx_graph import GraphIndex, Use, Value
    from spectral.loaders.onnx_proto import Node
    from spectral.loaders.onnx_tensor import StoredValues

MAX_STEPS = 32

_MOVES_OF_ROWS = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten"})
_MAX_AXES = 64
_MAX_SMALL = 1 << 16
"""Zero points and sizes up to so many are looked at when a file is opened."""


class Tensor(NamedTuple):
    """A tensor of the file: its name, and where its values lie."""

    name: str
    stored: StoredValues


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

    @property
    def is_plain(self) -> bool:
        """Whether they were not transposed."""
        return self.axes == tuple(range(len(self.view)))


def first_step(value: Value, shape: tuple[int, ...]) -> Step:
    """Return codes as they are stored."""
    return Step(value, shape, tuple(range(len(shape))))


class CodeWalk:
    """Follows codes from operator to operator."""

    def __init__(self, index: GraphIndex, stored: Mapping[str, StoredValues]) -> None:
        self.index = index
        self._stored = stored
        self._small: dict[str, tuple[float, ...]] = {}

    def steps(self, start: Step) -> Iterator[tuple[Step, Use]]:
        """Yield where codes go, nearest first, through operators that only move them."""
        pending = deque([start])
        n_steps = 0
        while pending and n_steps < MAX_STEPS:
            n_steps += 1
            step = pending.popleft()
            for use in self.index.uses_of(step.value):
                moved = self.moved(step, use)
                if moved is None:
                    yield step, use
                else:
                    pending.append(moved)

    def moved(self, step: Step, use: Use) -> Step | None:  # noqa: PLR0911 (a return for each operator)
        """Return the codes behind an operator that moves them, or None where it does something else."""
        node, value = use.node, self.index.output_of(use.node)
        if use.place != 0 or value is None:
            return None
        if node.op_type == "Identity" or (step.gather is not None and node.op_type in _MOVES_OF_ROWS):
            return step._replace(value=value)
        if node.op_type == "Transpose":
            order = node.ints.get("perm", tuple(reversed(range(len(step.axes)))))
            if sorted(order) != list(range(len(step.axes))):
                return None
            return step._replace(value=value, axes=tuple(step.axes[place] for place in order))
        if node.op_type == "Reshape" and step.is_plain:
            shape = self._target_shape(node, step.view)
            return None if shape is None else step._replace(value=value, view=shape, axes=tuple(range(len(shape))))
        if node.op_type == "Gather" and node.number("axis") == 0 and step.is_plain and step.gather is None:
            return step._replace(value=value, gather=use)
        return None

    def _target_shape(self, node: Node, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        tensor = self.stored_input(node, 1)
        values = self.small_values(tensor) if tensor is not None and tensor.stored.dtype == "int64" else None
        if values is None or len(values) > _MAX_AXES:
            return None
        sizes = [shape[axis] if size == 0 and axis < len(shape) else int(size) for axis, size in enumerate(values)]
        known = math.prod(size for size in sizes if size != -1)
        if sizes.count(-1) == 1 and known > 0 and math.prod(shape) % known == 0:
            sizes[sizes.index(-1)] = math.prod(shape) // known
        return tuple(sizes) if math.prod(sizes) == math.prod(shape) and min(sizes, default=0) >= 0 else None

    def stored_input(self, node: Node, place: int) -> Tensor | None:
        """Return the tensor that goes into a node, or None where nothing does or it is computed."""
        constant = self.index.constant_of(self.index.input_of(node, place)) if place >= 0 else None
        stored = self._stored.get(constant.name) if constant is not None else None
        return None if constant is None or stored is None else Tensor(constant.name, stored)

    def small_input(self, node: Node, place: int) -> tuple[float, ...] | None:
        """Return the values of a small tensor that goes into a node."""
        tensor = self.stored_input(node, place)
        return None if tensor is None else self.small_values(tensor)

    def small_values(self, tensor: Tensor) -> tuple[float, ...] | None:
        """Return the values of a tensor, read once, or None where there are many."""
        if tensor.stored.n_values > _MAX_SMALL:
            return None
        if tensor.name not in self._small:
            self._small[tensor.name] = tuple(tensor.stored.read(tensor.name).tolist())
        return self._small[tensor.name]
