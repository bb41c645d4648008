"""Tensors that are one: two names for the same storage, which is analysed and counted once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from spectral.loaders.torch_tensor import is_torch_tensor

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from spectral.loaders.protocol import TensorInfo


def mark_ties(infos: Mapping[str, TensorInfo], values: Mapping[str, Any]) -> dict[str, TensorInfo]:
    """Refuse every tensor that is an earlier one under another name, saying which.

    Two tensors are one where they begin at the same place of the same device with the same shape, strides and type:
    equal copies are two.

    Parameters
    ----------
    infos : mapping of str to TensorInfo
        All tensors of the model, in order.
    values : mapping of str to object
        What they are; only torch tensors are looked at.
    """
    first_names: dict[tuple[object, ...], str] = {}
    marked = dict(infos)
    for name, info in infos.items():
        tensor = values.get(name)
        # A tensor without values, or on a device without memory, begins nowhere.
        if not is_torch_tensor(tensor) or info.n_values == 0 or info.refusal is not None:
            continue
        key = (str(tensor.device), tensor.data_ptr(), info.shape, tensor.stride(), info.dtype)
        first = first_names.setdefault(key, name)
        if first != name:
            marked[name] = replace(info, refusal=f"tied to {first}", counted_in=first)
    return marked
