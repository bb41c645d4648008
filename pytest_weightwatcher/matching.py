"""Which layer of a baseline is which layer of a model, where names were changed.

Equal names of equal shapes belong together, whatever is in them: two layers that changed places must be found out. So
do names that differ by one beginning from all of the other side. Of what is left over, contents (the same bytes, or the
same weights but for a small change) tell how names were changed. Where that is a rule for nearly all layers, the rule
decides, again whatever is in them. The rest is matched by bytes, weights, names changed in the way of others, and
spectra.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pytest_weightwatcher.renaming import by_changes, by_numbers, by_prefix, common_changes, usual_changes
from spectral.paired import sketch_counts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from pytest_weightwatcher.records import LayerRecord

SAME_WEIGHTS = 0.7
"""Weights that lie nearer than this, relative to their norm, are a changed copy: unrelated ones lie √2 apart."""

SAME_SPECTRUM = 0.03
"""Spectra displaced by less than this may be those of one layer,"""

CLEARLY = 3.0
"""where every other layer of the shape is displaced by more than so many times as much."""


class Matchable(Protocol):
    """What a match looks at; a norm is asked for only where there are contents."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def content_hash(self) -> str: ...
    @property
    def n_evals(self) -> int: ...
    @property
    def projections(self) -> tuple[float, ...]: ...
    @property
    def norm(self) -> float | None: ...
    @property
    def is_without_spectrum(self) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSets:
    """Which layers two models share.

    Attributes
    ----------
    added, removed, reshaped : tuple of str
        Layer names, in the order of the model (of the baseline for removed).
    renamed : mapping of str to str
        Name in the model -> name in the baseline.
    n_shared : int
        Layers that are compared.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    reshaped: tuple[str, ...]
    renamed: Mapping[str, str] = field(default_factory=dict)
    n_shared: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpaired:
    """Layers that names do not pair, of shapes that both sides have.

    Attributes
    ----------
    new, old : tuple of str
        In the model, and in the baseline.
    """

    new: tuple[str, ...]
    old: tuple[str, ...]


def unpaired_layers(shapes: Mapping[str, tuple[int, ...]], baseline: Mapping[str, tuple[int, ...]]) -> Unpaired:
    """Return the layers that may have been renamed, from names and shapes alone."""
    new = [name for name, shape in shapes.items() if baseline.get(name) != shape]
    old = [name for name, shape in baseline.items() if shapes.get(name) != shape]
    new_shapes, old_shapes = {shapes[name] for name in new}, {baseline[name] for name in old}
    return Unpaired(
        new=tuple(name for name in new if shapes[name] in old_shapes),
        old=tuple(name for name in old if baseline[name] in new_shapes),
    )


def layer_sets(
    shapes: Mapping[str, tuple[int, ...]], baseline: Mapping[str, tuple[int, ...]], renamed: Mapping[str, str]
) -> LayerSets:
    """Compare the layers of a model with those of its baseline.

    Parameters
    ----------
    shapes, baseline : mapping of str to tuple of int
        Layer name -> shape.
    renamed : mapping of str to str
        Name in the model -> name in the baseline.
    """
    taken = set(renamed.values())
    return LayerSets(
        added=tuple(name for name in shapes if name not in baseline and name not in renamed),
        removed=tuple(name for name in baseline if name not in shapes and name not in taken),
        reshaped=tuple(
            name
            for name, shape in shapes.items()
            if name in baseline and baseline[name] != shape and name not in renamed and name not in taken
        ),
        renamed=renamed,
        n_shared=sum(baseline.get(name) == shape for name, shape in shapes.items()) + len(renamed),
    )


def match_renamed(
    new: Sequence[Matchable], old: Mapping[str, Matchable], *, with_spectra: bool = True
) -> dict[str, str]:
    """Find for layers of a model those of its baseline that they are under another name.

    Parameters
    ----------
    new : sequence of LayerRecord or TensorRecord
        Layers of the model without a partner of their name, in the order of the model.
    old : mapping of str to LayerRecord or TensorRecord
        Those of the baseline, by their names there.
    with_spectra : bool
        They are layers, which have spectra.

    Returns
    -------
    dict
        Name in the model -> name in the baseline, each at most once.
    """
    pairs: dict[str, str] = {}
    left_new = {record.name: record for record in new if not record.is_without_spectrum}
    left_old = {name: record for name, record in old.items() if not record.is_without_spectrum}

    def take(found: Iterable[tuple[str, str]]) -> None:
        for name, partner in found:
            if name in left_new and partner in left_old:
                pairs[name] = partner
                del left_new[name], left_old[partner]

    def take_by_name(rule: Callable[..., Iterable[tuple[str, str]]], *given: object) -> None:
        shapes = {record.name: record.shape for record in new if record.name not in pairs}
        theirs = {name: record.shape for name, record in old.items() if name not in pairs.values()}
        for name, partner in rule(shapes, theirs, *given):
            pairs[name] = partner
            left_new.pop(name, None)
            left_old.pop(partner, None)

    take_by_name(lambda shapes, theirs: by_prefix(shapes, theirs).items())
    # Contents say how names were changed; then names go first, or two layers that changed places would be taken for
    # renamed.
    evidence = dict(_by_content(left_new, left_old))
    rest_new = {name: record for name, record in left_new.items() if name not in evidence}
    rest_old = {name: record for name, record in left_old.items() if name not in evidence.values()}
    evidence |= dict(_by_distance(rest_new, rest_old, _weight_changes, SAME_WEIGHTS))
    take_by_name(lambda shapes, theirs: by_numbers(shapes, theirs, evidence).items())
    take_by_name(by_changes, usual_changes(evidence))
    take(_by_content(left_new, left_old))
    take(_by_distance(left_new, left_old, _weight_changes, SAME_WEIGHTS))
    take_by_name(by_changes, common_changes(pairs))
    if with_spectra:
        take(_by_distance(left_new, left_old, _displacements, SAME_SPECTRUM, clearly=CLEARLY))
    return {record.name: pairs[record.name] for record in new if record.name in pairs}


def _by_content(new: Mapping[str, Matchable], old: Mapping[str, Matchable]) -> list[tuple[str, str]]:
    partners: defaultdict[str, list[str]] = defaultdict(list)
    for name, record in old.items():
        partners[record.content_hash].append(name)
    return [
        (name, partners[record.content_hash].pop(0)) for name, record in new.items() if partners[record.content_hash]
    ]


def _by_distance(
    new: Mapping[str, Matchable],
    old: Mapping[str, Matchable],
    distances: _Distances,
    largest: float,
    *,
    clearly: float | None = None,
) -> list[tuple[str, str]]:
    """Return the pairs of least total distance among layers of one shape, each within the largest."""
    if not new or not old:
        return []
    from scipy.optimize import linear_sum_assignment

    found: list[tuple[str, str]] = []
    for shape in dict.fromkeys(record.shape for record in new.values()):
        ours = [record for record in new.values() if record.shape == shape]
        theirs = [(name, record) for name, record in old.items() if record.shape == shape]
        theirs = [(name, record) for name, record in theirs if record.n_evals == ours[0].n_evals]
        if not theirs:
            continue
        table = distances(ours, [record for _, record in theirs])
        if not np.isfinite(table).all():
            continue
        for row, column in zip(*linear_sum_assignment(table), strict=True):
            distance = table[row, column]
            others = np.concatenate([np.delete(table[row], column), np.delete(table[:, column], row)])
            is_clear = clearly is None or not len(others) or bool(np.min(others) > clearly * distance)
            if distance <= largest and is_clear:
                found.append((ours[row].name, theirs[column][0]))
    return found


def _weight_changes(new: Sequence[Matchable], old: Sequence[Matchable]) -> NDArray[np.float64]:
    if not all(record.projections for record in (*new, *old)):
        return np.full((len(new), len(old)), np.inf)
    ours, theirs = (np.array([record.projections for record in side]) for side in (new, old))
    norms = np.array([record.norm for record in old])
    squares = np.mean((ours[:, None, :] - theirs[None, :, :]) ** 2, axis=2)
    changes: NDArray[np.float64] = np.sqrt(squares / norms)
    return changes


def _displacements(new: Sequence[LayerRecord], old: Sequence[LayerRecord]) -> NDArray[np.float64]:
    ours, theirs = (np.array([record.sketch for record in side]) for side in (new, old))
    counts, norms = sketch_counts(old[0].n_evals), np.array([record.norm for record in old])
    squares = np.sum(counts * (ours[:, None, :] - theirs[None, :, :]) ** 2, axis=2)
    displaced: NDArray[np.float64] = np.sqrt(squares / norms)
    return displaced


if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    _Distances = Callable[[Sequence[Any], Sequence[Any]], NDArray[np.float64]]
