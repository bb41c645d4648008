"""Put results of shards and matrix jobs together; the same result in whatever order they are given.

Models of different paths stand side by side. Those of the same path are one model, whose layers and checks are united;
where two results say different things of one check or layer, there is no result at all.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_weightwatcher.errors import ReportError
from pytest_weightwatcher.policy import is_covered
from pytest_weightwatcher.report.names import shortened
from pytest_weightwatcher.report.reading import model_key
from pytest_weightwatcher.report.totals import count_verdicts, outcome_of
from spectral.metrics import summarise

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Result = Mapping[str, Any]
    Entry = Mapping[str, Any]

STRICTEST_FIRST = ("warn", "fail", "never")
_SAME_OF_ONE_MODEL = ("config", "baseline", "profile", "question", "coverage", "unanalysed")
_MAX_NAME = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A result, and what to call it where it is wrong."""

    name: str
    result: Result


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waived:
    match: str
    check: str


def merge_results(sources: Sequence[Source]) -> dict[str, Any]:
    """Return one result that says what several say.

    Parameters
    ----------
    sources : sequence of Source
        At least one; complete, as :func:`~pytest_weightwatcher.report.reading.read_result` returns them.

    Returns
    -------
    dict
        The only result as it is; otherwise models in the order of their paths, layers in that of their model, counts,
        outcome and means made anew, and under ``merged`` what differed.

    Raises
    ------
    ReportError
        Two results contradict each other; the message names both and the place.
    """
    if len(sources) == 1:
        return dict(sources[0].result)
    ordered = sorted(sources, key=lambda source: json.dumps(source.result, sort_keys=True))
    results = [source.result for source in ordered]
    parts: dict[tuple[str, str], list[tuple[str, Entry]]] = {}
    for source in ordered:
        for model in source.result["models"]:
            parts.setdefault(model_key(model), []).append((source.name, model))
    models = [_merge_models(parts[key]) for key in sorted(parts)]
    lost = sorted({node_id for result in results for node_id in result["lost"]})
    counts = count_verdicts(models, lost)
    n_reported = sum(len(model["checks"]) for model in models)
    n_planned, planning_notes = _n_planned(results, models)
    found = {
        "format": results[0]["format"],
        "tool": _merge_tools(ordered),
        "outcome": outcome_of(counts),
        "counts": counts,
        "options": _merge_options(results),
        "n_planned": max(n_planned, n_reported),
        "n_reported": n_reported,
        "lost": lost,
        "merged": _merged(results, planning_notes),
        "models": models,
    }
    sections = _distinct(section for result in results for section in result.get("sections", ()))
    return {**found, "sections": sections} if sections else found


def _merge_models(parts: Sequence[tuple[str, Entry]]) -> dict[str, Any]:
    (first_name, first), *others = parts
    if not others:
        return dict(first)
    for name, model in others:
        for key in _SAME_OF_ONE_MODEL:
            if model[key] != first[key]:
                raise _contradiction(first_name, name, f"{key} of {model['path']}")
    layers = _in_order(_unite(parts, "layers", "name"))
    checks = _unite(parts, "checks", "id")
    models = [model for _, model in parts]
    planned = [model["n_planned"] for model in models if model.get("n_planned") is not None]
    notes = [note for model in models for note in model["notes"]] + _option_notes(models)
    found: dict[str, Any] = {
        **first,
        "n_reused": sum(layer["reused"] for layer in layers),
        "notes": list(dict.fromkeys(notes)),
        "waivers": _merge_waivers(models, checks),
        "summary": _merge_summaries(models, layers),
        "layers": layers,
        "checks": _checks_in_order(checks, layers),
    }
    if len(planned) == len(models):
        found["n_planned"] = max(planned)
    return found


def _unite(parts: Sequence[tuple[str, Entry]], kind: str, key: str) -> list[dict[str, Any]]:
    """Return the layers or checks of all parts, each once."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for source, model in parts:
        for entry in model[kind]:
            known = found.get(entry[key])
            if known is None:
                found[entry[key]] = source, dict(entry)
            elif not _agree(known[1], entry):
                raise _contradiction(known[0], source, f"{entry[key]} of {model['path']}")
            else:
                # A sketch may have been made in one shard only.
                known[1].update({name: value for name, value in entry.items() if known[1].get(name) is None})
    return [entry for _, entry in found.values()]


def _agree(one: Entry, other: Entry) -> bool:
    return all(one[name] == other[name] for name in one.keys() & other.keys() if name != "spectrum")


def _contradiction(one: str, other: str, what: str) -> ReportError:
    return ReportError(f"{other}: contradicts {one}: they differ in {shortened(what, _MAX_NAME)}")


def _in_order(layers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return layers in the order of their model; older results do not tell it, but numbers in names do."""
    if all(layer.get("index") is not None for layer in layers):
        return sorted(layers, key=lambda layer: (layer["index"], layer["name"]))
    return sorted(layers, key=lambda layer: _natural(layer["name"]))


