"""What a weight that is stored in codes is computed from: the contract of the schemes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from spectral.loaders.protocol import StoredSource, TensorInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Stored tensors for one weight; a small one is kept while that is computed.

    Attributes
    ----------
    source : StoredSource
        Where they are.
    infos : mapping of str to TensorInfo
        Their headers.
    kept : dict of str to ndarray
        Those that were read whole.
    """

    source: StoredSource
    infos: Mapping[str, TensorInfo] = field(repr=False)
    kept: dict[str, NDArray[Any]] = field(default_factory=dict, repr=False)

    def whole(self, name: str) -> NDArray[Any]:
        """Return a tensor in its stored type."""
        if name not in self.kept:
            info = self.infos[name]
            self.kept[name] = self.source.load_stored(name, 0, info.n_values).reshape(info.shape)
        return self.kept[name]

    def floats(self, name: str) -> NDArray[np.float32]:
        """Return a tensor as float32."""
        import numpy as np

        return self.whole(name).astype(np.float32)

    def flat(self, name: str, begin: int, end: int) -> NDArray[Any]:
        """Return some values in C order, in their stored type."""
        return self.source.load_stored(name, begin, end)

    def rows(self, name: str, begin: int, end: int) -> NDArray[Any]:
        """Return some of a tensor along its first axis, in its stored type."""
        shape = self.infos[name].shape
        n_each = self.infos[name].n_values // shape[0]
        return self.flat(name, begin * n_each, end * n_each).reshape(end - begin, *shape[1:])


class Recipe(Protocol):
    """How one weight is computed."""

    @property
    def info(self) -> TensorInfo:
        """The weight: its name, its shape, its type when it is computed, how it is stored."""

    @property
    def parts(self) -> Mapping[str, str]:
        """What it is computed from: names of tensors, and what each is (``codes``, ``scales``, ``zero points``)."""

    def slab(self, read: Reader, begin: int, end: int) -> NDArray[np.float32]:
        """Return some of the weight along its first axis."""


def spread(scales: NDArray[Any], block: tuple[int, ...], shape: tuple[int, ...], offset: int = 0) -> NDArray[Any]:
    """Repeat every scale over its block, as far as numpy does not do so by itself.

    Parameters
    ----------
    scales : ndarray
        One for every block; an axis with a single one is left so.
    block : tuple of int
        Lengths of a block.
    shape : tuple of int
        What is to be scaled: the last block along an axis may be shorter.
    offset : int
        Along the first axis: how many rows come before it, counted from the block of the first scale.
    """
    import numpy as np

    for axis, (length, n) in enumerate(zip(block, shape, strict=True)):
        if scales.shape[axis] > 1 and length > 1:
            scales = np.repeat(scales, length, axis=axis)
        if scales.shape[axis] > 1:
            first = offset if axis == 0 else 0
            scales = scales[(slice(None),) * axis + (slice(first, first + n),)]
    return scales
