"""ww.yaml -> a frozen Config. Unknown keys, wrong types and impossible limits are errors with file and line."""

from __future__ import annotations

import difflib
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from pytest_weightwatcher.checks import LAYER_CHECKS, MODEL_CHECKS, Rule
from pytest_weightwatcher.errors import ConfigError
from pytest_weightwatcher.options import CONFIG_NAME
from pytest_weightwatcher.yaml_source import Location, YamlSource, read_yaml

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pydantic_core import ErrorDetails

GATE_MIN_EVALS = 50
"""The least number of eigenvalues the gate fits (Clauset et al. 2009, section 3.3, give about 50)."""


def _refuse_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number, got a truth value")
    return value


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


Number = Annotated[float, BeforeValidator(_refuse_bool), Field(allow_inf_nan=False)]
Positive = Annotated[float, BeforeValidator(_refuse_bool), Field(gt=0, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=False)


class ModelEntry(_Section):
    """A model to check: a path or shell pattern relative to ww.yaml, and its baseline."""

    path: Text
    baseline: Text | None = None


class AnalysisSection(_Section):
    """How spectra are fitted."""

    fit: Literal["PL"] = "PL"
    min_evals: Annotated[int, Field(ge=2)] = GATE_MIN_EVALS
    exclude: Annotated[tuple[Text, ...], BeforeValidator(_as_tuple)] = ()


class Limit(_Section):
    """Bounds on a metric, both inclusive; what lies outside has the severity."""

    min: Number | None = None
    max: Number | None = None
    severity: Literal["fail", "warn"] | None = None

    @model_validator(mode="after")
    def _bounds_are_possible(self) -> Limit:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is larger than max {self.max:g}")
        if self.min is None and self.max is None and self.severity is None:
            raise ValueError("gives neither min nor max")
        return self


def _off(value: Any) -> Any:
    """Read ``false`` as a wish to switch an entry off, and an entry left empty as a slip."""
    if value is None:
        raise ValueError("is empty; write false to switch it off")
    return None if value is False else value


CheckTable = dict[str, Annotated[Limit | None, BeforeValidator(_off)]]
"""Check name -> its limit, or None where it is switched off."""


class AlphaRegression(_Section):
    """How far alpha may move at the baseline's own tail, in both directions.

    A change counts when it exceeds ``sigmas`` standard errors of the baseline's alpha and also the absolute
    allowance of its direction.
    """

    max_increase: Positive = 0.5
    max_decrease: Positive = 0.5
    sigmas: Positive = 3.0
    severity: Literal["fail", "warn"] = "fail"


class SpectrumRegression(_Section):
    """How far the singular values may move: √Σ(σ-σ')² relative to √Σσ²."""

    max_displacement: Positive = 0.03
    severity: Literal["fail", "warn"] = "fail"


class RegressionSection(_Section):
    """Limits against the baseline."""

    alpha: Annotated[AlphaRegression | None, BeforeValidator(_off)] = Field(default_factory=AlphaRegression)
    spectrum: Annotated[SpectrumRegression | None, BeforeValidator(_off)] = Field(default_factory=SpectrumRegression)


class Override(_Section):
    """Other limits for the layers whose name matches a shell pattern; the last match wins, key by key."""

    match: Text
    checks: CheckTable


class ReportSection(_Section):
    """Reports to write, by paths relative to ww.yaml and inside its folder."""

    json_: Text | None = Field(default=None, alias="json")
    markdown: Text | None = None


class Config(_Section):
    """A whole ww.yaml, validated; immutable.

    Attributes
    ----------
    version : int
        Format of the file, 1.
    models, analysis, checks, regression, overrides, report
        As the reference in docs/configuration.md has them.
    """

    version: Annotated[Literal[1], BeforeValidator(_refuse_bool)] = 1
    models: Annotated[tuple[ModelEntry, ...], BeforeValidator(_as_tuple)] = ()
    analysis: AnalysisSection = Field(default_factory=AnalysisSection)
    checks: CheckTable = Field(default_factory=dict)
    regression: RegressionSection = Field(default_factory=RegressionSection)
    overrides: Annotated[tuple[Override, ...], BeforeValidator(_as_tuple)] = ()
    report: ReportSection = Field(default_factory=ReportSection)

    _source: YamlSource | None = PrivateAttr(default=None)

    def remember(self, source: YamlSource) -> None:
        """Keep the file this was read from, for the lines of its entries."""
        self._source = source

    @property
    def path(self) -> Path | None:
        """The file this was read from, or None for the built-in defaults."""
        return self._source.path if self._source else None

    def line_of(self, location: Location) -> int | None:
        """Return the line (from 1) of an entry of the file, or None where the file does not have it."""
        if self._source is None or location not in self._source.lines:
            return None
        return self._source.lines[location]

    def error(self, location: Location, problem: str) -> ConfigError:
        """Return an error that points at an entry of the file."""
        if self._source is None:
            return ConfigError(path=Path(CONFIG_NAME), line=None, key="", problem=problem)
        return self._source.error(location, problem)


def load_config(path: Path) -> Config:
    """Read and validate a ww.yaml.

    Raises
    ------
    ConfigError
        With file, line and dotted path of the first entry that is wrong.
    """
    source = read_yaml(path)
    if source.data is None:
        raise source.error((), "the file is empty; it needs at least 'version: 1'")
    if not isinstance(source.data, dict):
        raise source.error((), f"expected keys and values, got a {type(source.data).__name__}")
    if "version" not in source.data:
        raise source.error((), "version is missing; write 'version: 1'")
    try:
        config = Config.model_validate(source.data)
    except ValidationError as error:
        raise _explain(source, error.errors(include_url=False)[0]) from error
    config.remember(source)
    _check_names(config)
    return config


DEFAULT_RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "coverage": Rule(check="coverage", minimum=0.9, maximum=None, severity="fail", line=None),
        # Healthy models have layers outside [2, 6] (5 of the 39 of all-MiniLM-L6-v2), hence only a warning.
        "alpha": Rule(check="alpha", minimum=2.0, maximum=6.0, severity="warn", line=None),
    }
)
"""The absolute limits in force where ww.yaml does not say otherwise."""


