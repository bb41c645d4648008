"""How far a quantity can move at all: a limit beyond tells nothing.

Weights and spectrum: matrices that have nothing to do with each other lie at a right angle, ‖W - W'‖² = ‖W‖² + ‖W'‖²,
so that at equal norm they lie √2 apart; and no two spectra of equal norm lie further apart than that, because singular
values are not negative, Σ(σ - σ')² <= Σσ² + Σσ'². A layer drawn anew need not show more.

Ranks: both lie between 1 and M, the number of eigenvalues, so that |ln(r'/r)| is at most the larger of ln(M/r) and
ln(r). Drift is sin θ + c ln(r'/r), and at most 1 + c ln(M/r). Norms and alpha have no such bound.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_weightwatcher.checks import DRIFT, SPECTRUM, WEIGHTS
from pytest_weightwatcher.comparison import SPREAD_WEIGHT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_weightwatcher.records import LayerRecord

UNRELATED = math.sqrt(2.0)
"""Distance of unrelated weights of equal norm, as a share of it."""

_RANKS = ("effective_rank", "stable_rank")


def reach_of(quantity: str, records: Iterable[LayerRecord]) -> float:
    """Return the largest value that a change of some layer can have, or need have; infinite where there is no bound.

    Parameters
    ----------
    quantity : str
        What is compared with the reference; metrics as the size of ln(new / old).
    records : iterable of LayerRecord
        The layers it may start from.
    """
    if quantity in (SPECTRUM, WEIGHTS):
        return UNRELATED
    if quantity == DRIFT:
        return max((1.0 + SPREAD_WEIGHT * _room(record, "effective_rank") for record in records), default=math.inf)
    if quantity in _RANKS:
        return max((_span(record, quantity) for record in records), default=math.inf)
    return math.inf


def _room(record: LayerRecord, rank: str) -> float:
    """Return how far the logarithm of a rank can rise."""
    return max(0.0, math.log(record.n_evals / record.metrics[rank]))


def _span(record: LayerRecord, rank: str) -> float:
    """Return how far the logarithm of a rank can move, up or down."""
    return max(_room(record, rank), math.log(record.metrics[rank]))
