"""The one of several checkpoints that lies apart from all others: a hint that it is not as good as they are.

The gap between a checkpoint and its nearest neighbour is held against the largest distance between any two others.
On a line that ratio is Q / (1 - Q) with Q of Dixon's test for one outlier. Spectra often differ along one direction,
so that its critical values hold for them. Weights do not: in so many dimensions independent changes are at right angles
and all distances alike, and a ratio of 3 says that one checkpoint moved four times as far as the others.

The reference is another matter: fine-tunes of it move in one direction, away from it, and lie nearer to each other than
to where they come from. It is named only where its weights lie as far from all others as unrelated ones may.

References
----------
W. J. Dixon, Ann. Math. Statist. 21 (1950) 488: the ratio. D. B. Rorabacher, Anal. Chem. 63 (1991) 139, table I: its
critical values at 95%, two-sided.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_weightwatcher.checks import SPECTRUM, WEIGHTS
from pytest_weightwatcher.reach import UNRELATED
from spectral.projections import RELATIVE_ERROR

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MIN_CHECKPOINTS = 3
"""Of two, each lies as far from the other as the other from it."""

CLEARLY = 3.0
"""Ratio of the gap to the largest distance between others from which on a checkpoint lies apart."""

DIXON_Q: Mapping[int, float] = MappingProxyType({3: 0.970, 4: 0.829})
"""Number of checkpoints -> critical Q; from 5 on (0.710) the ratio is below :data:`CLEARLY`."""


AS_IF_UNRELATED = UNRELATED * (1.0 - 2.0 * RELATIVE_ERROR)
"""An estimated distance of weights that unrelated ones exceed in 95% or more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OddOne:
    """A checkpoint that lies apart.

    Attributes
    ----------
    place : int
        Which one.
    quantity : str
        By what distance.
    gap, spread : float
        To the nearest other, and between the two others that lie furthest apart.
    """

    place: int
    quantity: str
    gap: float
    spread: float


def find_odd_one(n: int, distances: Mapping[str, Mapping[frozenset[int], float]], *, reference: int) -> OddOne | None:
    """Return the checkpoint that lies furthest apart, where one does by the rule above.

    Parameters
    ----------
    n : int
        Number of checkpoints; below :data:`MIN_CHECKPOINTS` none lies apart.
    distances : mapping of str to mapping
        For ``weights`` and ``spectrum``: pair of places -> distance, the larger one of both directions.
    reference : int
        Place of the one that the others are compared with.
    """
    if n < MIN_CHECKPOINTS:
        return None
    found = [
        _isolation(place, n, quantity, distances[quantity]) for quantity in (WEIGHTS, SPECTRUM) for place in range(n)
    ]
    apart = [
        each
        for each in found
        if _ratio(each) > critical_ratio(each.quantity, n) and (each.place != reference or _is_unrelated(each))
    ]
    return max(apart, key=_ratio, default=None)


def critical_ratio(quantity: str, n: int) -> float:
    """Return the ratio of gap to spread from which on one of n checkpoints lies apart."""
    q = DIXON_Q.get(n, 0.0) if quantity == SPECTRUM else 0.0
    return max(CLEARLY, q / (1.0 - q))


def _isolation(place: int, n: int, quantity: str, distances: Mapping[frozenset[int], float]) -> OddOne:
    others = [other for other in range(n) if other != place]
    gap = min(distances[frozenset((place, other))] for other in others)
    spread = max(_between(others, distances))
    return OddOne(place=place, quantity=quantity, gap=gap, spread=spread)


def _is_unrelated(found: OddOne) -> bool:
    return found.quantity == WEIGHTS and found.gap >= AS_IF_UNRELATED


def _between(places: Sequence[int], distances: Mapping[frozenset[int], float]) -> list[float]:
    return [distances[frozenset((one, other))] for one in places for other in places if one < other]


def _ratio(found: OddOne) -> float:
    if found.spread > 0.0:
        return found.gap / found.spread
    return math.inf if found.gap > 0.0 else 0.0
