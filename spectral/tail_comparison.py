"""Is it a power law? Likelihood-ratio tests against other laws of the same tail.

Vuong, Econometrica 57 (1989) 307, as used by Clauset, Shalizi and Newman, SIAM Review 51 (2009) 661, section 5 and
appendix C: the sum of the differences of the log-likelihoods of each value, in units of its standard deviation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from spectral.fits import FitFailure, FitFailureReason
from spectral.tail_laws import exponential_log_likelihoods, fit_cut_normal, lognormal_log_likelihoods, tail_from
from spectral.truncated_power_law import TruncatedPowerLawFit, fit_truncated_power_law, truncated_log_likelihoods

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spectral.power_law import PowerLawFit

Law = Literal["truncated_power_law", "lognormal", "exponential"]

ALTERNATIVES: tuple[Law, ...] = ("truncated_power_law", "lognormal", "exponential")


@dataclass(frozen=True, slots=True, kw_only=True)
class LikelihoodRatio:
    """The power law against another law of the same tail.

    Attributes
    ----------
    alternative : str
        The other law.
    ratio : float
        Log-likelihood of the power law minus that of the other; positive where the power law is the better one.
    normalized_ratio : float
        The same in units of its standard deviation; 0 where the two laws are the same.
    p_value : float
        Probability of a ratio at least so far from 0 where neither law is better. Where the power law is a special
        case of the other law the ratio is never positive, and p is that of the power law being enough.
    is_nested : bool
        Whether it is.
    """

    alternative: Law
    ratio: float
    normalized_ratio: float
    p_value: float
    is_nested: bool


# A candidate whose likelihood leaves the range of float64 is not finite, and so no candidate.
@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def compare_tail(evals: NDArray[np.float64], fit: PowerLawFit, alternative: Law) -> LikelihoodRatio | FitFailure:
    """Compare the power law with another law of the same tail, each at its largest likelihood.

    Parameters
    ----------
    evals : ndarray of float64, shape (n,)
        Eigenvalues, ascending and finite.
    fit : PowerLawFit
        Says where the tail begins; both laws are fitted to every value above 1e-5 from there on.
    alternative : {"truncated_power_law", "lognormal", "exponential"}
        The other law.

    Returns
    -------
    LikelihoodRatio or FitFailure
        For the truncated power law, of which the power law is a special case, p is that of χ² with one degree of
        freedom (as in the ``powerlaw`` package). It errs towards keeping the power law: Λ >= 0, so that half
        of it would do (Chernoff, Ann. Math. Stat. 25 (1954) 573).

    Raises
    ------
    ValueError
        The eigenvalues are not one-dimensional, ascending and finite, or the alternative is unknown.
    """
    if alternative not in ALTERNATIVES:
        raise ValueError(f"alternative must be one of {', '.join(map(repr, ALTERNATIVES))}, got {alternative!r}")
    tail = tail_from(evals, fit.xmin)
    if isinstance(tail, FitFailure):
        return tail
    log_y = np.log(tail / fit.xmin)
    alpha = 1.0 + 1.0 / float(np.mean(log_y))
    power_law = math.log(alpha - 1.0) - math.log(fit.xmin) - alpha * log_y
    other = _alternative_log_likelihoods(tail, fit.xmin, power_law, alternative)
    return other if isinstance(other, FitFailure) else _ratio(power_law - other, alternative)


def compare_tail_to_all(evals: NDArray[np.float64], fit: PowerLawFit) -> dict[Law, LikelihoodRatio | FitFailure]:
    """Compare the power law with each of :data:`ALTERNATIVES`; see :func:`compare_tail`."""
    return {alternative: compare_tail(evals, fit, alternative) for alternative in ALTERNATIVES}


def _alternative_log_likelihoods(
    tail: NDArray[np.float64], xmin: float, power_law: NDArray[np.float64], alternative: Law
) -> NDArray[np.float64] | FitFailure:
    if alternative == "exponential":
        return exponential_log_likelihoods(tail, float(1.0 / np.mean(tail - xmin)), xmin)
    if alternative == "lognormal":
        solved = fit_cut_normal(np.log(tail / xmin))
        # The power law is the limit of the log-normals, and here the best of them.
        return power_law if solved is None else lognormal_log_likelihoods(tail, *solved, xmin)
    truncated = fit_truncated_power_law(tail, min_evals=2, xmin=xmin)
    if isinstance(truncated, TruncatedPowerLawFit):
        return truncated_log_likelihoods(tail, alpha=truncated.alpha, Lambda=truncated.Lambda, xmin=xmin)
    if truncated.reason is FitFailureReason.REFUSED:
        # The likelihood rises towards α < 0: of the laws with α >= 0 the one at the edge, an exponential, is the best.
        return exponential_log_likelihoods(tail, float(1.0 / np.mean(tail - xmin)), xmin)
    return truncated


def _ratio(differences: NDArray[np.float64], alternative: Law) -> LikelihoodRatio:
    is_nested = alternative == "truncated_power_law"
    ratio = float(np.sum(differences))
    spread = math.sqrt(len(differences)) * float(np.std(differences))
    normalized = ratio / spread if spread > 0.0 else 0.0
    # χ² with one degree of freedom is the square of a normal variable; R is minus half of it.
    deviation = math.sqrt(2.0 * abs(ratio)) if is_nested else abs(normalized)
    return LikelihoodRatio(
        alternative=alternative,
        ratio=ratio,
        normalized_ratio=normalized,
        p_value=math.erfc(deviation / math.sqrt(2.0)),
        is_nested=is_nested,
    )
