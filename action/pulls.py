"""Which pull request an event is about: from GitHub's own event and API, never from an artifact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Mapping

    from action.github_api import Client
    from action.runner import Runner


def pull_request_number(runner: Runner, client: Client) -> int | None:
    """Return the number of the pull request to comment on; None where there is none.

    Parameters
    ----------
    runner : Runner
        The run of the workflow. On ``workflow_run`` the run that it follows is looked up.
    client : Client
        The API.

    Raises
    ------
    ApiError
        GitHub refused, or did not answer.
    """
    if runner.pull_request is not None:
        return int(runner.pull_request["number"])
    if runner.event_name != "workflow_run":
        return None
    run = runner.event.get("workflow_run") or {}
    return _number_of_run(runner.repository, run, client)


def _number_of_run(repository: str, run: Mapping[str, Any], client: Client) -> int | None:
    """Return the open pull request whose head is still the commit of a run: a later push has a run of its own."""
    owner = ((run.get("head_repository") or {}).get("owner") or {}).get("login")
    branch, commit = run.get("head_branch"), run.get("head_sha")
    if not owner or not branch or not commit:
        return None
    head = quote(f"{owner}:{branch}", safe="")
    pulls = client.request("GET", f"/repos/{repository}/pulls?state=open&head={head}&per_page=100")
    numbers = [int(pull["number"]) for pull in pulls if pull["head"]["sha"] == commit]
    return numbers[0] if numbers else None
