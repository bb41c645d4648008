"""The configuration of a Keras model as a tree of layers, each under the key by which files of weights call it.

A file of weights names layers by attributes and classes (``layers/dense_1/cell``), the configuration by their own
names. Nothing is built or looked up: the configuration is a dictionary, and every value of it may be of any type.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from spectral.loaders.keras_layers import KerasLayer, equation_axes, layer_from_config, projection_equation

if TYPE_CHECKING:
    from collections.abc import Iterator

_CELLS = {
    "lstm": ("LSTMCell", "lstm_cell"),
    "gru": ("GRUCell", "gru_cell"),
    "simplernn": ("SimpleRNNCell", "simple_rnn_cell"),
    "convlstm1d": ("ConvLSTMCell", "conv_lstm_cell"),
    "convlstm2d": ("ConvLSTMCell", "conv_lstm_cell"),
    "convlstm3d": ("ConvLSTMCell", "conv_lstm_cell"),
}
"""Layer -> class and name of the cell that it makes for itself."""

PROJECTIONS = {
    "query_dense": "query",
    "key_dense": "key",
    "gate_dense": "gate",
    "value_dense": "value",
    "output_dense": "attention_output",
}
"""Key of a layer that an attention makes for itself -> its name."""

_ATTENTIONS = ("multiheadattention", "groupedqueryattention", "groupqueryattention")

_SOURCES = {"layer": "layer", "forward_layer": "layer", "backward_layer": "backward_layer", "cell": "cell"}
"""Key in a file -> key in the configuration, for wrappers and recurrent layers."""

_KEYS = {"GroupQueryAttention": "grouped_query_attention"}
"""Public name of a class that is called otherwise in the code -> the key made of that."""

_MAX_DEPTH = 64
_MAX_LAYERS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One layer of a model.

    Attributes
    ----------
    name : str
        Its own name.
    class_name : str
        Its class.
    config : dict
        Its configuration; that of the attention for a layer that this makes for itself.
    projection : str
        Which of them it is.
    rank : int
        Its position among its neighbours.
    """

    name: str
    class_name: str
    config: dict[str, Any] = field(repr=False)
    projection: str = ""
    rank: int = 0

    @property
    def layer(self) -> KerasLayer:
        """What the rules need to know of it."""
        if not self.projection:
            layer = layer_from_config(self.class_name, self.config)
            return replace(layer, kernel_shape=_einsum_shape(layer.equation, self.config.get("output_shape")))
        is_output = self.projection == "attention_output"
        switches = tuple(
            (key, value) for key, value in self.config.items() if key == "use_bias" and type(value) is bool
        )
        return KerasLayer(
            class_names="einsumdense",
            equation=projection_equation(3, 2 if is_output else 1),
            switches=switches,
            kernel_shape=_projection_shape(self.projection, self.config),
        )


def find_children(node: Node) -> dict[str, Node]:
    """Return the layers that a layer consists of, by key in a file; ``layers/dense_1`` for those of a list."""
    children: dict[str, Node] = {}
    for key in ("layers", "cells"):
        inside = node.config.get(key)
        if not node.projection and isinstance(inside, list):
            children.update(_listed(key, inside))
    own_class = node.class_name.lower()
    if own_class in _CELLS:
        class_name, name = _CELLS[own_class]
        children["cell"] = Node(name=name, class_name=class_name, config=node.config)
        return children
    if own_class in _ATTENTIONS and not node.projection:
        for rank, (key, name) in enumerate(PROJECTIONS.items()):
            children[key] = Node(name=name, class_name="EinsumDense", config=node.config, projection=name, rank=rank)
        return children
    is_bidirectional = own_class == "bidirectional"
    for rank, (key, source) in enumerate(_SOURCES.items()):
        child = as_node(node.config.get(source, node.config.get("layer") if is_bidirectional else None), rank)
        if child is not None and not (is_bidirectional and key in ("layer", "cell")):
            children[key] = replace(child, name=_with_direction(key, child.name)) if is_bidirectional else child
    for key, value in node.config.items():
        is_new = key not in children and key not in _SOURCES.values() and not node.projection
        child = as_node(value) if is_new else None
        if child is not None:
            children[key] = child
    return children


def find_child(children: dict[str, Node], key: str) -> Node | None:
    """Return a child by its key, which older files give with or without a dash before it."""
    return children.get(key) or children.get(key.removeprefix("_"))


