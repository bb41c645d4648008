"""Element types by name, for every type a checkpoint may hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

FLOAT_DTYPES = frozenset(
    {
        "float64",
        "float32",
        "float16",
        "bfloat16",
        "float8_e4m3fn",
        "float8_e5m2",
        "float8_e4m3fnuz",
        "float8_e5m2fnuz",
        "float8_e8m0fnu",
    }
)
"""Types whose values are weights as they stand."""

INDEX_DTYPES = frozenset({"bool", "int64", "uint64"})
"""Types that hold masks and positions, never weights: they do not count as parameters."""

PLAIN_DTYPES = FLOAT_DTYPES | INDEX_DTYPES | {"int8", "uint8", "int16", "uint16", "int32", "uint32"}
"""Types of single numbers."""

CODED = "quantised or packed values are not decoded ({dtype})"
"""Why a tensor of codes has no spectrum where nothing tells what they stand for."""

_NUMPY_NAMES = frozenset({"float64", "float32", "float16"})


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return the numpy dtype of a :data:`FLOAT_DTYPES` name, through ml_dtypes where numpy has none."""
    import numpy as np

    if name in _NUMPY_NAMES:
        return np.dtype(name).newbyteorder("<")
    import ml_dtypes

    dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
    return dtype


def stored_dtype(name: str) -> np.dtype[Any] | None:
    """Return the numpy dtype of any type that a checkpoint may hold, or None where no array has it (half bytes)."""
    import numpy as np

    if name in FLOAT_DTYPES:
        return numpy_dtype(name)
    return None if name.startswith(("float4", "float6")) else np.dtype(name).newbyteorder("<")


def why_not_float(dtype: str) -> str | None:
    """Return why a tensor of this dtype has no spectrum, or None where it has one."""
    if dtype in FLOAT_DTYPES:
        return None
    if dtype in INDEX_DTYPES:
        return f"holds positions or a mask, not weights ({dtype})"
    if dtype.startswith("complex"):
        return f"complex values are not analysed ({dtype})"
    return CODED.format(dtype=dtype)
