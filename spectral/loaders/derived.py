"""Weights that a checkpoint stores as factors: they are multiplied out, as the model does before it uses them.

Weight norm (Salimans and Kingma 2016, arXiv 1602.07868, equation 2) stores W = g·v/‖v‖ as g and v; torch's pruning
stores W and a mask. Where the stored tensors do not determine the weight (spectral norm, any other
parametrization), they are listed with that reason.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from spectral.loaders.protocol import TensorInfo, TensorSource

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_PARAMETRIZED = re.compile(r"(?P<module>(?:.*\.)?)parametrizations\.(?P<weight>[^.]+)\.(?P<rest>.+)")

UNKNOWN_PARAMETRIZATION = "the model computes a weight from this tensor, and the file does not say how"


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """A weight made of two stored tensors.

    Attributes
    ----------
    kind : {"weight_norm", "mask"}
        ``weight_norm``: first is g, second is v. ``mask``: the weight and its mask.
    first, second : str
        Tensor names.
    """

    kind: Literal["weight_norm", "mask"]
    first: str
    second: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DerivedSource:
    """A source some of whose tensors are products of those in another."""

    inner: TensorSource
    infos: dict[str, TensorInfo] = field(repr=False)
    products: dict[str, Product] = field(repr=False)

    @property
    def label(self) -> str:
        return self.inner.label

    def tensors(self) -> tuple[TensorInfo, ...]:
        return tuple(self.infos.values())

    def load(self, name: str) -> NDArray[Any]:
        product = self.products.get(name)
        if product is None:
            return self.inner.load(name)
        first: NDArray[Any] = self.inner.load(product.first)
        second: NDArray[Any] = self.inner.load(product.second)
        dtype = self.infos[name].dtype
        first, second = first.astype(dtype), second.astype(dtype)
        return first * second if product.kind == "mask" else _weight_norm(first, second)


def multiply_out(source: TensorSource) -> TensorSource:
    """Return ``source`` with its factored weights as products, or itself where it has none.

    The product is named as the weight is without its factors; they stay in the list, refused and not counted.
    """
    infos = {info.name: info for info in source.tensors()}
    products = _find_products(infos)
    unknown = _unknown_parametrizations(infos, products)
    if not products and not unknown:
        return source
    made_at = {
        product.second if product.kind == "weight_norm" else product.first: name for name, product in products.items()
    }
    factors = {factor: name for name, product in products.items() for factor in (product.first, product.second)}
    listed: dict[str, TensorInfo] = {}
    for name, info in infos.items():
        if name in made_at:
            listed[made_at[name]] = TensorInfo(name=made_at[name], shape=info.shape, dtype=_product_dtype(info.dtype))
        if name in factors:
            reason = f"a factor of {factors[name]}"
            listed[name] = replace(info, refusal=reason, counted_in=factors[name])
        elif name in unknown:
            listed[name] = replace(info, refusal=UNKNOWN_PARAMETRIZATION)
        else:
            listed[name] = info
    return DerivedSource(inner=source, infos=listed, products=products)


def _find_products(infos: Mapping[str, TensorInfo]) -> dict[str, Product]:
    products: dict[str, Product] = {}
    for name, info in infos.items():
        found = _product_of(name, infos)
        if found is None:
            continue
        made, product = found
        factors = (infos[product.first], infos[product.second])
        fits = product.kind == "mask" and factors[0].shape == factors[1].shape
        fits = fits or (product.kind == "weight_norm" and _is_norm_of(*factors))
        is_plain = made not in infos and all(factor.refusal is None for factor in factors)
        if fits and is_plain and len(info.shape) >= 2:
            products[made] = product
    return products


def _product_of(name: str, infos: Mapping[str, TensorInfo]) -> tuple[str, Product] | None:
    """Return the weight whose second factor, by its name, is ``name``, with the product."""
    found = _PARAMETRIZED.fullmatch(name)
    if found is not None and found["rest"] == "original1":
        prefix = name.removesuffix("original1")
        stored = {other for other in infos if other.startswith(prefix)}
        # With a third tensor it is no weight norm, or weight norm and something else.
        if stored == {f"{prefix}original0", name}:
            made = f"{found['module']}{found['weight']}"
            return made, Product(kind="weight_norm", first=f"{prefix}original0", second=name)
    stem = name.removesuffix("_v")
    if stem != name and "weight" in stem and f"{stem}_g" in infos:
        return stem, Product(kind="weight_norm", first=f"{stem}_g", second=name)
    stem = name.removesuffix("_mask")
    if stem != name and f"{stem}_orig" in infos:
        return stem, Product(kind="mask", first=f"{stem}_orig", second=name)
    return None


def _is_norm_of(norm: TensorInfo, direction: TensorInfo) -> bool:
    """Tell whether g has the shape of a norm of v: one number, or one along a single axis."""
    if norm.shape == ():
        return True
    if len(norm.shape) != len(direction.shape):
        return False
    kept = [size for size, full in zip(norm.shape, direction.shape, strict=True) if size == full and size != 1]
    reduced = [size for size, full in zip(norm.shape, direction.shape, strict=True) if size != full]
    return len(kept) <= 1 and all(size == 1 for size in reduced)


def _unknown_parametrizations(infos: Mapping[str, TensorInfo], products: Mapping[str, Product]) -> set[str]:
    used = {factor for product in products.values() for factor in (product.first, product.second)}
    unknown = set()
    for name, info in infos.items():
        if name in used or len(info.shape) < 2 or info.refusal is not None:
            continue
        stem = name.removesuffix("_orig")
        is_spectral_norm = stem != name and f"{stem}_u" in infos
        if is_spectral_norm or _PARAMETRIZED.fullmatch(name):
            unknown.add(name)
    return unknown


def _product_dtype(dtype: str) -> str:
    """Half a factor's digits would be lost again in the product."""
    return dtype if dtype == "float64" else "float32"


def _weight_norm(norm: NDArray[Any], direction: NDArray[Any]) -> NDArray[Any]:
    import numpy as np

    axes = tuple(range(direction.ndim)) if norm.ndim == 0 else tuple(np.flatnonzero(np.array(norm.shape) == 1).tolist())
    length = np.sqrt(np.sum(np.square(direction, dtype=np.float64), axis=axes, keepdims=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        # A direction of length zero gives NaN, in the model as here: a finding of its layer.
        product: NDArray[Any] = (direction * (norm / length)).astype(direction.dtype)
    return product
