"""One metric of two models, layer against layer."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Literal

from spectral.columns import METRICS_BY_OPTION
from spectral.errors import OptionError
from spectral.metrics import LAYER_METRICS
from spectral.pairing import match_names
from spectral.plots.labels import printable, shortened, write_reason, write_title
from spectral.plots.style import DATA, FIT, MARK, axes_for, figure_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from spectral.analysis import Analysis
    from spectral.layer_analysis import LayerAnalysis

ARRANGEMENTS = ("scatter", "depth")

DECADES = 30.0
"""Positive values that span more than this factor are drawn on logarithmic axes."""

_N_NAMED = 3
_NAME_LENGTH = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricPairs:
    """A metric of the layers that two analyses share.

    Attributes
    ----------
    places : tuple of int
        ``layer_id`` in the first.
    first, second : tuple of float
        The values.
    missing : tuple of str
        Layers of both that lack the metric in one of them.
    only_first, only_second : tuple of str
        Layers without a partner.
    """

    places: tuple[int, ...]
    first: tuple[float, ...]
    second: tuple[float, ...]
    missing: tuple[str, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]


def plot_models(
    analysis: Analysis,
    other: Analysis,
    metric: str = "alpha",
    *,
    arrangement: Literal["scatter", "depth"] = "scatter",
    ax: Axes | None = None,
) -> Figure:
    """Draw one metric of two analyses against each other.

    Layers are matched by name, as :func:`spectral.distances` does: one common prefix may set the names apart.

    Parameters
    ----------
    analysis, other : Analysis
        Of two models with layers in common.
    metric : str
        Any column of numbers of ``Analysis.details``, such as ``"alpha"`` or ``"stable_rank"``.
    arrangement : {"scatter", "depth"}
        The one value against the other, or both along the layers of the first model.
    ax : matplotlib.axes.Axes, optional
        Where to draw; default a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        Neither shown nor saved. Layers without a partner, or without a value, are counted and the first ones named.

    Raises
    ------
    OptionError
        The metric is unknown, or an analysis did not ask for it, or the arrangement is unknown.
    MissingDependencyError
        matplotlib is not installed.
    """
    if arrangement not in ARRANGEMENTS:
        raise OptionError(f"arrangement must be one of {', '.join(map(repr, ARRANGEMENTS))}, got {arrangement!r}")
    for given in (analysis, other):
        check_metric(given, metric)
    pairs = pair_metric(analysis, other, metric)
    labels = [shortened(given.description.source.label, 48) for given in (analysis, other)]
    with axes_for(ax) as axes:
        headline = f"{printable(metric)} of {len(pairs.places)} layers"
        write_title(axes, lambda length: "\n".join([headline, *_remarks(pairs, length)]), _NAME_LENGTH)
        if not pairs.places:
            write_reason(axes, "the two models have no layer of one name that has this metric in both")
        elif arrangement == "scatter":
            _draw_scatter(axes, pairs, metric, labels)
        else:
            _draw_depth(axes, pairs, metric, labels)
        return figure_of(axes)


def pair_metric(analysis: Analysis, other: Analysis, metric: str) -> MetricPairs:
    """Match the layers of two analyses by name (and slice), and collect a metric of both."""
    first, second = _by_name(analysis), _by_name(other)
    partners = match_names([name for name, _ in first], [name for name, _ in second])
    places, values, missing, only_first, taken = [], [], [], [], set()
    for (name, slice_id), layer in first.items():
        key = (partners.get(name, ""), slice_id)
        if key not in second:
            only_first.append(_named(name, slice_id))
            continue
        taken.add(key)
        pair = (layer.metrics.get(metric), second[key].metrics.get(metric))
        if pair[0] is None or pair[1] is None:
            missing.append(_named(name, slice_id))
        else:
            places.append(layer.spec.index)
            values.append((float(pair[0]), float(pair[1])))
    return MetricPairs(
        places=tuple(places),
        first=tuple(value for value, _ in values),
        second=tuple(value for _, value in values),
        missing=tuple(missing),
        only_first=tuple(only_first),
        only_second=tuple(_named(*key) for key in second if key not in taken),
    )


def check_metric(analysis: Analysis, metric: str) -> None:
    """Raise OptionError unless the analysis asked for this metric."""
    options = analysis.description.options
    known = dict.fromkeys(LAYER_METRICS, "")
    known.update({name: option for option, names in METRICS_BY_OPTION.items() for name in names})
    if metric not in known:
        close = get_close_matches(str(metric), known, n=1)
        raise OptionError(f"no metric {metric!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
    if known[metric] and not getattr(options, known[metric]):
        label = shortened(analysis.description.source.label)
        raise OptionError(
            f"the analysis of {label} has no {metric}: analyze with {_ASK.get(known[metric], known[metric] + '=True')}"
        )


_ASK = {
    "has_cutoff": "fit='TPL'",
    "clips_fingers": "fix_fingers='clip_xmax'",
    "bootstrap": "bootstrap=200",
    "goodness_of_fit": "goodness_of_fit=200",
}
"""What to write for an option that is no switch."""


def _by_name(analysis: Analysis) -> dict[tuple[str, int | None], LayerAnalysis]:
    return {(layer.name, layer.spec.slice_id): layer for layer in analysis.layers}


def _named(name: str, slice_id: int | None) -> str:
    return name if slice_id is None else f"{name} (slice {slice_id})"


def _remarks(pairs: MetricPairs, length: int) -> list[str]:
    """Return one line each on what is not in the picture."""
    texts = (
        ("no value for", pairs.missing),
        ("only in the first", pairs.only_first),
        ("only in the second", pairs.only_second),
    )
    return [f"{text}: {_first_few(names, length)}" for text, names in texts if names]


def _first_few(names: tuple[str, ...], length: int) -> str:
    named = ", ".join(shortened(name, length) for name in names[:_N_NAMED])
    return f"{named}, … ({len(names)} in all)" if len(names) > _N_NAMED else named


def _draw_scatter(axes: Axes, pairs: MetricPairs, metric: str, labels: list[str]) -> None:
    if _spans_decades(pairs):
        axes.set_xscale("log")
        axes.set_yscale("log")
    axes.plot(pairs.first, pairs.second, marker="o", markersize=4, color=DATA, alpha=0.7, linestyle="none")
    low, high = min(*pairs.first, *pairs.second), max(*pairs.first, *pairs.second)
    axes.plot([low, high], [low, high], color=MARK, linestyle="--", linewidth=1.0, label="equal in both")
    axes.set_xlabel(f"{printable(metric)}, {labels[0]}", parse_math=False)
    axes.set_ylabel(f"{printable(metric)}, {labels[1]}", parse_math=False)
    axes.legend(loc="best")


def _draw_depth(axes: Axes, pairs: MetricPairs, metric: str, labels: list[str]) -> None:
    if _spans_decades(pairs):
        axes.set_yscale("log")
    axes.plot(pairs.places, pairs.first, marker="o", markersize=4, color=DATA, label="first")
    axes.plot(pairs.places, pairs.second, marker="s", markersize=4, color=FIT, label="second")
    axes.set_xlabel(f"layer_id\nfirst: {labels[0]}\nsecond: {labels[1]}", parse_math=False)
    axes.set_ylabel(printable(metric), parse_math=False)
    axes.legend(loc="best")


def _spans_decades(pairs: MetricPairs) -> bool:
    low, high = min(*pairs.first, *pairs.second), max(*pairs.first, *pairs.second)
    return low > 0.0 and high > DECADES * low
