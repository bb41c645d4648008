"""AWQ: ``qweight``, ``qzeros`` and ``scales``, packed along the outputs (Lin et al. 2024, arXiv 2306.00978).

The layout is AutoAWQ's ``gemm``: an int32 holds the codes of eight outputs of one input in the order 0 2 4 6 1 3 5 7,
the lowest bits first; zero points alike. W[o, i] = scales[g, o]·(q[i, o] - z[g, o]), g = i // group size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spectral.loaders.protocol import Quantization, TensorInfo
from spectral.loaders.quantized.codes import as_bytes, unpack_bits

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from spectral.loaders.quantized.recipe import Reader
    from spectral.loaders.quantized.settings import Settings

BITS = 4
PER_WORD = 8
PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""Output of a word -> place of its code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Awq:
    """One layer.

    Attributes
    ----------
    info : TensorInfo
        The weight, shape (outputs, inputs).
    stem : str
        Its parts are named by this and ``qweight``, ``qzeros``, ``scales``.
    group_size : int
        Inputs that share a scale.
    """

    info: TensorInfo
    stem: str
    group_size: int

    @property
    def parts(self) -> Mapping[str, str]:
        return {f"{self.stem}qweight": "codes", f"{self.stem}qzeros": "zero points", f"{self.stem}scales": "scales"}

    def slab(self, read: Reader, begin: int, end: int) -> NDArray[np.float32]:
        import numpy as np

        values = self._codes(read, "qweight", begin, end)
        zeros = self._codes(read, "qzeros", begin, end)
        scales = read.whole(f"{self.stem}scales")[:, begin:end].astype(np.float32)
        groups = np.arange(self.info.shape[1]) // self.group_size
        values -= zeros[:, groups]
        with np.errstate(over="ignore", invalid="ignore"):
            values *= scales.T[:, groups]
        return values

    def _codes(self, read: Reader, part: str, begin: int, end: int) -> NDArray[np.float32]:
        """Return the codes of some outputs, one row for each."""
        import numpy as np

        first, last = begin // PER_WORD, -(-end // PER_WORD)
        words = read.whole(self.stem + part)[:, first:last]
        codes = unpack_bits(as_bytes(words), BITS, words.shape[1] * PER_WORD)
        ordered = codes.reshape(len(words), -1, PER_WORD)[:, :, PLACES].reshape(len(words), -1)
        chosen = ordered[:, begin - first * PER_WORD : end - first * PER_WORD]
        return np.ascontiguousarray(chosen.T, dtype=np.float32)


def find(infos: Mapping[str, TensorInfo], settings: Settings, _read: Reader) -> Iterator[Awq]:
    """Yield the layers of a checkpoint that are stored so."""
    for name, packed in infos.items():
        if not name.endswith(".qweight") and name != "qweight":
            continue
        stem = name.removesuffix("qweight")
        zeros, scales = infos.get(f"{stem}qzeros"), infos.get(f"{stem}scales")
        if zeros is None or scales is None or not len(packed.shape) == len(zeros.shape) == len(scales.shape) == 2:
            continue
        (n_in, n_words), (n_groups, n_out) = packed.shape, scales.shape
        is_packed = n_words * PER_WORD == n_out and zeros.shape == (n_groups, n_words)
        are_words = packed.dtype == zeros.dtype == "int32" and scales.dtype in ("float16", "bfloat16", "float32")
        if not (is_packed and are_words and n_in and n_groups and n_out) or n_in % n_groups:
            continue
        group_size = n_in // n_groups
        method = settings.method or "awq"
        quantization = Quantization(
            scheme=f"{method} int4", bits=BITS, code="int", block=(1, group_size), is_symmetric=False
        )
        info = TensorInfo(name=f"{stem}weight", shape=(n_out, n_in), dtype="float32", quantization=quantization)
        yield Awq(info=info, stem=stem, group_size=group_size)
