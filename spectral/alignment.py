"""The tensors of a model under the names, and in the layout, of another that it was made from.

Converters rename (``blk.0.attn_q.weight``), turn matrices over (ONNX and Keras hold (in, out) where torch holds
(out, in)), fuse (Q, K and V in one tensor) and stack (experts). The values are the same, and a comparison layer by
layer needs them in one form: that of the original. All is decided by names and shapes, from headers alone.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from spectral.loaders.former_names import EXPERT, WRAPPERS, match_originals
from spectral.loaders.protocol import LayerType
from spectral.loaders.spans import read_span, stream_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from spectral.loaders.protocol import TensorInfo, TensorSource

    Shape = tuple[int, ...]
    Shapes = Mapping[str, Shape]

FUSED: dict[str, tuple[str, ...]] = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
    "Wqkv": ("q_proj", "k_proj", "v_proj"),
    "qkv": ("q", "k", "v"),
    "attn_qkv": ("attn_q", "attn_k", "attn_v"),
    "query_key_value": ("query", "key", "value"),
    "w13": ("w1", "w3"),
}
"""Name of a fused layer -> the layers whose rows it holds, one below the other."""

_ENDINGS = (".weight", ".bias", "")
_EXPERT = re.compile(r"(?P<before>.*\bexperts\.)(?P<number>[0-9]{1,6})\.(?P<after>.+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A tensor of the model, or some of its rows.

    Attributes
    ----------
    name : str
        The tensor.
    rows : tuple of int, optional
        First and behind the last; None for all.
    is_turned : bool
        Whether its two axes are exchanged.
    """

    name: str
    rows: tuple[int, int] | None = None
    is_turned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignedSource:
    """A model whose tensors are named and laid out as those of another.

    Attributes
    ----------
    inner : TensorSource
        The model.
    infos : dict of str to TensorInfo
        Tensors as they are given.
    pieces : mapping of str to tuple of Piece
        What each is put together from, one below the other.
    shapes : mapping of str to tuple of int
        Shapes of the model's own tensors.
    """

    inner: TensorSource
    infos: dict[str, TensorInfo] = field(repr=False)
    pieces: Mapping[str, tuple[Piece, ...]] = field(repr=False)
    shapes: Shapes = field(repr=False)

    @property
    def label(self) -> str:
        return self.inner.label

    def tensors(self) -> tuple[TensorInfo, ...]:
        return tuple(self.infos.values())

    def load(self, name: str) -> NDArray[Any]:
        import numpy as np

        whole = self._whole(name)
        if whole is not None:
            return self.inner.load(whole)
        loaded = [self._load(piece) for piece in self.pieces[name]]
        joined = loaded[0] if len(loaded) == 1 else np.concatenate(loaded)
        return np.ascontiguousarray(joined.reshape(self.infos[name].shape))

    def load_span(self, name: str, begin: int, end: int) -> NDArray[Any]:
        whole = self._whole(name)
        return self.load(name).reshape(-1)[begin:end] if whole is None else read_span(self.inner, whole, begin, end)

    def stream(self, name: str) -> Iterator[memoryview] | None:
        whole = self._whole(name)
        return None if whole is None else stream_of(self.inner, whole)

    def _whole(self, name: str) -> str | None:
        """Return the model's own tensor that this is, under another name perhaps; None where it is something made."""
        first, *others = self.pieces[name]
        return first.name if not others and first == Piece(name=first.name) else None

    def _load(self, piece: Piece) -> NDArray[Any]:
        if piece.is_turned:
            turned: NDArray[Any] = self.inner.load(piece.name).swapaxes(-1, -2)
            return turned if piece.rows is None else turned[slice(*piece.rows)]
        if piece.rows is None:
            return self.inner.load(piece.name)
        begin, end = piece.rows
        inner = self.shapes[piece.name][1:]
        n_each = math.prod(inner)
        return read_span(self.inner, piece.name, begin * n_each, end * n_each).reshape(end - begin, *inner)


