"""What a pull request edits: the merge base's trees against the bytes that lie in the workspace."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from action.inputs import ActionError
from action.overlay import Link
from action.repository import LINK, SUBMODULE, Entry, Repository, lfs_pointer
from action.ways import all_steps_to, is_below, links_in, steps_to

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_FILES = ("100644", "100755", "100664")
_MAX_POINTER = 1024
_BASELINE_SIGNS = (b'"matrices"', b'"pytest-weightwatcher"')


_CONFIGS = frozenset(
    {
        "config.json",
        "adapter_config.json",
        "quantize_config.json",
        "quant_config.json",
        "hf_quant_config.json",
    }
)
"""Files beside a checkpoint that say how its weights are to be read."""

_CHECKPOINTS = (".onnx", ".safetensors", ".pt", ".pth", ".gguf", ".md", ".py", ".yaml", ".yml", ".ww.json")
_PART = re.compile(r"-[0-9]{5}-of-[0-9]{5}(?=\.)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """What judges, as far as a run tells.

    Attributes
    ----------
    paths : tuple of str
        ww.yaml and the baseline of the inputs, files or folders.
    baselines : tuple of str
        What a run compared with.
    models : tuple of str
        What was judged by it.
    """

    paths: tuple[str, ...]
    baselines: tuple[str, ...] = ()
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """The work tree of a pull request beside its merge base.

    Attributes
    ----------
    repository : Repository
        The checkout.
    revision : str
        The merge base.
    before, after : dict of str to Entry
        What was tracked there, and what is tracked now.
    """

    repository: Repository
    revision: str
    before: dict[str, Entry] = field(repr=False)
    after: dict[str, Entry] = field(repr=False)

    def held_before(self, path: str) -> bytes | Link | None:
        """Return what the merge base has at a path; None where there is nothing.

        Raises
        ------
        ActionError
            The file is kept by git-lfs, whose contents git does not have, or was not fetched.
        """
        entry = self.before.get(path)
        if entry is None or entry.mode not in (*_FILES, LINK):
            return None
        content = self.repository.content_of(entry, path)
        if entry.mode == LINK:
            return Link(target=os.fsdecode(content))
        if lfs_pointer(content) is not None:
            raise ActionError(f"{path[:200]}: kept by git-lfs; compare with a recorded baseline file instead")
        return content

    def edited(self, view: Path, judging: Judging) -> tuple[str, ...]:
        """Return the paths that the pull request edits and by which it may change what judges it.

        Parameters
        ----------
        view : Path
            The workspace, or a view of it in which some paths are those of the merge base: links lead as they do there.
        judging : Judging
            What judges.

        Raises
        ------
        ActionError
            A submodule is among them, or what the models are found by, too.
        """
        links = links_in(view)
        places = all_steps_to(view, (*judging.paths, *judging.baselines), links)
        places |= self._beside(judging)
        # Where a folder became a link, all of it went: the link is a place, too.
        files = self._edited(lambda path: is_below(path, places) or self._is_recording(path))
        edited = tuple(sorted({*files, *self._ways(places)}))
        config = {step for path in judging.paths[:1] for step in steps_to(view, path)}
        of_models = all_steps_to(view, judging.models, links)
        for path in edited:
            if path not in config and not self._is_recording(path) and _carries(path, judging.models, of_models):
                # With what was there before, something else than the pull request's models would be judged.
                raise ActionError(
                    f"{path}: this pull request edits it, and both a model and what judges it are found by it: keep "
                    "them apart, or have the check overridden"
                )
        return edited

    def _beside(self, judging: Judging) -> frozenset[str]:
        """Return the files beside a baseline that are read with it: parts, external data, configurations.

        No model is among them, nor another checkpoint: of an ONNX file all else may be its data, whatever its name.
        """
        found = set()
        for baseline in judging.baselines:
            folder, _, name = baseline.rpartition("/")
            if name.endswith(".json"):
                continue
            stem = _PART.sub("", name).partition(".")[0]
            prefix = f"{folder}/" if folder else ""
            for path in (*self.before, *self.after):
                rest = path.removeprefix(prefix)
                is_meant = (
                    rest in _CONFIGS
                    or rest.startswith((f"{stem}.", f"{stem}-0"))
                    or (name.endswith(".onnx") and not rest.endswith(_CHECKPOINTS))
                )
                if path.startswith(prefix) and is_meant and not is_below(path, judging.models):
                    found.add(path)
        return frozenset(found)

    def _edited(self, is_meant: Callable[[str], bool]) -> tuple[str, ...]:
        return tuple(path for path in sorted({**self.before, **self.after}) if is_meant(path) and self._is_edited(path))

    def _ways(self, places: frozenset[str]) -> Iterator[str]:
        """Yield links that differ and lie on the way to some places, or in one."""
        for way in sorted({**self.before, **self.after}):
            modes = {entry.mode for entry in (self.before.get(way), self.after.get(way)) if entry is not None}
            if modes.isdisjoint((LINK, SUBMODULE)) or not self._is_edited(way):
                continue
            if not is_below(way, places) and not any(is_below(place, (way,)) for place in places):
                continue
            if SUBMODULE in modes:
                raise ActionError(
                    f"{way}: this pull request changes a submodule in which ww.yaml or a baseline lies, and nobody can "
                    "tell what it held before: keep what judges outside of it, or have the check overridden"
                )
            yield way

    def _is_recording(self, path: str) -> bool:
        """Tell whether a path that the commits have otherwise holds a recording, or held one."""
        before = self.before.get(path)
        if not path.endswith(".json") or before == self.after.get(path):
            return False
        file = self.repository.workspace / path
        # A link is seen as such; behind it may be a device.
        now = file.read_bytes() if file.is_file() and not file.is_symlink() else b""
        held = self.repository.content_of(before, path) if before is not None and before.mode in _FILES else b""
        return any(all(sign in content for sign in _BASELINE_SIGNS) for content in (now, held))

    def _is_edited(self, path: str) -> bool:
        """Tell whether what lies at a tracked path is not what the merge base has there."""
        before, after = self.before.get(path), self.after.get(path)
        file = self.repository.workspace / path
        if SUBMODULE in {entry.mode for entry in (before, after) if entry is not None}:
            return before != after
        if not os.path.lexists(file) or self._is_behind_a_link(path):
            return before is not None
        if before is None:
            return True
        if file.is_symlink():
            return before.mode != LINK or _name_of(before, os.fsencode(file.readlink())) != before.name
        # Where there are no links, git writes the target into a file.
        return not file.is_file() or not self._is_same(file, before, after, path)

    def _is_behind_a_link(self, path: str) -> bool:
        folders = (self.repository.workspace / folder for folder in Path(path).parents)
        return any(folder.is_symlink() for folder in folders)

    def _is_same(self, file: Path, before: Entry, after: Entry | None, path: str) -> bool:
        """Compare a file with a content of the merge base: byte for byte, but for line ends, and git-lfs."""
        if _name_of_file(file, before) == before.name:
            return True
        content = self.repository.content_of(before, path)
        pointer = lfs_pointer(content) if len(content) <= _MAX_POINTER else None
        if pointer is not None:
            return pointer == (_digest(file), file.stat().st_size)
        # git for Windows writes other line ends than were committed; only what has none of a binary file is text.
        return before == after and b"\0" not in content and file.read_bytes().replace(b"\r\n", b"\n") == content


def read_changes(repository: Repository, commit: str) -> Changes:
    """Return the work tree beside the merge base with a commit of the base branch."""
    revision = repository.merge_base(commit)
    return Changes(
        repository=repository,
        revision=revision,
        before=repository.tree_at(revision),
        after=repository.tree_at("HEAD"),
    )


def _carries(path: str, models: tuple[str, ...], of_models: frozenset[str]) -> bool:
    """Tell whether a path is a step to a model, lies above one, or in a folder that a link of a model leads to."""
    if any(is_below(step, (path,)) for step in of_models):
        return True
    return is_below(path, (step for step in of_models if not is_below(step, models)))


def _hash_of(entry: Entry, size: int) -> hashlib._Hash:
    """Return the hash by which git names a content, begun."""
    is_sha1 = len(entry.name) == hashlib.sha1(usedforsecurity=False).digest_size * 2
    name = hashlib.sha1(usedforsecurity=False) if is_sha1 else hashlib.sha256()
    name.update(b"blob %d\0" % size)
    return name


def _name_of(entry: Entry, content: bytes) -> str:
    name = _hash_of(entry, len(content))
    name.update(content)
    return name.hexdigest()


def _name_of_file(file: Path, entry: Entry) -> str:
    name = _hash_of(entry, file.stat().st_size)
    _feed(name, file)
    return name.hexdigest()


def _digest(file: Path) -> str:
    name = hashlib.sha256()
    _feed(name, file)
    return name.hexdigest()


def _feed(name: hashlib._Hash, file: Path) -> None:
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            name.update(block)
