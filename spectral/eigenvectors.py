"""How localised the eigenvectors of X = WᵀW are, in the bulk of the spectrum and in its tail.

A random matrix has delocalised eigenvectors; structure that was learned concentrates in those of the tail
(Martin and Mahoney, JMLR 22 (2021) 165, section 2.4). The three measures do not depend on the sign of a vector, and
where an eigenvalue is simple its vector is unique but for that sign. In the eigenspace of a repeated eigenvalue
(zero, in a matrix that lacks rank) every orthonormal basis is as good: LAPACK's choice is deterministic but arbitrary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from spectral.errors import OptionError
from spectral.fits import FitFailure, FitFailureReason

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

N_BINS = 100
"""Bins of the histogram behind the discrete entropy."""

DENSITY_EPSILON = 1e-10
"""Added to the density of every bin, so that an empty one has a logarithm."""

FLATNESS = 1e-12
"""Magnitudes that differ by less than this share of the largest are equal: no histogram can divide them."""

VECTOR_MEASURES = ("vec_entropy", "loc_ratio", "part_ratio")

EIGENVECTOR_METRICS = tuple(
    f"{part}_{moment}_{measure}"
    for measure in VECTOR_MEASURES
    for part in ("bulk", "tail")
    for moment in ("mean", "var")
)
"""What :func:`eigenvector_metrics` returns, in the incumbent's order: ``bulk_mean_vec_entropy``, .."""

_BLOCK_VALUES = 1 << 20
"""Vector entries binned at a time."""

_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EigenvectorStatistics:
    """One entry per eigenvector of every slice, ascending by eigenvalue; all arrays are read-only.

    Attributes
    ----------
    evals : ndarray of float64, shape (n,)
        Eigenvalues of X = WᵀW, not divided by N. From the Gram matrix: off by the order of eps·λmax.
    entropy : ndarray of float64, shape (n,)
        Discrete entropy of the magnitudes in nats, 0 (all equal) to ln 100.
    localization : ndarray of float64, shape (n,)
        ‖v‖₁/‖v‖∞, from 1 (a single entry) to the length of v (spread evenly).
    participation : ndarray of float64, shape (n,)
        ‖v‖₂/‖v‖₄, from 1 to the fourth root of the length.
    """

    evals: NDArray[np.float64] = field(repr=False)
    entropy: NDArray[np.float64] = field(repr=False)
    localization: NDArray[np.float64] = field(repr=False)
    participation: NDArray[np.float64] = field(repr=False)

    def __post_init__(self) -> None:
        for name in self.__slots__:
            getattr(self, name).flags.writeable = False

    def __reduce__(self) -> tuple[Any, ...]:
        values = {name: getattr(self, name) for name in self.__slots__}
        return partial(EigenvectorStatistics, **values), ()


def eigenvector_metrics(slices: NDArray[Any], scale: float, xmin: float | FitFailure) -> dict[str, float] | FitFailure:
    """Compute mean and variance of the eigenvector measures below xmin and from it on.

    Parameters
    ----------
    slices : ndarray, shape (rf, rows, columns)
        The matrices of one layer, in any float type; not written to.
    scale : float
        Factor on every slice before its spectrum is taken.
    xmin : float or FitFailure
        Where the tail of the scaled spectrum begins. A fit that failed has none, and its reason is passed on.

    Returns
    -------
    dict or FitFailure
        The names of :data:`EIGENVECTOR_METRICS`; those of an empty part are absent.
    """
    if isinstance(xmin, FitFailure):
        return FitFailure(reason=xmin.reason, detail=f"no fit, so no xmin to divide the eigenvectors: {xmin.detail}")
    statistics = eigenvector_statistics(slices, scale)
    return statistics if isinstance(statistics, FitFailure) else divide_at(statistics, xmin)


def eigenvector_statistics(slices: NDArray[Any], scale: float = 1.0) -> EigenvectorStatistics | FitFailure:
    """Measure every eigenvector of X = WᵀW on the smaller side of W (of WWᵀ, where W is square).

    X is neither centred nor normalised; the vectors have length one. The measures of a square matrix and of its
    transpose differ.

    Parameters and limits are those of :func:`eigenvector_metrics`.

    Returns
    -------
    EigenvectorStatistics or FitFailure
        A failure where values are not finite, or their squares leave the range of float64, or all are zero.

    Notes
    -----
    Deterministic for one BLAS thread (see :mod:`spectral.execution`).
    """
    if not np.isfinite(slices).all():
        return _no_spectrum("values are not finite")
    if not np.any(slices):
        return _no_spectrum("all values are zero")
    with np.errstate(over="ignore", invalid="ignore"):
        grams = [_small_gram(block, scale) for block in slices]
    if not all(np.isfinite(gram).all() for gram in grams):
        return _no_spectrum("the squares of the values exceed the range of float64")
    if not any(np.any(gram) for gram in grams):
        return _no_spectrum("the squares of the values vanish in the range of float64")
    try:
        pairs = [np.linalg.eigh(gram) for gram in grams]
    except np.linalg.LinAlgError as error:
        return FitFailure(reason=FitFailureReason.NO_CONVERGENCE, detail=f"LAPACK found no eigenvectors: {error}")
    evals = np.concatenate([pair[0] for pair in pairs])
    measures = np.concatenate([measure_vectors(pair[1].T) for pair in pairs], axis=1)
    order = np.argsort(evals, kind="stable")
    entropy, localization, participation = measures[:, order]
    return EigenvectorStatistics(
        evals=evals[order], entropy=entropy, localization=localization, participation=participation
    )


