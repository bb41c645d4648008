"""The fit of the tail that the options ask for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from spectral.bounded_power_law import fit_bounded_power_law
from spectral.errors import OptionError
from spectral.fingers import DEFAULT_FINGER_THRESHOLD, DEFAULT_MAX_FINGERS, clip_fingers, peak_xmin_range
from spectral.fits import FitFailure, FitFailureReason
from spectral.power_law import MIN_EVALS, PowerLawFit, check_evals, fit_power_law
from spectral.truncated_power_law import TruncatedPowerLawFit, fit_truncated_power_law

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

LAWS = {"PL": "PL", "power_law": "PL", "TPL": "TPL", "truncated_power_law": "TPL", "E_TPL": "E_TPL"}
"""Every spelling of ``fit``, and the law it means."""

FIX_FINGERS = (None, "xmin_peak", "clip_xmax")


@dataclass(frozen=True, slots=True, kw_only=True)
class TailOptions:
    """Which law is fitted to the tail, and to which part of the spectrum.

    Parameters
    ----------
    fit : {"PL", "TPL", "E_TPL"}
        Power law, truncated power law, or truncated power law with xmin near the peak of the spectrum. The long names
        ``power_law`` and ``truncated_power_law`` mean the first two, and are stored as these.
    fix_fingers : {None, "xmin_peak", "clip_xmax"}
        Keep xmin near the peak of the spectrum, or drop the largest eigenvalues until alpha falls.
    xmin_max : float, optional
        Largest xmin with ``xmin_peak``, in units of λ; default 1.5 times the peak.
    max_fingers : int
        Most eigenvalues that ``clip_xmax`` drops.
    finger_thresh : float
        Least fall of alpha that makes ``clip_xmax`` drop them.
    xmax : None, negative int or "force"
        ``-n`` ignores the n largest eigenvalues. ``"force"`` lets the power law end at the largest eigenvalue; a
        truncated power law has an end of its own, and is fitted as it is.
    min_evals : int
        Fewer eigenvalues than this are not fitted. At least 2.
    """

    fit: str = "PL"
    fix_fingers: Literal["xmin_peak", "clip_xmax"] | None = None
    xmin_max: float | None = None
    max_fingers: int = DEFAULT_MAX_FINGERS
    finger_thresh: float = DEFAULT_FINGER_THRESHOLD
    xmax: int | str | None = None
    min_evals: int = MIN_EVALS

    def __post_init__(self) -> None:
        _check(self)
        object.__setattr__(self, "fit", LAWS[self.fit])

    @property
    def has_xmin_near_peak(self) -> bool:
        """Whether xmin is kept near the peak of the spectrum."""
        return self.fit == "E_TPL" or self.fix_fingers == "xmin_peak"


@dataclass(frozen=True, slots=True, kw_only=True)
class TailFit:
    """The fit of a tail, and what was left out for it.

    Attributes
    ----------
    fit : PowerLawFit or TruncatedPowerLawFit
        The law.
    n_fingers : int or None
        Number of eigenvalues that ``clip_xmax`` dropped; None without that option.
    raw_alpha : float or None
        Exponent of the power law before that; None without that option.
    n_ignored : int
        Number of largest eigenvalues that ``xmax`` left out.
    """

    fit: PowerLawFit | TruncatedPowerLawFit
    n_fingers: int | None = None
    raw_alpha: float | None = None
    n_ignored: int = 0

    @property
    def num_pl_spikes(self) -> int:
        """Number of eigenvalues from xmin on, fingers included, those that xmax left out not."""
        return self.fit.n_tail + (self.n_fingers or 0)


def fit_tail(evals: NDArray[np.float64], options: TailOptions | None = None) -> TailFit | FitFailure:
    """Fit the law that the options name to the part of the spectrum they name.

    With ``clip_xmax`` the fingers are those of the power law, for a truncated one, too: an exponential cut-off
    would have absorbed them.

    Parameters
    ----------
    evals : ndarray of float64, shape (n,)
        Eigenvalues, ascending and finite.
    options : TailOptions, optional
        Default the plain power law.

    Returns
    -------
    TailFit or FitFailure
        Never a number that stands for a failure.

    Raises
    ------
    ValueError
        The eigenvalues are not one-dimensional, ascending and finite.
    """
    options = TailOptions() if options is None else options
    check_evals(evals)
    if len(evals) < options.min_evals:
        detail = f"{len(evals)} eigenvalues, at least {options.min_evals} are needed for a fit"
        return FitFailure(reason=FitFailureReason.TOO_FEW_EIGENVALUES, detail=detail)
    n_ignored = -options.xmax if isinstance(options.xmax, int) else 0
    if 2 * n_ignored > len(evals):
        detail = f"xmax={options.xmax} would ignore more than half of the {len(evals)} eigenvalues"
        return FitFailure(reason=FitFailureReason.REFUSED, detail=detail)
    kept = evals[: len(evals) - n_ignored]
    xmin_range = peak_xmin_range(kept, options.xmin_max) if options.has_xmin_near_peak else None
    if options.fix_fingers == "clip_xmax":
        return _clipped(kept, options)
    # min_evals speaks of the layer, not of what the options leave of it.
    law = fit_truncated_power_law if options.fit != "PL" else _power_law(options)
    fit = law(kept, min_evals=2, xmin_range=xmin_range)
    return fit if isinstance(fit, FitFailure) else TailFit(fit=fit, n_ignored=n_ignored)


def _power_law(options: TailOptions) -> Callable[..., PowerLawFit | FitFailure]:
    return fit_bounded_power_law if options.xmax == "force" else fit_power_law


def _clipped(evals: NDArray[np.float64], options: TailOptions) -> TailFit | FitFailure:
    clipping = clip_fingers(
        evals,
        partial(_power_law(options), min_evals=2),
        max_fingers=options.max_fingers,
        finger_thresh=options.finger_thresh,
    )
    if isinstance(clipping, FitFailure):
        return clipping
    fit: PowerLawFit | TruncatedPowerLawFit | FitFailure = clipping.fit
    if options.fit != "PL":
        fit = fit_truncated_power_law(evals[: len(evals) - clipping.n_fingers], min_evals=2)
    if isinstance(fit, FitFailure):
        return fit
    return TailFit(fit=fit, n_fingers=clipping.n_fingers, raw_alpha=clipping.raw_alpha)


def _check(options: TailOptions) -> None:
    if not isinstance(options.fit, str) or options.fit not in LAWS:
        raise OptionError(f"fit must be one of {', '.join(map(repr, LAWS))}, got {options.fit!r}")
    if not isinstance(options.fix_fingers, (str, type(None))) or options.fix_fingers not in FIX_FINGERS:
        raise OptionError(f"fix_fingers must be None, 'xmin_peak' or 'clip_xmax', got {options.fix_fingers!r}")
    _check_xmax(options.xmax)
    if options.fit == "E_TPL" and options.fix_fingers == "clip_xmax":
        raise OptionError("fit='E_TPL' keeps xmin near the peak, fix_fingers='clip_xmax' does not: choose one")
    if options.fix_fingers is not None and isinstance(options.xmax, int):
        raise OptionError(
            f"fix_fingers={options.fix_fingers!r} and xmax={options.xmax} both act on the largest values: choose one"
        )
    _check_numbers(options)


def _check_xmax(xmax: object) -> None:
    is_count = type(xmax) is int and xmax < 0
    if not (xmax is None or (isinstance(xmax, str) and xmax == "force") or is_count):
        raise OptionError(
            f"xmax must be None, 'force' or a negative number of largest eigenvalues to ignore, got {xmax!r}"
        )


def _check_numbers(options: TailOptions) -> None:
    if type(options.max_fingers) is not int or options.max_fingers < 1:
        raise OptionError(f"max_fingers must be an integer of at least 1, got {options.max_fingers!r}")
    if type(options.min_evals) is not int or options.min_evals < 2:
        raise OptionError(f"min_evals must be an integer of at least 2, got {options.min_evals!r}")
    if not _is_positive(options.finger_thresh):
        raise OptionError(f"finger_thresh must be a positive number, got {options.finger_thresh!r}")
    if options.xmin_max is not None:
        if not _is_positive(options.xmin_max):
            raise OptionError(f"xmin_max must be None or a positive number, got {options.xmin_max!r}")
        if options.fit != "E_TPL" and options.fix_fingers != "xmin_peak":
            raise OptionError("xmin_max bounds xmin near the peak: it needs fix_fingers='xmin_peak' or fit='E_TPL'")


def _is_positive(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e308
