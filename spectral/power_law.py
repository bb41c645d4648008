"""Power-law fit of the tail of an ESD.

Continuous maximum likelihood with the Kolmogorov-Smirnov choice of xmin: Clauset, Shalizi and Newman,
SIAM Review 51 (2009) 661, equations 3.1 (exponent), 3.2 (its error) and 3.9 (distance).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from spectral.fits import FitFailure, FitFailureReason

if TYPE_CHECKING:
    from numpy.typing import NDArray

EVALS_THRESHOLD = 1e-5
"""Eigenvalues at or below this do not enter the fit (the incumbent's threshold)."""

MIN_EVALS = 8
"""The incumbent's least number of eigenvalues; the gate asks for more."""

SMALL_SAMPLE = 20
"""Below this many values the exponent is bias-corrected, and the tail keeps at least MIN_TAIL points."""

MIN_TAIL = 8

MIN_LOG_SPREAD = 1e-5
"""A tail whose largest and smallest value differ by less than this share is rounding noise around one value: an
orthogonal matrix in float32 has eigenvalues of 1 ± 1e-6, whose alpha of half a million was another one in every run."""

_PROBES = (12, 64, 512)
_FEW_STARTS = 64
_BLOCK_VALUES = 1 << 19
_SLACK = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerLawFit:
    """p(x) = (α-1)/xmin · (x/xmin)^(-α) for x >= xmin.

    Attributes
    ----------
    alpha : float
        Exponent α > 1.
    sigma : float
        Its standard error (α-1)/√n_tail.
    xmin, xmax : float
        Where the tail begins, and the largest value.
    D : float
        Kolmogorov-Smirnov distance of tail and fit, 0 to 1.
    n_tail : int
        Number of values from xmin on (`num_pl_spikes`).
    is_bounded : bool
        The law ends at xmax: its density is the above divided by 1 - (xmax/xmin)^(1-α).
    """

    alpha: float
    sigma: float
    xmin: float
    xmax: float
    D: float
    n_tail: int
    is_bounded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PowerLawProfile:
    """What every candidate xmin has to say: the curve the fit takes its minimum from.

    Attributes
    ----------
    xmins, alphas, distances : ndarray of float64, shape (n_candidates,)
        Where each tail begins (ascending), its exponent and its Kolmogorov-Smirnov distance. Read-only.
    """

    xmins: NDArray[np.float64] = field(repr=False)
    alphas: NDArray[np.float64] = field(repr=False)
    distances: NDArray[np.float64] = field(repr=False)

    def __post_init__(self) -> None:
        for values in (self.xmins, self.alphas, self.distances):
            values.flags.writeable = False

    def __reduce__(self) -> tuple[Any, ...]:
        # By way of the constructor, so that the arrays are read-only in another process, too.
        values = {name: getattr(self, name) for name in self.__slots__}
        return partial(PowerLawProfile, **values), ()


def fit_power_law(
    evals: NDArray[np.float64], *, min_evals: int = MIN_EVALS, xmin_range: tuple[float, float] | None = None
) -> PowerLawFit | FitFailure:
    """Fit a power law to the tail of a spectrum.

    On x = λ above :data:`EVALS_THRESHOLD`, for each candidate xmin = x_i: ``α_i = 1 + n_i / Σ ln(x_j/x_i)``
    and D_i, the largest distance of the tail's empirical from its fitted distribution; the i of the first
    smallest D is the fit.

    Parameters
    ----------
    evals : ndarray of float64, shape (n,)
        Eigenvalues, ascending and finite.
    min_evals : int
        Fewer eigenvalues than this are not fitted. At least 2.
    xmin_range : pair of float, optional
        Only eigenvalues from the first to the second, both included, are candidates for xmin.

    Returns
    -------
    PowerLawFit or FitFailure
        Never a number that stands for a failure.

    Raises
    ------
    ValueError
        The eigenvalues are not one-dimensional, ascending and finite.

    Notes
    -----
    D_i is a maximum over the tail, so its value at a few points bounds it from below. Candidates are
    looked at at ever more points and evaluated in full in the order of that bound, and only while they could
    still win, which leaves the result as the full scan has it.
    """
    candidates = power_law_candidates(evals, min_evals, xmin_range)
    if isinstance(candidates, FitFailure):
        return candidates
    x, log_x, starts = candidates.x, candidates.log_x, candidates.starts
    alphas = _exponents(log_x)
    best, distance = _first_smallest_distance(log_x, alphas, starts)
    n = len(x)
    n_tail = n - best
    return PowerLawFit(
        alpha=float(alphas[best]),
        sigma=float((alphas[best] - 1.0) / np.sqrt(n_tail)),
        xmin=float(x[best]),
        xmax=float(x[-1]),
        D=distance,
        # Values equal to xmin that stand before it belong to the tail, too.
        n_tail=int(n - np.searchsorted(x, x[best], side="left")),
    )


def power_law_profile(evals: NDArray[np.float64], *, min_evals: int = MIN_EVALS) -> PowerLawProfile | FitFailure:
    """Return exponent and distance of every candidate xmin, for plots and for a look at other minima.

    Takes a time that grows with the square of the number of eigenvalues: 0.1 s for 4,096.

    Parameters, errors and failures are those of :func:`fit_power_law`; its fit is the first smallest distance here.
    """
    candidates = power_law_candidates(evals, min_evals, None)
    if isinstance(candidates, FitFailure):
        return candidates
    x, log_x, starts = candidates.x, candidates.log_x, candidates.starts
    alphas = _exponents(log_x)
    distances = [_distance(log_x, float(alphas[start]), int(start)) for start in starts]
    return PowerLawProfile(xmins=x[starts], alphas=alphas[starts], distances=np.array(distances, dtype=np.float64))


def alpha_at_tail(evals: NDArray[np.float64], n_tail: int) -> float | None:
    """Return the exponent of the largest ``n_tail`` eigenvalues, wherever their own best xmin lies.

    The same estimator as :func:`fit_power_law` at a given tail, so that a spectrum and its slightly changed
    copy are compared over the same part: the choice of xmin jumps, this does not.

    Parameters
    ----------
    evals : ndarray of float64, shape (n,)
        Eigenvalues, ascending and finite.
    n_tail : int
        Size of the tail, at least 2.

    Returns
    -------
    float or None
        None where fewer than ``n_tail`` eigenvalues exceed :data:`EVALS_THRESHOLD`, or all are equal.

    Raises
    ------
    ValueError
        The eigenvalues are not one-dimensional, ascending and finite.
    """
    check_evals(evals)
    if n_tail < 2 or len(evals) < n_tail or not evals[-n_tail] > EVALS_THRESHOLD:
        return None
    log_x = np.log(evals[-n_tail:])
    if not log_x[-1] - log_x[0] > MIN_LOG_SPREAD:
        return None
    total = float(np.sum(log_x - log_x[0]))
    n_fitted = n_tail - 1 if np.count_nonzero(evals > EVALS_THRESHOLD) < SMALL_SAMPLE else n_tail
    return 1.0 + n_fitted / total


def check_evals(evals: NDArray[np.float64]) -> None:
    """Raise ValueError unless the eigenvalues are one-dimensional, ascending and finite."""
    if evals.ndim != 1 or not bool(np.isfinite(evals).all()) or bool(np.any(evals[1:] < evals[:-1])):
        raise ValueError(f"evals must be one-dimensional, ascending and finite, got an array of shape {evals.shape}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidates:
    """The values that are fitted, ascending, and the positions at which a tail may begin."""

    x: NDArray[np.float64]
    log_x: NDArray[np.float64]
    starts: NDArray[np.intp]


def power_law_candidates(
    evals: NDArray[np.float64], min_evals: int, xmin_range: tuple[float, float] | None
) -> Candidates | FitFailure:
    """Return what a law of the tail may be fitted to; parameters and errors are those of :func:`fit_power_law`."""
    check_evals(evals)
    if len(evals) < min_evals:
        return _too_few(f"{len(evals)} eigenvalues, at least {min_evals} are needed for a fit")
    x = np.asarray(evals[evals > EVALS_THRESHOLD], dtype=np.float64)
    n = len(x)
    min_tail = MIN_TAIL if n < SMALL_SAMPLE else 2
    if n < min_tail:
        return _too_few(f"{n} eigenvalues above {EVALS_THRESHOLD:g}, at least {min_tail} are needed for a fit")
    log_x = np.log(x)
    starts = np.arange(n - min_tail + 1)
    starts = starts[log_x[-1] - log_x[starts] > MIN_LOG_SPREAD]
    if len(starts) == 0:
        return FitFailure(reason=FitFailureReason.NO_SPREAD, detail="all eigenvalues in the tail are equal")
    if xmin_range is not None:
        lower, upper = xmin_range
        starts = starts[(x[starts] >= lower) & (x[starts] <= upper)]
        if len(starts) == 0:
            detail = f"no tail begins at an eigenvalue between {lower:g} and {upper:g}, where xmin was to lie"
            return FitFailure(reason=FitFailureReason.REFUSED, detail=detail)
    return Candidates(x=x, log_x=log_x, starts=starts)


def _too_few(detail: str) -> FitFailure:
    return FitFailure(reason=FitFailureReason.TOO_FEW_EIGENVALUES, detail=detail)


def _exponents(log_x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return α_i for the tail beginning at each i; infinite where all its values are equal.

    Every total holds the term log(x_max/x_i), so that the difference loses no more than n·eps of it.
    """
    n = len(log_x)
    n_tail = np.arange(n, 0, -1, dtype=np.float64)
    # Sums of distances to the largest value: small terms first, and no cancellation for the short tails.
    below_top = log_x[-1] - log_x
    totals = n_tail * below_top - np.cumsum(below_top[::-1])[::-1]
    numerators = n_tail - 1.0 if n < SMALL_SAMPLE else n_tail
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(totals > 0.0, 1.0 + numerators / totals, np.inf), dtype=np.float64)


def _first_smallest_distance(
    log_x: NDArray[np.float64], alphas: NDArray[np.float64], starts: NDArray[np.intp]
) -> tuple[int, float]:
    """Return the first start with the smallest Kolmogorov-Smirnov distance, and that distance."""
    best, smallest = -1, np.inf
    for n_probes in _PROBES:
        # One distance in full gives the bounds something to beat; what still could win is looked at more closely.
        bounds = _lower_bounds(log_x, alphas, starts, n_probes)
        lowest = int(starts[np.argmin(bounds)])
        best, smallest = _better(log_x, alphas, lowest, best, smallest)
        could_win = bounds * (1.0 - _SLACK) <= smallest
        starts, bounds = starts[could_win], bounds[could_win]
        if len(starts) <= _FEW_STARTS:
            break
    for position in np.argsort(bounds, kind="stable"):
        if bounds[position] * (1.0 - _SLACK) > smallest:
            break
        best, smallest = _better(log_x, alphas, int(starts[position]), best, smallest)
    return best, float(smallest)


def _better(
    log_x: NDArray[np.float64], alphas: NDArray[np.float64], start: int, best: int, smallest: float
) -> tuple[int, float]:
    """Return the better of a start and the best so far, the earlier one where they are equal."""
    distance = _distance(log_x, float(alphas[start]), start)
    if distance < smallest or (distance == smallest and start < best):
        return start, distance
    return best, smallest


def _distance(log_x: NDArray[np.float64], alpha: float, start: int) -> float:
    tail = log_x[start:]
    n = len(tail)
    fitted = -np.expm1((1.0 - alpha) * (tail - tail[0]))
    return float(np.max(np.abs(fitted - np.arange(n) / n)))


def _lower_bounds(
    log_x: NDArray[np.float64], alphas: NDArray[np.float64], starts: NDArray[np.intp], n_probes: int = _PROBES[0]
) -> NDArray[np.float64]:
    """Return max_j over a few j of the distance for every start: never above the distance itself."""
    size = max(1, _BLOCK_VALUES // n_probes)
    blocks = [starts[i : i + size] for i in range(0, len(starts), size)]
    return np.concatenate([_bounds_of_block(log_x, alphas, block, n_probes) for block in blocks])


def _bounds_of_block(
    log_x: NDArray[np.float64], alphas: NDArray[np.float64], starts: NDArray[np.intp], n_probes: int
) -> NDArray[np.float64]:
    n_tail = len(log_x) - starts
    steps = (n_tail[:, None] * np.arange(1, n_probes)) // n_probes
    distances = log_x[starts[:, None] + steps] - log_x[starts][:, None]
    fitted = -np.expm1((1.0 - alphas[starts])[:, None] * distances)
    # steps are below n_tail, so every probe is a point of the tail; the first point has distance 0.
    return np.asarray(np.max(np.abs(fitted - steps / n_tail[:, None]), axis=1), dtype=np.float64)
