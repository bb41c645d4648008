"""The Markdown report, for a comment or a job summary, in as many bytes as these take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_weightwatcher.report import escaping
from pytest_weightwatcher.report.budget import Block, fit_blocks
from pytest_weightwatcher.report.picture import picture_lines
from pytest_weightwatcher.report.ranking import (
    FAILURES,
    largest_changes,
    layers_of,
    layers_with_verdicts,
    rank_layers,
    ranked_findings,
    share_of_limit,
    worst_rank,
)
from pytest_weightwatcher.report.templates import make_environment
from pytest_weightwatcher.report.totals import count_verdicts, outcome_of
from pytest_weightwatcher.report.unchanged import told_unchanged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Result = Mapping[str, Any]
    Model = Mapping[str, Any]
    Item = Any

COMMENT_BUDGET = 65_536 - 2_048
"""Bytes of a comment on GitHub, but for what the Action adds to it: a hidden mark, links, a commit."""

SUMMARY_BUDGET = 1_048_576 - 2_048
"""Bytes of a job summary, but for what other steps may add."""

MAX_CHANGES, MAX_MEANINGS, MAX_LOST, MAX_NOTES, MAX_SECTION_ROWS = 10, 20, 20, 10, 50

HEAD, HEADINGS, FINDINGS, MEANINGS, CHANGES, PICTURE, WAIVERS, SECTIONS, LAYERS, UNANALYSED = range(10)
"""Ranks: what comes first gets its bytes first."""

_SHARES = {HEADINGS: 0.3, FINDINGS: 0.7, MEANINGS: 0.75, CHANGES: 0.85, PICTURE: 0.95}
"""However many findings there are, there is room for what changed and for the pictures."""


def render_markdown(result: Result, *, budget: int = COMMENT_BUDGET) -> str:
    """Render a result as GitHub-flavoured Markdown.

    Parameters
    ----------
    result : mapping
        The result of a run; it is not changed.
    budget : int
        Bytes of UTF-8 that the text may have, at least :data:`~pytest_weightwatcher.options.MIN_BUDGET`.

    Returns
    -------
    str
        The outcome and the counts; then, as far as the budget goes and in this order of importance, the findings, worst
        first, the largest changes that pass, alpha by depth, the layers, and what was not analysed. What was cut is
        counted.
    """
    pieces = _pieces()
    blocks = [*_run_blocks(pieces, result)]
    ranked = sorted(range(len(result["models"])), key=lambda index: worst_rank(result["models"][index]))
    groups = {index: group for group, index in enumerate(ranked)}
    is_one_of_many = len(ranked) > 1
    for index in ranked:
        blocks += _model_blocks(pieces, result["models"][index], groups[index], is_one_of_many=is_one_of_many)
    blocks += [_section_block(pieces, section) for section in result.get("sections", ())]
    return fit_blocks(
        blocks,
        budget,
        shares=_SHARES,
        ending=lambda left_out: str(pieces.end(_shown_tool(result["tool"]), left_out, budget)),
    )


def _pieces() -> Any:
    """Return the macros of the template."""
    environment = make_environment()
    environment.filters["code"] = escaping.format_code
    environment.filters["text"] = escaping.format_text
    environment.filters["number"] = escaping.format_number
    environment.filters["limit"] = escaping.format_limit
    environment.filters["shape"] = escaping.format_shape
    environment.filters["paragraphs"] = escaping.split_paragraphs
    environment.filters["cell"] = escaping.format_cell
    return environment.get_template("report.md.jinja").module


def _shown_tool(tool: Mapping[str, str]) -> dict[str, str]:
    return {key: tool[key][:60] for key in ("name", "version")}


def _run_blocks(pieces: Any, result: Result) -> Iterator[Block]:
    yield Block(
        rank=HEAD,
        title="heads",
        is_one=True,
        opening=str(pieces.head(result)),
        items=result["lost"],
        row=_text(pieces.lost),
        notice=_more("checks ended without a verdict"),
        most=MAX_LOST,
    )
    merged = result.get("merged")
    if merged:
        yield Block(
            rank=HEADINGS,
            title="notes",
            opening=str(pieces.merged_head(merged)),
            items=merged["notes"],
            row=_text(pieces.note),
            notice=_more("notes"),
            most=MAX_NOTES,
        )


def _model_blocks(pieces: Any, model: Model, group: int, *, is_one_of_many: bool) -> Iterator[Block]:
    """Yield what there is to say of a model, in the order in which it is read."""
    findings = ranked_findings(model)
    # Of one model, the head of the report says it.
    counts = count_verdicts([model], ()) if is_one_of_many else None
    yield Block(
        rank=HEADINGS,
        title="models",
        is_one=True,
        opening=str(
            pieces.model_head(model, counts and outcome_of(counts), counts, bool(findings), told_unchanged(model))
        ),
        items=model["notes"],
        row=_text(pieces.note),
        notice=_more("notes"),
        most=MAX_NOTES,
        group=group,
        is_head=True,
    )
    if findings:
        yield Block(
            rank=FINDINGS,
            title="findings",
            opening=str(pieces.findings_head()),
            items=findings,
            row=_text(pieces.finding),
            notice=_count_findings,
            group=group,
        )
    yield from _meaning_blocks(pieces, findings, group)
    yield from _change_blocks(pieces, model, group)
    yield from _picture_blocks(pieces, model, group)
    yield from _table_blocks(pieces, model, group)


def _meaning_blocks(pieces: Any, findings: Sequence[Item], group: int) -> Iterator[Block]:
    told = {(each["check"], each["meaning"], each["action"]): each for each in reversed(findings) if each["meaning"]}
    if told:
        yield Block(
            rank=MEANINGS,
            title="meanings",
            opening=str(pieces.meanings_head()),
            closing=str(pieces.details_end()),
            items=list(told.values())[::-1],
            row=_text(pieces.meaning),
            notice=_more("meanings"),
            most=MAX_MEANINGS,
            group=group,
        )


def _change_blocks(pieces: Any, model: Model, group: int) -> Iterator[Block]:
    changes = largest_changes(model, MAX_CHANGES)
    if changes:
        yield Block(
            rank=CHANGES,
            title="changes",
            opening=str(pieces.changes_head()),
            items=changes,
            row=lambda check: str(pieces.change(check, share_of_limit(check))),
            notice=_more("changes"),
            group=group,
        )


def _picture_blocks(pieces: Any, model: Model, group: int) -> Iterator[Block]:
    layers = layers_with_verdicts(model)
    alphas = [layer["metrics"].get("alpha") for layer in layers]
    known = [alpha for alpha in alphas if alpha is not None]
    if known:
        yield Block(
            rank=PICTURE,
            title="pictures",
            is_one=True,
            opening=str(pieces.picture_head(min(known), max(known))),
            closing="```\n",
            items=picture_lines(layers),
            row=str,
            notice=_more("lines of the picture"),
            group=group,
        )


def _table_blocks(pieces: Any, model: Model, group: int) -> Iterator[Block]:
    """Yield the tables of waivers, layers and what was not analysed, each where it has rows."""
    details = str(pieces.details_end())
    n_layers, n_unanalysed = len(model["layers"]), len(model["unanalysed"])
    for rank, title, opening, closing, items, row in (
        (WAIVERS, "waivers", pieces.waivers_head(), "", model["waivers"], pieces.waiver),
        (LAYERS, "layers", pieces.layers_head(n_layers), details, rank_layers(model), pieces.layer),
        (UNANALYSED, "tensors", pieces.unanalysed_head(n_unanalysed), details, model["unanalysed"], pieces.unanalysed),
    ):
        if items:
            yield Block(
                rank=rank,
                title=title,
                opening=str(opening),
                closing=closing,
                items=items,
                row=_text(row),
                notice=_more(title),
                group=group,
            )


def _section_block(pieces: Any, section: Mapping[str, Any]) -> Block:
    return Block(
        rank=SECTIONS,
        title="sections of plugins",
        is_one=True,
        opening=str(pieces.section_head(section)),
        closing=str(pieces.section_end(section)),
        items=section["rows"] if section["columns"] else (),
        row=_text(pieces.section_row),
        notice=_more("rows"),
        most=MAX_SECTION_ROWS,
    )


def _text(macro: Callable[[Item], Any]) -> Callable[[Item], str]:
    return lambda item: str(macro(item))


def _more(what: str) -> Callable[[Sequence[Item], Sequence[Item]], str]:
    return lambda _, hidden: f"In the full report: {len(hidden)} more {what}."


def _count_findings(shown: Sequence[Item], hidden: Sequence[Item]) -> str:
    """Return how many findings are not shown, and how many layers of which no failure is."""
    failing = [check for check in hidden if check["verdict"] in FAILURES]
    seen = layers_of([check for check in shown if check["verdict"] in FAILURES])
    n_layers = len(layers_of(failing) - seen - {None})
    counts = ((len(failing), "failure"), (n_layers, "failing layer"), (len(hidden) - len(failing), "warning"))
    failures, layers, warnings = (f"{n} more {name}{'' if n == 1 else 's'}" for n, name in counts)
    parts = [f"{failures} ({layers})"] if failing else []
    parts += [warnings] if len(hidden) > len(failing) else []
    return f"In the full report: {' and '.join(parts)}."
