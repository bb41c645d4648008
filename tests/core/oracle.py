"""The incumbent, run live: ``weightwatcher`` 0.7.7. Nothing but the tests imports it."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from numpy.typing import NDArray

ORACLE_VERSION = "0.7.7"


@dataclass(frozen=True, kw_only=True)
class OracleResult:
    """What the incumbent says of a model."""

    details: pd.DataFrame
    summary: dict[str, float]

    def value(self, layer: str, column: str) -> float:
        """Return one number of one layer."""
        return float(self.details[column].to_dict()[layer])


def oracle_rows(module: Any, **options: Any) -> list[dict[str, Any]]:
    """Return the rows the incumbent gives for a torch module; there may be none."""
    rows: list[dict[str, Any]] = _analyze(module, options)[1].to_dict("records")
    return rows


def run_oracle(module: Any, **options: Any) -> OracleResult:
    """Analyse a torch module with the incumbent; its own warnings are its own affair."""
    watcher, details = _analyze(module, options)
    return OracleResult(
        details=details.set_index("longname", drop=False),
        summary={name: float(value) for name, value in watcher.get_summary(details).items()},
    )


def _analyze(module: Any, options: Mapping[str, Any]) -> tuple[Any, Any]:
    assert version("weightwatcher") == ORACLE_VERSION
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import weightwatcher

        watcher = weightwatcher.WeightWatcher(model=module)
        return watcher, watcher.analyze(**options)


def module_tree(tensors: Mapping[str, Any]) -> Any:
    """Nest Linear and Embedding modules so that their dotted names are those of a state dict."""
    root = torch.nn.Module()
    for name, tensor in tensors.items():
        if tensor.ndim != 2 or not name.endswith(".weight"):
            continue
        *parents, leaf_name, _ = name.split(".")
        node = root
        for part in parents:
            if part not in node._modules:
                node.add_module(part, torch.nn.Module())
            node = node.get_submodule(part)
        n_rows, n_columns = tensor.shape
        leaf: Any = (
            torch.nn.Embedding(n_rows, n_columns, device="meta")
            if "embed" in name
            else torch.nn.Linear(n_columns, n_rows, bias=False, device="meta")
        )
        leaf.weight = torch.nn.Parameter(tensor, requires_grad=False)
        node.add_module(leaf_name, leaf)
    return root


def with_weights(layers: Mapping[str, tuple[Any, NDArray[np.float64]]]) -> Any:
    """Return a Sequential of the given modules, each with the given values as float32 weight."""
    named: OrderedDict[str, Any] = OrderedDict()
    for name, (layer, values) in layers.items():
        assert tuple(layer.weight.shape) == values.shape
        layer.weight = torch.nn.Parameter(torch.from_numpy(values.astype(np.float32)), requires_grad=False)
        named[name] = layer
    return torch.nn.Sequential(named)
