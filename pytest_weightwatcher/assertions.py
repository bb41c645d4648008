"""Assertions for users' own tests, with pytest or without."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_weightwatcher.core import require_spectral_core

if TYPE_CHECKING:
    from collections.abc import Iterable

    from spectral.analysis import Analysis


_MAX_ROWS = 10
_ADVICE = (
    "What to do: look at the training of these layers (learning rate, frozen or not); where one is known to be so, "
    "widen alpha_range or exclude it. Values that are NaN, infinite, zero or constant are damage: go back to the last "
    "checkpoint that passes."
)


def assert_layers_well_trained(
    model: object,
    alpha_range: tuple[float, float] = (2.0, 6.0),
    *,
    min_evals: int = 50,
    exclude: Iterable[str] = (),
) -> Analysis:
    """Assert that every layer has an alpha inside a range.

    Parameters
    ----------
    model : path, torch.nn.Module, mapping or Analysis
        What :func:`spectral.analyze` takes, or its result.
    alpha_range : (float, float)
        Smallest and largest accepted alpha, both inclusive.
    min_evals : int
        Layers with fewer eigenvalues are not judged: no fit of them means anything.
    exclude : iterable of str
        Shell patterns of layer names that are not judged.

    Returns
    -------
    Analysis
        The analysis that was judged, for further use.

    Raises
    ------
    AssertionError
        A layer lies outside, has damaged values, or no layer could be judged at all. The message names the
        worst layers.
    ValueError
        The range is impossible.
    """
    __tracebackhide__ = True
    require_spectral_core()
    from fnmatch import fnmatchcase

    from pytest_weightwatcher.checks import Rule
    from pytest_weightwatcher.verdict import Verdict, judge_integrity, judge_metric, judge_other_tensors
    from spectral.analysis import Analysis, analyze
    from spectral.integrity import find_non_finite

    low, high = alpha_range
    if not low <= high:
        raise ValueError(f"alpha_range must be (smallest, largest), got {alpha_range!r}")
    patterns = tuple(exclude)
    analysis = model if isinstance(model, Analysis) else analyze(model, min_evals=min_evals, exclude=patterns)
    rule = Rule(check="alpha", minimum=low, maximum=high, severity="fail", line=None)
    n_judged = 0
    findings: list[tuple[float, str]] = []
    for layer in analysis.layers:
        if any(fnmatchcase(layer.name, pattern) for pattern in patterns):
            continue
        integrity = judge_integrity(layer)
        judgement = judge_metric(layer, rule)
        if integrity.verdict is Verdict.FAIL:
            findings.append((float("inf"), f"{layer.name}: {integrity.detail}"))
        elif layer.spec.n_evals >= min_evals and judgement.value is None:
            findings.append((float("inf"), f"{layer.name}: no alpha: {judgement.detail}"))
        elif layer.spec.n_evals >= min_evals and judgement.value is not None:
            n_judged += 1
            if judgement.is_finding:
                excess = max(low - judgement.value, judgement.value - high)
                findings.append((excess, f"{layer.name}: {judgement.detail}"))
    description = analysis.description
    others = judge_other_tensors(
        find_non_finite(description.source, description.other_tensors), len(description.other_tensors)
    )
    if others.is_finding:
        findings.append((float("inf"), f"other tensors: {others.detail}"))
    if findings:
        raise AssertionError(_format(findings, n_judged))
    if not n_judged:
        raise AssertionError(
            f"no layer could be judged: {len(analysis.layers)} matrices, none with a fit over {min_evals} or more "
            "eigenvalues"
        )
    return analysis


def _format(findings: list[tuple[float, str]], n_judged: int) -> str:
    findings = sorted(findings, key=lambda finding: -finding[0])
    subject = "1 layer is" if len(findings) == 1 else f"{len(findings)} layers are"
    lines = [f"{subject} not well trained ({n_judged} with an alpha were judged), worst first:"]
    lines += [f"  {text}" for _, text in findings[:_MAX_ROWS]]
    if len(findings) > _MAX_ROWS:
        lines.append(f"  ... and {len(findings) - _MAX_ROWS} more")
    return "\n".join([*lines, _ADVICE])
