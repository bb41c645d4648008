"""LoRA adapters in the gate: alone as their updates, or on the base that they are compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_weightwatcher.baseline import Baseline
from pytest_weightwatcher.errors import BaselineError
from spectral.adapters import AdapterSource, adapter_source, is_adapter
from spectral.analysis import describe

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_weightwatcher.extensions import Extensions
    from spectral.analysis import Description
    from spectral.loaders.protocol import TensorSource

ALONE = (
    "a LoRA adapter: its updates scale·B·A are checked alone, with as many eigenvalues as their rank; with its base "
    "model as the baseline, the adapted model is checked beside the base"
)
ON_BASE = "a LoRA adapter: checked as the base with the updates scale·B·A added, beside that base"


FINETUNE = "finetune"
"""The profile of an adapter where none is asked for: it is there to change its base."""


def is_of_adapter(source: TensorSource) -> bool:
    """Tell whether tensors are those of an adapter, or of a base with one added."""
    inner: object = source
    while not isinstance(inner, AdapterSource) and hasattr(inner, "inner"):
        inner = inner.inner
    return isinstance(inner, AdapterSource)


def open_checked(path: Path, extensions: Extensions) -> object:
    """Return what the gate opens of a path: what a plugin makes of it, an adapter's updates, or the path itself."""
    opened = extensions.open_with(path)
    return adapter_source(path) if opened is path and is_adapter(path) else opened


def put_on_base(
    description: Description, path: Path | None, accepted: Baseline | TensorSource, location: Path
) -> Description:
    """Return the description of an adapter added to the model that it is compared with; of all else, the one given.

    Raises
    ------
    BaselineError
        The baseline was recorded of a whole model.
    ModelError
        The base is not the one that was adapted.
    """
    if path is None or not isinstance(description.source, AdapterSource) or isinstance(accepted, AdapterSource):
        return description
    if isinstance(accepted, Baseline):
        if not any(spec.name in accepted.entries for spec in description.matrices):
            raise BaselineError(
                f"{location}: was recorded of other layers than the updates of the LoRA adapter {path}: compare it "
                "with the checkpoint of its base, or record it anew with --ww-update-baseline"
            )
        return description
    return describe(adapter_source(path, accepted, mode="merged"), description.options)


def notes_on_adapter(description: Description) -> tuple[str, ...]:
    """Say how an adapter is checked."""
    if not isinstance(description.source, AdapterSource):
        return ()
    return (ALONE if description.source.base is None else ON_BASE,)
