"""How weight matrices are cut out of stored tensors: the gates of an LSTM, Q, K and V, groups, experts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from spectral.loaders.protocol import LayerType


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One weight matrix, or one pool of slices, as a recipe on a stored tensor.

    The tensor is viewed in the shape ``fold``, narrowed to ``window``, and its axes are gathered into
    slices, rows and columns; each axis belongs to exactly one of the three.

    Attributes
    ----------
    layer_type : LayerType
        What the matrix does.
    fold : tuple of int
        A shape with as many values as the tensor.
    row_axes, column_axes, slice_axes : tuple of int
        Axes of ``fold``. The product of the last is rf, the number of slices.
    window : (axis, begin, end), optional
        Only these positions of one axis of ``fold``; None takes the whole tensor.
    name : str
        What the part adds to the name of its layer (``i``, ``q``, ``3``); empty where there is only one.
    """

    layer_type: LayerType
    fold: tuple[int, ...]
    row_axes: tuple[int, ...]
    column_axes: tuple[int, ...]
    slice_axes: tuple[int, ...] = ()
    window: tuple[int, int, int] | None = None
    name: str = ""

    @property
    def extent(self) -> tuple[int, ...]:
        """Shape of ``fold`` inside the window."""
        if self.window is None:
            return self.fold
        axis, begin, end = self.window
        return (*self.fold[:axis], end - begin, *self.fold[axis + 1 :])

    @property
    def rows(self) -> int:
        """Rows of each slice."""
        return math.prod(self.extent[axis] for axis in self.row_axes)

    @property
    def columns(self) -> int:
        """Columns of each slice."""
        return math.prod(self.extent[axis] for axis in self.column_axes)

    @property
    def rf(self) -> int:
        """Number of slices."""
        return math.prod(self.extent[axis] for axis in self.slice_axes)

    @property
    def n_values(self) -> int:
        """Number of values of the part."""
        return math.prod(self.extent)

    @property
    def span(self) -> tuple[int, int] | None:
        """First and past-the-last position of the part in the C-ordered tensor, where it lies there in one run."""
        if self.window is None or self.window[0] != 0:
            return None
        n_inner = math.prod(self.fold[1:])
        return self.window[1] * n_inner, self.window[2] * n_inner

    def cut(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the slices, shape (rf, rows, columns): a view of ``values`` where numpy can make one.

        Parameters
        ----------
        values : ndarray
            The whole tensor, C-ordered, in any shape; or its values in :attr:`span`.
        """
        if values.size == math.prod(self.fold):
            values = values.reshape(self.fold)
            if self.window is not None:
                axis, begin, end = self.window
                values = values[(slice(None),) * axis + (slice(begin, end),)]
        values = values.reshape(self.extent).transpose(*self.slice_axes, *self.row_axes, *self.column_axes)
        return values.reshape(self.rf, self.rows, self.columns)


def matrix(layer_type: LayerType, n_rows: int, n_columns: int) -> tuple[Part, ...]:
    """Take the whole tensor as one matrix."""
    return (Part(layer_type=layer_type, fold=(n_rows, n_columns), row_axes=(0,), column_axes=(1,)),)


def kernel(layer_type: LayerType, shape: tuple[int, ...], n_groups: int = 1) -> tuple[Part, ...]:
    """Cut a convolution of torch: (out, in/groups, k1, .., kd), or transposed (in, out/groups, k1, .., kd).

    Both lay the groups along the first axis. At every position of the kernel a grouped convolution is a
    block-diagonal matrix with a block per group: its spectrum, without the zeros that the structure forces, is
    the union of the spectra of the blocks. So all blocks at all positions are the slices of one pool.
    """
    first, second, *positions = shape
    if n_groups == 1:
        axes = tuple(range(2, len(shape)))
        return (Part(layer_type=layer_type, fold=shape, slice_axes=axes, row_axes=(0,), column_axes=(1,)),)
    fold = (n_groups, first // n_groups, second, *positions)
    axes = (0, *range(3, len(fold)))
    return (Part(layer_type=layer_type, fold=fold, slice_axes=axes, row_axes=(1,), column_axes=(2,)),)


def channels_last_kernel(layer_type: LayerType, shape: tuple[int, ...], n_groups: int = 1) -> tuple[Part, ...]:
    """Cut a convolution of Keras: (k1, .., kd, in/groups, out), the groups along the last axis."""
    *positions, n_in, n_out = shape
    n = len(positions)
    if n_groups == 1:
        axes = tuple(range(n))
        return (Part(layer_type=layer_type, fold=shape, slice_axes=axes, row_axes=(n,), column_axes=(n + 1,)),)
    fold = (*positions, n_in, n_groups, n_out // n_groups)
    axes = (*range(n), n + 1)
    return (Part(layer_type=layer_type, fold=fold, slice_axes=axes, row_axes=(n,), column_axes=(n + 2,)),)


def pool(layer_type: LayerType, shape: tuple[int, int, int]) -> tuple[Part, ...]:
    """Take the matrices of a stack (n, rows, columns) as the slices of one pool."""
    return (Part(layer_type=layer_type, fold=shape, slice_axes=(0,), row_axes=(1,), column_axes=(2,)),)


def stack(layer_type: LayerType, shape: tuple[int, int, int]) -> tuple[Part, ...]:
    """Take each matrix of a stack (n, rows, columns) as its own, named by its number."""
    return tuple(
        Part(
            layer_type=layer_type,
            fold=shape,
            window=(0, index, index + 1),
            row_axes=(0, 1),
            column_axes=(2,),
            name=str(index),
        )
        for index in range(shape[0])
    )


def row_blocks(layer_type: LayerType, shape: tuple[int, int], sizes: Mapping[str, int]) -> tuple[Part, ...]:
    """Cut blocks of rows one below the other; their sizes add up to the number of rows."""
    parts = []
    begin = 0
    for name, n_rows in sizes.items():
        window = (0, begin, begin + n_rows)
        parts.append(Part(layer_type=layer_type, fold=shape, window=window, row_axes=(0,), column_axes=(1,), name=name))
        begin += n_rows
    return tuple(parts)


def equal_rows(layer_type: LayerType, shape: tuple[int, int], names: Sequence[str]) -> tuple[Part, ...]:
    """Cut equal blocks of rows one below the other, as torch lays the gates of an LSTM."""
    return row_blocks(layer_type, shape, dict.fromkeys(names, shape[0] // len(names)))


def equal_columns(layer_type: LayerType, shape: tuple[int, ...], names: Sequence[str]) -> tuple[Part, ...]:
    """Cut equal blocks of columns, as Keras lays the gates of an LSTM; axes before the last two are slices."""
    *positions, n_rows, n_columns = shape
    n = len(positions)
    fold = (*positions, n_rows, len(names), n_columns // len(names))
    return tuple(
        Part(
            layer_type=layer_type,
            fold=fold,
            window=(n + 1, index, index + 1),
            slice_axes=tuple(range(n)),
            row_axes=(n,),
            column_axes=(n + 1, n + 2),
            name=name,
        )
        for index, name in enumerate(names)
    )


def interleaved_rows(
    layer_type: LayerType, shape: tuple[int, int], n_groups: int, sizes: Mapping[str, int]
) -> tuple[Part, ...]:
    """Cut blocks of rows that repeat in every group: (group, block, row within it), flattened, are the rows.

    Parameters
    ----------
    layer_type : LayerType
        What the matrices do.
    shape : (rows, columns)
        Of the whole.
    n_groups : int
        Number of groups, for example attention heads.
    sizes : mapping of str to int
        Name -> number of equal units that the block takes in each group.
    """
    n_units = sum(sizes.values())
    fold = (n_groups, n_units, shape[0] // (n_groups * n_units), shape[1])
    parts = []
    begin = 0
    for name, n in sizes.items():
        window = (1, begin, begin + n)
        parts.append(
            Part(layer_type=layer_type, fold=fold, window=window, row_axes=(0, 1, 2), column_axes=(3,), name=name)
        )
        begin += n
    return tuple(parts)
