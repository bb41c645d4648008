"""Permutations of the elements of a matrix, seeded so that order, workers and machine do not matter.

Two kinds. :func:`shuffled` is uniform over all permutations, as the incumbent's shuffle is. :func:`scrambled` is
not: it mixes rows, then columns, by a set of random permutations with a random offset each, at a seventh of the
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
    return _mix_rows(_mix_rows(matrix, generator), generator)


def _mix_rows(matrix: NDArray[Any], generator: np.random.Generator) -> NDArray[Any]:
    """Permute each row by one of a few random orders, read from an offset on, and return the transpose.

    No two rows are permuted in the same way.
    """
    n_rows, n_columns = matrix.shape
    n_orders = max(N_ORDERS, 2 * -(-n_rows // n_columns))
    orders = [np.tile(generator.permutation(n_columns), 2) for _ in range(n_orders)]
    ways = generator.choice(n_orders * n_columns, size=n_rows, replace=False)
    which, starts = (ways // n_columns).tolist(), (ways % n_columns).tolist()
    mixed = np.empty((n_columns, n_rows), dtype=matrix.dtype)
    strip = np.empty((min(STRIP, n_rows), n_columns), dtype=matrix.dtype)
    for first in range(0, n_rows, STRIP):
        end = min(first + STRIP, n_rows)
        for row in range(first, end):
            start = starts[row]
            # mode="clip" spares numpy a buffer; every index is in range.
            matrix[row].take(orders[which[row]][start : start + n_columns], 0, strip[row - first], "clip")
        mixed[:, first:end] = strip[: end - first].T
    return mixed
