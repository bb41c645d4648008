"""Codes of a few bits: how they lie in bytes, and which numbers they stand for."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def as_bytes(words: NDArray[Any]) -> NDArray[np.uint8]:
    """Return integers as the bytes of the file, the last axis being so much longer."""
    import numpy as np

    little = np.ascontiguousarray(words, dtype=words.dtype.newbyteorder("<"))
    return little.view(np.uint8)


def unpack_bits(packed: NDArray[np.uint8], bits: int, n: int) -> NDArray[np.uint8]:
    """Return the first codes along the last axis, which holds them without a gap, the lowest bits first.

    Parameters
    ----------
    packed : ndarray of uint8, shape (.., n_bytes)
        At least ``n * bits`` bits in the last axis.
    bits : int
        Bits of a code, 1 to 8.
    n : int
        Number of codes.

    Returns
    -------
    ndarray of uint8, shape (.., n)
    """
    import numpy as np

    if bits == 8:
        return packed[..., :n]
    if 8 % bits == 0:
        mask = np.uint8((1 << bits) - 1)
        codes = np.empty((*packed.shape, 8 // bits), dtype=np.uint8)
        for place in range(8 // bits):
            np.right_shift(packed, np.uint8(place * bits), out=codes[..., place])
        codes &= mask
        return codes.reshape(*packed.shape[:-1], -1)[..., :n]
    n_bytes = -(-n * bits // 8)
    single = np.unpackbits(packed[..., :n_bytes], axis=-1, count=n * bits, bitorder="little")
    codes = np.zeros((*packed.shape[:-1], n), dtype=np.uint8)
    for place in range(bits):
        codes |= single[..., place::bits] << np.uint8(place)
    return codes


@lru_cache(maxsize=8)
def small_float_levels(exponent_bits: int, mantissa_bits: int) -> NDArray[np.float32]:
    """Return the value of every code of a float without infinities, in the order of the codes.

    The formats are those of the OCP Microscaling specification 1.0, section 5.3: E2M1, E2M3, E3M2.
    """
    import numpy as np

    bias = (1 << (exponent_bits - 1)) - 1
    n_mantissas = 1 << mantissa_bits
    codes = np.arange(1 << (exponent_bits + mantissa_bits))
    exponent, fraction = codes // n_mantissas, (codes % n_mantissas) / n_mantissas
    magnitude = np.where(exponent == 0, fraction * 2.0 ** (1 - bias), (1.0 + fraction) * 2.0 ** (exponent - bias))
    levels = np.concatenate([magnitude, -magnitude]).astype(np.float32)
    levels.setflags(write=False)
    return levels


def power_of_two(exponents: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the numbers of E8M0 scales: 2 to the code less 127, and NaN for 255 (OCP MX 1.0, section 5.4.1)."""
    import numpy as np

    powers = np.ldexp(np.float32(1.0), np.arange(255, dtype=np.int32) - 127)
    return np.append(powers, np.float32(np.nan))[exponents]
