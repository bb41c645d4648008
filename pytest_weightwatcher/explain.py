"""Why a check decided as it did, and what would make it pass; drawn from the result alone."""

from __future__ import annotations

import textwrap
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from pytest_weightwatcher.checks import (
    ALPHA,
    BASELINE_LAYERS,
    CLIPPED,
    CORRELATION_TRAPS,
    COVERAGE,
    INTEGRITY,
    INTRUDERS,
    MODEL,
    NOISE,
    OVERLAP,
    REGRESSION,
    ROUNDING,
    SPECTRUM,
    TENSORS,
    WAIVERS,
    WEIGHTS,
)
from pytest_weightwatcher.nodeids import printable
from pytest_weightwatcher.options import CONFIG_NAME
from pytest_weightwatcher.profiles import PROFILES
from pytest_weightwatcher.yaml_text import indent, number, quote_pattern, round_down, round_up
from spectral.spectrum import NOT_FINITE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_weightwatcher.profiles import Profile

WIDTH = 100
_LABEL = 12
_FINDINGS = ("warn", "fail", "error")
_NOT_JUDGED = ("skipped", "inconclusive")

_OWN_KEYS = {
    SPECTRUM: "max_displacement",
    WEIGHTS: "max_change",
    TENSORS: "max_change",
    CORRELATION_TRAPS: "max_new",
    INTRUDERS: "max_new",
    CLIPPED: "max_new",
    ROUNDING: "max_excess",
}
"""Quantity -> the only key of its limit."""

_COUNTS = (CORRELATION_TRAPS, INTRUDERS, CLIPPED)
_RULE_WORDS = (
    ("increase", "rise by {:.4g}"),
    ("relative_increase", "rise by {:.4g} of the baseline's value"),
    ("decrease", "fall by {:.4g}"),
    ("relative_decrease", "fall by {:.4g} of the baseline's value"),
)


def is_match(node_id: str, item: str) -> bool:
    """Tell whether somebody means a check by an item: its node id, the end of it, or a shell pattern."""
    return node_id.endswith(item) or fnmatchcase(node_id, item)


