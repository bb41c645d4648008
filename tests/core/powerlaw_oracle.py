"""The ``powerlaw`` package, alone and under weightwatcher. Nothing but the tests imports it."""

from __future__ import annotations

import functools
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from tests.core.oracle import OracleResult, run_oracle

if TYPE_CHECKING:
    import numpy as np
    import pytest
    from numpy.typing import NDArray

WIDE_RANGES = {"alpha": [0, None], "Lambda": [0, None]}
"""Its own ranges end at alpha = 3."""


def powerlaw() -> Any:
    """Import the package; its own warnings are its own affair."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module("powerlaw")


def mpmath() -> Any:
    """Import the arbitrary-precision library that it uses."""
    return import_module("mpmath")


def powerlaw_fit(data: NDArray[np.float64], **options: Any) -> Any:
    """Fit by the package, within ranges that do not cut the answer off."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return powerlaw().Fit(data, verbose=False, **{"parameter_ranges": WIDE_RANGES, **options})


def quietly(function: Any, *arguments: Any, **options: Any) -> Any:
    """Call without warnings: the package fits lazily."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments, **options)


def run_oracle_with_powerlaw(monkeypatch: pytest.MonkeyPatch, module: Any, **options: Any) -> OracleResult:
    """Analyse with the incumbent on the ``powerlaw`` package.

    It hands over an argument that the package has not accepted since 2.0; here that is dropped on the way.
    """
    package = powerlaw()
    original = package.Fit

    @functools.wraps(original)
    def without_distribution(*arguments: Any, **keywords: Any) -> Any:
        keywords.pop("distribution")
        return original(*arguments, **{"parameter_ranges": WIDE_RANGES, **keywords})

    with monkeypatch.context() as patch:
        patch.setattr(package, "Fit", without_distribution)
        return run_oracle(module, pl_package="powerlaw", **options)
