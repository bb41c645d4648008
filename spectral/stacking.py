"""All weight matrices of a model stacked into one, as a source with a single tensor.

Every layer is standardised, padded with zeros on the right to the width of the widest, and put under the one before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from spectral.errors import ModelError, OptionError
from spectral.loaders.protocol import LayerType, TensorInfo
from spectral.weights import as_weight_matrix

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from spectral.loaders.protocol import TensorSource
    from spectral.weights import MatrixSpec

STACKED_NAME = "Stacked Layer"
"""Name of the one tensor, as the incumbent has it."""

GAUSSIAN_MAD = 0.6744897501960817
"""Median absolute deviation of the standard normal law, its third quartile."""

_CONVOLUTIONS = (LayerType.CONV1D, LayerType.CONV2D, LayerType.CONV3D)


@dataclass(frozen=True, slots=True, kw_only=True)
class StackedSource:
    """A view of a source: one tensor, all its layers stacked.

    Attributes
    ----------
    source : TensorSource
        Where the layers come from.
    specs : tuple of MatrixSpec
        What is stacked, from top to bottom.
    label : str
        That of the source.
    """

    source: TensorSource = field(repr=False)
    specs: tuple[MatrixSpec, ...]

    @property
    def label(self) -> str:
        return self.source.label

    @property
    def info(self) -> TensorInfo:
        """Return the header of the one tensor; no values are read."""
        heights, widths = zip(*map(_block_shape, self.specs), strict=True)
        is_wide_type = any(spec.dtype in ("float64", "longdouble") for spec in self.specs)
        dtype = "float64" if is_wide_type else "float32"
        return TensorInfo(name=STACKED_NAME, shape=(sum(heights), max(widths)), dtype=dtype, role=LayerType.STACKED)

    def tensors(self) -> tuple[TensorInfo, ...]:
        return (self.info,)

    def load(self, name: str) -> NDArray[Any]:
        if name != STACKED_NAME:
            raise ModelError(f"{self.label}: no tensor {name!r}, only {STACKED_NAME!r}")
        stack = np.zeros(self.info.shape, dtype=self.info.dtype)
        top = 0
        for spec in self.specs:
            block = _standardised(_block_of(spec, self.source.load(spec.tensor)))
            with np.errstate(over="ignore"):
                stack[top : top + block.shape[0], : block.shape[1]] = block
            top += block.shape[0]
        return stack


def stacked_source(source: TensorSource, specs: Iterable[MatrixSpec]) -> StackedSource:
    """Stack layers into one tensor of role ``stacked``.

    The slices of a convolution, each turned so that it is tall (wide, where the kernel axes come first), stand side
    by side. Then ``(W - median of W) / MAD of each column``, the column's deviations being taken from its own median
    (parity). One layer is in memory at a time beside the stack, which is float32 unless a layer is float64.

    Parameters
    ----------
    source : TensorSource
        The model.
    specs : iterable of MatrixSpec
        Which matrices, pooled, in the order of the stack.

    Returns
    -------
    StackedSource
        Its one tensor is made when it is loaded.

    Raises
    ------
    OptionError
        There is nothing to stack.

    Notes
    -----
    A column of which more than half of the values are equal (a pruned layer) has no MAD: its standard deviation times
    0.6745 stands in, which is the MAD of Gaussian values; a constant column becomes zero. A layer with
    values that are not finite is stacked as it is, so that the spectrum can say how many there are.
    """
    chosen = tuple(specs)
    if not chosen:
        raise OptionError(f"{source.label}: stacked needs at least one layer, none is selected")
    return StackedSource(source=source, specs=chosen)


def _block_shape(spec: MatrixSpec) -> tuple[int, int]:
    if spec.layer_type not in _CONVOLUTIONS:
        return spec.rows, spec.columns * spec.n_slices
    return (spec.M, spec.N * spec.n_slices) if spec.kernel_first else (spec.N, spec.M * spec.n_slices)


def _block_of(spec: MatrixSpec, values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the slices of a layer side by side."""
    slices = as_weight_matrix(spec, values).slices
    height = _block_shape(spec)[0]
    if slices.shape[1] != height:
        slices = slices.swapaxes(1, 2)
    return np.hstack([block.astype(np.float64) for block in slices])


def _standardised(block: NDArray[np.float64]) -> NDArray[np.float64]:
    if not np.all(np.isfinite(block)):
        return block
    deviations = np.abs(block - np.median(block, axis=0))
    scale = np.median(deviations, axis=0)
    centred = block - np.median(block)
    lacking = np.flatnonzero(scale == 0.0)
    scale[lacking] = GAUSSIAN_MAD * np.std(block[:, lacking], axis=0)
    # By the values, not by the deviation: the mean of equal values is not exactly their value.
    constant = lacking[np.all(block[:, lacking] == block[0, lacking], axis=0)]
    centred[:, constant] = 0.0
    scale[constant] = 1.0
    return np.asarray(centred / scale, dtype=np.float64)
