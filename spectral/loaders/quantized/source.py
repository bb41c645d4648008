"""A source whose coded weights are read as the numbers that the model computes with."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from spectral.loaders.dtypes import CODED, why_not_float
from spectral.loaders.protocol import StoredSource, TensorInfo
from spectral.loaders.quantized import (
    awq,
    bitsandbytes,
    gptq,
    microscaled,
    packed_integers,
    scaled,
    sparse_bitmask,
    torchao,
)
from spectral.loaders.quantized.recipe import Reader
from spectral.loaders.spans import read_span, stream_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from spectral.loaders.protocol import TensorSource
    from spectral.loaders.quantized.recipe import Recipe
    from spectral.loaders.quantized.settings import Settings

SLAB_VALUES = 1 << 21
"""How many values are computed at a time: what lies between codes and weights takes a few times their bytes."""

_FINDERS = (
    bitsandbytes.find,
    gptq.find,
    awq.find,
    packed_integers.find,
    microscaled.find,
    sparse_bitmask.find,
    torchao.find,
    scaled.find,
)
"""Schemes in the order they are asked: the last one needs no more than a scale beside bytes."""

_CODED = frozenset({"int8", "uint8", "int32", "float4_e2m1"})
"""Types of codes; fp8 has a spectrum of its own, and is looked at for its scales."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedSource:
    """A source some of whose tensors are computed from codes and scales in another."""

    inner: StoredSource
    infos: dict[str, TensorInfo] = field(repr=False)
    recipes: Mapping[str, Recipe] = field(repr=False)
    stored: Mapping[str, TensorInfo] = field(repr=False)

    @property
    def label(self) -> str:
        return self.inner.label

    def tensors(self) -> tuple[TensorInfo, ...]:
        return tuple(self.infos.values())

    def load(self, name: str) -> NDArray[Any]:
        if name not in self.recipes:
            return self.inner.load(name)
        return self._rows(name, 0, self.infos[name].shape[0])

    def load_span(self, name: str, begin: int, end: int) -> NDArray[Any]:
        if name not in self.recipes:
            return read_span(self.inner, name, begin, end)
        info = self.infos[name]
        n_each = info.n_values // info.shape[0]
        first, last = begin // n_each, -(-end // n_each)
        return self._rows(name, first, last).reshape(-1)[begin - first * n_each : end - first * n_each]

    def stream(self, name: str) -> Iterator[memoryview] | None:
        return None if name in self.recipes else stream_of(self.inner, name)

    def _rows(self, name: str, begin: int, end: int) -> NDArray[np.float32]:
        import numpy as np

        recipe, shape = self.recipes[name], self.infos[name].shape
        n_each = self.infos[name].n_values // shape[0]
        step = max(1, SLAB_VALUES // n_each)
        read = Reader(source=self.inner, infos=self.stored)
        values = np.empty((end - begin, *shape[1:]), dtype=np.float32)
        for first in range(begin, end, step):
            last = min(first + step, end)
            values[first - begin : last - begin] = recipe.slab(read, first, last)
        return values


def dequantize(source: TensorSource, settings: Callable[[], Settings]) -> TensorSource:
    """Return ``source`` with its coded weights as numbers, or itself where it has none that are known.

    A weight is listed in the place and, mostly, under the name of its codes; what else it is computed from stays in the
    list, refused and not counted.

    Parameters
    ----------
    source : TensorSource
        Headers decide; of some schemes a few bytes for each weight are read, which say its shape.
    settings : callable
        Returns what the configuration says; called where there is anything coded.
    """
    stored = {info.name: info for info in source.tensors()}
    # What a loader knows better, or cannot read, is none of the schemes'.
    unexplained = {
        name: info
        for name, info in stored.items()
        if info.quantization is None and info.refusal in (None, why_not_float(info.dtype))
    }
    if not isinstance(source, StoredSource) or not any(
        info.dtype in _CODED or info.dtype.startswith("float8") for info in unexplained.values()
    ):
        return source
    said = settings()
    read = Reader(source=source, infos=stored)
    recipes: dict[str, Recipe] = {}
    roles: dict[str, tuple[str, str]] = {}
    for find in _FINDERS:
        for recipe in find(unexplained, said, read):
            target = recipe.info.name
            is_free = target not in recipes and (target not in stored or target in recipe.parts)
            if is_free and not any(part in roles for part in recipe.parts):
                recipes[target] = recipe
                roles.update({part: (target, role) for part, role in recipe.parts.items()})
    if not recipes and not said.method:
        return source
    listed = _listed(stored, recipes, roles)
    if said.method:
        listed = {name: replace(info, refusal=_with_method(info, said.method)) for name, info in listed.items()}
    return QuantizedSource(inner=source, infos=listed, recipes=recipes, stored=stored)


def _with_method(info: TensorInfo, method: str) -> str | None:
    """Return why a tensor cannot be analysed, with the quantiser where it is its codes that are not decoded."""
    is_coded = info.refusal == CODED.format(dtype=info.dtype) and info.dtype in _CODED
    return CODED.format(dtype=f"{info.dtype}, {method}") if is_coded else info.refusal


def _listed(
    stored: Mapping[str, TensorInfo], recipes: Mapping[str, Recipe], roles: Mapping[str, tuple[str, str]]
) -> dict[str, TensorInfo]:
    """Return the headers of the weights, and of what is stored, in the order of what is stored."""
    listed: dict[str, TensorInfo] = {}
    for name, info in stored.items():
        if name not in roles:
            listed[name] = info
            continue
        target, role = roles[name]
        listed.setdefault(target, recipes[target].info)
        if name != target:
            listed[name] = replace(info, refusal=f"the {role} of {target}", counted_in=target)
    return listed
