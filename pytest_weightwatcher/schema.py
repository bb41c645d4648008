"""The JSON Schema of ww.yaml, for editors: made from :class:`~pytest_weightwatcher.config.Config`, so that both agree.

Pydantic knows keys, types and ranges. What only the gate knows is added here: the names of checks and quantities, where
``false`` switches one off, and where a limit must be given because there is none built in.
"""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, get_args

from pydantic.fields import FieldInfo

from pytest_weightwatcher import config
from pytest_weightwatcher.checks import DRIFT, EXTRA_METRICS, MODEL_CHECKS, TURN
from pytest_weightwatcher.limits import CHECK_NAMES, DEFAULT_RULES, MODEL_METRICS, REGRESSION_NAMES
from pytest_weightwatcher.profiles import MODEL_QUANTITIES, PROFILES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pydantic import BaseModel

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SCHEMA_ID = "urn:pytest-weightwatcher:ww.yaml:1"
FILE_NAME = "ww.schema.json"
"""The committed copy beside this module; ``ww-gate schema`` makes it anew."""

_SECTIONS = {
    "spectrum": "SpectrumRegression",
    "weights": "WeightsRegression",
    "tensors": "WeightsRegression",
    "correlation_traps": "CountRegression",
    "intruders": "CountRegression",
    "rounding": "RoundingRegression",
    "clipped": "CountRegression",
    "noise": "SeverityRegression",
}
"""Quantity -> its kind of limit; all others are plain metrics."""

_METRIC = "MetricRegression"

_ALLOWANCES = {
    _METRIC: ("max_increase", "max_decrease", "max_relative_increase", "max_relative_decrease"),
    "SpectrumRegression": ("max_displacement",),
    "WeightsRegression": ("max_change",),
    "CountRegression": ("max_new",),
    "RoundingRegression": ("max_excess",),
}
"""Kind of limit -> the keys of which one is needed where the profile has no limit."""

_SEVERITY = "What lies outside fails the run, or only warns."
_SIGMAS = "Allowance in standard errors, where these are known."
_WARN_AT = "Share of the allowance from which on it warns."

_DESCRIPTIONS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "Config": {
            "version": "Format of this file: 1.",
            "models": "Checkpoints to check where no --ww-model is given.",
            "analysis": "What is computed of every weight matrix.",
            "checks": "Absolute limits by metric; each replaces the built-in one, and false switches a check off.",
            "regression": "Limits against the baseline, by quantity.",
            "model": "Limits on each model as a whole.",
            "overrides": "Other limits for the layers that match a pattern; the last match wins, key by key.",
            "waivers": "Findings that are accepted until a date.",
            "policy": "What becomes of verdicts.",
            "report": "Reports to write, inside the folder of this file.",
        },
        "ModelEntry": {
            "path": "Checkpoint, folder with shards, or shell pattern, relative to this file; or a URL.",
            "baseline": "Recorded baseline (.json) or accepted checkpoint; {stem}: its file, {folder}: its folder.",
        },
        "AnalysisSection": {
            "fit": "Law of the tail: PL, the power law.",
            "min_evals": "Layers with fewer eigenvalues are not fitted.",
            "mp_fit": "Fit the Marchenko-Pastur law, for its metrics.",
            "randomize": "Compare with the spectrum after the elements are permuted, for its metrics.",
            "detX": "Find the tail whose rescaled eigenvalues have product 1, for its metrics.",
            "vectors": "Entropy, localisation and participation of the eigenvectors.",
            "farms": "alpha_farms, over windows of one aspect ratio.",
            "false_alarm_rate": "Share of runs in which the tests for traps and noise may raise a false alarm.",
            "seed": "Seed of everything random.",
            "exclude": "Shell patterns of layers that are left out.",
        },
        "Limit": {
            "min": "Least accepted value.",
            "max": "Largest accepted value.",
            "severity": _SEVERITY,
        },
        _METRIC: {
            "max_increase": "How far it may rise, in its own units.",
            "max_decrease": "How far it may fall, in its own units.",
            "max_relative_increase": "How far it may rise, as a share of the baseline's value.",
            "max_relative_decrease": "How far it may fall, as a share of the baseline's value.",
            "sigmas": _SIGMAS,
            "warn_at": _WARN_AT,
            "severity": _SEVERITY,
        },
        "SpectrumRegression": {
            "max_displacement": "Largest accepted √Σ(σ-σ')² / √Σσ'² of the singular values; rounding to int8: 0.0005.",
            "sigmas": _SIGMAS,
            "warn_at": _WARN_AT,
            "severity": _SEVERITY,
        },
        "WeightsRegression": {
            "max_change": "Largest accepted ‖W-W'‖ / ‖W'‖.",
            "sigmas": _SIGMAS,
            "warn_at": _WARN_AT,
            "severity": _SEVERITY,
        },
        "CountRegression": {"max_new": "How many new ones are accepted.", "severity": _SEVERITY},
        "RoundingRegression": {
            "max_excess": "Largest accepted error, in errors of rounding the original to the nearest level.",
            "warn_at": _WARN_AT,
            "severity": _SEVERITY,
        },
        "SeverityRegression": {"severity": _SEVERITY},
        "RegressionSection": {
            "profile": "The question, and the limits it begins with: compression (are the weights the same but for "
            "rounding?) or finetune (has any layer's health become worse?).",
            "ratchet": "With --ww-update-baseline, record only the layers that are no worse than before.",
        },
        "Override": {
            "match": "Shell pattern of layer names (tensor names without .weight).",
            "checks": "Changes to the absolute limits, key by key.",
            "regression": "Changes to the limits against the baseline, key by key.",
        },
        "ModelSection": {
            "checks": "Limits on means over the layers.",
            "regression": "Limits on pooled quantities against the baseline.",
        },
        "Waiver": {
            "match": "Shell pattern of layer names; '*' also means the model as a whole.",
            "check": "Name or shell pattern of the check, such as alpha or regression.*.",
            "reason": "Why it is accepted.",
            "owner": "Who answers for it.",
            "expires": "Last day on which it holds, such as 2027-03-01.",
        },
        "PolicySection": {
            "fail_on": "The mildest verdict that fails the run.",
            "inconclusive": "What a check counts as where the numbers cannot tell.",
        },
        "ReportSection": {
            "json": "The result file, for other tools and ww-gate explain.",
            "markdown": "A report for a pull request or job summary (.md).",
            "sarif": "Findings for code scanning, at their lines of this file (.sarif).",
            "benchmark": "Numbers over time, for github-action-benchmark (.json).",
            "badge": "A shields.io endpoint badge (.json).",
            "html": "A report with pictures, for a browser; one file (.html).",
        },
    }
)
"""Section -> key -> what it does."""

