"""How names of layers were changed, and what follows from a change for layers whose contents say nothing.

Names are trusted before contents: where a rule turns the names of one side into those of the other, it decides which
layer is which. Otherwise two layers that changed places under new names would be taken for renamed.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Shapes = Mapping[str, tuple[int, ...]]
    Beginning = tuple[str, str]
    Numbers = tuple[int, ...]

_NUMBER = re.compile(r"[0-9]{1,9}")
_HALF = 0.5

MIN_RENAMED, USUAL = 2, 0.7
"""A change of names is the rule where so many layers, and this share of those it could be about, underwent it."""


def by_prefix(new: Shapes, old: Shapes) -> dict[str, str]:
    """Pair all layers by another beginning of their names, where one turns every name into one of an equal shape.

    Parameters
    ----------
    new, old : mapping of str to tuple of int
        Names without a partner -> shapes, in the model and in the baseline.

    Returns
    -------
    dict
        Name in the model -> name in the baseline; empty where there is no such beginning, or there are too few names.
    """
    if len(new) != len(old) or len(new) < MIN_RENAMED:
        return {}
    for now in _common_beginnings(new):
        for before in _common_beginnings(old):
            pairs = {name: f"{before}{name[len(now) :]}" for name in new}
            if all(old.get(partner) == new[name] for name, partner in pairs.items()):
                return pairs
    return {}


def by_numbers(new: Shapes, old: Shapes, evidence: Mapping[str, str]) -> dict[str, str]:
    """Pair layers by the numbers in their names, where words were changed and the same numbers are on both sides.

    Parameters
    ----------
    new, old : mapping of str to tuple of int
        Names without a partner -> shapes, in the model and in the baseline.
    evidence : mapping of str to str
        Name in the model -> name in the baseline, from contents: which words became which.
    """
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for name, partner in evidence.items():
        counts[_words(name)][_words(partner)] += 1
    ours, theirs = _by_words(new), _by_words(old)
    pairs: dict[str, str] = {}
    for words, partners in counts.items():
        before, n_same = partners.most_common(1)[0]
        found = _by_rule(ours.get(words, {}), theirs.get(before, {}), evidence)
        is_rule = len(found) >= MIN_RENAMED and n_same >= USUAL * len(found)
        if is_rule and all(new[name] == old[partner] for name, partner in found.items()):
            pairs |= {name: partner for name, partner in found.items() if partner not in pairs.values()}
    return pairs


def _by_rule(now: Mapping[Numbers, str], before: Mapping[Numbers, str], evidence: Mapping[str, str]) -> dict[str, str]:
    """Pair names of equal numbers; or of equal rank among the numbers, where contents say so of half of them."""
    if now.keys() == before.keys():
        return {name: before[numbers] for numbers, name in now.items()}
    by_rank, there = _ranked(now), _ranked(before)
    if by_rank.keys() != there.keys():
        return {}
    pairs = {name: there[ranks] for ranks, name in by_rank.items()}
    n_agreeing = sum(evidence.get(name) == partner for name, partner in pairs.items())
    return pairs if n_agreeing >= _HALF * len(pairs) else {}


def _ranked(names: Mapping[Numbers, str]) -> dict[Numbers, str]:
    """Return rank of each number among those at its place -> name."""
    places = [sorted(set(each)) for each in zip(*names, strict=False)]
    return {
        tuple(place.index(number) for place, number in zip(places, numbers, strict=False)): name
        for numbers, name in names.items()
    }


def usual_changes(pairs: Mapping[str, str]) -> list[Beginning]:
    """Return the changes of names that nearly all layers they could be about have undergone, the commonest first."""
    return [
        (now, before)
        for (now, before), count in _changes(pairs).most_common()
        if count >= MIN_RENAMED and count >= USUAL * sum(name.startswith(now) for name in pairs)
    ]


def common_changes(pairs: Mapping[str, str]) -> list[Beginning]:
    """Return every change of names, the commonest first."""
    return [change for change, _ in _changes(pairs).most_common()]


def by_changes(new: Shapes, old: Shapes, changes: Sequence[Beginning]) -> list[tuple[str, str]]:
    """Return pairs whose names differ as others do: a damaged layer under a new name is still itself."""
    found: dict[str, str] = {}
    for now, before in changes:
        for name, shape in new.items():
            partner = f"{before}{name[len(now) :]}"
            is_free = name not in found and partner not in found.values()
            if is_free and name.startswith(now) and old.get(partner) == shape:
                found[name] = partner
    return list(found.items())


def _common_beginnings(names: Shapes) -> Iterator[str]:
    """Yield the beginnings that all names share, of whole parts, the longest first."""
    parts = [name.split(".")[:-1] for name in names]
    n_shared = 0
    for together in zip(*parts, strict=False):
        if len(set(together)) > 1:
            break
        n_shared += 1
    for n_parts in range(n_shared, -1, -1):
        yield "".join(f"{part}." for part in parts[0][:n_parts])


def _words(name: str) -> str:
    return _NUMBER.sub("#", name)


def _by_words(names: Shapes) -> dict[str, dict[Numbers, str]]:
    """Return words -> numbers -> name."""
    found: defaultdict[str, dict[Numbers, str]] = defaultdict(dict)
    for name in names:
        found[_words(name)][tuple(map(int, _NUMBER.findall(name)))] = name
    return found


def _changes(pairs: Mapping[str, str]) -> Counter[Beginning]:
    return Counter(_changed_beginning(name, partner) for name, partner in pairs.items())


def _changed_beginning(name: str, partner: str) -> Beginning:
    """Return what two names begin with before the part, from a dot on, that they share at their end."""
    n_shared = 0
    while n_shared < min(len(name), len(partner)) and name[-1 - n_shared] == partner[-1 - n_shared]:
        n_shared += 1
    now, before = name[: len(name) - n_shared], partner[: len(partner) - n_shared]
    # Only whole parts of a name: encoder.1 and decoder.1 share ".1", not "coder.1".
    while n_shared and now and before and not (now.endswith(".") and before.endswith(".")):
        n_shared -= 1
        now, before = name[: len(name) - n_shared], partner[: len(partner) - n_shared]
    return now, before
