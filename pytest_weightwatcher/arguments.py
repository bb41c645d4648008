"""Arguments of assertions -> checked values and a configuration; impossible ones are refused in one sentence."""

from __future__ import annotations

import math
import numbers
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pytest_weightwatcher.checks import COVERAGE
from pytest_weightwatcher.config import Config, Limit
from pytest_weightwatcher.limits import DEFAULT_RULES
from pytest_weightwatcher.overriding import config_in_force
from pytest_weightwatcher.profiles import PROFILES
from pytest_weightwatcher.suggestions import suggest
from spectral.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeAlias

    Bound: TypeAlias = float | None
    Allowance: TypeAlias = float | tuple[Bound, Bound] | None
    """Accepted relative change: of either sign, or (fall, rise); None where it is not limited."""


def assertion_config(
    min_evals: int,
    exclude: Iterable[str],
    min_coverage: float | None,
    *,
    checks: dict[str, tuple[Bound, Bound]] | None = None,
    analysis: dict[str, Any] | None = None,
) -> Config:
    """Return the configuration that makes the checks of an assertion, and integrity and coverage.

    Parameters
    ----------
    min_evals, exclude, min_coverage
        Arguments of the assertion.
    checks : dict of str to (float or None, float or None)
        Check -> smallest and largest accepted value.
    analysis : dict
        Further options under ``analysis``.
    """
    limits: dict[str, Any] = dict.fromkeys(DEFAULT_RULES, False)
    for name, (low, high) in (checks or {}).items():
        limits[name] = {"min": low, "max": high, "severity": "fail"}
    if min_coverage is not None:
        limits[COVERAGE] = {"min": _checked_share("min_coverage", min_coverage), "severity": "fail"}
    content = {
        "analysis": {"min_evals": min_evals, "exclude": checked_patterns(exclude), **(analysis or {})},
        "checks": limits,
        # These tests need analyses of their own, and assertions with rules of their own do not look at them.
        "regression": {"correlation_traps": False, "noise": False},
    }
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = next((part for part in reversed(first["loc"]) if isinstance(part, str)), "argument")
        problem = first["msg"].replace("Input should be", "expected").removeprefix("Value error, ")
        raise OptionError(f"{name}: {problem}, got {first['input']!r:.80}") from None


def changed_config(
    config: Config,
    *,
    profile: str | None,
    exclude: Iterable[str],
    min_coverage: float | None,
    seed: int | None,
) -> Config:
    """Return the configuration of a caller with what other arguments put before it."""
    if not isinstance(config, Config):
        raise OptionError(f"config must be a Config, such as the fixture ww_config, got {config!r:.80}")
    if profile is not None and profile not in PROFILES:
        raise OptionError(f"there is no profile {profile!r:.80}{suggest(str(profile), PROFILES)}")
    config = config_in_force(config, profile=profile, seed=checked_seed(seed), exclude=checked_patterns(exclude))
    if min_coverage is None:
        return config
    limit = Limit(min=_checked_share("min_coverage", min_coverage), severity="fail")
    return config.model_copy(update={"checks": {**config.checks, COVERAGE: limit}})


def checked_bounds(name: str, given: tuple[Bound, Bound]) -> tuple[Bound, Bound]:
    """Return a smallest and a largest accepted value; infinity means that there is none."""
    if not isinstance(given, (tuple, list)) or len(given) != 2 or not all(map(_is_bound, given)):
        raise OptionError(f"{name} must be (smallest, largest), two numbers, got {given!r:.80}")
    low = -math.inf if given[0] is None else float(given[0])
    high = math.inf if given[1] is None else float(given[1])
    if low > high or low == math.inf or high == -math.inf:
        raise OptionError(f"{name} must be (smallest, largest), got {given!r:.80}: nothing lies between them")
    if low == -math.inf and high == math.inf:
        raise OptionError(f"{name} limits nothing: {given!r:.80}")
    return (None if low == -math.inf else low), (None if high == math.inf else high)


def checked_allowances(name: str, given: Allowance) -> tuple[Bound, Bound]:
    """Return how far a quantity may fall and rise, as shares; None where that is not limited."""
    pair = tuple(given) if isinstance(given, (tuple, list)) else (given, given)
    if len(pair) != 2:
        raise OptionError(f"{name} must be one number, or (fall, rise), got {given!r:.80}")
    fall, rise = (None if allowance is None else checked_not_negative(name, allowance) for allowance in pair)
    return fall, rise


def checked_not_negative(name: str, value: Any) -> float:
    """Return a finite number of at least 0."""
    if not _is_number(value) or not 0.0 <= value < math.inf:
        raise OptionError(f"{name} must be a number of at least 0, got {value!r:.80}")
    return float(value)


def checked_seed(seed: Any) -> int | None:
    """Return a seed, or None."""
    if seed is not None and (type(seed) is not int or seed < 0):
        raise OptionError(f"seed must be an integer of at least 0, got {seed!r:.80}")
    return None if seed is None else int(seed)


def checked_layers(layers: Any) -> tuple[int | str, ...]:
    """Return a selection of layers; one alone need not be in a list."""
    if isinstance(layers, (int, str)):
        return (layers,)
    try:
        return tuple(layers)
    except TypeError:
        raise OptionError(f"layers must be a sequence of ids and names, got {layers!r:.80}") from None


def checked_patterns(exclude: Any) -> tuple[str, ...]:
    """Return shell patterns; one alone must be in a list, as everywhere in this project."""
    if isinstance(exclude, str):
        raise OptionError(f"exclude must be a sequence of patterns, got the string {exclude!r:.80}")
    try:
        patterns = tuple(exclude)
    except TypeError:
        raise OptionError(f"exclude must be a sequence of patterns, got {exclude!r:.80}") from None
    if not all(isinstance(pattern, str) and pattern for pattern in patterns):
        raise OptionError(f"exclude must hold patterns as text, got {patterns!r:.80}")
    return patterns


def _checked_share(name: str, value: Any) -> float:
    if not _is_number(value) or not 0.0 <= value <= 1.0:
        raise OptionError(f"{name} must be a share between 0 and 1, got {value!r:.80}")
    return float(value)


def _is_bound(bound: Any) -> bool:
    return bound is None or (_is_number(bound) and not math.isnan(bound))


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
