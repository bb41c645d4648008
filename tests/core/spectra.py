"""Spectra with a known law, drawn by inversion or rejection, ascending."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def pareto(alpha: float, n: int, seed: int) -> NDArray[np.float64]:
    """Draw from p(x) ∝ x^-α, x >= 1."""
    quantiles = np.random.default_rng(seed).random(n)
    return np.asarray(np.sort((1.0 - quantiles) ** (-1.0 / (alpha - 1.0))), dtype=np.float64)


def bounded_pareto(alpha: float, largest: float, n: int, seed: int) -> NDArray[np.float64]:
    """Draw from p(x) ∝ x^-α, 1 <= x <= largest."""
    quantiles = np.random.default_rng(seed).random(n)
    share = 1.0 - largest ** (1.0 - alpha)
    return np.asarray(np.sort((1.0 - share * quantiles) ** (-1.0 / (alpha - 1.0))), dtype=np.float64)


def truncated_pareto(alpha: float, rate: float, n: int, seed: int) -> NDArray[np.float64]:
    """Draw from p(x) ∝ x^-α e^(-rate·x), x >= 1, from the exponential by rejection."""
    rng = np.random.default_rng(seed)
    kept: list[float] = []
    while len(kept) < n:
        values = 1.0 + rng.exponential(1.0 / rate, 4 * n)
        kept.extend(values[rng.random(4 * n) < values**-alpha])
    return np.asarray(np.sort(kept[:n]), dtype=np.float64)
