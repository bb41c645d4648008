"""Tensors that are one: names for the same values in memory, which are analysed and counted once.

Which values a tensor takes, its :class:`Region` says: the order of axes does not matter, so a transposed or reshaped
view takes the same. Equal copies in other places are two weights, whatever their values.

Where one tensor is a view of a part of another (the query rows of a fused projection), the whole is analysed and the
part is listed: the whole holds every value of both, so nothing is left out and nothing is counted twice. Only a
vector is no whole (a flat buffer that weights are cut from): it has no spectrum, the weights have. Of two that overlap,
neither within the other, no one holds all values: both are analysed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from spectral.loaders.torch_pickle import StoredTensor
from spectral.loaders.torch_tensor import is_torch_tensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from spectral.loaders.protocol import TensorInfo

MAX_OPEN = 64
"""A tensor is compared with at most so many that lie around it: real models have one or two, and a small hostile file
could hold a hundred thousand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """The places in memory that a tensor takes its values from, whatever their order.

    Attributes
    ----------
    kind : (device, element type, whether the sign is flipped when read)
        Regions of different kinds have nothing in common.
    begin : int
        Address of the lowest value, in bytes.
    axes : tuple of (length, stride)
        Largest stride first, in bytes, all positive unless a value is repeated; axes that run on are one.
    itemsize : int
        Bytes of a value.
    own_axes : tuple of (length, stride)
        As ``axes``, but one for each axis of the tensor: two that run on may still skip what lies between.
    """

    kind: tuple[str, str, bool]
    begin: int
    axes: tuple[tuple[int, int], ...]
    itemsize: int
    own_axes: tuple[tuple[int, int], ...] = field(compare=False, repr=False)

    @property
    def n_values(self) -> int:
        """Number of values."""
        return math.prod(length for length, _ in self.axes)

    @property
    def end(self) -> int:
        """Address behind the highest value."""
        return self.begin + sum((length - 1) * stride for length, stride in self.axes) + self.itemsize

    @property
    def repeats(self) -> bool:
        """Whether a value may be taken more than once (an expanded view, a sliding window)."""
        reach = self.itemsize
        for length, stride in reversed(self.axes):
            if stride < reach:
                return True
            reach += (length - 1) * stride
        return False

    def lies_in(self, other: Region) -> bool:
        """Tell whether all values are among those of another region; False where that is not certain.

        Begin and steps are written in the axes of the other; where they stay within its lengths, so does every value.
        """
        if self.kind != other.kind or other.repeats:
            return False
        last = _in_axes(self.begin - other.begin, other.axes)
        for length, stride in self.own_axes:
            step = _in_axes(stride, other.axes)
            if last is None or step is None:
                return False
            last = tuple(place + (length - 1) * n for place, n in zip(last, step, strict=True))
        return last is not None and all(place < length for place, (length, _) in zip(last, other.axes, strict=True))


def region_of(value: Any) -> Region | None:
    """Return where a tensor or an array has its values, also one in a file; None for what is neither, or empty."""
    if is_torch_tensor(value):
        itemsize, first = value.element_size(), value.data_ptr()
        kind = (str(value.device), str(value.dtype).removeprefix("torch."), value.is_neg())
    elif isinstance(value, StoredTensor):
        if value.storage is None:
            return None
        itemsize, first = value.itemsize, value.offset
        kind = (f"storage {value.storage.key}", value.dtype, value.is_negative)
    else:
        import numpy as np

        if not isinstance(value, np.ndarray):
            return None
        itemsize, first = value.itemsize, value.__array_interface__["data"][0]
        kind = ("cpu", value.dtype.name if value.dtype.isnative else value.dtype.str, False)
    if 0 in value.shape:
        return None
    steps = _steps(value)
    # Along a negative stride the first value is the highest.
    begin = first + sum((length - 1) * stride for length, stride in steps if stride < 0)
    axes = tuple((length, abs(stride)) for length, stride in steps if length > 1)
    return Region(kind=kind, begin=begin, axes=_merged(axes), itemsize=itemsize, own_axes=axes)


