"""The numbers of one layer, by the names that users of this field know (shared definitions in docs/metrics.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spectral.fits import FitFailure
from spectral.hill import alpha_hill
from spectral.ranks import gavish_donoho_rank
from spectral.truncated_power_law import TruncatedPowerLawFit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from spectral.spectrum import Spectrum
    from spectral.tail_fit import TailFit

OVER_TRAINED_BELOW = 2.0
UNDER_TRAINED_ABOVE = 6.0
"""Martin, Peng and Mahoney, Nature Communications 12 (2021) 4122: well-trained layers have 2 <= alpha <= 6."""

WEAK_RANK_TOLERANCE = 1e-6
"""Eigenvalues below this count as weak rank loss."""

ENTROPY_EPSILON = 1e-10

SUMMARY_METRICS = (
    "log_norm",
    "alpha",
    "alpha_weighted",
    "log_alpha_norm",
    "log_spectral_norm",
    "stable_rank",
    "mp_softrank",
)
"""What the summary averages, in the incumbent's order; a metric that no layer has is left out."""

SPECTRUM_METRICS = (
    "num_evals",
    "lambda_max",
    "sv_max",
    "sv_min",
    "rank_loss",
    "weak_rank_loss",
    "norm",
    "log_norm",
    "spectral_norm",
    "log_spectral_norm",
    "stable_rank",
    "matrix_rank",
    "entropy",
    "effective_rank",
    "participation_ratio",
    "nuclear_norm",
    "rank_gd",
    "alpha_hill",
    "n_dead_rows",
    "n_dead_columns",
)
POWER_LAW_METRICS = ("alpha", "xmin", "xmax", "D", "sigma", "num_pl_spikes", "alpha_weighted", "log_alpha_norm")
CUTOFF_METRICS = ("Lambda",)
"""Of the truncated power law only."""

FINGER_METRICS = ("num_fingers", "raw_alpha")
"""Where ``fix_fingers="clip_xmax"`` looked for fingers."""

LAYER_METRICS = SPECTRUM_METRICS + POWER_LAW_METRICS
"""Every metric of a layer without further options, in the order of the reports."""


def spectrum_metrics(spectrum: Spectrum, *, tolerance: float = WEAK_RANK_TOLERANCE) -> dict[str, float | int]:
    """Compute norms and ranks from a spectrum.

    Parameters
    ----------
    spectrum : Spectrum
        Of a matrix that is not all zero, so that λmax > 0.
    tolerance : float
        Eigenvalues below this count as ``weak_rank_loss``.

    Returns
    -------
    dict
        The names of :data:`SPECTRUM_METRICS`. ``entropy`` lies in [0, 1], but for the :data:`ENTROPY_EPSILON`
        added to every share, and is absent for a matrix of rank one, where its definition
        -Σ p ln p / ln(rank) has no denominator. ``effective_rank`` is exp(-Σ p ln p) with p = σ/Σσ (Roy and Vetterli,
        EUSIPCO 2007), ``participation_ratio`` (Σλ)²/Σλ²: both lie between 1 and the number of eigenvalues.
    """
    evals = spectrum.evals
    largest = float(evals[-1])
    norm = float(np.sum(evals))
    singular = np.sqrt(evals)
    rank = int(np.count_nonzero(singular > singular[-1] * spectrum.N * np.finfo(np.float64).eps))
    metrics: dict[str, float | int] = {
        "num_evals": len(evals),
        "lambda_max": largest,
        "sv_max": spectrum.sv_max,
        "sv_min": spectrum.sv_min,
        "rank_loss": spectrum.rank_loss,
        "weak_rank_loss": int(np.count_nonzero(evals < tolerance)),
        "norm": norm,
        "log_norm": float(np.log10(norm)),
        "spectral_norm": largest,
        "log_spectral_norm": float(np.log10(largest)),
        "stable_rank": norm / largest,
        "matrix_rank": rank,
        "effective_rank": _effective_rank(singular),
        "participation_ratio": _participation_ratio(evals),
        "nuclear_norm": float(np.sum(singular)),
        "rank_gd": gavish_donoho_rank(singular, Q=spectrum.N / spectrum.M),
        "n_dead_rows": spectrum.n_dead_rows,
        "n_dead_columns": spectrum.n_dead_columns,
    }
    if rank > 1:
        share = evals / norm + ENTROPY_EPSILON
        metrics["entropy"] = float(-np.sum(share * np.log(share)) / np.log(rank + ENTROPY_EPSILON))
    hill = alpha_hill(evals)
    if not isinstance(hill, FitFailure):
        metrics["alpha_hill"] = hill
    return {name: metrics[name] for name in SPECTRUM_METRICS if name in metrics}


def _effective_rank(singular: NDArray[np.float64]) -> float:
    share = singular[singular > 0.0] / float(np.sum(singular))
    return float(np.exp(-np.sum(share * np.log(share))))


def _participation_ratio(evals: NDArray[np.float64]) -> float:
    share = evals / float(np.sum(evals))
    return 1.0 / float(share @ share)


def power_law_metrics(spectrum: Spectrum, tail: TailFit) -> dict[str, float | int]:
    """Return the numbers of a fit, and the norms weighted by its exponent.

    ``log_alpha_norm`` = log10 Σ λ^α is summed relative to λmax, because λ^α overflows.
    """
    fit = tail.fit
    log_evals = np.log10(spectrum.evals[spectrum.evals > 0.0])
    largest = float(log_evals[-1])
    metrics: dict[str, float | int] = {
        "alpha": fit.alpha,
        "xmin": fit.xmin,
        "xmax": fit.xmax,
        "D": fit.D,
        "sigma": fit.sigma,
        "num_pl_spikes": tail.num_pl_spikes,
        "alpha_weighted": fit.alpha * largest,
        "log_alpha_norm": fit.alpha * largest + float(np.log10(np.sum(10.0 ** (fit.alpha * (log_evals - largest))))),
    }
    if isinstance(fit, TruncatedPowerLawFit):
        metrics["Lambda"] = fit.Lambda
    if tail.n_fingers is not None and tail.raw_alpha is not None:
        metrics["num_fingers"], metrics["raw_alpha"] = tail.n_fingers, tail.raw_alpha
    return metrics


def training_warning(alpha: float) -> str:
    """Return ``over-trained`` below alpha 2, ``under-trained`` above 6, and an empty string between."""
    if alpha < OVER_TRAINED_BELOW:
        return "over-trained"
    return "under-trained" if alpha > UNDER_TRAINED_ABOVE else ""


def summarise(layers: Iterable[Mapping[str, float | int]]) -> dict[str, float]:
    """Average the :data:`SUMMARY_METRICS` over layers, each over the layers that have it.

    Parameters
    ----------
    layers : iterable of mapping
        The metrics of each layer; a layer whose fit failed has no ``alpha`` and does not enter its mean.
    """
    rows = tuple(layers)
    summary: dict[str, float] = {}
    for name in SUMMARY_METRICS:
        values = [float(row[name]) for row in rows if name in row]
        if values:
            summary[name] = float(np.mean(values))
    return summary