class _Original:
    """Names and shapes of the original, found by what a converter or a wrapper left of a name."""

    def __init__(self, shapes: Shapes) -> None:
        self.shapes = shapes
        self._by_layer = {_layer(name): name for name in shapes}
        self._by_end: dict[str, str | None] = {}
        for layer, name in self._by_layer.items():
            parts = layer.split(".")
            for n_dropped in range(len(parts)):
                end = ".".join(parts[n_dropped:])
                # Two names of one ending say nothing.
                self._by_end[end] = None if end in self._by_end else name

    def exact(self, name: str) -> str | None:
        """Return the tensor of this name, with or without ``.weight``."""
        return self._by_layer.get(_layer(name))

    def like(self, name: str) -> str | None:
        """Return the only tensor whose name is this one but for the parts that wrappers put before it."""
        layer = _layer(name)
        found = self._by_layer.get(layer) or self._by_end.get(layer)
        if found is not None:
            return found
        parts = layer.split(".")
        # Two parts stay, or "proj" alone would be found in everything; of two, a wrapper's name is none.
        n_least = 1 if parts[0] in WRAPPERS else 2
        ends = (".".join(parts[n_dropped:]) for n_dropped in range(1, len(parts) + 1 - n_least))
        return next((self._by_layer[end] for end in ends if end in self._by_layer), None)


class _Plan:
    """What becomes of the tensors of a model."""

    def __init__(self, source: TensorSource, original: Shapes) -> None:
        self.infos = {info.name: info for info in source.tensors()}
        self.original = _Original(original)
        hints = {name: names for name, names in _hints(source).items() if name in self.infos}
        matched = match_originals(hints, original)
        self.hints = {name: (matched[name], *names) if name in matched else names for name, names in hints.items()}
        self.turned = _said_turned(source)
        self.partners: dict[str, str] = {}
        self.taken: set[str] = set()
        self.made: dict[str, tuple[Piece, ...]] = {}

    def find(self) -> dict[str, tuple[Piece, ...]]:
        """Return tensors of the original -> what they are made of, where that is not the tensor of this name itself."""
        self._find_partners()
        self._split()
        self._join()
        self._turn()
        used = {piece.name for pieces in self.made.values() for piece in pieces}
        # A name that the model uses for something else stays with that.
        return {name: pieces for name, pieces in self.made.items() if name not in self.infos or name in used}

    def _is_free(self, partner: str) -> bool:
        return partner not in self.taken and partner not in self.made

    def _find_partners(self) -> None:
        """Find tensors of the model that are one tensor of the original, one to one."""
        shapes, taken = self.original.shapes, self.taken
        for name, info in self.infos.items():
            exact = self.original.exact(name)
            if exact is not None and _fits(info.shape, shapes[exact]):
                self.partners[name] = exact
                taken.add(exact)
        for name, info in self.infos.items():
            for candidate in self.hints.get(name, ()) if name not in self.partners else ():
                partner = self.original.like(candidate)
                if partner is not None and partner not in taken and _fits(info.shape, shapes[partner]):
                    self.partners[name] = partner
                    taken.add(partner)
                    break

    def _split(self) -> None:
        """Cut tensors of the original out of fused or stacked ones of the model."""
        stacks = _stacks(self.original.shapes)
        for name, info in self.infos.items():
            if name in self.partners or not info.shape or info.refusal is not None:
                continue
            shape = _turned(info.shape) if name in self.turned else info.shape
            for candidate in (name, *self.hints.get(name, ())):
                for parts in (*_part_names(candidate), stacks.get(_layer(candidate.replace(f"{EXPERT}.", "")), ())):
                    found = [self.original.like(part) for part in parts]
                    names = [part for part in found if part is not None and self._is_free(part)]
                    rows = _rows_of(shape, [self.original.shapes[part] for part in names])
                    if parts and len(names) == len(parts) and rows is not None:
                        cut = zip(names, rows, strict=True)
                        self.made.update(
                            {part: (Piece(name=name, rows=row, is_turned=name in self.turned),) for part, row in cut}
                        )
                        break

    def _join(self) -> None:
        """Put fused tensors of the original together from tensors of the model."""
        held = {candidate: name for name, candidates in self.hints.items() for candidate in candidates}
        held |= {name: name for name in self.infos}
        for fused, shape in self.original.shapes.items():
            for parts in _part_names(fused) if self._is_free(fused) else ():
                names = [held[part] for part in parts if part in held]
                shapes = [self.infos[name].shape for name in names]
                are_free = len(names) == len(parts) and not any(name in self.partners for name in names)
                if are_free and _rows_of(shape, shapes) is not None and len(shapes[0]) == len(shape):
                    self.made[fused] = tuple(Piece(name=name) for name in names)
                    break

    def _turn(self) -> None:
        """Rename what has a partner; turn over what only fits so, and square matrices as most others are.

        A matrix of the original's own name that lies otherwise than most others is no convention but a mistake, and
        stays as it is.
        """
        shapes = self.original.shapes
        votes: Counter[bool] = Counter()
        for name, partner in self.partners.items():
            info = self.infos[name]
            if len(info.shape) == 2 and info.shape[0] != info.shape[1] and info.role is not LayerType.EMBEDDING:
                votes[info.shape != shapes[partner]] += 1
        for name, partner in self.partners.items():
            info = self.infos[name]
            is_turned = info.shape != shapes[partner]
            if is_turned and name not in self.hints and votes[True] <= votes[False]:
                continue
            if _turned(info.shape) == info.shape and name in self.turned:
                is_turned = True
            elif len(info.shape) == 2 and info.shape[0] == info.shape[1] and votes[True] > votes[False]:
                is_turned = info.role is not LayerType.EMBEDDING
            # Of equal names the model's own stays: it may lack ".weight".
            is_renamed = self.original.exact(name) != partner
            if is_turned or is_renamed:
                self.made[partner if is_renamed else name] = (Piece(name=name, is_turned=is_turned),)