def divide_at(statistics: EigenvectorStatistics, xmin: float) -> dict[str, float]:
    """Return mean and variance of each measure over the bulk (λ < xmin) and the tail (λ >= xmin).

    xmin is itself an eigenvalue, computed another way: what lies below it by no more than rounding error belongs
    to the tail, which therefore never depends on the last bit.

    Raises
    ------
    OptionError
        xmin is not a positive, finite number.
    """
    if not (math.isfinite(xmin) and xmin > 0.0):
        raise OptionError(f"xmin must be a positive number, got {xmin!r}")
    evals = statistics.evals
    is_tail = evals >= xmin - len(evals) * _EPS * evals[-1]
    metrics: dict[str, float] = {}
    values = (statistics.entropy, statistics.localization, statistics.participation)
    for measure, measured in zip(VECTOR_MEASURES, values, strict=True):
        for part, chosen in (("bulk", measured[~is_tail]), ("tail", measured[is_tail])):
            if len(chosen) > 0:
                metrics[f"{part}_mean_{measure}"] = float(np.mean(chosen))
                metrics[f"{part}_var_{measure}"] = float(np.var(chosen))
    return metrics


def measure_vectors(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return discrete entropy, localisation ratio and participation ratio of each row.

    Parameters
    ----------
    vectors : ndarray of float64, shape (n_vectors, length)
        One vector a row, finite and none of them zero.

    Returns
    -------
    ndarray of float64, shape (3, n_vectors)
        Entropy of the histogram of |v| between its smallest and largest value; ‖v‖₁/‖v‖∞; ‖v‖₂/‖v‖₄.
    """
    n_vectors, length = vectors.shape
    measures = np.empty((3, n_vectors))
    step = max(1, _BLOCK_VALUES // length)
    for start in range(0, n_vectors, step):
        magnitudes = np.abs(vectors[start : start + step])
        largest = magnitudes.max(axis=1)
        # Relative to the largest entry neither a sum nor a fourth power can overflow.
        relative = magnitudes / largest[:, None]
        squares = relative * relative
        block = measures[:, start : start + step]
        block[0] = _discrete_entropies(magnitudes, largest)
        block[1] = relative.sum(axis=1)
        block[2] = np.sqrt(squares.sum(axis=1)) / np.sqrt(np.sqrt((squares * squares).sum(axis=1)))
    return measures


def vector_metrics(vectors: ArrayLike | Sequence[ArrayLike]) -> pd.DataFrame:
    """Measure arbitrary vectors: a single one, the rows of a matrix, or a sequence of vectors of any lengths.

    Returns
    -------
    pandas.DataFrame
        A row a vector: ``length``, ``entropy`` = exp(-‖v‖/2)/√(2π) (the incumbent's Porter-Thomas weight, the same
        for all unit vectors), ``discrete_entropy``, ``localization_ratio``, ``participation_ratio``.

    Raises
    ------
    OptionError
        There is no vector, or one is empty, zero, not finite, or no vector.
    """
    import pandas as pd

    rows = []
    for index, vector in enumerate(_vectors_of(vectors)):
        if vector.ndim != 1 or vector.size == 0 or not np.isfinite(vector).all() or not vector.any():
            raise OptionError(f"vector {index}: expected finite values, not all zero, got shape {vector.shape}")
        entropy, localization, participation = measure_vectors(vector[None, :])[:, 0]
        rows.append(
            {
                "length": len(vector),
                "entropy": math.exp(-float(np.linalg.norm(vector)) / 2.0) / math.sqrt(2.0 * math.pi),
                "discrete_entropy": float(entropy),
                "localization_ratio": float(localization),
                "participation_ratio": float(participation),
            }
        )
    if not rows:
        raise OptionError("there are no vectors")
    return pd.DataFrame(rows)


def _vectors_of(vectors: Any) -> list[NDArray[np.float64]]:
    is_one = not isinstance(vectors, np.ndarray) and len(vectors) > 0 and np.ndim(vectors[0]) == 0
    if is_one or (isinstance(vectors, np.ndarray) and vectors.ndim < 2):
        return [np.asarray(vectors, dtype=np.float64)]
    return [np.asarray(vector, dtype=np.float64) for vector in vectors]


def _small_gram(block: NDArray[Any], scale: float) -> NDArray[np.float64]:
    matrix = block.astype(np.float64) * scale
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    return np.asarray(gram, dtype=np.float64)


def _discrete_entropies(magnitudes: NDArray[np.float64], largest: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return -Σ p ln p per row, p the share of each bin after DENSITY_EPSILON was added to its density."""
    n_vectors, length = magnitudes.shape
    smallest = magnitudes.min(axis=1)
    is_flat = largest - smallest <= FLATNESS * largest
    # As numpy.histogram has it, equal values lie in a range of length one.
    spread = np.where(is_flat, 1.0, largest - smallest)
    bins = ((magnitudes - smallest[:, None]) * (N_BINS / spread)[:, None]).astype(np.intp)
    np.minimum(bins, N_BINS - 1, out=bins)
    bins += np.arange(n_vectors)[:, None] * N_BINS
    counts = np.bincount(bins.ravel(), minlength=n_vectors * N_BINS).reshape(n_vectors, N_BINS)
    density = counts * (N_BINS / (length * spread))[:, None] + DENSITY_EPSILON
    share = density / density.sum(axis=1)[:, None]
    return np.asarray(-np.sum(share * np.log(share), axis=1), dtype=np.float64)


def _no_spectrum(detail: str) -> FitFailure:
    return FitFailure(reason=FitFailureReason.NO_SPECTRUM, detail=detail)
