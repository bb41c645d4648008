"""Read the files that Keras saves, without Keras and without h5py, and building nothing that they name.

Keras 3 writes ``.keras`` (an archive of ``config.json`` and ``model.weights.h5``), ``.weights.h5`` and, for large
models, shards of it with a ``.weights.json``; earlier ones and ``model.save("m.h5")`` write whole models as ``.h5``,
whose weights stand under their names. The formats are those of keras/src/saving/saving_lib.py and
keras/src/legacy/saving/legacy_h5_format.py.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from spectral.errors import CorruptCheckpointError, ModelError, ModelNotFoundError, UnsupportedModelError
from spectral.loaders.byte_ranges import read_range
from spectral.loaders.folder import MAX_INDEX_BYTES
from spectral.loaders.hdf5_file import Hdf5File, describe_dataset, describe_datasets, read_scan
from spectral.loaders.hdf5_scan import Hdf5Place, Hdf5Scan, StoredDataset, as_bfloat16
from spectral.loaders.inside import path_inside
from spectral.loaders.keras_config import Node, all_nodes, as_node, find_children, variable_dtype
from spectral.loaders.keras_layers import KerasLayer, parts_of_variable, rank_of_variable, without_number
from spectral.loaders.keras_names import NamedGroup, name_groups
from spectral.loaders.keras_quantized import dequantized
from spectral.loaders.naming import free_name, natural_order, unique_keys
from spectral.loaders.stored_zip import BadArchiveError, Entry, find_ranges, read_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from spectral.loaders.protocol import TensorInfo

MAX_CONFIG_BYTES = 1 << 26
"""No configuration of a model is larger."""

MAX_UNPACKED = 1 << 26
"""Weights that are packed in an archive are unpacked in memory, and so are not read beyond this. Keras packs none."""

KERAS_WEIGHTS = "model.weights.h5"
"""What an archive, or a folder, of Keras 3 keeps its weights in."""

_CONFIG, _WEIGHTS_NPZ = "config.json", "model.weights.npz"
_COMPARED = 1 << 12
"""Values by which two copies of a weight are told from two weights."""

_MAX_ALIKE = 64
"""Layers of one name in one layer of a model; which of more is meant, nothing tells."""

_NO_WEIGHT = "state of the training, no weight"
_GENERATOR = "state of a random generator, no weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class Renamed:
    """A recipe on variables of one layer, by the names of the file."""

    recipe: Any
    names: dict[str, str] = field(repr=False)

    def compute(self, read: Callable[[str], NDArray[Any]]) -> NDArray[Any]:
        """Return the weight."""
        weight: NDArray[Any] = self.recipe.compute(lambda name: read(self.names[name]))
        return weight


def open_keras_archive(path: Path) -> Hdf5File:
    """Open a ``.keras`` file; tensors are named as those of the model in memory.

    Raises
    ------
    ModelNotFoundError, CorruptCheckpointError, UnsafeCheckpointError, UnsupportedModelError, ModelError
        The file is missing, is no such archive, or its weights cannot be read.
    """
    try:
        entries = read_directory(path)
        if KERAS_WEIGHTS not in entries and _WEIGHTS_NPZ in entries:
            raise UnsupportedModelError(
                f"{path}: its weights are pickles in {_WEIGHTS_NPZ}: save it again as Keras does"
            )
        wanted = [entries[name] for name in (_CONFIG, KERAS_WEIGHTS) if name in entries]
        if KERAS_WEIGHTS not in entries:
            raise CorruptCheckpointError(f"{path}: not a readable Keras file (it holds no {KERAS_WEIGHTS})")
        ranges = find_ranges(path, wanted, may_be_packed=True)
        root = None
        if _CONFIG in entries:
            root = _root(_parsed(path, _content(path, entries[_CONFIG], *ranges[_CONFIG])))
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"{path}: no such file") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    except BadArchiveError as error:
        raise CorruptCheckpointError(f"{path}: not a readable Keras file ({error})") from error
    entry = entries[KERAS_WEIGHTS]
    begin, end = ranges[KERAS_WEIGHTS]
    if not entry.is_stored and entry.size > MAX_UNPACKED:
        raise UnsupportedModelError(
            f"{path}: its weights are packed ({entry.size} bytes unpacked), and read where they stand only if they are "
            "not: unpack the archive and open its folder, or save the model again with Keras, which packs nothing"
        )
    place = Hdf5Place(
        path=path, begin=begin, end=end, unpacked=-1 if entry.is_stored else entry.size, checksum=entry.checksum
    )
    return _keras_file(path, [read_scan(path, place)], root, is_named=True)


def open_keras_folder(path: Path) -> Hdf5File:
    """Open an unpacked ``.keras`` file: a folder with ``config.json`` and ``model.weights.h5``."""
    config = path / _CONFIG
    root = _root(_parsed(config, _limited(config))) if config.is_file() else None
    return _keras_file(path, [read_scan(path / KERAS_WEIGHTS)], root, is_named=root is not None)


def open_keras_index(path: Path) -> Hdf5File:
    """Open the ``.weights.json`` file of sharded weights, and all shards that it names."""
    payload = _parsed(path, _limited(path))
    shards: set[str] = set()
    weight_map = payload.get("weight_map") if isinstance(payload, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CorruptCheckpointError(f"{path}: has no weight_map that names shards")
    for name, files in weight_map.items():
        for file in files if isinstance(files, list) else [files]:
            if not isinstance(file, str):
                raise CorruptCheckpointError(f"{path}: weight_map[{name[:200]!r}] names no files")
            shards.add(file)
    scans = [read_scan(path_inside(path.parent, path, shard)) for shard in sorted(shards, key=natural_order)]
    return _keras_file(path, scans, None, is_named=False)


def open_h5(path: Path) -> Hdf5File:
    """Open an HDF5 file: a whole model or weights of any Keras, or arrays of anything else, under their paths."""
    scan = read_scan(path)
    attributes = scan.attributes
    for top in ("model_weights", ""):
        if any(key.startswith("layer_names") for key in attributes.get(top, {})):
            texts = attributes.get("", {}).get("model_config", [])
            root = _root(_parsed(path, texts[0].encode())) if texts else None
            return _legacy_file(path, scan, top, root)
    if any(name.endswith("/vars/0") or name == "vars/0" for name in scan.datasets):
        return _keras_file(path, [scan], None, is_named=False)
    infos, datasets = describe_datasets(scan)
    return Hdf5File(path=path, infos=infos, datasets=datasets)


def _keras_file(path: Path, scans: list[Hdf5Scan], root: Node | None, *, is_named: bool) -> Hdf5File:
    datasets: dict[str, StoredDataset] = {}
    attributes: dict[str, dict[str, list[str]]] = {}
    links: dict[str, TensorInfo] = {}
    for scan in scans:
        for name, dataset in scan.datasets.items():
            if name in datasets:
                raise CorruptCheckpointError(f"{path}: the tensor {name[:200]!r} is in two shards")
            datasets[name] = dataset
        for group, found in scan.attributes.items():
            attributes.setdefault(group, {}).update(found)
        infos, _ = describe_datasets(scan)
        links.update({name: info for name, info in infos.items() if name not in scan.datasets})
    groups = name_groups({name: dataset.dtype for name, dataset in datasets.items()}, attributes, root)
    return _assembled(path, datasets, groups, links, is_named=is_named)


def _assembled(
    path: Path,
    datasets: Mapping[str, StoredDataset],
    groups: list[NamedGroup],
    links: dict[str, TensorInfo],
    *,
    is_named: bool,
) -> Hdf5File:
    """Return the source of all groups, their tensors named as in memory or as in the file."""
    infos: dict[str, TensorInfo] = {}
    placed: dict[str, StoredDataset] = {}
    recipes: dict[str, Renamed] = {}
    originals: dict[str, str] = {}
    taken: set[str] = set()
    numbers: dict[str, int] = {}
    numbers_of_file: dict[str, int] = {}
    for group in groups:
        own: dict[str, TensorInfo] = {}
        for key, leaf in zip(group.keys, group.leaves or group.keys, strict=True):
            live = key
            if group.leaves is not None:
                live = free_name("/".join((*group.names, leaf)), taken, numbers)
                taken.add(live)
            name = free_name(live if is_named else key, infos, numbers_of_file)
            if live != name:
                originals[name] = live
            own[leaf] = _described(name, datasets[key], group)
            placed[name] = datasets[key]
            infos[name] = own[leaf]
        if group.layer is not None and not group.is_state:
            names = {leaf: info.name for leaf, info in own.items()}
            read, found = _with_meaning(group.layer, own)
            infos.update({info.name: info for info in read.values()})
            recipes.update({names[leaf]: Renamed(recipe=recipe, names=names) for leaf, recipe in found.items()})
    _tie_wrapped(infos, groups, originals)
    for name, info in links.items():
        infos.setdefault(name, info)
    return Hdf5File(path=path, infos=infos, datasets=placed, recipes=recipes, original_names=originals)


def _described(name: str, dataset: StoredDataset, group: NamedGroup) -> TensorInfo:
    info = describe_dataset(name, dataset)
    if group.is_state:
        return replace(info, refusal=_NO_WEIGHT, is_state=True)
    if group.layer is not None and group.layer.class_name == "seedgenerator":
        return replace(info, refusal=_GENERATOR, is_state=True)
    return info


def _with_meaning(layer: KerasLayer, own: dict[str, TensorInfo]) -> tuple[dict[str, TensorInfo], dict[str, Any]]:
    """Return a layer's variables dequantised and cut into matrices, and how to dequantise."""
    read, recipes = dequantized(layer, own)
    cut = {
        leaf: replace(info, parts=parts_of_variable(leaf, info.shape, layer)) if info.refusal is None else info
        for leaf, info in read.items()
    }
    return cut, recipes


