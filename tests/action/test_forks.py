"""The second half of a gate on a fork: an artifact that nobody vouches for, and a comment on the right pull request."""

from __future__ import annotations

from typing import Any

import pytest

from tests.action.harness import Harness, Outcome
from tests.action.rest_server import Rest

FILE = "action/comment/action.yml"
HEAD = "a" * 40
OURS = "<!-- ww-gate:default -->\n<!-- ww-gate-create:yes -->\n## Checkpoint gate: fail\n\n| <code>a</code> | 1 |\n"


def follow(harness: Harness, rest: Rest, text: str, run: dict[str, Any] | None = None, **inputs: str) -> Outcome:
    """Run the action on the event that follows a run on a fork."""
    artifact = harness.temp / "artifact" / "comment.md"
    artifact.parent.mkdir(exist_ok=True)
    artifact.write_text(text, encoding="utf-8")
    run = run or {
        "head_sha": HEAD,
        "head_branch": "x;$(touch pwned)&y",
        "head_repository": {"owner": {"login": "mallory"}},
        "html_url": "https://github.com/owner/project/actions/runs/16",
    }
    harness.event_name, harness.event, harness.api_url = "workflow_run", {"workflow_run": run}, rest.url
    return harness.run(FILE, comment_file=str(artifact), **inputs)


@pytest.fixture(autouse=True)
def pulls(rest: Rest) -> None:
    rest.pulls = [{"number": 3, "head": {"sha": "c" * 40}}, {"number": 7, "head": {"sha": HEAD}}]


def test_the_comment_goes_to_the_pull_request_that_github_names(harness: Harness, rest: Rest) -> None:
    assert "comment: created" in follow(harness, rest, OURS).log
    (comment,) = rest.comments
    assert comment["body"].startswith("<!-- ww-gate:default -->\n<sub>What [a run](https://github.com/owner/project/")
    assert "| <code>a</code> | 1 |" in comment["body"]
    assert "comment: unchanged" in follow(harness, rest, OURS).log
    asked = next(path for _, path in rest.asked if "/pulls?" in path)
    assert "head=mallory%3Ax%3B%24%28touch%20pwned%29%26y&" in asked


@pytest.mark.parametrize(
    "run",
    [
        {"head_sha": "d" * 40, "head_branch": "x", "head_repository": {"owner": {"login": "mallory"}}},
        {"head_sha": HEAD, "head_branch": "x", "head_repository": None},
        {"head_sha": HEAD},
    ],
)
def test_no_pull_request_with_this_commit_no_comment(harness: Harness, rest: Rest, run: dict[str, Any]) -> None:
    outcome = follow(harness, rest, OURS, run)
    assert "no pull request to comment on" in outcome.log
    assert not outcome.is_failed
    assert not rest.written()


def test_the_artifact_is_data(harness: Harness, rest: Rest) -> None:
    hostile = (
        "<!-- ww-gate:other -->\n<!-- ww-gate-create:yes -->\n@everyone <script>x</script> <img src=x onerror=y>\n"
        "![p](https://evil.example/p.png) [l](http://evil.example) www.evil.example <details open> <!-- hidden -->\n"
        "[r]: https://evil.example\n<details><summary>kept</summary></details>\n"
    )
    follow(harness, rest, hostile)
    (comment,) = rest.comments
    body = comment["body"].split("\n\n", 1)[1]
    for mark in ("@everyone", "<script", "<img", "](", "://", "www.", "<!--", "<details open", "]:"):
        assert mark not in body
    assert "<details><summary>kept</summary></details>" in body
    assert comment["body"].startswith("<!-- ww-gate:default -->\n")


def test_an_artifact_of_any_size_fits(harness: Harness, rest: Rest) -> None:
    follow(harness, rest, OURS + "@" * 100 + "\n" + "<b\n" * 1_000_000)
    (comment,) = rest.comments
    assert len(comment["body"].encode()) <= 65_536


def test_an_artifact_without_a_comment_is_no_trouble(harness: Harness, rest: Rest) -> None:
    outcome = harness.run(FILE, comment_file="missing.md")
    assert not outcome.is_failed
    assert "there is no comment file" in outcome.log
    assert not rest.asked


def test_a_comment_that_is_not_wanted_is_not_made(harness: Harness, rest: Rest) -> None:
    assert "comment: not needed" in follow(harness, rest, OURS.replace("create:yes", "create:no")).log


def test_a_comment_file_that_is_a_link_is_not_followed(harness: Harness, rest: Rest) -> None:
    secret = harness.temp / "secret"
    secret.write_text("the secret", encoding="utf-8")
    artifact = harness.temp / "artifact" / "comment.md"
    artifact.parent.mkdir()
    artifact.symlink_to(secret)
    harness.event_name, harness.event, harness.api_url = "workflow_run", {"workflow_run": {"head_sha": HEAD}}, rest.url
    outcome = harness.run(FILE, comment_file=str(artifact))
    assert "is a link, which is not followed" in outcome.log
    assert rest.comments == []
