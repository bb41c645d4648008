"""Kernel density with a triangular kernel, exactly, in time that grows with points + grid, not points x grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def linear_kernel_density(
    points: NDArray[np.float64], grid: NDArray[np.float64], *, bandwidth: float
) -> NDArray[np.float64]:
    """Estimate the density Σ_i max(0, 1 - |g - x_i|/h) / (n h) at every g of a grid.

    Within h the kernel is linear in x_i on either side of g, so that its sum over the points there needs
    only their number and their sum: differences of ranks and of prefix sums.

    Parameters
    ----------
    points : ndarray of float64, shape (n,)
        Ascending, n >= 1.
    grid : ndarray of float64, shape (m,)
        Where to evaluate.
    bandwidth : float
        Half-width h of the kernel, positive.

    Returns
    -------
    ndarray of float64, shape (m,)
        The density; integrates to 1 over the line. Rounding is of the order of eps·Σ|x|/(n h²).
    """
    sums = np.concatenate(([0.0], np.cumsum(points)))
    first = np.searchsorted(points, grid - bandwidth, side="right")
    middle = np.searchsorted(points, grid, side="right")
    last = np.searchsorted(points, grid + bandwidth, side="left")
    below = (middle - first) * (bandwidth - grid) + (sums[middle] - sums[first])
    above = (last - middle) * (bandwidth + grid) - (sums[last] - sums[middle])
    return np.asarray((below + above) / (len(points) * bandwidth * bandwidth), dtype=np.float64)
