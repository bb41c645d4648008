"""Names and meaning of the variables in Keras's files of weights.

Keras 3 writes ``layers/dense_1/vars/0``: a path of attributes, with a layer's own name in an attribute of its group. A
model in memory calls the same variable ``encoder/kernel``: the names of layers from the model down to the one that
holds it, and the variable's. The name comes from the file where it says it, and otherwise from the configuration; what
the number stands for, from the layer's class.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from spectral.loaders.keras_config import Node, all_nodes, find_child, find_children
from spectral.loaders.keras_layers import KerasLayer, class_of_key, projection_equation, variable_names
from spectral.loaders.naming import natural_order

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_VARIABLES = "/vars"
_STATE_GROUPS = (
    "optimizer",
    "optimizer_weights",
    "_optimizer",
    "metrics",
    "_metrics",
    "_compile_metrics",
    "_loss_tracker",
)
"""What a model that was trained holds beside its layers, at the top of its file."""
_UNRANKED = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedGroup:
    """The variables of one layer in a file.

    Attributes
    ----------
    names : tuple of str
        Those of the layers from the model down to it; empty for the model itself.
    layer : KerasLayer, optional
        What it is, where that is known.
    leaves : tuple of str, optional
        What it calls its variables, in the file's order, where that is known.
    keys : tuple of str
        The variables' keys in the file, in their order.
    order : tuple
        Sorts groups as the model's layers are.
    is_state : bool
        Whether it belongs to an optimizer or the like.
    """

    names: tuple[str, ...]
    layer: KerasLayer | None
    leaves: tuple[str, ...] | None
    keys: tuple[str, ...]
    order: tuple[object, ...] = field(default=(), repr=False)
    is_state: bool = False


def name_groups(
    dtypes: Mapping[str, str], attributes: Mapping[str, Mapping[str, list[str]]], root: Node | None
) -> list[NamedGroup]:
    """Say for each group of variables what it is.

    Parameters
    ----------
    dtypes : mapping of str to str
        Path of a variable -> its type.
    attributes : mapping of str to mapping
        Path of a group -> its attributes.
    root : Node, optional
        The model's configuration.
    """
    tree = _Tree(attributes, root)
    members: dict[str, list[str]] = {}
    for path in dtypes:
        group, _, _ = path.rpartition("/")
        members.setdefault(group, []).append(path)
    found = []
    for group, paths in members.items():
        is_layer = group == "vars" or group.endswith(_VARIABLES)
        owner = group.removesuffix("vars").removesuffix("/")
        keys = tuple(sorted(paths, key=natural_order))
        if not is_layer:
            found.append(
                NamedGroup(names=(), layer=None, leaves=None, keys=keys, order=((_UNRANKED, natural_order(group)),))
            )
            continue
        is_state = owner.partition("/")[0] in _STATE_GROUPS
        layer = None if is_state else tree.layer(owner)
        leaves = None if layer is None else variable_names(layer, tuple(dtypes[key] for key in keys))
        names = tree.names(owner)
        is_known = leaves is not None and names is not None
        found.append(
            NamedGroup(
                names=names or (),
                layer=layer if is_known else None,
                leaves=leaves if is_known else None,
                keys=keys,
                order=tree.order(owner),
                is_state=is_state,
            )
        )
    return sorted(found, key=lambda group: group.order)


class _Tree:
    """The layers of a file, by the paths of their groups."""

    def __init__(self, attributes: Mapping[str, Mapping[str, list[str]]], root: Node | None) -> None:
        self._attributes = attributes
        self._nodes: dict[str, Node | None] = {"": root}
        self._children: dict[int, dict[str, Node]] = {}
        self._by_name = {} if root is None else _unique(all_nodes(root))

    def names(self, owner: str) -> tuple[str, ...] | None:
        """Return the names of the layers from the model to this one, or None where the last has none."""
        parts = owner.split("/") if owner else []
        found: list[str] = []
        name = None
        for n in range(1, len(parts) + 1):
            name = self._name("/".join(parts[:n]))
            if name is not None:
                found.append(name)
        return tuple(found) if name is not None or not parts else None

    def layer(self, owner: str) -> KerasLayer | None:
        """Return what a layer is: by the configuration, or by the class in its key or in the name it has by default."""
        node = self._node(owner)
        if node is not None and owner:
            return node.layer
        if not owner:
            return None
        name = self._name(owner) or ""
        other = self._by_name.get(name)
        if other is not None:
            return other.layer
        above, _, key = owner.rpartition("/")
        layer = self._made_by(above, key)
        if layer is not None:
            return layer
        class_name = class_of_key(key) or class_of_key(name)
        return None if class_name is None else KerasLayer(class_names=class_name)

    def order(self, owner: str) -> tuple[object, ...]:
        """Return a key that sorts groups as the layers of the model are."""
        parts = owner.split("/") if owner else []
        key: list[object] = []
        for n in range(1, len(parts) + 1):
            node = self._node("/".join(parts[:n]))
            key.append((_UNRANKED if node is None else node.rank, natural_order(parts[n - 1])))
        return tuple(key)

    def _made_by(self, above: str, key: str) -> KerasLayer | None:
        """Return a projection of an attention that only its neighbours tell."""
        word = key.removeprefix("_")
        if word in ("query_dense", "key_dense", "value_dense", "gate_dense", "output_dense"):
            parent = class_of_key(above.rpartition("/")[2])
            if parent is None or "attention" in parent:
                return KerasLayer(
                    class_names="einsumdense", equation=projection_equation(3, 2 if word == "output_dense" else 1)
                )
        if word == "seed_generator":
            return KerasLayer(class_names="seedgenerator")
        return None

    def _name(self, group: str) -> str | None:
        given = self._attributes.get(f"{group}{_VARIABLES}", {}).get("name", [])
        if len(given) == 1 and given[0]:
            return given[0]
        node = self._node(group)
        if node is not None and node.name:
            return node.name
        return "seed_generator" if group.endswith("/seed_generator") else None

    def _node(self, group: str) -> Node | None:
        """Return a group's layer in the configuration: a child of the group above, or of the one above a list."""
        # From the top, so that no path of any depth is followed by recursion.
        parts = group.split("/") if group else []
        for n in range(1, len(parts) + 1):
            path = "/".join(parts[:n])
            if path not in self._nodes:
                above, _, key = path.rpartition("/")
                self._nodes[path] = self._child(above, key)
        return self._nodes.get(group)

    def _child(self, above: str, key: str) -> Node | None:
        parent = self._nodes.get(above)
        if parent is not None:
            return find_child(self._inside(parent), key)
        upper, _, container = above.rpartition("/")
        parent = self._nodes.get(upper)
        if parent is None or not above:
            return None
        container = "layers" if container == "_layer_checkpoint_dependencies" else container
        return self._inside(parent).get(f"{container}/{key}")

    def _inside(self, node: Node) -> dict[str, Node]:
        if id(node) not in self._children:
            self._children[id(node)] = find_children(node)
        return self._children[id(node)]


def _unique(nodes: Iterable[tuple[tuple[str, ...], Node]]) -> dict[str, Node]:
    """Return the layers whose name no layer of another class has."""
    found: dict[str, Node] = {}
    doubtful: set[str] = set()
    for names, node in nodes:
        name = names[-1]
        known = found.setdefault(name, node)
        if known.class_name != node.class_name:
            doubtful.add(name)
    return {name: node for name, node in found.items() if name and name not in doubtful}
