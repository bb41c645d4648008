"""Pruned weights with their zeros left out: ``sparse-bitmask`` and ``sparse-24-bitmask`` of compressed-tensors.

``compressed`` holds the values that are not zero, row by row; ``bitmask`` a bit for each value, the lowest first, rows
filled up to whole bytes; ``row_offsets`` where each row's values begin; ``shape`` the shape.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from spectral.errors import CorruptCheckpointError
from spectral.loaders.dtypes import FLOAT_DTYPES
from spectral.loaders.protocol import TensorInfo
from spectral.loaders.quantized.codes import unpack_bits

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from spectral.loaders.quantized.recipe import Reader
    from spectral.loaders.quantized.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Bitmask:
    """One pruned weight.

    Attributes
    ----------
    info : TensorInfo
        The weight; its parts are named by its name and ``.compressed``, ``.bitmask`` and so on.
    beside : tuple of str
        Parts that are not needed for its values.
    """

    info: TensorInfo
    beside: tuple[str, ...]

    @property
    def parts(self) -> Mapping[str, str]:
        name = self.info.name
        return {f"{name}.compressed": "values", f"{name}.bitmask": "mask"} | dict.fromkeys(self.beside, "layout")

    def slab(self, read: Reader, begin: int, end: int) -> NDArray[np.float32]:
        import numpy as np

        name, (_, n_columns) = self.info.name, self.info.shape
        mask = unpack_bits(read.whole(f"{name}.bitmask"), 1, n_columns).view(np.bool_)
        before, n_here = int(np.count_nonzero(mask[:begin])), int(np.count_nonzero(mask[begin:end]))
        n_stored, n_marked = read.infos[f"{name}.compressed"].n_values, int(np.count_nonzero(mask))
        if n_marked != n_stored:
            raise CorruptCheckpointError(
                f"{read.source.label}: tensor {name!r}: its mask has {n_marked} values, and {n_stored} are stored"
            )
        stored = read.flat(f"{name}.compressed", before, before + n_here)
        values = np.zeros((end - begin, n_columns), dtype=np.float32)
        values[mask[begin:end]] = stored.astype(np.float32)
        return values


def find(infos: Mapping[str, TensorInfo], _settings: Settings, read: Reader) -> Iterator[Bitmask]:
    """Yield the weights of a checkpoint that are stored so; the shape of each is read, sixteen bytes."""
    for stored, info in infos.items():
        if not stored.endswith(".compressed") or info.dtype not in FLOAT_DTYPES:
            continue
        name = stored.removesuffix(".compressed")
        mask, shape = infos.get(f"{name}.bitmask"), infos.get(f"{name}.shape")
        if mask is None or shape is None or shape.shape != (2,) or not shape.dtype.startswith("int"):
            continue
        n_rows, n_columns = (int(length) for length in read.whole(shape.name))
        if not 0 < n_columns < 1 << 40 or mask.dtype != "uint8" or mask.shape != (n_rows, -(-n_columns // 8)):
            continue
        made = TensorInfo(name=name, shape=(n_rows, n_columns), dtype="float32")
        beside = tuple(f"{name}.{part}" for part in ("shape", "row_offsets") if f"{name}.{part}" in infos)
        yield Bitmask(info=replace(made, role=info.role), beside=beside)
