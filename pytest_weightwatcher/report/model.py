"""What result.json holds, as types: the one source of its JSON Schema, and of what a result file is checked by."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Verdict = Literal["pass", "skipped", "waived", "inconclusive", "warn", "fail", "error"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _OpenPart(_Part):
    """A part to which other keys may be added without a new format."""

    model_config = ConfigDict(extra="allow")


class Tool(_Part):
    """What made the result."""

    name: str
    version: str


class RunOptions(_OpenPart):
    """Options of the run as a whole."""

    fail_on: Literal["fail", "warn", "never"] = Field(description="The mildest verdict that fails the run.")
    seed: int | None = Field(default=None, description="Seed given with --ww-seed; null for that of ww.yaml.")


class Tail(_OpenPart):
    """The fitted tail of a spectrum."""

    xmin: Finite | None = Field(description="Where the tail begins.")
    xmax: Finite | None = Field(default=None, description="The largest eigenvalue of the fit.")
    alpha: Finite | None = Field(description="Exponent of the density.")
    n: Count | None = Field(description="Eigenvalues in the tail.")


class Bulk(_OpenPart):
    """The Marchenko-Pastur bulk of a spectrum."""

    min: Finite | None = Field(description="Lower edge.")
    max: Finite | None = Field(description="Upper edge.")


class Spectrum(_OpenPart):
    """A sketch of a layer's spectrum, for pictures."""

    evals: list[Finite] = Field(description="Eigenvalues, or what stands for several of them.")
    weights: list[Count] = Field(description="How many eigenvalues each of evals stands for.")
    tail: Tail | None = None
    bulk: Bulk | None = None
    permuted: list[Finite] | None = Field(
        default=None, description="The largest eigenvalues after the elements were permuted."
    )
    before: list[Finite] | None = Field(default=None, description="evals in the baseline, where the layer changed.")
    trap_edge: Finite | None = Field(default=None, description="Eigenvalue beyond which there is a trap.")


class Layer(_OpenPart):
    """One weight matrix."""

    name: str = Field(description="Name of the tensor without .weight; not trusted.")
    type: str
    shape: list[Count]
    dtype: str | None = None
    N: Count = Field(description="The larger dimension.")
    M: Count = Field(description="The smaller dimension.")
    rf: Count = Field(description="Slices that are pooled: the receptive field of a convolution.")
    index: Count | None = Field(default=None, description="Place among the matrices of the model.")
    hash: str | None = Field(description="Of the content.")
    reused: bool = Field(default=False, description="Not computed: the baseline knew the content.")
    baseline_name: str | None = Field(default=None, description="The layer of the baseline that it was compared with.")
    unchanged: bool | None = Field(
        default=None, description="Whether its content is that layer's, byte for byte; null where it has none."
    )
    metrics: dict[str, Finite | None] = Field(description="docs/metrics.md; null where a number does not exist.")
    reason: str | None = Field(description="Why there is no fit.")
    spectrum: Spectrum | None = None


class Unanalysed(_OpenPart):
    """A tensor that has no spectrum."""

    name: str
    shape: list[Count]
    dtype: str | None
    reason: str


class Limit(_Part):
    """Bounds on a value, both inclusive."""

    min: Finite | None = None
    max: Finite | None = None


class Check(_Part):
    """One check, with its verdict."""

    id: str = Field(description="Node id of pytest.")
    layer: str | None = Field(description="null for a check of the model as a whole.")
    check: str
    verdict: Verdict
    value: Finite | None
    limit: Limit | None
    baseline: Finite | None = Field(description="The baseline's value.")
    detail: str = Field(description="What was found.")
    resolution: str | None = Field(default=None, description="What the check could have seen.")
    meaning: str | None = Field(default=None, description="What such a finding usually means.")
    action: str | None = Field(default=None, description="What to do about it.")
    line: Annotated[int, Field(ge=1)] | None = Field(default=None, description="Line of ww.yaml with the rule.")
    rule: dict[str, Finite | str | None] | None = Field(
        default=None, description="What a rule against the baseline allows."
    )
    plugin: str | None = Field(default=None, description="The plugin whose check it is.")


class Waiver(_Part):
    """A finding that is accepted until a day."""

    match: str
    check: str
    reason: str
    owner: str | None = None
    expires: str = Field(description="The last day on which it holds.")
    n_used: Count = 0


class Model(_Part):
    """One checkpoint."""

    path: str = Field(description="Relative to its ww.yaml, or whole where it lies elsewhere.")
    config: str | None = Field(default=None, description="File name of its ww.yaml.")
    line: Count | None = Field(default=None, description="Line of ww.yaml at which its entry begins.")
    baseline: str | None = None
    baseline_path: str | None = Field(default=None, description="Where it is, relative to ww.yaml or whole.")
    profile: str | None = None
    question: str | None = Field(default=None, description="What the profile asks.")
    n_planned: Count | None = Field(default=None, description="Checks planned of this model.")
    n_reused: Count = 0
    notes: list[str] = Field(default=[], description="How the recording of the baseline differs from this run.")
    waivers: list[Waiver] = []
    coverage: Share | None = Field(description="Analysed share of all parameters.")
    options: dict[str, Any] = Field(default={}, description="Options of the analysis.")
    summary: dict[str, Finite | None] = Field(description="Means over layers.")
    layers: list[Layer]
    unanalysed: list[Unanalysed] = []
    checks: list[Check]


class Section(_Part):
    """A section that a plugin adds to the reports."""

    plugin: str
    title: str
    text: str = ""
    columns: list[str] = []
    rows: list[list[str | bool | int | Finite | None]] = Field(default=[], description="Each as long as the columns.")

    @model_validator(mode="after")
    def _has_whole_rows(self) -> Section:
        for index, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(f"row {index} has {len(row)} cells under {len(self.columns)} columns")
        return self


class Merged(_Part):
    """How results were merged into this one."""

    n_results: Annotated[int, Field(ge=2)]
    notes: list[str] = Field(default=[], description="What differed between them.")


class Result(_Part):
    """The result of a run, or of several that were merged: every report is drawn from it."""

    format: Literal[1]
    tool: Tool
    outcome: Literal["pass", "warn", "fail", "error", "inconclusive"]
    counts: dict[Verdict, Count] = Field(description="Checks by verdict; a lost one is an error.")
    options: RunOptions
    n_planned: Count | None = Field(default=None, description="Checks of all models.")
    n_reported: Count | None = Field(default=None, description="Checks that ran.")
    lost: list[str] = Field(default=[], description="Node ids of checks that ended without a verdict.")
    merged: Merged | None = None
    sections: list[Section] = []
    models: list[Model]
