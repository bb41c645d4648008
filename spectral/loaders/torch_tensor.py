"""From a torch tensor to numpy, bit for bit. Imports torch only through the tensor it is given."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeGuard

from spectral.errors import ModelError, UnsupportedModelError
from spectral.loaders.dtypes import CODED, PLAIN_DTYPES, numpy_dtype, why_not_float
from spectral.loaders.protocol import LayerType, TensorInfo

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray


def is_torch_tensor(value: object) -> TypeGuard[torch.Tensor]:
    """Tell whether ``value`` is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def describe_torch_tensor(name: str, tensor: torch.Tensor, role: LayerType | None = None) -> TensorInfo:
    """Return the header of a torch tensor; its values are not touched.

    Raises
    ------
    UnsupportedModelError
        A parameter of a lazy module that has not seen an input: it has no shape.
    """
    if type(tensor).__name__ in ("UninitializedParameter", "UninitializedBuffer"):
        raise UnsupportedModelError(f"{name!r} is not initialised: run the model once, so that it has a shape")
    dtype = str(tensor.dtype).removeprefix("torch.")
    refusal = why_not_float(dtype)
    if tensor.is_quantized:
        refusal = CODED.format(dtype=dtype)
    elif str(tensor.layout) != "torch.strided":
        refusal = f"sparse storage is not read ({tensor.layout})"
    elif tensor.is_meta:
        refusal = "the tensor is on the meta device: it has no values"
    elif tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        # A few bytes of a file can claim terabytes this way.
        refusal = "an expanded view: it repeats values that are stored once"
    return TensorInfo(name=name, shape=tuple(tensor.shape), dtype=dtype, role=role, refusal=refusal)


def torch_to_numpy(
    label: str, name: str, tensor: torch.Tensor, span: tuple[int, int] | None = None, *, as_stored: bool = False
) -> NDArray[Any]:
    """Return the values of a torch tensor as a C-ordered array of the same dtype.

    With ``span`` only the values from one flat position to another, one-dimensional; with ``as_stored`` also of types
    whose values are no weights as they stand.

    Types that numpy lacks (bfloat16, float8) cross as integers of the same width and are viewed as the
    ml_dtypes type, so no value changes.
    """
    info = describe_torch_tensor(name, tensor)
    is_plain = (
        as_stored
        and info.refusal is not None
        and info.dtype in PLAIN_DTYPES
        and info.refusal == why_not_float(info.dtype)
    )
    if info.refusal is not None and not is_plain:
        raise ModelError(f"{label}: tensor {name!r}: {info.refusal}")
    if span is not None:
        tensor = tensor.reshape(-1)[span[0] : span[1]]
    plain = tensor.detach().cpu().resolve_neg().contiguous()
    values: NDArray[Any]
    if is_plain:
        values = plain.numpy()
        return values
    dtype = numpy_dtype(info.dtype)
    if info.dtype in ("float64", "float32", "float16"):
        values = plain.numpy()
    else:
        import torch

        carrier = {1: torch.uint8, 2: torch.int16}[dtype.itemsize]
        values = plain.view(carrier).numpy().view(dtype)
    return values
