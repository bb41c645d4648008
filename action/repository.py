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
    from collections.abc import Callable, Iterable, Mapping

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_LFS = b"version https://git-lfs.github.com/spec/"
_ALL = ("-z", "--no-renames", "--no-ext-diff", "--ignore-submodules=none")
"""Of a diff: every path, and nothing left out because .gitmodules or settings say so."""

_LINK, _SUBMODULE = "120000", "160000"
_FILES = ("100644", "100755", "100664")
_MAX_STEPS = 40
"""Links followed from one path; more are a circle."""

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
        found = _git(self.root, "diff", "--name-only", *_ALL, revision, "--")
        if found.returncode != 0:
            raise ActionError(f"git diff failed: {_complaint(found)}")
        prefix = self.root.relative_to(self.workspace)
        return tuple((prefix / os.fsdecode(name)).as_posix() for name in found.stdout.split(b"\0") if name)

    def changed_ways(self, revision: str) -> tuple[str, ...]:
        """Return the links and submodules that differ between a commit and the work tree.

        What lies behind them changes without a file that would be named as changed.
        """
        found = _git(self.root, "diff", "--raw", *_ALL, revision, "--")
        if found.returncode != 0:
            raise ActionError(f"git diff failed: {_complaint(found)}")
        fields = found.stdout.split(b"\0")
        prefix = self.root.relative_to(self.workspace)
        return tuple(
            (prefix / os.fsdecode(name)).as_posix()
            for modes, name in zip(fields[::2], fields[1::2], strict=False)
            if {_LINK, _SUBMODULE}.intersection(modes.decode("ascii", "replace").lstrip(":").split(" ")[:2])
        )

    def links_lead_to(self, is_meant: Callable[[str], bool]) -> frozenset[str]:
        """Return what tracked links lead to, step by step, inside the work tree.

        Parameters
        ----------
        is_meant : callable
            Tells of a link, relative to the workspace, whether it is asked for.
        """
        found = _git(self.root, "ls-files", "-s", "-z")
        if found.returncode != 0:
            raise ActionError(f"git ls-files failed: {_complaint(found)}")
        prefix = self.root.relative_to(self.workspace)
        entries = (entry.partition(b"\t") for entry in found.stdout.split(b"\0") if entry.startswith(_LINK.encode()))
        links = ((prefix / os.fsdecode(name)).as_posix() for _, _, name in entries)
        return frozenset(step for link in links if is_meant(link) for step in steps_to(self.workspace, link))

    def content_at(self, revision: str, path: str) -> bytes | None:
        """Return what a file held at a commit; None where there was no such file.

        Raises
        ------
        ActionError
            The file is kept by git-lfs, whose contents git does not have, or was not fetched.
        """
        place = (self.workspace / path).relative_to(self.root).as_posix()
        name = f"{revision}:{place}"
        # The tree tells what there was; that a content cannot be had does not mean that there was none.
        listed = _git(self.root, "ls-tree", "-z", "--full-tree", revision, "--", place)
        if listed.returncode != 0:
            raise ActionError(f"git ls-tree {name[:200]} failed: {_complaint(listed)}")
        if listed.stdout.partition(b" ")[0].decode("ascii", "replace") not in _FILES:
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
        root = _outermost(Path(os.fsdecode(found.stdout.rstrip(b"\n"))).resolve(), workspace.resolve())
        if found.returncode == 0 and root.is_relative_to(workspace.resolve()):
            return Repository(root=root, workspace=workspace.resolve())
        if found.returncode != 0 and b"not a git repository" not in found.stderr:
            raise ActionError(f"git cannot read the repository: {_complaint(found)}")
    return None


def _outermost(root: Path, workspace: Path) -> Path:
    """Return the work tree that a submodule belongs to: the pull request may have put it there."""
    for _ in range(_MAX_STEPS):
        found = _git(root, "rev-parse", "--show-superproject-working-tree") if root.is_dir() else None
        above = os.fsdecode(found.stdout.rstrip(b"\n")) if found is not None and found.returncode == 0 else ""
        if not above or not Path(above).resolve().is_relative_to(workspace):
            return root
        root = Path(above).resolve()
    return root


def steps_to(workspace: Path, path: str) -> tuple[str, ...]:
    """Return a path, every link on the way to what it leads to, and that; relative to the workspace, inside it."""
    found: list[str] = []
    parts = list(Path(path).parts)
    at = workspace
    n_links = 0
    while parts:
        part = parts.pop(0)
        at = at.parent if part == ".." else at / part
        if at.is_symlink() and n_links < _MAX_STEPS:
            n_links += 1
            if at.is_relative_to(workspace):
                found.append(at.relative_to(workspace).as_posix())
            # Joined to a folder, a target from the root begins there again.
            at, parts = at.parent, [*at.readlink().parts, *parts]
    end = Path(os.path.normpath(at))
    if end.is_relative_to(workspace):
        found.append(end.relative_to(workspace).as_posix())
    return tuple(dict.fromkeys([path, *found]))


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
    steps = {step for path in named for step in steps_to(repository.workspace, path)}
    places = steps | repository.links_lead_to(lambda link: is_below(link, steps))
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
    named = tuple(named)
    places = {step for path in named for step in steps_to(repository.workspace, path)}
    places |= repository.links_lead_to(lambda link: is_below(link, named))
    for way in repository.changed_ways(revision):
        if not are_all_named or any(is_below(place, (way,)) or is_below(way, (place,)) for place in places):
            return way
    return None


def is_below(path: str, places: Iterable[str]) -> bool:
    """Tell whether a path is one of some places or lies in one."""
    return any(path == place or path.startswith(f"{place}/") for place in places)


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
