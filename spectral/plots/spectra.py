"""What of a layer can be drawn, or why not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spectral.errors import OptionError
from spectral.spectrum import SpectrumFailure

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spectral.layer_analysis import LayerAnalysis

SMALLEST, LARGEST = 1e-250, 1e250
"""The largest eigenvalue lies between these: beyond them a density, or the margin of an axis, leaves float64."""


def drawable_evals(layer: LayerAnalysis) -> NDArray[np.float64] | str:
    """Return the eigenvalues of a layer, or why they cannot be drawn."""
    if isinstance(layer.spectrum, SpectrumFailure):
        return layer.spectrum.detail
    largest = float(layer.spectrum.evals[-1])
    if not SMALLEST < largest < LARGEST:
        return f"the largest eigenvalue is {largest:.3g}: too far from one to be drawn"
    return layer.spectrum.evals


def drawable_twin(layer: LayerAnalysis) -> NDArray[np.float64] | str:
    """Return the eigenvalues of a layer's randomised twin, or why there are none that can be drawn.

    Raises
    ------
    OptionError
        Nobody asked for a twin.
    """
    if layer.twin_evals is None and "randomize" not in layer.reasons:
        raise OptionError(f"layer {layer.name[:200]!r} has no randomised twin: analyze with randomize=True")
    evals = drawable_evals(layer)
    if isinstance(evals, str):
        return evals
    return layer.reasons["randomize"] if layer.twin_evals is None else layer.twin_evals
