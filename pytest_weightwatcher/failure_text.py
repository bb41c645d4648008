"""The text of an assertion that fails: which layers, how far, how sure, what it usually means, what to do."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from typing import TYPE_CHECKING

from pytest_weightwatcher.checks import BASELINE_LAYERS, COVERAGE, INTEGRITY
from pytest_weightwatcher.nodeids import printable
from pytest_weightwatcher.verdict import Judgement, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_weightwatcher.judging import Judged, Outcome

MAX_ROWS = 10
"""Layers in the table, and kinds of checks in the list of them."""

_MAX_NAME = 48
_MAX_DETAIL = 600
_WIDTH = 100
_THE_MODEL = "the model"
_OTHER_TENSORS = "other tensors"


def format_failure(title: str, judged: Judged, findings: Sequence[Outcome], hint: str) -> str:
    """Return the text of an assertion with findings.

    Parameters
    ----------
    title : str
        What is wrong, without a subject: ``not well trained``.
    judged : Judged
        All that was judged.
    findings : sequence of Outcome
        What fails the assertion, in any order; at least one.
    hint : str
        How this very assertion can be told that the finding is right.
    """
    by_layer = _group(findings)
    worst = by_layer[0][0]
    return "\n".join(
        [
            f"{title}: {_subject(judged, by_layer)}",
            "",
            *_table(by_layer),
            "",
            *_kinds(findings),
            _paragraph(f"Worst, {shorten(_name(worst))}: ", _cut(worst.judgement.text)),
            *([_paragraph("How sure: ", worst.judgement.resolution)] if worst.judgement.resolution else []),
            _paragraph("What it usually means: ", worst.meaning),
            _paragraph("What to do: ", f"{worst.action} {_hint(worst, hint)}"),
        ]
    )


def format_nothing_checked(title: str, judged: Judged, about: str) -> str:
    """Return the text of an assertion that found nothing it could judge.

    Parameters
    ----------
    title : str
        What would be wrong.
    judged : Judged
        All that was judged.
    about : str
        What it was to look at.
    """
    reasons = Counter(
        judgement.detail for check, judgement, _ in judged.outcomes if _is_missing(judgement) and check.rule
    )
    n_matrices = len(judged.model.description.matrices)
    lines = [f"{title}? No layer could be judged: {escape(judged.name)} has {n_matrices} matrices, none with {about}"]
    lines += [_paragraph("", f"{n}x {_cut(reason)}") for reason, n in reasons.most_common(3)]
    lines.append(
        _paragraph("What to do: ", "see model.unanalysed of spectral.describe(model), exclude= and layers=; a model of "
                   "which nothing is checked never passes.")
    )  # fmt: skip
    return "\n".join(lines)


def escape(text: str) -> str:
    """Return text from a checkpoint that can steer neither a terminal nor a CI service."""
    return printable(text).replace("::", "%3A%3A")


def shorten(name: str) -> str:
    """Return a name that fits a table: its end tells layers apart better than its middle."""
    text = escape(name)
    return text if len(text) <= _MAX_NAME else f"{text[:12]}...{text[-(_MAX_NAME - 15) :]}"


def _is_missing(judgement: Judgement) -> bool:
    return judgement.verdict in (Verdict.SKIPPED, Verdict.INCONCLUSIVE)


def _name(outcome: Outcome) -> str:
    if outcome.check.spec is not None:
        return outcome.check.spec.name
    return _OTHER_TENSORS if outcome.check.name == INTEGRITY else _THE_MODEL


def _subject(judged: Judged, by_layer: Sequence[Sequence[Outcome]]) -> str:
    n_layers = sum(group[0].check.spec is not None for group in by_layer)
    n_matrices = len(judged.model.description.matrices)
    name = escape(judged.name)
    if not n_layers:
        return f"{name} as a whole"
    layers = f"{n_layers} of {n_matrices} layer{'s' if n_matrices != 1 else ''} of {name}"
    return layers if n_layers == len(by_layer) else f"{layers}, and the model as a whole"


def _group(findings: Sequence[Outcome]) -> list[list[Outcome]]:
    """Return the findings of each layer, worst first, and the layers in the order of their worst."""
    groups: dict[str | None, list[Outcome]] = {}
    for outcome in sorted(findings, key=_badness, reverse=True):
        groups.setdefault(None if outcome.check.spec is None else outcome.check.spec.name, []).append(outcome)
    return list(groups.values())


def _badness(outcome: Outcome) -> float:
    """Return how far a finding lies beyond its limit, as a multiple of it; what has no number is worst."""
    judgement = outcome.judgement
    if judgement.value is None or math.isnan(judgement.value):
        return math.inf
    if judgement.share is not None:
        return judgement.share
    limit = judgement.limit or {}
    excesses = [
        (sign * (judgement.value - limit[side])) / (abs(limit[side]) or 1.0)
        for side, sign in (("min", -1.0), ("max", 1.0))
        if side in limit
    ]
    return 1.0 + max(excesses, default=0.0)


def _hint(worst: Outcome, hint: str) -> str:
    """Return how to accept the finding; damage is not accepted."""
    if worst.judgement.verdict is Verdict.ERROR:
        return ""
    if worst.check.name == COVERAGE:
        return "In this test: lower min_coverage." if worst.judgement.value else ""
    return "" if worst.check.name in (INTEGRITY, BASELINE_LAYERS) else hint


def _table(by_layer: Sequence[Sequence[Outcome]]) -> list[str]:
    rows = [("layer", "check", "value", "accepted", "baseline", "")]
    rows += [_row(group) for group in by_layer[:MAX_ROWS]]
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in zip(*columns, strict=True)
    ]
    # A number first: a name from a checkpoint never begins a line.
    numbered = [f"  {f'{number}.' if number else '':3} {line.rstrip()}" for number, line in enumerate(lines)]
    if len(by_layer) > MAX_ROWS:
        numbered.append(f"  ... and {len(by_layer) - MAX_ROWS} more")
    return numbered


def _row(group: Sequence[Outcome]) -> tuple[str, str, str, str, str, str]:
    judgement = group[0].judgement
    return (
        shorten(_name(group[0])),
        judgement.check,
        "-" if judgement.value is None else f"{judgement.value:.4g}",
        _accepted(judgement),
        "" if judgement.baseline is None else f"{judgement.baseline:.4g}",
        f"(+{len(group) - 1} more check{'s' if len(group) > 2 else ''})" if len(group) > 1 else "",
    )


def _accepted(judgement: Judgement) -> str:
    limit = judgement.limit or {}
    if "min" in limit and "max" in limit:
        return f"{limit['min']:.4g} to {limit['max']:.4g}"
    if "min" in limit:
        return f"at least {limit['min']:.4g}"
    return f"at most {limit['max']:.4g}" if "max" in limit else "-"


def _kinds(findings: Sequence[Outcome]) -> list[str]:
    """Say which checks failed how often, where there are several."""
    counts = Counter(outcome.judgement.check for outcome in findings).most_common()
    if len(counts) == 1:
        return []
    texts = [f"{check} ({n})" for check, n in counts[:MAX_ROWS]]
    rest = f" and {len(counts) - MAX_ROWS} more" if len(counts) > MAX_ROWS else ""
    return [_paragraph("Checks that failed: ", f"{', '.join(texts)}{rest}")]


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_DETAIL else f"{text[:_MAX_DETAIL]}..."


def _paragraph(lead: str, text: str) -> str:
    # Only at blanks: a path or a name that is pasted must be whole.
    return textwrap.fill(
        escape(lead + text),
        width=_WIDTH,
        initial_indent="  ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
