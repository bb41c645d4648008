"""The front door of the core: a model in, the analysis of every weight matrix out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from spectral.columns import METRICS_BY_OPTION
from spectral.description import IDENTITY_COLUMNS, Description, describe, identity_row
from spectral.errors import OptionError
from spectral.execution import by_layer_name, run_all
from spectral.layer_analysis import LayerAnalysis
from spectral.metrics import LAYER_METRICS, summarise
from spectral.options import AnalysisOptions
from spectral.pipeline import MatrixTask, analyze_matrix
from spectral.run_wide import RunWidePValues, adjust_p_values, count_traps

if TYPE_CHECKING:
    from concurrent.futures import Executor

    import pandas as pd
    from matplotlib.figure import Figure

    from spectral.adapters import AdapterMode
    from spectral.execution import Progress
    from spectral.weights import MatrixSpec, UnanalysedTensor

__all__ = [
    "Analysis",
    "AnalysisOptions",
    "Description",
    "LayerAnalysis",
    "MatrixTask",
    "analyze",
    "analyze_matrix",
    "describe",
]


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

        options = self.description.options
        run_wide = self._run_wide_columns()
        rows = [
            {
                **identity_row(layer.spec),
                **layer.metrics,
                **{name: values[position] for name, values in run_wide.items() if values[position] is not None},
                "status": layer.status,
                "warning": layer.warning,
                "reason": _reasons(layer),
            }
            for position, layer in enumerate(self.layers)
        ]
        asked = [name for option, names in METRICS_BY_OPTION.items() if getattr(options, option) for name in names]
        slice_id = () if options.pool else ("slice_id",)
        columns = [*IDENTITY_COLUMNS, *slice_id, *LAYER_METRICS, *asked, *run_wide, "status", "warning", "reason"]
        return pd.DataFrame(rows, columns=list(dict.fromkeys(columns)))

    @cached_property
    def summary(self) -> dict[str, float]:
        """Means over the layers that have at least ``min_evals`` eigenvalues."""
        min_evals = self.description.options.min_evals
        return summarise(layer.metrics for layer in self.layers if layer.spec.n_evals >= min_evals)

    @cached_property
    def noise_p_values(self) -> RunWidePValues:
        """The noise test over all layers: which can be told from noise at the run's false-alarm rate."""
        p_values = [None if layer.noise is None else layer.noise.p_value for layer in self.layers]
        return adjust_p_values(p_values, self.description.options.false_alarm_rate)

    @cached_property
    def trap_p_values(self) -> RunWidePValues:
        """The trap test over all layers: which have traps at the run's false-alarm rate."""
        p_values = [None if layer.traps is None else layer.traps.p_value for layer in self.layers]
        return adjust_p_values(p_values, self.description.options.false_alarm_rate)

    @cached_property
    def n_traps(self) -> tuple[int | None, ...]:
        """Correlation traps of each layer at the run's false-alarm rate; None where there was no test."""
        return tuple(count_traps([layer.traps for layer in self.layers], self.trap_p_values))

    def plot(self, kind: str, *, layer: int | str | LayerAnalysis | None = None, **options: Any) -> Figure:
        """Draw one picture, with matplotlib (the extra ``plots``).

        Parameters
        ----------
        kind : str
            Of a layer: ``esd``, ``esd_lin_lin``, ``esd_log_lin``, ``xmin_profile``, ``random_esd``,
            ``random_esd_lin_lin``, ``marchenko_pastur``, ``random_marchenko_pastur``, ``delta_es``,
            ``random_delta_es``, ``det_x``, ``vector_metrics``. Of the model: ``alpha_by_depth``, ``models`` (with
            ``other=`` and ``metric=``).
        layer : int, str or LayerAnalysis, optional
            ``layer_id``, name, or one of ``layers``.
        **options
            Those of the function in :mod:`spectral.plots` that draws it.

        Returns
        -------
        matplotlib.figure.Figure
            Neither shown nor saved.

        Raises
        ------
        OptionError
            The kind or the layer is unknown, or the analysis lacks what is to be drawn.
        MissingDependencyError
            matplotlib is not installed.
        """
        from spectral.plots.kinds import draw

        return draw(self, kind, layer, **options)

    def _run_wide_columns(self) -> dict[str, list[float | int | None]]:
        columns: dict[str, list[float | int | None]] = {}
        places = range(len(self.layers))
        if self.description.options.noise_test:
            columns["noise_p_value_run"] = [self.noise_p_values.adjusted.get(place) for place in places]
        if self.description.options.traps:
            columns["trap_p_value_run"] = [self.trap_p_values.adjusted.get(place) for place in places]
            columns["num_tw_traps"] = list(self.n_traps)
        return columns


