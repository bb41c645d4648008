"""The elements of a matrix, taken as draws from one distribution: their scale, their moments, their outliers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spectral.noise_edge import MAX_KURTOSIS_SHARE, edge_factors
from spectral.tracy_widom import largest_share_scale, largest_share_sf

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Moments = tuple[float, float, float]

CLIP_SHARE = 0.5
"""Elements are clipped at this share of σ(NM)^(1/4). From 0.45 to 0.65 the rates hardly differ (t5 entries: 4 to 8%
at a level of 5%)."""


NEAR_ONE = (1e-4, 1e4)
"""From a root mean square above the first to a largest value below the second, sixth powers stay far inside float32."""

N_TYPICAL = 4096
"""Elements of which the median is the typical magnitude of a matrix."""

FLOAT32_SHARE, FLOAT64_SHARE = 1e-30, 1e-152
"""Shares of the root mean square below which typical elements would vanish in float32, their squares in float64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ElementStatistics:
    """Moments of the elements of one matrix, its outliers clipped.

    Attributes
    ----------
    n_rows, n_columns : int
        Shape.
    variance : float
        Mean square σ² of the clipped elements (the mean is not removed), > 0.
    excess_kurtosis : float
        Fourth moment over the squared variance, minus 3, of the clipped elements.
    sixth_cumulant : float
        Of the clipped elements in units of their variance: m6 - 15·m4 + 30.
    clip_level : float
        Largest absolute value left, CLIP_SHARE·σ(NM)^(1/4).
    n_clipped : int
        Elements beyond it.
    largest : float
        Largest absolute value before clipping.
    norm_bound : float
        Where the excess kurtosis exceeds :data:`spectral.noise_edge.MAX_KURTOSIS_SHARE` of M, the eigenvalue that
        noise of these magnitudes hardly exceeds, per unit of variance; otherwise 0.
    """

    n_rows: int
    n_columns: int
    variance: float
    excess_kurtosis: float
    sixth_cumulant: float
    clip_level: float
    n_clipped: int
    largest: float
    norm_bound: float

    @property
    def detectability_limit(self) -> float:
        """Singular value below which a rank-one spike leaves no trace in the spectrum: σ(NM)^(1/4)."""
        return math.sqrt(self.variance) * math.sqrt(math.sqrt(self.n_rows * self.n_columns))

    @property
    def is_calibrated(self) -> bool:
        """Whether the law of the largest eigenvalue holds; where not, a bound takes the place of the edge."""
        return self.norm_bound == 0.0

    def edge_and_width(self, n_removed: int = 0) -> tuple[float, float]:
        """Return centre and width of the law of the largest eigenvalue, per unit of variance.

        Parameters
        ----------
        n_removed : int
            Eigenvalues taken out before, less than the smaller dimension.
        """
        centre, width = largest_share_scale(self.n_rows - n_removed, self.n_columns - n_removed)
        edge_factor, width_factor = edge_factors(
            self.n_rows, self.n_columns, excess_kurtosis=self.excess_kurtosis, sixth_cumulant=self.sixth_cumulant
        )
        return max(centre * edge_factor, self.norm_bound), width * width_factor

    def statistic(self, eigenvalue: float, n_removed: int = 0) -> float:
        """Return t of a largest eigenvalue: under the null its mean and variance are those of the Tracy-Widom law."""
        centre, width = self.edge_and_width(n_removed)
        return (eigenvalue / self.variance - centre) / width

    def p_value(self, statistic: float, n_removed: int = 0) -> float:
        """Return the probability of so large a t in noise."""
        return largest_share_sf(statistic, self.n_rows - n_removed, self.n_columns - n_removed)


def in_own_units(block: NDArray[Any]) -> tuple[NDArray[np.float32] | NDArray[np.float64], float]:
    """Divide a matrix by its scale, so that no later power of its elements leaves float32.

    Values of float32 that are near 1 already, as weights are, are taken as they are: the unit is 1. Where one element
    is so large that most others would vanish beside it (1e50 among ordinary ones), the result is float64, and elements
    beyond 1e152 times the typical one are taken for that.

    Parameters
    ----------
    block : ndarray of any real type, shape (rows, columns)
        Values of any magnitude. Not written to.

    Returns
    -------
    ndarray of float32 or float64, shape (rows, columns)
        In C order or as the block was.
    float
        The unit.

    Raises
    ------
    ValueError
        The block is empty, all zero, or not finite.
    """
    if block.ndim != 2 or block.size == 0:
        raise ValueError(f"expected a matrix with values, got shape {block.shape}")
    with np.errstate(invalid="ignore"):  # bfloat16 complains of a NaN before it can be told here
        largest = max(float(np.max(block)), -float(np.min(block)))
    if not 0.0 < largest < math.inf:
        raise ValueError(f"expected finite values that are not all zero, got a largest magnitude of {largest}")
    unit = _root_mean_square(block, largest)
    if block.dtype == np.float32 and NEAR_ONE[0] < unit and largest < NEAR_ONE[1]:
        return block, 1.0
    typical = _typical_magnitude(block)
    if 0.0 < typical < FLOAT32_SHARE * unit:
        reach = typical / FLOAT64_SHARE
        return np.clip(block.astype(np.float64), -reach, reach) / min(unit, reach), min(unit, reach)
    if block.dtype.itemsize > 4 or not 1e-30 < unit < 1e30:
        return (block.astype(np.float64) / unit).astype(np.float32), unit
    return np.asarray(block.astype(np.float32) * np.float32(1.0 / unit), dtype=np.float32), unit


