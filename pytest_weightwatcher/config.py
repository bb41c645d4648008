"""ww.yaml -> a frozen Config. Unknown keys, wrong types and impossible limits are errors with file and line."""

from __future__ import annotations

import math
from datetime import date, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from pytest_weightwatcher.checks import KERNELS, PAIRED_QUANTITIES, TENSORS
from pytest_weightwatcher.errors import ConfigError
from pytest_weightwatcher.extensions import NO_EXTENSIONS, Extensions
from pytest_weightwatcher.limits import REGRESSION_NAMES, check_names
from pytest_weightwatcher.options import CONFIG_NAME
from pytest_weightwatcher.profiles import MODEL_QUANTITIES
from pytest_weightwatcher.suggestions import suggest
from pytest_weightwatcher.yaml_source import Location, YamlSource, read_yaml
from pytest_weightwatcher.yaml_text import number
from spectral.options import FALSE_ALARM_RATE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic_core import ErrorDetails

GATE_MIN_EVALS = 50
"""The least number of eigenvalues the gate fits (Clauset et al. 2009, section 3.3, give about 50)."""


def _refuse_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number, got a truth value")
    return value


def _refuse_empty(value: str) -> str:
    if not value:
        raise ValueError("is empty")
    return value


def _refuse_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("is empty")
    return value


def _as_date(value: Any) -> Any:
    if isinstance(value, datetime):
        raise ValueError("expected a day such as 2027-03-01, got a time")
    if isinstance(value, str):
        try:
            return date.fromisoformat(value)
        except ValueError as error:
            raise ValueError(f"expected a day such as 2027-03-01, got {value[:40]!r}") from error
    return value


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


Number = Annotated[float, BeforeValidator(_refuse_bool), Field(allow_inf_nan=False)]
Positive = Annotated[float, BeforeValidator(_refuse_bool), Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, BeforeValidator(_refuse_bool), Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, BeforeValidator(_refuse_bool), Field(gt=0, lt=1)]
Text = Annotated[str, AfterValidator(_refuse_empty), Field(json_schema_extra={"minLength": 1})]
Sentence = Annotated[Text, AfterValidator(_refuse_blank)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=False)


class ModelEntry(_Section):
    """A model to check: a path or shell pattern relative to ww.yaml, and its baseline."""

    path: Text
    baseline: Text | None = None


class AnalysisSection(_Section):
    """What is computed of every matrix."""

    fit: Literal["PL"] = "PL"
    min_evals: Annotated[int, Field(ge=2)] = GATE_MIN_EVALS
    mp_fit: bool = False
    randomize: bool = False
    detX: bool = False  # noqa: N815  the field's own spelling
    vectors: bool = False
    farms: bool = False
    false_alarm_rate: Annotated[float, BeforeValidator(_refuse_bool), Field(gt=0, lt=1)] = FALSE_ALARM_RATE
    seed: Annotated[int, Field(ge=0)] = 0
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


class _RegressionLimit(_Section):
    def changes(self) -> dict[str, Any]:
        """Return what this changes of a :class:`~pytest_weightwatcher.checks.RegressionRule`."""
        names = {
            "max_increase": "increase",
            "max_decrease": "decrease",
            "max_relative_increase": "relative_increase",
            "max_relative_decrease": "relative_decrease",
            "max_displacement": "increase",
            "max_change": "increase",
            "max_new": "increase",
            "max_excess": "increase",
        }
        given = {name: getattr(self, name) for name in type(self).model_fields}
        return {names.get(name, name): value for name, value in given.items() if value is not None}


class MetricRegression(_RegressionLimit):
    """How far a number may move from its baseline, in both directions.

    A change counts only when it exceeds every allowance that is given for its direction; a direction without any is not
    limited.
    """

    max_increase: NotNegative | None = Field(default=None, description="allowance in the units of the metric")
    max_decrease: NotNegative | None = Field(default=None, description="allowance in the units of the metric")
    max_relative_increase: NotNegative | None = Field(default=None, description="as a share of the baseline's value")
    max_relative_decrease: NotNegative | None = Field(default=None, description="as a share of the baseline's value")
    sigmas: NotNegative | None = Field(default=None, description="allowance in standard errors, where they are known")
    warn_at: Share | None = Field(default=None, description="share of the allowance from which on it warns")
    severity: Literal["fail", "warn"] | None = None


class SpectrumRegression(_RegressionLimit):
    """How far the singular values may move: √Σ(σ-σ')² relative to √Σσ²."""

    max_displacement: Positive | None = None
    sigmas: NotNegative | None = None
    warn_at: Share | None = None
    severity: Literal["fail", "warn"] | None = None


class WeightsRegression(_RegressionLimit):
    """How far the weights may move: ‖W-W'‖ relative to ‖W‖, estimated where the baseline is a file."""

    max_change: Positive | None = None
    sigmas: NotNegative | None = None
    warn_at: Share | None = None
    severity: Literal["fail", "warn"] | None = None