def _tie_wrapped(infos: dict[str, TensorInfo], groups: list[NamedGroup], originals: Mapping[str, str]) -> None:
    """Mark the kernel that a spectral normalisation saves beside the same one of the layer within it."""
    names = {originals.get(name, name): name for name in infos}
    inside: dict[tuple[str, ...], list[str]] = {}
    for group in groups:
        for leaf in group.leaves or ():
            live = "/".join((*group.names, leaf))
            if leaf in ("kernel", "embeddings") and group.names and live in names:
                inside.setdefault(group.names[:-1], []).append(names[live])
    for group in groups:
        if group.layer is None or group.layer.class_name != "spectralnormalization":
            continue
        outer, inner = names.get("/".join((*group.names, "kernel"))), inside.get(group.names, [])
        if outer is not None and len(inner) == 1 and infos[inner[0]].shape == infos[outer].shape:
            infos[outer] = replace(infos[outer], refusal=f"tied to {inner[0]}", counted_in=inner[0])


def _legacy_file(path: Path, scan: Hdf5Scan, top: str, root: Node | None) -> Hdf5File:
    """Name the weights of a file in which each layer's stand under their own names."""
    prefix = f"{top}/" if top else ""
    layers: dict[tuple[str, str], list[tuple[tuple[str, ...], Node]]] = {}
    order: dict[tuple[str, ...], int] = {}
    for names, node in all_nodes(root) if root is not None else ():
        order.setdefault(names, len(order))
        alike = layers.setdefault((names[0], names[-1]), [])
        if len(alike) < _MAX_ALIKE:
            alike.append((names, node))
    members: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    nodes: dict[tuple[str, ...], Node] = {}
    states: list[str] = []
    for dataset in sorted(scan.datasets, key=natural_order):
        layer, _, rest = dataset.removeprefix(prefix).partition("/")
        if not dataset.startswith(prefix) or not rest or layer in ("optimizer_weights", "top_level_model_weights"):
            states.append(dataset)
            continue
        owner, leaf, found_node = _owner_of(layer, rest, layers, "" if root is None else root.name)
        members.setdefault(owner, []).append((dataset, leaf))
        if found_node is not None:
            nodes.setdefault(owner, found_node)
    datasets = dict(scan.datasets)
    for names, node in nodes.items():
        if variable_dtype(node.config) == "bfloat16":
            # This format does not say it of the values themselves.
            datasets.update({name: as_bfloat16(datasets[name]) for name, _ in members[names]})
    groups = []
    for names, found in members.items():
        layer_of = nodes[names].layer if names in nodes else KerasLayer(class_names="")
        keys = _in_order(layer_of, found)
        place = order.get(names, order.get((*names[:-1], without_number(names[-1])), len(order)))
        groups.append(
            NamedGroup(names=names, layer=layer_of, keys=tuple(keys), leaves=tuple(keys.values()), order=(place, names))
        )
    groups.sort(key=lambda group: group.order)
    for state in states:
        is_state = state.startswith("optimizer_weights/")
        groups.append(NamedGroup(names=(), layer=None, leaves=None, keys=(state,), is_state=is_state))
    infos, _ = describe_datasets(scan)
    links = {name: info for name, info in infos.items() if name not in scan.datasets}
    source = _assembled(path, datasets, groups, links, is_named=True)
    return replace(source, infos=_tie_shared(source, prefix))


