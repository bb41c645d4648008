"""Permutations of the elements of a matrix, seeded so that order, workers and machine do not matter.

Two kinds. :func:`shuffled` is uniform over all permutations, as the incumbent's shuffle is. :func:`scrambled` is
not: it permutes each row, then each column, by one of a few random orders read from an offset, at a fraction of the
cost, and serves where only the spectrum of the mixed matrix is asked for. Entries that are independent
stay so under any permutation chosen without looking at them, so tests of noise keep their rates under both.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

N_ORDERS = 32
"""Least number of random orders that the rows (columns) of a scrambled matrix share, each from its own offset on."""

STRIP_VALUES, MIN_STRIP, MAX_STRIP = 1 << 15, 16, 64
"""Rows are mixed, and written as columns, in strips of about so many values: few enough to stay in the cache."""

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
        The same elements, each anywhere. Two of one row come to lie in different columns, so that a few rows far
        heavier than all others have a smaller largest eigenvalue than after :func:`shuffled`; two of one column
        may come to lie in one row or column.
    """
    if min(matrix.shape) < MIN_SCRAMBLED:
        return shuffled(matrix, generator)
    columns = np.empty(matrix.shape[::-1], dtype=matrix.dtype)
    for rows, mixed in _mixed_strips(matrix, generator):
        columns[:, rows] = mixed.T
    # In place, row by row: fresh memory of the size of the matrix costs as much as moving the elements.
    orders, starts = _orders(matrix.shape[1], matrix.shape[0], generator)
    spare = np.empty(matrix.shape[0], dtype=matrix.dtype)
    for row, start in zip(columns, starts.tolist(), strict=True):
        # mode="clip" spares numpy a buffer; every index is in range.
        row.take(orders[start], 0, spare, "clip")
        row[:] = spare
    # Transposing is free for products with the matrix, and elements in other places have no rows to keep.
    return columns.T


def _mixed_strips(matrix: NDArray[Any], generator: np.random.Generator) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Yield strips of rows with each row in another order. What is yielded is overwritten by the next strip."""
    n_rows, n_columns = matrix.shape
    orders, starts = _orders(n_rows, n_columns, generator)
    strip = max(MIN_STRIP, min(MAX_STRIP, STRIP_VALUES // n_columns))
    first_of_row = np.arange(strip)[:, None] * n_columns
    spare = np.empty(strip * n_columns, dtype=matrix.dtype)
    for start in range(0, n_rows, strip):
        rows = slice(start, min(n_rows, start + strip))
        taken = orders[starts[rows]]
        taken += first_of_row[: len(taken)]
        mixed = spare[: taken.size]
        np.ascontiguousarray(matrix[rows]).ravel().take(taken.ravel(), 0, mixed, "clip")
        yield rows, mixed.reshape(taken.shape)


def _orders(n_rows: int, n_columns: int, generator: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return permutations of a row, and which of them each row is to take; no two rows take the same.

    There are a few random orders, and all that these become when they are read from another place on, to the end and
    from the beginning.
    """
    n_orders = max(N_ORDERS, 2 * -(-n_rows // n_columns))
    orders = generator.permuted(np.tile(np.arange(n_columns), (n_orders, 1)), axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(np.tile(orders, 2).ravel(), n_columns)
    chosen = generator.choice(n_orders * n_columns, size=n_rows, replace=False)
    return windows, chosen // n_columns * (2 * n_columns) + chosen % n_columns