def analyze(
    model: object,
    options: AnalysisOptions | None = None,
    *,
    base_model: object = None,
    peft: AdapterMode | None = None,
    executor: Executor | None = None,
    n_workers: int | None = None,
    progress: Progress | None = None,
    **changes: Any,
) -> Analysis:
    """Compute and fit the spectrum of every weight matrix of a model.

    Parameters
    ----------
    model : path, torch.nn.Module, Keras model, mapping, TensorSource or Description
        A checkpoint (``.safetensors``, a file of torch, or a folder with shards), a model in memory,
        a state dict, a dict of numpy arrays, or what :func:`describe` returned. Nothing in a file is executed.
    options : AnalysisOptions, optional
        What to compute.
    base_model : like model, optional
        Analyse the difference W_model - W_base, layer by layer.
    peft : {"adapter_only", "with_base"}, optional
        The model is a LoRA adapter: analyse its products B·A alone, or added to ``base_model``.
    executor : concurrent.futures.Executor, optional
        Where to run; default threads of this process. The result is the same on any.
    n_workers : int, optional
        Number of threads where no executor is given; default one per core.
    progress : callable, optional
        Called with (n_done, n_total, layer name) after each matrix, in the thread of the caller.
    **changes
        Single options by name, such as ``min_evals=50`` or ``randomize=True``: see :class:`AnalysisOptions`.

    Returns
    -------
    Analysis
        ``.details`` (a DataFrame), ``.summary``, ``.layers``, ``.unanalysed``, ``.coverage``.

    Raises
    ------
    ModelError
        The model cannot be read; the message names the file and the place.
    OptionError
        An option has an impossible value, two contradict each other, or a filter matches no layer.

    Notes
    -----
    Bit-identical for equal values and options, on any number of workers. Trouble in one layer (NaN, all
    zeros, too few eigenvalues) is a reason in that layer's record and never ends the run.
    """
    if isinstance(model, Description):
        description = model
        _refuse_second_options(description, options, base_model, peft, changes)
    else:
        description = describe(model, options, base_model=base_model, peft=peft, **changes)
    layers = run_all(
        analyze_matrix,
        description.tasks(),
        costs=[_flops(spec) for spec in description.matrices],
        executor=executor,
        n_workers=n_workers,
        progress=by_layer_name(progress),
    )
    return Analysis(description=description, layers=tuple(layers))


def _refuse_second_options(
    description: Description,
    options: AnalysisOptions | None,
    base_model: object,
    peft: AdapterMode | None,
    changes: Any,
) -> None:
    given = (options or AnalysisOptions()).changed(changes)
    if base_model is not None or peft is not None or given not in (AnalysisOptions(), description.options):
        raise OptionError("a Description has its options already: give them to describe(), not to analyze()")


def _reasons(layer: LayerAnalysis) -> str:
    """Return everything that is missing and why, the fit first."""
    texts = [layer.reason] if layer.reason else []
    texts.extend(f"{option}: {detail}" for option, detail in layer.reasons.items() if detail != layer.reason)
    return "; ".join(texts)


def _flops(spec: MatrixSpec) -> float:
    """Relative cost: the Gram product and LAPACK's reduction to tridiagonal form."""
    return spec.n_slices * (spec.N * spec.M**2 + 4.0 / 3.0 * spec.M**3)
