"""What speaks against an alpha: its uncertainty, the fit of the law, and other laws of the same tail."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spectral.fits import FitFailure
from spectral.permutation import generator_for
from spectral.tail_comparison import compare_tail_to_all
from spectral.tail_uncertainty import bootstrap_alpha, goodness_of_fit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spectral.options import AnalysisOptions
    from spectral.power_law import PowerLawFit

BOOTSTRAP_METRICS = ("alpha_low", "alpha_high", "alpha_standard_error")
GOODNESS_METRICS = ("pl_p_value",)
COMPARISON_METRICS = (
    "pl_vs_truncated_power_law",
    "pl_vs_truncated_power_law_p_value",
    "pl_vs_lognormal",
    "pl_vs_lognormal_p_value",
    "pl_vs_exponential",
    "pl_vs_exponential_p_value",
)
"""Normalised log-likelihood ratios (positive: the power law is better) and their p-values."""

_BOOTSTRAP, _GOODNESS = 0x626F_6F74, 0x676F_6F64
"""Keep the draws of one test apart from those of the other."""


def tail_doubt_metrics(
    evals: NDArray[np.float64], fit: PowerLawFit | FitFailure, *, name: str, options: AnalysisOptions
) -> tuple[dict[str, float], dict[str, str]]:
    """Return the numbers that ``bootstrap``, ``goodness_of_fit`` and ``compare_tails`` ask for, and reasons.

    Parameters
    ----------
    evals : ndarray of float64, shape (n,)
        Eigenvalues, ascending and finite.
    fit : PowerLawFit or FitFailure
        Their power law.
    name : str
        Layer name; with the seed it decides the draws.
    options : AnalysisOptions
        What is asked for.

    Returns
    -------
    dict
        Name -> number.
    dict
        Option -> why it has no number.
    """
    asked = [option for option in ("bootstrap", "goodness_of_fit", "compare_tails") if getattr(options, option)]
    if isinstance(fit, FitFailure):
        return {}, dict.fromkeys(asked, fit.detail)
    metrics: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for option in asked:
        found = _FINDERS[option](evals, fit, name, options)
        for key, value in found.items():
            if isinstance(value, FitFailure):
                reasons[option] = value.detail
            else:
                metrics[key] = value
    return metrics, reasons


def _bootstrap(
    evals: NDArray[np.float64], fit: PowerLawFit, name: str, options: AnalysisOptions
) -> dict[str, float | FitFailure]:
    seed = _seed_of(options.seed, name, _BOOTSTRAP)
    found = bootstrap_alpha(evals, fit, n_replicas=options.bootstrap, seed=seed)
    if isinstance(found, FitFailure):
        return {"alpha_low": found}
    return {"alpha_low": found.low, "alpha_high": found.high, "alpha_standard_error": found.standard_error}


def _goodness(
    evals: NDArray[np.float64], fit: PowerLawFit, name: str, options: AnalysisOptions
) -> dict[str, float | FitFailure]:
    seed = _seed_of(options.seed, name, _GOODNESS)
    found = goodness_of_fit(evals, fit, n_replicas=options.goodness_of_fit, seed=seed)
    return {"pl_p_value": found if isinstance(found, FitFailure) else found.p_value}


def _comparison(
    evals: NDArray[np.float64], fit: PowerLawFit, name: str, options: AnalysisOptions
) -> dict[str, float | FitFailure]:
    del name, options  # nothing is drawn
    found: dict[str, float | FitFailure] = {}
    for law, ratio in compare_tail_to_all(evals, fit).items():
        found[f"pl_vs_{law}"] = ratio if isinstance(ratio, FitFailure) else ratio.normalized_ratio
        if not isinstance(ratio, FitFailure):
            found[f"pl_vs_{law}_p_value"] = ratio.p_value
    return found


_FINDERS = {"bootstrap": _bootstrap, "goodness_of_fit": _goodness, "compare_tails": _comparison}


def _seed_of(seed: int, name: str, purpose: int) -> int:
    return int(generator_for(seed, name, purpose).integers(1 << 62))
