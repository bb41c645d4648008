"""What the incumbent says of two models: ``base_model=``, ``peft=`` and ``distances``, run live."""

from __future__ import annotations

import warnings
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from spectral.execution import single_threaded_blas
from tests.core.oracle import ORACLE_VERSION

if TYPE_CHECKING:
    import pandas as pd


def oracle_deltas(module: Any, base: Any, **options: Any) -> pd.DataFrame:
    """Analyse module - base with the incumbent; rows by longname."""
    with single_threaded_blas(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        details: pd.DataFrame = _incumbent(model=module, base_model=base).analyze(**options)
    return details.set_index("longname")


def oracle_adapter(module: Any, peft: bool | str) -> pd.DataFrame:
    """Analyse a module with LoRA layers with the incumbent; rows by longname."""
    with single_threaded_blas(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        details: pd.DataFrame = _incumbent(model=module).analyze(peft=peft, min_evals=2)
    return details.set_index("longname")


def oracle_distances(first: Any, second: Any, method: str) -> tuple[float, float, pd.DataFrame]:
    """Return mean ΔW, mean Δb and the rows by longname, as the incumbent has them."""
    with single_threaded_blas(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mean_w, mean_b, details = _incumbent().distances(first, second, method=method)
    return float(mean_w), float(mean_b), details.set_index("longname")


def _incumbent(**arguments: Any) -> Any:
    assert version("weightwatcher") == ORACLE_VERSION
    import weightwatcher

    return weightwatcher.WeightWatcher(**arguments)
