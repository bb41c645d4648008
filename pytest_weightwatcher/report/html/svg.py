"""Scalable pictures as text: every name and number in them is escaped, and nothing in them can act.

Colours are classes of the style sheet, so that one picture serves light, dark and print.
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from markupsafe import Markup

from pytest_weightwatcher.report.html.axes import tick_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_weightwatcher.report.html.axes import Scale

Point = tuple[float, float]


def picture(parts: Iterable[str], *, width: int, height: int, title: str, description: str, key: str) -> Markup:
    """Return an SVG of the given parts, with a title and a description for who cannot see it.

    Parameters
    ----------
    parts : iterable of str
        From the other functions of this module.
    width, height : int
        Of the drawing area.
    title, description : str
        Untrusted text.
    key : str
        Unique in the page; letters, digits and hyphens.
    """
    head = (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-labelledby="{key}-t {key}-d" class="chart">'
        f'<title id="{key}-t">{escape(title)}</title><desc id="{key}-d">{escape(description)}</desc>'
    )
    return Markup(f"{head}{''.join(parts)}</svg>")  # noqa: S704 (texts are escaped here, all else is numbers)


def escape(text: str) -> str:
    """Return untrusted text as the content of an element or attribute; what cannot be printed is replaced."""
    return html.escape("".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text))


def line(start: Point, end: Point, kind: str) -> str:
    """Return a straight line of a class."""
    return f'<line x1="{start[0]:g}" y1="{start[1]:g}" x2="{end[0]:g}" y2="{end[1]:g}" class="{kind}"/>'


def path(points: Sequence[Point], kind: str) -> str:
    """Return a line through points; nothing where there are fewer than two."""
    if len(points) < len(("start", "end")):
        return ""
    places = " ".join(f"{x:g},{y:g}" for x, y in points)
    return f'<polyline points="{places}" class="{kind}"/>'


def dots(points: Iterable[Point], kind: str, *, radius: float = 2.5, shape: str = "circle") -> str:
    """Return a circle, square, triangle or cross at each point, all in one element."""
    drawn = "".join(f"M{x:g},{y:g}{_shape(shape, radius)}" for x, y in points)
    return f'<path d="{drawn}" class="{kind}"/>' if drawn else ""


def named_dot(point: Point, kind: str, name: str, *, radius: float, shape: str) -> str:
    """Return one such mark that tells its name where a pointer rests on it."""
    (x, y), drawn = point, _shape(shape, radius)
    return f'<path d="M{x:g},{y:g}{drawn}" class="{kind}"><title>{escape(name)}</title></path>'


def _shape(name: str, radius: float) -> str:
    """Return a mark around the place where the pen is."""
    r = f"{radius:g}"
    d = f"{2 * radius:g}"
    return {
        "circle": f"m-{r},0a{r},{r} 0 1,0 {d},0a{r},{r} 0 1,0 -{d},0",
        "square": f"m-{r},-{r}h{d}v{d}h-{d}z",
        "triangle": f"m0,-{r}l{r},{d}h-{d}z",
        "cross": f"m-{r},-{r}l{d},{d}m-{d},0l{d},-{d}",
    }[name]


def segments(pairs: Iterable[tuple[Point, Point]], kind: str) -> str:
    """Return many straight lines in one element."""
    drawn = "".join(f"M{x:g},{y:g}L{u:g},{v:g}" for (x, y), (u, v) in pairs)
    return f'<path d="{drawn}" class="{kind}"/>' if drawn else ""


def box(corner: Point, opposite: Point, kind: str) -> str:
    """Return a filled rectangle between two corners."""
    (x, y), (u, v) = corner, opposite
    return f'<rect x="{min(x, u):g}" y="{min(y, v):g}" width="{abs(u - x):g}" height="{abs(v - y):g}" class="{kind}"/>'


def text(place: Point, words: str, kind: str = "label", *, anchor: str = "middle") -> str:
    """Return words at a place."""
    return f'<text x="{place[0]:g}" y="{place[1]:g}" text-anchor="{anchor}" class="{kind}">{escape(words)}</text>'


def axes(x: Scale, y: Scale, *, x_title: str, y_title: str) -> list[str]:
    """Return both axes with grid, ticks and titles."""
    parts = []
    for value in y.ticks():
        place = y.place(value)
        parts += [
            line((x.start, place), (x.end, place), "grid"),
            text((x.start - 6, place + 4), tick_text(value), anchor="end"),
        ]
    for value in x.ticks():
        place = x.place(value)
        parts += [line((place, y.start), (place, y.end), "grid"), text((place, y.start + 16), tick_text(value))]
    parts.append(text(((x.start + x.end) / 2, y.start + 34), x_title, "axis"))
    parts.append(text((x.start - 4, y.end - 8), y_title, "axis", anchor="start"))
    return parts
