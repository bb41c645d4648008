"""Tensors that no spectrum covers, beside those of the baseline: biases, norms, kernels of vectors, excluded layers.

They have no spectrum to be judged by, and yet a model is dead where they are. So a baseline keeps what tells whether
they are the same: shape, hash, norm, and a few random projections.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_weightwatcher.comparison import turn_of
from pytest_weightwatcher.matching import match_renamed
from pytest_weightwatcher.records import METRIC_DIGITS, SKETCH_DIGITS, rounded
from spectral.projections import relative_change
from spectral.tensor_digest import digest_tensors, n_projections

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from spectral.description import Description

    Refuse = Callable[[str], Exception]

_HASH_LENGTH = 24
"""Hexadecimal digits that a baseline keeps of a hash: 96 bits, so that equal ones are no chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRecord:
    """One tensor without a spectrum.

    Attributes
    ----------
    name, shape
        As stored.
    content_hash : str
        The beginning of the SHA-256 over dtype, shape and bytes.
    norm : float or None
        Σw²; None where values are not finite.
    projections : tuple of float
        Of the values; empty where there is no norm.
    """

    name: str
    shape: tuple[int, ...]
    content_hash: str
    norm: float | None
    projections: tuple[float, ...] = field(default=(), repr=False)

    @property
    def is_without_spectrum(self) -> bool:
        """Whether its contents say nothing of where it came from: not finite, or all zero."""
        return not self.norm

    @property
    def n_evals(self) -> int:
        """One: what matters to a match of layers is only that it is the same on both sides."""
        return 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorComparison:
    """How the tensors without a spectrum moved.

    Attributes
    ----------
    changes : mapping of str to float
        Name -> ‖w - w'‖ / ‖w'‖, estimated; NaN where it does not exist.
    turns : mapping of str to float
        Name -> 1 - cos θ between now and then, of tensors of two or more dimensions; NaN where it does not exist.
    missing, reshaped : tuple of str
        Names in the baseline.
    n_dimensions : mapping of str to int
        Of those that are missing.
    """

    changes: Mapping[str, float]
    turns: Mapping[str, float]
    missing: tuple[str, ...]
    reshaped: tuple[str, ...]
    n_dimensions: Mapping[str, int]


def records_of_tensors(description: Description) -> dict[str, TensorRecord]:
    """Return the record of each tensor that no matrix covers and that is not another one over again."""
    others = set(description.other_tensors)
    infos = [
        info
        for info in description.source.tensors()
        if info.name in others and info.counted_in is None and info.n_values
    ]
    return {
        digest.name: TensorRecord(
            name=digest.name,
            shape=digest.shape,
            content_hash=digest.content_hash[:_HASH_LENGTH],
            norm=None if digest.norm is None else rounded(digest.norm, METRIC_DIGITS),
            projections=tuple(rounded(value, SKETCH_DIGITS) for value in digest.projections),
        )
        for digest in digest_tensors(description.source, infos)
    }


def compare_tensors(
    now: Mapping[str, TensorRecord],
    before: Mapping[str, TensorRecord],
    *,
    present: frozenset[str] = frozenset(),
    excluded: frozenset[str] = frozenset(),
) -> TensorComparison:
    """Pair tensors by name, by the rule of a renaming or by content, and measure how far each moved.

    Parameters
    ----------
    now, before : mapping of str to TensorRecord
        Of the model and of the baseline.
    present : frozenset of str
        Names of everything else in the model: what is analysed now was not lost.
    excluded : frozenset of str
        Tensors of layers that the user left out: they may turn, as a head for another task does.
    """
    same = [name for name, record in now.items() if name in before and before[name].shape == record.shape]
    left_now = {name: record for name, record in now.items() if name not in same}
    left_before = {name: record for name, record in before.items() if name not in same and name not in present}
    renamed = match_renamed(list(left_now.values()), left_before, with_spectra=False)
    renamed |= _zeros(left_now, left_before, renamed)
    pairs = {**{name: name for name in same}, **renamed}
    lost = [name for name in left_before if name not in renamed.values()]
    missing = tuple(name for name in lost if name not in now)
    changes = {name: _change(now[name], before[partner]) for name, partner in pairs.items()}
    return TensorComparison(
        changes=changes,
        turns={
            name: _turn(now[name], before[partner], changes[name])
            for name, partner in pairs.items()
            if len(now[name].shape) > 1 and name not in excluded
        },
        missing=missing,
        reshaped=tuple(name for name in lost if name in now),
        n_dimensions={name: len(before[name].shape) for name in missing},
    )


def _zeros(
    now: Mapping[str, TensorRecord], before: Mapping[str, TensorRecord], renamed: Mapping[str, str]
) -> dict[str, str]:
    """Pair what is left and all zero, such as biases that were never trained: one is like another."""
    left = [name for name, record in before.items() if record.norm == 0.0 and name not in renamed.values()]
    pairs: dict[str, str] = {}
    for name, record in now.items():
        partner = next((other for other in left if before[other].shape == record.shape), None)
        if record.norm == 0.0 and name not in renamed and partner is not None:
            left.remove(partner)
            pairs[name] = partner
    return pairs


def _change(now: TensorRecord, before: TensorRecord) -> float:
    if now.content_hash == before.content_hash:
        return 0.0
    if now.norm is None or before.norm is None:
        return math.nan
    if not before.norm > 0.0 or not now.norm > 0.0:
        # To nothing is all of it; from nothing there is no scale to measure by.
        return float(before.norm != now.norm)
    return relative_change(np.array(now.projections), np.array(before.projections), reference_norm=before.norm)


def _turn(now: TensorRecord, before: TensorRecord, change: float) -> float:
    if not now.norm or not before.norm:
        return change
    return turn_of(now, before)


def tensor_payload(record: TensorRecord) -> list[Any]:
    """Return a record as plain data for JSON: shape, hash, norm, projections."""
    return [list(record.shape), record.content_hash, record.norm, list(record.projections)]


def read_tensor(name: str, payload: Any, refuse: Refuse) -> TensorRecord:
    """Read what :func:`tensor_payload` wrote; ``refuse`` makes the error."""
    if not isinstance(payload, list) or len(payload) != len(("shape", "hash", "norm", "projections")):
        raise refuse(f"tensor {name[:200]!r}: must be shape, hash, norm and projections")
    shape, content_hash, norm, projections = payload
    is_shape = isinstance(shape, list) and all(type(size) is int and size > 0 for size in shape)
    if not is_shape or not isinstance(content_hash, str):
        raise refuse(f"tensor {name[:200]!r}: the shape must be positive integers and the hash text")
    if norm is None:
        return TensorRecord(name=name, shape=tuple(shape), content_hash=content_hash, norm=None)
    n_expected = n_projections(tuple(shape))
    are_projections = isinstance(projections, list) and len(projections) == n_expected
    if not are_projections or not all(map(_is_finite, [norm, *projections])) or norm < 0:
        raise refuse(f"tensor {name[:200]!r}: norm and {n_expected} projections must be finite numbers")
    return TensorRecord(
        name=name,
        shape=tuple(shape),
        content_hash=content_hash,
        norm=float(norm),
        projections=tuple(map(float, projections)),
    )


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < _LARGEST


_LARGEST = 1e308
