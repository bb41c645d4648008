"""The git side: what a pull request changed since the merge base, and what stood there."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from action.inputs import ActionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_LFS = b"version https://git-lfs.github.com/spec/"
_BASELINE_SIGNS = (b'"matrices"', b'"pytest-weightwatcher"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A git work tree inside the workspace; all paths are relative to the workspace, with slashes.

    Attributes
    ----------
    root, workspace : Path
        Top folder of the work tree, and the workspace; links followed.
    """

    root: Path
    workspace: Path

    def merge_base(self, commit: str) -> str:
        """Return the commit at which the pull request left the base branch.

        Raises
        ------
        ActionError
            The history that was fetched does not reach so far back.
        """
        found = _git(self.root, "merge-base", "HEAD", commit)
        revision = found.stdout.decode("ascii", "replace").strip()
        if found.returncode != 0 or not _COMMIT.fullmatch(revision):
            raise ActionError(
                f"the base commit {commit[:12]} is not in the history that was fetched, so that nobody can tell "
                "whether this pull request edits the baseline or ww.yaml: give actions/checkout fetch-depth: 0"
            )
        return revision

    def changed_since(self, revision: str) -> tuple[str, ...]:
        """Return the tracked files that differ between a commit and the work tree."""
        # With --no-renames a renamed file is two: one that went and one that came.
        found = _git(self.root, "diff", "--name-only", "-z", "--no-renames", "--no-ext-diff", revision, "--")
        if found.returncode != 0:
            raise ActionError(f"git diff failed: {_complaint(found)}")
        prefix = self.root.relative_to(self.workspace)
        return tuple((prefix / os.fsdecode(name)).as_posix() for name in found.stdout.split(b"\0") if name)

    def changed_ways(self, revision: str) -> tuple[str, ...]:
        """Return the links to folders, and the submodules, that differ between a commit and the work tree.

        What lies behind them changes without a file that would be named as changed.
        """
        found = _git(self.root, "diff", "--raw", "-z", "--no-renames", "--no-ext-diff", revision, "--")
        if found.returncode != 0:
            raise ActionError(f"git diff failed: {_complaint(found)}")
        fields = found.stdout.split(b"\0")
        prefix = self.root.relative_to(self.workspace)
        return tuple(
            (prefix / os.fsdecode(name)).as_posix()
            for modes, name in zip(fields[::2], fields[1::2], strict=False)
            if any(mode in modes.split(b" ")[:2] for mode in (b":120000", b"120000", b":160000", b"160000"))
            and not (self.root / os.fsdecode(name)).is_file()
        )

    def content_at(self, revision: str, path: str) -> bytes | None:
        """Return what a file held at a commit; None where there was no such file.

        Raises
        ------
        ActionError
            The file is kept by git-lfs, whose contents git does not have.
        """
        name = f"{revision}:{(self.workspace / path).relative_to(self.root).as_posix()}"
        if _git(self.root, "cat-file", "-e", name).returncode != 0:
            return None
        found = _git(self.root, "show", "--no-textconv", name)
        if found.returncode != 0:
            raise ActionError(f"git show {name[:200]} failed: {_complaint(found)}")
        if found.stdout.startswith(_LFS):
            raise ActionError(f"{path[:200]}: kept by git-lfs; compare with a recorded baseline file instead")
        return found.stdout


def base_commit(event_name: str, event: Mapping[str, Any]) -> str | None:
    """Return the commit of the base branch that an event is about; None where it is about no merge."""
    if event_name in ("pull_request", "pull_request_target"):
        commit = str(event.get("pull_request", {}).get("base", {}).get("sha", ""))
    elif event_name == "merge_group":
        commit = str(event.get("merge_group", {}).get("base_sha", ""))
    else:
        return None
    if not _COMMIT.fullmatch(commit):
        raise ActionError(f"the event {event_name} names no base commit")
    return commit


def find_repository(workspace: Path, paths: Iterable[str]) -> Repository | None:
    """Return the work tree that holds the first of some paths that lies in one, or the workspace itself.

    Raises
    ------
    ActionError
        git is missing, or refuses to look.
    """
    for path in (*paths, ""):
        folder = (workspace / path).parent if path else workspace
        while not folder.is_dir():
            folder = folder.parent
        found = _git(folder, "rev-parse", "--show-toplevel")
        root = Path(os.fsdecode(found.stdout.rstrip(b"\n"))).resolve()
        if found.returncode == 0 and root.is_relative_to(workspace.resolve()):
            return Repository(root=root, workspace=workspace.resolve())
        if found.returncode != 0 and b"not a git repository" not in found.stderr:
            raise ActionError(f"git cannot read the repository: {_complaint(found)}")
    return None


def edited_files(repository: Repository, revision: str, named: Iterable[str]) -> tuple[str, ...]:
    """Return which of the files that judge a pull request it edits.

    Parameters
    ----------
    repository : Repository
        The work tree.
    revision : str
        The merge base.
    named : iterable of str
        ww.yaml and the baseline of the inputs, files or folders. Recordings that only ww.yaml names are found by
        what they hold, before or after.
    """
    places = {place for path in named for place in _places(repository, path)}
    return tuple(
        path
        for path in repository.changed_since(revision)
        if is_below(path, places) or _is_recording(repository, revision, path)
    )


def moved_way(repository: Repository, revision: str, named: Iterable[str], *, are_all_named: bool) -> str | None:
    """Return a link or submodule that the pull request changes and that may lead to what judges it.

    Parameters
    ----------
    repository : Repository
        The work tree.
    revision : str
        The merge base.
    named : iterable of str
        ww.yaml and the baseline of the inputs.
    are_all_named : bool
        Whether these are all; where ww.yaml names baselines, any link may lead to one.
    """
    places = tuple(named)
    for way in repository.changed_ways(revision):
        if not are_all_named or any(is_below(place, (way,)) for place in places):
            return way
    return None


def is_below(path: str, places: Iterable[str]) -> bool:
    """Tell whether a path is one of some places or lies in one."""
    return any(path == place or path.startswith(f"{place}/") for place in places)


def _places(repository: Repository, path: str) -> tuple[str, ...]:
    """Return a path and, where it is a link into the work tree, what it leads to."""
    target = (repository.workspace / path).resolve()
    if not target.is_relative_to(repository.workspace):
        return (path,)
    return (path, target.relative_to(repository.workspace).as_posix())


def _is_recording(repository: Repository, revision: str, path: str) -> bool:
    if not path.endswith(".json"):
        return False
    file = repository.workspace / path
    now = file.read_bytes() if file.is_file() else b""
    before = repository.content_at(revision, path) or b""
    return any(all(sign in content for sign in _BASELINE_SIGNS) for content in (now, before))


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    environ = {**os.environ, "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"}
    command = ["git", "-c", "core.fsmonitor=false", *arguments]
    try:
        return subprocess.run(  # noqa: S603 (a list, and no shell)
            command, cwd=folder, env=environ, capture_output=True, check=False, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError as error:
        raise ActionError("git is needed to see what a pull request edits, and was not found") from error


def _complaint(found: subprocess.CompletedProcess[bytes]) -> str:
    return found.stderr.decode("utf-8", "replace").strip().partition("\n")[0][:300]
