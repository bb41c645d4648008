"""The run of the workflow: where things are, and what event it is about."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """What the runner says of a run, all of it from GitHub and none of it from a pull request's files.

    Attributes
    ----------
    workspace, temp : Path
        Where the repository is checked out, and the folder that is emptied after the job.
    event_name : str
        The event, such as ``pull_request``.
    event : dict
        Its payload; empty where there is none.
    repository, sha, run_url : str
        Owner and name, the commit, and the page of this run.
    """

    workspace: Path
    temp: Path
    event_name: str
    event: Mapping[str, Any]
    repository: str
    sha: str
    run_url: str

    @property
    def pull_request(self) -> Mapping[str, Any] | None:
        """The pull request that the event carries, if any."""
        found = self.event.get("pull_request")
        return found if isinstance(found, dict) else None

    @property
    def is_from_fork(self) -> bool:
        """Whether the commits come from another repository, so that the token can only read."""
        if self.pull_request is None:
            return False
        head = self.pull_request["head"].get("repo") or {}
        return bool(head.get("full_name") != self.repository)


def read_runner(environ: Mapping[str, str]) -> Runner:
    """Return what the environment of a step says of the run."""
    repository = environ.get("GITHUB_REPOSITORY", "")
    server = environ.get("GITHUB_SERVER_URL", "https://github.com")
    return Runner(
        workspace=Path(environ["GITHUB_WORKSPACE"]),
        temp=Path(environ["RUNNER_TEMP"]),
        event_name=environ.get("GITHUB_EVENT_NAME", ""),
        event=_read_event(environ.get("GITHUB_EVENT_PATH", "")),
        repository=repository,
        sha=environ.get("GITHUB_SHA", ""),
        run_url=f"{server}/{repository}/actions/runs/{environ.get('GITHUB_RUN_ID', '')}",
    )


def _read_event(path: str) -> Mapping[str, Any]:
    if not path or not Path(path).is_file():
        return {}
    event = json.loads(Path(path).read_text(encoding="utf-8"))
    return event if isinstance(event, dict) else {}