_QUANTITIES = {
    "alpha": "alpha over as many of the largest eigenvalues as the baseline's tail has",
    "spectrum": "displacement of the singular values",
    "weights": "change of the weights themselves",
    "tensors": "largest change of a tensor without a spectrum (biases, norms, kernels of vectors)",
    "kernels": "largest turn (1 - cosine) of a tensor of two or more dimensions without a spectrum",
    TURN: "1 - cosine of the angle to the baseline's weights, of layers too small for a drift",
    DRIFT: "turning away from the baseline while the spectrum spreads",
    "correlation_traps": "weights that stick out of their layer, not known to the baseline",
    "noise": "whether the layer can still be told from random numbers",
    "overlap": "overlap of the leading directions with those of the baseline; needs its checkpoint",
    "intruders": "leading directions that resemble none of the baseline's; needs its checkpoint",
    "rounding": "error of a quantised layer over that of rounding to the nearest; needs the baseline's checkpoint",
    "clipped": "rows and columns of outliers that lost over a tenth of their norm; needs the baseline's checkpoint",
}

_KEY_ORDER = (
    "$schema",
    "$id",
    "$ref",
    "title",
    "description",
    "type",
    "const",
    "enum",
    "format",
    "minLength",
    "minimum",
    "exclusiveMinimum",
    "maximum",
    "exclusiveMaximum",
    "default",
    "items",
    "propertyNames",
    "required",
    "properties",
    "additionalProperties",
    "anyOf",
    "allOf",
    "$defs",
)

_BOUNDS = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}
"""What pydantic calls bounds -> what JSON Schema calls them."""


def make_schema() -> Schema:
    """Return the JSON Schema (draft 2020-12) of ww.yaml as plain data."""
    raw = config.Config.model_json_schema(by_alias=True)
    sections = {name: _section(getattr(config, name), node) for name, node in raw["$defs"].items()}
    root = _section(config.Config, {key: value for key, value in raw.items() if key != "$defs"})
    root.update({"$schema": DIALECT, "$id": SCHEMA_ID, "title": "ww.yaml of pytest-weightwatcher"})
    root["description"] = "What is checked of neural-network checkpoints, and by what limits (docs/configuration.md)."
    root["required"] = ["version"]
    root["properties"]["checks"] |= _check_table((*CHECK_NAMES, *MODEL_CHECKS), with_built_in=DEFAULT_RULES)
    sections["BoundedLimit"] = _bounded(sections["Limit"], ("min", "max"))
    sections["Limit"] = _bounded(sections["Limit"], ("min", "max", "severity"))
    for kind, allowances in _ALLOWANCES.items():
        sections[f"Bounded{kind}"] = _bounded(sections[kind], allowances)
    override, model = sections["Override"]["properties"], sections["ModelSection"]["properties"]
    override["checks"] |= _check_table(CHECK_NAMES, with_built_in=CHECK_NAMES)
    override["regression"] |= _quantity_table(REGRESSION_NAMES, with_built_in=REGRESSION_NAMES)
    model["checks"] |= _check_table(MODEL_METRICS, with_built_in=())
    model["regression"] |= _quantity_table(MODEL_QUANTITIES, with_built_in=("weights", "tensors", "kernels"))
    for table in (override["regression"], model["regression"]):
        table.pop("$ref", None)
    # What no profile has, the file must give.
    somewhere = set.union(*(set(profile.layer_rules) for profile in PROFILES.values())) | {"noise"}
    table = _quantity_table(REGRESSION_NAMES, with_built_in=somewhere)
    own = {name: sections["RegressionSection"]["properties"][name] for name in ("profile", "ratchet")}
    sections["RegressionSection"] |= {**table, "properties": {**own, **table["properties"]}}
    del sections["RegressionTable"]
    root["$defs"] = dict(sorted(sections.items()))
    schema: Schema = ordered(root)
    return schema


