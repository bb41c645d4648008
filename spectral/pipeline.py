"""From one weight matrix to its analysis: everything the options ask for, or the reason why not."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from spectral.content_hash import begin_hash
from spectral.execution import single_threaded_blas
from spectral.fits import FitFailure, FitFailureReason
from spectral.forms import compute_formed_spectrum, fitted_evals, form_matrix, form_spectrum
from spectral.lanes import aside
from spectral.largest import LARGEST_WEIGHT, find_largest
from spectral.layer_analysis import LayerAnalysis
from spectral.loaders.protocol import FactoredSource
from spectral.loaders.spans import stream_of
from spectral.lora import product_spectrum
from spectral.metrics import power_law_metrics, spectrum_metrics
from spectral.projections import project
from spectral.spectrum import Spectrum, SpectrumFailure, compute_spectrum
from spectral.tail_fit import fit_tail
from spectral.truncated_power_law import TruncatedPowerLawFit
from spectral.weights import load_matrix

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping, Sequence

    from numpy.typing import NDArray

    from spectral.forms import FormOptions
    from spectral.loaders.protocol import TensorSource
    from spectral.options import AnalysisOptions
    from spectral.tail_fit import TailFit
    from spectral.traps import LayerTraps
    from spectral.weights import MatrixSpec, WeightMatrix


@dataclass(frozen=True, slots=True, kw_only=True)
class NoMeasure:
    """Why a measure of the caller's own gave no number.

    Attributes
    ----------
    reason : str
        One sentence.
    is_error : bool
        It should have given one.
    """

    reason: str
    is_error: bool


class Measure(Protocol):
    """A number that the caller wants of every matrix with a spectrum, beside those of the options."""

    @property
    def name(self) -> str:
        """What to call it among the metrics."""

    def __call__(self, layer: LayerAnalysis, matrix: WeightMatrix) -> float | int | NoMeasure:
        """Return it, or why there is none; never raises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixTask:
    """The analysis of one matrix, small enough to send to another process."""

    source: TensorSource = field(repr=False)
    spec: MatrixSpec
    options: AnalysisOptions
    by_svd: bool = False
    """By a full singular value decomposition, not by the Gram matrix: slower, and exact for small singular values."""
    measures: tuple[Measure, ...] = ()
    """What the caller measures besides."""


def analyze_matrix(task: MatrixTask) -> LayerAnalysis:
    """Load one matrix and analyse it; the unit of work of every executor.

    BLAS is held to one thread here, too: in another process nobody else has done it.
    """
    with single_threaded_blas():
        stored = load_matrix(task.source, task.spec)
        layer = _analyze(stored, _given_spectrum(task, stored), task.options, content_hash(stored))
        return _with_measures(layer, stored, task.measures)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownMatrix:
    """A matrix whose content is known already, so that nothing was computed.

    Attributes
    ----------
    spec : MatrixSpec
        Name, type and shape.
    content_hash : str
        As in :class:`LayerAnalysis`.
    """

    spec: MatrixSpec
    content_hash: str


def analyze_unless_known(
    task: MatrixTask, known: Container[str], *, before: Callable[[], object] = lambda: None
) -> LayerAnalysis | KnownMatrix:
    """Load one matrix and analyse it, unless the hash of its content is among the known ones.

    Parameters
    ----------
    task : MatrixTask
        What to analyse.
    known : container of str
        Content hashes.
    before : callable
        Called before anything is computed, after the content turned out to be unknown.
    """
    streamed = _streamed_hash(task) if known else None
    if streamed is not None and streamed in known:
        return KnownMatrix(spec=task.spec, content_hash=streamed)
    stored = load_matrix(task.source, task.spec)
    # Of what is loaded now: the file may be another one by this time.
    digest = content_hash(stored)
    if digest in known:
        return KnownMatrix(spec=stored.spec, content_hash=digest)
    before()
    with single_threaded_blas():
        layer = _analyze(stored, _given_spectrum(task, stored), task.options, digest)
        return _with_measures(layer, stored, task.measures)


