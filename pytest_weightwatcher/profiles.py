"""The two questions a gate can ask of a new checkpoint, as default limits against the baseline.

``compression``: are the weights the same, but for rounding? ``finetune``: the weights may move; has any layer's health
become worse? docs/baselines.md has the measurements behind the numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_weightwatcher.checks import (
    ALPHA,
    CLIPPED,
    CORRELATION_TRAPS,
    DRIFT,
    INTRUDERS,
    KERNELS,
    NOISE,
    ROUNDING,
    SPECTRUM,
    TENSORS,
    TURN,
    WEIGHTS,
    RegressionRule,
)
from pytest_weightwatcher.meanings import OF_COMPRESSION, Meaning
from spectral.largest import LARGEST_WEIGHT

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class TrapNews:
    """When a trap is a new one.

    Attributes
    ----------
    growth : float
        An eigenvalue of the permuted matrix (as a share of all) is that of a known trap, or of the known bulk, where
        it is at most so many times as large.
    needs_cause : bool
        Only weights count that the others make improbable, and only traps fail of which a few weights carry most:
        others warn. Where weights should be the same, any news counts.
    """

    growth: float
    needs_cause: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Default limits against the baseline.

    Attributes
    ----------
    name : str
        ``compression`` or ``finetune``.
    question : str
        What it asks, for reports.
    trap_news : TrapNews
        When a trap is a new one.
    layer_rules, model_rules : mapping of str to RegressionRule
        Quantity -> rule, of each layer and of the model as a whole.
    meanings : mapping of str to Meaning
        Quantity -> what its findings mean for this question, where that is not what they always mean.
    """

    name: str
    question: str
    trap_news: TrapNews
    layer_rules: Mapping[str, RegressionRule]
    model_rules: Mapping[str, RegressionRule]
    meanings: Mapping[str, Meaning] = field(default_factory=dict)


MODEL_QUANTITIES = (SPECTRUM, WEIGHTS, TENSORS, KERNELS, "effective_rank", "stable_rank", "norm", "spectral_norm")
"""What can be compared of a model as a whole; metrics as the mean of the logarithm of new over old."""


def _table(*rules: RegressionRule) -> Mapping[str, RegressionRule]:
    return MappingProxyType({rule.quantity: rule for rule in rules})


_ALPHA = RegressionRule(quantity=ALPHA, increase=0.5, decrease=0.5, sigmas=3.0)
_TRAPS = RegressionRule(quantity=CORRELATION_TRAPS, increase=0.0)
_NOISE = RegressionRule(quantity=NOISE)

PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        "compression": Profile(
            name="compression",
            question="are the weights the same, but for rounding?",
            trap_news=TrapNews(growth=1.1, needs_cause=False),
            meanings=OF_COMPRESSION,
            layer_rules=_table(
                _ALPHA,
                RegressionRule(quantity=SPECTRUM, increase=0.03, sigmas=3.0),
                RegressionRule(quantity=WEIGHTS, increase=0.2, sigmas=3.0, warn_at=0.5),
                RegressionRule(quantity="effective_rank", relative_increase=0.25, relative_decrease=0.1, sigmas=3.0),
                # Rounding to int4 moves the largest weight by a fifteenth of the range at most.
                RegressionRule(quantity=LARGEST_WEIGHT, relative_increase=0.25, sigmas=3.0),
                _TRAPS,
                _NOISE,
                # Of quantised layers whose original is at hand.
                RegressionRule(quantity=ROUNDING, increase=2.0, warn_at=0.75),
                RegressionRule(quantity=CLIPPED, increase=0.0),
            ),
            model_rules=_table(
                RegressionRule(quantity=WEIGHTS, increase=0.1, severity="warn"),
                RegressionRule(quantity=TENSORS, increase=0.2, warn_at=0.5),
            ),
        ),
        "finetune": Profile(
            name="finetune",
            question="has any layer's health become worse?",
            trap_news=TrapNews(growth=2.0, needs_cause=True),
            # Healthy continuations move alpha and the test against noise now and then, and what these two find, the
            # others find, too: they warn.
            layer_rules=_table(
                replace(_ALPHA, severity="warn"),
                RegressionRule(quantity=DRIFT, increase=0.36, sigmas=3.0),
                RegressionRule(quantity=TURN, increase=0.6, sigmas=3.0),
                # Weights that go on growing are no damage; those that shrink are the norm's.
                RegressionRule(quantity=SPECTRUM, increase=1.0, sigmas=3.0, warn_at=0.55),
                RegressionRule(quantity="effective_rank", relative_increase=0.92, relative_decrease=0.48, sigmas=3.0),
                RegressionRule(quantity="stable_rank", relative_increase=1.23, relative_decrease=0.55, sigmas=3.0),
                RegressionRule(quantity="norm", relative_decrease=0.63, sigmas=3.0),
                RegressionRule(quantity="matrix_rank", decrease=0.0, relative_decrease=0.01),
                RegressionRule(quantity="n_dead_rows", increase=0.0),
                _TRAPS,
                replace(_NOISE, severity="warn"),
                RegressionRule(quantity=INTRUDERS, increase=1.0, severity="warn"),
            ),
            model_rules=_table(RegressionRule(quantity=KERNELS, increase=0.6)),
        ),
    }
)

DEFAULT_PROFILE = "compression"
"""The strict one: a run for which nobody chose must not pass what it was not asked to look at."""
