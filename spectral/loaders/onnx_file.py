"""Read ``.onnx`` files without onnx and protobuf: names and shapes by walking the messages, tensors one at a time.

Written here because ``onnx.load`` brings a whole file into memory, and because codes are a weight only together with
the operators that make one of them. What those compute, :mod:`spectral.loaders.onnx_quantized` finds.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from spectral.errors import CorruptCheckpointError, ModelError, ModelNotFoundError
from spectral.loaders.byte_ranges import size_of, stream_range
from spectral.loaders.dtypes import INDEX_DTYPES, why_not_float
from spectral.loaders.onnx_consumers import consumer_of, recurrent_layers
from spectral.loaders.onnx_dequantize import dequantize
from spectral.loaders.onnx_external import ExternalFiles
from spectral.loaders.onnx_graph import Constant, GraphIndex, index_graphs
from spectral.loaders.onnx_names import is_generated, original_name
from spectral.loaders.onnx_proto import RAW_DATA, ModelReader, SparseProto, TensorProto
from spectral.loaders.onnx_quantized import Quantized, QuantizedWeights, is_quantisation
from spectral.loaders.onnx_roles import WeightUse, describe_role, find_use, is_initial_state, last_uses
from spectral.loaders.onnx_tensor import ELEMENT_TYPES, STRING, StoredValues, n_bytes_of, why_wrong_size
from spectral.loaders.protobuf_wire import WireError, WireReader
from spectral.loaders.protocol import LayerType, TensorInfo

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from spectral.loaders.onnx_dequantize import Recipe
    from spectral.loaders.onnx_names import Original

_NUMBER = "a number of the computation, not a weight"
_ACTIVATION = "the scale or zero point of an activation, not a weight"
_STATE = "the state of a recurrent layer before its first step, not a weight"
_CHOICE = "one of the operands that Where chooses from, not a weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxFile:
    """One ``.onnx`` file, opened by :func:`open_onnx`.

    Attributes
    ----------
    path : Path
        The file.
    infos : dict of str to TensorInfo
        All tensors, in the order in which the model uses them.
    stored : dict of str to StoredValues
        Where their values lie.
    recipes : dict of str to Recipe
        How those come about that are quantised.
    original_names : dict of str to str
        Tensor name -> name in the framework that it was exported from, where that is known.
    original_parts : dict of str to dict
        Tensor name -> part name -> name of that matrix there, for a tensor that was several.
    transposed_names : frozenset of str
        Tensors that have their axes in another order than the original.
    """

    path: Path
    infos: dict[str, TensorInfo] = field(repr=False)
    stored: dict[str, StoredValues] = field(repr=False)
    recipes: dict[str, Recipe] = field(repr=False)
    original_names: dict[str, str] = field(repr=False)
    original_parts: dict[str, dict[str, str]] = field(repr=False)
    transposed_names: frozenset[str] = field(repr=False)

    @property
    def label(self) -> str:
        return str(self.path)

    def tensors(self) -> tuple[TensorInfo, ...]:
        return tuple(self.infos.values())

    def load(self, name: str) -> NDArray[Any]:
        info = self._require(name)
        return self._read(name, 0, info.n_values).reshape(info.shape)

    def load_span(self, name: str, begin: int, end: int) -> NDArray[Any]:
        self._require(name)
        return self._read(name, begin, end)

    def stream(self, name: str) -> Iterator[memoryview] | None:
        self._require(name)
        stored = self.stored[name]
        if name in self.recipes or not stored.is_raw:
            return None
        return stream_range(stored.path, name, *stored.byte_range)

    def load_all(self) -> dict[str, NDArray[Any]]:
        """Return every tensor as it is stored: of quantised ones the codes, of those of half a byte each in one."""
        return {name: stored.read(name).reshape(stored.shape) for name, stored in self.stored.items()}

    def _require(self, name: str) -> TensorInfo:
        info = self.infos[name]
        if info.refusal is not None:
            raise ModelError(f"{self.path}: tensor {name[:200]!r}: {info.refusal}")
        return info

    def _read(self, name: str, begin: int, end: int) -> NDArray[Any]:
        recipe = self.recipes.get(name)
        if recipe is None:
            return self.stored[name].read(name, begin, end)
        return dequantize(recipe, self.stored, begin, end)


def open_onnx(path: Path) -> OnnxFile:
    """Read the graphs of an ``.onnx`` file and the headers of its tensors.

    Parameters
    ----------
    path : Path
        The file; those that hold its tensors outside lie beside it.

    Raises
    ------
    ModelNotFoundError
        The file, or one beside it, is missing.
    CorruptCheckpointError
        It is damaged or no ONNX file; the message says where.
    UnsafeCheckpointError
        Tensors are said to be in a file outside its folder.
    """
    try:
        return _Builder(path, _read_graphs(path)).build()
    except WireError as error:
        raise CorruptCheckpointError(f"{path}: not a readable ONNX file ({error})") from error


def _read_graphs(path: Path) -> GraphIndex:
    try:
        with path.open("rb", buffering=0) as stream:
            n_file = size_of(stream)
            if n_file == 0:
                raise CorruptCheckpointError(f"{path}: the file is empty")
            return index_graphs(ModelReader(WireReader(stream, n_file)).read())
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"{path}: no such file") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error


class _Builder:
    """Describes the tensors of one file, each by itself and then by what the graph does with it."""

    def __init__(self, path: Path, index: GraphIndex) -> None:
        self._path = path
        self._index = index
        self._external = ExternalFiles(path)
        self._infos: dict[str, TensorInfo] = {}
        self._stored: dict[str, StoredValues] = {}
        self._recipes: dict[str, Recipe] = {}
        self._originals: dict[str, Original] = {}
        self._uses: dict[str, WeightUse] = {}
        self._layers = recurrent_layers(index.model)

    def build(self) -> OnnxFile:
        constants = self._in_order()
        for constant in constants:
            if isinstance(constant.proto, SparseProto):
                self._sparse(constant, constant.proto)
            else:
                self._plain(constant.name, constant.proto)
        self._external.check()
        self._mark_ties()
        quantized = QuantizedWeights(self._index, self._stored)
        for constant in constants:
            found = quantized.find(constant) if self._infos[constant.name].counted_in is None else None
            self._describe(constant, found)
        self._mark_factors()
        originals = self._unambiguous()
        return OnnxFile(
            path=self._path,
            infos=self._infos,
            stored=self._stored,
            recipes=self._recipes,
            original_names={name: original.name for name, original in originals.items()},
            original_parts=self._parts_of(originals),
            transposed_names=frozenset(name for name, original in originals.items() if original.is_turned),
        )

    def _in_order(self) -> list[Constant]:
        """Return the tensors in the order in which the model uses them; those that it does not use come last."""

        def order(constant: Constant) -> tuple[int, tuple[int, ...]]:
            uses = self._index.uses.get(constant.value)
            if not uses and constant.node is not None:
                return 0, constant.node.order
            return (0, uses[0].node.order) if uses else (1, ())

        return sorted(self._index.constants.values(), key=order)

    def _plain(self, name: str, proto: TensorProto) -> None:
        """Check the header of a tensor against the file, and list it."""
        where = f"{self._path}: tensor {name[:200]!r}"
        if proto.data_type == STRING:
            self._list(name, proto.dims, "string", "holds texts, not numbers")
            return
        if proto.data_type <= 0:
            raise CorruptCheckpointError(f"{where}: has no element type")
        known = ELEMENT_TYPES.get(proto.data_type)
        if known is None:
            reason = f"its element type {proto.data_type} is not known"
            self._list(name, proto.dims, f"onnx_type_{proto.data_type}", reason)
            return
        dtype, bits, list_field = known
        if proto.is_segment:
            self._list(
                name, proto.dims, dtype, "is a segment of a larger tensor, which ONNX gives no way to put together"
            )
            return
        path, pieces, used_field = self._path, proto.pieces, proto.field
        if proto.is_external:
            path, begin, end = self._external.locate(proto, name, n_bytes_of(proto.dims, bits))
            pieces, used_field = ((begin, end, False),), RAW_DATA
        else:
            problem = why_wrong_size(proto, bits, list_field)
            if problem is not None:
                raise CorruptCheckpointError(f"{where}: {problem}")
        self._stored[name] = StoredValues(
            path=path, shape=proto.dims, dtype=dtype, bits=bits, number=used_field or RAW_DATA, pieces=pieces
        )
        self._list(name, proto.dims, dtype, why_not_float(dtype))

    def _sparse(self, constant: Constant, proto: SparseProto) -> None:
        known = ELEMENT_TYPES.get(proto.values.data_type, ("string", 0, 0))
        self._list(constant.name, proto.dims, known[0], "is stored sparse, which is not read")

    def _list(self, name: str, shape: tuple[int, ...], dtype: str, refusal: str | None) -> None:
        self._infos[name] = TensorInfo(name=name, shape=shape, dtype=dtype, refusal=refusal)

    def _mark_ties(self) -> None:
        """Refuse a tensor that has its values where another one has them, in a file beside the model."""
        first: dict[tuple[object, ...], str] = {}
        for name, stored in self._stored.items():
            if stored.path == self._path or stored.n_values == 0:
                continue
            holder = first.setdefault((stored.path, stored.byte_range, stored.dtype), name)
            if holder != name:
                same = stored.shape == self._stored[holder].shape
                reason = f"tied to {holder}" if same else f"tied to {holder}, in another shape or order"
                if self._infos[name].refusal is None:
                    self._infos[name] = replace(self._infos[name], refusal=reason, counted_in=holder)

    def _describe(self, constant: Constant, found: Quantized | str | None) -> None:
        """Say of a tensor what the graph does with it."""
        name = constant.name
        info = self._infos[name]
        aliases: tuple[str, ...] = (constant.value.name,)
        use: WeightUse | None = None
        if isinstance(found, str):
            info = replace(info, refusal=f"quantised ({info.dtype}): {found}"[:300])
        elif isinstance(found, Quantized):
            recipe = found.recipe
            self._recipes[name] = recipe
            info = replace(info, shape=recipe.shape, dtype=recipe.dtype, refusal=None, quantization=recipe.quantization)
            if found.use is not None:
                axes = tuple(range(len(recipe.shape)))
                use = WeightUse(node=found.use.node, index=found.use.place, axes=axes)
            elif found.value is not None:
                aliases = (found.value.name, *aliases)
                use = find_use(self._index, found.value, found.axes)
        elif info.refusal is None:
            use = find_use(self._index, constant.value, tuple(range(len(info.shape))))
        if info.refusal is None or isinstance(found, str):
            info = self._named(info, aliases, use)
        is_open = found is None and use is None and info.counted_in is None and info.dtype not in INDEX_DTYPES
        reason = self._why_no_weight(constant, info) if is_open else None
        if reason is not None:
            info = replace(info, refusal=reason)
            self._originals.pop(name, None)
        self._infos[name] = info

    def _named(self, info: TensorInfo, aliases: tuple[str, ...], use: WeightUse | None) -> TensorInfo:
        """Note the original name of a weight, and say what it does."""
        consumer = None if use is None else consumer_of(self._index, use, info.shape, self._layers)
        original = original_name(aliases, consumer)
        if original is not None:
            self._originals[info.name] = original
        if use is None or info.refusal is not None:
            return info
        self._uses[info.name] = use
        known_as = info.name if original is None else original.name
        is_turned = original is not None and original.is_turned and len(info.shape) == 2
        role = describe_role(use, info.shape, known_as, is_turned=is_turned)
        return replace(info, role=role.layer_type, parts=role.parts)

    def _why_no_weight(self, constant: Constant, info: TensorInfo) -> str | None:
        """Return why a tensor is a part of the computation and none of the model's parameters, if it is."""
        if info.n_values == 1 and (constant.node is not None or is_generated(constant.value.name)):
            return _NUMBER
        uses = self._index.uses.get(constant.value, [])
        if info.n_values == 1 and uses and all(is_quantisation(use.node) for use in uses):
            return _ACTIVATION
        last = last_uses(self._index, constant.value)
        if last and all(is_initial_state(use.node, use.place) for use in last):
            return _STATE
        return _CHOICE if uses and all(use.node.op_type == "Where" for use in uses) else None

    def _mark_factors(self) -> None:
        """Refuse scales and zero points, which are parts of the weights that they belong to."""
        for name, recipe in self._recipes.items():
            kinds = [(factor.tensor, "scales") for factor in recipe.scales]
            kinds += [(factor.index, "groups") for factor in recipe.scales if factor.index]
            if recipe.zero is not None:
                kinds.append((recipe.zero.tensor, "zero points"))
            for factor, kind in kinds:
                if factor not in self._recipes and self._infos[factor].counted_in is None:
                    reason = f"the {kind} of {name}"
                    self._infos[factor] = replace(self._infos[factor], refusal=reason, counted_in=name)
                    self._originals.pop(factor, None)

    def _unambiguous(self) -> dict[str, Original]:
        """Return the original names, but none that two tensors would have."""
        own = Counter(original.name for original in self._originals.values() if not original.is_derived)
        counts = Counter(original.name for original in self._originals.values())
        kept: dict[str, Original] = {}
        for name, original in self._originals.items():
            is_one = counts[original.name] == 1 or (not original.is_derived and own[original.name] == 1)
            if is_one or original.name == name:
                kept[name] = original
        return kept

    def _parts_of(self, originals: Mapping[str, Original]) -> dict[str, dict[str, str]]:
        """Name the matrices of recurrent layers with two directions, which torch has in a tensor each."""
        found: dict[str, dict[str, str]] = {}
        for name, original in originals.items():
            info = self._infos[name]
            if info.role is not LayerType.RECURRENT or info.parts is None or not original.is_derived:
                continue
            if any(part.name.startswith("reverse") for part in info.parts):
                found[name] = {part.name: _directed(original.name, part.name) for part in info.parts}
        return found


def _directed(name: str, part: str) -> str:
    """Return what torch would call a gate: ``lstm.weight_ih_l0_reverse.i``."""
    direction, _, gate = part.rpartition(".") if part != "reverse" else ("reverse", "", "")
    tensor = f"{name}_reverse" if direction == "reverse" else name
    return f"{tensor}.{gate}" if gate else tensor
