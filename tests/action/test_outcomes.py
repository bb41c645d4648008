"""From what pytest came to, to outputs, summary, annotations, the artifact and the exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.action.conftest import pull_request
from tests.action.harness import Harness, Outcome, check, fake_result, write_fake_python

ANSI = "\x1b[31m"


def run_with(harness: Harness, body: str, **inputs: str) -> Outcome:
    fake = write_fake_python(harness.temp.parent, body)
    return harness.run(python=str(fake), install="false", **inputs)


def test_a_pass(harness: Harness) -> None:
    outcome = run_with(harness, fake_result("pass", [check("pass", "a")]))
    assert not outcome.is_failed
    assert outcome.outputs["outcome"] == "pass"
    assert outcome.outputs["conclusion"] == "success"
    assert outcome.outputs["config-changed"] == "false"
    assert [outcome.outputs[name] for name in ("failed", "warned", "inconclusive")] == ["0", "0", "0"]
    assert not outcome.orders
    assert outcome.summary.startswith("## Checkpoint gate: pass\n")


def test_a_warning_passes(harness: Harness) -> None:
    outcome = run_with(harness, fake_result("warn", [check("warn", "a", line=3)]), config="sub/ww.yaml")
    assert not outcome.is_failed
    assert outcome.outputs["outcome"] == "warn"
    assert outcome.outputs["warned"] == "1"
    (order,) = outcome.orders
    assert order.name == "warning"
    assert order.properties == {"file": "sub/ww.yaml", "line": "3", "title": "warn: a alpha"}


def test_a_failure_reports_everything_and_then_fails(harness: Harness) -> None:
    outcome = run_with(
        harness, fake_result("fail", [check("fail", "a"), check("error", "b"), check("inconclusive", "c")])
    )
    assert outcome.is_failed
    assert outcome.ran[-1] == "Verdict"
    assert [outcome.outputs[name] for name in ("outcome", "conclusion", "failed")] == ["fail", "failure", "2"]
    assert outcome.outputs["inconclusive"] == "1"
    ((name, given),) = outcome.uses
    assert name.startswith("actions/upload-artifact@")
    assert given["name"] == "ww-gate"
    held = {path.name for path in Path(given["path"]).iterdir()}
    assert held == {"comment.md", "report.json", "report.md", "summary.md"}
    assert [order.properties["title"] for order in outcome.of("error")] == [
        "error: b alpha",
        "fail: a alpha",
        "Checkpoint gate",
    ]


def test_a_failure_that_shall_not_fail_warns(harness: Harness) -> None:
    body = fake_result("fail", [check("fail", "a")]).replace("sys.exit(1)", "sys.exit(0)")
    outcome = run_with(harness, body, fail_on="never")
    assert not outcome.is_failed
    assert outcome.outputs["outcome"] == "fail"
    assert [order.name for order in outcome.orders] == ["warning"]


@pytest.mark.parametrize("code", [2, 3, 4, 5, 6, 77])
@pytest.mark.parametrize("fail_on", ["", "never"])
def test_every_other_exit_code_is_an_error(harness: Harness, code: int, fail_on: str) -> None:
    body = fake_result("pass").replace("sys.exit(0)", f"print('ERROR: no such file'); sys.exit({code})")
    outcome = run_with(harness, body, fail_on=fail_on)
    assert outcome.is_failed
    assert outcome.outputs["outcome"] == "error"
    assert "no such file" in outcome.summary
    assert "no such file" in outcome.of("error")[0].message


def test_nothing_checked_is_an_error_that_says_so(harness: Harness) -> None:
    outcome = run_with(harness, fake_result("inconclusive"))
    assert outcome.outputs["outcome"] == "error"
    assert "nothing was checked" in outcome.of("error")[0].message


@pytest.mark.parametrize(
    "body",
    [
        "sys.exit(0)",
        "sys.exit(1)",
        "open(reports['json'], 'w').write('{}'); sys.exit(0)",
        "open(reports['json'], 'w').write('nonsense'); sys.exit(0)",
        "os.kill(os.getpid(), 9)",
    ],
)
def test_no_usable_result_is_never_a_pass(harness: Harness, body: str) -> None:
    outcome = run_with(harness, body)
    assert outcome.is_failed
    assert outcome.outputs["outcome"] == "error"
    assert outcome.outputs["conclusion"] == "failure"


def test_a_result_of_an_earlier_run_is_not_taken_for_this_one(harness: Harness) -> None:
    old = harness.workspace / "old.json"
    old.write_text('{"outcome": "pass", "counts": {}, "models": []}', encoding="utf-8")
    outcome = run_with(harness, "sys.exit(0)", report_json="old.json")
    assert outcome.outputs["outcome"] == "error"


def test_reports_go_where_the_workflow_wants_them_and_into_the_artifact(harness: Harness) -> None:
    body = "open(reports['html'], 'w').write('<html>')\n" + fake_result("pass")
    outcome = run_with(harness, body, report_html="a.html", report_json="a.json", report_md="a.md")
    for kind in ("json", "html", "md"):
        assert outcome.outputs[f"report-{kind}"] == str(harness.workspace / f"a.{kind}")
    held = {path.name for path in Path(outcome.uses[0][1]["path"]).iterdir()}
    assert held == {"comment.md", "report.json", "report.html", "report.md", "summary.md"}


def test_upload_and_comment_can_be_switched_off(harness: Harness) -> None:
    outcome = run_with(harness, fake_result("pass"), upload="false", comment="off")
    assert outcome.ran == ["Install the gate", "Judge the checkpoints", "Verdict"]


def test_at_most_ten_annotations_worst_first_and_the_rest_counted(harness: Harness) -> None:
    checks = [check("warn", f"w{n}") for n in range(20)] + [check("fail", f"f{n}") for n in range(300)]
    for place, value in ((250, 60.0), (299, 600.0)):
        checks[20 + place].update(value=value, limit={"min": 2.0, "max": 6.0})
    for each in checks[20:270]:
        each.update(value=each.get("value") or 7.0, limit={"min": 2.0, "max": 6.0})
    for each in checks[271:319]:
        each.update(value=6.5, limit={"max": 6.0})
    outcome = run_with(harness, fake_result("fail", checks))
    shown = outcome.of("error", "warning")
    assert len(shown) == 8
    assert [order.properties["title"] for order in shown[:2]] == ["fail: f299 alpha", "fail: f250 alpha"]
    (notice,) = outcome.of("notice")
    assert notice.message.startswith("313 more findings")


def test_hostile_names_stay_text(harness: Harness) -> None:
    names = [
        "::error::pwned",
        "a,file=b:c%0A",
        "x\n::warning::pwned",
        "<script>|`",
        "n" * 10_000,
        "\u202eevil",
        ANSI + "red",
    ]
    checks = [check("fail", name, detail=f"{name}\r\n::error::pwned") for name in names]
    body = "print('::error::pwned'); print('::stop-commands::x'); print('no end', end='')\n" + fake_result(
        "fail", checks
    )
    outcome = run_with(harness, body)
    assert len(outcome.of("error")) == len(names) + 1
    assert not outcome.of("warning")
    for order in outcome.of("error"):
        assert set(order.properties) == {"title"}
        assert not order.message.startswith("pwned")
        assert len(order.message) <= 3000
    assert ANSI not in outcome.log


def test_hostile_output_cannot_end_the_silence(harness: Harness) -> None:
    body = "print('::' + '0' * 32 + '::'); print('::error::pwned')\n" + fake_result("pass")
    outcome = run_with(harness, body)
    assert not outcome.orders


def test_the_comment_and_the_summary_of_a_large_regression_fit(harness: Harness) -> None:
    row = "| fail | <code>layer</code> | alpha | " + "moved &#124; far. " * 40 + "|\\n"
    md = f"'## Checkpoint gate: fail\\n\\n<details><summary>Layers</summary>\\n\\n' + '{row}' * 3000 + '</details>\\n'"
    body = fake_result("fail", [check("fail", f"f{n}") for n in range(300)])
    body = body.replace("sys.exit", f"open(reports['md'], 'w').write({md})\nsys.exit")
    outcome = run_with(harness, body)
    comment = Path(outcome.outputs["comment-file"]).read_bytes()
    assert 60_000 < len(comment) <= 65_536
    assert comment.count(b"<details>") == comment.count(b"</details>")
    assert b"Cut here: " in comment
    assert b"/actions/runs/17" in comment
    assert 900_000 < len(outcome.summary.encode()) < 1024 * 1024


@pytest.mark.parametrize("mode", ["always", "changes", "failures"])
@pytest.mark.parametrize(
    ("result", "wanted"),
    [("pass", ["always"]), ("warn", ["always", "changes"]), ("fail", ["always", "changes", "failures"])],
)
def test_modes_say_whether_a_comment_is_to_be_made(harness: Harness, mode: str, result: str, wanted: list[str]) -> None:
    outcome = run_with(harness, fake_result(result), comment=mode)
    lines = Path(outcome.outputs["comment-file"]).read_text(encoding="utf-8").split("\n")
    assert lines[0] == "<!-- ww-gate:default -->"
    assert lines[1] == f"<!-- ww-gate-create:{'yes' if mode in wanted else 'no'} -->"


@pytest.mark.parametrize("event_name", ["push", "schedule", "workflow_run", "workflow_dispatch"])
def test_events_without_a_pull_request(harness: Harness, event_name: str) -> None:
    harness.event_name = event_name
    harness.event = {"workflow_run": {}} if event_name == "workflow_run" else {}
    outcome = run_with(harness, fake_result("pass"), baseline="merge-base:good.ww.json")
    assert not outcome.is_failed
    assert "no pull request to comment on" in outcome.log
    assert f"no merge base on the event {event_name}" in outcome.summary.replace("&#95;", "_")


def test_a_pull_request_without_a_work_tree_is_told_so(harness: Harness) -> None:
    harness.event_name = "pull_request"
    harness.event = pull_request()
    harness.extra = {"GIT_CEILING_DIRECTORIES": str(harness.workspace.parent)}
    for baseline in ("", "merge-base"):
        outcome = run_with(harness, fake_result("pass"), baseline=baseline)
        assert outcome.is_failed
        assert "is no git work tree" in outcome.summary


def test_the_result_file_is_the_plugins_own(harness: Harness) -> None:
    outcome = run_with(harness, fake_result("pass"))
    assert json.loads(Path(outcome.outputs["report-json"]).read_text(encoding="utf-8"))["format"] == 1


def test_a_folder_where_a_report_should_go_is_an_error_with_a_summary(harness: Harness) -> None:
    (harness.workspace / "report.json").mkdir()
    outcome = run_with(harness, fake_result("pass"), report_json="report.json")
    assert outcome.is_failed
    assert outcome.outputs["outcome"] == "error"
    assert "report.json: Is a directory" in outcome.of("error")[0].message
    assert "Is a directory" in outcome.summary
