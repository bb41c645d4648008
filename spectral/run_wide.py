"""One false-alarm rate for a whole run: p-values of many layers, and what they say together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spectral.tracy_widom import holm

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from spectral.traps import LayerTraps


@dataclass(frozen=True, slots=True, kw_only=True)
class RunWidePValues:
    """The p-values of one test over all layers that have it.

    Attributes
    ----------
    rate : float
        Share of runs that may give a false alarm.
    adjusted : mapping of int to float
        Position of the layer -> p-value adjusted for the number of layers.
    """

    rate: float
    adjusted: Mapping[int, float]

    def is_alarm(self, position: int) -> bool:
        """Tell whether the layer is one of those that the whole run can answer for."""
        return position in self.adjusted and self.adjusted[position] <= self.rate

    def level_of(self, position: int, p_value: float) -> float:
        """Return the level that the run leaves an alarming layer: Bonferroni's share, or as much as it needed."""
        assert self.is_alarm(position), "only layers that alarm have a level"
        return max(p_value, self.rate / len(self.adjusted))


def adjust_p_values(p_values: Sequence[float | None], rate: float) -> RunWidePValues:
    """Adjust the p-values of a run.

    Parameters
    ----------
    p_values : sequence of float or None
        One per layer; None where the test could not be made.
    rate : float
        In (0, 1).
    """
    positions = [position for position, p_value in enumerate(p_values) if p_value is not None]
    adjusted = holm([p_value for p_value in p_values if p_value is not None])
    return RunWidePValues(rate=rate, adjusted=dict(zip(positions, adjusted, strict=True)))


def count_traps(traps: Sequence[LayerTraps | None], run: RunWidePValues) -> list[int | None]:
    """Count the traps of each layer at the rate of the whole run; None where there was no test."""
    counts: list[int | None] = []
    for position, layer in enumerate(traps):
        if layer is None:
            counts.append(None)
        elif run.is_alarm(position):
            counts.append(layer.n_traps(run.level_of(position, layer.p_value)))
        else:
            counts.append(0)
    return counts
