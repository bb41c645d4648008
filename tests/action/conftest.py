"""A runner without GitHub: a workspace, a temporary folder, a REST server, a repository with a pull request."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.action.harness import REPOSITORY, Harness
from tests.action.rest_server import Rest, serve_rest


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    workspace, temp = tmp_path / "workspace", tmp_path / "temp"
    workspace.mkdir()
    temp.mkdir()
    return Harness(workspace=workspace, temp=temp)


@pytest.fixture
def rest() -> Iterator[Rest]:
    with serve_rest() as server:
        yield server


def pull_request(base_sha: str = "b" * 40, *, head: str | None = REPOSITORY) -> dict[str, Any]:
    """Return the event of a pull request; the head is a fork where it is another repository, or was deleted."""
    repo = None if head is None else {"full_name": head}
    base = {"sha": base_sha, "repo": {"full_name": REPOSITORY}}
    return {"number": 7, "pull_request": {"number": 7, "base": base, "head": {"sha": "a" * 40, "repo": repo}}}


@dataclass(frozen=True, kw_only=True)
class Project:
    """A git repository in a workspace."""

    folder: Path

    def git(self, *arguments: str) -> str:
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "GIT_CONFIG_NOSYSTEM": "1",
            **{f"GIT_{who}_{what}": "a@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        }
        done = subprocess.run(
            ["git", *arguments], cwd=self.folder, env=environ, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def commit(self, files: Mapping[str, str | None]) -> str:
        """Commit files; None removes one."""
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                path.unlink()
            else:
                path.write_text(text, encoding="utf-8")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "a change")
        return self.git("rev-parse", "HEAD")


def become_pull_request(harness: Harness, *, head: str | None = REPOSITORY) -> None:
    """Make the run one of a pull request whose base branch has the workspace as it is."""
    project = Project(folder=harness.workspace)
    if not (harness.workspace / ".git").exists():
        project.git("init", "--quiet", "--initial-branch", "main")
    harness.event_name, harness.event = "pull_request", pull_request(project.commit({}), head=head)


@pytest.fixture
def project(harness: Harness) -> Project:
    found = Project(folder=harness.workspace)
    found.git("init", "--quiet", "--initial-branch", "main")
    return found
