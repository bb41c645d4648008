"""Where the values of an ONNX graph come from and where they go: through graphs inside graphs, and into functions."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from spectral.loaders.protobuf_wire import WireError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spectral.loaders.onnx_proto import Graph, Model, Node, SparseProto, TensorProto

SAME_VALUES = frozenset({"Identity", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Cast", "CastLike"})
"""Operations whose output has the values of the first input in the same order, if not in the same type."""

MAX_FOLLOWED = 750_000
"""Uses that are looked at in all; a model of ten thousand tensors has a hundred thousand."""

_MAX_STEPS = 64
_MAX_USES = 64
"""A weight is used in a few places; of a constant that is used in thousands, no more are looked at."""


class Value(NamedTuple):
    """A value of a graph: the graph that defines it, and its name there."""

    graph: int
    name: str


class Use(NamedTuple):
    """One place where a value goes."""

    node: Node
    place: int


@dataclass(slots=True, kw_only=True)
class Constant:
    """A tensor that the file holds: an initialiser, or an attribute of a node.

    Attributes
    ----------
    value : Value
        The value that it is; of an attribute that is none, its place.
    proto : TensorProto or SparseProto
        Its header.
    name : str
        What it is called; all are different.
    node : Node, optional
        The node whose attribute it is.
    """

    value: Value
    proto: TensorProto | SparseProto
    name: str = ""
    node: Node | None = None


@dataclass(slots=True)
class GraphIndex:
    """Definitions and uses of all values of a model."""

    model: Model
    constants: dict[Value, Constant] = field(default_factory=dict)
    producers: dict[Value, Use] = field(default_factory=dict)
    uses: dict[Value, list[Use]] = field(default_factory=lambda: defaultdict(list))
    functions: dict[tuple[str, str, str], Graph] = field(default_factory=dict)
    calls: dict[int, list[Node]] = field(default_factory=lambda: defaultdict(list))
    inputs: list[dict[str, int]] = field(default_factory=list)
    n_followed: int = 0

    def value(self, graph: int, name: str) -> Value | None:
        """Return the value that a name means in a graph; None for a name that nothing there has."""
        inner: int | None = graph
        while inner is not None:
            found = Value(inner, name)
            if found in self.constants or found in self.producers or name in self.inputs[inner]:
                return found
            inner = self.model.graphs[inner].parent
        return None

    def input_of(self, node: Node, index: int) -> Value | None:
        """Return what goes into a node at some place; None where nothing does."""
        if index >= len(node.inputs) or not node.inputs[index]:
            return None
        return self.value(node.graph, node.inputs[index])

    def output_of(self, node: Node) -> Value | None:
        """Return the first output of a node."""
        return Value(node.graph, node.outputs[0]) if node.outputs and node.outputs[0] else None

    def uses_of(self, value: Value) -> Iterator[Use]:
        """Yield where a value goes, inside functions that are called with it, too."""
        pending = [value]
        n_steps = 0
        while pending and n_steps < _MAX_STEPS:
            n_steps += 1
            for use in self.uses.get(pending.pop(), [])[:_MAX_USES]:
                self.n_followed += 1
                if self.n_followed > MAX_FOLLOWED:
                    raise WireError(f"its tensors go to more than {MAX_FOLLOWED} places")
                body = self.functions.get((use.node.domain, use.node.op_type, use.node.overload))
                if body is None:
                    yield use
                elif use.place < len(body.inputs):
                    pending.append(Value(body.index, body.inputs[use.place]))

    def constant_of(self, value: Value | None) -> Constant | None:
        """Return the tensor whose values these are, in the same order; None where they are computed otherwise."""
        for _ in range(_MAX_STEPS):
            if value is None:
                return None
            if value in self.constants:
                return self.constants[value]
            producer = self.producers.get(value)
            if producer is not None:
                if producer.node.op_type not in SAME_VALUES or producer.place != 0:
                    return None
                value = self.input_of(producer.node, 0)
                continue
            # An input of a function that is called once is what it is called with.
            callers = self.calls.get(value.graph, [])
            place = self.inputs[value.graph].get(value.name)
            value = self.input_of(callers[0], place) if len(callers) == 1 and place is not None else None
        return None


def index_graphs(model: Model) -> GraphIndex:
    """Return definitions and uses of all values.

    Raises
    ------
    WireError
        Two tensors of one graph have one name, or one has none.
    """
    index = GraphIndex(model)
    for graph in model.graphs:
        index.inputs.append({name: place for place, name in enumerate(graph.inputs)})
        if graph.function is not None:
            index.functions[graph.function] = graph
        for proto in graph.tensors:
            _define(index, Constant(value=Value(graph.index, proto.name), proto=proto))
        for sparse in graph.sparse:
            _define(index, Constant(value=Value(graph.index, sparse.values.name), proto=sparse))
        for node in graph.nodes:
            _define_node(index, node)
    for graph in model.graphs:
        for node in graph.nodes:
            if (node.domain, node.op_type, node.overload) in index.functions:
                index.calls[index.functions[node.domain, node.op_type, node.overload].index].append(node)
            for place, name in enumerate(node.inputs):
                value = index.value(graph.index, name) if name else None
                if value is not None:
                    index.uses[value].append(Use(node, place))
    _name(index)
    return index


def _define(index: GraphIndex, constant: Constant) -> None:
    if not constant.value.name:
        raise WireError("a tensor without a name")
    if constant.value in index.constants:
        raise WireError(f"two tensors are named {constant.value.name[:200]!r}")
    index.constants[constant.value] = constant


def _define_node(index: GraphIndex, node: Node) -> None:
    is_constant = node.op_type == "Constant" and node.domain in ("", "ai.onnx") and bool(node.outputs)
    held: dict[str, TensorProto | SparseProto] = {**node.tensors, **node.sparse}
    for key, proto in held.items():
        if is_constant and len(held) == 1:
            _define(index, Constant(value=Value(node.graph, node.outputs[0]), proto=proto, node=node))
            return
        if key in node.tensors and node.tensors[key].dims == (1,) and node.tensors[key].data_type == 1:
            continue  # A number among the attributes, such as alpha.
        name = f"{node.name or (node.outputs[0] if node.outputs else node.op_type)}.{key}"
        if Value(node.graph, name) in index.constants:
            name = f"{name} at {'.'.join(map(str, node.order))}"
        _define(index, Constant(value=Value(node.graph, name), proto=proto, node=node))
    for place, output in enumerate(node.outputs):
        if output:
            index.producers[Value(node.graph, output)] = Use(node, place)


def _name(index: GraphIndex) -> None:
    """Call every tensor by its own name, or where several graphs have that, those inside by their place, too."""
    counts: dict[str, int] = defaultdict(int)
    for value in index.constants:
        counts[value.name] += 1
    taken = {value.name for value in index.constants if value.graph == 0}
    for value, constant in index.constants.items():
        name = value.name
        if value.graph != 0 and counts[name] > 1:
            name = f"{index.model.graphs[value.graph].path}.{name}"
        if value.graph != 0 and name in taken:
            name = f"{name} in graph {value.graph}"
        if name in taken and value.graph != 0:
            raise WireError(f"two tensors are named {name[:200]!r}")
        taken.add(name)
        constant.name = name