def layer_rules(config: Config, layer: str) -> tuple[Rule, ...]:
    """Return the limits in force for a layer, merged from the defaults, ``checks`` and matching overrides.

    Raises
    ------
    ConfigError
        The merged limits are impossible (min above max).
    """
    tables: list[tuple[Location, Mapping[str, Limit | None]]] = [(("checks",), config.checks)]
    for index, override in enumerate(config.overrides):
        if fnmatchcase(layer, override.match):
            tables.append((("overrides", index, "checks"), override.checks))
    return _merge(config, tables, LAYER_CHECKS)


def model_rules(config: Config) -> tuple[Rule, ...]:
    """Return the limits in force for a model as a whole."""
    return _merge(config, [(("checks",), config.checks)], MODEL_CHECKS)


def _merge(
    config: Config,
    tables: list[tuple[Location, Mapping[str, Limit | None]]],
    names: tuple[str, ...],
) -> tuple[Rule, ...]:
    rules = {name: DEFAULT_RULES[name] for name in names if name in DEFAULT_RULES}
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


def _replaced(config: Config, location: Location, before: Rule | None, limit: Limit) -> Rule:
    """Apply a limit under ``checks``: it stands for itself; with a severity alone it keeps the built-in bounds."""
    if limit.min is not None or limit.max is not None:
        before = None
    return _patched(config, location, before, limit)


def _patched(config: Config, location: Location, before: Rule | None, limit: Limit) -> Rule:
    """Apply a limit under ``overrides``: it changes what it names and leaves the rest as it was."""
    minimum = before.minimum if before and limit.min is None else limit.min
    maximum = before.maximum if before and limit.max is None else limit.max
    if minimum is None and maximum is None:
        raise config.error(location, "gives neither min nor max, and there is no built-in limit")
    if minimum is not None and maximum is not None and minimum > maximum:
        raise config.error(location, f"min {minimum:g} is larger than max {maximum:g}, one of them set elsewhere")
    return Rule(
        check=str(location[-1]),
        minimum=minimum,
        maximum=maximum,
        severity=limit.severity or (before.severity if before else "fail"),
        line=config.line_of(location),
    )


def _check_names(config: Config) -> None:
    """Refuse metrics that do not exist, and find limits that contradict each other before anything runs."""
    tables: list[tuple[Location, CheckTable, tuple[str, ...]]] = [
        (("checks",), config.checks, (*LAYER_CHECKS, *MODEL_CHECKS))
    ]
    for index, override in enumerate(config.overrides):
        tables.append((("overrides", index, "checks"), override.checks, tuple(LAYER_CHECKS)))
    for location, table, known in tables:
        for name in table:
            if name not in known:
                raise config.error((*location, name), f"no such check{_suggest(name, known)}")
    model_rules(config)
    layer_rules(config, "")
    for override in config.overrides:
        layer_rules(config, override.match)


def _suggest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"


_SECTIONS: Mapping[tuple[str, ...], type[BaseModel]] = MappingProxyType(
    {
        (): Config,
        ("models",): ModelEntry,
        ("analysis",): AnalysisSection,
        ("checks", "*"): Limit,
        ("regression",): RegressionSection,
        ("regression", "alpha"): AlphaRegression,
        ("regression", "spectrum"): SpectrumRegression,
        ("overrides",): Override,
        ("overrides", "checks", "*"): Limit,
        ("report",): ReportSection,
    }
)
"""Location without list positions and check names -> the section there."""

_PROBLEMS = MappingProxyType(
    {
        "model_type": "expected keys and values",
        "dict_type": "expected keys and values",
        "tuple_type": "expected a list",
        "missing": "is missing",
        "finite_number": "expected a finite number",
    }
)


def _known_keys(location: Location) -> tuple[str, ...]:
    names = tuple(part for part in location if isinstance(part, str))
    if "checks" in names[:-1]:
        names = (*names[:-1], "*")
    section = _SECTIONS[names]
    return tuple(field.alias or name for name, field in section.model_fields.items())


def _explain(source: YamlSource, error: ErrorDetails) -> ConfigError:
    """Say in one sentence what pydantic found, at the line of the entry."""
    location, kind = tuple(error["loc"]), error["type"]
    if kind == "extra_forbidden":
        return source.error(location, f"unknown key{_suggest(str(location[-1]), _known_keys(location[:-1]))}")
    if kind == "value_error":
        return source.error(location, str(error["ctx"]["error"]))
    problem = _PROBLEMS.get(kind) or error["msg"].replace("Input should be", "expected")
    given = error.get("input")
    if kind in ("float_type", "int_type") and isinstance(given, str) and _is_exponential(given):
        problem = f"YAML takes {given!r} for text; write it with a decimal point and a sign, such as 1.0e-2"
        return source.error(location, problem)
    if kind == "missing":
        return source.error(location, problem)
    return source.error(location, f"{problem}, got {repr(error.get('input'))[:80]}")


def _is_exponential(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
