"""Models that the cache of Hugging Face holds, found without its package and without the network.

The layout is that of huggingface_hub's "cache-system reference": ``models--org--name`` has ``refs/<branch or tag>``
with the hash of a commit inside, and ``snapshots/<hash>`` with links into ``blobs``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from spectral.errors import ModelError, ModelNotFoundError, UnsupportedModelError

CACHE_PREFIX = "hf-cache:"

_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,95}"
_REPOSITORY = re.compile(rf"{_NAME}/{_NAME}")
_CACHED = re.compile(
    rf"{CACHE_PREFIX}(?P<repository>{_NAME}(?:/{_NAME})?)(?:@(?P<revision>[\w.\-/]{{1,200}}))?", re.ASCII
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MAX_REF_BYTES = 200
_FOLDER = "models--"


def cache_folder() -> Path:
    """Return where the cache is, as huggingface_hub decides it: HF_HUB_CACHE, HF_HOME/hub, or below ~/.cache."""
    for variable, below in (("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HF_HOME", "hub")):
        if os.environ.get(variable):
            return Path(os.path.expandvars(os.environ[variable])).expanduser() / below
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "huggingface" / "hub"


def parse_cached(text: str) -> tuple[str, str]:
    """Take ``hf-cache:org/name[@revision]`` apart.

    Raises
    ------
    UnsupportedModelError
        It is no such name.
    """
    found = _CACHED.fullmatch(text)
    if found is None or ".." in text:
        raise UnsupportedModelError(f"{text[:200]!r}: expected hf-cache:organisation/model[@revision]")
    return found["repository"], found["revision"] or "main"


def is_model_id(text: str) -> bool:
    """Tell whether a text can be the name of a model, ``organisation/model``."""
    return _REPOSITORY.fullmatch(text) is not None and ".." not in text


def find_snapshot(repository: str, revision: str = "main") -> Path:
    """Return the folder of a model in the cache.

    Raises
    ------
    ModelNotFoundError
        The cache does not hold it, or not this revision; the message says how to fetch it.
    """
    home = cache_folder() / f"{_FOLDER}{repository.replace('/', '--')}"
    label = f"{CACHE_PREFIX}{repository}" + ("" if revision == "main" else f"@{revision}")
    if not home.is_dir():
        raise ModelNotFoundError(
            f"{label}: the Hugging Face cache {cache_folder()} has no such model; fetch it first, or read it with "
            f"hf://{repository}"
        )
    snapshot = home / "snapshots" / _commit_of(home, revision)
    if not _COMMIT.fullmatch(snapshot.name) or not snapshot.is_dir():
        raise ModelNotFoundError(f"{label}: {home} has no snapshot of the revision {revision!r}; fetch it first")
    return snapshot


def look_up(text: str) -> Path | None:
    """Return the snapshot of the main branch of what may be the name of a model, or None; no network is asked."""
    if not is_model_id(text):
        return None
    try:
        return find_snapshot(text)
    except ModelError:
        return None


def nothing_there(path: Path, said: str) -> ModelNotFoundError:
    """Return the error of a path, given as ``said``, at which there is nothing."""
    more = ", nor is there a model of this name in the Hugging Face cache" if is_model_id(said) else ""
    return ModelNotFoundError(f"{path}: no such file or folder{more}")


def cached_name(path: Path) -> str | None:
    """Return the ``organisation/model`` whose snapshot a folder is, or None."""
    home = path.parent.parent.name
    if path.parent.name != "snapshots" or not home.startswith(_FOLDER):
        return None
    return home.removeprefix(_FOLDER).replace("--", "/") or None


def _commit_of(home: Path, revision: str) -> str:
    if _COMMIT.fullmatch(revision):
        return revision
    reference = home / "refs" / Path(*revision.split("/"))
    try:
        with reference.open("rb") as stream:
            return stream.read(_MAX_REF_BYTES).decode("ascii", "replace").strip()
    except OSError:
        return ""
