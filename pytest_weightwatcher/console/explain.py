"""``ww-gate explain``: why checks decided as they did, from a result file, long after the run."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_weightwatcher.errors import ReportError
from pytest_weightwatcher.explain import checks_of, chosen, explain_check, findings
from pytest_weightwatcher.report.reading import RESULT_FORMAT, read_document

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

_MAX_NAME = 200
_TABLES = ("limit", "rule")
_TEXTS = ("layer", "detail", "resolution", "meaning", "action")


def explain_result(arguments: argparse.Namespace) -> str:
    """Carry out ``explain``.

    Raises
    ------
    ReportError
        The file cannot be read or is no result, or an item is none of its checks.
    """
    result = read_result(Path(arguments.result))
    if not arguments.items:
        pairs = findings(result)
        if not pairs:
            return f"No findings among {len(checks_of(result))} checks; name an item to have it explained.\n"
    else:
        pairs, missing = chosen(result, arguments.items)
        if missing:
            raise ReportError(
                f"{arguments.result}: no check matches {missing[0][:_MAX_NAME]!r}{_hint(result, missing[0])}"
            )
    return "\n\n".join(explain_check(check, model) for check, model in pairs) + "\n"


def read_result(path: Path) -> dict[str, Any]:
    """Read a result file, as far as an explanation needs it.

    Raises
    ------
    ReportError
        It cannot be read, or is no result of this format.
    """
    result = read_document(path)
    problem = _problem_of(result)
    if problem:
        raise ReportError(f"{path}: not a result that this version can read: {problem}")
    found: dict[str, Any] = result
    return found


def _problem_of(result: Any) -> str | None:
    """Return what is wrong with the frame of a result, or None."""
    if not isinstance(result, dict) or "models" not in result:
        return "it has no models (write one with --ww-report=json:PATH)"
    if result.get("format") != RESULT_FORMAT or isinstance(result["format"], bool):
        return f"format {str(result.get('format'))[:40]!r}, expected {RESULT_FORMAT}"
    if not isinstance(result["models"], list):
        return "models must be a list"
    for model in result["models"]:
        if not isinstance(model, dict) or not isinstance(model.get("checks"), list):
            return "a model without a list of checks"
        for check in model["checks"]:
            problem = _problem_of_check(check)
            if problem:
                return problem
    return None


def _problem_of_check(check: Any) -> str | None:
    if not isinstance(check, dict) or not all(isinstance(check.get(key), str) for key in ("id", "check", "verdict")):
        return "a check without id, check and verdict"
    tables: list[Any] = [{} if check.get(key) is None else check[key] for key in _TABLES]
    problem = None
    if not all(isinstance(table, dict) for table in tables):
        problem = f"{' and '.join(_TABLES)} must be objects"
    elif not all(check.get(key) is None or isinstance(check[key], str) for key in _TEXTS):
        problem = f"{', '.join(_TEXTS)} must be text"
    elif type(check.get("line")) not in (int, type(None)):
        problem = "line must be a whole number"
    else:
        numbers = [value for table in tables for key, value in table.items() if key != "severity"]
        numbers += [check.get("value"), check.get("baseline")]
        if not all(value is None or _is_number(value) for value in numbers):
            problem = "value, limit, rule and baseline must be numbers"
    return None if problem is None else f"{check['id'][:_MAX_NAME]!r}: {problem}"


def _is_number(value: Any) -> bool:
    # json reads 1e999 as infinity, and whole numbers of any length.
    return type(value) in (int, float) and abs(value) < 1e300


def _hint(result: Mapping[str, Any], item: str) -> str:
    ids = [str(check["id"]) for check, _ in checks_of(result)]
    ends = {node_id.partition("::")[2].partition("::")[2]: node_id for node_id in ids}
    close = get_close_matches(item, [*ids, *ends], n=1)
    if close:
        return f"; did you mean {close[0][:_MAX_NAME]!r}?"
    return f"; there are {len(ids)} checks, such as {ids[0][:_MAX_NAME]!r}" if ids else "; it has no checks"
