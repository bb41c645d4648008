"""A layer beside its baseline: paired numbers, no judgement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_weightwatcher.baseline import rounded
from spectral.paired import sketch_spectrum, spectral_displacement
from spectral.power_law import alpha_at_tail
from spectral.spectrum import Spectrum

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_weightwatcher.baseline import BaselineEntry
    from spectral.analysis import LayerAnalysis


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerComparison:
    """How far one layer moved.

    Attributes
    ----------
    is_same_shape : bool
        False where the spectra have different shapes; then nothing else is known.
    alpha : float or None
        Exponent of the new spectrum over the baseline's own tail size.
    displacement : float or None
        Relative spectral displacement √Σ(σ-σ')²/√Σσ², 0 for equal spectra.
    """

    is_same_shape: bool
    alpha: float | None
    displacement: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSetComparison:
    """Which layers two models share, by name.

    Attributes
    ----------
    added, removed, reshaped : tuple of str
        Layer names, in the order of the model (of the baseline for removed).
    n_shared : int
        Layers of the same name and shape.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    reshaped: tuple[str, ...]
    n_shared: int


def compare_layer(layer: LayerAnalysis, entry: BaselineEntry) -> LayerComparison:
    """Measure a layer against its baseline entry."""
    if layer.spec.shape != entry.shape or layer.spec.n_evals != entry.n_evals:
        return LayerComparison(is_same_shape=False, alpha=None, displacement=None)
    if not isinstance(layer.spectrum, Spectrum):
        return LayerComparison(is_same_shape=True, alpha=None, displacement=None)
    evals = layer.spectrum.evals
    # Equal hashes prove nothing: a baseline can be edited. Rounded alike, equal spectra give exactly zero.
    alpha = alpha_at_tail(layer.fitted_evals, entry.tail.n) if entry.tail else None
    return LayerComparison(
        is_same_shape=True,
        alpha=None if alpha is None else rounded(alpha),
        displacement=spectral_displacement(
            np.array([rounded(value) for value in sketch_spectrum(evals)]),
            np.array(entry.sketch),
            n_values=entry.n_evals,
            reference_norm=entry.metrics["norm"],
        ),
    )


def compare_layer_sets(
    shapes: Mapping[str, tuple[int, ...]], baseline_shapes: Mapping[str, tuple[int, ...]]
) -> LayerSetComparison:
    """Compare the layers of a model with those of its baseline, by name and shape."""
    return LayerSetComparison(
        added=tuple(name for name in shapes if name not in baseline_shapes),
        removed=tuple(name for name in baseline_shapes if name not in shapes),
        reshaped=tuple(
            name for name, shape in shapes.items() if name in baseline_shapes and baseline_shapes[name] != shape
        ),
        n_shared=sum(baseline_shapes.get(name) == shape for name, shape in shapes.items()),
    )
