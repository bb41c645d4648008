"""A piece of ww.yaml from calibrated limits, such that the good checkpoints themselves pass by it.

A quantity without a limit of its own leaves the built-in one of the profile in force. Where a good checkpoint fails
by that, the built-in limit only warns; where no limit can tell good from bad, the quantity is switched off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import yaml

from pytest_weightwatcher.checks import (
    CORRELATION_TRAPS,
    COVERAGE,
    DRIFT,
    KERNELS,
    MODEL,
    REGRESSION,
    SPECTRUM,
    TENSORS,
    WEIGHTS,
)
from pytest_weightwatcher.comparison import LOG_RATIO_METRICS
from pytest_weightwatcher.config import Config
from pytest_weightwatcher.errors import CalibrationError
from pytest_weightwatcher.good_runs import ALPHA_MAX, ALPHA_MIN
from pytest_weightwatcher.profiles import PROFILES
from pytest_weightwatcher.reach import UNRELATED
from pytest_weightwatcher.yaml_text import number, quote, round_down, round_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pytest_weightwatcher.good_runs import Calibrated

Standing = Literal["limit", "built-in", "warn", "off", "none"]
"""What is in force: a limit of its own, that of the profile, that one as a warning, nothing by choice, or nothing."""

_OWN_KEYS = {SPECTRUM: "max_displacement", WEIGHTS: "max_change"}
_OF_MODEL = (TENSORS, KERNELS)
"""Quantities of a model as a whole that can fail."""

_OF_ALPHA = {ALPHA_MIN: "min", ALPHA_MAX: "max"}

_AS_BAD = {
    WEIGHTS: f"unrelated weights {UNRELATED:.2f}",
    SPECTRUM: f"no spectrum of equal norm beyond {UNRELATED:.2f}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What becomes of one quantity.

    Attributes
    ----------
    standing : str
        What is in force.
    keys : str
        The keys of ww.yaml that hold its limit; empty where there is none.
    comment : str
        Why it is relaxed; empty where it is not.
    """

    standing: Standing
    keys: str = ""
    comment: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposedLimits:
    """A piece of ww.yaml.

    Attributes
    ----------
    entries : mapping of str to Entry
        Quantity -> what becomes of it; ``coverage`` is among them where it is relaxed.
    lines : tuple of str
        The text, without its first comment.
    """

    entries: Mapping[str, Entry]
    lines: tuple[str, ...]

    @property
    def n_with_rate(self) -> int:
        """Number of limits for which the rate of false alarms holds."""
        return sum(
            entry.standing == "limit" for quantity, entry in self.entries.items() if quantity != CORRELATION_TRAPS
        )


def propose_entries(
    found: Iterable[Calibrated],
    *,
    profile: str,
    exclude: Sequence[str],
    failing: Callable[[Config], frozenset[str]],
) -> ProposedLimits:
    """Return limits by which no good checkpoint fails.

    Parameters
    ----------
    found : iterable of Calibrated
        What the good runs gave.
    profile : str
        Whose other rules stay in force.
    exclude : sequence of str
        Patterns of layers that are left out.
    failing : callable
        Gives the names of the checks that a good checkpoint fails under a configuration.

    Raises
    ------
    CalibrationError
        A good checkpoint fails a check that cannot be relaxed.
    """
    found = tuple(found)
    entries = {each.quantity: _entry_of(each, profile) for each in found}
    checks = failing(_loaded(entries, profile, exclude))
    entries |= {name: _relaxed(name, found) for name in sorted(map(_quantity_of, checks))}
    proposed = ProposedLimits(entries=entries, lines=tuple(_lines(entries, profile, exclude)))
    left = failing(_loaded(entries, profile, exclude))
    if left:
        raise CalibrationError(f"a known-good checkpoint fails {', '.join(sorted(left))} under every limit")
    return proposed


def in_unit(quantity: str, value: float) -> float:
    """Return a value as people give limits: the logarithm of a ratio as the relative increase it stands for."""
    return math.expm1(value) if quantity in LOG_RATIO_METRICS else value


def _quantity_of(check: str) -> str:
    return check.removeprefix(MODEL).removeprefix(REGRESSION)