def render_schema() -> str:
    """Return the schema as the text of a file."""
    return json.dumps(make_schema(), indent=1) + "\n"


def _section(model: type[BaseModel], node: Schema) -> Schema:
    """Return the schema of a section, with a description of every key, and all its bounds."""
    found: Schema = tidied(node)
    name = model.__name__
    found["additionalProperties"] = False
    if "description" in found:
        found["description"] = found["description"].split("\n")[0]
    for key, value in found.get("properties", {}).items():
        description = _DESCRIPTIONS.get(name, {}).get(key)
        if description is not None:
            value["description"] = description
    for key, field in model.model_fields.items():
        bounds = _bounds_of(field)
        if bounds:
            _number_of(found["properties"][field.alias or key]).update(bounds)
    return found


def _bounds_of(annotation: Any) -> dict[str, float]:
    """Return the bounds of a field, which pydantic's own schema loses (before 2.10) or misspells behind a validator."""
    found: dict[str, float] = {}
    for fact in (*getattr(annotation, "metadata", ()), *getattr(annotation, "__metadata__", ())):
        found.update({theirs: getattr(fact, ours) for ours, theirs in _BOUNDS.items() if hasattr(fact, ours)})
        found.update(_bounds_of(fact) if isinstance(fact, FieldInfo) else {})
    inner = [annotation.annotation] if isinstance(annotation, FieldInfo) else get_args(annotation)
    for part in inner:
        found.update(_bounds_of(part))
    return found


def _number_of(node: Schema) -> Schema:
    """Return the part of a field's schema that is about a number."""
    parts: list[Schema] = [node, *node.get("anyOf", ())]
    return next(part for part in parts if part.get("type") in ("number", "integer"))


def tidied(node: Any) -> Any:
    """Return what every version of pydantic says in the same words, without the titles it makes of names."""
    if isinstance(node, list):
        return [tidied(item) for item in node]
    if not isinstance(node, dict):
        return node
    if isinstance(node.get("allOf"), list) and len(node["allOf"]) == 1:  # Before pydantic 2.10, around a reference.
        node = {**node["allOf"][0], **{key: value for key, value in node.items() if key != "allOf"}}
    found: Schema = {}
    for key, value in node.items():
        if key == "properties":
            found[key] = {name: tidied(child) for name, child in value.items()}
        elif (key == "title" and isinstance(value, str)) or (key == "default" and value in (None, [], {}, "")):
            continue
        elif key not in _BOUNDS:
            found[key] = tidied(value)
    if "const" in found:
        found.pop("enum", None)
    return found


def _check_table(names: Iterable[str], *, with_built_in: Iterable[str]) -> Schema:
    """Return the schema of a table of checks; where there is no built-in limit, one must be given."""
    built_in = set(with_built_in)
    return {
        "type": "object",
        "properties": {
            name: _or_false("Limit" if name in built_in else "BoundedLimit", _check_description(name)) for name in names
        },
        "additionalProperties": False,
    }


def _quantity_table(names: Iterable[str], *, with_built_in: Iterable[str]) -> Schema:
    """Return the schema of a table of quantities; where the profile may have no limit, one must be given."""
    built_in = set(with_built_in)
    properties = {}
    for name in names:
        kind = _SECTIONS.get(name, _METRIC)
        is_free = name in built_in or kind not in _ALLOWANCES
        what = _QUANTITIES.get(name, f"{name} of the layer (docs/metrics.md)")
        properties[name] = _or_false(kind if is_free else f"Bounded{kind}", f"Against the baseline: {what}.")
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _check_description(name: str) -> str:
    option = EXTRA_METRICS.get(name)
    needs = "" if option is None else f"; needs analysis: {{{option}: true}}"
    return f"Limits on {name} (docs/metrics.md){needs}."


def _or_false(kind: str, description: str) -> Schema:
    return {"description": description, "anyOf": [{"$ref": f"#/$defs/{kind}"}, {"const": False}]}


def _bounded(section: Schema, keys: Iterable[str]) -> Schema:
    """Return a section in which one of some keys must hold a value."""
    given = [{"required": [key], "properties": {key: {"not": {"type": "null"}}}} for key in keys]
    return {**section, "anyOf": given}


def ordered(node: Any) -> Any:
    """Return the schema with the keys of every node in one order, whatever order they were made in."""
    if isinstance(node, list):
        return [ordered(item) for item in node]
    if not isinstance(node, dict):
        return node
    found: Schema = {}
    for key in sorted(node, key=lambda key: (_KEY_ORDER.index(key) if key in _KEY_ORDER else len(_KEY_ORDER), key)):
        value = node[key]
        is_names = key in ("properties", "$defs")
        found[key] = {name: ordered(child) for name, child in value.items()} if is_names else ordered(value)
    return found
