"""The sticky comment, against a REST server that answers, refuses, or says nothing."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest

from action.markdown import neutralise
from tests.action.conftest import become_pull_request
from tests.action.harness import Harness, Outcome, check, fake_result, write_fake_python
from tests.action.rest_server import Rest

MARKER = "<!-- ww-gate:default -->"


def run_on(harness: Harness, rest: Rest, result: str, *, head: str | None = "owner/project", **inputs: str) -> Outcome:
    """Run the Action on a pull request with what a fake pytest found."""
    harness.api_url = rest.url
    become_pull_request(harness, head=head)
    harness.extra = {
        "WW_API_TIMEOUT": "0.3",
        "no_proxy": "*",
        "GIT_CEILING_DIRECTORIES": str(harness.workspace.parent),
    }
    fake = write_fake_python(harness.temp.parent, fake_result(result, [check("fail", "a")] if result == "fail" else []))
    return harness.run(python=str(fake), install="false", **inputs)


def comment_step(outcome: Outcome) -> str:
    """Return what the log has between the gate and the verdict."""
    return "\n".join(line for line in outcome.log.splitlines() if "comment" in line)


def test_the_second_run_edits_the_comment_of_the_first(harness: Harness, rest: Rest) -> None:
    for _ in range(130):
        rest.add("talk", login="somebody", kind="User")
    assert "comment: created" in run_on(harness, rest, "fail").log
    assert "comment: unchanged" in run_on(harness, rest, "fail").log
    assert "comment: edited" in run_on(harness, rest, "pass").log
    assert rest.written() == ["POST", "PATCH"]
    (ours,) = [each for each in rest.comments if each["body"].startswith(MARKER)]
    assert "## Checkpoint gate: pass" in ours["body"]
    assert "actions/runs/17" in ours["body"]
    assert rest.tokens == {"Bearer the-token"}


def test_a_new_commit_is_named_in_the_comment(harness: Harness, rest: Rest) -> None:
    run_on(harness, rest, "fail")
    harness.sha = "6" * 40
    assert "comment: edited" in run_on(harness, rest, "fail").log
    assert "<code>666666666666</code>" in rest.comments[0]["body"]


def test_line_ends_of_github_are_no_change(harness: Harness, rest: Rest) -> None:
    run_on(harness, rest, "fail")
    rest.comments[0]["body"] = rest.comments[0]["body"].replace("\n", "\r\n").strip()
    assert "comment: unchanged" in run_on(harness, rest, "fail").log


def test_each_key_has_its_own_comment(harness: Harness, rest: Rest) -> None:
    run_on(harness, rest, "fail", comment_key="linux")
    run_on(harness, rest, "fail", comment_key="linux-2")
    assert [each["body"].split("\n")[0] for each in rest.comments] == [
        "<!-- ww-gate:linux -->",
        "<!-- ww-gate:linux-2 -->",
    ]
    assert "## Checkpoint gate (linux): fail" in rest.comments[0]["body"]


def test_a_marker_in_somebody_elses_comment_is_not_ours(harness: Harness, rest: Rest) -> None:
    rest.add(f"{MARKER}\nall is well", login="mallory", kind="User")
    rest.add(f"quoted:\n{MARKER}")
    assert "comment: created" in run_on(harness, rest, "fail").log
    assert len(rest.comments) == 3


def test_the_comment_of_a_personal_token_is_found_by_its_name(harness: Harness, rest: Rest) -> None:
    rest.me = "robot"
    rest.add(f"{MARKER}\nold", login="mallory", kind="User")
    rest.add(f"{MARKER}\nold", login="robot", kind="User")
    assert "comment: edited" in run_on(harness, rest, "fail").log
    assert rest.comments[0]["body"].endswith("old")


def test_changes_and_failures_make_no_comment_on_a_pass_but_keep_one(harness: Harness, rest: Rest) -> None:
    for mode in ("changes", "failures"):
        assert "comment: not needed" in run_on(harness, rest, "pass", comment=mode).log
    run_on(harness, rest, "fail", comment="failures")
    assert "comment: edited" in run_on(harness, rest, "pass", comment="failures").log


@pytest.mark.parametrize("status", [401, 403, 404])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_fork_degrades_to_a_file_and_a_notice(harness: Harness, rest: Rest, status: int, method: str) -> None:
    rest.refuse = {method: status}
    outcome = run_on(harness, rest, "fail", head="mallory/project")
    (notice,) = outcome.of("notice")
    assert "from a fork can only read" in notice.message
    assert outcome.outputs["comment-file"] in notice.message
    assert Path(outcome.outputs["comment-file"]).read_text(encoding="utf-8").startswith(MARKER)
    assert outcome.outputs["outcome"] == "fail"
    assert outcome.ran[-1] == "Verdict"


def test_a_fork_that_was_deleted_is_a_fork(harness: Harness, rest: Rest) -> None:
    rest.refuse = {"POST": 403}
    assert "from a fork" in run_on(harness, rest, "fail", head=None).of("notice")[0].message


def test_a_missing_permission_is_named(harness: Harness, rest: Rest) -> None:
    rest.refuse = {"POST": 403}
    outcome = run_on(harness, rest, "warn")
    (notice,) = outcome.of("notice")
    assert "pull-requests: write" in notice.message
    assert not outcome.is_failed


def test_too_long_a_comment_is_shortened(harness: Harness, rest: Rest) -> None:
    rest.max_body = 30_000
    body = "open(reports['md'], 'w').write('## Checkpoint gate: fail\\n\\n' + 'a line\\n' * 9000)\nsys.exit"
    harness.api_url = rest.url
    become_pull_request(harness)
    harness.extra = {"GIT_CEILING_DIRECTORIES": str(harness.workspace.parent)}
    fake = write_fake_python(harness.temp.parent, fake_result("fail").replace("sys.exit", body))
    assert "comment: created" in harness.run(python=str(fake), install="false").log
    assert rest.written() == ["POST", "POST"]
    assert len(rest.comments[0]["body"].encode()) <= 20_000
    assert "Cut here: " in rest.comments[0]["body"]


@pytest.mark.parametrize("status", [301, 422, 429, 500])
def test_other_refusals_are_warnings(harness: Harness, rest: Rest, status: int) -> None:
    rest.refuse = {"POST": status}
    outcome = run_on(harness, rest, "pass", comment="always")
    (warning,) = outcome.of("warning")
    assert f"GitHub answered {status} to POST" in warning.message
    assert not outcome.is_failed


def test_the_token_does_not_follow_a_redirect(harness: Harness, rest: Rest) -> None:
    rest.refuse = {"GET": 301}
    run_on(harness, rest, "fail")
    assert all("elsewhere" not in path for _, path in rest.asked)


def test_a_mute_server_is_a_warning(harness: Harness, rest: Rest) -> None:
    rest.is_mute = True
    outcome = run_on(harness, rest, "pass", comment="always")
    (warning,) = outcome.of("warning")
    assert "did not answer" in warning.message
    assert not outcome.is_failed


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "file:///etc/passwd", "nonsense"])
def test_no_server_is_a_warning(harness: Harness, rest: Rest, address: str) -> None:
    harness.api_url = address
    become_pull_request(harness)
    harness.extra = {"GIT_CEILING_DIRECTORIES": str(harness.workspace.parent)}
    fake = write_fake_python(harness.temp.parent, fake_result("pass"))
    outcome = harness.run(python=str(fake), install="false", comment="always")
    assert [order.name for order in outcome.orders] == ["warning"]
    assert not outcome.is_failed
    assert not rest.asked


@pytest.mark.parametrize(
    "text",
    ["@octocat", "&#64;octocat", "&commat;octocat", "&#x40;github/security", "octo/repo#1", "#2", "GH-3", "&num;4"],
)
def test_foreign_text_calls_nobody(text: str) -> None:
    """GitHub decodes entities before it looks for people and issues."""
    shown = html.unescape(neutralise(text))
    assert not re.search(r"@[a-z]|#[0-9]|GH-[0-9]", shown)
    assert neutralise("&#95;a ## b &#60;") == "&#95;a ## b &#60;"


@pytest.mark.parametrize("answer", [None, 3, {"message": "no"}, [None], ["x"]], ids=repr)
@pytest.mark.parametrize("end", ["/comments", "/user"])
def test_an_answer_of_another_kind_costs_the_comment_alone(
    harness: Harness, rest: Rest, end: str, answer: object
) -> None:
    run_on(harness, rest, "pass", comment="always")
    rest.odd_answers = {end: answer}
    outcome = run_on(harness, rest, "pass", comment="always")
    assert not outcome.is_failed
    assert "Traceback" not in outcome.log
    if end == "/comments":
        (warning,) = outcome.of("warning")
        assert "something else than comments" in warning.message
