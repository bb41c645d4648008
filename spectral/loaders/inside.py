"""Files that a checkpoint names: they must lie in its folder, links resolved."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from spectral.errors import ModelNotFoundError, UnsafeCheckpointError


def path_inside(folder: Path, index: Path, shard: str) -> Path:
    """Return the path of a file that an index names.

    Parameters
    ----------
    folder : Path
        Where it must lie.
    index : Path
        What names it, for messages.
    shard : str
        The name, relative to the folder.

    Raises
    ------
    UnsafeCheckpointError
        It lies outside the folder.
    ModelNotFoundError
        It is not there.
    """
    relative = PurePosixPath(shard)
    is_plain = shard.isprintable() and "\\" not in shard
    if not relative.parts or relative.is_absolute() or ".." in relative.parts or not is_plain:
        raise UnsafeCheckpointError(f"{index}: names the shard {shard[:200]!r}, outside its folder")
    file = folder / relative
    try:
        home, target = folder.resolve(), file.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        # Not there, a name too long for the file system, or a circle of links (RuntimeError before Python 3.13).
        raise ModelNotFoundError(f"{index}: names the shard {shard[:200]!r}, which is missing") from error
    if home not in target.parents and not is_cache_blob(home, target):
        raise UnsafeCheckpointError(f"{index}: the shard {shard[:200]!r} is a link that leaves its folder")
    return file


def is_cache_blob(folder: Path, target: Path) -> bool:
    """Tell whether ``target`` is where a Hugging Face cache keeps the files of the snapshot ``folder``.

    There ``snapshots/<revision>/[<subfolder>/]<file>`` are links to ``blobs/<hash>`` beside ``snapshots``.
    """
    return any(parent.name == "snapshots" and target.parent == parent.with_name("blobs") for parent in folder.parents)