def shapes_of(source: TensorSource) -> dict[str, Shape]:
    """Return the tensors of a model that values can be read of -> their shapes."""
    return {info.name: info.shape for info in source.tensors() if info.refusal is None}


def align(source: TensorSource, original: Shapes) -> TensorSource:
    """Return a model with its tensors under the names and in the layout of the original, as far as these are known.

    Parameters
    ----------
    source : TensorSource
        The model. Where it has ``original_names`` (tensor -> names that it may have had before a conversion), these are
        tried, too.
    original : mapping of str to tuple of int
        Tensors of the original -> their shapes.

    Returns
    -------
    TensorSource
        ``source`` itself where nothing needs another form. A tensor without a partner stays as it is.
    """
    plan = _Plan(source, original)
    made = plan.find()
    if not made:
        return source
    made_of: dict[str, list[str]] = {}
    for name, pieces in made.items():
        for piece in pieces:
            made_of.setdefault(piece.name, []).append(name)
    listed: dict[str, TensorInfo] = {}
    pieces_of: dict[str, tuple[Piece, ...]] = {}
    for own, info in plan.infos.items():
        for name in made_of.get(own, (own,)):
            if name not in listed:
                pieces_of[name] = made.get(name, (Piece(name=own),))
                listed[name] = _describe(info, name, pieces_of[name], original, made_of=made_of, stored=plan.infos)
    shapes = {name: info.shape for name, info in plan.infos.items()}
    return AlignedSource(inner=source, infos=listed, pieces=pieces_of, shapes=shapes)


