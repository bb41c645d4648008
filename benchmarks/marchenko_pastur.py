"""Time the Marchenko-Pastur fit beside weightwatcher's, on the same spectra, in one run; and compare the numbers.

The 37 dense matrices of all-MiniLM-L6-v2 and spectra of 1024 and 4096 eigenvalues drawn from the law, imports and
eigenvalue solvers apart. Prints medians in milliseconds and the largest differences.

    python benchmarks/marchenko_pastur.py [--repeats 3]
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from speed import load_dense

from spectral.fits import FitFailure
from spectral.marchenko_pastur import MarchenkoPasturFit, fit_marchenko_pastur
from spectral.marchenko_pastur_law import marchenko_pastur_cdf, marchenko_pastur_edges

Case = tuple[NDArray[np.float64], int, int]


def spectrum(weights: NDArray[Any]) -> Case:
    singular = np.linalg.svd(weights.astype(np.float64), compute_uv=False)
    return np.sort(singular**2), max(weights.shape), min(weights.shape)


def drawn(N: int, M: int) -> Case:
    """Draw eigenvalues from the law by its distribution function: no matrix of this size need be decomposed."""
    x = np.linspace(*marchenko_pastur_edges(Q=N / M), 400_001)
    quantiles = (np.arange(M) + np.random.default_rng(0).random(M)) / M
    return np.interp(quantiles, marchenko_pastur_cdf(x, Q=N / M), x), N, M


def run_weightwatcher(case: Case) -> tuple[Any, ...]:
    from weightwatcher import WeightWatcher

    evals, N, M = case
    found: tuple[Any, ...] = WeightWatcher.mp_fit(
        None, evals, N, M, 1, "", 0, 0, False, False, "", "", 0.5, True, evals
    )
    return found


def run_ours(case: Case) -> MarchenkoPasturFit | FitFailure:
    evals, N, M = case
    return fit_marchenko_pastur(evals, N=N, M=M)


def milliseconds(run: Callable[[Case], Any], case: Case, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run(case)
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def differences(case: Case) -> tuple[float, int]:
    """Return the relative difference of σ and the difference of the number of spikes."""
    n_spikes, sigma, *_ = run_weightwatcher(case)
    fit = run_ours(case)
    assert isinstance(fit, MarchenkoPasturFit), fit
    return abs(fit.sigma / float(sigma) - 1.0), abs(fit.n_spikes - int(n_spikes))


def report(title: str, cases: list[Case], repeats: int) -> None:
    ours = [milliseconds(run_ours, case, max(5, repeats)) for case in cases]
    theirs = [milliseconds(run_weightwatcher, case, repeats) for case in cases]
    apart = [differences(case) for case in cases]
    print(
        f"{title:20s} {len(cases):3d} fits: ours {statistics.median(ours):6.2f} ms (sum {sum(ours):6.1f}),"
        f" weightwatcher {statistics.median(theirs):7.1f} ms (sum {sum(theirs):8.1f}),"
        f" {sum(theirs) / sum(ours):6.0f} times;"
        f" sigma differs by {max(a for a, _ in apart):.1e}, spikes by {max(b for _, b in apart)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    report("MiniLM dense", [spectrum(weights) for weights in load_dense().values()], repeats)
    for N, M in ((1024, 1024), (1536, 1024), (4096, 4096), (8192, 4096)):
        report(f"noise {N} x {M}", [drawn(N, M)], repeats)


if __name__ == "__main__":
    main()
