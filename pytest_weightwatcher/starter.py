"""The text of a first ww.yaml, fitted to one checkpoint: limits it keeps today, with what was measured in comments."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_weightwatcher.profiles import PROFILES
from pytest_weightwatcher.wording import format_p_value
from pytest_weightwatcher.yaml_text import comment, indent, number, quote, quote_pattern, round_down, round_up

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ALPHA_RANGE = (2.0, 6.0)
"""Where alpha of a well-trained layer usually lies."""

MAX_OVERRIDES = 200
"""Beyond so many layers outside, one wider limit says as much as a list that nobody reads."""

_MAX_NAMED = 12
_MAX_NAME = 120

_POSITIONS = re.compile(r"position|pos_emb|\bwpe\b|rel_pos|relative_attention_bias|token_type|pos_encod", re.IGNORECASE)
"""Names of tables that are looked up by place or type: they have spectra, but none that training makes heavy-tailed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """A layer whose alpha lies outside :data:`ALPHA_RANGE`.

    Attributes
    ----------
    name : str
        Layer name.
    alpha, sigma : float
        Measured value, and its standard error.
    """

    name: str
    alpha: float
    sigma: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a first ww.yaml is fitted to.

    Attributes
    ----------
    path, baseline : str
        Of the model and of its baseline, relative to the file; the first a shell pattern.
    profile : str
        Question to ask beside the baseline.
    exclude : tuple of str
        Shell patterns of layers that were left out.
    names : tuple of str
        All layers.
    n_fitted : int
        Layers with an alpha.
    min_evals : int
        Layers with fewer eigenvalues are not fitted.
    small : tuple of (str, int)
        These layers, and how many eigenvalues they have.
    outside : tuple of Outside
        Layers to override.
    traps : tuple of (str, int)
        Layers with correlation traps, and how many.
    noise : tuple of (str, float)
        Layers that cannot be told from noise, and their p-values.
    coverage : float or None
        The analysed share of the parameters, where it is below the built-in limit.
    tool : str
        Name and version of what writes it.
    """

    path: str
    baseline: str
    profile: str
    exclude: tuple[str, ...]
    names: tuple[str, ...]
    n_fitted: int
    min_evals: int
    small: tuple[tuple[str, int], ...]
    outside: tuple[Outside, ...]
    traps: tuple[tuple[str, int], ...]
    noise: tuple[tuple[str, float], ...]
    coverage: float | None
    tool: str


def write_starter(measured: Measured) -> str:
    """Return the text of a ww.yaml that the measured checkpoint passes."""
    blocks = [
        _head(measured),
        _models(measured),
        _analysis(measured),
        _checks(measured),
        _regression(measured),
        _overrides(measured),
        _waivers(),
        ["report: {json: ww-result.json, markdown: ww-report.md}"],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def is_widened(measured: Measured) -> bool:
    """Tell whether so many layers lie outside that the limit itself is moved."""
    return len(measured.outside) > MAX_OVERRIDES


def _head(measured: Measured) -> list[str]:
    return [
        comment(f"Written by {measured.tool}, fitted to what the checkpoint is today. Edit it: it is yours."),
        "#",
        "#   pytest --ww-update-baseline   records the checkpoint as the accepted state, once; commit what it writes",
        "#   pytest                        checks it, and every later one, against that and the limits below",
        "#",
        "# Every key: docs/configuration.md, or in your editor: ww-gate schema > ww.schema.json",
        "version: 1",
    ]


def _models(measured: Measured) -> list[str]:
    return [
        "models:",
        f"- path: {quote(measured.path)}",
        f"  baseline: {quote(measured.baseline)}  # {{stem}} stands for the model's file name",
    ]


def _analysis(measured: Measured) -> list[str]:
    small = ":" if measured.small else ""
    lines = [f"  min_evals: {measured.min_evals}  # layers with fewer eigenvalues are not fitted{small}"]
    if measured.small:
        lines += [f"  #   {name}" for name in _listed((name, str(n)) for name, n in measured.small)]
    if measured.exclude:
        lines.append(f"  exclude: [{', '.join(map(quote, measured.exclude))}]")
    positions = [name for name in measured.names if _POSITIONS.search(name)]
    if positions:
        lines += [
            "  # Tables of positions and types are looked up: their alpha says little. To leave them out:",
            f"  # exclude: [{', '.join(quote_pattern(name) for name in positions[:_MAX_NAMED])}]",
        ]
    return ["analysis:", *lines]


def _checks(measured: Measured) -> list[str]:
    low, high = ALPHA_RANGE
    n_outside = len(measured.outside)
    n_inside = measured.n_fitted - n_outside
    lines = [f"# {n_inside} of {measured.n_fitted} fitted layers have an alpha from 2 to 6, the rule of thumb."]
    if is_widened(measured):
        lines.append("# So many do not that the limit takes them in.")
        low = min(low, *(_low(layer) for layer in measured.outside))
        high = max(high, *(_high(layer) for layer in measured.outside))
    elif n_outside:
        lines.append("# The others have limits of their own under overrides: a new one outside is news, and fails.")
    lines.append(f"alpha: {{min: {number(low)}, max: {number(high)}}}")
    if measured.coverage is not None:
        share = number(round_down(measured.coverage))
        lines += [
            f"# {measured.coverage:.1%} of the parameters have a spectrum (see ww-gate describe); built in is 90%.",
            f"coverage: {{min: {share}}}",
        ]
    lines += _known(measured.traps, "correlation traps (a few weights that stick out)", "--traps")
    noise = [(name, format_p_value(p)) for name, p in measured.noise]
    lines += _known(noise, "no structure above noise", "--noise-test")
    return ["checks:", *indent(lines, 2)]


def _known(found: Sequence[tuple[str, object]], what: str, flag: str) -> list[str]:
    """Return comments on findings that only warn."""
    if not found:
        return []
    are = "layers have" if len(found) > 1 else "layer has"
    return [
        f"# {len(found)} {are} {what}, which warns (ww-gate analyze MODEL {flag}):",
        *(f"#   {name}" for name in _listed((name, str(value)) for name, value in found)),
    ]


def _regression(measured: Measured) -> list[str]:
    lines = ["# The question asked beside the baseline:"]
    lines += [f"#   {profile.name}: {profile.question}" for profile in PROFILES.values()]
    reasons = {
        "compression": "# The strict one suits copies: other formats, quantised, merged. Training on needs finetune.",
        "finetune": "# Weights may move. Copies (other formats, quantised, merged) need compression, which is strict.",
    }
    lines += [reasons[measured.profile], f"profile: {measured.profile}"]
    lines.append("# ww-gate calibrate proposes limits from several good checkpoints.")
    return ["regression:", *indent(lines, 2)]


def _overrides(measured: Measured) -> list[str]:
    if is_widened(measured) or not measured.outside:
        return []
    lines = [
        "# As measured, and one standard error of room. Low alpha: few directions dominate; high: a flat spectrum."
    ]
    lines.append("overrides:")
    for layer in measured.outside:
        is_low = layer.alpha < ALPHA_RANGE[0]
        bound = f"min: {number(_low(layer))}" if is_low else f"max: {number(_high(layer))}"
        lines += [
            f"- match: {quote_pattern(layer.name)}",
            f"  checks: {{alpha: {{{bound}}}}}  # {layer.alpha:.3g}, standard error {layer.sigma:.2g}",
        ]
    return lines


def _low(layer: Outside) -> float:
    # Alpha is above 1 by its definition.
    return round_down(max(layer.alpha - layer.sigma, 1.0))


def _high(layer: Outside) -> float:
    return round_up(layer.alpha + layer.sigma)


def _waivers() -> list[str]:
    return [
        "# A finding that is known and accepted for a while:",
        "# waivers:",
        '# - match: "encoder.layer.4.*"     # layers; "*" also means the model as a whole',
        "#   check: alpha                   # or regression.*, and so on",
        '#   reason: "ties to #12"',
        "#   owner: somebody",
        "#   expires: YYYY-MM-DD            # last day on which it holds",
    ]


def _listed(found: Iterable[tuple[str, str]]) -> list[str]:
    """Return names with what was measured, each on one line and in ASCII: nothing in a name can end a comment."""
    items = [f"{quote(name[:_MAX_NAME])} ({value})" for name, value in found]
    rest = [f"and {len(items) - _MAX_NAMED} more"] if len(items) > _MAX_NAMED else []
    return items[:_MAX_NAMED] + rest
