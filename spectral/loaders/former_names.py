"""What tensors were called before a converter renamed them: candidates, matched with the names of the original."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

EXPERT = "{expert}"
"""Stands in a candidate for the number of an expert, where the original has a tensor for each and GGUF a stack."""

WRAPPERS = frozenset(
    {
        "_orig_mod",
        "backbone",
        "base_model",
        "bert",
        "deberta",
        "distilbert",
        "gpt_neox",
        "language_model",
        "llm",
        "model",
        "module",
        "roberta",
        "rwkv",
        "text_model",
        "thinker",
        "transformer",
        "xlm_roberta",
    }
)
"""Leading components of a name that come and go with the class that wraps a model."""


def match_originals(candidates: Mapping[str, tuple[str, ...]], originals: Collection[str]) -> dict[str, str]:
    """Find the tensors of the original by the candidates for their names.

    Parameters
    ----------
    candidates : mapping of str to tuple of str
        Name in the file -> what it may be called in the original, the likeliest first.
    originals : collection of str
        The names of the original.

    Returns
    -------
    dict of str to str
        Name in the file -> name in the original, one to one; where the original has a tensor for each expert of a
        stack, that of all with :data:`EXPERT` in the place of the number. Prefixes of wrappers on either side
        (``model.``, ``transformer.``, ``bert.``, ``language_model.``) do not matter, unless two names of the original
        differ in nothing else: then only the exact name counts.
    """
    exact = set(originals)
    by_core: dict[str, str | None] = {}
    for name in originals:
        core = _core(name)
        by_core[core] = None if core in by_core else name
    pairs: dict[str, str] = {}
    taken: set[str] = set()
    for name, proposed in candidates.items():
        for candidate in proposed:
            first = candidate.replace(EXPERT, "0")
            original = first if first in exact else by_core.get(_core(first))
            if original is not None and original not in taken:
                taken.add(original)
                pairs[name] = _with_expert(original, candidate)
                break
    return pairs


def _core(name: str) -> str:
    """Return a name without the wrappers before it."""
    components = name.split(".")
    while len(components) > 1 and components[0] in WRAPPERS:
        del components[0]
    return ".".join(components)


def _with_expert(original: str, candidate: str) -> str:
    """Put the place-holder of a candidate where the original has the number of the first expert."""
    _, found, behind = candidate.partition(f".{EXPERT}.")
    if not found:
        return original
    stem = original[: len(original) - len(behind) - len(".0.")]
    return f"{stem}.{EXPERT}.{behind}"
