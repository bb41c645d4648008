"""How much of a model is that of its baseline, in the one sentence that every report says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def told_unchanged(model: Mapping[str, Any]) -> str:
    """Return how many matrices are unchanged, and how many of all were not computed again; no name is in it.

    Parameters
    ----------
    model : mapping
        One of ``models[]`` of a result, complete. Where an older version wrote it, or a part of it, it does not say
        which layers are unchanged: then nothing is said of them, as a count of some would be taken for one of all.
    """
    n_reused, of_all = model["n_reused"], f"of {len(model['layers'])} matrices"
    known = [layer.get("unchanged") for layer in model["layers"] if layer["baseline_name"] is not None]
    if not known or None in known:
        return f"{n_reused} {of_all} were not computed again." if n_reused else ""
    told = f"{sum(known)} {of_all} are unchanged, byte for byte"
    return f"{told}; {n_reused} were not computed again." if n_reused else f"{told}."
