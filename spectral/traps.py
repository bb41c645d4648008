"""Correlation traps: eigenvalues that stay outside the bulk when the elements of W change places.

Permuting the elements destroys every correlation between rows and columns. An eigenvalue that is still too
large comes from the elements themselves: a few of them are far larger than the others, or all share an offset.

The test is calibrated for elements drawn independently from one distribution, Gaussian or not:

- *Bulk*: the largest eigenvalue of the permuted matrix, its largest elements clipped, against the Tracy-Widom law
  (see :mod:`spectral.noise`). This is the whole test where no element is large.
- *Elements*: a large element is a trap where its eigenvalue leaves the bulk, and where the distribution of the
  other elements does not make such an element likely: their tail is continued by a t-distribution through two
  of their quantiles.
  Without this a heavy tail (t5 entries) alone would alarm in a third of all draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from spectral.elements import ElementStatistics, clipped, element_statistics, in_own_units
from spectral.lanczos import leading_eigenvalues
from spectral.noise import ACCURACY, MAX_STEPS, any_of, largest_eigenvalue, level_of_each
from spectral.permutation import generator_for, scrambled
from spectral.roots import bisect_root

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spectral.lanczos import LeadingEigenvalues

MAX_TRAPS = 16
"""At most so many traps are told apart in one slice."""

N_TAIL_SAMPLE = 1 << 16
"""Elements from which the quantiles of the tail are taken."""

TAIL_SHARE = 1e-3
"""The tail is extrapolated from the quantiles exceeded by this share of the elements, and by ten times as many."""

MIN_TAIL_COUNT = 32
"""At least so many elements lie beyond the outer quantile."""

MAX_DEGREES = 1e4
"""A t-distribution of so many degrees of freedom is a Gaussian here."""

INSIDE_BULK = 0.979316
"""The 95% quantile of the Tracy-Widom law: an eigenvalue below it ends the search for traps."""

DEEP_INSIDE, ROUGH_ACCURACY = 0.0, 0.3
"""An eigenvalue found a width inside the 95% quantile, to 0.3 widths, is noise: its p-value of 0.17 or more may be
too large by a quarter, and some of the steps are spared."""

STANDSTILL = 0.02
"""The first eigenvalue inside the bulk must not have risen by more than so many widths since the last look. Its error
is an estimate from the gaps between what was found, and says nothing of a larger one not found yet: without this,
every twentieth largest eigenvalue of 120 x 100 values of a t5 distribution was too small by more than half a width."""

LARGE_SHARE = 0.1
"""An element whose square reaches this share of the bulk edge may have an eigenvalue of its own."""

FLOAT32_REACH = 100.0
"""Where an element's square exceeds the bulk edge by this factor, rounding in float32 would reach the bulk."""

ROUNDING = 16.0 * float(np.finfo(np.float64).eps)
"""An eigenvalue below this share of the largest one is nothing but rounding."""

