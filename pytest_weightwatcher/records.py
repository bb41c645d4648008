"""What the gate knows of one matrix, whether it was computed now or read from a baseline.

Verdicts must not depend on which of the two it was. So every number passes the same rounding here before anything
looks at it, and what follows from other numbers is computed from the rounded ones.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import accumulate
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from spectral.fits import FitFailure, FitFailureReason
from spectral.matrix_tests import NOISE_METRICS, TRAP_METRICS
from spectral.noise import any_of
from spectral.paired import sketch_spectrum
from spectral.power_law import PowerLawFit, alpha_at_tail
from spectral.spectrum import Spectrum, SpectrumFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from spectral.analysis import LayerAnalysis

METRIC_DIGITS = 9
"""Significant digits of metrics: more than any limit needs, fewer than differ between processors."""

SKETCH_DIGITS = 5
"""Significant digits of singular values and projections, of which there are many."""

TRAP_LEVEL = 0.05
"""Traps are told apart up to this level of significance for a layer alone; the run's level is far below."""

MAX_EIGENVALUES = 8
"""Of the permuted matrix, kept to tell a new trap from known ones."""

_P_VALUE_DIGITS = 3
_SURELY_STRUCTURED = 0.01
"""An upper bound of a p-value below this says as much as the p-value."""

_SAME = 1e-7

_DERIVED: Mapping[str, Callable[[Mapping[str, float]], float]] = MappingProxyType(
    {
        "lambda_max": lambda m: m["spectral_norm"],
        "sv_max": lambda m: math.sqrt(m["spectral_norm"]),
        "log_norm": lambda m: math.log10(m["norm"]),
        "log_spectral_norm": lambda m: math.log10(m["spectral_norm"]),
        "stable_rank": lambda m: m["norm"] / m["spectral_norm"],
        "xmax": lambda m: max(m["spectral_norm"], 0.0 * m["alpha"]),
        "sigma": lambda m: (m["alpha"] - 1.0) / math.sqrt(m["num_pl_spikes"]),
        "alpha_weighted": lambda m: m["alpha"] * math.log10(m["spectral_norm"]),
    }
)
"""Metric -> how it follows from others; a layer where it does not (a form of matrix with its own rules) keeps it."""

_OF_TESTS = frozenset((*NOISE_METRICS, *TRAP_METRICS))
"""Numbers of the tests, which have records of their own."""

