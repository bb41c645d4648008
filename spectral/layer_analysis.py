"""Everything known about one weight matrix, as one record."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from spectral.fits import FitFailure, FitFailureReason
from spectral.metrics import training_warning
from spectral.spectrum import SpectrumFailure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from spectral.marchenko_pastur import MarchenkoPasturFit
    from spectral.noise import NoiseTest
    from spectral.power_law import PowerLawFit
    from spectral.spectrum import Spectrum
    from spectral.traps import LayerTraps
    from spectral.truncated_power_law import TruncatedPowerLawFit
    from spectral.weights import MatrixSpec


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerAnalysis:
    """Everything known about one weight matrix.

    Attributes
    ----------
    spec : MatrixSpec
        Name, type and shape.
    content_hash : str
        SHA-256 over dtype, shape and bytes; equal for equal tensors in any file format. For a part of a tensor,
        that of the part: equal to the hash of the same matrix stored alone.
    spectrum : Spectrum or SpectrumFailure
        The eigenvalues, or why there are none.
    fit : PowerLawFit, TruncatedPowerLawFit or FitFailure
        The fit of the tail, or why there is none.
    is_constant : bool
        Every value is the same.
    metrics : mapping of str to number
        The numbers that exist; one that does not is absent, never NaN.
    reasons : mapping of str to str
        Option -> why what it asks for does not exist for this layer.
    marchenko_pastur, twin_marchenko_pastur : MarchenkoPasturFit, optional
        Of the spectrum (``mp_fit``) and of its randomised twin (``randomize``).
    distinct_evals : ndarray of float64, optional
        Each eigenvalue once, ascending, read-only, where the form of the matrix repeats them (``conv2d_fft``).
    twin_evals : ndarray of float64, optional
        Eigenvalues of the randomised twins, pooled, ascending, read-only (``randomize``).
    noise : NoiseTest, optional
        With ``noise_test``.
    traps : LayerTraps, optional
        With ``traps``.
    projections : ndarray of float64, optional
        Random projections of the weights, read-only (``projections``).
    failed_measures : tuple of str
        Measures of the caller's own that should have given a number; ``reasons`` says what went wrong.
    """

    spec: MatrixSpec
    content_hash: str
    spectrum: Spectrum | SpectrumFailure
    fit: PowerLawFit | TruncatedPowerLawFit | FitFailure
    is_constant: bool
    metrics: Mapping[str, float | int]
    reasons: Mapping[str, str] = field(default_factory=dict)
    marchenko_pastur: MarchenkoPasturFit | None = None
    twin_marchenko_pastur: MarchenkoPasturFit | None = None
    distinct_evals: NDArray[np.float64] | None = field(default=None, repr=False)
    twin_evals: NDArray[np.float64] | None = field(default=None, repr=False)
    noise: NoiseTest | None = None
    traps: LayerTraps | None = None
    projections: NDArray[np.float64] | None = field(default=None, repr=False)
    failed_measures: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("metrics", "reasons"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        for array in (self.distinct_evals, self.twin_evals, self.projections):
            if array is not None:
                array.flags.writeable = False

    def __reduce__(self) -> tuple[Any, ...]:
        # A read-only view of a dict cannot be sent to another process; its contents can.
        values = {name: getattr(self, name) for name in self.__slots__}
        return _unpickled, ({**values, "metrics": dict(self.metrics), "reasons": dict(self.reasons)},)

    @property
    def name(self) -> str:
        """Layer name."""
        return self.spec.name

    @property
    def reason(self) -> str | None:
        """Why there is no spectrum, or no fit; None where there are both."""
        if isinstance(self.spectrum, SpectrumFailure):
            return self.spectrum.detail
        return self.fit.detail if isinstance(self.fit, FitFailure) else None

    @property
    def fitted_evals(self) -> NDArray[np.float64]:
        """The eigenvalues that the tail was fitted to, ascending: each once; none where there is no spectrum."""
        if isinstance(self.spectrum, SpectrumFailure):
            return np.empty(0)
        return self.spectrum.evals if self.distinct_evals is None else self.distinct_evals

    @property
    def warning(self) -> str:
        """``over-trained``, ``under-trained`` or empty; a fit that failed has no such label."""
        return "" if isinstance(self.fit, FitFailure) else training_warning(self.fit.alpha)

    @property
    def status(self) -> str:
        """``success``, ``skipped`` (too few eigenvalues) or ``failed``."""
        if not isinstance(self.fit, FitFailure):
            return "success"
        return "skipped" if self.fit.reason is FitFailureReason.TOO_FEW_EIGENVALUES else "failed"


def _unpickled(values: dict[str, Any]) -> LayerAnalysis:
    return LayerAnalysis(**values)