def _describe(
    info: TensorInfo,
    name: str,
    pieces: tuple[Piece, ...],
    original: Shapes,
    *,
    made_of: Mapping[str, list[str]],
    stored: Mapping[str, TensorInfo],
) -> TensorInfo:
    """Return the header of a tensor that is made of one of the model."""
    first, said = pieces[0], info.quantization
    if info.counted_in is not None and info.counted_in in made_of:
        info = replace(info, counted_in=made_of[info.counted_in][0])
    if len(pieces) == 1 and first.rows is None:
        if not first.is_turned:
            return replace(info, name=name)
        if said is not None and said.block is not None:
            said = replace(said, block=_turned(said.block))
        return replace(info, name=name, shape=_turned(info.shape), parts=None, quantization=said)
    shape = original[name]
    if len(pieces) > 1 and not all(stored[piece.name].quantization == said for piece in pieces):
        # Of parts in different formats, no floor is known.
        said = None
    if said is not None and said.block is not None:
        block = said.block[len(said.block) - len(shape) :]
        said = replace(said, block=tuple(min(length, n) for length, n in zip(block, shape, strict=True)))
    # What the whole is says nothing of a piece of it.
    role = None if len(shape) != len(info.shape) else info.role
    return replace(info, name=name, shape=shape, parts=None, role=role, quantization=said)


def _innermost(source: TensorSource, attribute: str) -> Any:
    """Return what the source itself says, whatever stands before it; None where it says nothing."""
    inner: Any = source
    while not hasattr(inner, attribute) and hasattr(inner, "inner"):
        inner = inner.inner
    return getattr(inner, attribute, None)


def _said_turned(source: TensorSource) -> frozenset[str]:
    """Return the tensors that the source knows to lie otherwise than in the original."""
    return frozenset(_innermost(source, "transposed_names") or ())


def _hints(source: TensorSource) -> dict[str, tuple[str, ...]]:
    """Return what the innermost source says of names before a conversion."""
    said: Mapping[str, Any] = _innermost(source, "original_names") or {}
    return {name: (names,) if isinstance(names, str) else tuple(names) for name, names in said.items()}


def _fits(shape: Shape, other: Shape) -> bool:
    return other in (shape, _turned(shape))


def _turned(shape: Shape) -> Shape:
    """Return the shape with its last two axes exchanged: those of a matrix, or of each in a stack."""
    return (*shape[:-2], *shape[-2:][::-1]) if len(shape) in (2, 3) else shape


def _rows_of(whole: Shape, parts: list[Shape]) -> list[tuple[int, int]] | None:
    """Return the rows of a fused or stacked tensor that belong to each part; None where they do not fit."""
    if parts and all(shape == whole[1:] for shape in parts):
        lengths = [1] * len(parts)
    elif parts and all(shape and shape[1:] == whole[1:] for shape in parts):
        lengths = [shape[0] for shape in parts]
    else:
        return None
    ends = list(accumulate(lengths))
    return list(zip([0, *ends], ends, strict=False)) if ends[-1] == whole[0] else None


def _part_names(fused: str) -> Iterator[tuple[str, ...]]:
    """Yield what the parts of a fused tensor of this name would be called."""
    ending = next(ending for ending in _ENDINGS if fused.endswith(ending))
    module, dot, leaf = fused.removesuffix(ending).rpartition(".")
    if leaf in FUSED:
        yield tuple(f"{module}{dot}{part}{ending}" for part in FUSED[leaf])


def _stacks(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return what a stack of experts would be called -> the tensors of single ones, in their order."""
    found: dict[str, dict[int, str]] = {}
    for name in names:
        match = _EXPERT.fullmatch(name)
        if match is not None:
            found.setdefault(_layer(match["before"] + match["after"]), {})[int(match["number"])] = name
    return {
        stack: tuple(experts[number] for number in sorted(experts))
        for stack, experts in found.items()
        if sorted(experts) == list(range(len(experts)))
    }


def _layer(name: str) -> str:
    return name.removesuffix(".weight")