def as_node(value: Any, rank: int = 0) -> Node | None:
    """Return a serialised layer as a node, or None where ``value`` is none."""
    if not isinstance(value, dict):
        return None
    class_name, config = value.get("class_name"), value.get("config")
    if isinstance(config, list):
        # A Sequential of the first Keras has its layers there, without a name.
        config = {"layers": config}
    if not isinstance(class_name, str) or not isinstance(config, dict):
        return None
    name = config.get("name", value.get("name"))
    return Node(name=name if isinstance(name, str) else "", class_name=class_name[:200], config=config, rank=rank)


def variable_dtype(config: dict[str, Any]) -> str | None:
    """Return the type that a layer's policy gives its variables; None where it has none, or one of two types."""
    policy = config.get("dtype")
    if isinstance(policy, dict) and isinstance(policy.get("config"), dict):
        policy = policy["config"].get("name", policy["config"].get("source_name"))
    return policy if isinstance(policy, str) and not policy.startswith("mixed") else None


def all_nodes(root: Node) -> Iterator[tuple[tuple[str, ...], Node]]:
    """Yield every layer below a node, with the names from there to it; the number and depth are bounded."""
    pending: list[tuple[tuple[str, ...], Node]] = [((), root)]
    n = 0
    while pending and n < _MAX_LAYERS:
        names, node = pending.pop()
        if names:
            yield names, node
        if len(names) < _MAX_DEPTH:
            inside = list(find_children(node).items())
            pending.extend(((*names, child.name), child) for _, child in reversed(inside))
        n += 1


def _listed(key: str, layers: list[Any]) -> dict[str, Node]:
    """Return the layers of a list by the keys that Keras gives them: their class, and a number from the second on."""
    counts: dict[str, int] = {}
    found: dict[str, Node] = {}
    for rank, value in enumerate(layers[:_MAX_LAYERS]):
        node = as_node(value, rank)
        if node is None:
            continue
        word = _KEYS.get(node.class_name) or snake_case(node.class_name)
        n = counts.get(word, -1) + 1
        counts[word] = n
        found[f"{key}/{word}_{n}" if n else f"{key}/{word}"] = node
    return found


def _with_direction(key: str, name: str) -> str:
    """Return what a bidirectional layer calls one of its two, which before Keras 3 its configuration does not say."""
    direction = key.partition("_")[0]
    return name if name.startswith(("forward_", "backward_")) else f"{direction}_{name}"


def snake_case(class_name: str) -> str:
    """Return a class name as Keras writes it in keys and default names (``Conv2DTranspose``, ``conv2d_transpose``)."""
    word = re.sub(r"\W+", "", class_name)
    word = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", word)
    return re.sub("([a-z])([A-Z])", r"\1_\2", word).lower()


def _einsum_shape(equation: str | None, output_shape: Any) -> tuple[int, ...] | None:
    """Return the shape of a kernel as far as the output's tells it; -1 for the one axis that it does not tell."""
    lengths = [output_shape] if type(output_shape) is int else output_shape
    if equation is None or not isinstance(lengths, list):
        return None
    _, kernel, output = equation_axes(equation)
    known = dict(zip(reversed(output), reversed(lengths), strict=False))
    shape = tuple(known.get(letter) if type(known.get(letter)) is int else -1 for letter in kernel)
    return _with_one_unknown(shape)


def _projection_shape(name: str, config: dict[str, Any]) -> tuple[int, ...] | None:
    """Return the same for a layer that an attention makes for itself, from the attention's configuration."""
    is_key_or_value = name in ("key", "value")
    heads = config.get("num_key_value_heads" if is_key_or_value else "num_query_heads", config.get("num_heads"))
    size = config.get("head_dim", config.get("key_dim"))
    if name in ("value", "attention_output", "gate") and type(config.get("value_dim")) is int:
        size = config["value_dim"]
    if type(heads) is not int or type(size) is not int:
        return None
    return _with_one_unknown((heads, size, -1) if name == "attention_output" else (-1, heads, size))


def _with_one_unknown(shape: tuple[int | None, ...]) -> tuple[int, ...] | None:
    lengths = tuple(-1 if length is None else length for length in shape)
    is_plausible = all(length == -1 or 0 < length < 1 << 40 for length in lengths)
    return lengths if is_plausible and lengths.count(-1) <= 1 else None
