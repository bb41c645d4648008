"""What a weight matrix would look like if it were noise, and whether it does.

The null hypothesis: the elements are independent draws from one distribution with mean zero. Then the largest
eigenvalue of WᵀW follows the Tracy-Widom law around the Marchenko-Pastur edge - but only where the fourth
moment is that of a Gaussian and no single element is large. Two corrections make the test hold for other entries, too:

- Edge and width are those of the cumulants of the elements (:mod:`spectral.noise_edge`). The relative shift is of
  the order of the width of the law itself for every size met in practice (uniform: -0.4 widths at 128 x 128).
- An element above σ(NM)^(1/4) sticks out of the bulk all by itself, and t-distributed entries have such
  elements (Ding and Yang, Ann. Appl. Probab. 28, 2018, 1679: the law holds only if x⁴P(|w| > x) vanishes).
  Elements above CLIP_SHARE of that limit are clipped to it first, so that a few large elements are not taken for
  structure; whether they are remarkable is the question of the trap test (:mod:`spectral.traps`), not of this one.

Where nearly all elements are zero, the largest eigenvalue of noise belongs to its heaviest row or column. There is
no such law then; the test compares with a bound instead, alarms less often than it may, and ``is_calibrated`` says so.

A rank-one signal is found from about 1.2 times the detectability limit on: at exactly 1.2 times, in 50% (128 x 128),
63% (256 x 256) and 79% (512 x 512) of the draws at a level of 5%, where the best test of all, the likelihood ratio for
a known strength, finds 60% and 75% in the first two (benchmarks/calibration.py, benchmarks/power_limit.py).

Uncorrected, the test at 5% alarmed in 2% of uniform and in 33 to 44% of t5-distributed noise matrices (M = 64 to 256).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spectral.elements import clipped, element_statistics, in_own_units
from spectral.lanczos import leading_eigenvalues
from spectral.spectrum import NOISE_FLOOR
from spectral.tracy_widom import tracy_widom_quantile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spectral.elements import ElementStatistics
    from spectral.lanczos import LeadingEigenvalues

MIN_EIGENVALUES = 32
"""Smallest dimension M from which on the tests keep their level; do not test smaller matrices. In 1000 draws of square
noise matrices with M = 4, 8, 16 and 24 the noise test at 5% alarmed in 56, 24, 6 and 6% (Gaussian) and in 58, 25, 9
and 7% (uniform), the trap test in 37, 12, 5 and 9% (t5). Below 18 x 18 there are too few elements, too, for the
distribution of the largest one to be extrapolated from the others. At M = 32 all are at most 7%."""

SPIKE_LEVEL = 0.01
"""Level of the test by which one eigenvalue after the other is taken for a spike when the noise level is estimated."""

ACCURACY = 0.05
"""Largest eigenvalues are iterated to this share of the width of their law: a p-value of 5% moves by 0.3% at most."""

MAX_STEPS = 400

MIN_VARIANCE = 1e-8
"""Elements of a smaller variance are enlarged before products are taken: beside one of 1e20 times their size, their
products would vanish in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseTest:
    """Whether a matrix can be told from noise.

    Attributes
    ----------
    statistic : float
        t of the largest eigenvalue (of the slice that differs most).
    p_value : float
        Probability of as large a t in pure noise, over all slices; small means: there is structure.
    noise_sigma : float
        Noise level σ: standard deviation of the elements once the spikes are taken out; 0 where nothing is left.
    n_spikes : int
        Eigenvalues that cannot be noise, one after the other at :data:`SPIKE_LEVEL` (over all slices). Where there is
        structure, eigenvalues that large elements cause are among them.
    detectability_limit : float
        Singular value that a rank-one signal must exceed to be seen at all, σ(NM)^(1/4).
    n_clipped : int
        Elements so large that they were clipped for the test.
    is_calibrated : bool
        Whether the p-value holds as it stands; where not (nearly all elements are zero), it is an upper bound.
    """

    statistic: float
    p_value: float
    noise_sigma: float
    n_spikes: int
    detectability_limit: float
    n_clipped: int
    is_calibrated: bool


def largest_eigenvalue(matrix: NDArray[Any], statistics: ElementStatistics, generator: np.random.Generator) -> float:
    """Return the largest eigenvalue of WᵀW, to :data:`ACCURACY` of the width of its law under the null.

    Parameters
    ----------
    matrix : ndarray of float32 or float64, shape (rows, columns)
        W, or its elements in other places.
    statistics : ElementStatistics
        Of the same elements.
    generator : Generator
        Draws the start vector.
    """
    _, width = statistics.edge_and_width()
    variance = statistics.variance
    if variance < MIN_VARIANCE:
        matrix = matrix / math.sqrt(variance)
        variance = 1.0
    least = ACCURACY * width * variance

    def is_accurate(found: LeadingEigenvalues) -> bool:
        return float(found.errors[0]) <= max(least, 1e-6 * float(found.values[0]))

    found = leading_eigenvalues(
        matrix,
        enough=is_accurate,
        start=generator.standard_normal(min(matrix.shape)),
        n_values=1,
        max_steps=MAX_STEPS,
    )
    return float(found.values[0]) * (statistics.variance / variance)


