"""One call on the incumbent's class and on ours, and the comparison of what comes back."""

from __future__ import annotations

import logging
import warnings
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import torch

import spectral
from spectral.execution import single_threaded_blas
from tests.core.oracle import ORACLE_VERSION
from tests.core.zoo import every_layer_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import pandas as pd

CLOSED, OPTIMISED = 1e-6, 1e-4
"""Relative tolerances: of closed forms, and of what a search finds."""

BREAKS_IT = ("weight_norm", "spectral_norm", "orthogonal")
"""Parametrized layers end the incumbent's run."""

DIFFERS = ("conv2d_depthwise", "conv2d_wide_kernel", "old_weight_norm")
"""Vectors only; N below M there; and a weight that the incumbent takes as it was before the zoo changed its parts."""


def zoo(seed: int = 3) -> Any:
    """Return the model of every layer without those that the incumbent breaks on or that differ by design."""
    model = every_layer_model(seed)
    return torch.nn.ModuleDict({name: model[name] for name in model if name not in BREAKS_IT + DIFFERS})


class Incumbent:
    """The incumbent's class on a model; its warnings are its own affair."""

    def __init__(self, **arguments: Any) -> None:
        assert version("weightwatcher") == ORACLE_VERSION
        mpl.use("Agg")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import weightwatcher

        logging.getLogger("weightwatcher").setLevel(logging.CRITICAL + 1)
        self.watcher = weightwatcher.WeightWatcher(**arguments)

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            with single_threaded_blas(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return getattr(self.watcher, method)(*arguments, **options)

        return call


def both(make: Callable[[], Any], method: str = "analyze", /, **options: Any) -> tuple[Any, Any]:
    """Call a method with the same options on both, each with a model of its own."""
    theirs, ours = Incumbent(model=make()), spectral.WeightWatcher(model=make())
    return getattr(theirs, method)(**options), getattr(ours, method)(**options)


def assert_same(
    theirs: pd.DataFrame, ours: pd.DataFrame, *, searched: Iterable[str] = (), but: Iterable[str] = ()
) -> None:
    """Compare frames column by column: order, types, texts and counts exactly, numbers to their tolerance."""
    assert list(ours.columns) == list(theirs.columns)
    assert len(ours) == len(theirs) > 0
    for name in ours.columns.difference(list(but)):
        left, right = theirs[name], ours[name]
        if right.dtype.kind == "f":
            tolerance = OPTIMISED if name in searched else CLOSED
            np.testing.assert_allclose(right, left.astype(np.float64), rtol=tolerance, atol=0.0, err_msg=name)
        else:
            assert right.tolist() == left.tolist(), name
            assert right.dtype.kind == left.dtype.kind, name
