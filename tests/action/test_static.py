"""What can be said of the Action without running it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.action.harness import ROOT

ACTIONS = (ROOT / "action.yml", ROOT / "action" / "comment" / "action.yml")
WORKFLOWS = ROOT / "docs" / "workflows"
EXAMPLES = tuple(sorted(path for path in WORKFLOWS.glob("*.yml") if path.name != "gitlab-ci.yml"))
GITHUB_WORKFLOWS = (*EXAMPLES, *sorted((ROOT / ".github" / "workflows").glob("*.yml")))
PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}")
DOCUMENT = ROOT / "docs" / "action.md"


def tool(name: str) -> str:
    """Return a program that stands beside this Python or on the PATH; skip where the test group is not installed."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (dependency group test)")
    return found


def run_tool(name: str, *arguments: str | Path) -> str:
    done = subprocess.run([tool(name), *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def load(path: Path) -> dict[str, Any]:
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def uses_in(text: str) -> list[str]:
    return re.findall(r"^\s*(?:- )?uses:\s*(.+)$", text, flags=re.MULTILINE)


def texts_in(node: Any) -> Iterator[str]:
    """Yield every text in what a YAML file holds."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for value in node.values():
            yield from texts_in(value)
    elif isinstance(node, list):
        for value in node:
            yield from texts_in(value)


@pytest.mark.parametrize("path", [*ACTIONS, *GITHUB_WORKFLOWS], ids=lambda path: f"{path.parent.name}/{path.name}")
def test_zizmor_finds_nothing(path: Path) -> None:
    assert "No findings" in run_tool("zizmor", "--offline", "--persona=auditor", "--no-progress", path)


@pytest.mark.parametrize("path", ACTIONS, ids=lambda path: path.parent.name)
def test_actions_follow_githubs_schema(path: Path) -> None:
    run_tool("check-jsonschema", "--builtin-schema", "vendor.github-actions", path)


def test_workflows_follow_githubs_schema() -> None:
    run_tool("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *GITHUB_WORKFLOWS)


def test_the_gitlab_example_follows_its_schema() -> None:
    run_tool("check-jsonschema", "--builtin-schema", "vendor.gitlab-ci", WORKFLOWS / "gitlab-ci.yml")


def test_actionlint_finds_nothing() -> None:
    run_tool("actionlint", "-no-color", "-shellcheck=", "-pyflakes=", *GITHUB_WORKFLOWS)


def test_shellcheck_finds_nothing() -> None:
    scripts = sorted((ROOT / "action").glob("*.sh"))
    assert scripts
    run_tool("shellcheck", "--enable=all", *scripts)


@pytest.mark.parametrize("path", ACTIONS, ids=lambda path: path.parent.name)
def test_no_expression_stands_in_a_script(path: Path) -> None:
    for step in load(path)["runs"]["steps"]:
        assert "${{" not in step.get("run", "")


@pytest.mark.parametrize("path", [*ACTIONS, *GITHUB_WORKFLOWS], ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_action_used_is_pinned_with_its_version_named(path: Path) -> None:
    for line in uses_in(path.read_text(encoding="utf-8")):
        if line.startswith(("OWNER/pytest-weightwatcher", "./ ")):
            continue
        name, _, comment = line.partition(" # ")
        assert PINNED.fullmatch(name), line
        assert re.fullmatch(r"v\d+\.\d+\.\d+", comment), line


@pytest.mark.parametrize("path", ACTIONS, ids=lambda path: path.parent.name)
def test_every_input_is_a_described_string_in_kebab_case_and_forwarded_once(path: Path) -> None:
    action = load(path)
    forwarded = [text for step in action["runs"]["steps"] for text in texts_in(step.get("env", {}))]
    elsewhere = [
        text for step in action["runs"]["steps"] for text in (step.get("if", ""), *texts_in(step.get("with", {})))
    ]
    for name, entry in action["inputs"].items():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", name)
        assert isinstance(entry["default"], str)
        assert isinstance(entry["required"], bool)
        assert entry["description"].endswith(".")
        n_forwarded = forwarded.count(f"${{{{ inputs.{name} }}}}")
        is_used_elsewhere = any(f"inputs.{name} " in text for text in elsewhere)
        assert n_forwarded == 1 or (n_forwarded == 0 and is_used_elsewhere), name


def test_every_output_comes_from_the_gate() -> None:
    for name, entry in load(ACTIONS[0])["outputs"].items():
        assert entry["value"] == f"${{{{ steps.gate.outputs.{name} }}}}"
        assert entry["description"].endswith(".")


def test_the_verdict_is_last_and_upload_and_comment_come_before_it() -> None:
    steps = [step["name"] for step in load(ACTIONS[0])["runs"]["steps"]]
    assert steps == [
        "Install the gate",
        "Judge the checkpoints",
        "Upload the reports",
        "Comment on the pull request",
        "Verdict",
    ]


@pytest.mark.parametrize("kind", ["inputs", "outputs"])
def test_the_document_has_a_row_for_each_name_with_its_description(kind: str) -> None:
    section = DOCUMENT.read_text(encoding="utf-8").split(f"## {kind.capitalize()}\n")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (.+) \|$", section, flags=re.MULTILINE))
    entries = load(ACTIONS[0])[kind]
    assert list(rows) == list(entries)
    for name, row in rows.items():
        assert row.startswith(entries[name]["description"]), name
        if kind == "inputs":
            default = entries[name]["default"]
            assert row.endswith(f"| `{default}`" if default else ". |"), name


def test_the_types_name_every_input_and_output() -> None:
    types, action = load(ROOT / "action-types.yml"), load(ACTIONS[0])
    assert list(types["inputs"]) == list(action["inputs"])
    assert list(types["outputs"]) == list(action["outputs"])


def test_workflows_use_inputs_that_exist() -> None:
    known = {path.parent.name: set(load(path)["inputs"]) for path in ACTIONS}
    n_seen = 0
    for path in GITHUB_WORKFLOWS:
        for job in load(path)["jobs"].values():
            for step in job["steps"]:
                if step.get("uses", "").startswith("OWNER/pytest-weightwatcher"):
                    name = "comment" if "/action/comment@" in step["uses"] else ROOT.name
                    assert set(step["with"]) <= known[name]
                    n_seen += 1
    assert n_seen >= 4


def test_the_workflow_for_forks_checks_out_nothing_and_may_only_comment() -> None:
    workflow = load(WORKFLOWS / "comment-on-forks.yml")
    text = (WORKFLOWS / "comment-on-forks.yml").read_text(encoding="utf-8")
    (job,) = workflow["jobs"].values()
    assert workflow["permissions"] == {}
    assert job["permissions"] == {"actions": "read", "pull-requests": "write"}
    assert "actions/checkout" not in text
    assert "pull_request_target" not in text
    assert re.search(r"^on:\n  workflow_run:.*\n    workflows: .+\n    types: .+\n\S", text, flags=re.MULTILINE)