def _with_measures(layer: LayerAnalysis, stored: WeightMatrix, measures: Sequence[Measure]) -> LayerAnalysis:
    """Add what the caller measures; of a layer without a spectrum nothing is."""
    if not measures or isinstance(layer.spectrum, SpectrumFailure):
        return layer
    values = {measure.name: measure(layer, stored) for measure in measures}
    missing = {name: value for name, value in values.items() if isinstance(value, NoMeasure)}
    return replace(
        layer,
        metrics={**layer.metrics, **{n: value for n, value in values.items() if not isinstance(value, NoMeasure)}},
        reasons={**layer.reasons, **{name: value.reason for name, value in missing.items()}},
        failed_measures=tuple(name for name, value in missing.items() if value.is_error),
    )


def _given_spectrum(task: MatrixTask, stored: WeightMatrix) -> Spectrum | None:
    """Return the spectrum where it comes by another way than that of every matrix."""
    if task.by_svd:
        spectrum = compute_spectrum(stored, by_svd=True)
        return spectrum if isinstance(spectrum, Spectrum) else None
    return _spectrum_of_factors(task)


def _spectrum_of_factors(task: MatrixTask) -> Spectrum | None:
    """Return the spectrum of a product of thin matrices from these, a thousand times faster than from the product."""
    if task.spec.max_rank is None or not isinstance(task.source, FactoredSource):
        return None
    factors = task.source.factors(task.spec.tensor)
    return None if factors is None else product_spectrum(task.spec, *factors)


def _analyze(stored: WeightMatrix, of_factors: Spectrum | None, options: AnalysisOptions, digest: str) -> LayerAnalysis:
    matrix = form_matrix(stored, options.forms)
    # The trap test needs the weights only, not their spectrum: with one large matrix it has a core for itself.
    with aside(partial(_find_traps, matrix, options), cost=_multiplications(matrix) if options.traps else 0.0) as traps:
        spectrum = _spectrum_of(matrix, stored.spec, of_factors, options.forms)
    found = _Found()
    tail: TailFit | FitFailure
    if isinstance(spectrum, SpectrumFailure):
        tail = FitFailure(reason=FitFailureReason.NO_SPECTRUM, detail=spectrum.detail)
        found.reasons.update({option: spectrum.detail for option in _ANALYSES if getattr(options, option)})
    else:
        evals = fitted_evals(spectrum, stored.spec, options.forms)
        tail = fit_tail(evals, options.tail)
        if evals is not spectrum.evals:
            found.records["distinct_evals"] = evals
            tail = _with_copies(tail, len(spectrum.evals))
        if options.projections:
            found.records["projections"] = project(stored.slices, stored.spec.scale)
            found.metrics[LARGEST_WEIGHT] = abs(find_largest(stored.slices).value)
        _measure(_Layer(matrix=matrix, options=options, spectrum=spectrum, evals=evals, tail=tail, traps=traps), found)
    return LayerAnalysis(
        spec=stored.spec,
        content_hash=digest,
        spectrum=spectrum,
        fit=tail if isinstance(tail, FitFailure) else tail.fit,
        is_constant=_is_constant(stored.values),
        metrics=found.metrics,
        reasons=found.reasons,
        **found.records,
    )


def _spectrum_of(
    matrix: WeightMatrix, stored: MatrixSpec, of_factors: Spectrum | None, forms: FormOptions
) -> Spectrum | SpectrumFailure:
    if of_factors is None or forms.fft:
        return compute_formed_spectrum(matrix, forms)
    return form_spectrum(of_factors, stored, forms)


def _measure(layer: _Layer, found: _Found) -> None:
    """Take every number that the options ask for."""
    found.metrics.update(spectrum_metrics(layer.spectrum, tolerance=layer.options.tolerance))
    if not isinstance(layer.tail, FitFailure):
        found.metrics.update(power_law_metrics(layer.spectrum, layer.tail))
    for option, analyse in _ANALYSES.items():
        if getattr(layer.options, option):
            analyse(layer, found)