class CountRegression(_RegressionLimit):
    """How many new ones there may be."""

    max_new: Annotated[int, Field(ge=0)] | None = None
    severity: Literal["fail", "warn"] | None = None


class RoundingRegression(_RegressionLimit):
    """How many times the error of rounding to the nearest level a quantised layer may be off."""

    max_excess: Positive | None = None
    warn_at: Share | None = None
    severity: Literal["fail", "warn"] | None = None


class SeverityRegression(_RegressionLimit):
    """A check with nothing to set but its severity."""

    severity: Literal["fail", "warn"] | None = None


_QUANTITIES = (*PAIRED_QUANTITIES, TENSORS, KERNELS)


class RegressionTable(_Section):
    """Limits against the baseline, by quantity; any metric may be named, too."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Annotated[MetricRegression | None, BeforeValidator(_off)]]

    alpha: Annotated[MetricRegression | None, BeforeValidator(_off)] = None
    spectrum: Annotated[SpectrumRegression | None, BeforeValidator(_off)] = None
    weights: Annotated[WeightsRegression | None, BeforeValidator(_off)] = None
    correlation_traps: Annotated[CountRegression | None, BeforeValidator(_off)] = None
    noise: Annotated[SeverityRegression | None, BeforeValidator(_off)] = None
    overlap: Annotated[MetricRegression | None, BeforeValidator(_off)] = None
    intruders: Annotated[CountRegression | None, BeforeValidator(_off)] = None
    rounding: Annotated[RoundingRegression | None, BeforeValidator(_off)] = None
    clipped: Annotated[CountRegression | None, BeforeValidator(_off)] = None
    tensors: Annotated[WeightsRegression | None, BeforeValidator(_off)] = None

    def limits(self) -> dict[str, dict[str, Any] | None]:
        """Return quantity -> what is changed of its rule, or None where it is switched off; only what was given."""
        values = {name: getattr(self, name) for name in _QUANTITIES if name in self.model_fields_set}
        values.update(self.__pydantic_extra__ or {})
        return {name: None if limit is None else limit.changes() for name, limit in values.items()}


class RegressionSection(RegressionTable):
    """Limits against the baseline, and which profile they start from."""

    profile: Literal["compression", "finetune"] | None = None
    ratchet: bool = False


class Override(_Section):
    """Other limits for the layers whose name matches a shell pattern; the last match wins, key by key."""

    match: Text
    checks: CheckTable = Field(default_factory=dict)
    regression: RegressionTable = Field(default_factory=RegressionTable)


class ModelSection(_Section):
    """Limits on the model as a whole: on means over its layers, and against the baseline on pooled quantities."""

    checks: CheckTable = Field(default_factory=dict)
    regression: RegressionTable = Field(default_factory=RegressionTable)


class Waiver(_Section):
    """A finding that is accepted until a date."""

    match: Text = Field(description="shell pattern of layer names; '*' also means the model as a whole")
    check: Text = Field(description="name or shell pattern of the check, such as alpha or regression.*")
    reason: Sentence
    owner: Sentence | None = None
    expires: Annotated[date, BeforeValidator(_as_date)] = Field(description="last day on which it holds")


class PolicySection(_Section):
    """What becomes of verdicts."""

    fail_on: Literal["fail", "warn", "never"] | None = None
    inconclusive: Literal["skip", "warn", "fail"] = "skip"


class ReportSection(_Section):
    """Reports to write, by paths relative to ww.yaml and inside its folder."""

    json_: Text | None = Field(default=None, alias="json")
    markdown: Text | None = None
    html: Text | None = None
    sarif: Text | None = None
    benchmark: Text | None = None
    badge: Text | None = None

    def paths(self) -> dict[str, str]:
        """Return key -> path of the reports that are asked for."""
        given = {field.alias or name: getattr(self, name) for name, field in type(self).model_fields.items()}
        return {key: path for key, path in given.items() if path is not None}


class Config(_Section):
    """A whole ww.yaml, validated; immutable.

    Attributes
    ----------
    version : int
        Format of the file, 1.
    models, analysis, checks, regression, model, overrides, waivers, policy, report
        As the reference in docs/configuration.md has them.
    """

    version: Annotated[Literal[1], BeforeValidator(_refuse_bool)] = 1
    models: Annotated[tuple[ModelEntry, ...], BeforeValidator(_as_tuple)] = ()
    analysis: AnalysisSection = Field(default_factory=AnalysisSection)
    checks: CheckTable = Field(default_factory=dict)
    regression: RegressionSection = Field(default_factory=RegressionSection)
    model: ModelSection = Field(default_factory=ModelSection)
    overrides: Annotated[tuple[Override, ...], BeforeValidator(_as_tuple)] = ()
    waivers: Annotated[tuple[Waiver, ...], BeforeValidator(_as_tuple)] = ()
    policy: PolicySection = Field(default_factory=PolicySection)
    report: ReportSection = Field(default_factory=ReportSection)

    _source: YamlSource | None = PrivateAttr(default=None)
    _extensions: Extensions = PrivateAttr(default_factory=Extensions)

    def remember(self, source: YamlSource) -> None:
        """Keep the file this was read from, for the lines of its entries."""
        self._source = source

    def extended(self, extensions: Extensions) -> Config:
        """Return the same configuration for a run with plugins of the gate."""
        config = self.model_copy()
        config._extensions = extensions  # noqa: SLF001  (a copy of this very class)
        return config

    @property
    def extensions(self) -> Extensions:
        """What the plugins of the run add; nothing outside of pytest."""
        return self._extensions

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


def load_config(path: Path, extensions: Extensions = NO_EXTENSIONS) -> Config:
    """Read and validate a ww.yaml.

    Parameters
    ----------
    path : Path
        The file.
    extensions : Extensions
        What plugins add to the names that it may use.

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
    _check_quantities(source, extensions)
    try:
        config = Config.model_validate(source.data)
    except ValidationError as error:
        raise _explain(source, _most_telling(error.errors(include_url=False))) from error
    config.remember(source)
    config = config.extended(extensions)
    check_names(config)
    return config