def noise_level(evals: NDArray[np.float64], statistics: ElementStatistics, *, level: float) -> tuple[float, int]:
    """Estimate the variance of the noise and the number of spikes that stand out of it.

    Kritchman and Nadler, Chemometrics and Intelligent Laboratory Systems 94 (2008) 19: test one eigenvalue after the
    other, and re-estimate the noise without the energy of the spikes found so far. A spike of strength θ² has
    the eigenvalue (θ² + Nσ²)(θ² + Mσ²)/θ² (Benaych-Georges and Nadakuditi, J. Multivariate Anal. 111, 2012, section
    3.1), which is solved for θ².

    Parameters
    ----------
    evals : ndarray of float64, shape (M,)
        Eigenvalues of one slice, ascending.
    statistics : ElementStatistics
        Of its elements.
    level : float
        Level of each test, in (0, 1).

    Returns
    -------
    float
        σ² of the noise.
    int
        Number of spikes, at most half of the eigenvalues: beyond that there is no bulk to compare with.

    Notes
    -----
    Where nothing but rounding is left beside the spikes (an exact low-rank product, a constant matrix), σ² is 0.
    """
    n_rows, n_columns = statistics.n_rows, statistics.n_columns
    quantile = tracy_widom_quantile(level)
    largest_first = evals[::-1]
    total = float(np.sum(evals))
    variance = total / (n_rows * n_columns)
    n_spikes = 0
    rounding = NOISE_FLOOR * len(evals) * float(np.finfo(np.float64).eps) * float(largest_first[0])
    while n_spikes < len(evals) // 2:
        if largest_first[n_spikes] <= rounding:
            return 0.0, n_spikes
        centre, width = statistics.edge_and_width(n_spikes)
        if largest_first[n_spikes] <= variance * (centre + quantile * width):
            break
        n_spikes += 1
        variance = _noise_variance(largest_first[:n_spikes], total, n_rows, n_columns, variance)
    return variance, n_spikes


def compare_with_noise(
    slices: NDArray[Any],
    slice_evals: NDArray[np.float64],
    generator: np.random.Generator,
) -> NoiseTest:
    """Test whether a matrix, or any slice of a convolution, can be told from noise.

    Parameters
    ----------
    slices : ndarray of any real type, shape (n, rows, columns)
        Of any magnitude; finite, none of them all zero.
    slice_evals : ndarray of float64, shape (n, M)
        Eigenvalues λ = σ² of each slice as it stands here (without ``w_norm``), ascending.
    generator : Generator
        For start vectors, where large elements must be clipped.

    Raises
    ------
    ValueError
        There is no slice, one is empty, all zero or not finite, or the eigenvalues do not belong to the slices.

    Notes
    -----
    Whether M is at least :data:`MIN_EIGENVALUES` is for the caller to see: below, the p-value does not hold.
    """
    if slices.ndim != 3 or not len(slices) or slice_evals.shape != (len(slices), min(slices.shape[1:])):
        raise ValueError(f"expected slices and their eigenvalues, got shapes {slices.shape} and {slice_evals.shape}")
    statistics, tests, levels, units = [], [], [], []
    for block, evals in zip(slices, slice_evals, strict=True):
        values, unit = in_own_units(block)
        moments = element_statistics(values)
        scaled = evals / unit / unit
        largest = float(scaled[-1])
        if moments.n_clipped:
            largest = largest_eigenvalue(clipped(values, moments), moments, generator)
        statistics.append(moments)
        t = moments.statistic(largest)
        tests.append(t)
        # Where large elements were clipped and nothing is left, what stands out is these elements: no spike.
        is_noise = moments.n_clipped > 0 and not moments.p_value(t) <= SPIKE_LEVEL
        levels.append((moments.variance, 0) if is_noise else noise_level(scaled, moments, level=SPIKE_LEVEL))
        units.append(unit)
    statistic = max(tests)
    largest_unit = max(units)
    variances = [level * (unit / largest_unit) ** 2 for (level, _), unit in zip(levels, units, strict=True)]
    sigma = largest_unit * math.sqrt(float(np.mean(variances)))
    return NoiseTest(
        statistic=statistic,
        p_value=any_of(statistics[0].p_value(statistic), len(tests)),
        noise_sigma=sigma,
        n_spikes=sum(count for _, count in levels),
        detectability_limit=sigma * (slices.shape[1] * slices.shape[2]) ** 0.25,
        n_clipped=sum(moments.n_clipped for moments in statistics),
        is_calibrated=all(moments.is_calibrated for moments in statistics),
    )


def any_of(p_value: float, n_tests: int) -> float:
    """Return the p-value of the smallest of ``n_tests`` independent p-values (Šidák)."""
    if not 0.0 <= p_value <= 1.0:
        raise ValueError(f"a p-value lies in [0, 1], got {p_value!r}")
    return max(0.0, -math.expm1(n_tests * math.log1p(-p_value))) if p_value < 1.0 else 1.0


def level_of_each(level: float, n_tests: int) -> float:
    """Return the level of each of ``n_tests`` independent tests that share a level: the inverse of :func:`any_of`."""
    return -math.expm1(math.log1p(-level) / n_tests)


def _noise_variance(spikes: NDArray[np.float64], total: float, n_rows: int, n_columns: int, variance: float) -> float:
    """Return σ² such that the noise and the signal behind the spikes make up the whole energy."""
    n_elements = n_rows * n_columns
    for _ in range(50):
        centred = spikes - variance * (n_rows + n_columns)
        root = np.sqrt(np.maximum(centred**2 - 4.0 * variance**2 * n_elements, 0.0))
        signal = float(np.sum(np.maximum(centred + root, 0.0))) / 2.0
        updated = max((total - signal) / n_elements, 0.0)
        if abs(updated - variance) <= 1e-10 * variance:
            return updated
        variance = updated
    return variance
