"""What the arrays of a Flax model do: the names of the leaves say it, and kernels have their outputs last.

``Dense`` has (in, out), ``Conv`` (k1, .., in, out) (``flax/linen/linear.py``); ``MultiHeadDotProductAttention`` has
(in, heads, depth) for query, key and value and (heads, depth, out) for its output (``flax/linen/attention.py``); layers
under ``nn.scan`` are stacked along the first axis.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from spectral.loaders.protocol import LayerType, TensorInfo
from spectral.parts import Part, channels_last_kernel, matrix, stack

if TYPE_CHECKING:
    from collections.abc import Mapping

_CONVOLUTIONS = {4: LayerType.CONV2D, 5: LayerType.CONV3D}

_INPUTS, _OUTPUT = ("query", "key", "value"), "out"

_SCANNED = re.compile(r"(^|/)(\w*scan\w*)(/|$)", re.IGNORECASE)


def role_of_flax(info: TensorInfo) -> LayerType | None:
    """Return what the name of a leaf says that it does."""
    leaf = info.name.rpartition("/")[2]
    return LayerType.EMBEDDING if leaf == "embedding" and len(info.shape) == 2 else None


def parts_of_flax(name: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Part, ...] | None:
    """Return the matrices of a kernel of more than two dimensions, or None where the general rules tell as much.

    Parameters
    ----------
    name : str
        Of the array.
    shapes : mapping of str to tuple of int
        Of all arrays of the file.
    """
    layer, _, leaf = name.rpartition("/")
    shape = shapes[name]
    if leaf != "kernel" or len(shape) not in (3, 4, 5) or 0 in shape:
        return None
    if len(shape) in _CONVOLUTIONS:
        return channels_last_kernel(_CONVOLUTIONS[len(shape)], shape)
    first, second, third = shape
    block, _, module = layer.rpartition("/")
    if _is_attention(block, shapes):
        if module in _INPUTS:
            return matrix(LayerType.DENSE, first, second * third)
        if module == _OUTPUT:
            return matrix(LayerType.DENSE, first * second, third)
    if "conv" in module.lower():
        return channels_last_kernel(LayerType.CONV1D, shape)
    return stack(LayerType.DENSE, (first, second, third)) if _SCANNED.search(layer) else None


def _is_attention(block: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Tell whether query, key, value and output stand beside each other, each with an axis for the heads."""
    prefix = f"{block}/" if block else ""
    return all(len(shapes.get(f"{prefix}{module}/kernel", ())) == 3 for module in (*_INPUTS, _OUTPUT))
