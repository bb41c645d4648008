"""The analysis of one weight matrix: everything the options ask for, or the reason why not."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from spectral.execution import single_threaded_blas
from spectral.fits import FitFailure, FitFailureReason
from spectral.forms import compute_formed_spectrum, form_matrix
from spectral.metrics import power_law_metrics, spectrum_metrics, training_warning
from spectral.power_law import PowerLawFit
from spectral.spectrum import SpectrumFailure
from spectral.tail_fit import fit_tail
from spectral.truncated_power_law import TruncatedPowerLawFit
from spectral.weights import load_matrix

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from spectral.loaders.protocol import TensorSource
    from spectral.marchenko_pastur import MarchenkoPasturFit
    from spectral.noise import NoiseTest
    from spectral.options import AnalysisOptions
    from spectral.spectrum import Spectrum
    from spectral.tail_fit import TailFit
    from spectral.traps import LayerTraps
    from spectral.weights import MatrixSpec, WeightMatrix


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
    twin_evals : ndarray of float64, optional
        Eigenvalues of the randomised twins, pooled, ascending, read-only (``randomize``).
    noise : NoiseTest, optional
        With ``noise_test``.
    traps : LayerTraps, optional
        With ``traps``.
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
    twin_evals: NDArray[np.float64] | None = field(default=None, repr=False)
    noise: NoiseTest | None = None
    traps: LayerTraps | None = None

    def __post_init__(self) -> None:
        for name in ("metrics", "reasons"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        if self.twin_evals is not None:
            self.twin_evals.flags.writeable = False

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
    def warning(self) -> str:
        """``over-trained``, ``under-trained`` or empty; a fit that failed has no such label."""
        return "" if isinstance(self.fit, FitFailure) else training_warning(self.fit.alpha)

    @property
    def status(self) -> str:
        """``success``, ``skipped`` (too few eigenvalues) or ``failed``."""
        if not isinstance(self.fit, FitFailure):
            return "success"
        return "skipped" if self.fit.reason is FitFailureReason.TOO_FEW_EIGENVALUES else "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixTask:
    """The analysis of one matrix, small enough to send to another process."""

    source: TensorSource = field(repr=False)
    spec: MatrixSpec
    options: AnalysisOptions


def analyze_matrix(task: MatrixTask) -> LayerAnalysis:
    """Load one matrix and analyse it; the unit of work of every executor.

    BLAS is held to one thread here, too: in another process nobody else has done it.
    """
    with single_threaded_blas():
        stored = load_matrix(task.source, task.spec)
        return _Work(stored, task.options).done()


class _Work:
    """What is known of one matrix while it is analysed; becomes a record at the end."""

    def __init__(self, stored: WeightMatrix, options: AnalysisOptions) -> None:
        self._stored = stored
        self._matrix = form_matrix(stored, options.forms)
        self._options = options
        self._metrics: dict[str, float | int] = {}
        self._reasons: dict[str, str] = {}
        self._records: dict[str, Any] = {}

    def done(self) -> LayerAnalysis:
        """Run every analysis that the options ask for."""
        spectrum = compute_formed_spectrum(self._matrix, self._options.forms)
        fit = self._fit(spectrum)
        if not isinstance(spectrum, SpectrumFailure):
            for option, analyse in _ANALYSES.items():
                if getattr(self._options, option):
                    analyse(self, spectrum, fit)
        else:
            asked = (option for option in _ANALYSES if getattr(self._options, option))
            self._reasons.update(dict.fromkeys(asked, spectrum.detail))
        return LayerAnalysis(
            spec=self._stored.spec,
            content_hash=_content_hash(self._stored),
            spectrum=spectrum,
            fit=fit if isinstance(fit, FitFailure) else fit.fit,
            is_constant=_is_constant(self._stored.values),
            metrics=self._metrics,
            reasons=self._reasons,
            **self._records,
        )

    def _fit(self, spectrum: Spectrum | SpectrumFailure) -> TailFit | FitFailure:
        if isinstance(spectrum, SpectrumFailure):
            return FitFailure(reason=FitFailureReason.NO_SPECTRUM, detail=spectrum.detail)
        self._metrics.update(spectrum_metrics(spectrum, tolerance=self._options.tolerance))
        fit = fit_tail(spectrum.evals, self._options.tail)
        if not isinstance(fit, FitFailure):
            self._metrics.update(power_law_metrics(spectrum, fit))
        return fit

    def _take(self, option: str, found: dict[str, Any] | FitFailure) -> None:
        """Keep the numbers, or the reason why there are none."""
        if isinstance(found, FitFailure):
            self._reasons[option] = found.detail
        else:
            self._metrics.update(found)

    def mp_fit(self, spectrum: Spectrum, fit: TailFit | FitFailure) -> None:
        """Fit the Marchenko-Pastur law."""
        from spectral.marchenko_pastur import fit_marchenko_pastur, marchenko_pastur_metrics

        found = fit_marchenko_pastur(spectrum.evals, N=spectrum.N, M=spectrum.M)
        if isinstance(found, FitFailure):
            self._reasons["mp_fit"] = found.detail
            return
        self._records["marchenko_pastur"] = found
        self._metrics.update(marchenko_pastur_metrics(found))

    def randomize(self, spectrum: Spectrum, fit: TailFit | FitFailure) -> None:
        """Compare with the randomised twin, and fit the Marchenko-Pastur law to it."""
        from spectral.marchenko_pastur import fit_marchenko_pastur, random_marchenko_pastur_metrics
        from spectral.random_twin import compare_with_twin, twin_metrics
        from spectral.randomization import twin_evals

        twins = twin_evals(self._matrix, self._options.forms, seed=self._options.seed)
        if isinstance(twins, SpectrumFailure):
            self._reasons["randomize"] = twins.detail
            return
        pooled = np.sort(np.concatenate(twins))
        self._records["twin_evals"] = pooled
        self._metrics.update(twin_metrics(compare_with_twin(spectrum.evals, pooled_rand_evals=pooled, rand_evals=twins[0])))
        found = fit_marchenko_pastur(pooled, N=spectrum.N, M=spectrum.M)
        if isinstance(found, FitFailure):
            self._reasons["randomize"] = found.detail
            return
        self._records["twin_marchenko_pastur"] = found
        self._metrics.update(random_marchenko_pastur_metrics(found))

    def det_x(self, spectrum: Spectrum, fit: TailFit | FitFailure) -> None:
        """Find the tail with product 1."""
        from spectral.det_x import det_x_metrics, find_det_x

        found = find_det_x(spectrum.evals)
        if isinstance(found, FitFailure):
            self._reasons["detX"] = found.detail
            return
        self._metrics.update(
            det_x_metrics(
                found,
                N=spectrum.N,
                M=spectrum.M,
                n_evals=len(spectrum.evals),
                n_pl_spikes=None if isinstance(fit, FitFailure) else fit.num_pl_spikes,
            )
        )

    def vectors(self, spectrum: Spectrum, fit: TailFit | FitFailure) -> None:
        """Measure the eigenvectors below and above xmin."""
        from spectral.eigenvectors import eigenvector_metrics

        xmin = fit if isinstance(fit, FitFailure) else fit.fit.xmin
        self._take("vectors", eigenvector_metrics(self._matrix.slices, self._matrix.spec.scale, xmin))

    def noise_test(self, spectrum: Spectrum, fit: TailFit | FitFailure) -> None:
        """Test whether there is anything but noise."""
        from spectral.matrix_tests import compare_matrix_with_noise, noise_metrics

        found = compare_matrix_with_noise(self._matrix, spectrum, seed=self._options.seed)
        if isinstance(found, FitFailure):
            self._reasons["noise_test"] = found.detail
            return
        self._records["noise"] = found
        self._metrics.update(noise_metrics(found, self._matrix.spec))

    def traps(self, spectrum: Spectrum, fit: TailFit | FitFailure) -> None:
        """Test for correlation traps."""
        from spectral.matrix_tests import find_matrix_traps, trap_metrics

        found = find_matrix_traps(self._matrix, seed=self._options.seed)
        if isinstance(found, FitFailure):
            self._reasons["traps"] = found.detail
            return
        self._records["traps"] = found
        self._metrics.update(trap_metrics(found, self._matrix.spec))

    def farms(self, spectrum: Spectrum, fit: TailFit | FitFailure) -> None:
        """Estimate alpha over windows of one aspect ratio."""
        from spectral.hill import alpha_farms

        found = alpha_farms(self._matrix.slices)
        self._take("farms", found if isinstance(found, FitFailure) else {"alpha_farms": found})

    def tail_doubts(self, spectrum: Spectrum, fit: TailFit | FitFailure) -> None:
        """Say how sure alpha is, and whether the tail can be a power law."""
        from spectral.tail_doubts import tail_doubt_metrics

        law = fit if isinstance(fit, FitFailure) else fit.fit
        assert not isinstance(law, TruncatedPowerLawFit), "the options allow these tests for power laws only"
        found, reasons = tail_doubt_metrics(
            spectrum.evals, law, name=self._matrix.spec.name, options=self._options
        )
        self._metrics.update(found)
        self._reasons.update(reasons)


_ANALYSES: dict[str, Callable[[_Work, Spectrum, TailFit | FitFailure], None]] = {
    "mp_fit": _Work.mp_fit,
    "vectors": _Work.vectors,
    "randomize": _Work.randomize,
    "detX": _Work.det_x,
    "noise_test": _Work.noise_test,
    "traps": _Work.traps,
    "farms": _Work.farms,
    "judges_tail": _Work.tail_doubts,
}
"""Option -> what it asks for."""


def _unpickled(values: dict[str, Any]) -> LayerAnalysis:
    return LayerAnalysis(**values)


def _content_hash(matrix: WeightMatrix) -> str:
    values = matrix.values
    digest = hashlib.sha256(f"{matrix.spec.dtype}:{','.join(map(str, values.shape))}:".encode())
    digest.update(values.reshape(-1).view("u1").data)
    return digest.hexdigest()


def _is_constant(values: NDArray[Any]) -> bool:
    flat = values.reshape(-1)
    # The first few values settle it for every real matrix; only then is the rest looked at.
    return bool((flat[:64] == flat[0]).all() and (flat == flat[0]).all())
