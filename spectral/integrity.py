"""Values that no spectrum covers: biases, norms, and tensors that are not analysed must be finite, too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spectral.loaders.protocol import TensorSource


@dataclass(frozen=True, slots=True, kw_only=True)
class NonFiniteTensor:
    """A tensor with NaN or infinite values.

    Attributes
    ----------
    name : str
        Tensor name.
    n_bad, n_values : int
        How many of its values are NaN or infinite, and how many it has.
    """

    name: str
    n_bad: int
    n_values: int


def find_non_finite(source: TensorSource, names: Sequence[str]) -> tuple[NonFiniteTensor, ...]:
    """Return the tensors that hold NaN or infinite values, reading one at a time.

    Parameters
    ----------
    source : TensorSource
        Where they are.
    names : sequence of str
        Tensors of a float type.
    """
    found = []
    for name in names:
        values = source.load(name)
        n_bad = int(np.count_nonzero(~np.isfinite(values)))
        if n_bad:
            found.append(NonFiniteTensor(name=name, n_bad=n_bad, n_values=values.size))
    return tuple(found)
