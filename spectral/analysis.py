"""The front door of the core: a model in, the analysis of every weight matrix out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from spectral.errors import OptionError
from spectral.execution import run_all, single_threaded_blas
from spectral.fits import FitFailure, FitFailureReason
from spectral.loaders import open_model
from spectral.metrics import (
    LAYER_METRICS,
    power_law_metrics,
    spectrum_metrics,
    summarise,
    training_warning,
)
from spectral.power_law import MIN_EVALS, PowerLawFit, fit_power_law
from spectral.spectrum import Spectrum, SpectrumFailure, compute_spectrum
from spectral.weights import MatrixSpec, ModelPlan, UnanalysedTensor, WeightMatrix, load_matrix, plan_matrices

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from concurrent.futures import Executor

    import pandas as pd
    from numpy.typing import NDArray

    from spectral.loaders.protocol import TensorSource

EXCLUDED_BY_OPTION = "excluded by the options"


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisOptions:
    """What to compute; part of every result.

    Parameters
    ----------
    fit : {"PL"}
        Law of the tail: PL is the power law.
    min_evals : int
        Layers with fewer eigenvalues are not fitted and do not enter the summary. At least 2.
    exclude : tuple of str
        Layers whose name matches one of these shell patterns are left out, and listed as such.
    """

    fit: str = "PL"
    min_evals: int = MIN_EVALS
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.fit != "PL":
            raise OptionError(f"fit must be 'PL', got {self.fit!r}")
        if type(self.min_evals) is not int or self.min_evals < 2:
            raise OptionError(f"min_evals must be an integer of at least 2, got {self.min_evals!r}")
        if not all(isinstance(pattern, str) for pattern in self.exclude):
            raise OptionError(f"exclude must hold patterns as text, got {self.exclude!r}")


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
    fit : PowerLawFit or FitFailure
        The fit of the tail, or why there is none.
    is_constant : bool
        Every value is the same.
    metrics : mapping of str to number
        The numbers that exist; one that does not is absent, never NaN.
    """

    spec: MatrixSpec
    content_hash: str
    spectrum: Spectrum | SpectrumFailure
    fit: PowerLawFit | FitFailure
    is_constant: bool
    metrics: Mapping[str, float | int]

    def __reduce__(self) -> tuple[Any, ...]:
        # A read-only view of a dict cannot be sent to another process; its contents can.
        values = {name: getattr(self, name) for name in self.__slots__}
        return _unpickled, ({**values, "metrics": dict(self.metrics)},)

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
        return training_warning(self.fit.alpha) if isinstance(self.fit, PowerLawFit) else ""

    @property
    def status(self) -> str:
        """``success``, ``skipped`` (too few eigenvalues) or ``failed``."""
        if isinstance(self.fit, PowerLawFit):
            return "success"
        return "skipped" if self.fit.reason is FitFailureReason.TOO_FEW_EIGENVALUES else "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixTask:
    """The analysis of one matrix, small enough to send to another process."""

    source: TensorSource = field(repr=False)
    spec: MatrixSpec
    options: AnalysisOptions


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a model holds, from its headers.

    Attributes
    ----------
    source : TensorSource
        Where the tensors come from.
    matrices : tuple of MatrixSpec
        What will be analysed.
    unanalysed : tuple of UnanalysedTensor
        Every other tensor of two or more dimensions, with the reason.
    coverage : float
        Analysed share of the parameters, 0 to 1.
    options : AnalysisOptions
        The options in force.
    """

    source: TensorSource = field(repr=False)
    matrices: tuple[MatrixSpec, ...]
    unanalysed: tuple[UnanalysedTensor, ...]
    coverage: float
    options: AnalysisOptions

    @cached_property
    def details(self) -> pd.DataFrame:
        """One row per matrix: layer_id, name, longname, layer_type, N, M, rf, Q, num_evals."""
        import pandas as pd

        return pd.DataFrame([_identity_row(spec) for spec in self.matrices], columns=list(_IDENTITY_COLUMNS))

    @cached_property
    def other_tensors(self) -> tuple[str, ...]:
        """Names of the float tensors that no matrix here covers: biases, norms, unanalysed and excluded ones."""
        # A tensor with a part left out is read as a whole, too.
        analysed = {spec.tensor for spec in self.matrices} - {tensor.name for tensor in self.unanalysed}
        return tuple(info.name for info in self.source.tensors() if info.refusal is None and info.name not in analysed)

    def tasks(self) -> tuple[MatrixTask, ...]:
        """Return one task per matrix."""
        return tuple(MatrixTask(source=self.source, spec=spec, options=self.options) for spec in self.matrices)


@dataclass(frozen=True, kw_only=True, eq=False)
class Analysis:
    """The analysis of a whole model.

    Attributes
    ----------
    description : Description
        What the model holds.
    layers : tuple of LayerAnalysis
        One per matrix, in the order of the model.
    """

    description: Description
    layers: tuple[LayerAnalysis, ...]

    @property
    def unanalysed(self) -> tuple[UnanalysedTensor, ...]:
        """Every tensor of two or more dimensions that was not analysed, with the reason."""
        return self.description.unanalysed

    @property
    def coverage(self) -> float:
        """Analysed share of the parameters, 0 to 1."""
        return self.description.coverage

    @cached_property
    def details(self) -> pd.DataFrame:
        """One row per matrix with every metric; a number that does not exist is NaN and has a reason."""
        import pandas as pd

        rows = [
            {
                **_identity_row(layer.spec),
                **layer.metrics,
                "status": layer.status,
                "warning": layer.warning,
                "reason": layer.reason or "",
            }
            for layer in self.layers
        ]
        columns = [*_IDENTITY_COLUMNS, *LAYER_METRICS, "status", "warning", "reason"]
        return pd.DataFrame(rows, columns=list(dict.fromkeys(columns)))

    @cached_property
    def summary(self) -> dict[str, float]:
        """Means over the layers that have at least ``min_evals`` eigenvalues."""
        min_evals = self.description.options.min_evals
        return summarise(layer.metrics for layer in self.layers if layer.spec.n_evals >= min_evals)


_IDENTITY_COLUMNS = ("layer_id", "name", "longname", "layer_type", "N", "M", "rf", "Q", "num_evals")


def analyze(
    model: object,
    *,
    fit: str = "PL",
    min_evals: int = MIN_EVALS,
    exclude: Iterable[str] = (),
    executor: Executor | None = None,
    n_workers: int | None = None,
) -> Analysis:
    """Compute and fit the spectrum of every weight matrix of a model.

    Parameters
    ----------
    model : path, torch.nn.Module, mapping, TensorSource or Description
        A checkpoint (``.safetensors``, ``.pt``, ``.pth``, ``.bin``, or a folder with shards), a torch module,
        a state dict, a dict of numpy arrays, or what :func:`describe` returned. Nothing in it is executed.
    fit : {"PL"}
        Law of the tail.
    min_evals : int
        Layers with fewer eigenvalues are not fitted and do not enter the summary.
    exclude : iterable of str
        Shell patterns of layer names to leave out.
    executor : concurrent.futures.Executor, optional
        Where to run; default threads of this process. The result is the same on any.
    n_workers : int, optional
        Number of threads where no executor is given; default one per core.

    Returns
    -------
    Analysis
        ``.details`` (a DataFrame), ``.summary``, ``.layers``, ``.unanalysed``, ``.coverage``.

    Raises
    ------
    ModelError
        The model cannot be read; the message names the file and the place.
    OptionError
        An option has an impossible value.

    Notes
    -----
    Bit-identical for equal values and options, on any number of workers. Trouble in one layer (NaN, all
    zeros, too few eigenvalues) is a reason in that layer's record and never ends the run.
    """
    if isinstance(model, Description):
        description = model
        given = AnalysisOptions(fit=fit, min_evals=min_evals, exclude=tuple(_patterns(exclude)))
        if given not in (AnalysisOptions(), description.options):
            raise OptionError("a Description has its options already: give them to describe(), not to analyze()")
    else:
        description = describe(model, fit=fit, min_evals=min_evals, exclude=exclude)
    layers = run_all(
        analyze_matrix,
        description.tasks(),
        costs=[_flops(spec) for spec in description.matrices],
        executor=executor,
        n_workers=n_workers,
    )
    return Analysis(description=description, layers=tuple(layers))


def describe(model: object, *, fit: str = "PL", min_evals: int = MIN_EVALS, exclude: Iterable[str] = ()) -> Description:
    """List what :func:`analyze` would analyse, from headers alone.

    Parameters and errors are those of :func:`analyze`.

    Returns
    -------
    Description
        ``.details`` (a DataFrame), ``.matrices``, ``.unanalysed``, ``.coverage``.
    """
    options = AnalysisOptions(fit=fit, min_evals=min_evals, exclude=tuple(_patterns(exclude)))
    source = open_model(model)
    return _describe_plan(source, plan_matrices(source.tensors()), options)


def analyze_matrix(task: MatrixTask) -> LayerAnalysis:
    """Load one tensor and analyse it; the unit of work of every executor.

    BLAS is held to one thread here, too: in another process nobody else has done it.
    """
    with single_threaded_blas():
        return _analyze_matrix(task)


def _analyze_matrix(task: MatrixTask) -> LayerAnalysis:
    matrix = load_matrix(task.source, task.spec)
    spectrum = compute_spectrum(matrix)
    metrics: dict[str, float | int] = {}
    fit: PowerLawFit | FitFailure
    if isinstance(spectrum, SpectrumFailure):
        fit = FitFailure(reason=FitFailureReason.NO_SPECTRUM, detail=spectrum.detail)
    else:
        metrics.update(spectrum_metrics(spectrum))
        fit = fit_power_law(spectrum.evals, min_evals=task.options.min_evals)
        if isinstance(fit, PowerLawFit):
            metrics.update(power_law_metrics(spectrum, fit))
    return LayerAnalysis(
        spec=task.spec,
        content_hash=_content_hash(matrix),
        spectrum=spectrum,
        fit=fit,
        is_constant=_is_constant(matrix.values),
        metrics=MappingProxyType(metrics),
    )


def _unpickled(values: dict[str, Any]) -> LayerAnalysis:
    return LayerAnalysis(**{**values, "metrics": MappingProxyType(values["metrics"])})


def _patterns(exclude: Iterable[str]) -> Iterable[str]:
    if isinstance(exclude, str):
        raise OptionError(f"exclude must be a sequence of patterns, got the string {exclude!r}")
    return exclude


def _describe_plan(source: TensorSource, plan: ModelPlan, options: AnalysisOptions) -> Description:
    kept: list[MatrixSpec] = []
    left_out: list[UnanalysedTensor] = []
    n_left_out = 0
    for spec in plan.matrices:
        if any(fnmatchcase(spec.name, pattern) for pattern in options.exclude):
            left_out.append(
                UnanalysedTensor(
                    name=spec.tensor,
                    shape=spec.shape,
                    dtype=spec.dtype,
                    reason=EXCLUDED_BY_OPTION,
                    part=spec.part.name,
                )
            )
            n_left_out += spec.part.n_values
        else:
            kept.append(spec)
    n_wanted = plan.n_parameters - n_left_out
    return Description(
        source=source,
        matrices=tuple(kept),
        unanalysed=(*plan.unanalysed, *left_out),
        # What the user left out on purpose is no gap in coverage.
        coverage=(plan.n_analysed - n_left_out) / n_wanted if n_wanted else 0.0,
        options=options,
    )


def _identity_row(spec: MatrixSpec) -> dict[str, Any]:
    return {
        "layer_id": spec.index,
        "name": spec.name.rpartition(".")[2],
        "longname": spec.name,
        "layer_type": spec.layer_type.value,
        "N": spec.N,
        "M": spec.M,
        "rf": spec.rf,
        "Q": spec.Q,
        "num_evals": spec.n_evals,
    }


def _flops(spec: MatrixSpec) -> float:
    """Relative cost: the Gram product and LAPACK's reduction to tridiagonal form."""
    return spec.rf * (spec.N * spec.M**2 + 4.0 / 3.0 * spec.M**3)


def _content_hash(matrix: WeightMatrix) -> str:
    values = matrix.values
    digest = hashlib.sha256(f"{matrix.spec.dtype}:{','.join(map(str, values.shape))}:".encode())
    digest.update(values.reshape(-1).view("u1").data)
    return digest.hexdigest()


def _is_constant(values: NDArray[Any]) -> bool:
    flat = values.reshape(-1)
    # The first few values settle it for every real matrix; only then is the rest looked at.
    return bool((flat[:64] == flat[0]).all() and (flat == flat[0]).all())
