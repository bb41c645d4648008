"""How sure is alpha, and is the tail a power law at all? Two bootstraps, xmin chosen anew in every replica.

Clauset, Shalizi and Newman, SIAM Review 51 (2009) 661, sections 3.3 (resampling for the error) and 4.1 (goodness of
fit). Figures of calibration are printed by benchmarks/tails.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spectral.errors import OptionError
from spectral.fits import FitFailure, FitFailureReason
from spectral.power_law import EVALS_THRESHOLD, PowerLawFit, check_evals, fit_power_law

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

DEFAULT_N_REPLICAS = 200

MIN_N_REPLICAS = 20
"""With fewer, an interval ends at the smallest and largest replica whatever its level."""

_LARGEST = float(np.finfo(np.float64).max)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlphaUncertainty:
    """An interval of alpha, sampling error and choice of xmin included.

    Attributes
    ----------
    alpha : float
        Exponent of the fit.
    low, high : float
        The interval.
    level : float
        Its nominal coverage, 0 to 1.
    standard_error : float
        Standard deviation of the replicas' exponents.
    n_replicas : int
        Number of replicas that were fitted.
    """

    alpha: float
    low: float
    high: float
    level: float
    standard_error: float
    n_replicas: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GoodnessOfFit:
    """Whether the tail can be a power law.

    Attributes
    ----------
    p_value : float
        Share of power-law replicas that lie at least as far from their own fit as the spectrum does from its own;
        Clauset et al. rule a power law out where p <= 0.1. A large p does not show that it is one.
    n_replicas : int
        Number of replicas that were fitted; p is known to about 1/(2√n_replicas).
    """

    p_value: float
    n_replicas: int


def bootstrap_alpha(
    evals: NDArray[np.float64],
    fit: PowerLawFit,
    *,
    n_replicas: int = DEFAULT_N_REPLICAS,
    seed: int,
    level: float = 0.95,
) -> AlphaUncertainty | FitFailure:
    """Return an interval of alpha from re-fits of resampled spectra.

    Parameters
    ----------
    evals : ndarray of float64, shape (n,)
        Eigenvalues, ascending and finite.
    fit : PowerLawFit
        Their fit, from :func:`spectral.power_law.fit_power_law`.
    n_replicas : int
        Number of resampled spectra, at least 20.
    seed : int
        Same seed, same bits. Not negative.
    level : float
        Nominal coverage, between 0 and 1.

    Returns
    -------
    AlphaUncertainty or FitFailure
        A failure where fewer than half of the replicas have a fit.

    Raises
    ------
    ValueError
        The eigenvalues are not one-dimensional, ascending and finite.
    OptionError
        n_replicas, seed or level has an impossible value.

    Notes
    -----
    Percentile interval of the plain bootstrap, one of seventeen kinds tried (percentile, basic, studentised,
    symmetric, normal; on alpha and ln(alpha-1); resampled and semi-parametric), and of those that stayed near their
    level the simplest. At 95% it covered the exponent of 500 Pareto values in 95.6% of 1,900 draws, of 500 over a
    body of 500 others in 96.7% of 900, and of 100 in 93.3% of 1,000; α ± 1.96 sigma, which takes xmin as known, in
    92%, 86% and 90%. Eigenvalues are resampled as if they were independent.
    """
    _check_options(n_replicas, seed)
    if not 0.0 < level < 1.0:
        raise OptionError(f"level must be between 0 and 1, got {level!r}")
    check_evals(evals)
    x = evals[evals > EVALS_THRESHOLD]
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    fits = _refit(lambda: _resample(x, rng), n_replicas)
    if isinstance(fits, FitFailure):
        return fits
    alphas = np.array([replica.alpha for replica in fits], dtype=np.float64)
    low, high = np.quantile(alphas, [0.5 * (1.0 - level), 0.5 * (1.0 + level)])
    return AlphaUncertainty(
        alpha=fit.alpha,
        low=float(low),
        high=float(high),
        level=level,
        standard_error=float(np.std(alphas, ddof=1)),
        n_replicas=len(fits),
    )


def goodness_of_fit(
    evals: NDArray[np.float64], fit: PowerLawFit, *, n_replicas: int = DEFAULT_N_REPLICAS, seed: int
) -> GoodnessOfFit | FitFailure:
    """Return the p-value of the power law by semi-parametric bootstrap.

    Each value of a replica is drawn from the fitted law with probability n_tail/n, else from the eigenvalues below
    xmin; the replica is fitted as the spectrum was, xmin included, and its distance compared.

    Of true power laws 7 to 8% have p <= 0.1 (200 draws each). Of log-normal spectra with as much freedom 25 to 37% of
    500 values and 38 to 50% of 2,000: xmin moves to the end of the tail, where few values are left to tell the two
    apart. Compare with the laws of :mod:`spectral.tail_comparison`, too.

    Parameters, errors and failures are those of :func:`bootstrap_alpha`.

    Returns
    -------
    GoodnessOfFit or FitFailure
    """
    _check_options(n_replicas, seed)
    check_evals(evals)
    x = evals[evals > EVALS_THRESHOLD]
    below = x[x < fit.xmin]
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    fits = _refit(lambda: _draw(below, len(x), fit, rng), n_replicas)
    if isinstance(fits, FitFailure):
        return fits
    n_farther = sum(replica.D >= fit.D for replica in fits)
    return GoodnessOfFit(p_value=n_farther / len(fits), n_replicas=len(fits))


def _check_options(n_replicas: int, seed: int) -> None:
    if type(n_replicas) is not int or n_replicas < MIN_N_REPLICAS:
        raise OptionError(f"n_replicas must be an integer of at least {MIN_N_REPLICAS}, got {n_replicas!r}")
    if type(seed) is not int or seed < 0:
        raise OptionError(f"seed must be an integer of at least 0, got {seed!r}")


def _refit(draw: Callable[[], NDArray[np.float64]], n_replicas: int) -> list[PowerLawFit] | FitFailure:
    attempts = [fit_power_law(draw(), min_evals=2) for _ in range(n_replicas)]
    fits = [attempt for attempt in attempts if isinstance(attempt, PowerLawFit)]
    if 2 * len(fits) < n_replicas:
        detail = f"only {len(fits)} of {n_replicas} replicas have a fit"
        return FitFailure(reason=FitFailureReason.NO_CONVERGENCE, detail=detail)
    return fits


def _resample(x: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw as many values with replacement, ascending."""
    return np.repeat(x, np.bincount(rng.integers(0, len(x), len(x)), minlength=len(x)))


def _draw(below: NDArray[np.float64], n: int, fit: PowerLawFit, rng: np.random.Generator) -> NDArray[np.float64]:
    n_tail = int(rng.binomial(n, 1.0 - len(below) / n))
    # An exponent near 1 can ask for more than a float64 holds.
    with np.errstate(over="ignore"):
        tail = fit.xmin * (1.0 - rng.random(n_tail)) ** (-1.0 / (fit.alpha - 1.0))
    body = below[rng.integers(0, len(below), n - n_tail)] if n_tail < n else below[:0]
    return np.sort(np.concatenate([body, np.minimum(tail, _LARGEST)]))
