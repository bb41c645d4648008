"""The step that comments. It may be refused, cut or unheard; the gate's verdict does not depend on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from action.commands import format_command
from action.document import MAX_COMMENT, creation_line, marker
from action.github_api import TIMEOUT, ApiError, Client
from action.inputs import read_key
from action.markdown import code, neutralise, shorten
from action.pulls import pull_request_number
from action.runner import read_runner
from action.sticky import Thread

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TextIO

    from action.runner import Runner

_REFUSED = (401, 403, 404)


def post_comment(environ: Mapping[str, str], stream: TextIO) -> int:
    """Post or edit the comment; whatever happens, the exit code is 0.

    Parameters
    ----------
    environ : mapping of str to str
        ``WW_COMMENT_FILE``, ``WW_TOKEN``, ``WW_FOREIGN`` (``true`` where the file comes from another run and is not
        trusted) with ``WW_COMMENT_KEY``, ``WW_API_TIMEOUT`` in seconds, and the runner's own variables.
    stream : text stream
        The log.
    """
    runner = read_runner(environ)
    client = Client(
        url=environ.get("GITHUB_API_URL", "https://api.github.com"),
        token=environ.get("WW_TOKEN", ""),
        timeout=float(environ.get("WW_API_TIMEOUT") or TIMEOUT),
    )
    file = Path(environ.get("WW_COMMENT_FILE", ""))
    try:
        done = _post(client, runner, file, environ)
    except ApiError as error:
        stream.write(_trouble(error, runner, file))
    else:
        stream.write(f"comment: {done}\n")
    return 0


def _post(client: Client, runner: Runner, file: Path, environ: Mapping[str, str]) -> str:
    if file.is_symlink():
        # An artifact is data: what a link in it leads to is not what its run wrote.
        return "the comment file is a link, which is not followed"
    if not file.is_file():
        return "there is no comment file"
    number = pull_request_number(runner, client)
    if number is None:
        return "no pull request to comment on"
    text = _read(file)
    is_foreign = environ.get("WW_FOREIGN") == "true"
    # Our own file begins with the marker that the gate gave it.
    key_line = marker(read_key(environ)) if is_foreign else text.partition("\n")[0]
    may_create = creation_line(is_wanted=True) in text.split("\n")[:2]
    body = _foreign(text, key_line, runner) if is_foreign else text
    return Thread(client=client, repository=runner.repository, number=number).put(key_line, body, may_create=may_create)


def _read(file: Path) -> str:
    """Return the text, and no more of it than a comment holds: an artifact may be of any size."""
    with file.open("rb") as stream:
        held = stream.read(MAX_COMMENT + 1)
    return shorten(held.decode("utf-8", "replace").replace("\0", ""), MAX_COMMENT)


def _foreign(text: str, key_line: str, runner: Runner) -> str:
    """Return the text of another run as data: ours is the marker, and the word of where it comes from."""
    lines = [line for line in text.split("\n") if not line.startswith(("<!-- ww-gate", "<sub>Commit "))]
    run = runner.event.get("workflow_run") or {}
    origin = (
        f"<sub>What [a run]({run.get('html_url', '')}) on {code(str(run.get('head_sha', ''))[:12])} reported.</sub>"
    )
    head = f"{key_line}\n{origin}\n\n"
    return head + shorten(neutralise("\n".join(lines)), MAX_COMMENT - len(head.encode()))


def _trouble(error: ApiError, runner: Runner, file: Path) -> str:
    if error.status not in _REFUSED:
        return format_command("warning", f"no comment: {error}; its text is in {file}", title="Checkpoint gate")
    if runner.is_from_fork:
        reason = "the token of a pull request from a fork can only read; docs/action.md has a second workflow for forks"
    else:
        reason = "the token may not comment: give the job the permission pull-requests: write"
    return format_command("notice", f"no comment ({error}): {reason}; its text is in {file}", title="Checkpoint gate")
