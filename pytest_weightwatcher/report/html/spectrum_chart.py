"""The spectrum of one layer on double logarithmic paper: how many eigenvalues are at least so large."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any

from pytest_weightwatcher.report.html import svg
from pytest_weightwatcher.report.html.axes import Scale, scale_over

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from markupsafe import Markup

WIDTH, HEIGHT = 560, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 548, 26, 290
_N_OF_TAIL = 24
_DECADES = 4.0
"""Eigenvalues smaller than the largest by more than so many powers of ten are left out, and their number is said."""


def spectrum_chart(name: str, spectrum: Mapping[str, Any], key: str) -> Markup:
    """Draw a spectrum with its tail, the bulk of noise, the permuted matrix and the baseline.

    Parameters
    ----------
    name : str
        Layer name, untrusted.
    spectrum : mapping
        From :func:`~pytest_weightwatcher.report.html.drawable.drawable_spectrum`.
    key : str
        Unique in the page.
    """
    evals, counts = spectrum["evals"], list(accumulate(spectrum["weights"]))
    largest = max([evals[0], *spectrum["permuted"], *(spectrum["before"] or ())])
    least = evals[0] / 10.0**_DECADES
    x = scale_over([*(value for value in evals if value > least), largest], _LEFT, _RIGHT, is_log=True)
    y = scale_over([1.0, counts[-1]], _BOTTOM, _TOP, is_log=True)
    parts = [
        *_bulk(spectrum, x, y),
        *svg.axes(x, y, x_title="eigenvalue λ of WᵀW", y_title="eigenvalues of at least λ"),
    ]
    before = spectrum["before"]
    if before:
        parts.append(svg.path(_steps(before, counts, x, y), "before"))
    parts.append(svg.path(_steps(evals, counts, x, y), "esd"))
    parts.append(svg.dots(_steps(evals, counts, x, y), "esd-dot", radius=2.0))
    parts += _tail(spectrum, x, y)
    parts += _permuted(spectrum, x, y)
    return svg.picture(
        parts, width=WIDTH, height=HEIGHT, title=f"Spectrum of {name}", description=_describe(spectrum, x), key=key
    )


def _steps(evals: Sequence[float], counts: Sequence[int], x: Scale, y: Scale) -> list[svg.Point]:
    return [(x.place(value), y.place(count)) for value, count in zip(evals, counts, strict=True) if value >= x.low]


def _bulk(spectrum: Mapping[str, Any], x: Scale, y: Scale) -> list[str]:
    bulk = spectrum["bulk"]
    if bulk is None or bulk["max"] <= x.low:
        return []
    edge = x.place(bulk["max"])
    return [
        svg.box((x.place(max(bulk["min"], x.low)), y.start), (edge, y.end), "bulk"),
        svg.line((edge, y.start), (edge, y.end), "edge"),
    ]


def _tail(spectrum: Mapping[str, Any], x: Scale, y: Scale) -> list[str]:
    """Draw n(λ/xmin)^(1-α), the number of eigenvalues that the fitted law has from λ on."""
    tail = spectrum["tail"]
    if tail is None:
        return []
    ratio = (tail["xmax"] / tail["xmin"]) ** (1.0 / _N_OF_TAIL)
    values = [tail["xmin"] * ratio**step for step in range(_N_OF_TAIL + 1)]
    counts = [tail["n"] * (value / tail["xmin"]) ** (1.0 - tail["alpha"]) for value in values]
    # The law goes on below one eigenvalue; the picture does not.
    points = [(x.place(value), y.place(count)) for value, count in zip(values, counts, strict=True) if count >= y.low]
    start = x.place(tail["xmin"])
    return [svg.line((start, y.start), (start, y.end), "xmin"), svg.path(points, "tail")]


def _permuted(spectrum: Mapping[str, Any], x: Scale, y: Scale) -> list[str]:
    """Draw the largest eigenvalues of the permuted matrix; those that are traps are marked."""
    edge = spectrum["trap_edge"]
    points = [(value, (x.place(value), y.place(place + 1))) for place, value in enumerate(spectrum["permuted"])]
    outside = [point for value, point in points if edge is not None and value >= edge]
    inside = [point for value, point in points if edge is None or value < edge]
    return [svg.dots(inside, "permuted", radius=4.0), svg.dots(outside, "trap", radius=5.0)]


def _describe(spectrum: Mapping[str, Any], x: Scale) -> str:
    tail, bulk = spectrum["tail"], spectrum["bulk"]
    words = [f"{sum(spectrum['weights'])} eigenvalues, the largest {spectrum['evals'][0]:.4g}."]
    n_left_out = sum(
        weight for value, weight in zip(spectrum["evals"], spectrum["weights"], strict=True) if value < x.low
    )
    if n_left_out:
        words.append(f"Not drawn: the {n_left_out} smallest, below {x.low:.2g}.")
    if tail is not None:
        words.append(f"Power law from {tail['xmin']:.4g} on: alpha {tail['alpha']:.3g} over {tail['n']} eigenvalues.")
    if bulk is not None:
        words.append(f"Noise of the same variance would end at {bulk['max']:.4g}.")
    if spectrum["permuted"]:
        words.append(f"Largest eigenvalue of the permuted matrix: {spectrum['permuted'][0]:.4g}.")
    return " ".join(words)
