"""torchao's tensors in files: ``<module>._<weight>_qdata``, ``_scale`` and ``_zero_point``.

So they are named in safetensors files, whose header holds the class of each (``torchao/prototype/safetensors``); those
in files of ``torch.save`` are listed under the same names. ``Int8Tensor``, ``IntxUnpackedToInt8Tensor`` and
``Float8Tensor`` are bytes with scales. ``Int4Tensor`` holds two signed codes in a byte, the lower half first, and
scales and zeros by groups along the inputs, transposed: W = q·scale + zero.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from spectral.loaders.protocol import Quantization, TensorInfo
from spectral.loaders.quantized.codes import unpack_bits
from spectral.loaders.quantized.scaled import CODES, SCALES, Scaled, place_scales
from spectral.loaders.quantized.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from spectral.loaders.quantized.recipe import Reader

_CODES = re.compile(r"(?P<module>(?:.*\.)?)_(?P<weight>[^.]+)_qdata")
_BITS = re.compile(r"u?int([1-8])")
_MAX_DESCRIPTION = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Int4:
    """One weight of ``Int4Tensor``.

    Attributes
    ----------
    info : TensorInfo
        The weight, shape (outputs, inputs).
    prefix : str
        What the names of its parts begin with.
    group_size : int
        Inputs that share a scale.
    """

    info: TensorInfo
    prefix: str
    group_size: int

    @property
    def parts(self) -> Mapping[str, str]:
        names = {"qdata": "codes", "scale": "scales", "zero_point": "zero points"}
        return {self.prefix + name: text for name, text in names.items()}

    def slab(self, read: Reader, begin: int, end: int) -> NDArray[np.float32]:
        import numpy as np

        packed = read.rows(f"{self.prefix}qdata", begin, end).view(np.uint8)
        codes = unpack_bits(packed, 4, self.info.shape[1])
        # Two's complement of four bits.
        values = ((codes ^ np.uint8(8)).astype(np.float32) - np.float32(8.0)).reshape(end - begin, -1, self.group_size)
        scales, zeros = (
            read.whole(self.prefix + part)[:, begin:end].T.astype(np.float32)[..., np.newaxis]
            for part in ("scale", "zero_point")
        )
        with np.errstate(over="ignore", invalid="ignore"):
            values = values * scales + zeros
        return values.reshape(end - begin, -1)


def find(infos: Mapping[str, TensorInfo], _settings: Settings, read: Reader) -> Iterator[Scaled | Int4]:
    """Yield the weights of a checkpoint that are stored so."""
    descriptions = getattr(read.source, "metadata", {})
    for name, codes in infos.items():
        found = _CODES.fullmatch(name)
        if found is None or len(codes.shape) != 2 or not codes.n_values:
            continue
        target = f"{found['module']}{found['weight']}"
        made = _weight(target, codes, infos, _described(descriptions.get(target)))
        if made is not None:
            yield made


def _weight(
    target: str, codes: TensorInfo, infos: Mapping[str, TensorInfo], described: tuple[str, int | None]
) -> Scaled | Int4 | None:
    prefix, (kind, bits) = codes.name.removesuffix("qdata"), described
    scale, zeros = infos.get(f"{prefix}scale"), infos.get(f"{prefix}zero_point")
    if scale is None or codes.dtype not in CODES or scale.dtype not in SCALES or f"{prefix}act_pre_scale" in infos:
        return None
    n_rows, n_bytes = codes.shape
    if zeros is not None and zeros.shape != scale.shape:
        return None
    is_float = codes.dtype.startswith("float8")
    plain = Quantization(
        scheme=f"torchao {codes.dtype.replace('float8', 'fp8') if is_float else f'int{bits or 8}'}",
        bits=8 if is_float or bits is None else bits,
        code=codes.dtype if is_float else "int",
        is_symmetric=zeros is None,
    )
    info = TensorInfo(name=target, shape=codes.shape, dtype="float32", role=codes.role)
    placed = place_scales(codes.shape, scale.shape, Settings()) if kind != "Int4Tensor" else None
    if placed is not None and len(scale.shape) in (0, 1, 2) and (is_float or codes.dtype == "int8"):
        block, grid = placed
        return Scaled(
            info=replace(info, quantization=replace(plain, block=block)),
            codes=codes.name,
            scales=scale.name,
            zeros=None if zeros is None else zeros.name,
            block=block,
            grid=grid,
        )
    if zeros is None or len(scale.shape) != 2 or scale.shape[1] != n_rows or not scale.shape[0] or is_float:
        return None
    group_size, rest = divmod(2 * n_bytes, scale.shape[0])
    if rest or scale.shape[0] > 2 * n_bytes:
        return None
    four = replace(plain, scheme="torchao int4", bits=4, block=(1, group_size), is_symmetric=False)
    return Int4(
        info=replace(info, shape=(n_rows, 2 * n_bytes), quantization=four), prefix=prefix, group_size=group_size
    )


def _described(text: Any) -> tuple[str, int | None]:
    """Return the class of a tensor and the bits of its codes, as far as the header of the file says."""
    if not isinstance(text, str) or len(text) > _MAX_DESCRIPTION:
        return "", None
    try:
        said = json.loads(text)
        data = said["_data"]
        kind, target = said["_type"], data.get("target_dtype")
        name = target["_data"] if isinstance(target, dict) else ""
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return "", None
    found = _BITS.fullmatch(name) if isinstance(name, str) else None
    return kind if isinstance(kind, str) else "", None if found is None else int(found[1])
