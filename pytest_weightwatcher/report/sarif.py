"""SARIF 2.1.0, for code scanning: a rule for each check, a result for each finding, at its line of ww.yaml.

https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html; section numbers below are its own.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pytest_weightwatcher.meanings import meaning_of
from pytest_weightwatcher.nodeids import escape_name
from pytest_weightwatcher.options import CONFIG_NAME
from pytest_weightwatcher.report.json_text import write_json
from pytest_weightwatcher.report.names import digest, shortened
from pytest_weightwatcher.report.ranking import ranked_findings
from spectral.loaders.remote import is_url

if TYPE_CHECKING:
    from collections.abc import Mapping

    Check = Mapping[str, Any]
    Model = Mapping[str, Any]
    Node = dict[str, Any]

SCHEMA_URI = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
MAX_RESULTS = 5000
"""More are not shown by GitHub, which takes the first ones."""

_N_LEVELS = 4
"""Log, runs, run, its lists: each result has a line of its own."""

_LEVELS = {"warn": "warning", "fail": "error", "error": "error"}
_AS_A_WHOLE = "the model as a whole"
_LINK = re.compile(r"\[(?=[^\]]*\]\()")
_PLACEHOLDER = re.compile(r"\{(\d+)\}")


def render_sarif(result: Mapping[str, Any]) -> str:
    """Render a result as a SARIF 2.1.0 log of one run.

    Parameters
    ----------
    result : mapping
        The result of a run; it is not changed.

    Returns
    -------
    str
        JSON text. Warnings, failures and errors become results, worst first; at most :data:`MAX_RESULTS`, and a
        notification says how many were left out.
    """
    pairs = [(check, model) for model in result["models"] for check in ranked_findings(model)]
    pairs.sort(key=lambda pair: _LEVELS[pair[0]["verdict"]])
    names = list(dict.fromkeys(check["check"] for model in result["models"] for check in model["checks"]))
    samples = {check["check"]: check for check, _ in reversed(pairs)}
    places = {name: place for place, name in enumerate(names)}
    run = {
        "tool": {"driver": _driver(result["tool"], [_rule(name, samples.get(name)) for name in names])},
        "invocations": [_invocation(result, n_left_out=max(0, len(pairs) - MAX_RESULTS))],
        "columnKind": "unicodeCodePoints",
        "results": [_result(check, model, places[check["check"]]) for check, model in pairs[:MAX_RESULTS]],
    }
    log = {"$schema": SCHEMA_URI, "version": "2.1.0", "runs": [run]}
    return write_json(log, n_levels=_N_LEVELS)


def _driver(tool: Mapping[str, str], rules: list[Node]) -> Node:
    return {"name": shortened(tool["name"]), "version": shortened(tool["version"]), "rules": rules}


def _rule(name: str, sample: Check | None) -> Node:
    """Return the rule of a check; what findings of a plugin's check mean is told by one of them."""
    meaning = meaning_of(name)
    means = " ".join(part for part in (meaning.below, meaning.above) if part)
    action = meaning.action
    if sample is not None and sample.get("plugin") is not None:
        means = shortened(sample["meaning"] or sample["detail"])
        action = shortened(sample["action"] or meaning.action)
    shown = shortened(name)
    return {
        "id": shown,
        "shortDescription": {"text": _message(f"The check {shown} of a neural-network checkpoint")},
        "fullDescription": {"text": _message(means)},
        "help": {"text": _message(f"{means} What to do: {action}")},
        "properties": {"tags": ["neural-network", "weights"]},
    }


def _result(check: Check, model: Model, rule: int) -> Node:
    where = _AS_A_WHOLE if check["layer"] is None else escape_name(check["layer"])
    # The node id names configuration, model, layer and check, and nothing that another run would change.
    fingerprint = digest(check["id"])[:32]
    texts = [check["detail"], check["meaning"], check["action"]]
    said = ". ".join(shortened(text).rstrip(".") for text in texts if text)
    return {
        "ruleId": shortened(check["check"]),
        "ruleIndex": rule,
        "level": _LEVELS[check["verdict"]],
        "message": {"text": _message(f"{where}: {said}.")},
        "locations": [{"physicalLocation": _place(check, model), "logicalLocations": [_layer(check, model)]}],
        "partialFingerprints": {"nodeId/v1": fingerprint, "primaryLocationLineHash": f"{fingerprint}:1"},
        "properties": _facts(check),
    }


def _facts(check: Check) -> Node:
    limit = check["limit"] or {}
    facts = {"verdict": check["verdict"], "value": check["value"], "baseline": check["baseline"]}
    facts |= {f"limit/{side}": limit.get(side) for side in ("min", "max")}
    return {name: fact for name, fact in facts.items() if fact is not None}


def _place(check: Check, model: Model) -> Node:
    """Return the line of ww.yaml that holds the rule, else that of the model's entry; the model where there is none."""
    line = check["line"] or model["line"]
    if not line:
        return {"artifactLocation": _artifact(model["path"])}
    config = check["id"].partition("::")[0] or model["config"] or CONFIG_NAME
    return {"artifactLocation": _artifact(config), "region": {"startLine": line}}


def _artifact(path: str) -> Node:
    """Return where a file is: relative to the checkout, or from the root where it lies elsewhere (3.4.3)."""
    windows = PureWindowsPath(path)
    if windows.drive and windows.root:
        return {"uri": "file:///" + quote(windows.as_posix(), safe="/:")}
    if PurePosixPath(path).is_absolute():
        return {"uri": "file://" + _quoted(path)}
    if is_url(path):
        return {"uri": path.removesuffix("?…")}
    # A colon in the first part would read as a scheme.
    return {"uri": _quoted(path), "uriBaseId": "%SRCROOT%"}


def _quoted(path: str) -> str:
    return quote(path.encode("utf-8", "surrogatepass"), safe="/")


def _layer(check: Check, model: Model) -> Node:
    path = escape_name(model["path"])
    if check["layer"] is None:
        return {"name": path, "fullyQualifiedName": path, "kind": "module"}
    layer = escape_name(check["layer"])
    return {"name": layer, "fullyQualifiedName": f"{path}::{layer}", "kind": "module"}


def _invocation(result: Mapping[str, Any], *, n_left_out: int) -> Node:
    texts = [("error", f"{shortened(node_id)}: ended without a verdict") for node_id in result["lost"][:100]]
    if len(result["lost"]) > 100:
        texts.append(("error", f"{len(result['lost']) - 100} more ended without a verdict"))
    if n_left_out:
        texts.append(("warning", f"{n_left_out} more findings are in the full report"))
    found: Node = {"executionSuccessful": result["outcome"] != "error"}
    if texts:
        found["toolExecutionNotifications"] = [
            {"level": level, "message": {"text": _message(text)}} for level, text in texts
        ]
    return found


def _message(text: str) -> str:
    """Return text in which nothing is a link (3.11.6) or a placeholder (3.11.5)."""
    return _PLACEHOLDER.sub(r"{{\1}}", _LINK.sub(r"\\[", text))