_COUNTS = ("rank_loss", "weak_rank_loss", "n_dead_rows", "n_dead_columns")
"""Zero in nearly every layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """The part of a spectrum on which alpha was fitted.

    Attributes
    ----------
    n : int
        Number of eigenvalues in it.
    alpha : float
        Exponent over exactly these.
    """

    n: int
    alpha: float

    @property
    def sigma(self) -> float:
        """Standard error of alpha, (α-1)/√n."""
        return (self.alpha - 1.0) / math.sqrt(self.n)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrapRecord:
    """The trap test of one layer.

    Attributes
    ----------
    p_value : float
        Of the layer, in [0, 1].
    levels : tuple of float
        Levels of significance from which on there is one trap more, ascending, up to :data:`TRAP_LEVEL`.
    eigenvalues : tuple of float
        The largest ones of the permuted matrix, descending, in the scale of the spectrum, down to the first inside the
        bulk; at most :data:`MAX_EIGENVALUES`.
    outside : tuple of float
        Levels of significance from which on one eigenvalue more lies outside the bulk, whatever its cause; empty where
        the record was read from a baseline.
    limit : float
        Singular value below which a trap cannot be seen.
    """

    p_value: float
    levels: tuple[float, ...]
    eigenvalues: tuple[float, ...]
    limit: float
    outside: tuple[float, ...] = field(default=(), compare=False)

    def n_outside(self, level: float) -> int:
        """Count the eigenvalues outside the bulk at a level of significance."""
        return bisect_right(self.outside, level)

    def count(self, level: float) -> int:
        """Count the traps at a level of significance for this layer, at most :data:`TRAP_LEVEL`."""
        return bisect_right(self.levels, level)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRecord:
    """What the gate knows of one matrix.

    Attributes
    ----------
    name : str
        Layer name.
    shape : tuple of int
        Stored shape.
    dtype : str
        Stored type.
    content_hash : str
        SHA-256 of dtype, shape and bytes.
    n_evals : int
        Number of eigenvalues.
    rows, columns : int
        Of each slice, as stored.
    metrics : mapping of str to number
        The numbers that exist, rounded to :data:`METRIC_DIGITS`.
    damage : str or None
        Why there is no spectrum, or that all values are the same; None for a sound layer.
    is_without_spectrum : bool
        Nothing can be compared.
    fit_failure : tuple of (FitFailureReason, str) or None
        Why there is no alpha.
    reasons : mapping of str to str
        Option -> why what it asks for does not exist.
    tail : Tail or None
        Where alpha was fitted.
    sketch : tuple of float
        Singular values, see :func:`spectral.paired.sketch_spectrum`; empty where there is no spectrum.
    projections : tuple of float
        Random projections of the weights; empty where there are none.
    traps : TrapRecord or None
        The trap test, where it could be made.
    noise_p_value : float or None
        Of the test against noise, where it could be made.
    failed_metrics : tuple of str
        Metrics of plugins that could not be computed; ``reasons`` says why. Such a layer is not recorded.
    evals : ndarray or None
        The eigenvalues the tail is fitted to, where the layer was computed in this run.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    content_hash: str
    n_evals: int
    rows: int
    columns: int
    metrics: Mapping[str, float | int]
    damage: str | None = None
    is_without_spectrum: bool = False
    fit_failure: tuple[FitFailureReason, str] | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)
    tail: Tail | None = None
    sketch: tuple[float, ...] = field(default=(), repr=False)
    projections: tuple[float, ...] = field(default=(), repr=False)
    traps: TrapRecord | None = None
    noise_p_value: float | None = None
    failed_metrics: tuple[str, ...] = ()
    evals: NDArray[np.float64] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("metrics", "reasons"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    @property
    def reason(self) -> str | None:
        """Why there is no spectrum, or no fit."""
        if self.is_without_spectrum:
            return self.damage
        return self.fit_failure[1] if self.fit_failure is not None else None

    @property
    def norm(self) -> float:
        """Σλ = ‖W‖_F²."""
        return float(self.metrics["norm"])

    def alpha_at(self, n_tail: int) -> float | None:
        """Return alpha over a tail of this size; None where there is none."""
        if self.evals is not None:
            alpha = alpha_at_tail(self.evals, n_tail)
            return None if alpha is None else rounded(alpha, METRIC_DIGITS)
        return self.tail.alpha if self.tail is not None and self.tail.n == n_tail else None


def record_of(layer: LayerAnalysis) -> LayerRecord:
    """Return the record of a layer that was computed."""
    spec = layer.spec
    identity: dict[str, Any] = {
        "name": spec.name,
        "shape": spec.shape,
        "dtype": spec.dtype,
        "content_hash": layer.content_hash,
        "n_evals": spec.n_evals,
        "rows": spec.rows,
        "columns": spec.columns,
    }
    if isinstance(layer.spectrum, SpectrumFailure):
        return LayerRecord(**identity, metrics={}, damage=layer.spectrum.detail, is_without_spectrum=True)
    return LayerRecord(
        **identity,
        metrics=complete_metrics({name: layer.metrics[name] for name in layer.metrics if name not in _OF_TESTS}),
        damage="every value of the layer is the same" if layer.is_constant else None,
        fit_failure=(layer.fit.reason, layer.fit.detail) if isinstance(layer.fit, FitFailure) else None,
        reasons={**_reasons_of_tests(layer), **layer.reasons},
        tail=_tail_of(layer),
        sketch=_rounded_all(sketch_spectrum(layer.spectrum.evals)),
        projections=() if layer.projections is None else _rounded_all(layer.projections),
        traps=_traps_of(layer),
        noise_p_value=_noise_p_value_of(layer),
        failed_metrics=layer.failed_measures,
        evals=layer.fitted_evals,
    )


def _noise_p_value_of(layer: LayerAnalysis) -> float | None:
    """Return the p-value; of a bound on it only that it is small."""
    test = layer.noise
    if test is None or not (test.is_calibrated or test.p_value <= _SURELY_STRUCTURED):
        return None
    return rounded(test.p_value, _P_VALUE_DIGITS)


def _reasons_of_tests(layer: LayerAnalysis) -> dict[str, str]:
    if layer.noise is None or _noise_p_value_of(layer) is not None:
        return {}
    return {"noise_test": "nearly all elements are zero: the p-value against noise is only known to be at most 1"}


def _tail_of(layer: LayerAnalysis) -> Tail | None:
    if not isinstance(layer.fit, PowerLawFit):
        return None
    alpha = alpha_at_tail(layer.fitted_evals, layer.fit.n_tail)
    return None if alpha is None else Tail(n=layer.fit.n_tail, alpha=rounded(alpha, METRIC_DIGITS))


def _traps_of(layer: LayerAnalysis) -> TrapRecord | None:
    if layer.traps is None:
        return None
    assert isinstance(layer.spectrum, Spectrum), "a layer with a test has a spectrum"
    scale, tests = layer.spec.scale, layer.traps.slices
    leading = sorted(
        (
            (value, any_of(p_value, len(tests)))
            for test in tests
            for value, p_value in zip(test.eigenvalues, test.eigenvalue_p_values, strict=True)
        ),
        reverse=True,
    )[:MAX_EIGENVALUES]
    return TrapRecord(
        p_value=rounded(layer.traps.p_value, _P_VALUE_DIGITS),
        levels=_rounded_all(layer.traps.levels(TRAP_LEVEL), _P_VALUE_DIGITS),
        eigenvalues=tuple(rounded(value * scale**2) for value, _ in leading),
        outside=tuple(accumulate((p_value for _, p_value in leading), max)),
        limit=rounded(layer.traps.detectability_limit * scale, SKETCH_DIGITS),
    )


def stored_metrics(metrics: Mapping[str, float | int]) -> dict[str, float | int]:
    """Return the metrics that a file needs: not those that :func:`complete_metrics` adds."""
    kept = {
        name: value for name, value in metrics.items() if name != "num_evals" and not (name in _COUNTS and not value)
    }
    return {name: value for name, value in kept.items() if name not in _DERIVED or value != _derive(name, metrics)}


def complete_metrics(metrics: Mapping[str, float | int], n_evals: int | None = None) -> dict[str, float | int]:
    """Return rounded metrics, with those that follow from others, in the order of their names.

    Parameters
    ----------
    metrics : mapping of str to number
        As computed, or as :func:`stored_metrics` left them.
    n_evals : int, optional
        Number of eigenvalues, where ``metrics`` comes from a file.
    """
    found: dict[str, float | int] = {name: _rounded_number(value) for name, value in metrics.items()}
    if n_evals is not None:
        found["num_evals"] = n_evals
        found.update({name: 0 for name in _COUNTS if name not in found})
    for name in _DERIVED:
        derived = _derive(name, found)
        is_near = derived is not None and (
            name not in metrics or math.isclose(float(metrics[name]), derived, rel_tol=_SAME, abs_tol=_SAME)
        )
        if derived is not None and is_near:
            found[name] = derived
    # One order, whether they were computed or read: reports are compared byte by byte.
    return dict(sorted(found.items()))


def _derive(name: str, metrics: Mapping[str, float | int]) -> float | None:
    try:
        return _DERIVED[name](metrics)
    except (KeyError, ValueError, ZeroDivisionError, OverflowError):
        return None


def rounded(value: float, digits: int = SKETCH_DIGITS) -> float:
    """Return a number to so many significant digits."""
    return float(f"{value:.{digits}g}")


def _rounded_number(value: float) -> float | int:
    return value if isinstance(value, int) else rounded(float(value), METRIC_DIGITS)


def _rounded_all(values: Iterable[float], digits: int = SKETCH_DIGITS) -> tuple[float, ...]:
    return tuple(rounded(float(value), digits) for value in values)
