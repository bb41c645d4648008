"""Whether boxes fill a tensor: every value in one of them, and in no two."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    Box = tuple[tuple[int, ...], tuple[int, ...]]

MAX_COMPARISONS = 500_000
"""Of boxes of one checkpoint with each other: pieces of one row or column of processes never need as many."""


class Budget:
    """How many comparisons are left for all the tensors of a checkpoint."""

    def __init__(self, n: int = MAX_COMPARISONS) -> None:
        self._left = n

    def spend(self, n: int) -> bool:
        """Take ``n`` comparisons; False where there are not so many left."""
        self._left -= n
        return self._left >= 0


def why_not_tiled(shape: Sequence[int], boxes: Sequence[Box], budget: Budget) -> str | None:
    """Return what is wrong with boxes that should fill a tensor exactly, or None where they do.

    Parameters
    ----------
    shape : sequence of int
        Of the tensor.
    boxes : sequence of (offsets, sizes)
        The pieces; each has as many axes as the tensor.
    budget : Budget
        Of comparisons.
    """
    for offsets, sizes in boxes:
        if len(offsets) != len(shape) or len(sizes) != len(shape):
            return f"a piece has {len(offsets)} and {len(sizes)} axes, the tensor {len(shape)}"
        if any(begin + length > full for begin, length, full in zip(offsets, sizes, shape, strict=True)):
            return f"the piece at {list(offsets)} of shape {list(sizes)} lies outside the shape {list(shape)}"
    filled = [(offsets, sizes) for offsets, sizes in boxes if 0 not in sizes]
    n_covered = sum(math.prod(sizes) for _, sizes in filled)
    if n_covered != math.prod(shape):
        return f"its pieces have {n_covered} values where its shape {list(shape)} has {math.prod(shape)}"
    # As many values as the tensor: where no two share one, none is left out.
    return _overlap(len(shape), filled, budget) if len(filled) > 1 else None


def _overlap(n_axes: int, boxes: Sequence[Box], budget: Budget) -> str | None:
    if n_axes == 0:
        return f"{len(boxes)} pieces of one value"
    # Along the axis with the most cuts: what has ended there meets none of those that follow.
    axis = max(range(n_axes), key=lambda axis: len({offsets[axis] for offsets, _ in boxes}))
    open_boxes: list[Box] = []
    for offsets, sizes in sorted(boxes, key=lambda box: (box[0][axis], box)):
        open_boxes = [box for box in open_boxes if box[0][axis] + box[1][axis] > offsets[axis]]
        if not budget.spend(len(open_boxes)):
            return "more pieces beside each other than any checkpoint has"
        for other_offsets, other_sizes in open_boxes:
            axes = zip(offsets, sizes, other_offsets, other_sizes, strict=True)
            if all(begin < other + m and other < begin + n for begin, n, other, m in axes):
                return f"the pieces at {list(other_offsets)} and {list(offsets)} overlap"
        open_boxes.append((offsets, sizes))
    return None
