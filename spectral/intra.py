"""Correlations between successive layers: the products of their weight matrices, as a source of tensors.

For layers W0 and W1 that share a dimension, both turned so that it meets, ``X = W0·W1 / (‖W0‖·‖W1‖)`` in Frobenius
norms. Its singular values stand where a single layer has the eigenvalues of WᵀW
(:attr:`~spectral.weights.MatrixSpec.spectral_power`). With ``sparsify`` a random matrix S of zeros and ones stands
between, as a caricature of the ReLU: ``X = W0·S·W1 / (‖W0‖·‖W1‖ + √‖S‖)``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from spectral.errors import ModelError, OptionError
from spectral.loaders.protocol import LayerType, TensorInfo
from spectral.weights import as_weight_matrix

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from spectral.loaders.protocol import TensorSource
    from spectral.weights import MatrixSpec

MAX_PRODUCT_VALUES = 1 << 30
"""A product of more values (8 GiB) is listed, not made: two vocabularies that share their width."""

_BLOCK_ROWS = 1024
"""Rows of the random matrix that are drawn at a time. The bits of a seed depend on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPair:
    """Two successive layers whose product has a spectrum.

    Attributes
    ----------
    first, second : MatrixSpec
        The layers.
    shared : int
        The dimension in which they meet.
    """

    first: MatrixSpec
    second: MatrixSpec
    shared: int

    @property
    def name(self) -> str:
        """Ids of the layers, ``0 X 1``, as the incumbent has it."""
        return f"{self.first.index} X {self.second.index}"

    @property
    def longname(self) -> str:
        """Names of the layers."""
        return f"{self.first.name} X {self.second.name}"

    @property
    def info(self) -> TensorInfo:
        """Header of the product; its rank is at most the shared dimension."""
        shape = _other_side(self.first, self.shared), _other_side(self.second, self.shared)
        max_rank = self.shared if self.shared < min(shape) else None
        return TensorInfo(name=self.name, shape=shape, dtype="float64", role=LayerType.INTRA, max_rank=max_rank)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnalignedPair:
    """Two successive layers without a product, with the reason."""

    name: str
    longname: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IntraSource:
    """A view of a source: the products of its successive layers.

    Attributes
    ----------
    source : TensorSource
        Where the layers come from.
    pairs : tuple of LayerPair
        The products, by order of their first layers.
    unaligned : tuple of UnalignedPair
        Successive layers that have none.
    sparsify : bool
        Put a random matrix of zeros and ones between.
    seed : int
        Of that matrix; each pair draws its own from the seed and the names of its layers.
    """

    source: TensorSource = field(repr=False)
    pairs: tuple[LayerPair, ...]
    unaligned: tuple[UnalignedPair, ...]
    sparsify: bool
    seed: int

    @property
    def label(self) -> str:
        return self.source.label

    @property
    def longnames(self) -> dict[str, str]:
        """Name of each product -> names of its layers."""
        return {pair.name: pair.longname for pair in self.pairs}

    def tensors(self) -> tuple[TensorInfo, ...]:
        return tuple(pair.info for pair in self.pairs)

    def load(self, name: str) -> NDArray[np.float64]:
        pair = next((pair for pair in self.pairs if pair.name == name), None)
        if pair is None:
            raise ModelError(f"{self.label}: no product {name!r} of successive layers")
        first, second = self._load(pair.first), self._load(pair.second)
        left = first if first.shape[1] == pair.shared else first.T
        right = second if second.shape[0] == pair.shared else second.T
        # NaN and infinity go through to the product, whose spectrum says so.
        with np.errstate(over="ignore", invalid="ignore"):
            return _product(left, right, _generator(self.seed, pair.longname) if self.sparsify else None)

    def _load(self, spec: MatrixSpec) -> NDArray[np.float64]:
        return np.asarray(as_weight_matrix(spec, self.source.load(spec.tensor)).slices[0], dtype=np.float64)


def intra_source(
    source: TensorSource, specs: Iterable[MatrixSpec], *, sparsify: bool = True, seed: int = 0
) -> IntraSource:
    """Pair every layer with the next one.

    Parameters
    ----------
    source : TensorSource
        The model.
    specs : iterable of MatrixSpec
        Which matrices, pooled, in the order of the model. Of a convolution the first slice counts (parity).
    sparsify : bool
        Put a random matrix of zeros and ones between the two layers.
    seed : int
        Of that matrix, 0 or above.

    Returns
    -------
    IntraSource
        Its tensors have the role ``intra`` and are made when they are loaded.

    Raises
    ------
    OptionError
        Fewer than two layers, or a seed that is no such integer.
    """
    chosen = tuple(specs)
    if len(chosen) < 2:
        raise OptionError(f"{source.label}: intra needs at least two layers, {len(chosen)} selected")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise OptionError(f"seed must be an integer of at least 0, got {seed!r}")
    found = [_pair(first, second) for first, second in pairwise(chosen)]
    return IntraSource(
        source=source,
        pairs=tuple(pair for pair in found if isinstance(pair, LayerPair)),
        unaligned=tuple(pair for pair in found if isinstance(pair, UnalignedPair)),
        sparsify=sparsify,
        seed=seed,
    )


def _pair(first: MatrixSpec, second: MatrixSpec) -> LayerPair | UnalignedPair:
    common = {first.rows, first.columns} & {second.rows, second.columns}
    pair = LayerPair(first=first, second=second, shared=max(common, default=0))
    if not common:
        reason = f"no shared dimension: {first.rows} x {first.columns} and {second.rows} x {second.columns}"
        return UnalignedPair(name=pair.name, longname=pair.longname, reason=reason)
    if pair.info.n_values > MAX_PRODUCT_VALUES:
        reason = f"a product of {pair.info.shape[0]} x {pair.info.shape[1]} values is too large to be made"
        return UnalignedPair(name=pair.name, longname=pair.longname, reason=reason)
    return pair


def _other_side(spec: MatrixSpec, shared: int) -> int:
    return spec.N if shared == spec.M else spec.M


def _product(
    left: NDArray[np.float64], right: NDArray[np.float64], generator: np.random.Generator | None
) -> NDArray[np.float64]:
    norm = float(np.linalg.norm(left) * np.linalg.norm(right))
    if generator is not None:
        left, n_ones = _times_random_bits(left, generator)
        # The norm of a matrix of zeros and ones is the root of the number of ones.
        norm += float(n_ones) ** 0.25
    product = left @ right
    return product / norm if norm != 0.0 else product


def _times_random_bits(left: NDArray[np.float64], generator: np.random.Generator) -> tuple[NDArray[np.float64], int]:
    """Return left·S and the number of ones in S, without holding S."""
    size = left.shape[1]
    product = np.zeros(left.shape)
    n_ones = 0
    for start in range(0, size, _BLOCK_ROWS):
        bits = generator.integers(0, 2, size=(min(_BLOCK_ROWS, size - start), size), dtype=np.uint8)
        n_ones += int(np.count_nonzero(bits))
        product += left[:, start : start + len(bits)] @ bits.astype(np.float64)
    return product, n_ones


def _generator(seed: int, longname: str) -> np.random.Generator:
    """Return a generator of the pair's own: neither the order of the work nor other layers matter."""
    digest = hashlib.sha256(f"intra:{seed}:{longname}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))