def _with_copies(tail: TailFit | FitFailure, n_evals: int) -> TailFit | FitFailure:
    """Say in a failure how many eigenvalues there are with their copies, as the other numbers count them."""
    if not isinstance(tail, FitFailure):
        return tail
    return replace(tail, detail=f"{tail.detail} (each counted once; with their copies they are {n_evals})")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Layer:
    """What every analysis may read."""

    matrix: WeightMatrix
    options: AnalysisOptions
    spectrum: Spectrum
    evals: NDArray[np.float64]
    """Those of the spectrum that the tail is fitted to."""
    tail: TailFit | FitFailure
    traps: Callable[[], LayerTraps | FitFailure]
    """Gives the trap test, begun before there was a spectrum."""


@dataclass(slots=True)
class _Found:
    """What the analyses of one layer have found so far."""

    metrics: dict[str, float | int] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    records: dict[str, Any] = field(default_factory=dict)

    def take(self, option: str, metrics: Mapping[str, float | int] | FitFailure) -> None:
        """Keep the numbers, or the reason why there are none."""
        if isinstance(metrics, FitFailure):
            self.reasons[option] = metrics.detail
        else:
            self.metrics.update(metrics)


def _fit_marchenko_pastur(layer: _Layer, found: _Found) -> None:
    from spectral.marchenko_pastur import fit_marchenko_pastur, marchenko_pastur_metrics

    fit = fit_marchenko_pastur(layer.spectrum.evals, N=layer.spectrum.N, M=layer.spectrum.M)
    if isinstance(fit, FitFailure):
        found.take("mp_fit", fit)
        return
    found.records["marchenko_pastur"] = fit
    found.take("mp_fit", marchenko_pastur_metrics(fit))


def _randomize(layer: _Layer, found: _Found) -> None:
    from spectral.marchenko_pastur import fit_marchenko_pastur, random_marchenko_pastur_metrics
    from spectral.random_twin import compare_with_twin, twin_metrics
    from spectral.randomization import twin_evals

    evals, options = layer.spectrum.evals, layer.options
    twins = twin_evals(layer.matrix, options.forms, seed=options.seed)
    if isinstance(twins, SpectrumFailure):
        found.reasons["randomize"] = twins.detail
        return
    pooled = np.sort(np.concatenate(twins))
    found.records["twin_evals"] = pooled
    found.take("randomize", twin_metrics(compare_with_twin(evals, pooled_rand_evals=pooled, rand_evals=twins[0])))
    fit = fit_marchenko_pastur(pooled, N=layer.spectrum.N, M=layer.spectrum.M)
    if isinstance(fit, FitFailure):
        found.take("randomize", fit)
        return
    found.records["twin_marchenko_pastur"] = fit
    found.take("randomize", random_marchenko_pastur_metrics(fit))


def _find_det_x(layer: _Layer, found: _Found) -> None:
    from spectral.det_x import det_x_metrics, find_det_x

    spectrum, tail = layer.spectrum, layer.tail
    det_x = find_det_x(spectrum.evals)
    if isinstance(det_x, FitFailure):
        found.take("detX", det_x)
        return
    n_pl_spikes = None if isinstance(tail, FitFailure) else _n_spikes_with_copies(layer, tail)
    found.take(
        "detX",
        det_x_metrics(det_x, N=spectrum.N, M=spectrum.M, n_evals=len(spectrum.evals), n_pl_spikes=n_pl_spikes),
    )


def _n_spikes_with_copies(layer: _Layer, tail: TailFit) -> int:
    """Count the eigenvalues of the tail as the spectrum has them: both sides of a gap count copies."""
    first = int(np.searchsorted(layer.evals, tail.fit.xmin))
    smallest, largest = layer.evals[[first, first + tail.num_pl_spikes - 1]]
    evals = layer.spectrum.evals
    return int(np.searchsorted(evals, largest, side="right") - np.searchsorted(evals, smallest))


