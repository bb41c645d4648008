"""Markdown within a budget: what goes first, what is cut and said so, the picture, and names that try something."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest

from pytest_weightwatcher.options import MIN_BUDGET
from pytest_weightwatcher.report import escaping, ranking
from pytest_weightwatcher.report.budget import ENDING_BYTES, NOTICE_BYTES, Block, fit_blocks
from pytest_weightwatcher.report.markdown import COMMENT_BUDGET, SUMMARY_BUDGET, render_markdown
from pytest_weightwatcher.report.picture import picture_lines, sign_of
from tests.gate.synthetic_result import (
    HOSTILE_NAMES,
    hostile_result,
    large_result,
    make_check,
    make_layer,
    make_model,
    make_result,
)

ALLOWED_TAGS = {"<code>", "</code>", "<details>", "</details>", "<summary>", "</summary>"}
JsonObject = dict[str, Any]


def n_bytes(text: str) -> int:
    return len(text.encode("utf-8"))


def rows_of(text: str, verdict: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(f"| {verdict} |")]


def many_models(n: int) -> JsonObject:
    models = []
    for index in range(n):
        path = f"out/model-{index}.safetensors"
        checks = [make_check(path, "head", "alpha", "fail" if index == n - 1 else "pass", index=index)]
        models.append(make_model(path, [make_layer("head", 0)], checks))
    return make_result(models)


RESULTS: dict[str, JsonObject] = {
    "hostile": hostile_result(),
    "large": large_result(1000),
    "many models": many_models(300),
}


@pytest.mark.parametrize("budget", [MIN_BUDGET, 3_000, 5_000, 10_000, 30_000, COMMENT_BUDGET, SUMMARY_BUDGET])
@pytest.mark.parametrize("name", RESULTS)
def test_the_budget_holds(name: str, budget: int) -> None:
    result = RESULTS[name]
    text = render_markdown(result, budget=budget)
    assert n_bytes(text) <= budget
    assert len(text) <= budget
    assert text.startswith(f"## Checkpoint gate: {result['outcome']}\n")
    assert text.endswith("pytest-weightwatcher 0.0.0\n")
    if name != "hostile" and budget < COMMENT_BUDGET:
        assert n_bytes(text) > budget - 2500 or budget < 5_000, "it is used"


def test_a_comment_and_a_summary_of_300_failing_layers() -> None:
    result = RESULTS["large"]
    comment, summary = render_markdown(result), render_markdown(result, budget=SUMMARY_BUDGET)
    assert len(rows_of(summary, "fail")) == 2100
    assert "full report" not in summary
    n_shown = len(rows_of(comment, "fail"))
    (cut,) = re.findall(r"^In the full report: (\d+) more failures \((\d+) more failing layers\)\.$", comment, re.M)
    assert int(cut[0]) == 2100 - n_shown
    shown_layers = {line.split("|")[2] for line in rows_of(comment, "fail")}
    assert int(cut[1]) == 300 - len(shown_layers)
    (layers,) = re.findall(r"^In the full report: (\d+) more layers\.$", comment, re.M)
    assert int(layers) == 1000 - comment.count("| dense |")
    for part in ("Nearest to their limits", "Alpha by depth", "What this means"):
        assert part in comment, f"findings leave room for: {part}"


def test_what_is_left_out_as_a_whole_is_counted() -> None:
    text = render_markdown(many_models(300), budget=5_000)
    (n_models,) = re.findall(r"Left out, to stay within 5000 bytes:.* models \((\d+)\)", text)
    assert int(n_models) == 300 - text.count("### <code>")
    assert "model-299.safetensors</code>: fail\n\n1 fail\n\n" in text, "the model that fails goes first"
    assert "model-0.safetensors</code>: pass\n\n1 pass\n\n" in text
    assert len(rows_of(text, "fail")) == 1


def test_findings_are_counted_one_by_one_where_their_tables_are_left_out() -> None:
    model = large_result(4, 8, n_failing=4)["models"][0]
    result = make_result([{**model, "path": f"{index}.safetensors"} for index in range(200)])
    text = render_markdown(result)
    (left_out,) = re.findall(r"Left out.* findings \((\d+)\)", text)
    cut = sum(map(int, re.findall(r"^In the full report: (\d+) more failures", text, re.M)))
    assert len(rows_of(text, "fail")) + cut + int(left_out) == result["counts"]["fail"] == 200 * 4 * 7
    headings = text.split("\n### ")[1:]
    assert len(headings) > 50
    for heading in headings:
        assert "</code>: fail\n\n4 pass, 28 fail\n\n" in heading, "however little is shown of a model"


def test_the_head_of_the_only_model_does_not_repeat_that_of_the_report() -> None:
    text = render_markdown(large_result(4))
    assert text.count("28 fail") == 1
    assert "</code>\n\n4 matrices" in text


def test_findings_stand_worst_first() -> None:
    checks = [
        make_check("m", "a", "alpha", "warn", value=60.0),
        make_check("m", "b", "alpha", "fail", value=6.6),
        make_check("m", "c", "alpha", "fail", value=1.0),
        make_check("m", "d", "alpha", "error"),
        make_check("m", "e", "regression.spectrum", "fail", value=0.045, baseline=0.0),
        make_check("m", None, "integrity", "fail", value=None, limit=None),
    ]
    text = render_markdown(make_result([make_model("m", [], checks)]))
    found = re.findall(r"^\| (?:error|fail|warn) \| <code>(.*?)</code>", text, re.M)
    assert found == ["d", "(model)", "c", "e", "b", "a"]


def test_the_largest_changes_that_pass_are_named() -> None:
    values = {"a": 0.001, "b": 0.029, "c": 0.02, "zero": 0.0}
    checks = [make_check("m", name, "regression.spectrum", "pass", value=value) for name, value in values.items()]
    checks.append(make_check("m", "falls", "regression.norm", "pass", value=8.0, baseline=10.0, limit={"min": 7.5}))
    checks.append(make_check("m", "absolute", "alpha", "pass"))
    text = render_markdown(make_result([make_model("m", [], checks)]))
    assert re.findall(r"^\| <code>(\w+)</code> \|.* (\d+)% \|$", text, re.M) == [
        ("b", "97"),
        ("falls", "80"),
        ("c", "67"),
        ("a", "3"),
    ]


@pytest.mark.parametrize(
    ("value", "limit", "baseline", "share"),
    [
        (3.0, {"max": 6.0}, None, 0.5),
        (1.0, {"min": 2.0}, None, 2.0),
        (1.0, {"min": 2.0, "max": 6.0}, None, 2.0),
        (4.0, {"max": 5.0}, 3.0, 0.5),
        (2.0, {"min": 1.0, "max": 5.0}, 3.0, 0.5),
        (1.0, {"max": 0.0}, None, float("inf")),
        (0.0, {"max": 0.0}, None, 0.0),
        (-3.0, {"min": -2.0}, None, float("inf")),
        (3.0, {"max": 3.0}, 3.0, 0.0),
        (None, {"max": 3.0}, None, float("inf")),
        (3.0, None, None, float("inf")),
        (3.0, {"max": None}, None, float("inf")),
    ],
)
def test_share_of_a_limit(value: float | None, limit: Any, baseline: float | None, share: float) -> None:
    assert ranking.share_of_limit({"value": value, "limit": limit, "baseline": baseline}) == pytest.approx(share)


def test_the_picture() -> None:
    alphas = [None, -1.0, 0.5, 1.99, 2.0, 3.0, 4.0, 5.99, 6.0, 7.0, 8.0, 1e9]
    assert "".join(map(sign_of, alphas)) == "·▁▁▁▂▃▄▅▆▇██"
    layers = [{"metrics": {"alpha": 3.5}, "verdict": "pass"} for _ in range(130)]
    layers[1] = {"metrics": {}, "verdict": "fail"}
    layers[129] = {"metrics": {"alpha": 9.0}, "verdict": "warn"}
    assert picture_lines(layers) == [
        "  1 ▃·" + "▃" * 58 + "\n     x\n",
        " 61 " + "▃" * 60 + "\n",
        "121 " + "▃" * 9 + "█\n" + " " * 13 + "!\n",
    ]
    assert picture_lines([]) == []


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=lambda name: repr(name[:12]))
def test_no_name_acts_anywhere(name: str) -> None:
    """Put a hostile text into every place of a result that holds text."""

    def hostile(node: Any, key: str = "") -> Any:
        if isinstance(node, dict):
            return {each: hostile(value, each) for each, value in node.items()}
        if isinstance(node, list):
            return [hostile(value, key) for value in node]
        return name if isinstance(node, str) and key not in ("verdict", "outcome", "fail_on") else node

    result = hostile(hostile_result())
    text = render_markdown(result, budget=SUMMARY_BUDGET)
    assert set(re.findall(r"<[^>]*>", text)) <= ALLOWED_TAGS
    assert not re.search(r"@everyone|\]\(|::|\$\{|\*\*|\x1b|\u202e", text)
    for block in re.split(r"\n\n", text):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1, "no row has another number of cells"
    assert n_bytes(text) < 150_000


def test_escaping() -> None:
    assert escaping.format_code("a|b") == "<code>a&#124;b</code>"
    assert escaping.format_text("x" * 2000) == "x" * (escaping.MAX_TEXT - 1) + "&#8230;"
    assert escaping.format_text("\x1b<b>\n|") == "&#65533;&#60;b&#62;&#65533;&#124;"
    assert escaping.format_limit({"min": 2.0, "max": 6.0}) == "2 to 6"
    assert escaping.format_limit({"max": 6.0}) == "6"
    assert escaping.format_limit({"min": 2.0, "max": None}) == "2"
    assert escaping.format_limit(None) == "–"
    assert escaping.format_shape([1] * 20) == "1x1x1x1x1x1x1x1x…"


def block(name: str, n_rows: int, **changes: Any) -> Block:
    given: JsonObject = {
        "rank": 1,
        "title": name,
        "opening": f"[{name}\n",
        "closing": "]\n",
        "items": list(range(n_rows)),
        "row": lambda item: f"{name}{item}".ljust(99) + "\n",
        # With its two line ends as long as it may be.
        "notice": lambda shown, hidden: f"{name}: {len(shown)} of {len(shown) + len(hidden)}".ljust(NOTICE_BYTES - 2),
    }
    return Block(**{**given, **changes})


def fit(budget: int, *blocks: Block, shares: dict[int, float] | None = None) -> str:
    text = fit_blocks(
        blocks,
        ENDING_BYTES + budget,
        shares=shares or {},
        ending=lambda left_out: f"left out: {dict(left_out)}".ljust(ENDING_BYTES),
    )
    assert n_bytes(text) <= ENDING_BYTES + budget
    return text.rstrip()


def test_rows_are_dealt_in_turn_and_lower_ranks_first() -> None:
    text = fit(2 * NOTICE_BYTES + 720, block("c", 9, rank=2), block("a", 9), block("b", 9))
    assert (text.count("\na"), text.count("\nb")) == (4 + 1, 3 + 1), "rows, and a notice each"
    assert "a: 4 of 9" in text
    assert text.index("[a") < text.index("[b")
    assert text.endswith("left out: {'c': 9}")


def test_what_a_complete_block_kept_for_its_notice_goes_to_others() -> None:
    text = fit(2 * NOTICE_BYTES + 20 + 500, block("a", 1), block("b", 9))
    assert "a: " not in text
    assert "b: 6 of 9" in text


def short_notice(shown: Any, hidden: Any) -> str:
    return f"{len(shown)} of {len(shown) + len(hidden)}"


def test_what_notices_and_the_end_do_not_take_goes_to_rows_and_blocks() -> None:
    blocks = [block("a", 99, notice=short_notice), block("b", 99, notice=short_notice), block("c", 1, rank=2)]
    budget = ENDING_BYTES + 4_000
    text = fit_blocks(blocks, budget, shares={1: 0.5}, ending=lambda left_out: f"left out: {dict(left_out)}")
    assert text.endswith("left out: {}")
    assert budget - 110 < n_bytes(text) <= budget, "no other row would fit"


def test_no_block_takes_the_pictures_of_many_models() -> None:
    model = large_result(40, 8, n_failing=12)["models"][0]
    text = render_markdown(make_result([{**model, "name": f"{index}.safetensors"} for index in range(12)]))
    assert text.count("lpha by depth") >= 9
    assert "Left out" in text
    assert COMMENT_BUDGET - 200 < n_bytes(text) <= COMMENT_BUDGET


def test_a_share_is_kept_for_higher_ranks_and_given_back() -> None:
    first, second = block("a", 50), block("b", 2, rank=2)
    text = fit(3000, first, second, shares={1: 0.6})
    assert "b: " not in text
    assert 20 < text.count("\na") < 28, "what the second does not need goes to the first"
    assert "[b" not in fit(3000, first, second)


def test_blocks_without_their_head_stay_away_and_are_counted() -> None:
    head = block("head", 7, opening="h" * 5000, group=1, is_head=True, is_one=True)
    assert fit(1000, head, block("body", 3, rank=2, group=1)) == "left out: {'head': 1, 'body': 3}"


def test_no_more_rows_than_a_block_may_have() -> None:
    text = fit(10_000, block("a", 9, most=4))
    assert "a: 4 of 9" in text


def test_notices_fit_into_what_is_kept_for_them() -> None:
    result = RESULTS["large"]
    for budget in range(2_000, 60_000, 7_001):
        for line in render_markdown(result, budget=budget).splitlines():
            if line.startswith("In the full report"):
                assert n_bytes(line) < NOTICE_BYTES
            if line.startswith("Left out"):
                assert n_bytes(line) < ENDING_BYTES - 200


@pytest.mark.parametrize("name", ["@octocat", "#1", "www.example.com", "a@example.com", "WWW.example.com"])
def test_no_name_calls_anybody(name: str) -> None:
    """GitHub finds people, issues and addresses in what is shown, entities or not."""
    for written in (str(escaping.format_code(name)), str(escaping.format_text(name))):
        shown = html.unescape(written)
        assert not re.search(r"[@#][A-Za-z0-9]", shown)
        assert "www." not in written.lower()
        assert shown.replace("\N{ZERO WIDTH SPACE}", "").removeprefix("<code>").removesuffix("</code>") == name
