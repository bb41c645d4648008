"""Tensors of an ONNX file whose values another file holds, which must lie in the same folder.

What is said of it are texts (https://github.com/onnx/onnx/blob/main/docs/ExternalData.md): ``location``, a path
relative to the folder of the model; ``offset`` and ``length`` in bytes, both of which may be missing.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from spectral.errors import CorruptCheckpointError, ModelError, ModelNotFoundError, UnsafeCheckpointError
from spectral.loaders.inside import is_cache_blob

if TYPE_CHECKING:
    from spectral.loaders.onnx_proto import TensorProto

_MAX_DIGITS = 19
_N_SHOWN = 5


class ExternalFiles:
    """The files beside one model: each is looked for once; those that are missing are named together."""

    def __init__(self, model: Path) -> None:
        self._model = model
        self._found: dict[str, tuple[Path, int] | None] = {}
        self._ranges: dict[Path, list[tuple[int, int, str]]] = {}

    def locate(self, tensor: TensorProto, name: str, n_bytes: int) -> tuple[Path, int, int]:
        """Return the file that holds the values of a tensor, and their first and past-the-last byte.

        Raises
        ------
        UnsafeCheckpointError
            The file lies outside the folder of the model.
        CorruptCheckpointError
            Place or size are no numbers, do not fit the shape, or lie outside the file.
        """
        said = dict(tensor.external)
        where = f"{self._model}: tensor {name[:200]!r}"
        if len(said) != len(tensor.external) or not said.get("location"):
            raise CorruptCheckpointError(f"{where}: its values are in another file, which is not named, or named twice")
        begin = _count(where, "offset", said.get("offset", "0"))
        length = _count(where, "length", said["length"]) if "length" in said else n_bytes
        if length != n_bytes:
            raise CorruptCheckpointError(
                f"{where}: {n_bytes} bytes by its shape, {length} said to be in the file {said['location'][:200]!r}"
            )
        found = self._find(where, said["location"])
        if found is None:
            return self._model, 0, 0
        path, size = found
        if begin + n_bytes > size:
            raise CorruptCheckpointError(
                f"{where}: ends at byte {begin + n_bytes}, outside the file {said['location'][:200]!r} of {size} bytes"
            )
        self._ranges.setdefault(path, []).append((begin, begin + n_bytes, name))
        return path, begin, begin + n_bytes

    def check(self) -> None:
        """Demand that all files are there, and that tensors share all of their bytes or none.

        Raises
        ------
        ModelNotFoundError, CorruptCheckpointError
            The message names the files, or the tensors.
        """
        missing = sorted(location for location, found in self._found.items() if found is None)
        if missing:
            shown = ", ".join(repr(location[:200]) for location in missing[:_N_SHOWN])
            more = f" and {len(missing) - _N_SHOWN} more" if len(missing) > _N_SHOWN else ""
            raise ModelNotFoundError(f"{self._model}: its values are in {shown}{more} beside it, which is missing")
        for path, ranges in self._ranges.items():
            end, last = 0, ""
            begin_before = -1
            for begin, stop, name in sorted(ranges):
                if begin < end and stop > begin and (begin, stop) != (begin_before, end):
                    raise CorruptCheckpointError(
                        f"{self._model}: tensor {name[:200]!r} at byte {begin} of {path.name!r} overlaps the tensor "
                        f"{last[:200]!r}, which ends at byte {end}"
                    )
                if stop > begin:
                    begin_before, end, last = begin, stop, name

    def _find(self, where: str, location: str) -> tuple[Path, int] | None:
        if location not in self._found:
            self._found[location] = self._look(where, location)
        return self._found[location]

    def _look(self, where: str, location: str) -> tuple[Path, int] | None:
        relative = PurePosixPath(location)
        # What begins with a star is an address in the memory of onnxruntime, which no file has.
        is_plain = location.isprintable() and "\\" not in location and ":" not in location and location[0] != "*"
        if not relative.parts or relative.is_absolute() or ".." in relative.parts or not is_plain:
            raise UnsafeCheckpointError(
                f"{where}: its values are in {location[:200]!r}, outside the folder of the model"
            )
        file = self._model.parent / relative
        try:
            folder, target = self._model.parent.resolve(), file.resolve(strict=True)
        except (OSError, RuntimeError):
            # Not there, a name too long for the file system, or a circle of links (RuntimeError before Python 3.13).
            return None
        if folder not in target.parents and not is_cache_blob(folder, target):
            raise UnsafeCheckpointError(
                f"{where}: its values are in {location[:200]!r}, a link that leaves the folder of the model"
            )
        if not target.is_file():
            raise UnsafeCheckpointError(f"{where}: its values are in {location[:200]!r}, which is not a regular file")
        try:
            return file, target.stat().st_size
        except OSError as error:
            raise ModelError(f"{where}: its values cannot be read: {error.strerror}") from error


def _count(where: str, key: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > _MAX_DIGITS:
        raise CorruptCheckpointError(f"{where}: the {key} of its values is {text[:40]!r}, expected a number of bytes")
    return int(text)