def _entry_of(each: Calibrated, profile: str) -> Entry:
    limit, quantity = each.proposal.limit, each.quantity
    if each.proposal.is_blind:
        seen = number(round_up(in_unit(quantity, each.seen)))
        comment = f"good ones lie up to {seen} apart, {_AS_BAD.get(quantity, 'damaged ones no more')}: it tells nothing"
        return Entry(standing="off", comment=comment)
    keys = "" if limit is None else _keys(quantity, limit)
    if keys:
        return Entry(standing="limit", keys=keys)
    return Entry(standing="built-in" if quantity in PROFILES[profile].layer_rules else "none")


def _relaxed(name: str, found: Sequence[Calibrated]) -> Entry:
    """Return the entry of a quantity by whose limit a good checkpoint fails."""
    for each in found:
        if each.quantity == name:
            seen = number(round_up(in_unit(name, each.seen)))
            return Entry(
                standing="warn", comment=f"a good one exceeds the built-in limit (up to {seen}); too few for another"
            )
    return Entry(standing="warn", comment="a good one fails it as it is built in; it has no limit with a rate")


def _keys(quantity: str, limit: float) -> str:
    """Return the keys of ww.yaml that hold a limit; nothing where there is no such limit."""
    bound = number(round_up(limit))
    keys = f"max_increase: {bound}, max_decrease: {bound}"
    if quantity == ALPHA_MAX:
        keys = f"max: {bound}"
    elif quantity == ALPHA_MIN:
        # Alpha is above 1 by its definition.
        low = round_down(limit)
        keys = f"min: {number(low)}" if low > 1.0 else ""
    elif quantity == CORRELATION_TRAPS:
        keys = f"max_new: {int(limit)}"
    elif quantity in LOG_RATIO_METRICS:
        up, down = number(round_up(math.expm1(limit))), number(round_up(-math.expm1(-limit)))
        keys = f"max_relative_increase: {up}, max_relative_decrease: {down}"
    elif quantity in _OWN_KEYS:
        # Nothing moved at all: there is no such limit.
        keys = f"{_OWN_KEYS[quantity]}: {bound}" if limit > 0.0 else ""
    elif quantity == DRIFT:
        # A limit below zero would be no allowance.
        keys = f"max_increase: {number(max(0.0, round_up(limit)))}"
    return keys


def _lines(entries: Mapping[str, Entry], profile: str, exclude: Sequence[str]) -> list[str]:
    lines = []
    if exclude:
        lines += ["analysis:", f"  exclude: [{', '.join(map(quote, exclude))}]"]
    bounds = [entries[name].keys for name in _OF_ALPHA if name in entries and entries[name].keys]
    checks = [f"  alpha: {{{', '.join(bounds)}}}"] if bounds else []
    checks += [_line(name, entry) for name, entry in entries.items() if name == COVERAGE]
    lines += ["checks:", *checks] if checks else []
    lines += ["regression:", f"  profile: {profile}"]
    lines += [
        _line(name, entry)
        for name, entry in entries.items()
        if name not in (*_OF_ALPHA, COVERAGE, *_OF_MODEL) and entry.standing in ("limit", "warn", "off")
    ]
    pooled = [
        f"  {_line(name, entries[name] if name in _OF_MODEL else Entry(standing='off'))}"
        for name in PROFILES[profile].model_rules
        if name in entries and (name in _OF_MODEL or entries[name].standing == "off")
    ]
    lines += ["model:", "  regression:", *pooled] if pooled else []
    return lines


def _line(name: str, entry: Entry) -> str:
    value = {"limit": f"{{{entry.keys}}}", "warn": "{severity: warn}", "off": "false"}[entry.standing]
    return f"  {name}: {value}" + (f"  # {entry.comment}" if entry.comment else "")


def _loaded(entries: Mapping[str, Entry], profile: str, exclude: Sequence[str]) -> Config:
    """Return the configuration that the text is to a reader."""
    text = "\n".join(["version: 1", *_lines(entries, profile, exclude)])
    return Config.model_validate(yaml.safe_load(text))
