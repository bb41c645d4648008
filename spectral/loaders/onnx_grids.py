"""How scales and zero points are laid over the values of a weight: in a grid of blocks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spectral.loaders.onnx_dequantize import Factor

Shape = tuple[int, ...]
Grid = tuple[Shape, Shape]
"""How many blocks there are along each axis, and how long they are."""


def linear_grid(  # noqa: PLR0911 (each return is another layout)
    scales: Shape, shape: Shape, axis: int | None, block_size: int
) -> Grid | None:
    """Return how many blocks there are along each axis and how long they are, or None where that does not fit."""
    if math.prod(scales) == 1:
        return grid_of_one(shape)
    if axis is None or not -len(shape) <= axis < len(shape):
        return None
    axis %= len(shape)
    if block_size == 0 and (len(scales) == 1 or math.prod(scales) == shape[axis] == scales[axis - len(shape)]):
        if math.prod(scales) != shape[axis]:
            return None
        grid = tuple(length if place == axis else 1 for place, length in enumerate(shape))
        return grid, whole_blocks(grid, shape)[1]
    if len(scales) != len(shape):
        return None
    for place, (n, length) in enumerate(zip(scales, shape, strict=True)):
        fits = n == length or (n == 1 and block_size == 0)
        if place == axis and block_size > 0:
            fits = n == -(-length // block_size)
        if not fits:
            return None
    blocks = whole_blocks(scales, shape)[1]
    return scales, (*blocks[:axis], block_size or blocks[axis], *blocks[axis + 1 :])


def grid_of_one(shape: Shape) -> Grid:
    """Return the grid of one number for all."""
    return (1,) * len(shape), shape


def whole_blocks(grid: Shape, shape: Shape) -> Grid:
    """Return a grid with its blocks, where there is one for each place of an axis or one for all."""
    return grid, tuple(length if n == 1 else 1 for n, length in zip(grid, shape, strict=True))


def spread_grid(scales: Shape, shape: Shape) -> Grid | None:
    """Return the grid of factors that numpy would spread over a shape; None where it would not, or would enlarge it."""
    if math.prod(scales) == 1:
        return grid_of_one(shape)
    grid = (1,) * (len(shape) - len(scales)) + scales
    fits = len(grid) == len(shape) and all(n in (1, length) for n, length in zip(grid, shape, strict=True))
    return whole_blocks(grid, shape) if fits else None


def grid_by_direction(scales: Shape, shape: Shape) -> Grid | None:
    """Return the grid of a recurrent layer: scales (directions), or (directions, gates)."""
    if len(shape) != 3 or len(scales) not in (1, 2) or scales[0] != shape[0]:
        return None
    if len(scales) == 2 and scales[1] != shape[2]:
        return None
    grid = (shape[0], 1, scales[1] if len(scales) == 2 else 1)
    return whole_blocks(grid, shape)


def smallest_block(factors: Sequence[Factor], shape: Shape) -> Shape | None:
    """Return the shape of the values that share all of their scales, or None where there are no scales."""
    if not factors:
        return None
    return tuple(min(factor.block[axis] for factor in factors) for axis in range(len(shape)))
