"""Put the page together: what comes first, which layers are shown whole, and a policy that allows no request."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from pytest_weightwatcher.report.escaping import format_number, split_paragraphs
from pytest_weightwatcher.report.html.choosing import MAX_SPECTRA_IN_ALL, choose_spectra, largest_changes
from pytest_weightwatcher.report.html.depth_charts import depth_charts
from pytest_weightwatcher.report.html.spectrum_chart import spectrum_chart
from pytest_weightwatcher.report.ranking import FAILURES, findings_of, layers_of, layers_with_verdicts, worst_rank
from pytest_weightwatcher.report.templates import make_environment, templates_folder
from pytest_weightwatcher.report.unchanged import told_unchanged

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_weightwatcher.report.html.choosing import Drawing

MAX_FINDINGS = 200
"""Layers with findings told one by one; of more, the rest is counted."""

N_FIRST = 5
"""Layers with findings told on the first screen."""

MAX_LOST = 20
"""Checks without a verdict told one by one."""

_HALF_PAIR = re.compile("[\ud800-\udfff]")
_N_TOLD = 2
_MAX_NAME = 160
_COLUMNS = (
    ("alpha", "alpha"),
    ("sigma", "sigma"),
    ("D", "D"),
    ("stable_rank", "stable rank"),
    ("effective_rank", "effective rank"),
    ("log_spectral_norm", "log10 λmax"),
)
"""Metric -> heading of the table of layers."""


def render_html(result: Mapping[str, Any]) -> str:
    """Render a result as one HTML file that needs neither network nor JavaScript."""
    environment = make_environment()
    environment.filters["name"] = shorten
    environment.filters["number"] = format_number
    environment.filters["paragraphs"] = split_paragraphs
    style, script = asset("charts.css") + asset("report.css"), asset("report.js")
    worst_first = sorted(result["models"], key=worst_rank)
    drawings = choose_spectra(worst_first)
    is_full = sum(map(len, drawings)) >= MAX_SPECTRA_IN_ALL
    page = environment.get_template("report.html.jinja").render(
        result=result,
        models=[_model(model, drawings[place], f"m{place}") for place, model in enumerate(worst_first)],
        is_full=is_full,
        sections=result.get("sections", ()),
        columns=_COLUMNS,
        style=style,
        script=script,
        policy=_policy(style, script),
        n_first=N_FIRST,
        max_findings=MAX_FINDINGS,
        max_lost=MAX_LOST,
    )
    # Half a surrogate pair is valid in JSON, and no text.
    return _HALF_PAIR.sub("\N{REPLACEMENT CHARACTER}", page)


def shorten(name: str, length: int = _MAX_NAME) -> str:
    """Return a name that can be shown: printable, and of bounded length."""
    shown = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in name)
    return shown if len(shown) <= length else f"{shown[: length - 1]}…"


def _model(model: Mapping[str, Any], drawings: Sequence[Drawing], key: str) -> dict[str, Any]:
    layers = layers_with_verdicts(model)
    findings = findings_of(model)
    failing = [check for check in findings if check["verdict"] in FAILURES]
    worst = {check["layer"]: check["verdict"] for check in reversed(findings)}
    return {
        "model": model,
        "key": key,
        "groups": _grouped(findings),
        "verdict": findings[0]["verdict"] if findings else "pass",
        "n_failing": len(layers_of(failing) - {None}),
        "n_warning": sum(verdict not in FAILURES for layer, verdict in worst.items() if layer is not None),
        "drawn": {layer["name"]: f"{key}-s{place}" for place, (layer, _) in enumerate(drawings)},
        "unchanged": told_unchanged(model),
        "changes": largest_changes(model),
        "layers": layers,
        "charts": depth_charts(model, layers, key),
        "spectra": [
            {
                "layer": layer,
                "key": f"{key}-s{place}",
                "checks": [check for check in findings if check["layer"] == layer["name"]],
                "chart": spectrum_chart(shorten(layer["name"]), spectrum, f"{key}-s{place}"),
            }
            for place, (layer, spectrum) in enumerate(drawings)
        ],
        "n_without_spectrum": len(layers) - len(drawings),
        "has_spectra": any(layer.get("spectrum") for layer in layers),
    }


def _grouped(findings: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return findings by layer, the worst layer first; what several mean, and what to do, is told once."""
    groups: dict[str | None, list[Mapping[str, Any]]] = {}
    for check in findings:
        groups.setdefault(check["layer"], []).append(check)
    return [
        {
            "layer": layer,
            "verdict": checks[0]["verdict"],
            "checks": checks,
            "meanings": list(dict.fromkeys(check["meaning"] for check in checks if check["meaning"]))[:_N_TOLD],
            "actions": list(dict.fromkeys(check["action"] for check in checks if check["action"]))[:1],
        }
        for layer, checks in groups.items()
    ]


def asset(name: str) -> Markup:
    """Return a style sheet or script of ours, as it is."""
    return Markup((templates_folder() / name).read_text(encoding="utf-8"))  # noqa: S704 (our own file)


def _policy(style: str, script: str) -> str:
    """Return a Content-Security-Policy under which nothing is fetched, and nothing runs but what is named here."""
    digests = [
        base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii") for text in (style, script)
    ]
    return (
        f"default-src 'none'; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )
