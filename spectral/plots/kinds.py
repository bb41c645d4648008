"""Every kind of picture by its name: what :meth:`spectral.Analysis.plot` and :func:`save_plots` draw."""

from __future__ import annotations

from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any

from spectral.errors import OptionError
from spectral.layer_analysis import LayerAnalysis
from spectral.plots.bulk import plot_marchenko_pastur
from spectral.plots.depth import plot_alpha_by_depth
from spectral.plots.det_x import plot_det_x
from spectral.plots.esd import plot_esd
from spectral.plots.gaps import plot_delta_es
from spectral.plots.models import plot_models
from spectral.plots.profile import plot_xmin_profile
from spectral.plots.randomized import plot_random_esd
from spectral.plots.vectors import plot_vector_metrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure

    from spectral.analysis import Analysis
    from spectral.options import AnalysisOptions


def draw(analysis: Analysis, kind: str, layer: int | str | LayerAnalysis | None = None, **options: Any) -> Figure:
    """Draw one picture of an analysis.

    Parameters
    ----------
    analysis : Analysis
        What to draw.
    kind : str
        One of :data:`LAYER_KINDS` or :data:`MODEL_KINDS`.
    layer : int, str or LayerAnalysis, optional
        ``layer_id``, name, or the record itself; needed for the kinds of a layer.
    **options
        Of the function that draws: ``ax``, ``scale``, ``metric``, ..

    Raises
    ------
    OptionError
        The kind or the layer is unknown, a layer is missing or too many, or the analysis lacks what is to be drawn.
    MissingDependencyError
        matplotlib is not installed.
    """
    check_kind(kind)
    if kind in MODEL_KINDS:
        if layer is not None:
            raise OptionError(f"a picture of kind {kind!r} is one of the whole model, got layer={_shown(layer)}")
        return MODEL_KINDS[kind](analysis, **options)
    return LAYER_KINDS[kind](analysis, find_layer(analysis, layer, kind), **options)


def check_kind(kind: str) -> None:
    """Raise OptionError for a kind that does not exist."""
    known = [*LAYER_KINDS, *MODEL_KINDS]
    if kind not in known:
        close = get_close_matches(str(kind), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
        raise OptionError(f"no kind of picture {kind!r}; {hint}")


def find_layer(analysis: Analysis, layer: int | str | LayerAnalysis | None, kind: str) -> LayerAnalysis:
    """Return the layer of this id or name.

    Raises
    ------
    OptionError
        There is none, or several slices share it: then the record itself says which.
    """
    if isinstance(layer, LayerAnalysis):
        return layer
    if layer is None:
        raise OptionError(f"a picture of kind {kind!r} is one of a layer: give its layer_id or name")
    is_id = isinstance(layer, int) and not isinstance(layer, bool)
    found = [entry for entry in analysis.layers if (entry.spec.index if is_id else entry.name) == layer]
    if len(found) == 1:
        return found[0]
    if found:
        raise OptionError(f"layer {_shown(layer)} has {len(found)} slices: give one of analysis.layers itself")
    close = get_close_matches(str(layer), [entry.name for entry in analysis.layers], n=1)
    hint = f"; did you mean {_shown(close[0])}?" if close else f"; there are {len(analysis.layers)} analysed layers"
    raise OptionError(f"no analysed layer {_shown(layer)}{hint}")


def available_kinds(options: AnalysisOptions) -> tuple[str, ...]:
    """Return the kinds that an analysis with these options has everything for, without reading weights unasked."""
    kinds = [kind for kind in LAYER_KINDS if missing_option(kind, options) is None]
    if not options.vectors:
        kinds.remove("vector_metrics")
    return (*kinds, "alpha_by_depth")


def missing_option(kind: str, options: AnalysisOptions) -> str | None:
    """Return which option a kind needs and an analysis lacks, as it is written; None where nothing is missing."""
    if kind == "xmin_profile" and (options.fit != "PL" or options.xmax == "force"):
        return "fit='PL' and no xmax='force'"
    option = _NEEDED.get(kind)
    return None if option is None or getattr(options, option) else f"{option}=True"


_NEEDED = {
    "random_esd": "randomize",
    "random_esd_lin_lin": "randomize",
    "marchenko_pastur": "mp_fit",
    "random_marchenko_pastur": "randomize",
    "random_delta_es": "randomize",
    "det_x": "detX",
}


def _of_layer(function: Callable[..., Figure]) -> Callable[..., Figure]:
    def draw_layer(_: Analysis, layer: LayerAnalysis, **options: Any) -> Figure:
        return function(layer, **options)

    return draw_layer


def _draw_vectors(analysis: Analysis, layer: LayerAnalysis, **options: Any) -> Figure:
    """Read the weights again."""
    from spectral.eigenvectors import eigenvector_statistics
    from spectral.execution import single_threaded_blas
    from spectral.weights import load_matrix

    # Raises where the analysis was one of another form than that of the weights.
    analysis.description.options.changed({"vectors": True})
    with single_threaded_blas():
        matrix = load_matrix(analysis.description.source, layer.spec)
        statistics = eigenvector_statistics(matrix.slices, layer.spec.scale)
    return plot_vector_metrics(layer, statistics, **options)


def _shown(layer: object) -> str:
    return repr(layer)[:200]


LAYER_KINDS: dict[str, Callable[..., Figure]] = {
    "esd": _of_layer(plot_esd),
    "esd_lin_lin": _of_layer(partial(plot_esd, scale="lin-lin")),
    "esd_log_lin": _of_layer(partial(plot_esd, scale="log-lin")),
    "xmin_profile": _of_layer(plot_xmin_profile),
    "random_esd": _of_layer(plot_random_esd),
    "random_esd_lin_lin": _of_layer(partial(plot_random_esd, scale="lin-lin")),
    "marchenko_pastur": _of_layer(plot_marchenko_pastur),
    "random_marchenko_pastur": _of_layer(partial(plot_marchenko_pastur, randomized=True)),
    "delta_es": _of_layer(plot_delta_es),
    "random_delta_es": _of_layer(partial(plot_delta_es, randomized=True)),
    "det_x": _of_layer(plot_det_x),
    "vector_metrics": _draw_vectors,
}
"""Kind -> how it is drawn, of an analysis and one of its layers."""

MODEL_KINDS: dict[str, Callable[..., Figure]] = {"alpha_by_depth": plot_alpha_by_depth, "models": plot_models}
"""Kind -> how it is drawn, of an analysis."""
