"""The git side: which commits there are and what they hold.

git is asked for objects alone, never for the work tree. How it sees that depends on attributes, filters, an index and
the settings of whatever looks like a repository on the way, and a pull request can commit all of these.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from action.inputs import ActionError
from action.programs import find_program

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

GIT_FOLDER = ".git"
LINK, SUBMODULE = "120000", "160000"
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_LFS = b"version https://git-lfs.github.com/spec/"
_ENVIRON = {
    # Of the settings only those of the checkout itself count: HOME may be the workspace.
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What a commit has at a path: a mode as git writes it, and the name of the content."""

    mode: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A checkout inside the workspace; all paths are relative to the workspace, with slashes.

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
        found = self._git("merge-base", "HEAD", commit)
        revision = found.stdout.decode("ascii", "replace").strip()
        if found.returncode != 0 or not _COMMIT.fullmatch(revision):
            raise ActionError(
                f"the base commit {commit[:12]} is not in the history that was fetched, so that nobody can tell "
                "whether this pull request edits the baseline or ww.yaml: give actions/checkout fetch-depth: 0"
            )
        return revision

    def tree_at(self, revision: str) -> dict[str, Entry]:
        """Return path -> entry of all files, links and submodules of a commit."""
        found = self._git("ls-tree", "-r", "-z", "--full-tree", revision)
        if found.returncode != 0:
            raise ActionError(f"git ls-tree {revision[:200]} failed: {_complaint(found)}")
        prefix = self.root.relative_to(self.workspace)
        entries = {}
        for line in found.stdout.split(b"\0")[:-1]:
            facts, _, path = line.partition(b"\t")
            mode, _, name = facts.decode("ascii").split(" ")
            entries[(prefix / os.fsdecode(path)).as_posix()] = Entry(mode=mode, name=name)
        return entries

    def content_of(self, entry: Entry, path: str) -> bytes:
        """Return the content of a file or link, as it was committed.

        Raises
        ------
        ActionError
            It was not fetched.
        """
        found = self._git("cat-file", "blob", entry.name)
        if found.returncode != 0:
            raise ActionError(f"git cat-file failed on {path[:200]}: {_complaint(found)}")
        return found.stdout

    def refuse_foreign_settings(self) -> None:
        """Refuse a checkout whose own settings include a file of the work tree.

        Raises
        ------
        ActionError
            They do, so that a pull request could tell git what to run.
        """
        found = self._git("config", "--list", "--includes", "--show-origin", "--name-only", "-z")
        if found.returncode != 0:
            raise ActionError(f"git cannot read the repository: {_complaint(found)}")
        for field in found.stdout.split(b"\0")[::2]:
            place = Path(os.path.realpath(self.root / os.fsdecode(field.removeprefix(b"file:"))))
            inside = place.parts[len(self.workspace.parts) :] if place.is_relative_to(self.workspace) else ()
            if field.startswith(b"file:") and inside and GIT_FOLDER not in inside:
                raise ActionError(
                    f"the settings of git include {'/'.join(inside)[:200]}, which a pull request can edit"
                )

    def _git(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        program = find_program("git", outside=[self.workspace])
        if program is None:
            raise ActionError("git is needed to see what a pull request edits, and was not found")
        environ = {name: value for name, value in os.environ.items() if not name.upper().startswith("GIT_")}
        # Told where the repository is, git looks for no other.
        environ |= {**_ENVIRON, "GIT_DIR": str(self.root / GIT_FOLDER), "GIT_WORK_TREE": str(self.root)}
        command = [
            program,
            "--no-pager",
            "-c",
            "core.fsmonitor=false",
            "-c",
            f"core.hooksPath={os.devnull}",
            *arguments,
        ]
        return subprocess.run(  # noqa: S603 (a list, and no shell)
            command, cwd=self.root, env=environ, capture_output=True, check=False, stdin=subprocess.DEVNULL
        )


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
    """Return the checkout that holds the first of some paths that lies in one, or the workspace itself.

    It is known by ``.git``, the one name that git never commits, and it is the outermost: what lies deeper, a submodule
    or what git takes for a bare repository, may be the pull request's.

    Raises
    ------
    ActionError
        git is missing, or cannot read it.
    """
    workspace = workspace.resolve()
    for path in paths:
        for folder in _way_down(workspace, path):
            root = folder.resolve()
            if os.path.lexists(folder / GIT_FOLDER) and root.is_relative_to(workspace):
                repository = Repository(root=root, workspace=workspace)
                repository.refuse_foreign_settings()
                return repository
    return None


def _way_down(workspace: Path, path: str) -> Iterator[Path]:
    """Yield the workspace, then the folders down to a path as it is written, then as links lead."""
    for end in (os.path.normpath(workspace / path), os.path.realpath(workspace / path)):
        yield workspace
        if Path(end).is_relative_to(workspace):
            yield from (workspace / folder for folder in reversed(Path(end).relative_to(workspace).parents))


def lfs_pointer(content: bytes) -> tuple[str, int] | None:
    """Return the SHA-256 and the size of what git-lfs keeps in place of a content; None where it keeps nothing."""
    if not content.startswith(_LFS):
        return None
    facts = dict(line.split(" ", 1) for line in content.decode("utf-8", "replace").splitlines() if " " in line)
    name, size = facts.get("oid", ""), facts.get("size", "")
    return name.removeprefix("sha256:"), int(size) if size.isascii() and size.isdigit() else -1


def _complaint(found: subprocess.CompletedProcess[bytes]) -> str:
    return found.stderr.decode("utf-8", "replace").strip().partition("\n")[0][:300]
