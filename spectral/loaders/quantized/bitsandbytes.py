"""bitsandbytes' four bits: NF4 and FP4 in blocks (Dettmers et al. 2023, arXiv 2305.14314, section 3).

A ``weight`` of bytes holds two codes each, the higher half first, of the weight in C order. ``absmax`` is the scale of
a block of (mostly 64) values, ``quant_map`` the sixteen levels; scales are often themselves coded in bytes, with
``nested_absmax``, ``nested_quant_map`` and an offset. The rest (shape, lengths of blocks, offset) is JSON in the bytes
of ``quant_state.bitsandbytes__nf4``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spectral.loaders.json_text import parse_json
from spectral.loaders.protocol import Quantization, TensorInfo
from spectral.loaders.quantized.codes import unpack_bits

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from spectral.loaders.quantized.recipe import Reader
    from spectral.loaders.quantized.settings import Settings

_STATE = ".quant_state.bitsandbytes__"
MAX_STATE_BYTES = 4096
_MAX_BLOCK = 1 << 16
_MAX_AXES = 8
_MAX_OFFSET = 1e30


@dataclass(frozen=True, slots=True, kw_only=True)
class FourBits:
    """One weight.

    Attributes
    ----------
    info : TensorInfo
        The weight; its codes are stored under the same name.
    state : str
        Name of the tensor with its description.
    block : int
        Values that share a scale.
    nested_block : int
        Scales that share a scale of their own; 0 where they are stored as floats.
    offset : float
        What is added to nested scales.
    """

    info: TensorInfo
    state: str
    block: int
    nested_block: int
    offset: float

    @property
    def parts(self) -> Mapping[str, str]:
        name = self.info.name
        nested = {f"{name}.nested_absmax": "scales of the scales", f"{name}.nested_quant_map": "levels of the scales"}
        found = {name: "codes", f"{name}.absmax": "scales", f"{name}.quant_map": "levels", self.state: "description"}
        return found | (nested if self.nested_block else {})

    def slab(self, read: Reader, begin: int, end: int) -> NDArray[np.float32]:
        import numpy as np

        name, shape = self.info.name, self.info.shape
        n_each = math.prod(shape[1:])
        first, last = begin * n_each, end * n_each
        # From the beginning of a block to the end of another: they need not begin with a row.
        start = first // self.block * self.block
        stop = min(-(-last // self.block) * self.block, self.info.n_values)
        packed = read.flat(name, start // 2, -(-stop // 2))
        low_first = unpack_bits(packed, 4, 2 * len(packed)).reshape(-1, 2)
        codes = low_first[:, ::-1].reshape(-1)[: stop - start]
        values = read.floats(f"{name}.quant_map")[codes]
        scales = self._scales(read, start // self.block, -(-stop // self.block))
        with np.errstate(over="ignore", invalid="ignore"):
            values *= np.repeat(scales, self.block)[: stop - start]
        return values[first - start : last - start].reshape(end - begin, *shape[1:])

    def _scales(self, read: Reader, begin: int, end: int) -> NDArray[np.float32]:
        import numpy as np

        name = self.info.name
        stored = read.whole(f"{name}.absmax").reshape(-1)[begin:end]
        if not self.nested_block:
            return stored.astype(np.float32)
        levels = read.floats(f"{name}.nested_quant_map")[stored]
        outer = read.floats(f"{name}.nested_absmax").reshape(-1)[np.arange(begin, end) // self.nested_block]
        scales: NDArray[np.float32] = levels * outer + np.float32(self.offset)
        return scales


def find(infos: Mapping[str, TensorInfo], _settings: Settings, read: Reader) -> Iterator[FourBits]:
    """Yield the weights of a checkpoint that are stored so; the description of each is read."""
    for state, info in infos.items():
        name, mark, _ = state.partition(_STATE)
        if not mark or name not in infos or info.dtype != "uint8" or not 0 < info.n_values <= MAX_STATE_BYTES:
            continue
        made = _weight(state, infos, read)
        if made is not None:
            yield made


def _weight(state: str, infos: Mapping[str, TensorInfo], read: Reader) -> FourBits | None:
    name, _, kind = state.partition(_STATE)
    try:
        said = parse_json(bytes(read.whole(state).reshape(-1)))
    except ValueError:
        return None
    if not isinstance(said, dict):
        return None
    shape, block = _shape(said), _count(said, "blocksize")
    if shape is None or block is None:
        return None
    n_values = math.prod(shape)
    n_blocks = -(-n_values // block)
    nested = _count(said, "nested_blocksize") if f"{name}.nested_absmax" in infos else 0
    offset = said.get("nested_offset", 0.0)
    if nested is None or type(offset) not in (int, float) or not abs(offset) < _MAX_OFFSET:
        return None
    scale_dtype, level_count = ("uint8", 256) if nested else ("float32", 16)
    expected = {
        name: ("uint8", -(-n_values // 2)),
        f"{name}.absmax": (scale_dtype, n_blocks),
        f"{name}.quant_map": ("float32", 16),
    }
    if nested:
        expected[f"{name}.nested_absmax"] = ("float32", -(-n_blocks // nested))
        expected[f"{name}.nested_quant_map"] = ("float32", level_count)
    if any(
        other not in infos or (infos[other].dtype, infos[other].n_values) != want for other, want in expected.items()
    ):
        return None
    quantization = Quantization(
        scheme=f"bitsandbytes {kind[:10]}",
        bits=4,
        code=kind if kind in ("nf4", "fp4") else "lattice",
        block=_block_in_axes(shape, block),
    )
    info = TensorInfo(name=name, shape=shape, dtype="float32", role=infos[name].role, quantization=quantization)
    return FourBits(info=info, state=state, block=block, nested_block=nested, offset=float(offset))


def _block_in_axes(shape: tuple[int, ...], block: int) -> tuple[int, ...] | None:
    """Return the shape of a block where none of them reaches over the end of a row."""
    return (*(1,) * (len(shape) - 1), block) if shape[-1] % block == 0 else None


def _shape(said: Any) -> tuple[int, ...] | None:
    shape = said.get("shape") if isinstance(said, dict) else None
    if not isinstance(shape, list) or not 0 < len(shape) <= _MAX_AXES:
        return None
    is_plain = all(type(length) is int and 0 < length < 1 << 48 for length in shape)
    return tuple(shape) if is_plain else None


def _count(said: dict[str, Any], key: str) -> int | None:
    value = said.get(key)
    return value if type(value) is int and 0 < value <= _MAX_BLOCK and value % 2 == 0 else None
