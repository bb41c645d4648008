"""Put the page together: what comes first, which layers are shown whole, and a policy that allows no request."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from pytest_weightwatcher.report.escaping import format_number, split_paragraphs
from pytest_weightwatcher.report.html.depth_charts import depth_charts
from pytest_weightwatcher.report.html.drawable import drawable_spectrum
from pytest_weightwatcher.report.html.spectrum_chart import spectrum_chart
from pytest_weightwatcher.report.ranking import FAILURES, findings_of, layers_of, rank_layers, worst_rank
from pytest_weightwatcher.report.templates import make_environment, templates_folder
from pytest_weightwatcher.report.unchanged import told_unchanged

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_FINDINGS = 200
"""Layers with findings told one by one; of more, the rest is counted."""

N_FIRST = 5
"""Layers with findings told on the first screen."""

MAX_SPECTRA = 24
"""Layers drawn whole: the worst ones."""

MAX_LOST = 20
"""Checks without a verdict told one by one."""

_HALF_PAIR = re.compile("[\ud800-\udfff]")
_N_CHANGES = 5
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
    page = environment.get_template("report.html.jinja").render(
        result=result,
        models=[_model(model, f"m{place}") for place, model in enumerate(worst_first)],
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


def _model(model: Mapping[str, Any], key: str) -> dict[str, Any]:
    ranked = rank_layers(model)
    verdicts = {layer["name"]: layer["verdict"] for layer in ranked}
    layers = [{**layer, "verdict": verdicts[layer["name"]]} for layer in model["layers"]]
    findings = findings_of(model)
    drawn = ((layer, drawable_spectrum(layer.get("spectrum"))) for layer in _most_interesting(ranked, model))
    interesting = [(layer, spectrum) for layer, spectrum in drawn if spectrum is not None][:MAX_SPECTRA]
    failing = [check for check in findings if check["verdict"] in FAILURES]
    worst = {check["layer"]: check["verdict"] for check in reversed(findings)}
    return {
        "model": model,
        "key": key,
        "groups": _grouped(findings),
        "verdict": findings[0]["verdict"] if findings else "pass",
        "n_failing": len(layers_of(failing) - {None}),
        "n_warning": sum(verdict not in FAILURES for layer, verdict in worst.items() if layer is not None),
        "drawn": {layer["name"]: f"{key}-s{place}" for place, (layer, _) in enumerate(interesting)},
        "unchanged": told_unchanged(model),
        "changes": _largest_changes(model),
        "layers": layers,
        "charts": depth_charts(model, layers, key),
        "spectra": [
            {
                "layer": layer,
                "key": f"{key}-s{place}",
                "checks": [check for check in findings if check["layer"] == layer["name"]],
                "chart": spectrum_chart(shorten(layer["name"]), spectrum, f"{key}-s{place}"),
            }
            for place, (layer, spectrum) in enumerate(interesting)
        ],
        "n_without_spectrum": len(layers) - len(interesting),
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


def _largest_changes(model: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the checks of layers that used up most of what they may move; first those of layers that broke."""
    broken = [check for check in model["checks"] if check["layer"] is not None and _is_broken(check)]
    moved = [check for check in model["checks"] if check["layer"] is not None and _used(check) > 0.0]
    return [*broken, *sorted(moved, key=_used, reverse=True)][:_N_CHANGES]


def _is_broken(check: Mapping[str, Any]) -> bool:
    return check["check"] == "integrity" and check["verdict"] in FAILURES


def _used(check: Mapping[str, Any]) -> float:
    """Return which share of its limit a distance from the baseline has reached."""
    limit = (check["limit"] or {}).get("max")
    is_distance = check["check"] in ("regression.weights", "regression.spectrum", "regression.drift")
    if not is_distance or not limit or check["value"] is None:
        return 0.0
    return float(check["value"]) / float(limit)


def _most_interesting(ranked: list[dict[str, Any]], model: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the layers worst first; among those that pass, what moved furthest first."""
    used: dict[str, float] = {}
    for check in model["checks"]:
        if check["layer"] is not None:
            used[check["layer"]] = max(_used(check), used.get(check["layer"], 0.0))
    order = ("error", "fail", "warn")
    return sorted(
        ranked,
        key=lambda layer: (
            order.index(layer["verdict"]) if layer["verdict"] in order else len(order),
            -used.get(layer["name"], 0.0),
        ),
    )


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
