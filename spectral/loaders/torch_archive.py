"""The archive that ``torch.save`` and ``torch.jit.save`` write: what its pickle says, and where its storages lie.

The pickle is read as data (:mod:`spectral.loaders.pickle_machine`); a storage is an entry of the ZIP archive, and
stands there as it is. An archive can be a file, or a range of bytes in one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from spectral.errors import CorruptCheckpointError, ModelError, ModelNotFoundError
from spectral.loaders.byte_ranges import read_range
from spectral.loaders.locations import is_remote
from spectral.loaders.pickle_machine import ForbiddenPickleError, MalformedPickleError, read_pickle
from spectral.loaders.stored_zip import MAGIC, BadArchiveError, Entry, find_ranges, find_ranges_lazily, read_directory
from spectral.loaders.torch_legacy import unsafe, why_no_archive
from spectral.loaders.torch_pickle import TorchVocabulary

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAX_PICKLE_BYTES = 1 << 25
"""A hundred thousand tensors take twenty million bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchArchive:
    """One archive, whose values are still in the file.

    Attributes
    ----------
    path : Path
        The file that it is, or lies in.
    content : object
        What the pickle holds, each tensor as a :class:`~spectral.loaders.torch_pickle.StoredTensor`.
    ranges : mapping of str to (int, int)
        Key of a storage -> where it lies in the file.
    is_big_endian, is_script : bool
        The order of its bytes; whether ``torch.jit.save`` wrote it.
    """

    path: Path
    content: Any = field(repr=False)
    ranges: Mapping[str, tuple[int, int]] = field(repr=False)
    is_big_endian: bool = False
    is_script: bool = False


def read_archive(path: Path, span: tuple[int, int] | None = None) -> TorchArchive:
    """Read the directory and the pickle of an archive, without torch and without executing anything in it.

    Parameters
    ----------
    path : Path
        The file, in the format since torch 1.6: an archive with a pickle, and with a file for every storage.
    span : (begin, end), optional
        The bytes of the file that are the archive; None where all of them are.

    Raises
    ------
    ModelNotFoundError, CorruptCheckpointError
        The file is missing, empty, truncated, or no torch file.
    UnsafeCheckpointError
        Its pickle asks for more than the names that describe tensors and hold data.
    UnsupportedModelError
        It has the format before torch 1.6.
    """
    begin = 0 if span is None else span[0]
    try:
        with path.open("rb") as stream:
            stream.seek(begin)
            magic = stream.read(16)
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"{path}: no such file") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    if not magic:
        raise CorruptCheckpointError(f"{path}: the file is empty" if span is None else f"{path}: ends at byte {begin}")
    try:
        if not magic.startswith(MAGIC):
            raise why_no_archive(path) if span is None else BadArchiveError(f"no archive begins at byte {begin}")
        return _read(path, span)
    except (BadArchiveError, MalformedPickleError) as error:
        raise CorruptCheckpointError(f"{path}: not a readable torch file ({error})") from error
    except ForbiddenPickleError as error:
        raise unsafe(path, error) from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error


def _read(path: Path, span: tuple[int, int] | None) -> TorchArchive:
    entries = read_directory(path, span)
    prefix = _prefix_of(entries)
    is_script = any(name.startswith(f"{prefix}code/") for name in entries) or f"{prefix}constants.pkl" in entries
    held = {
        name: entry
        for name, entry in entries.items()
        if name.startswith(f"{prefix}data/") or name in (f"{prefix}data.pkl", f"{prefix}byteorder")
    }
    pickle_entry = held[f"{prefix}data.pkl"]
    if pickle_entry.size > MAX_PICKLE_BYTES:
        raise BadArchiveError(f"its pickle claims {pickle_entry.size} bytes")
    storages = {
        name.removeprefix(f"{prefix}data/"): entry for name, entry in held.items() if name.startswith(f"{prefix}data/")
    }
    sizes = {key: entry.packed_size for key, entry in storages.items()}
    keys: Mapping[str, tuple[int, int]]
    if is_remote(path):
        # A request for each of thousands of tensors would be no quick look.
        keys = find_ranges_lazily(path, storages, span=span)
        others = [entry for name, entry in held.items() if not name.startswith(f"{prefix}data/")]
        ranges = find_ranges(path, others, span=span)
    else:
        ranges = find_ranges(path, held.values(), span=span)
        keys = {key: ranges[entry.name] for key, entry in storages.items()}
    data = bytes(read_range(path, "data.pkl", *ranges[pickle_entry.name]))
    content = read_pickle(data, TorchVocabulary(sizes, is_script=is_script))
    order = ranges.get(f"{prefix}byteorder")
    is_big_endian = order is not None and bytes(read_range(path, "byteorder", *order)[:8]).strip() == b"big"
    return TorchArchive(path=path, content=content, ranges=keys, is_big_endian=is_big_endian, is_script=is_script)


def _prefix_of(entries: Mapping[str, Entry]) -> str:
    """Return the folder of the archive in which torch put everything, with its slash."""
    found = [name.removesuffix("data.pkl") for name in entries if name.endswith("data.pkl")]
    prefixes = [prefix for prefix in found if prefix == "" or (prefix.endswith("/") and prefix.count("/") == 1)]
    if len(prefixes) != 1:
        raise BadArchiveError(f"an archive with {len(prefixes)} files data.pkl")
    return prefixes[0]