def element_statistics(matrix: NDArray[Any]) -> ElementStatistics:
    """Return the moments of the elements of one matrix, outliers clipped until the level settles.

    Parameters
    ----------
    matrix : ndarray of float, shape (rows, columns)
        As :func:`in_own_units` gives it: finite and of the order of 1. Not written to.

    Raises
    ------
    ValueError
        The mean square is zero or not finite.
    """
    matrix = matrix if matrix.flags.c_contiguous else matrix.T
    largest = max(float(np.max(matrix)), -float(np.min(matrix)))
    moments = _moments(matrix)
    if not (math.isfinite(moments[2]) and moments[2] > 0.0):
        raise ValueError(f"the elements have no sixth moment in range: {moments[2]!r}")
    n_clipped = 0
    scale = 1.0
    level = _clip_level(matrix.shape, moments[0])
    if largest > level:
        moments, scale, level, n_clipped = _settle_clipping(matrix, level)
    second = moments[0]
    kurtosis = moments[1] / second**2
    variance = second * scale * scale
    return ElementStatistics(
        n_rows=matrix.shape[0],
        n_columns=matrix.shape[1],
        variance=variance,
        excess_kurtosis=kurtosis - 3.0,
        sixth_cumulant=moments[2] / second**3 - 15.0 * kurtosis + 30.0,
        clip_level=level,
        n_clipped=n_clipped,
        largest=largest,
        norm_bound=_norm_bound(matrix, level) / variance
        if kurtosis - 3.0 > MAX_KURTOSIS_SHARE * min(matrix.shape)
        else 0.0,
    )


def clipped(matrix: NDArray[Any], statistics: ElementStatistics) -> NDArray[Any]:
    """Return the matrix with its elements clipped as the statistics say (itself where there is nothing to clip)."""
    if statistics.n_clipped == 0:
        return matrix
    return np.asarray(np.clip(matrix, -statistics.clip_level, statistics.clip_level))


def _clip_level(shape: tuple[int, ...], variance: float) -> float:
    return CLIP_SHARE * math.sqrt(variance) * math.sqrt(math.sqrt(shape[0] * shape[1]))


def _settle_clipping(matrix: NDArray[Any], level: float) -> tuple[Moments, float, float, int]:
    """Clip at CLIP_SHARE of the limit that the clipped elements themselves set.

    For a given set of outliers the level solves a linear equation in its square; the set grows as the level falls,
    until it stays (Newton's method for a concave function, so never past the goal). With fewer than 4√(NM) elements
    that are not zero there is no such level. All of them are clipped then, and only their signs are left.

    Returns the moments, the scale in which they are taken, the level, and how many elements are clipped.
    """
    share = CLIP_SHARE**2 * math.sqrt(matrix.size)
    inliers = np.abs(matrix).ravel()
    while True:
        inliers = inliers[inliers <= level].astype(np.float64, copy=False)
        n_outliers = matrix.size - len(inliers)
        energy = float(inliers @ inliers)
        if energy == 0.0:
            level = float(np.min(np.abs(matrix[matrix != 0.0]))) / 2.0
            inliers, n_outliers = inliers[:0], int(np.count_nonzero(matrix))
            break
        level = math.sqrt(share * energy / (matrix.size - share * n_outliers))
        if not np.any(inliers > level):
            break
    # Beside an element of 1e50, fourth and sixth powers of ordinary ones vanish even in float64.
    scale = 1.0 if level > FLOAT32_SHARE else level
    squares = (inliers / scale) ** 2
    inner = float(np.sum(squares)), float(squares @ squares), float(squares**2 @ squares)
    second, fourth, sixth = (
        (total + n_outliers * (level / scale) ** power) / matrix.size
        for total, power in zip(inner, (2, 4, 6), strict=True)
    )
    return (second, fourth, sixth), scale, level, n_outliers


def _norm_bound(matrix: NDArray[Any], level: float) -> float:
    """Return (largest norm of a row + largest norm of a column)² of the clipped elements.

    The leading term of the bound of Bandeira and van Handel (Ann. Probab. 44, 2016, 2479, theorem 3.1) on the
    spectral norm of independent symmetric entries, here given their magnitudes.
    """
    squares = np.square(np.clip(matrix, -level, level), dtype=np.float64)
    return math.fsum(math.sqrt(float(np.max(squares.sum(axis=axis)))) for axis in (0, 1)) ** 2


def _root_mean_square(block: NDArray[Any], largest: float) -> float:
    if block.dtype.itemsize > 4 or not 1e-12 < largest < 1e12:
        relative = block.astype(np.float64).ravel() / largest
        return largest * math.sqrt(float(np.dot(relative, relative)) / block.size)
    flat = block.astype(np.float32, copy=False).ravel()
    return math.sqrt(float(np.dot(flat, flat)) / block.size)


def _typical_magnitude(block: NDArray[Any]) -> float:
    """Return the median magnitude of some elements that are not zero; 0 where these all are."""
    # Random places, the same ones in every run: any fixed step meets a few columns only in matrices of some shape.
    places = np.random.default_rng(0).integers(0, block.size, N_TYPICAL)
    sample = np.abs(block[places // block.shape[1], places % block.shape[1]].astype(np.float64))
    sample = sample[sample > 0.0]
    return float(np.median(sample)) if len(sample) else 0.0


def _moments(matrix: NDArray[Any]) -> Moments:
    """Return the mean square, fourth and sixth power, summed in blocks of rows."""
    rows = max(1, (1 << 16) // matrix.shape[1])
    second = fourth = sixth = 0.0
    for start in range(0, len(matrix), rows):
        values = matrix[start : start + rows].ravel()
        squares = np.square(values)
        second += float(values @ values)
        fourth += float(squares @ squares)
        sixth += float((squares * squares) @ squares)
    return second / matrix.size, fourth / matrix.size, sixth / matrix.size
