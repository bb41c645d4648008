"""What an analysis computes: one flat record of options, checked where it is made."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any, Literal

from spectral.errors import OptionError
from spectral.fingers import DEFAULT_FINGER_THRESHOLD, DEFAULT_MAX_FINGERS
from spectral.forms import FormOptions
from spectral.power_law import MIN_EVALS
from spectral.selection import Selection
from spectral.tail_fit import TailOptions
from spectral.tail_uncertainty import MIN_N_REPLICAS

WEAK_RANK_TOLERANCE = 1e-6
"""Eigenvalues below this count as weak rank loss."""

FALSE_ALARM_RATE = 0.01
"""Share of whole runs that may give a false alarm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisOptions:
    """What to compute; part of every result.

    Parameters
    ----------
    layers : tuple of int and str
        Which layers: ids, types, names, shell patterns; a leading ``-`` leaves out. See :class:`spectral.Selection`.
    exclude : tuple of str
        Layers whose full name matches one of these shell patterns are left out; a pattern that matches nothing is
        no error here.
    min_evals : int
        Layers with fewer eigenvalues are not fitted and do not enter the summary. At least 2.
    max_evals, max_N : int, optional
        Layers with more eigenvalues, or a larger dimension, are left out and listed as such. None: no limit.
    fit : {"PL", "TPL", "E_TPL"}
        Law of the tail: power law, truncated power law, truncated power law with xmin near the peak.
    fix_fingers, xmin_max, max_fingers, finger_thresh, xmax
        See :class:`spectral.TailOptions`.
    pool, conv2d_norm, conv2d_fft, fft, glorot_fix, inverse, channels, stacked, intra, sparsify
        In what form matrices are analysed. See :class:`spectral.FormOptions`.
    mp_fit : bool
        Fit the Marchenko-Pastur law.
    randomize : bool
        Compare with a twin whose elements are permuted, and fit the Marchenko-Pastur law to it.
    detX : bool
        Find the tail whose rescaled eigenvalues have product 1 (trace-log condition, ERG).
    vectors : bool
        Measure entropy, localisation and participation of the eigenvectors.
    noise_test : bool
        Test whether the matrix can be told from noise (Tracy-Widom).
    traps : bool
        Test for correlation traps (Tracy-Widom on the permuted matrix).
    projections : bool
        Keep a few random projections of the weights, for :func:`spectral.projections.relative_change`.
    farms : bool
        Also compute ``alpha_farms``, the Hill exponent over windows of fixed aspect ratio.
    bootstrap : int
        Replicas for the confidence interval of alpha; 0: none.
    goodness_of_fit : int
        Replicas for the p-value of the power law; 0: none.
    compare_tails : bool
        Likelihood-ratio tests of the power law against other laws.
    tolerance : float
        Eigenvalues below this count as weak rank loss.
    false_alarm_rate : float
        For the whole run, over all layers: of ``noise_test`` and of ``traps`` each.
    seed : int
        Of everything random. Together with the layer's name it decides every draw.

    Raises
    ------
    OptionError
        A value is impossible, or two contradict each other.
    """

    layers: tuple[int | str, ...] = ()
    exclude: tuple[str, ...] = ()
    min_evals: int = MIN_EVALS
    max_evals: int | None = None
    max_N: int | None = None  # noqa: N815  N is the name of the field
    fit: str = "PL"
    fix_fingers: Literal["xmin_peak", "clip_xmax"] | None = None
    xmin_max: float | None = None
    max_fingers: int = DEFAULT_MAX_FINGERS
    finger_thresh: float = DEFAULT_FINGER_THRESHOLD
    xmax: int | str | None = None
    pool: bool = True
    conv2d_norm: bool = True
    conv2d_fft: bool = False
    fft: bool = False
    glorot_fix: bool = False
    inverse: bool = False
    channels: Literal["first", "last"] | None = None
    stacked: bool = False
    intra: bool = False
    sparsify: bool = True
    mp_fit: bool = False
    randomize: bool = False
    detX: bool = False  # noqa: N815  the field's own spelling
    vectors: bool = False
    noise_test: bool = False
    traps: bool = False
    projections: bool = False
    farms: bool = False
    bootstrap: int = 0
    goodness_of_fit: int = 0
    compare_tails: bool = False
    tolerance: float = WEAK_RANK_TOLERANCE
    false_alarm_rate: float = FALSE_ALARM_RATE
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", self.selection.layers)
        object.__setattr__(self, "exclude", _patterns(self.exclude))
        object.__setattr__(self, "fit", self.tail.fit)
        _check_flags(self)
        _check_numbers(self)
        _check_contradictions(self)

    @property
    def selection(self) -> Selection:
        """Which matrices; ``min_evals`` leaves none out here, it only keeps them from being fitted."""
        return Selection(layers=self.layers, max_evals=self.max_evals, max_N=self.max_N)

    @property
    def forms(self) -> FormOptions:
        """In what form."""
        return FormOptions(**{option.name: getattr(self, option.name) for option in fields(FormOptions)})

    @property
    def tail(self) -> TailOptions:
        """Which law."""
        return TailOptions(**{option.name: getattr(self, option.name) for option in fields(TailOptions)})

    @property
    def has_cutoff(self) -> bool:
        """Whether the law has an exponential cut-off."""
        return self.fit != "PL"

    @property
    def clips_fingers(self) -> bool:
        """Whether the largest eigenvalues may be dropped."""
        return self.fix_fingers == "clip_xmax"

    @property
    def judges_tail(self) -> bool:
        """Whether the uncertainty of alpha, or the power law itself, is in question."""
        return bool(self.bootstrap or self.goodness_of_fit or self.compare_tails)

    def changed(self, changes: dict[str, Any]) -> AnalysisOptions:
        """Return the options with some of them changed.

        Raises
        ------
        OptionError
            There is no option of that name, or its value is impossible.
        """
        known = [option.name for option in fields(self)]
        for name in changes:
            if name not in known:
                close = get_close_matches(name, known, n=1)
                raise OptionError(f"no option {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
        return replace(self, **changes)


_FLAGS = (
    "mp_fit",
    "randomize",
    "detX",
    "vectors",
    "noise_test",
    "traps",
    "projections",
    "farms",
    "compare_tails",
)


def _patterns(exclude: Any) -> tuple[str, ...]:
    if isinstance(exclude, str):
        raise OptionError(f"exclude must be a sequence of patterns, got the string {exclude!r}")
    try:
        patterns = tuple(exclude)
    except TypeError:
        raise OptionError(f"exclude must be a sequence of patterns, got {exclude!r}") from None
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise OptionError(f"exclude must hold patterns as text, got {patterns!r}")
    return patterns


def _check_flags(options: AnalysisOptions) -> None:
    for name in _FLAGS:
        value = getattr(options, name)
        if not isinstance(value, bool):
            raise OptionError(f"{name} must be True or False, got {value!r}")


def _check_numbers(options: AnalysisOptions) -> None:
    for name in ("bootstrap", "goodness_of_fit", "seed"):
        value = getattr(options, name)
        if type(value) is not int or value < 0:
            raise OptionError(f"{name} must be an integer of at least 0, got {value!r}")
    for name in ("bootstrap", "goodness_of_fit"):
        if 0 < getattr(options, name) < MIN_N_REPLICAS:
            raise OptionError(f"{name} must be 0 or at least {MIN_N_REPLICAS}, got {getattr(options, name)!r}")
    if not _is_number(options.tolerance) or not options.tolerance >= 0.0:
        raise OptionError(f"tolerance must be a number of at least 0, got {options.tolerance!r}")
    if not _is_number(options.false_alarm_rate) or not 0.0 < options.false_alarm_rate < 1.0:
        raise OptionError(f"false_alarm_rate must lie between 0 and 1, got {options.false_alarm_rate!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -1e308 < value < 1e308


def _check_contradictions(options: AnalysisOptions) -> None:
    for name in ("bootstrap", "goodness_of_fit", "compare_tails"):
        if getattr(options, name) and options.fit != "PL":
            raise OptionError(f"{name} judges a power law: it needs fit='PL', got fit={options.fit!r}")
        if getattr(options, name) and (options.fix_fingers or options.xmax):
            raise OptionError(f"{name} judges the plain power law: fix_fingers and xmax must be left alone")
    for form in ("intra", "stacked", "conv2d_fft", "inverse", "fft"):
        for test in ("noise_test", "traps", "vectors", "farms"):
            if getattr(options, form) and getattr(options, test):
                raise OptionError(f"{test} is about the elements of a weight matrix, {form} changes what they are")
    if options.intra and options.randomize:
        raise OptionError("randomize permutes the elements of one layer, intra analyses products of two")
