"""Quality control of neural-network checkpoints in pytest.

Importing this package imports nothing heavy; the assertions load the numerical core when they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_weightwatcher.assertions import (
        assert_layers_well_trained,
        assert_metric,
        assert_no_correlation_traps,
        assert_no_regression,
        assert_rank_preserved,
        assert_spectra_close,
    )

__all__ = [
    "assert_layers_well_trained",
    "assert_metric",
    "assert_no_correlation_traps",
    "assert_no_regression",
    "assert_rank_preserved",
    "assert_spectra_close",
]

_HOMES = dict.fromkeys(__all__, "assertions")
"""Public name -> the module it lives in."""


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"pytest_weightwatcher.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'pytest_weightwatcher' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
