"""Read a result file: JSON from somewhere else, checked by its schema before anything is drawn from it."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from pytest_weightwatcher.errors import ReportError
from pytest_weightwatcher.nodeids import printable
from pytest_weightwatcher.options import CONFIG_NAME
from pytest_weightwatcher.report.completing import complete_result
from pytest_weightwatcher.report.totals import count_verdicts, outcome_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pydantic_core import ErrorDetails

RESULT_FORMAT = 1
MAX_BYTES = 500_000_000
"""Far above a result of 10,000 matrices; a guard against a file made to fill memory."""

_MAX_TEXT = 200


def read_document(path: Path) -> Any:
    """Read strict JSON from a regular file of reasonable size.

    Raises
    ------
    ReportError
        There is no such file, or no JSON in it; the message names it.
    """
    try:
        if path.exists() and not path.is_file():
            raise ReportError(f"{path}: not a regular file")
        if path.exists() and path.stat().st_size > MAX_BYTES:
            raise ReportError(f"{path}: larger than {MAX_BYTES} bytes")
        # With or without the mark at the start that some shells of Windows write.
        return json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=_refuse_constant)
    except OSError as error:
        raise ReportError(f"{path}: cannot be read: {error.strerror or error}") from error
    except RecursionError as error:
        raise ReportError(f"{path}: not a result: nested too deeply") from error
    except ValueError as error:
        if isinstance(error, ReportError):
            raise
        raise ReportError(f"{path}: not a result: {' '.join(str(error).split())[:_MAX_TEXT]}") from error


def read_result(path: Path) -> dict[str, Any]:
    """Read a result file of this format, of whatever version of the tool.

    Parameters
    ----------
    path : Path
        A file that ``--ww-report=json:PATH`` wrote, not trusted.

    Returns
    -------
    dict
        The result, with what older versions did not write set to its default.

    Raises
    ------
    ReportError
        It cannot be read, or is no such result; the message names the file and the entry.
    """
    document = read_document(path)
    if not isinstance(document, dict) or "models" not in document:
        raise ReportError(f"{path}: not a result: it has no models (write one with --ww-report=json:PATH)")
    given = document.get("format")
    if given != RESULT_FORMAT or isinstance(given, bool):
        raise ReportError(
            f"{path}: not a result that this version can read: format {printable(str(given)[:40])!r}, "
            f"expected {RESULT_FORMAT}"
        )
    problem = problem_of(document) or _repetition_in(document) or _contradiction_in(document)
    if problem is not None:
        raise ReportError(f"{path}: not a result that this version can read: {problem}")
    return complete_result(document)


def problem_of(result: Any) -> str | None:
    """Return what the schema has against a result, or None; keys of newer versions are no problem."""
    from pydantic import ValidationError

    from pytest_weightwatcher.report.model import Result

    try:
        Result.model_validate(result)
    except ValidationError as error:
        problems = [each for each in error.errors(include_url=False) if each["type"] != "extra_forbidden"]
        return _text(problems[0]) if problems else None
    return None


def _repetition_in(document: Mapping[str, Any]) -> str | None:
    """Return what a valid result says twice: it would be counted twice."""
    models = document["models"]
    lists: list[tuple[str, list[Any]]] = [("models", [model_key(model) for model in models])]
    lists += [(f"models.{i}.layers", [layer["name"] for layer in model["layers"]]) for i, model in enumerate(models)]
    lists += [("checks", [check["id"] for model in models for check in model["checks"]])]
    lists += [(f"models.{i}.checks", [_subject(check) for check in model["checks"]]) for i, model in enumerate(models)]
    for place, names in lists:
        name, n = Counter(names).most_common(1)[0] if names else ("", 0)
        if n > 1:
            shown = name if isinstance(name, str) else name[0]
            return f"{place}: {printable(shown)[:_MAX_TEXT]} stands there {n} times"
    return None


def _subject(check: Mapping[str, Any]) -> tuple[str, str | None, str]:
    """Return what is checked of what, and by which ww.yaml: of two, each may ask the same of one model."""
    return check["check"], check["layer"], check["id"].partition("::")[0]


def _contradiction_in(document: Mapping[str, Any]) -> str | None:
    """Return what a valid result says of itself that its checks do not: reports show both."""
    counts = count_verdicts(document["models"], document.get("lost", ()))
    for verdict, count in counts.items():
        told = document["counts"].get(verdict, count)  # older versions left some out
        if told != count:
            return f"counts.{verdict}: {told}, but {count} checks are"
    outcome = outcome_of(counts)
    if document["outcome"] != outcome:
        return f"outcome: {document['outcome']}, but its checks make it {outcome}"
    return _miscount_in(document)


def _miscount_in(document: Mapping[str, Any]) -> str | None:
    """Return what number of a valid result is not that of its checks or layers; older versions left some out."""
    models = document["models"]
    n_checks = sum(len(model["checks"]) for model in models)
    if document.get("n_reported", n_checks) not in (None, n_checks):
        return f"n_reported: {document['n_reported']}, but there are {n_checks} checks"
    planned = [("n_planned", document.get("n_planned"), n_checks)]
    for i, model in enumerate(models):
        planned.append((f"models.{i}.n_planned", model.get("n_planned"), len(model["checks"])))
    for place, told, n in planned:
        if told is not None and told < n:
            return f"{place}: {told}, but there are {n} checks"
    for i, model in enumerate(models):
        n_layers = len(model["layers"])
        if model.get("n_reused", 0) > n_layers:
            return f"models.{i}.n_reused: {model['n_reused']}, but there are {n_layers} layers"
    return None


def model_key(model: Mapping[str, Any]) -> tuple[str, str]:
    """Return what tells models apart: the path, and the ww.yaml that it is relative to."""
    ids = [check["id"].partition("::")[0] for check in model["checks"]]
    return model["path"], min(ids, default=model.get("config") or CONFIG_NAME)


def _text(problem: ErrorDetails) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    return f"{printable(place)[:_MAX_TEXT]}: {printable(problem['msg'])[:_MAX_TEXT]}"


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
