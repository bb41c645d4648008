"""Permutations of the elements of a matrix, seeded so that order, workers and machine do not matter.

Two kinds. :func:`shuffled` is uniform over all permutations, as the incumbent's shuffle is. :func:`scrambled` is
not: it cuts the elements into lines, permutes each line, then the elements at each place of a line, by one of a few
random orders read from an offset, at a fraction of the cost. Entries that are independent stay so under any
permutation chosen without looking at them, so tests of noise keep their rates under both.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

N_ORDERS = 32
"""Least number of random orders that the lines of a scrambled matrix share, each from its own offset on."""

STRIP_VALUES, MIN_STRIP, MAX_STRIP = 1 << 15, 16, 64
"""Lines are mixed, and written crosswise, in strips of about so many values: few enough to stay in the cache."""

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
        The same elements, C-ordered. Two elements of one row or column come to lie anywhere.
    """
    if min(matrix.shape) < MIN_SCRAMBLED:
        return shuffled(matrix, generator)
    flat = matrix.ravel()
    # Lines are a little shorter than rows: else two elements of one row, which go to different places of a line, could
    # never come to lie in one column.
    length = matrix.shape[1] - matrix.shape[1] // 50 - 1
    n_lines, n_left = divmod(flat.size, length)
    lines = flat[: flat.size - n_left].reshape(n_lines, length)
    mixed = np.empty_like(flat)
    _mix_crosswise(_mix_crosswise(lines, generator), generator, out=mixed[: lines.size].reshape(lines.shape))
    # What no line held changes places with elements anywhere.
    places = generator.choice(flat.size - n_left, size=n_left, replace=False)
    mixed[flat.size - n_left :] = mixed[places]
    mixed[places] = flat[flat.size - n_left :]
    return mixed.reshape(matrix.shape)


def _mix_crosswise(
    lines: NDArray[Any], generator: np.random.Generator, *, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Permute each line, and return the transpose."""
    n_lines, length = lines.shape
    crossed = np.empty((length, n_lines), dtype=lines.dtype) if out is None else out
    orders, starts = _orders(n_lines, length, generator)
    strip = max(MIN_STRIP, min(MAX_STRIP, STRIP_VALUES // length))
    first_of_line = np.arange(strip)[:, None] * length
    spare = np.empty(strip * length, dtype=lines.dtype)
    for start in range(0, n_lines, strip):
        wanted = slice(start, min(n_lines, start + strip))
        taken = orders[starts[wanted]]
        taken += first_of_line[: len(taken)]
        mixed = spare[: taken.size]
        # mode="clip" spares numpy a buffer; every index is in range.
        lines[wanted].ravel().take(taken.ravel(), 0, mixed, "clip")
        crossed[:, wanted] = mixed.reshape(taken.shape).T
    return crossed


def _orders(n_lines: int, length: int, generator: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return permutations of a line, and which of them each line is to take; no two take the same.

    There are a few random orders, and all that these become when they are read from another place on, to the
    end and from the beginning.
    """
    n_orders = max(N_ORDERS, 2 * -(-n_lines // length))
    orders = generator.permuted(np.tile(np.arange(length), (n_orders, 1)), axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(np.tile(orders, 2).ravel(), length)
    chosen = generator.choice(n_orders * length, size=n_lines, replace=False)
    return windows, chosen // length * (2 * length) + chosen % length
