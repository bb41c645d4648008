"""The largest weight of a matrix, and where it stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spectral.spectrum import BLOCK_VALUES

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST_WEIGHT = "largest_weight"
"""Name of the metric: max |w|."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LargestWeight:
    """The weight of the largest magnitude; the first one where several have it.

    Attributes
    ----------
    value : float
        The weight as stored, with its sign.
    slice_id, row, column : int
        Where it stands in the layer as stored.
    """

    value: float
    slice_id: int
    row: int
    column: int


def find_largest(slices: NDArray[Any]) -> LargestWeight:
    """Find the largest weight of a layer.

    Parameters
    ----------
    slices : ndarray of any real type, shape (n, rows, columns)
        Finite and not empty; not written to.
    """
    n_columns = slices.shape[2]
    height = max(1, BLOCK_VALUES // n_columns)
    best = LargestWeight(value=0.0, slice_id=0, row=0, column=0)
    for slice_id, matrix in enumerate(slices):
        for start in range(0, len(matrix), height):
            block = matrix[start : start + height]
            # Two passes without a copy; the place is looked for only where there is something to find.
            largest = max(abs(float(block.max())), abs(float(block.min())))
            if largest > abs(best.value):
                row, column = np.unravel_index(int(np.argmax(np.abs(block.astype(np.float64)))), block.shape)
                best = LargestWeight(
                    value=float(block[row, column]), slice_id=slice_id, row=start + int(row), column=int(column)
                )
    return best
