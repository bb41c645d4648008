"""The messages of an ONNX file that tell of weights: graphs, nodes and the headers of tensors.

Field numbers are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. Values stay in the file.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from spectral.loaders.protobuf_wire import FIXED32, LENGTH, RUN, VARINT, Field, WireError, WireReader, as_signed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_NAME_BYTES = 4096
MAX_TENSORS = 60_000
MAX_NODES = 100_000
MAX_GRAPHS = 10_000
MAX_DEPTH = 32
"""Of graphs inside graphs; protobuf itself reads no more than a hundred messages deep, which is 33 graphs."""

MAX_AXES = 64
MAX_PIECES = 1024
"""Pieces in which the values of a tensor may come; writers make one."""

MAX_NUMBERS = 1024
"""Numbers of an attribute that are kept: axes, permutations, sizes."""

_MAX_TEXT_BYTES = 1 << 16
"""Of one value of the metadata."""

RAW_DATA, EXTERNAL_DATA = 9, 13
DATA_FIELDS = {4: FIXED32, 5: VARINT, 7: VARINT, 10: 1, 11: VARINT}
"""The fields float_data, int32_data, int64_data, double_data, uint64_data -> the wire type of a value alone."""

_TENSOR_RUNS = frozenset(number << 3 | wire for number, wire in DATA_FIELDS.items())
_FLOATS, _INTS = 7, 8
_ATTRIBUTE_RUNS = frozenset({_FLOATS << 3 | FIXED32, _INTS << 3 | VARINT})
_T = TypeVar("_T")
_NONE: dict[str, Any] = {}
"""The attributes of all nodes that have none: a hundred thousand empty ones would take their time. Never written to."""

_NAME_SCOPES = "pkg.torch.onnx.name_scopes"


@dataclass(slots=True, kw_only=True)
class TensorProto:
    """A tensor as the file describes it.

    Attributes
    ----------
    name : str
        As it stands there; empty inside attributes.
    dims : tuple of int
        Shape.
    data_type : int
        The number of its element type.
    field : int
        Which field holds the values; 0 where none does.
    pieces : tuple of (begin, end, is_tagged)
        Where the values lie in the file.
    external : tuple of (key, value)
        What is said of another file that holds them.
    is_external : bool
        Whether another file does.
    """

    name: str = ""
    dims: tuple[int, ...] = ()
    data_type: int = 0
    field: int = 0
    pieces: tuple[tuple[int, int, bool], ...] = ()
    external: tuple[tuple[str, str], ...] = ()
    is_external: bool = False
    is_segment: bool = False


@dataclass(slots=True, kw_only=True)
class SparseProto:
    """A tensor given by its values other than zero."""

    values: TensorProto
    indices: TensorProto
    dims: tuple[int, ...]


@dataclass(slots=True, kw_only=True)
class Node:
    """An operation; an omitted input has an empty name.

    Attributes
    ----------
    ints, texts : dict
        Attributes that are integers (lists of them, of one or more), and texts.
    tensors, sparse : dict
        Attributes that are tensors; lists of floats are tensors of one axis.
    scopes : str
        The modules that the operation came from, as the exporter of torch writes them.
    graph : int
        The graph that holds it.
    order : tuple of int
        Its place in the order in which a model is computed; graphs inside a node come after it.
    """

    name: str = ""
    op_type: str = ""
    domain: str = ""
    overload: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    ints: dict[str, tuple[int, ...]] = field(default_factory=lambda: _NONE)
    texts: dict[str, str] = field(default_factory=lambda: _NONE)
    tensors: dict[str, TensorProto] = field(default_factory=lambda: _NONE)
    sparse: dict[str, SparseProto] = field(default_factory=lambda: _NONE)
    scopes: str = ""
    graph: int = 0
    order: tuple[int, ...] = ()

    def number(self, name: str, default: int = 0) -> int:
        """Return an attribute that is one integer."""
        found = self.ints.get(name, ())
        return found[0] if len(found) == 1 else default


@dataclass(slots=True, kw_only=True)
class Graph:
    """A graph, or the body of a function.

    Attributes
    ----------
    index : int
        Its place in the list of all graphs.
    parent : int, optional
        The graph whose node holds this one, whose values it sees.
    path : str
        What its tensors are called after where their own names are not enough: the node and the branch.
    function : (domain, name, overload), optional
        What a function is called by.
    """

    index: int = 0
    parent: int | None = None
    path: str = ""
    depth: int = 0
    order: tuple[int, ...] = ()
    function: tuple[str, str, str] | None = None
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    tensors: list[TensorProto] = field(default_factory=list)
    sparse: list[SparseProto] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Model:
    """All graphs of a file; the first is the model's own."""

    graphs: list[Graph]


