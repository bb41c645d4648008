"""What one run of the gate came to, from its exit code and the result file. Reads verdicts, makes none."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

WORST_FIRST = ("error", "fail", "warn", "inconclusive", "pass")
FINDINGS = WORST_FIRST[:3]
NOTHING_CHECKED = 5
_SPOKEN = {
    1: "pytest ended with exit code 1 and wrote no result",
    2: "the run was interrupted",
    3: "pytest had an internal error",
    4: "the input cannot be used as asked",
    NOTHING_CHECKED: "nothing was checked, which is never a pass",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A check that somebody should look at; ``line`` is that of its rule in ww.yaml, if it has one."""

    verdict: str
    model: str
    layer: str
    check: str
    detail: str
    line: int | None
    excess: float = 0.0
    """How many times its limit the value is, where both are numbers; more is worse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What the Action reads of a result file.

    Attributes
    ----------
    outcome : str
        The worst verdict.
    counts : dict of str to int
        Checks by verdict.
    findings : tuple of Finding
        Worst verdict first, then those furthest beyond their limit, then in the order of the file.
    models, baselines, baseline_paths : tuple of str
        Paths of the models; for each the name of its baseline and its path, empty where it has none.
    """

    outcome: str
    counts: Mapping[str, int]
    findings: tuple[Finding, ...]
    models: tuple[str, ...]
    baselines: tuple[str, ...]
    baseline_paths: tuple[str, ...]

    @property
    def n_failed(self) -> int:
        """Number of checks that failed or could not be made."""
        return self.counts.get("fail", 0) + self.counts.get("error", 0)


def read_result(path: Path) -> Result | None:
    """Return what a result file says; None where there is none, or none that can be read."""
    try:
        payload = json.loads(path.read_text(encoding="utf-8"))
        return _result(payload)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _result(payload: Mapping[str, Any]) -> Result:
    if payload["outcome"] not in WORST_FIRST:
        raise ValueError("no outcome that is known")
    findings = [
        _finding(model["path"], check)
        for model in payload["models"]
        for check in model["checks"]
        if check["verdict"] in FINDINGS
    ]
    return Result(
        outcome=payload["outcome"],
        counts={str(verdict): int(count) for verdict, count in payload["counts"].items()},
        findings=tuple(sorted(findings, key=lambda finding: (WORST_FIRST.index(finding.verdict), -finding.excess))),
        models=tuple(str(model["path"]) for model in payload["models"]),
        baselines=tuple(str(model["baseline"] or "") for model in payload["models"]),
        baseline_paths=tuple(str(model.get("baseline_path") or "") for model in payload["models"]),
    )


def _finding(model: str, check: Mapping[str, Any]) -> Finding:
    line = check.get("line")
    return Finding(
        verdict=check["verdict"],
        model=str(model),
        layer=str(check["layer"] or "the model as a whole"),
        check=str(check["check"]),
        detail=str(check["detail"]),
        line=line if isinstance(line, int) else None,
        excess=_excess(check.get("value"), check.get("limit")),
    )


def _excess(value: object, limit: object) -> float:
    """Return how many times a value is beyond its limit; infinity where there is no number to be compared."""
    bounds = limit if isinstance(limit, dict) else {}
    top, bottom = bounds.get("max"), bounds.get("min")
    if not isinstance(value, (int, float)):
        return math.inf
    ratios = [abs(value / top)] if isinstance(top, (int, float)) and top else []
    ratios += [abs(bottom / value)] if isinstance(bottom, (int, float)) and value else []
    return max(ratios, default=math.inf)


def outcome_of(exit_code: int, result: Result | None) -> str:
    """Return the outcome of a run: 0 is what the result says, 1 a failure, all else an error."""
    if result is None or exit_code not in (0, 1):
        return "error"
    return "fail" if exit_code == 1 and result.outcome != "error" else result.outcome


def is_success(exit_code: int, outcome: str) -> bool:
    """Tell whether a run may let the job pass. An error never may, whatever ``fail-on`` says."""
    return exit_code == 0 and outcome in ("pass", "warn", "fail")


def explain_exit(exit_code: int, output: str) -> str:
    """Return why a run has no usable result, in its own words where it has some.

    Parameters
    ----------
    exit_code : int
        Of pytest; negative where a signal ended it.
    output : str
        The end of what it printed.
    """
    said = [line.removeprefix("ERROR: ") for line in output.splitlines() if line.startswith("ERROR: ")]
    reason = _SPOKEN.get(exit_code, f"pytest ended with exit code {exit_code}")
    if exit_code < 0:
        reason = f"signal {-exit_code} ended the run; the machine may have run out of memory"
    return "\n".join([reason, *said[:5]])
