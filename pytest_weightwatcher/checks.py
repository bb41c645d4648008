"""What can be checked, by what kind of limit, and the names of it all: read by ww.yaml, verdicts and reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from spectral.columns import METRICS_BY_OPTION
from spectral.largest import LARGEST_WEIGHT
from spectral.metrics import LAYER_METRICS

Severity = Literal["fail", "warn"]

INTEGRITY = "integrity"
COVERAGE = "coverage"
CORRELATION_TRAPS = "correlation_traps"
NOISE = "noise"
WAIVERS = "waivers"
BASELINE_LAYERS = "baseline.layers"

REGRESSION = "regression."
MODEL = "model."
"""Prefixes of the checks against the baseline, and of those of a model as a whole."""

ALPHA = "alpha"
SPECTRUM = "spectrum"
WEIGHTS = "weights"
DRIFT = "drift"
TURN = "turn"
OVERLAP = "overlap"
INTRUDERS = "intruders"
ROUNDING = "rounding"
CLIPPED = "clipped"
TENSORS, KERNELS = "tensors", "kernels"
"""Of a model as a whole: what no spectrum covers, and those of it that have two or more dimensions."""

ALPHA_REGRESSION = REGRESSION + ALPHA
SPECTRUM_REGRESSION = REGRESSION + SPECTRUM

EXTRA_METRICS: dict[str, str] = {
    metric: option
    for option in ("mp_fit", "randomize", "detX", "vectors", "farms")
    for metric in METRICS_BY_OPTION[option]
}
"""Metric -> the option of ``analysis`` it needs."""

LAYER_CHECKS: tuple[str, ...] = (*LAYER_METRICS, LARGEST_WEIGHT, CORRELATION_TRAPS, *EXTRA_METRICS)
MODEL_CHECKS: tuple[str, ...] = (COVERAGE,)
"""Names that may stand under ``checks`` in ww.yaml, for layers and for the model."""

PAIRED_QUANTITIES = (
    ALPHA,
    SPECTRUM,
    WEIGHTS,
    DRIFT,
    TURN,
    CORRELATION_TRAPS,
    NOISE,
    OVERLAP,
    INTRUDERS,
    ROUNDING,
    CLIPPED,
)
"""Names under ``regression`` that are no plain metric."""

REGRESSION_METRICS: tuple[str, ...] = tuple(
    name for name in (*LAYER_METRICS, LARGEST_WEIGHT, *EXTRA_METRICS) if name != ALPHA
)
"""Metrics that may stand under ``regression``, each against the baseline's value."""

OF_ROUNDING = (ROUNDING, CLIPPED)
"""What a quantised layer lost beside what it had to lose."""

NEEDS_BOTH_CHECKPOINTS = (OVERLAP, INTRUDERS, *OF_ROUNDING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Bounds on one number, both inclusive; at least one is given, but for the checks of plugins, which need none.

    Attributes
    ----------
    check : str
        Name of the check.
    minimum, maximum : float or None
        The bounds.
    severity : {"fail", "warn"}
        What a value outside is.
    line : int or None
        Line of ww.yaml it comes from, or None for a built-in default.
    """

    check: str
    minimum: float | None
    maximum: float | None
    severity: Severity
    line: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RegressionRule:
    """How far a quantity may move from its baseline.

    A change counts only when it exceeds every allowance that is given for its direction. A direction for which none is
    given is not limited.

    Attributes
    ----------
    quantity : str
        What is compared.
    increase, decrease : float or None
        Allowance in the units of the quantity.
    relative_increase, relative_decrease : float or None
        Allowance as a share of the baseline's value.
    sigmas : float or None
        Allowance in standard errors, where these are known: of alpha, and of everything learned from several
        accepted checkpoints.
    warn_at : float or None
        Share of the allowance, in (0, 1), from which on the check warns.
    severity : {"fail", "warn"}
        What a change beyond the allowance is.
    line : int or None
        Line of ww.yaml, or None for the profile's default.
    """

    quantity: str
    increase: float | None = None
    decrease: float | None = None
    relative_increase: float | None = None
    relative_decrease: float | None = None
    sigmas: float | None = None
    warn_at: float | None = None
    severity: Severity = "fail"
    line: int | None = None

    @property
    def check(self) -> str:
        """Name of the check."""
        return REGRESSION + self.quantity

    def allowances(self, reference: float, sigma: float | None) -> tuple[float | None, float | None]:
        """Return how far the quantity may fall and rise from a reference; None where that is not limited."""
        return (
            self._allowance(self.decrease, self.relative_decrease, reference, sigma),
            self._allowance(self.increase, self.relative_increase, reference, sigma),
        )

    def _allowance(
        self, absolute: float | None, relative: float | None, reference: float, sigma: float | None
    ) -> float | None:
        given = [] if absolute is None else [absolute]
        if relative is not None:
            given.append(relative * abs(reference))
        if not given:
            return None
        if self.sigmas is not None and sigma is not None:
            given.append(self.sigmas * sigma)
        return max(given)
