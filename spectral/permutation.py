"""Permutations of the elements of a matrix, seeded so that order, workers and machine do not matter.

Two kinds. :func:`shuffled` is uniform over all permutations, as the incumbent's shuffle is. :func:`scrambled` is
not: it permutes each row, then each column, by one of a few random orders read from an offset, at a third of the
cost, and serves where only the largest eigenvalue of the mixed matrix is asked for. Entries that are independent
stay so under any permutation chosen without looking at them, so tests of noise keep their rates under both.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

N_ORDERS = 32
"""Least number of random orders that the rows (columns) of a scrambled matrix share, each from its own offset on."""

STRIP = 16
"""Rows that are mixed before they are written as columns: transposed strip by strip while they are in the cache, a
matrix of 3072 x 768 takes a third of the time."""

MIN_SCRAMBLED = 64
"""Matrices with a smaller dimension are shuffled: they have too few offsets."""


def generator_for(seed: int, name: str, *purpose: int) -> np.random.Generator:
    """Return the random generator of one layer.

    Parameters
    ----------
    seed : int
        The run's seed, at least 0.
    name : str
        Layer name.
    *purpose : int
        Replica, slice, or whatever else must differ.
    """
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
    words = np.frombuffer(digest, dtype="<u4").tolist()
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *words, *purpose])))


def shuffled(matrix: NDArray[Any], generator: np.random.Generator) -> NDArray[Any]:
    """Return the elements of a matrix in uniformly random places; the matrix itself is left as it is."""
    flat = matrix.flatten()
    generator.shuffle(flat)
    return flat.reshape(matrix.shape)


def scrambled(matrix: NDArray[Any], generator: np.random.Generator) -> NDArray[Any]:
    """Return the elements of a matrix in random places.

    Parameters
    ----------
    matrix : ndarray, shape (n, m)
        Any type; scramble an array of indices to learn where each element went.
    generator : Generator
        Equal states give equal permutations for equal shapes.

    Returns
    -------
    ndarray, shape (n, m)
        The same elements. Two elements of one row or column come to lie anywhere.
    """
    if min(matrix.shape) < MIN_SCRAMBLED:
        return shuffled(matrix, generator)
    columns = np.empty(matrix.shape[::-1], dtype=matrix.dtype)
    strip = np.empty((STRIP, matrix.shape[1]), dtype=matrix.dtype)
    ways = _ways(matrix.shape, generator)
    for first in range(0, len(matrix), STRIP):
        rows = matrix[first : first + STRIP]
        for row, way, place in zip(rows, ways[first : first + STRIP], strip, strict=False):
            # mode="clip" spares numpy a buffer; every index is in range.
            row.take(way, 0, place, "clip")
        columns[:, first : first + STRIP] = strip[: len(rows)].T
    # In place, row by row: fresh memory of the size of the matrix costs as much as moving the elements.
    spare = np.empty(columns.shape[1], dtype=matrix.dtype)
    for row, way in zip(columns, _ways(columns.shape, generator), strict=True):
        row.take(way, 0, spare, "clip")
        row[:] = spare
    # Transposing is free for products with the matrix, and elements in other places have no rows to keep.
    return columns.T


def _ways(shape: tuple[int, ...], generator: np.random.Generator) -> list[NDArray[np.intp]]:
    """Return a permutation for each row: one of a few random orders, read from an offset on; no two alike."""
    n_rows, n_columns = shape
    n_orders = max(N_ORDERS, 2 * -(-n_rows // n_columns))
    orders = [np.tile(generator.permutation(n_columns), 2) for _ in range(n_orders)]
    chosen = generator.choice(n_orders * n_columns, size=n_rows, replace=False)
    which, starts = (chosen // n_columns).tolist(), (chosen % n_columns).tolist()
    return [orders[order][start : start + n_columns] for order, start in zip(which, starts, strict=True)]