def _tie_shared(source: Hdf5File, prefix: str) -> dict[str, TensorInfo]:
    """Mark the weights of a layer that stands in two others: this format has them twice, under one name.

    A layer of another model may have that name, too: only where the values begin alike it is the same one.
    """
    infos = dict(source.infos)
    names = {dataset.path: name for name, dataset in source.datasets.items()}
    for path, name in names.items():
        group, _, rest = path.removeprefix(prefix).partition("/")
        first = rest.partition("/")[0]
        other = names.get(f"{prefix}{first}/{rest}")
        if (
            first == group
            or other is None
            or infos[name].refusal is not None
            or infos[other].shape != infos[name].shape
        ):
            continue
        n = min(infos[name].n_values, _COMPARED)
        if source.load_span(name, 0, n).tobytes() == source.load_span(other, 0, n).tobytes():
            infos[name] = replace(infos[name], refusal=f"tied to {other}", counted_in=other)
    return infos


def _owner_of(
    layer: str, rest: str, layers: Mapping[tuple[str, str], list[tuple[tuple[str, ...], Node]]], model: str
) -> tuple[tuple[str, ...], str, Node | None]:
    """Return the layers down to the one that holds a weight, its name there, and that layer in the configuration.

    The name of a weight ends as the layers around it do, but how far it goes back depends on how the model was built.
    A cell that a layer makes for itself bears a number that the configuration does not say.
    """
    *middle, leaf = [part.removesuffix(":0") for part in rest.split("/")]
    last = middle[-1] if middle else ""
    best, n_best = _longest(layers.get((layer, last), []), middle)
    if not best:
        best, n_best = _longest(layers.get((layer, without_number(last)), []), middle)
    if best:
        names, node = min(best, key=lambda item: len(item[0]))
        if node.class_name.lower() == "timedistributed":
            # Before Keras 3, what a wrapper holds for its layer bore the wrapper's name alone.
            inside = find_children(node).get("layer")
            return (names, leaf, node) if inside is None else ((*names, inside.name), leaf, inside)
        return (*names[:-n_best], *middle[-n_best:]), leaf, node
    if middle[:1] == [model] and middle[1:2] == [layer]:
        middle = middle[1:]
    return tuple(middle if middle[:1] == [layer] else [layer, *middle]), leaf, None