def explain_check(check: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    """Return what decided a check, and what would make it pass.

    Parameters
    ----------
    check : mapping
        One of ``models[].checks[]`` of a result.
    model : mapping
        The one of ``models[]`` it belongs to.

    Returns
    -------
    str
        Several lines, at most :data:`WIDTH` wide but for names and examples; nothing in them can act on a terminal.
    """
    value, baseline = check.get("value"), check.get("baseline")
    facts = [
        ("rule", f"{_rule(check, model)}; {_origin(check, model)}"),
        ("value", _figure(value)),
        ("limit", _limit(check)),
        ("baseline", _baseline(check, model) if baseline is not None else ""),
        ("found", check.get("detail")),
        ("could see", check.get("resolution")),
        ("meaning", check.get("meaning")),
    ]
    lines = [printable(f"{check.get('id')}: {check.get('verdict')}")]
    lines += [_fact(label, text) for label, text in facts if text]
    for place, (text, example) in enumerate(_ways(check, model)):
        lines.append(_fact("to pass" if place == 0 else "or", text))
        lines += indent(example, _LABEL + 4)
    return "\n".join(lines)


def _fact(label: str, text: str) -> str:
    return textwrap.fill(
        printable(text),
        width=WIDTH,
        initial_indent=f"  {label:<{_LABEL}}",
        subsequent_indent=" " * (_LABEL + 2),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _name(check: Mapping[str, Any]) -> str:
    """Return the metric or quantity of a check, without what it belongs to."""
    return str(check.get("check")).removeprefix(MODEL).removeprefix(REGRESSION)


def _is_regression(check: Mapping[str, Any]) -> bool:
    return str(check.get("check")).removeprefix(MODEL).startswith(REGRESSION)


def _rule(check: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    name = _name(check)
    if check.get("check") == BASELINE_LAYERS:
        return "the layers must be those of the baseline"
    if check.get("check") == INTEGRITY:
        return "values must be finite, and layers alive"
    if check.get("check") == WAIVERS:
        return "no waiver may have expired"
    if check.get("plugin") is not None:
        return f"{name}, as the plugin {check['plugin']} judges it"
    whole = " of the model as a whole" if str(check.get("check")).startswith(MODEL) else ""
    if _is_regression(check):
        return _allowances(check, model, f"{name}{whole} against the baseline")
    return f"{name}{whole}, {_bounds(check)}"


def _allowances(check: Mapping[str, Any], model: Mapping[str, Any], what: str) -> str:
    rule = _allowed(check, model)
    words = [text.format(rule[key]) for key, text in _RULE_WORDS if rule.get(key) is not None]
    if _name(check) == NOISE:
        return f"{what}: what could be told from noise must stay so"
    if not words:
        return what
    sigmas = f", in any case by {rule['sigmas']:g} standard errors where these are known" if rule.get("sigmas") else ""
    return f"{what} may {' or '.join(words)}{sigmas}"


def _allowed(check: Mapping[str, Any], model: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the allowances of a rule against the baseline, as far as the result or the profile tells them."""
    given = check.get("rule")
    if isinstance(given, dict):
        return given
    profile = _profile(model)
    if profile is None or check.get("line") is not None:
        return {}
    rules = profile.model_rules if str(check.get("check")).startswith(MODEL) else profile.layer_rules
    rule = rules.get(_name(check))
    keys = (*(key for key, _ in _RULE_WORDS), "sigmas", "warn_at")
    return {} if rule is None else {key: getattr(rule, key) for key in keys}


def _profile(model: Mapping[str, Any]) -> Profile | None:
    return PROFILES.get(str(model.get("profile")))


def _origin(check: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    """Return where a rule comes from."""
    line = check.get("line")
    if line is not None:
        return f"from line {line} of {_config(check, model)}"
    if check.get("check") in (INTEGRITY, BASELINE_LAYERS, WAIVERS):
        return "always on"
    if check.get("plugin") is not None:
        return f"of the plugin {check['plugin']}"
    profile = _profile(model)
    if _is_regression(check) and profile is not None:
        return f"the default of the profile {profile.name}, which asks: {profile.question}"
    return "built in"


def _config(check: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    given = model.get("config")
    return given if isinstance(given, str) else str(check.get("id")).partition("::")[0] or CONFIG_NAME


def _limit(check: Mapping[str, Any]) -> str:
    return _bounds(check) if check.get("limit") else ""


def _bounds(check: Mapping[str, Any]) -> str:
    limit = check.get("limit") or {}
    least, most = limit.get("min"), limit.get("max")
    if least is None and most is None:
        return "no bound"
    if least is None:
        return f"at most {_figure(most)}"
    if most is None:
        return f"at least {_figure(least)}"
    return f"{_figure(least)} to {_figure(most)}"


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"


def _baseline(check: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    value, baseline = check.get("value"), check["baseline"]
    change = "" if value is None else f", a change of {value - baseline:+.4g}"
    return f"{_figure(baseline)} in {model.get('baseline') or 'the baseline'}{change}"


def _ways(check: Mapping[str, Any], model: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Return what would make a check pass: a sentence, and what to write in ww.yaml."""
    verdict = check.get("verdict")
    if verdict == "pass":
        return [(f"nothing is needed: it passes{_while(_warning_free(check, model))}", [])]
    if verdict in _NOT_JUDGED:
        return _ways_to_a_verdict(check)
    ways: list[tuple[str, list[str]]] = []
    if check.get("value") is not None and check.get("limit") and check.get("check") not in (WAIVERS, BASELINE_LAYERS):
        bounds = _bounds(_warning_free(check, model))
        ways.append((f"a value of {bounds}, where it is {_figure(check['value'])} now", []))
    ways += _ways_by_limit(check, model)
    if check.get("action"):
        ways.append((str(check["action"]), []))
    if verdict in _FINDINGS and verdict != "error" and check.get("check") != WAIVERS:
        ways.append(("accept it until a day, with a reason", _waiver(check)))
    return ways


def _warning_free(check: Mapping[str, Any], model: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a check with the limit up to which it does not even warn."""
    share, limit, baseline = _allowed(check, model).get("warn_at"), check.get("limit"), check.get("baseline")
    if not _is_regression(check) or not share or not limit or baseline is None:
        return check
    return {**check, "limit": {side: baseline + share * (bound - baseline) for side, bound in limit.items()}}


def _while(check: Mapping[str, Any]) -> str:
    if check.get("value") is None or not check.get("limit"):
        return ""
    return f" while it is {_bounds(check)}"


def _ways_to_a_verdict(check: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    if check.get("verdict") == "inconclusive":
        text = "there is no verdict; policy: {inconclusive: warn} or fail makes it count, skip (the default) does not"
        return [(text, [])]
    return [("there is no verdict: nothing was judged, for the reason above", [])]


def _ways_by_limit(check: Mapping[str, Any], model: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    name, layer = _name(check), check.get("layer")
    if check.get("check") == INTEGRITY and layer is not None:
        if NOT_FINITE in str(check.get("detail")):
            # Values that are not finite fail the model as a whole, too.
            return []
        text = "leave the layer out, where it is dead on purpose"
        return [(text, [f"analysis: {{exclude: [{quote_pattern(layer)}]}}"])]
    if check.get("check") in (WAIVERS, BASELINE_LAYERS) or check.get("value") is None:
        return []
    if check.get("plugin") is not None:
        # It judges by itself; all that can be said of it is whether and how much it counts.
        entry: str | None = "false"
    else:
        entry = _new_allowance(check, model) if _is_regression(check) else _new_bound(check)
    if entry is None:
        return []
    table = "regression" if _is_regression(check) else "checks"
    text = f"another limit, {table}: {{{name}: {entry}}}"
    example = [f"{table}: {{{name}: {entry}}}"]
    if layer is not None:
        text = f"{text}, for this layer alone"
        example = ["overrides:", f"- match: {quote_pattern(layer)}", *indent(example, 2)]
    elif name != COVERAGE:
        text = f"{text}, for the model as a whole"
        example = [f"model: {{{example[0]}}}"]
    return [(text, example)]


def _new_bound(check: Mapping[str, Any]) -> str | None:
    """Return the absolute limit under which the value would pass."""
    name, value, limit = _name(check), check["value"], check.get("limit") or {}
    if name == NOISE:
        return "false"
    least, most = limit.get("min"), limit.get("max")
    if least is not None and value < least:
        return f"{{min: {number(round_down(value))}}}"
    if most is not None and value > most:
        return f"{{max: {number(int(value) if name == CORRELATION_TRAPS else round_up(value))}}}"
    return None


def _new_allowance(check: Mapping[str, Any], model: Mapping[str, Any]) -> str | None:
    """Return the limit against the baseline under which the change would pass."""
    name, baseline = _name(check), check.get("baseline")
    if name == NOISE:
        return "false"
    if baseline is None:
        return None
    rule = _allowed(check, model)
    difference = check["value"] - baseline
    if difference == 0.0:
        return None
    key = _OWN_KEYS.get(name) or ("max_increase" if difference > 0.0 else "max_decrease")
    needed = abs(difference)
    if name not in _OWN_KEYS and _is_relative(check, rule, key) and baseline != 0.0:
        key, needed = key.replace("max_", "max_relative_"), needed / abs(baseline)
    if rule.get("warn_at"):
        # It warns before the allowance is used up.
        needed /= rule["warn_at"]
    return f"{{{key}: {number(int(needed) if name in _COUNTS else round_up(needed))}}}"


def _is_relative(check: Mapping[str, Any], rule: Mapping[str, Any], key: str) -> bool:
    """Tell whether an allowance is to be given as a share of the baseline's value."""
    direction = key.removeprefix("max_")
    if rule.get(f"relative_{direction}") is not None:
        return True
    if rule.get(direction) is not None:
        return False
    return _name(check) not in (ALPHA, OVERLAP) and check.get("line") is not None and not rule


def _waiver(check: Mapping[str, Any]) -> list[str]:
    layer = check.get("layer")
    match = '"*"' if layer is None else quote_pattern(layer)
    return [
        "waivers:",
        f"- {{match: {match}, check: {check.get('check')}, reason: why, expires: YYYY-MM-DD}}",
    ]


def findings(result: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Return the checks of a result that somebody should look at, each with its model."""
    return [(check, model) for check, model in checks_of(result) if check.get("verdict") in _FINDINGS]


def checks_of(result: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Return all checks of a result, each with its model."""
    return [(check, model) for model in result["models"] for check in model["checks"]]


def chosen(
    result: Mapping[str, Any], items: Sequence[str]
) -> tuple[list[tuple[Mapping[str, Any], Mapping[str, Any]]], list[str]]:
    """Return the checks that items mean, in the order of the result, and the items that mean none."""
    pairs = checks_of(result)
    found = [(check, model) for check, model in pairs if any(is_match(str(check.get("id")), item) for item in items)]
    missing = [item for item in items if not any(is_match(str(check.get("id")), item) for check, _ in pairs)]
    return found, missing