_REGRESSION_SECTIONS: Mapping[str, type[BaseModel]] = MappingProxyType(
    {
        "spectrum": SpectrumRegression,
        "weights": WeightsRegression,
        "tensors": WeightsRegression,
        "correlation_traps": CountRegression,
        "noise": SeverityRegression,
        "intruders": CountRegression,
        "rounding": RoundingRegression,
        "clipped": CountRegression,
    }
)

_SECTIONS: Mapping[tuple[str, ...], type[BaseModel]] = MappingProxyType(
    {
        (): Config,
        ("models",): ModelEntry,
        ("analysis",): AnalysisSection,
        ("checks", "*"): Limit,
        ("regression",): RegressionSection,
        ("regression", "*"): MetricRegression,
        **{("regression", name): section for name, section in _REGRESSION_SECTIONS.items()},
        ("model",): ModelSection,
        ("overrides",): Override,
        ("waivers",): Waiver,
        ("policy",): PolicySection,
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
    if len(names) > 1 and names[0] in ("overrides", "model"):
        # The tables inside are those of the top level.
        names = names[1:]
        if names == ("regression",):
            return PAIRED_QUANTITIES
    if len(names) > 1 and names not in _SECTIONS:
        names = (*names[:-1], "*")
    section = _SECTIONS[names]
    return tuple(field.alias or name for name, field in section.model_fields.items())


def _most_telling(errors: Sequence[ErrorDetails]) -> ErrorDetails:
    """Return the first error; where a key is missing and an unknown one stands beside it, the unknown one."""
    first = errors[0]
    if first["type"] == "missing":
        beside = first["loc"][:-1]
        for other in errors:
            if other["type"] == "extra_forbidden" and other["loc"][:-1] == beside:
                return other
    return first


def _check_quantities(source: YamlSource, extensions: Extensions) -> None:
    """Refuse what is not compared before its limit is read: what the limit may say depends on the name."""
    known = (*REGRESSION_NAMES, *extensions.metric_names)
    places: list[tuple[Location, tuple[str, ...]]] = [
        (("regression",), (*known, *_OF_REGRESSION)),
        (("model", "regression"), MODEL_QUANTITIES),
    ]
    overrides = source.data.get("overrides")
    if isinstance(overrides, list):
        places += [(("overrides", index, "regression"), known) for index in range(len(overrides))]
    for location, names in places:
        table: Any = source.data
        for part in location:
            # A list has places, everything else has keys.
            has_part = (isinstance(table, dict) and part in table) or (
                isinstance(table, list) and isinstance(part, int)
            )
            table = table[part] if has_part else None
        for name in table if isinstance(table, dict) else ():
            if name in _OF_REGRESSION and name not in names:
                raise source.error((*location, name), "belongs to the regression of the whole file")
            if name not in names:
                problem = f"nothing to compare by this name{suggest(name, names)}"
                raise source.error((*location, name), problem)


_OF_REGRESSION = ("profile", "ratchet")
"""Keys of ``regression`` that are no quantities."""


def _explain(source: YamlSource, error: ErrorDetails) -> ConfigError:
    """Say in one sentence what pydantic found, at the line of the entry."""
    location, kind = tuple(error["loc"]), error["type"]
    if kind == "extra_forbidden":
        return source.error(location, f"unknown key{suggest(str(location[-1]), _known_keys(location[:-1]))}")
    if kind == "value_error":
        return source.error(location, str(error["ctx"]["error"]))
    problem = _PROBLEMS.get(kind) or error["msg"].replace("Input should be", "expected")
    given = error.get("input")
    if kind in ("float_type", "int_type") and isinstance(given, str) and _is_exponential(given):
        return source.error(location, f"YAML takes {given!r} for text; write it as {number(float(given))}")
    if kind == "missing":
        return source.error(location, problem)
    return source.error(location, f"{problem}, got {repr(error.get('input'))[:80]}")


def _is_exponential(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