def _longest(
    candidates: list[tuple[tuple[str, ...], Node]], middle: list[str]
) -> tuple[list[tuple[tuple[str, ...], Node]], int]:
    """Return the layers whose names share the longest end with those around a weight, and its length."""
    best: list[tuple[tuple[str, ...], Node]] = []
    n_best = 0
    for names, node in candidates:
        n_common = min(len(names), len(middle))
        # The last one is the same, but for a number.
        n = next((i for i in range(1, n_common) if names[-1 - i] != middle[-1 - i]), n_common)
        if n > n_best:
            best, n_best = [(names, node)], n
        elif n == n_best:
            best.append((names, node))
    return best, n_best


def _in_order(layer: KerasLayer, found: list[tuple[str, str]]) -> dict[str, str]:
    """Return dataset -> name in its layer, in the order in which the layer keeps its variables, all different."""
    ordered = sorted(found, key=lambda item: (rank_of_variable(layer, item[1]), item[0]))
    named: dict[str, str] = {}
    taken: set[str] = set()
    numbers: dict[str, int] = {}
    for dataset, leaf in ordered:
        named[dataset] = free_name(leaf, taken, numbers)
        taken.add(named[dataset])
    return named


def _root(payload: Any) -> Node | None:
    return as_node(payload)


def _parsed(path: Path, data: bytes) -> Any:
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=unique_keys)
    except RecursionError as error:
        raise CorruptCheckpointError(f"{path}: its configuration is nested too deeply") from error
    except ValueError as error:
        raise CorruptCheckpointError(f"{path}: its configuration is not valid JSON ({str(error)[:200]})") from error


def _content(path: Path, entry: Entry, begin: int, end: int) -> bytes:
    """Return a small entry of the archive."""
    if entry.size > MAX_CONFIG_BYTES or end - begin > MAX_CONFIG_BYTES:
        raise BadArchiveError(f"{entry.name} claims {entry.size} bytes")
    data = bytes(read_range(path, entry.name, begin, end))
    if entry.is_stored:
        return data
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, max(1, entry.size))
    except zlib.error as error:
        raise BadArchiveError(f"{entry.name} cannot be unpacked: {error}") from error


def _limited(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_INDEX_BYTES + 1)
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"{path}: no such file") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > MAX_INDEX_BYTES:
        raise CorruptCheckpointError(f"{path}: larger than {MAX_INDEX_BYTES} bytes, which no index is")
    return data
