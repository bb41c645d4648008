"""Weights that a checkpoint stores as factors: they are multiplied out, as the model does before it uses them.

Weight norm (Salimans and Kingma 2016, arXiv 1602.07868, equation 2) stores W = g·v/‖v‖ as g and v; torch's pruning
stores W and a mask; spectral norm (Miyato et al. 2018, arXiv 1802.05957, equation 8 and algorithm 1) stores the weight
and the vectors of its power iteration, and uses W/(uᵀWv), W as a matrix whose rows are one of its axes. Which axis that
is, a live module says, and the lengths of u and v do where they fit one axis only. Where the stored tensors do not
determine the weight (a square weight under spectral norm, any other parametrization), they are listed with that reason.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from spectral.loaders.protocol import TensorInfo, TensorSource

Kind = Literal["weight_norm", "mask", "spectral_norm"]

_FACTOR_ENDINGS: dict[Kind, tuple[str, ...]] = {
    "weight_norm": ("_v", "_g"),
    "mask": ("_orig", "_mask"),
    "spectral_norm": ("_orig", "_u", "_v"),
}
"""What the name of a weight is followed by in those of its factors; by the second a product is found."""

_PARAMETRIZED_FACTORS: dict[Kind, tuple[str, ...]] = {
    "weight_norm": ("original1", "original0"),
    "spectral_norm": ("original", "0._u", "0._v"),
}
"""The same behind ``parametrizations.<weight>.``."""

_PARAMETRIZED = re.compile(r"(?P<module>(?:.*\.)?)parametrizations\.(?P<weight>[^.]+)\.(?P<rest>.+)")

UNKNOWN_PARAMETRIZATION = "the model computes a weight from this tensor, and the file does not say how"


UNKNOWN_AXIS = (
    "spectral norm along an unknown axis: {axes} all fit the shape {shape}; a live module tells which one is meant"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """A weight made of stored tensors.

    Attributes
    ----------
    kind : {"weight_norm", "mask", "spectral_norm"}
        The factors are v and g; the weight and its mask; the weight, u and v.
    factors : tuple of str
        Tensor names. The first has the shape of the product.
    axis : int
        Of a spectral norm: the axis of the weight that makes the rows.
    """

    kind: Kind
    factors: tuple[str, ...]
    axis: int = 0

    @property
    def weight(self) -> str:
        """The factor that has the shape of the product."""
        return self.factors[0]


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
        dtype = self.infos[name].dtype
        weight, *others = (self.inner.load(factor).astype(dtype) for factor in product.factors)
        if product.kind == "mask":
            masked: NDArray[Any] = weight * others[0]
            return masked
        if product.kind == "weight_norm":
            return _weight_norm(others[0], weight)
        return _spectral_norm(weight, others[0], others[1], product.axis)


def multiply_out(source: TensorSource) -> TensorSource:
    """Return ``source`` with its factored weights as products, or itself where it has none.

    The product is named as the weight is without its factors; they stay in the list, refused and not counted.
    """
    infos = {info.name: info for info in source.tensors()}
    products, reasons = _find_products(infos, getattr(source, "norm_axes", {}))
    for name in _unknown_parametrizations(infos, products):
        reasons.setdefault(name, UNKNOWN_PARAMETRIZATION)
    if not products and not reasons:
        return source
    made_at = {product.weight: name for name, product in products.items()}
    factors = {factor: name for name, product in products.items() for factor in product.factors}
    listed: dict[str, TensorInfo] = {}
    for name, info in infos.items():
        if name in made_at:
            # What the module says of the weight, it says of this factor, which has its shape.
            listed[made_at[name]] = replace(info, name=made_at[name], dtype=_product_dtype(info.dtype))
        if name in factors:
            reason = f"a factor of {factors[name]}"
            listed[name] = replace(info, refusal=reason, counted_in=factors[name])
        elif name in reasons:
            listed[name] = replace(info, refusal=reasons[name])
        else:
            listed[name] = info
    return DerivedSource(inner=source, infos=listed, products=products)


def _find_products(
    infos: Mapping[str, TensorInfo], norm_axes: Mapping[str, int]
) -> tuple[dict[str, Product], dict[str, str]]:
    """Return the products by name, and of weights that would be one but for their axis, the reason."""
    products: dict[str, Product] = {}
    reasons: dict[str, str] = {}
    for name in infos:
        found = _product_of(name, infos)
        if found is None:
            continue
        made, product = found
        weight, *others = (infos[factor] for factor in product.factors)
        is_plain = made not in infos and all(infos[factor].refusal is None for factor in product.factors)
        if not is_plain or len(weight.shape) < 2:
            continue
        if product.kind == "spectral_norm":
            axes = _axes_of(weight.shape, others[0].shape, others[1].shape)
            axes = [axis for axis in axes if axis == norm_axes.get(weight.name, axis)]
            if len(axes) > 1:
                shown = " and ".join(map(str, axes))
                reasons[weight.name] = UNKNOWN_AXIS.format(axes=shown, shape=weight.shape)
            if len(axes) == 1:
                products[made] = replace(product, axis=axes[0])
        elif others[0].shape == weight.shape if product.kind == "mask" else _is_norm_of(others[0], weight):
            products[made] = product
    return products, reasons


def _product_of(name: str, infos: Mapping[str, TensorInfo]) -> tuple[str, Product] | None:
    """Return the weight whose second factor, by its name, is ``name``, with the product."""
    found = _PARAMETRIZED.fullmatch(name)
    if found is not None:
        # With one tensor more it is another parametrization, or two of them.
        prefix = name.removesuffix(found["rest"])
        stored = {other.removeprefix(prefix) for other in infos if other.startswith(prefix)}
        made = f"{found['module']}{found['weight']}"
        for kind, rests in _PARAMETRIZED_FACTORS.items():
            if found["rest"] == rests[1] and stored == set(rests):
                return made, Product(kind=kind, factors=tuple(prefix + rest for rest in rests))
        return None
    for kind, endings in _FACTOR_ENDINGS.items():
        stem = name.removesuffix(endings[1])
        if stem != name and all(stem + ending in infos for ending in endings):
            return _plain_product(kind, stem, endings, infos)
    return None


def _plain_product(
    kind: Kind, stem: str, endings: tuple[str, ...], infos: Mapping[str, TensorInfo]
) -> tuple[str, Product] | None:
    if kind == "weight_norm" and "weight" not in stem:
        return None
    if stem + "_orig" in infos and stem + "_mask" in infos and stem + "_u" in infos:
        return None  # Pruned and normalised, in an order that the names do not tell.
    if _is_pruned_factor(stem, infos):
        return None
    return stem, Product(kind=kind, factors=tuple(stem + ending for ending in endings))


def _is_pruned_factor(stem: str, infos: Mapping[str, TensorInfo]) -> bool:
    """Tell whether this is g or v of a weight norm, pruned: a product of products is not made."""
    other = {"_v": "_g", "_g": "_v"}.get(stem[-2:])
    if other is None or f"{stem}_mask" not in infos:
        return False
    return any(stem[:-2] + other + ending in infos for ending in ("", "_orig"))


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
    used = {factor for product in products.values() for factor in product.factors}
    unknown = set()
    for name, info in infos.items():
        if name in used or len(info.shape) < 2 or info.refusal is not None:
            continue
        stem = name.removesuffix("_orig")
        is_spectral_norm = stem != name and f"{stem}_u" in infos
        is_pruned_factor = any(_is_pruned_factor(part, infos) for part in _factors_beside(name))
        if is_spectral_norm or is_pruned_factor or _PARAMETRIZED.fullmatch(name):
            unknown.add(name)
    return unknown


def _factors_beside(name: str) -> Iterator[str]:
    """Yield the factors of a weight norm that a tensor of this name may be, or be stored beside."""
    stem = name.removesuffix("_orig").removesuffix("_mask")
    if stem[-2:] in ("_v", "_g"):
        yield from (stem[:-2] + "_v", stem[:-2] + "_g")


def _axes_of(shape: tuple[int, ...], left: tuple[int, ...], right: tuple[int, ...]) -> list[int]:
    """Return the axes of a weight along which these can be the vectors of a power iteration."""
    n_values = math.prod(shape)
    return [axis for axis, n in enumerate(shape) if n and (left, right) == ((n,), (n_values // n,))]


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


def _spectral_norm(weight: NDArray[Any], left: NDArray[Any], right: NDArray[Any], axis: int) -> NDArray[Any]:
    import numpy as np

    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    norm = left.astype(np.float64) @ (rows.astype(np.float64) @ right.astype(np.float64))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        # A norm of zero gives NaN and infinity, in the model as here: a finding of its layer.
        product: NDArray[Any] = (weight / norm).astype(weight.dtype)
    return product