PURPOSE = 0x7472_6170  # "trap"
"""Keeps these draws apart from all others of the same layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrapTest:
    """The trap test of one slice.

    Attributes
    ----------
    p_value : float
        Probability of as remarkable an eigenvalue where there is no trap, in [0, 1].
    bulk_p_value : float
        Of the largest eigenvalue once large elements are clipped.
    element_p_value : float or None
        Of the largest element and its eigenvalue together; None where no element is large.
    element_p_values : tuple of float
        Of the largest elements in turn, as far as their distribution goes; at most :data:`MAX_TRAPS`.
    statistic : float
        t of the largest eigenvalue of the permuted matrix, in widths of the Tracy-Widom law from the edge.
    eigenvalues : tuple of float
        Largest eigenvalues of the permuted matrix, descending, down to the first inside the bulk.
    eigenvalue_p_values : tuple of float
        Of each in turn, the ones before it taken out.
    detectability_limit : float
        Singular value below which a trap cannot be seen: σ(NM)^(1/4).
    is_calibrated : bool
        Whether the bulk has the law it is tested against; where not (nearly all elements are zero), its p-value is an
        upper bound.
    """

    p_value: float
    bulk_p_value: float
    element_p_value: float | None
    element_p_values: tuple[float, ...]
    statistic: float
    eigenvalues: tuple[float, ...]
    eigenvalue_p_values: tuple[float, ...]
    detectability_limit: float
    is_calibrated: bool

    @property
    def p_values(self) -> tuple[float, ...]:
        """Every p-value that a count of traps depends on."""
        return (self.p_value, self.bulk_p_value, *self.element_p_values, *self.eigenvalue_p_values)

    def n_traps(self, level: float) -> int:
        """Count the eigenvalues that are traps at a level of significance; 0 where the test itself passes.

        An eigenvalue is one where it lies outside the bulk and there is something left to cause it: an element
        that its distribution does not explain, or, once, what all elements share.
        """
        if not self.p_value <= level:
            return 0
        n_causes = _n_leading(self.element_p_values, level) + (self.bulk_p_value <= level)
        return max(1, min(n_causes, _n_leading(self.eigenvalue_p_values, level)))


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTraps:
    """The trap test of one layer, over all its slices.

    Attributes
    ----------
    p_value : float
        Of the layer: as remarkable a slice, among as many.
    slices : tuple of TrapTest
        One per slice.
    """

    p_value: float
    slices: tuple[TrapTest, ...]

    @property
    def statistic(self) -> float:
        """The largest t of any slice."""
        return max(test.statistic for test in self.slices)

    @property
    def detectability_limit(self) -> float:
        """The largest limit of any slice."""
        return max(test.detectability_limit for test in self.slices)

    def n_traps(self, level: float) -> int:
        """Count the traps of all slices at a level for the whole layer (Šidák for the slices)."""
        if not 0.0 < level < 1.0:
            raise ValueError(f"level must lie in (0, 1), got {level!r}")
        per_slice = level_of_each(level, len(self.slices))
        return sum(test.n_traps(per_slice) for test in self.slices)

    def levels(self, highest: float) -> tuple[float, ...]:
        """Return the levels, up to the highest, from which on there is one trap more: ascending, one per trap.

        Counting those at or below a level gives :meth:`n_traps` at it.
        """
        steps = sorted({any_of(p_value, len(self.slices)) for test in self.slices for p_value in test.p_values})
        found: list[float] = []
        for step in steps:
            # Going through any_of and back may lose the last digit: an ulp of the level is no news.
            level = min(max(step * (1.0 + 1e-12), 1e-300), highest)
            found += [step] * (self.n_traps(level) - len(found))
            if level >= highest:
                break
        return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PermutedSlice:
    """One slice with its elements in other places, and what is known of them.

    Attributes
    ----------
    values : ndarray of float32 or float64, shape (rows, columns)
        The permuted elements in units of ``unit``; float64 where one of them would leave the others no digits.
    unit : float
        What the values were divided by, so that they fit their type.
    statistics : ElementStatistics
        Of the values.
    generator : Generator
        Its state after the permutation.
    """

    values: NDArray[np.float32] | NDArray[np.float64] = field(repr=False)
    unit: float
    statistics: ElementStatistics
    generator: np.random.Generator = field(repr=False)


def find_traps(slices: NDArray[Any], *, name: str, seed: int) -> LayerTraps:
    """Test every slice of a layer for correlation traps.

    Parameters
    ----------
    slices : ndarray of any real type, shape (n, rows, columns)
        Of any magnitude; finite, none of them all zero. Not written to.
    name : str
        Layer name; with the seed it decides the permutation.
    seed : int
        The run's seed, at least 0.

    Raises
    ------
    ValueError
        There is no slice, or one is empty, all zero or not finite.

    Notes
    -----
    Whether M is at least :data:`spectral.noise.MIN_EIGENVALUES` is for the caller to see.

    Only the few largest eigenvalues of the permuted matrix are computed, in float32: their error is below
    one in 10⁶, where the law of the largest is a hundredth wide.
    """
    if slices.ndim != 3 or not len(slices):
        raise ValueError(f"expected slices of a layer, got shape {slices.shape}")
    tests = tuple(
        _test_slice(permuted_slice(block, name=name, seed=seed, index=index)) for index, block in enumerate(slices)
    )
    return LayerTraps(p_value=any_of(min(test.p_value for test in tests), len(tests)), slices=tests)


def _test_slice(permuted: PermutedSlice) -> TrapTest:
    return trap_test(permuted, leading_of(permuted))


def permuted_slice(block: NDArray[Any], *, name: str, seed: int, index: int) -> PermutedSlice:
    """Permute the elements of one slice, and take their statistics.

    Parameters
    ----------
    block : ndarray of any float type, shape (rows, columns)
        Finite and not all zero.
    name, seed
        As in :func:`find_traps`.
    index : int
        Number of the slice in its layer.

    Raises
    ------
    ValueError
        The slice is empty, all zero or not finite.
    """
    values, unit = in_own_units(block)
    generator = generator_for(seed, name, PURPOSE, index)
    permuted = scrambled(values, generator)
    return PermutedSlice(values=permuted, unit=unit, statistics=element_statistics(permuted), generator=generator)


def leading_of(permuted: PermutedSlice) -> LeadingEigenvalues:
    """Return the largest eigenvalues of a permuted slice, in its units, down to the first inside the bulk."""
    statistics = permuted.statistics
    centre, width = (statistics.variance * length for length in statistics.edge_and_width())
    values: NDArray[Any] = permuted.values
    if statistics.largest**2 > FLOAT32_REACH * centre:
        values = values.astype(np.float64)

    last: list[float] = []

    def is_settled(found: LeadingEigenvalues) -> bool:
        before, last[:] = tuple(last), found.values.tolist()
        for index, (value, error) in enumerate(zip(found.values, found.errors, strict=True)):
            deep_inside = value < centre + DEEP_INSIDE * width
            if error > max((ROUGH_ACCURACY if deep_inside else ACCURACY) * width, 1e-6 * value):
                return False
            if value < centre + INSIDE_BULK * width:
                return index < len(before) and value - before[index] < STANDSTILL * width
        return len(found.values) > MAX_TRAPS

    return leading_eigenvalues(
        values,
        enough=is_settled,
        start=_start(permuted, centre),
        n_values=MAX_TRAPS + 1,
        max_steps=MAX_STEPS,
    )


def _start(permuted: PermutedSlice, edge: float) -> NDArray[np.float64]:
    """Return a random direction, leaning to the largest element where that may have an eigenvalue of its own.

    The eigenvector of such an eigenvalue is nearly a coordinate axis, which a random direction hardly sees: Lanczos'
    iteration would find the edge of the bulk first, and stop.
    """
    values = permuted.values if permuted.values.shape[0] >= permuted.values.shape[1] else permuted.values.T
    start: NDArray[np.float64] = permuted.generator.standard_normal(min(values.shape))
    if permuted.statistics.largest**2 > LARGE_SHARE * edge:
        start[int(np.argmax(np.max(np.abs(values), axis=0)))] += math.sqrt(len(start))
    return start


def trap_test(permuted: PermutedSlice, leading: LeadingEigenvalues) -> TrapTest:
    """Judge the largest eigenvalues of a permuted slice."""
    statistics = permuted.statistics
    p_values = _eigenvalue_p_values(statistics, leading.values)
    bulk_p_value, element_p_value = p_values[0], None
    element_p_values: tuple[float, ...] = ()
    p_value = bulk_p_value
    if statistics.n_clipped:
        rest = largest_eigenvalue(clipped(permuted.values, statistics), statistics, permuted.generator)
        bulk_p_value = statistics.p_value(statistics.statistic(rest))
        element_p_values = _element_p_values(permuted)
        element_p_value = max(p_values[0], element_p_values[0])
        p_value = any_of(min(bulk_p_value, element_p_value), 2)
    return TrapTest(
        p_value=p_value,
        bulk_p_value=bulk_p_value,
        element_p_value=element_p_value,
        element_p_values=element_p_values,
        statistic=statistics.statistic(float(leading.values[0])),
        eigenvalues=tuple(float(value) * permuted.unit * permuted.unit for value in leading.values[: len(p_values)]),
        eigenvalue_p_values=p_values,
        detectability_limit=statistics.detectability_limit * permuted.unit,
        is_calibrated=statistics.is_calibrated,
    )


def _eigenvalue_p_values(statistics: ElementStatistics, values: NDArray[np.float64]) -> tuple[float, ...]:
    """Return the p-value of each eigenvalue among those not larger than it, down to the first inside the bulk."""
    p_values = []
    rounding = ROUNDING * float(values[0])
    for index, value in enumerate(values):
        t = statistics.statistic(float(value), index) if value > rounding else -math.inf
        p_values.append(statistics.p_value(t, index))
        if t < INSIDE_BULK:
            break
    return tuple(p_values)


def _n_leading(p_values: tuple[float, ...], level: float) -> int:
    """Count down to the first that is above the level."""
    return next((index for index, p_value in enumerate(p_values) if not p_value <= level), len(p_values))


def find_strays(permuted: PermutedSlice, level: float, n_most: int) -> NDArray[np.intp]:
    """Return the elements that make traps by themselves.

    Parameters
    ----------
    permuted : PermutedSlice
        The slice.
    level : float
        Level of significance for the slice.
    n_most : int
        At most so many, the largest.

    Returns
    -------
    ndarray of int
        Positions in the permuted values, in C order: elements that the distribution of the others does not make
        likely, and large enough (:attr:`TrapTest.detectability_limit`) for an eigenvalue of their own.
    """
    magnitudes = np.abs(permuted.values.ravel())
    large = np.flatnonzero(magnitudes > max(permuted.statistics.clip_level, permuted.statistics.detectability_limit))
    large = large[np.argsort(-magnitudes[large], kind="stable")][:n_most]
    return large[: _n_leading(_p_values_of(permuted, magnitudes[large]), level)]


def _element_p_values(permuted: PermutedSlice) -> tuple[float, ...]:
    """Return for each large element the probability that any is so large, from the tail of the others."""
    magnitudes = np.abs(permuted.values.ravel())
    largest = np.sort(magnitudes[magnitudes > permuted.statistics.clip_level])[::-1][:MAX_TRAPS]
    return _p_values_of(permuted, largest)


def _p_values_of(permuted: PermutedSlice, largest: NDArray[Any]) -> tuple[float, ...]:
    from scipy.special import stdtr, stdtrit

    magnitudes, largest = np.abs(permuted.values.ravel()), largest.astype(np.float64)
    sample = magnitudes[:N_TAIL_SAMPLE]
    sample = np.sort(sample[sample > 0.0]).astype(np.float64)
    n_elements = int(np.count_nonzero(permuted.values))
    count = max(MIN_TAIL_COUNT, math.ceil(TAIL_SHARE * len(sample)))
    if 10 * count >= len(sample):
        return (1.0,) * len(largest)
    outer, inner = float(sample[-count]), float(sample[-10 * count])
    share = count / len(sample)
    degrees = _degrees_of_freedom(math.log(outer / inner), share)
    scale = outer / -float(stdtrit(degrees, share / 2.0))
    beyond = 2.0 * stdtr(degrees, -largest / scale)
    return tuple(any_of(float(share), n_elements) for share in beyond)


def _degrees_of_freedom(log_ratio: float, share: float) -> float:
    """Return the degrees of the t-distribution whose quantiles at ``share`` and ten times it have this ratio."""
    from scipy.special import stdtrit

    def excess(log_degrees: float) -> float:
        degrees = math.exp(log_degrees)
        return math.log(float(stdtrit(degrees, share / 2.0) / stdtrit(degrees, 5.0 * share))) - log_ratio

    low, high = 0.0, math.log(MAX_DEGREES)
    if excess(low) <= 0.0:
        return 1.0
    if excess(high) >= 0.0:
        return MAX_DEGREES
    return math.exp(bisect_root(excess, low, high, xtol=1e-6))
