"""What the gate prints in a terminal."""

from __future__ import annotations

import os
import textwrap
from typing import TYPE_CHECKING, Any

from pytest_weightwatcher.checks import RegressionRule
from pytest_weightwatcher.nodeids import escape_name
from pytest_weightwatcher.report.ranking import findings_of
from pytest_weightwatcher.report.unchanged import told_unchanged

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pytest

    from pytest_weightwatcher.gate import Check
    from pytest_weightwatcher.session import GateSession
    from pytest_weightwatcher.verdict import Judgement

MAX_FINDINGS = 20
_WIDTH = 100
_NARROWEST = 40
_COLOURS: Mapping[str, dict[str, bool]] = {
    "fail": {"red": True, "bold": True},
    "error": {"red": True, "bold": True},
    "warn": {"yellow": True},
}


def format_finding(check: Check, judgement: Judgement, columns: int | None = None) -> str:
    """Return the text of a finding, folded: what and how far, what it usually means, what to do."""
    width = min(_WIDTH, columns or _WIDTH)
    layer = escape_name(check.spec.name) if check.spec is not None else "the model as a whole"
    rule = rule_name(check)
    lines = [
        f"{judgement.verdict}: {layer} of {escape_name(check.model.name)}: {judgement.check} (rule: {rule})",
        _paragraph("", judgement.text, width),
    ]
    if judgement.is_finding and judgement.resolution:
        lines.append(_paragraph("What it could have seen: ", judgement.resolution, width))
    if judgement.is_finding:
        lines += [_paragraph("What it means: ", judgement.meaning, width)]
        lines.append(_paragraph("What to do: ", judgement.action, width))
    return "\n".join(lines)


def rule_name(check: Check) -> str:
    """Return where a rule comes from: a line of a ww.yaml, the profile, or the built-in limits."""
    config = check.model.config
    if check.line and config.path:
        return f"{config.path.name}:{check.line}"
    if check.name in config.extensions.checks:
        return f"plugin {config.extensions.checks[check.name].plugin}"
    return f"profile {check.model.profile.name}" if isinstance(check.rule, RegressionRule) else "built in"


def header_line(gate: GateSession) -> str:
    """Return the line at the top of the run."""
    models = gate.models
    baselines = {model.baseline.path.name for model in models if model.baseline is not None}
    config = gate.main_path.name if gate.main_path.exists() else "built-in limits"
    n_matrices = sum(len(model.description.matrices) for model in models)
    profiles = sorted({model.profile.name for model in models if model.baseline is not None})
    asked = f" ({', '.join(profiles)})" if profiles else ""
    return (
        f"ww: {len(models)} model{'s' if len(models) != 1 else ''}, {n_matrices} matrices; {config}; "
        f"baseline: {', '.join(sorted(map(escape_name, baselines))) or 'none'}{asked}; fail on: {gate.main_fail_on}"
    )


def write_summary(reporter: pytest.TerminalReporter, gate: GateSession, result: Mapping[str, Any]) -> None:
    """Write the section of the gate: findings, totals, where the reports are."""
    reporter.ensure_newline()
    reporter.section("weightwatcher", sep="=")
    if gate.options.explain:
        _write_explanations(reporter, result)
    elif reporter.verbosity >= 0:
        _write_findings(reporter, result)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in result["counts"].items() if count)
    colour = _COLOURS.get(result["outcome"], {"green": True} if result["outcome"] == "pass" else {})
    _say(reporter, f"outcome: {result['outcome']} ({counts or 'nothing was checked'})", **colour)
    for model in result["models"]:
        if model["baseline"] is not None:
            asked = f"{escape_name(model['path'])}: profile {model['profile']}: {model['question']}"
            _say(reporter, f"{asked} {told_unchanged(model)}".rstrip())
        for note in model["notes"]:
            _say(reporter, f"note: {escape_name(model['path'])}: {escape_text(note)}")
        _write_waivers(reporter, model["waivers"])
    if result["n_reported"] < result["n_planned"]:
        _say(reporter, f"only {result['n_reported']} of {result['n_planned']} checks ran")
    for node_id in result["lost"]:
        _say(reporter, f"ERROR {node_id}: ended without a verdict", red=True)
    for kind, path, text in gate.written:
        _say(reporter, f"{kind}: {path}{f' ({text})' if text else ''}")
    for problem in gate.problems:
        _say(reporter, f"problem: {problem}", red=True)


def shown_width(config: pytest.Config) -> int | None:
    """Return the columns of the terminal, or those that COLUMNS asks for; None for a log, whose lines stay whole."""
    if hasattr(config, "workerinput"):
        return None  # pytest-xdist sets COLUMNS=80 in its workers, whatever the terminal has.
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    is_asked = os.environ.get("COLUMNS", "").isdecimal() or (reporter is not None and reporter.isatty)
    return max(_NARROWEST, config.get_terminal_writer().fullwidth) if is_asked else None


def _say(reporter: pytest.TerminalReporter, text: str, **colours: bool) -> None:
    """Write a line, folded to the width of the terminal."""
    width = shown_width(reporter.config)
    for line in text.splitlines() or [""]:
        folded = line if width is None else _fold(line, width, first="", others="    ")
        for part in folded.split("\n"):
            reporter.write_line(part, **colours)


def _fold(text: str, width: int, *, first: str, others: str) -> str:
    # Only at blanks: a path or a name that is pasted must be whole.
    indent = text[: len(text) - len(text.lstrip())]
    return textwrap.fill(
        text.strip(),
        width=width,
        initial_indent=first + indent,
        subsequent_indent=others + indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _write_explanations(reporter: pytest.TerminalReporter, result: Mapping[str, Any]) -> None:
    """Write for each check that ran which rule decided, and what would make it pass."""
    from pytest_weightwatcher.explain import checks_of, explain_check

    for check, model in checks_of(result):
        _say(reporter, explain_check(check, model))
        reporter.write_line("")


def _write_waivers(reporter: pytest.TerminalReporter, waivers: Sequence[Mapping[str, Any]]) -> None:
    for waiver in waivers:
        owner = f", owner {waiver['owner']}" if waiver["owner"] else ""
        text = (
            f"waiver: {waiver['check']} of {waiver['match']} until {waiver['expires']} ({waiver['reason']}{owner}): "
            f"used {waiver['n_used']} times"
        )
        _say(reporter, escape_text(text))


def _write_findings(reporter: pytest.TerminalReporter, result: Mapping[str, Any]) -> None:
    is_one = len(result["models"]) == 1
    for model in result["models"]:
        findings = findings_of(model)
        for check in findings[:MAX_FINDINGS]:
            # A layer's name tells where it is as long as there is one model.
            parts = (
                [model["path"]]
                if check["layer"] is None
                else [check["layer"]]
                if is_one
                else [model["path"], check["layer"]]
            )
            name = ": ".join(map(escape_name, parts))
            line = f"{check['verdict'].upper():5} {name} {check['check']}: {escape_text(check['detail'])}"
            _say(reporter, line, **_COLOURS[check["verdict"]])
        if len(findings) > MAX_FINDINGS:
            _say(reporter, f"... and {len(findings) - MAX_FINDINGS} more; see the reports (--ww-report md:PATH)")


def escape_text(text: str) -> str:
    """Return text without characters that could steer a terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def _paragraph(lead: str, text: str, width: int) -> str:
    return _fold(escape_text(lead + text), width, first="  ", others="  ")
