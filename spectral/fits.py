"""What every fit of this package may say instead of numbers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class FitFailureReason(str, Enum):
    """Why there is no fit."""

    TOO_FEW_EIGENVALUES = "too_few_eigenvalues"
    TOO_MANY_EIGENVALUES = "too_many_eigenvalues"
    NO_SPECTRUM = "no_spectrum"
    NO_SPREAD = "no_spread"
    NO_CONVERGENCE = "no_convergence"
    REFUSED = "refused"
    """An optimum was found, but it does not describe the data (a bulk beside the mode of the density, ...)."""

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class FitFailure:
    """There is no fit, and this is why."""

    reason: FitFailureReason
    detail: str