@dataclass(slots=True)
class _Pending:
    """A graph whose bytes are known and not yet read."""

    graph: Graph
    begin: int
    end: int


class ModelReader:
    """Reads one file; graphs inside graphs wait in a list, so that no depth of the file is one of the program."""

    def __init__(self, reader: WireReader) -> None:
        self._reader = reader
        self._pending: deque[_Pending] = deque()
        self._n_tensors = 0
        self._n_nodes = 0
        self._model = Model(graphs=[])

    def read(self) -> Model:
        """Return what the file says of its tensors.

        Raises
        ------
        WireError
            It is damaged, no ONNX file, or larger in some number than any model is.
        """
        functions: list[Field] = []
        training: list[Field] = []
        main = Graph()
        n_graphs = 0
        version = 0
        for item in self._reader.walk(0, self._reader.size):
            if item.number == 1:
                version = self._int(item)
            elif item.number == 7:
                n_graphs += 1
                self._add_graph(main, self._inside(item))
            elif item.number == 20:
                training.append(self._inside(item))
            elif item.number == 25:
                functions.append(self._inside(item))
        if n_graphs != 1 or version <= 0:
            raise WireError(f"it has {n_graphs} graphs and the version {version}: not an ONNX model")
        for item in training:
            self._training(item)
        for index, item in enumerate(functions):
            self._add_graph(Graph(function=("", "", ""), order=(MAX_NODES + index,)), item)
        while self._pending:
            pending = self._pending.popleft()
            if pending.graph.function is None:
                self._graph(pending)
            else:
                self._function(pending)
        return self._model

    def _add_graph(self, graph: Graph, item: Field) -> None:
        if len(self._model.graphs) >= MAX_GRAPHS:
            raise WireError(f"more than {MAX_GRAPHS} graphs, which no model has")
        if graph.depth > MAX_DEPTH:
            raise WireError(f"graphs nested more than {MAX_DEPTH} deep")
        graph.index = len(self._model.graphs)
        self._model.graphs.append(graph)
        self._pending.append(_Pending(graph, item.begin, item.end))

    def _training(self, place: Field) -> None:
        """Note the graphs that begin and make a step of training, which see the values of the model."""
        for item in self._reader.walk(place.begin, place.end):
            if item.number in (1, 2):
                path = "initialization" if item.number == 1 else "training"
                self._add_graph(Graph(parent=0, path=path, order=(MAX_NODES,)), self._inside(item))

    def _graph(self, pending: _Pending) -> None:
        graph = pending.graph
        for item in self._reader.walk(pending.begin, pending.end):
            if item.number == 1:
                self._node(graph, self._inside(item))
            elif item.number == 5:
                graph.tensors.append(self._tensor(self._inside(item)))
            elif item.number == 11:
                graph.inputs.append(self._name_in(self._inside(item)))
            elif item.number == 12:
                graph.outputs.append(self._name_in(self._inside(item)))
            elif item.number == 15:
                graph.sparse.append(self._sparse(self._inside(item)))

    def _function(self, pending: _Pending) -> None:
        graph = pending.graph
        name = domain = overload = ""
        nodes: list[Field] = []
        for item in self._reader.walk(pending.begin, pending.end):
            if item.number == 1:
                name = self._text(item)
            elif item.number == 4:
                graph.inputs.append(self._text(item))
            elif item.number == 5:
                graph.outputs.append(self._text(item))
            elif item.number == 7:
                nodes.append(self._inside(item))
            elif item.number == 10:
                domain = self._text(item)
            elif item.number == 13:
                overload = self._text(item)
        graph.function = (domain, name, overload)
        graph.path = name
        for item in nodes:
            self._node(graph, item)

    def _node(self, graph: Graph, place: Field) -> None:
        self._n_nodes += 1
        if self._n_nodes > MAX_NODES:
            raise WireError(f"more than {MAX_NODES} nodes, which no model has")
        node = Node(graph=graph.index, order=(*graph.order, len(graph.nodes)))
        inputs: list[str] = []
        outputs: list[str] = []
        attributes: list[Field] = []
        for item in self._reader.walk(place.begin, place.end):
            if item.number == 1:
                inputs.append(self._text(item))
            elif item.number == 2:
                outputs.append(self._text(item))
            elif item.number == 3:
                node.name = self._text(item)
            elif item.number == 4:
                node.op_type = self._text(item)
            elif item.number == 5:
                attributes.append(self._inside(item))
            elif item.number == 7:
                node.domain = self._text(item)
            elif item.number == 8:
                node.overload = self._text(item)
            elif item.number == 9:
                key, value = self._entry(self._inside(item))
                if key == _NAME_SCOPES:
                    node.scopes = value
        node.inputs, node.outputs = tuple(inputs), tuple(outputs)
        graph.nodes.append(node)
        for item in attributes:
            self._attribute(graph, node, item)

    def _attribute(self, graph: Graph, node: Node, place: Field) -> None:  # noqa: PLR0912 (a branch for each field)
        name = ""
        ints: list[int] = []
        texts: list[str] = []
        tensors: list[TensorProto] = []
        sparse: list[SparseProto] = []
        floats: list[tuple[int, int, bool]] = []
        graphs: list[Field] = []
        for item in self._reader.walk(place.begin, place.end, _ATTRIBUTE_RUNS):
            if item.number == 1:
                name = self._text(item)
            elif item.number == 2 and item.wire == FIXED32:
                floats.append((item.begin, item.end, False))
            elif item.number == 3:
                ints.append(self._int(item))
            elif item.number == 4 and item.end - item.begin <= MAX_NAME_BYTES:
                texts.append(self._bytes(item).decode("utf-8", "replace"))
            elif item.number in (5, 10):
                tensors.append(self._tensor(self._inside(item)))
            elif item.number in (6, 11):
                graphs.append(self._inside(item))
            elif item.number == _FLOATS:
                floats.append((item.begin, item.end, item.wire == RUN))
            elif item.number == _INTS:
                ints.extend(self._ints(item))
            elif item.number in (22, 23):
                sparse.append(self._sparse(self._inside(item)))
        if ints:
            node.ints = _with(node.ints, {name: tuple(ints)})
        if texts:
            node.texts = _with(node.texts, {name: texts[0]})
        if floats and not tensors:
            n_values = sum((end - begin) // (5 if is_tagged else 4) for begin, end, is_tagged in floats)
            tensors.append(TensorProto(dims=(n_values,), data_type=1, field=4, pieces=tuple(floats[: MAX_PIECES + 1])))
            self._count_tensor()
        if tensors:
            held = {name if not place else f"{name}.{place}": tensor for place, tensor in enumerate(tensors)}
            node.tensors = _with(node.tensors, held)
        if sparse:
            node.sparse = _with(node.sparse, {f"{name}.{place}": one for place, one in enumerate(sparse)})
        for index, item in enumerate(graphs):
            branch = name if len(graphs) == 1 else f"{name}.{index}"
            path = ".".join(part for part in (graph.path, node.name or node.op_type, branch) if part)
            inner = Graph(parent=node.graph, path=path[:MAX_NAME_BYTES], depth=graph.depth + 1, order=node.order)
            self._add_graph(inner, item)

    def _sparse(self, place: Field) -> SparseProto:
        found = SparseProto(values=TensorProto(), indices=TensorProto(), dims=())
        for item in self._reader.walk(place.begin, place.end):
            if item.number == 1:
                found.values = self._tensor(self._inside(item))
            elif item.number == 2:
                found.indices = self._tensor(self._inside(item))
            elif item.number == 3:
                found.dims = (*found.dims, *self._ints(item))
                self._check_dims(found.values.name, found.dims)
        return found

    def _tensor(self, place: Field) -> TensorProto:  # noqa: PLR0912 (a branch for each field)
        self._count_tensor()
        tensor = TensorProto()
        dims: list[int] = []
        pieces: list[tuple[int, int, bool]] = []
        external: list[tuple[str, str]] = []
        fields: set[int] = set()
        for item in self._reader.walk(place.begin, place.end, _TENSOR_RUNS):
            number = item.number
            if number == 1:
                dims.extend(self._ints(item))
                self._check_dims(tensor.name, dims)
            elif number == 2:
                tensor.data_type = self._int(item)
            elif number == 3:
                tensor.is_segment = True
            elif number == 8:
                tensor.name = self._text(item)
            elif number == RAW_DATA:
                self._inside(item)
                # Of a field that is no list, the last one counts.
                pieces = [piece for piece in pieces if RAW_DATA not in fields]
                fields.add(number)
                pieces.append((item.begin, item.end, False))
            elif number in DATA_FIELDS:
                if item.wire not in (LENGTH, RUN):
                    raise WireError(f"byte {item.begin}: values of another kind than their field has")
                fields.add(number)
                if item.end > item.begin:
                    pieces.append((item.begin, item.end, item.wire == RUN))
            elif number == 6:
                fields.add(number)
            elif number == EXTERNAL_DATA:
                external.append(self._entry(self._inside(item)))
            elif number == 14:
                tensor.is_external = self._int(item) == 1
            if max(len(pieces), len(external)) > MAX_PIECES:
                raise WireError(f"tensor {tensor.name[:200]!r}: its values are in more than {MAX_PIECES} pieces")
        if len(fields) > 1:
            raise WireError(f"tensor {tensor.name[:200]!r}: its values are given twice, in fields {sorted(fields)}")
        tensor.dims = tuple(dims)
        tensor.field = next(iter(fields), 0)
        tensor.pieces = tuple(pieces)
        tensor.external = tuple(external)
        return tensor

    def _count_tensor(self) -> None:
        self._n_tensors += 1
        if self._n_tensors > MAX_TENSORS:
            raise WireError(f"more than {MAX_TENSORS} tensors, which no model has")

    def _check_dims(self, name: str, dims: list[int] | tuple[int, ...]) -> None:
        if len(dims) > MAX_AXES or any(not 0 <= length < 1 << 62 for length in dims):
            raise WireError(f"tensor {name[:200]!r}: a shape that no tensor has")

    def _name_in(self, place: Field) -> str:
        return next((self._text(item) for item in self._reader.walk(place.begin, place.end) if item.number == 1), "")

    def _entry(self, place: Field) -> tuple[str, str]:
        key = value = ""
        for item in self._reader.walk(place.begin, place.end):
            if item.number == 1:
                key = self._text(item)
            elif item.number == 2 and item.end - item.begin <= _MAX_TEXT_BYTES:
                value = self._bytes(item).decode("utf-8", "replace")
        return key, value

    def _inside(self, item: Field) -> Field:
        if item.wire != LENGTH:
            raise WireError(f"byte {item.begin}: field {item.number} of wire type {item.wire}, which it has not")
        return item

    def _int(self, item: Field) -> int:
        if item.wire != VARINT:
            raise WireError(f"byte {item.begin}: field {item.number} of wire type {item.wire}, which it has not")
        return as_signed(item.value)

    def _bytes(self, item: Field) -> bytes:
        return self._reader.read(*self._inside(item)[2:4])

    def _text(self, item: Field) -> str:
        if item.end - item.begin > MAX_NAME_BYTES:
            raise WireError(f"byte {item.begin}: a name of {item.end - item.begin} bytes, which no model has")
        try:
            return self._bytes(item).decode("utf-8")
        except UnicodeDecodeError as error:
            raise WireError(f"byte {item.begin}: a name that is no UTF-8") from error

    def _ints(self, item: Field) -> Iterable[int]:
        """Return the integers of a list, packed or not; of a long one, the first."""
        return (as_signed(item.value),) if item.wire == VARINT else self._several(item)

    def _several(self, item: Field) -> Iterator[int]:
        begin, end = item.begin, item.end
        if item.wire == RUN:
            for count, inner in enumerate(self._reader.walk(begin, end)):
                if count >= MAX_NUMBERS:
                    return
                yield as_signed(inner.value)
            return
        self._inside(item)

        data = self._reader.read(begin, min(end, begin + 10 * MAX_NUMBERS))
        yield from _packed(data, is_whole=begin + len(data) == end)


def _with(attributes: dict[str, _T], more: dict[str, _T]) -> dict[str, _T]:
    """Add to the attributes of a node, in place but for the first."""
    if attributes is _NONE:
        return more
    attributes.update(more)
    return attributes


def _packed(data: bytes, *, is_whole: bool) -> Iterator[int]:
    value = place = 0
    for byte in data:
        value |= (byte & 0x7F) << place
        place += 7
        if byte < 0x80:
            yield as_signed(value & 0xFFFFFFFFFFFFFFFF)
            value = place = 0
        elif place > 63:
            raise WireError("a number of more than ten bytes")
    if place and is_whole:
        raise WireError("a number that does not end")