def _measure_vectors(layer: _Layer, found: _Found) -> None:
    from spectral.eigenvectors import eigenvector_metrics

    xmin = layer.tail if isinstance(layer.tail, FitFailure) else layer.tail.fit.xmin
    found.take("vectors", eigenvector_metrics(layer.matrix.slices, layer.matrix.spec.scale, xmin))


def _test_noise(layer: _Layer, found: _Found) -> None:
    from spectral.matrix_tests import compare_matrix_with_noise, noise_metrics

    test = compare_matrix_with_noise(layer.matrix, layer.spectrum, seed=layer.options.seed)
    if isinstance(test, FitFailure):
        found.take("noise_test", test)
        return
    found.records["noise"] = test
    found.take("noise_test", noise_metrics(test, layer.matrix.spec))


def _test_traps(layer: _Layer, found: _Found) -> None:
    from spectral.matrix_tests import trap_metrics

    test = layer.traps()
    if isinstance(test, FitFailure):
        found.take("traps", test)
        return
    found.records["traps"] = test
    found.take("traps", trap_metrics(test, layer.matrix.spec))


def _find_traps(matrix: WeightMatrix, options: AnalysisOptions) -> LayerTraps | FitFailure:
    from spectral.matrix_tests import find_matrix_traps

    return find_matrix_traps(matrix, seed=options.seed)


def _multiplications(matrix: WeightMatrix) -> float:
    return float(matrix.spec.n_slices) * matrix.spec.N * matrix.spec.M**2


def _estimate_farms(layer: _Layer, found: _Found) -> None:
    from spectral.hill import alpha_farms

    alpha = alpha_farms(layer.matrix.slices)
    found.take("farms", alpha if isinstance(alpha, FitFailure) else {"alpha_farms": alpha})


def _judge_tail(layer: _Layer, found: _Found) -> None:
    from spectral.tail_doubts import tail_doubt_metrics

    law = layer.tail if isinstance(layer.tail, FitFailure) else layer.tail.fit
    assert not isinstance(law, TruncatedPowerLawFit), "the options allow these tests for power laws only"
    metrics, reasons = tail_doubt_metrics(layer.evals, law, name=layer.matrix.spec.name, options=layer.options)
    found.metrics.update(metrics)
    found.reasons.update(reasons)


_ANALYSES: dict[str, Callable[[_Layer, _Found], None]] = {
    "mp_fit": _fit_marchenko_pastur,
    "vectors": _measure_vectors,
    "randomize": _randomize,
    "detX": _find_det_x,
    "noise_test": _test_noise,
    "traps": _test_traps,
    "farms": _estimate_farms,
    "judges_tail": _judge_tail,
}
"""Option -> what it asks for, in the order of the columns."""


def content_hash(matrix: WeightMatrix) -> str:
    """Return the SHA-256 over dtype, shape and bytes of a matrix."""
    digest = begin_hash(matrix.spec.dtype, matrix.values.shape)
    digest.update(matrix.values.reshape(-1).view("u1").data)
    return digest.hexdigest()


def _streamed_hash(task: MatrixTask) -> str | None:
    """Return the :func:`content_hash` of a matrix without loading it, where it is a tensor that can be streamed."""
    spec = task.spec
    if spec.part.window is not None or spec.slice_id is not None:
        return None
    pieces = stream_of(task.source, spec.tensor)
    if pieces is None:
        return None
    digest = begin_hash(spec.dtype, spec.shape)
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _is_constant(values: NDArray[Any]) -> bool:
    flat = values.reshape(-1)
    # The first few values settle it for every real matrix; only then is the rest looked at.
    return bool((flat[:64] == flat[0]).all() and (flat == flat[0]).all())
