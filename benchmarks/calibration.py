"""False-alarm rates and power of the noise test and the trap test, on matrices whose truth is known.

Three tables: alarms at 5% and 1% on pure noise, for every size, aspect ratio and distribution of the elements;
power against a rank-one spike at 1.2 times the limit of detectability (BBP), beside that of the best test there is
where one is asked for; alarms of whole runs of 100 layers under Holm at 1%. Every draw has its own seed, so that
a cell does not depend on which others are asked for, nor on the number of workers.

    python benchmarks/calibration.py --sizes 128 256 --draws 400 --runs 400 --workers 2
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectral.execution import single_threaded_blas
from spectral.noise import compare_with_noise
from spectral.permutation import generator_for
from spectral.tracy_widom import holm
from spectral.traps import find_traps

Matrix = NDArray[np.float64]
PValues = tuple[float, float]
"""Of the noise test and of the trap test."""

ASPECTS = (1, 2, 4)
SPIKE = 1.2
"""Strength of the planted signal, as a multiple of σ(NM)^(1/4)."""

N_LAYERS = 100
LAYER_SHAPES = ((64, 64), (64, 128), (64, 256), (96, 96))


def gaussian(rng: np.random.Generator, shape: tuple[int, int]) -> Matrix:
    return rng.standard_normal(shape)


def uniform(rng: np.random.Generator, shape: tuple[int, int]) -> Matrix:
    return rng.uniform(-math.sqrt(3.0), math.sqrt(3.0), shape)


def student(rng: np.random.Generator, shape: tuple[int, int], *, degrees: float) -> Matrix:
    return rng.standard_t(degrees, shape) / math.sqrt(degrees / (degrees - 2.0))


DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, tuple[int, int]], Matrix]] = {
    "gaussian": gaussian,
    "uniform": uniform,
    "t5": partial(student, degrees=5.0),
}


def p_values(matrix: Matrix, name: str) -> PValues:
    values = matrix.astype(np.float32)
    exact = values.astype(np.float64)
    gram = exact.T @ exact if exact.shape[0] >= exact.shape[1] else exact @ exact.T
    noise = compare_with_noise(values[None], np.linalg.eigvalsh(gram)[None], generator_for(0, name))
    return noise.p_value, find_traps(values[None], name=name, seed=0).p_value


def rank_one(rng: np.random.Generator, shape: tuple[int, int], strength: float) -> Matrix:
    left, right = rng.standard_normal(shape[0]), rng.standard_normal(shape[1])
    size = strength * (shape[0] * shape[1]) ** 0.25
    return np.outer(left, right) * (size / np.linalg.norm(left) / np.linalg.norm(right))


def draw_of(distribution: str, size: int, aspect: int, strength: float, draw: int) -> PValues:
    rng = np.random.default_rng([size, aspect, list(DISTRIBUTIONS).index(distribution), draw])
    shape = (size * aspect, size)
    matrix = DISTRIBUTIONS[distribution](rng, shape) + rank_one(rng, shape, strength)
    return p_values(matrix, f"{distribution}{size}x{aspect}.{draw}")


def run_of(run: int) -> PValues:
    """Return the smallest adjusted p-value over the layers of one model of pure noise."""
    rng = np.random.default_rng([N_LAYERS, run])
    kinds = (gaussian, uniform)
    layers = [
        p_values(kinds[index % 2](rng, LAYER_SHAPES[index // 2 % len(LAYER_SHAPES)]), f"run{run}.{index}")
        for index in range(N_LAYERS)
    ]
    noise, traps = zip(*layers, strict=True)
    return min(holm(noise)), min(holm(traps))


def share_below(results: NDArray[np.float64], level: float) -> str:
    shares = 100.0 * np.mean(results <= level, axis=0)
    return "".join(f"{share:8.2f}" for share in shares)


def cells(distributions: list[str], sizes: list[int]) -> Iterator[tuple[str, int, int]]:
    for distribution in distributions:
        for size in sizes:
            for aspect in ASPECTS:
                yield distribution, size, aspect


def table(
    title: str, run: Callable[..., Any], draws: int, names: list[str], sizes: list[int], *, strength: float
) -> None:
    print(f"\n{title}\n{'':10}{'M':>6}{'Q':>3}{'draws':>7}   5%: noise   trap   1%: noise   trap      s", flush=True)
    for distribution, size, aspect in cells(names, sizes):
        start = time.perf_counter()
        results = np.array(list(run(partial(draw_of, distribution, size, aspect, strength), range(draws))))
        print(
            f"{distribution:10}{size:6}{aspect:3}{draws:7}    {share_below(results, 0.05)}    "
            f"{share_below(results, 0.01)}{time.perf_counter() - start:7.1f}",
            flush=True,
        )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[128, 256, 512, 1024], help="values of M")
    parser.add_argument("--distributions", nargs="*", default=list(DISTRIBUTIONS), choices=list(DISTRIBUTIONS))
    parser.add_argument("--draws", type=int, default=400, help="draws of each cell")
    parser.add_argument("--runs", type=int, default=400, help=f"models of {N_LAYERS} layers; 0 for none")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    return parser.parse_args()


def main() -> None:
    options = parsed()
    with single_threaded_blas(), ProcessPoolExecutor(options.workers, initializer=_hold_blas) as pool:
        run = partial(pool.map, chunksize=10) if options.workers > 1 else map
        if options.sizes and options.draws:
            table("Pure noise: alarms in %", run, options.draws, options.distributions, options.sizes, strength=0.0)
            title = f"A rank-one spike at {SPIKE} times the limit of detectability: found in %"
            table(title, run, options.draws, options.distributions[:1], options.sizes, strength=SPIKE)
        if options.runs:
            results = np.array(list(run(run_of, range(options.runs))))
            print(f"\n{options.runs} runs of {N_LAYERS} layers of pure noise: alarms in % of the runs")
            for level in (0.05, 0.01):
                print(f"Holm at {100 * level:.0f}%: noise, trap {share_below(results, level)}")


def _hold_blas() -> None:
    single_threaded_blas().__enter__()


if __name__ == "__main__":
    main()
