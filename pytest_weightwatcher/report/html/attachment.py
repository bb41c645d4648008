"""The picture of a spectrum by itself, for the reports of others."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from pytest_weightwatcher.report.html.drawable import drawable_spectrum
from pytest_weightwatcher.report.html.page import asset, shorten
from pytest_weightwatcher.report.html.spectrum_chart import spectrum_chart

if TYPE_CHECKING:
    from collections.abc import Mapping


def standalone_picture(name: str, spectrum: Mapping[str, Any]) -> str:
    """Return an SVG file that brings its own style.

    Parameters
    ----------
    name : str
        Layer name, untrusted.
    spectrum : mapping
        ``layers[].spectrum`` of a result.
    """
    drawn = drawable_spectrum(spectrum)
    picture = "<svg></svg>" if drawn is None else str(spectrum_chart(shorten(name), drawn, "s"))
    inside = f'<svg xmlns="http://www.w3.org/2000/svg" width="560" height="340"{picture.removeprefix("<svg")}'
    head, _, rest = inside.partition(">")
    return f"{head}><style>{asset('charts.css')}</style>{rest}"


def pytest_html_extra(name: str, spectrum: Mapping[str, Any]) -> dict[str, str]:
    """Return what pytest-html takes as an extra of a test: an image beside its outcome."""
    content = base64.b64encode(standalone_picture(name, spectrum).encode("utf-8")).decode("ascii")
    return {
        "name": f"spectrum of {shorten(name)}",
        "format_type": "image",
        "content": content,
        "mime_type": "image/svg+xml",
        "extension": "svg",
    }