def mark_ties(infos: Mapping[str, TensorInfo], values: Mapping[str, Any]) -> dict[str, TensorInfo]:
    """Refuse every tensor whose values another one has, saying which.

    Of several names for the same values, the first stays.

    Parameters
    ----------
    infos : mapping of str to TensorInfo
        All tensors of the model, in order.
    values : mapping of str to object
        What they are; only torch tensors, those in files and numpy arrays are looked at.

    Returns
    -------
    dict of str to TensorInfo
        The same tensors in the same order. A matrix that is cut from a vector has no refusal: it is counted in that.
    """
    regions: dict[str, Region] = {}
    for name, info in infos.items():
        # A tensor without values, or on a device without memory, begins nowhere.
        region = region_of(values.get(name)) if info.refusal is None else None
        if region is not None:
            regions[name] = region
    marked = dict(infos)
    holders: list[str] = []
    for name in _outermost_first(regions, infos):
        region = regions[name]
        holders = [other for other in holders if _may_meet(region, regions[other])]
        around = [other for other in holders if region.lies_in(regions[other])]
        whole = next((other for other in around if _is_matrix(infos[other]) or not _is_matrix(infos[name])), None)
        if whole is not None:
            reason = _reason(whole, (values[name], region), (values[whole], regions[whole]))
            marked[name] = replace(infos[name], refusal=reason, counted_in=whole)
            continue
        if around:
            marked[name] = replace(infos[name], counted_in=around[0])
        if len(holders) < MAX_OPEN:
            holders.append(name)
    return marked


def is_tied(info: TensorInfo) -> bool:
    """Tell whether a tensor is all of another one, as it is or transposed."""
    return info.counted_in is not None and (info.refusal == f"tied to {info.counted_in}" or is_transposed(info))


def is_transposed(info: TensorInfo) -> bool:
    """Tell whether a tensor is the transpose of the one that it is tied to."""
    return info.counted_in is not None and info.refusal == f"tied to {info.counted_in}, transposed"


def _reason(name: str, view: tuple[Any, Region], whole: tuple[Any, Region]) -> str:
    if view[1] != whole[1]:
        return f"a view of a part of {name}"
    steps, others = _steps(view[0]), _steps(whole[0])
    if steps == others:
        return f"tied to {name}"
    return f"tied to {name}, transposed" if steps == others[::-1] else f"tied to {name}, in another shape or order"


def _steps(value: Any) -> tuple[tuple[int, int], ...]:
    """Return length and stride of each axis, in bytes; that of an axis without steps is 0, whatever is stored."""
    if is_torch_tensor(value):
        strides = tuple(stride * value.element_size() for stride in value.stride())
    else:
        strides = value.strides
    return tuple((length, stride if length > 1 else 0) for length, stride in zip(value.shape, strides, strict=True))


def _is_matrix(info: TensorInfo) -> bool:
    return sum(length > 1 for length in info.shape) >= 2


def _may_meet(region: Region, earlier: Region) -> bool:
    return earlier.kind == region.kind and earlier.end > region.begin


def _outermost_first(regions: Mapping[str, Region], infos: Mapping[str, TensorInfo]) -> list[str]:
    """Order names so that each region comes after those that hold it; matrices come before their equals."""

    def key(name: str) -> tuple[object, ...]:
        region = regions[name]
        return region.kind, region.begin, -region.end, -region.n_values, region.repeats, not _is_matrix(infos[name])

    return sorted(regions, key=key)


def _merged(axes: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Return axes with the largest stride first, one for those that together step evenly."""
    merged: list[tuple[int, int]] = []
    for length, stride in sorted(axes, key=lambda axis: axis[1]):
        if merged and stride == merged[-1][0] * merged[-1][1] > 0:
            merged[-1] = (merged[-1][0] * length, merged[-1][1])
        else:
            merged.append((length, stride))
    return tuple(reversed(merged))


def _in_axes(distance: int, axes: tuple[tuple[int, int], ...]) -> tuple[int, ...] | None:
    """Return how many steps along each axis make up a distance, largest strides first; None where none do."""
    if distance < 0:
        return None
    steps = []
    for _, stride in axes:
        n, distance = divmod(distance, stride)
        steps.append(n)
    return tuple(steps) if distance == 0 else None
