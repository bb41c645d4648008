"""From numbers to places in a picture: scales and their ticks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_N_TICKS = 5
_STEPS = (1.0, 2.0, 5.0, 10.0)
_LEAST = 1e-300
_WIDE = 100.0
_MOST_WHOLE = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """An axis.

    Attributes
    ----------
    low, high : float
        Its range in numbers, low < high; above zero where it is logarithmic.
    start, end : float
        Its range in the picture.
    is_log : bool
        Whether it is logarithmic.
    is_whole : bool
        Whether only whole numbers have ticks.
    """

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False
    is_whole: bool = False

    def place(self, value: float) -> float:
        """Return the place of a number, to a tenth; one outside lies on the edge."""
        low, high = self._on_axis(self.low), self._on_axis(self.high)
        share = (self._on_axis(min(max(value, self.low), self.high)) - low) / (high - low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> tuple[float, ...]:
        """Return round numbers within the range."""
        if self.is_log:
            return _log_ticks(self.low, self.high)
        ticks = _linear_ticks(self.low, self.high)
        return tuple(tick for tick in ticks if tick == int(tick)) if self.is_whole else ticks

    def _on_axis(self, value: float) -> float:
        return math.log10(max(value, _LEAST)) if self.is_log else value


def tick_text(value: float) -> str:
    """Return a tick in few characters: whole numbers as they are, up to a million."""
    return f"{value:.0f}" if value == int(value) and abs(value) < _MOST_WHOLE else f"{value:.4g}"


def scale_over(
    values: Iterable[float], start: float, end: float, *, is_log: bool = False, is_whole: bool = False
) -> Scale:
    """Return an axis that holds all of the numbers with a little room; where there are none, from 0 to 1."""
    found = [value for value in values if math.isfinite(value) and (value > 0.0 or not is_log)]
    low, high = (min(found), max(found)) if found else (1.0, 10.0) if is_log else (0.0, 1.0)
    if is_log:
        if high < _WIDE * low:
            # Whole decades, so that there are ticks to read by.
            low, high = 10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high) + 1e-9)
        room = (high / low) ** 0.03
        return Scale(low=low / room, high=high * room, start=start, end=end, is_log=True)
    room = 0.04 * (high - low) or max(abs(high), 1.0) * 0.1
    return Scale(low=low - room, high=high + room, start=start, end=end, is_whole=is_whole)


def _linear_ticks(low: float, high: float) -> tuple[float, ...]:
    size = 10.0 ** math.floor(math.log10((high - low) / _N_TICKS))
    step = next(size * factor for factor in _STEPS if size * factor * _N_TICKS >= high - low)
    first = math.ceil(low / step)
    return tuple(round(number * step, 12) for number in range(first, math.floor(high / step) + 1))


def _log_ticks(low: float, high: float) -> tuple[float, ...]:
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    step = max(1, math.ceil((last - first + 1) / (_N_TICKS + 1)))
    powers = tuple(10.0**power for power in range(first, last + 1, step))
    return powers if len(powers) > 1 else (low, high)
