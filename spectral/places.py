"""Where a weight stands: from a place in a matrix to the index into the tensor that the checkpoint stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from spectral.weights import MatrixSpec


def stored_index(spec: MatrixSpec, *, slice_id: int = 0, row: int, column: int) -> tuple[int, ...]:
    """Return the index of one element in the stored tensor.

    Parameters
    ----------
    spec : MatrixSpec
        The matrix. Its tensor may hold others too (Q beside K and V, the gates of an LSTM), in an order of its own.
    slice_id : int
        Slice of the layer, from 0, counted over all of them (also where ``spec`` is a single one).
    row, column : int
        Place in the slice, from 0.

    Returns
    -------
    tuple of int
        One number for each axis of ``spec.shape``.

    Raises
    ------
    ValueError
        The matrix has no such place.
    """
    part, extent = spec.part, spec.part.extent
    place = [0] * len(extent)
    for position, axes in ((slice_id, part.slice_axes), (row, part.row_axes), (column, part.column_axes)):
        # An axis of length 1 in front: without it a number for no axes at all would be taken.
        within = np.unravel_index(position, (1, *(extent[axis] for axis in axes)))[1:]
        for axis, number in zip(axes, within, strict=True):
            place[axis] = int(number)
    if part.window is not None:
        axis, begin, _ = part.window
        place[axis] += begin
    flat = np.ravel_multi_index(tuple(place), part.fold)
    return tuple(int(number) for number in np.unravel_index(flat, spec.shape))


def name_place(spec: MatrixSpec, *, slice_id: int = 0, row: int, column: int) -> str:
    """Return the place of one element in the user's own words: ``h.0.attn.c_attn.weight[33, 242]``.

    Parameters
    ----------
    spec, slice_id, row, column
        As in :func:`stored_index`.

    Raises
    ------
    ValueError
        The matrix has no such place.
    """
    return f"{spec.tensor}[{', '.join(map(str, stored_index(spec, slice_id=slice_id, row=row, column=column)))}]"
