"""What is known of a tensor that no spectrum covers: biases, norms, kernels of vectors, excluded layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from spectral.content_hash import begin_hash
from spectral.projections import N_PROJECTIONS, project

if TYPE_CHECKING:
    from collections.abc import Iterable

    from spectral.loaders.protocol import TensorInfo, TensorSource

N_OF_VECTOR = 8
"""Fewer projections than a matrix has: an estimate is 25% off, one standard error, and there are many vectors."""


def n_projections(shape: tuple[int, ...]) -> int:
    """Return how many projections a tensor of this shape has."""
    return N_OF_VECTOR if len(shape) < 2 else N_PROJECTIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorDigest:
    """One tensor.

    Attributes
    ----------
    name, shape, dtype
        As stored.
    content_hash : str
        SHA-256 over dtype, shape and bytes.
    norm : float or None
        Σw²; None where values are not finite, or their squares are not.
    projections : tuple of float
        As many random forms of the values as :func:`n_projections` says; empty where there is no norm.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    content_hash: str
    norm: float | None
    projections: tuple[float, ...] = field(default=(), repr=False)


def digest_tensors(source: TensorSource, infos: Iterable[TensorInfo]) -> tuple[TensorDigest, ...]:
    """Return the digests of tensors, reading one at a time.

    Raises
    ------
    ModelError
        One cannot be read.
    """
    return tuple(_digest(source, info) for info in infos)


def _digest(source: TensorSource, info: TensorInfo) -> TensorDigest:
    values = np.ascontiguousarray(source.load(info.name))
    content_hash = begin_hash(info.dtype, info.shape)
    content_hash.update(values.reshape(-1).view("u1").data)
    rows = values.reshape(values.shape[0], -1) if values.ndim > 1 else values.reshape(1, -1)
    norm: float | None = None
    projections: tuple[float, ...] = ()
    if np.isfinite(rows).all():
        with np.errstate(over="ignore"):
            # Row by row, so that no copy in float64 is as large as the tensor.
            total = float(sum(float(row @ row) for row in (row.astype(np.float64) for row in rows)))
        if np.isfinite(total):
            norm = total
            projections = tuple(map(float, project(rows[np.newaxis], n_forms=n_projections(info.shape))))
    return TensorDigest(
        name=info.name,
        shape=info.shape,
        dtype=info.dtype,
        content_hash=content_hash.hexdigest(),
        norm=norm,
        projections=projections,
    )
