"""Numbers of all layers by their depth in the model: alpha with its error, traps, ranks, distance from the baseline."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from pytest_weightwatcher.report.html import svg
from pytest_weightwatcher.report.html.axes import Scale, scale_over
from pytest_weightwatcher.report.html.drawable import is_drawable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from markupsafe import Markup

WIDE, NARROW, HEIGHT = 960, 560, 240
_LEFT, _MARGIN, _TOP, _BOTTOM = 62, 22, 26, 198
_SHAPES = {"pass": "circle", "warn": "square", "fail": "triangle"}
"""Verdict -> mark: told apart without colours, too."""

MAX_NAMED = 100
"""Marks of a kind in a chart that tell their layer's name."""

_FAR, _FAR_AT_LEAST = 4.0, 12.0
_MAX_NAME = 160
_LEAST = 1e-12
"""Smaller distances are rounding."""

_ALPHA_BAND = (2.0, 6.0)
"""Well-trained layers lie in it: Martin, Peng and Mahoney, Nature Communications 12 (2021) 4122."""

_REGRESSIONS = (("regression.weights", "change of weights"), ("regression.spectrum", "displacement of the spectrum"))

Layer = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One number of every layer that has it.

    Attributes
    ----------
    title, y_title : str
        For the heading and the axis.
    values : mapping of int to float
        Place of the layer in the model -> number.
    errors : mapping of int to float
        Its standard error, where there is one.
    band : tuple of float, or None
        Usual or accepted range.
    width : int
        Of the picture.
    is_log : bool
        Whether the axis is logarithmic.
    is_whole : bool
        Whether the numbers are counts.
    is_bounded : bool
        Whether a few numbers far above all others lie on the edge, so that the others can be told apart.
    """

    title: str
    y_title: str
    values: Mapping[int, float]
    errors: Mapping[int, float]
    band: tuple[float, float] | None = None
    is_log: bool = False
    is_whole: bool = False
    is_bounded: bool = False
    width: int = NARROW

    @property
    def edge(self) -> float:
        """The largest number that has its own place."""
        if not self.is_bounded:
            return math.inf
        return max(_FAR_AT_LEAST, _FAR * median(self.values.values()))


def depth_charts(model: Mapping[str, Any], layers: Sequence[Layer], key: str) -> list[tuple[str, Markup]]:
    """Return titles and pictures of what varies with depth; those without any number are left out.

    Parameters
    ----------
    model : mapping
        One of ``models[]`` of a result.
    layers : sequence of dict
        Its layers in order, each with its ``verdict``.
    key : str
        Unique in the page.
    """
    return [
        (series.title, _chart(series, layers, f"{key}-{place}"))
        for place, series in enumerate(_all_series(model, layers))
        if series.values
    ]


def _all_series(model: Mapping[str, Any], layers: Sequence[Layer]) -> list[Series]:
    places = {layer["name"]: place for place, layer in enumerate(layers)}
    found = [
        Series(
            title="Alpha by depth",
            y_title="alpha, with its standard error; the band is the usual range of 2 to 6",
            values=_metric(layers, "alpha"),
            errors=_metric(layers, "sigma"),
            band=_ALPHA_BAND,
            is_bounded=True,
            width=WIDE,
        )
    ]
    found += [_moved(model, places, check, words) for check, words in _REGRESSIONS]
    found += [
        Series(
            title="Effective rank by depth",
            y_title="effective rank",
            values=_metric(layers, "effective_rank"),
            errors={},
        ),
        Series(title="Stable rank by depth", y_title="stable rank", values=_metric(layers, "stable_rank"), errors={}),
    ]
    traps = {
        places[check["layer"]]: check["value"]
        for check in model["checks"]
        if check["check"] in ("correlation_traps", "regression.correlation_traps")
        and is_drawable(check["value"])
        and check["layer"] in places
    }
    found.append(
        Series(
            title="Correlation traps by depth",
            y_title="traps (beside a baseline: new ones)",
            values=traps if any(traps.values()) else {},
            errors={},
            is_whole=True,
        )
    )
    return found


def _moved(model: Mapping[str, Any], places: Mapping[str, int], name: str, words: str) -> Series:
    """Return a distance of every layer from the baseline, and up to where it is accepted."""
    checks = [check for check in model["checks"] if check["check"] == name and check["layer"] in places]
    checks = [check for check in checks if check["value"] and is_drawable(check["value"]) and check["value"] > _LEAST]
    given = [(check["limit"] or {}).get("max") for check in checks]
    limits = [limit for limit in given if limit and is_drawable(limit) and limit > _LEAST]
    return Series(
        title=f"{words} since the baseline".capitalize(),
        y_title=f"relative{', the band is accepted' if limits else ''}",
        values={places[check["layer"]]: check["value"] for check in checks},
        errors={},
        band=(0.0, min(limits)) if limits else None,
        is_log=True,
    )


def _metric(layers: Sequence[Layer], name: str) -> dict[int, float]:
    values = ((place, layer["metrics"].get(name)) for place, layer in enumerate(layers))
    return {place: float(value) for place, value in values if is_drawable(value)}


def _chart(series: Series, layers: Sequence[Layer], key: str) -> Markup:
    x = Scale(low=0.5, high=max(len(layers), 1) + 0.5, start=_LEFT, end=series.width - _MARGIN, is_whole=True)
    ends = {place: _ends(value, series.errors.get(place, 0.0)) for place, value in series.values.items()}
    edge = series.edge
    extent = [min(end, edge) for both in ends.values() for end in both]
    extent += [0.0] if series.is_whole else []
    y = scale_over([*extent, *(series.band or ())], _BOTTOM, _TOP, is_log=series.is_log, is_whole=series.is_whole)
    parts = []
    if series.band is not None:
        low, high = series.band
        parts.append(svg.box((x.start, y.place(low)), (x.end, y.place(high)), "band"))
    parts += svg.axes(x, y, x_title="layer, in the order of the model", y_title=_y_title(series, edge))
    with_error = [(x.place(place + 1), both) for place, both in ends.items() if place in series.errors]
    bars = [((at, y.place(low)), (at, y.place(high))) for at, (low, high) in with_error]
    parts.append(svg.segments(bars, "error"))
    radius = 3.5 if len(layers) < 100 else 2.0
    for verdict, shape in _SHAPES.items():
        places = [place for place in series.values if _kind(layers[place]["verdict"]) == verdict]
        n_named = 0 if verdict == "pass" else MAX_NAMED
        # Whether it tells its name or not, a mark is as large as all others of its kind.
        size = radius if verdict == "pass" else radius + 0.5
        for place in places[:n_named]:
            at = x.place(place + 1), y.place(series.values[place])
            name = f"{layers[place]['name'][:_MAX_NAME]}: {series.values[place]:.4g}"
            parts.append(svg.named_dot(at, f"dot {verdict}", name, radius=size, shape=shape))
        dots = [(x.place(place + 1), y.place(series.values[place])) for place in places[n_named:]]
        parts.append(svg.dots(dots, f"dot {verdict}", radius=size, shape=shape))
    missing = [place for place in range(len(layers)) if place not in series.values]
    missing = [place for place in missing if _kind(layers[place]["verdict"]) == "fail"]
    parts.append(svg.dots([(x.place(place + 1), y.start) for place in missing], "none", radius=4.0, shape="cross"))
    return svg.picture(
        parts, width=series.width, height=HEIGHT, title=series.title, description=_describe(series, layers), key=key
    )


def _y_title(series: Series, edge: float) -> str:
    n_beyond = sum(value > edge for value in series.values.values())
    return f"{series.y_title}; {n_beyond} beyond {edge:.3g} lie on the edge" if n_beyond else series.y_title


def _ends(value: float, error: float) -> tuple[float, float]:
    return value - error, value + error


def _kind(verdict: str) -> str:
    return "fail" if verdict in ("fail", "error") else "warn" if verdict == "warn" else "pass"


def _describe(series: Series, layers: Sequence[Layer]) -> str:
    """Say in words what the picture shows."""
    n_missing = sum(_kind(layer["verdict"]) == "fail" for layer in layers) - sum(
        _kind(layers[place]["verdict"]) == "fail" for place in series.values
    )
    lowest, highest = (pick(series.values, key=lambda place: series.values[place]) for pick in (min, max))
    return (
        f"{series.title}: {len(series.values)} of {len(layers)} layers, from {series.values[lowest]:.4g} "
        f"({layers[lowest]['name'][:80]}) to {series.values[highest]:.4g} ({layers[highest]['name'][:80]})."
        + (f" {n_missing} failing layers have no such number." if n_missing else "")
    )
