"""The rules in force for a layer or a model: built-in limits, the profile, ww.yaml, overrides, in this order."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from pytest_weightwatcher.checks import (
    BASELINE_LAYERS,
    CORRELATION_TRAPS,
    COVERAGE,
    EXTRA_METRICS,
    INTEGRITY,
    LAYER_CHECKS,
    MODEL,
    MODEL_CHECKS,
    NOISE,
    PAIRED_QUANTITIES,
    REGRESSION,
    REGRESSION_METRICS,
    RegressionRule,
    Rule,
)
from pytest_weightwatcher.profiles import DEFAULT_PROFILE, MODEL_QUANTITIES, PROFILES
from pytest_weightwatcher.suggestions import suggest
from spectral.metrics import SUMMARY_METRICS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_weightwatcher.config import CheckTable, Config, Limit, RegressionTable
    from pytest_weightwatcher.profiles import Profile
    from pytest_weightwatcher.yaml_source import Location

DEFAULT_RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "coverage": Rule(check="coverage", minimum=0.9, maximum=None, severity="fail", line=None),
        # Healthy models have layers outside [2, 6] (5 of the 39 of all-MiniLM-L6-v2), hence only a warning.
        "alpha": Rule(check="alpha", minimum=2.0, maximum=6.0, severity="warn", line=None),
        # Without a baseline nobody knows whether these are news, hence a warning, too.
        CORRELATION_TRAPS: Rule(check=CORRELATION_TRAPS, minimum=None, maximum=0.0, severity="warn", line=None),
        NOISE: Rule(check=NOISE, minimum=None, maximum=0.01, severity="warn", line=None),
    }
)
"""The absolute limits in force where ww.yaml does not say otherwise."""

MODEL_METRICS: tuple[str, ...] = SUMMARY_METRICS
"""Means over layers that may stand under ``model.checks``."""

CHECK_NAMES: tuple[str, ...] = (*LAYER_CHECKS, NOISE)
REGRESSION_NAMES: tuple[str, ...] = (*PAIRED_QUANTITIES, *REGRESSION_METRICS)


def layer_rules(config: Config, layer: str) -> tuple[Rule, ...]:
    """Return the absolute limits in force for a layer.

    Raises
    ------
    ConfigError
        The merged limits are impossible (min above max).
    """
    tables: list[tuple[Location, Mapping[str, Limit | None]]] = [(("checks",), config.checks)]
    tables += [(("overrides", index, "checks"), override.checks) for index, override in _matching(config, layer)]
    return _merge(config, tables, check_names_of(config))


def check_names_of(config: Config) -> tuple[str, ...]:
    """Return the names that may stand under ``checks``, those of plugins among them."""
    return (*CHECK_NAMES, *config.extensions.metric_names, *config.extensions.checks)


def regression_names_of(config: Config) -> tuple[str, ...]:
    """Return the names that may stand under ``regression``, those of plugins among them."""
    return (*REGRESSION_NAMES, *config.extensions.metric_names)


def model_rules(config: Config) -> tuple[Rule, ...]:
    """Return the absolute limits in force for a model as a whole."""
    rules = _merge(config, [(("checks",), config.checks)], MODEL_CHECKS)
    means = {
        name: _patched(config, ("model", "checks", name), None, limit)
        for name, limit in config.model.checks.items()
        if limit is not None
    }
    return (*rules, *(means[name] for name in MODEL_METRICS if name in means))


def profile_of(config: Config, profile: str | None) -> Profile:
    """Return the profile in force: the one given by option, then that of ww.yaml, then the default."""
    return PROFILES[profile or config.regression.profile or DEFAULT_PROFILE]


def regression_rules(config: Config, profile: Profile, layer: str) -> tuple[RegressionRule, ...]:
    """Return the limits against the baseline in force for a layer."""
    tables: list[tuple[Location, RegressionTable]] = [(("regression",), config.regression)]
    tables += [
        (("overrides", index, "regression"), override.regression) for index, override in _matching(config, layer)
    ]
    of_any_profile = [each.layer_rules for each in PROFILES.values()]
    return _merge_regression(config, profile.layer_rules, tables, of_any_profile)


def model_regression_rules(config: Config, profile: Profile) -> tuple[RegressionRule, ...]:
    """Return the limits against the baseline in force for a model as a whole."""
    tables: list[tuple[Location, RegressionTable]] = [(("model", "regression"), config.model.regression)]
    return _merge_regression(config, profile.model_rules, tables, [each.model_rules for each in PROFILES.values()])


def check_names(config: Config) -> None:
    """Refuse names that do not exist, and find limits that contradict each other before anything runs.

    Raises
    ------
    ConfigError
        With the line of the entry.
    """
    for location, table, known in _check_tables(config):
        for name in table:
            if name not in known:
                raise config.error((*location, name), _no_such_check(name, known))
            _check_extra(config, (*location, name), name)
            limit = table[name]
            if name in config.extensions.checks and limit is not None and (limit.min, limit.max) != (None, None):
                place = (*location, name, "max" if limit.min is None else "min")
                raise config.error(place, "a check of a plugin judges by itself: give false or a severity")
            if name in (CORRELATION_TRAPS, NOISE) and limit is not None and limit.min is not None:
                raise config.error((*location, name, "min"), "there is no least number of it to ask for; give max")
    for place, regression, quantities in _regression_tables(config):
        for name in regression.limits():
            if name not in quantities:
                raise config.error((*place, name), f"nothing to compare by this name{suggest(name, quantities)}")
            _check_extra(config, (*place, name), name)
    _check_ranges(config)
    _check_waivers(config)
    model_rules(config)
    for layer in ("", *(override.match for override in config.overrides)):
        layer_rules(config, layer)
        for profile in PROFILES.values():
            regression_rules(config, profile, layer)
    for profile in PROFILES.values():
        model_regression_rules(config, profile)


_OF_PLUGINS = " (those of a plugin exist in runs of pytest that load it)"


def _no_such_check(name: str, known: Sequence[str]) -> str:
    if name in (INTEGRITY, BASELINE_LAYERS):
        return "is always made, and cannot be changed here"
    hint = suggest(name, known)
    return f"no such check{hint}{'' if 'did you mean' in hint else _OF_PLUGINS}"


def _check_ranges(config: Config) -> None:
    """Refuse bounds that no share or p-value can have."""
    for location, table, _ in _check_tables(config):
        for name in (COVERAGE, NOISE):
            limit = table.get(name)
            for key in ("min", "max"):
                bound = None if limit is None else getattr(limit, key)
                if bound is not None and not 0.0 <= bound <= 1.0:
                    hint = f"; did you mean {bound / 100:g}?" if 2.0 < bound <= 100.0 and name == COVERAGE else ""
                    raise config.error((*location, name, key), f"{bound:g} is not between 0 and 1{hint}")


def _check_waivers(config: Config) -> None:
    """Refuse a waiver whose check is none."""
    known = all_check_names(config)
    for index, waiver in enumerate(config.waivers):
        if any(fnmatchcase(name, waiver.check) for name in known):
            continue
        raise config.error(("waivers", index, "check"), f"no such check{suggest(waiver.check, known)}")


def all_check_names(config: Config) -> tuple[str, ...]:
    """Return the name of every check that an item can have, those of plugins among them."""
    return (
        INTEGRITY,
        BASELINE_LAYERS,
        *MODEL_CHECKS,
        *check_names_of(config),
        *(MODEL + name for name in MODEL_METRICS),
        *(REGRESSION + name for name in regression_names_of(config)),
        *(MODEL + REGRESSION + name for name in MODEL_QUANTITIES),
    )


def _check_extra(config: Config, location: Location, name: str) -> None:
    option = EXTRA_METRICS.get(name)
    if option is not None and not getattr(config.analysis, option):
        raise config.error(location, f"is only computed with analysis: {{{option}: true}}")


def _check_tables(config: Config) -> Iterator[tuple[Location, CheckTable, tuple[str, ...]]]:
    names = check_names_of(config)
    yield ("checks",), config.checks, (*names, *MODEL_CHECKS)
    yield ("model", "checks"), config.model.checks, MODEL_METRICS
    for index, override in enumerate(config.overrides):
        yield ("overrides", index, "checks"), override.checks, names


def _regression_tables(config: Config) -> Iterator[tuple[Location, RegressionTable, tuple[str, ...]]]:
    names = regression_names_of(config)
    yield ("regression",), config.regression, names
    yield ("model", "regression"), config.model.regression, MODEL_QUANTITIES
    for index, override in enumerate(config.overrides):
        yield ("overrides", index, "regression"), override.regression, names


def _matching(config: Config, layer: str) -> Iterator[tuple[int, Any]]:
    return ((index, override) for index, override in enumerate(config.overrides) if fnmatchcase(layer, override.match))


def _merge(
    config: Config,
    tables: Sequence[tuple[Location, Mapping[str, Limit | None]]],
    names: tuple[str, ...],
) -> tuple[Rule, ...]:
    rules = {name: DEFAULT_RULES[name] for name in names if name in DEFAULT_RULES}
    rules |= {name: plugin_rule(name) for name in config.extensions.checks if name in names}
    if NOISE in rules:
        rules[NOISE] = replace(rules[NOISE], maximum=config.analysis.false_alarm_rate)
    for location, table in tables:
        apply = _patched if location[0] == "overrides" else _replaced
        for name, limit in table.items():
            if name not in names:
                continue
            if limit is None:
                rules.pop(name, None)
            else:
                rules[name] = apply(config, (*location, name), rules.get(name), limit)
    return tuple(rules[name] for name in names if name in rules)


def plugin_rule(check: str) -> Rule:
    """Return the rule of a check that a plugin judges: by default its verdict stands."""
    return Rule(check=check, minimum=None, maximum=None, severity="fail", line=None)


def _replaced(config: Config, location: Location, before: Rule | None, limit: Limit) -> Rule:
    """Apply a limit under ``checks``: it stands for itself; with a severity alone it keeps the built-in bounds."""
    if limit.min is not None or limit.max is not None:
        before = None
    return _patched(config, location, before, limit)


def _patched(config: Config, location: Location, before: Rule | None, limit: Limit) -> Rule:
    """Apply a limit under ``overrides``: it changes what it names and leaves the rest as it was."""
    minimum = before.minimum if before and limit.min is None else limit.min
    maximum = before.maximum if before and limit.max is None else limit.max
    if minimum is None and maximum is None and location[-1] not in config.extensions.checks:
        raise config.error(location, "gives neither min nor max, and there is no built-in limit")
    if minimum is not None and maximum is not None and minimum > maximum:
        raise config.error(location, f"min {minimum:g} is larger than max {maximum:g}, one of them set elsewhere")
    severity: Literal["fail", "warn"] = limit.severity or (before.severity if before else "fail")
    return Rule(
        check=str(location[-1]),
        minimum=minimum,
        maximum=maximum,
        severity=severity,
        line=config.line_of(location),
    )


def _merge_regression(
    config: Config,
    defaults: Mapping[str, RegressionRule],
    tables: Sequence[tuple[Location, RegressionTable]],
    of_any_profile: Sequence[Mapping[str, RegressionRule]],
) -> tuple[RegressionRule, ...]:
    rules = dict(defaults)
    for location, table in tables:
        for name, changes in table.limits().items():
            if changes is None:
                rules.pop(name, None)
                continue
            place = (*location, name)
            before = rules.get(name)
            if before is None and not _gives_limit(name, changes):
                if not any(name in other for other in of_any_profile):
                    raise config.error(place, "gives no limit, and no profile has one for it")
                # It changes the rule of another profile.
                continue
            if before is None:
                before = RegressionRule(quantity=name)
            rules[name] = replace(before, **changes, line=config.line_of(place))
    return tuple(rules.values())


def idle_limits(config: Config, profile: Profile) -> Iterator[tuple[Location, str]]:
    """Yield the entries under ``regression`` that change a limit which the profile does not have, and its name."""
    given: set[str] = set(profile.layer_rules)
    for place, table, _ in _regression_tables(config):
        known = set(profile.model_rules) if place[0] == "model" else given
        for name, changes in table.limits().items():
            if changes is None:
                continue
            if name not in known and not _gives_limit(name, changes):
                yield (*place, name), name
            elif place[0] != "model":
                known.add(name)


def _gives_limit(name: str, changes: Mapping[str, Any]) -> bool:
    allowances = ("increase", "decrease", "relative_increase", "relative_decrease")
    return name == NOISE or any(allowance in changes for allowance in allowances)