def _checks_in_order(checks: list[dict[str, Any]], layers: Sequence[Entry]) -> list[dict[str, Any]]:
    place = {layer["name"]: index for index, layer in enumerate(layers)}

    def order(check: Entry) -> tuple[int, list[tuple[int, int, str]], str]:
        if check["layer"] is None:
            return -1, [], check["id"]
        return place.get(check["layer"], len(place)), _natural(check["layer"]), check["id"]

    return sorted(checks, key=order)


def _natural(name: str) -> list[tuple[int, int, str]]:
    parts = re.split(r"([0-9]{1,18})", name)
    return [(0, int(part), "") if index % 2 else (1, 0, part) for index, part in enumerate(parts)]


def _option_notes(models: Sequence[Entry]) -> list[str]:
    names = sorted({name for model in models for name in model["options"]})
    differing = {name: _distinct(model["options"].get(name) for model in models) for name in names}
    return [
        f"the merged results differ in the option {shortened(name, _MAX_NAME)}: {_listed(values)}"
        for name, values in differing.items()
        if len(values) > 1
    ]


def _merge_waivers(models: Sequence[Entry], checks: Sequence[Entry]) -> list[dict[str, Any]]:
    distinct = _distinct({**waiver, "n_used": 0} for model in models for waiver in model["waivers"])
    waived = [check for check in checks if check["verdict"] == "waived"]

    def n_used(waiver: Entry) -> int:
        pattern: Any = _Waived(match=waiver["match"], check=waiver["check"])
        return sum(is_covered(pattern, check["check"], check["layer"]) for check in waived)

    return [{**waiver, "n_used": n_used(waiver)} for waiver in distinct]


def _merge_summaries(models: Sequence[Entry], layers: Sequence[Entry]) -> dict[str, Any]:
    """Return the means of a model, made anew as a whole run makes them where its shards had only some layers."""
    first: dict[str, Any] = models[0]["summary"]
    least = models[0]["options"].get("min_evals")
    if all(len(model["layers"]) == len(layers) for model in models) or not isinstance(least, (int, float)):
        return first
    means = summarise(layer["metrics"] for layer in layers if (layer["metrics"].get("num_evals") or 0) >= least)
    return dict(means)


def _merge_tools(sources: Sequence[Source]) -> dict[str, str]:
    name = sources[0].result["tool"]["name"]
    for source in sources:
        if source.result["tool"]["name"] != name:
            raise _contradiction(sources[0].name, source.name, "the name of the tool")
    versions = sorted({source.result["tool"]["version"] for source in sources})
    return {"name": name, "version": ", ".join(versions)}


def _merge_options(results: Sequence[Result]) -> dict[str, Any]:
    """Return the options of the run: the strictest rule of failing, and no seed where several were given."""
    options = [result["options"] for result in results]
    fail_on = min((each["fail_on"] for each in options), key=STRICTEST_FIRST.index)
    seeds = {each["seed"] for each in options}
    return {**options[0], "fail_on": fail_on, "seed": seeds.pop() if len(seeds) == 1 else None}


def _merged(results: Sequence[Result], planning_notes: Sequence[str]) -> dict[str, Any]:
    before = [result["merged"] for result in results if result.get("merged")]
    notes = [note for each in before for note in each["notes"]]
    for key, values in (
        ("fail_on", [result["options"]["fail_on"] for result in results]),
        ("seed", [result["options"]["seed"] for result in results]),
        ("version of the tool", [result["tool"]["version"] for result in results]),
    ):
        distinct = _distinct(values)
        if len(distinct) > 1:
            notes.append(f"the merged results differ in {key}: {_listed(distinct)}")
    n_results = len(results) - len(before) + sum(each["n_results"] for each in before)
    return {"n_results": n_results, "notes": list(dict.fromkeys([*notes, *planning_notes]))}


def _n_planned(results: Sequence[Result], models: Sequence[Entry]) -> tuple[int, list[str]]:
    """Return how many checks there were to be; older results say so only of all their models together."""
    planned = [model["n_planned"] for model in models if model.get("n_planned") is not None]
    if len(planned) == len(models):
        return sum(planned), []
    groups: dict[frozenset[tuple[str, str]], int] = {}
    for result in results:
        keys = frozenset(map(model_key, result["models"]))
        groups[keys] = max(result["n_planned"], groups.get(keys, 0))
    is_certain = sum(map(len, groups)) == len(set().union(*groups))
    notes = [] if is_certain else ["how many checks were planned is an upper bound: older results overlap in part"]
    return sum(groups.values()), notes


def _distinct(values: Iterable[Any]) -> list[Any]:
    """Return values without repetitions, in a stable order."""
    texts = {json.dumps(value, sort_keys=True): value for value in values}
    return [texts[text] for text in sorted(texts)]


def _listed(values: Sequence[Any]) -> str:
    return shortened(", ".join(json.dumps(value, ensure_ascii=False) for value in values), _MAX_NAME)
