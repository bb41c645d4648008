"""Calibration and cost of what is said about tails: interval of alpha, goodness of fit, Hill and FARMS, re-fits.

    python benchmarks/tails.py [N_DRAWS]

prints, for N_DRAWS draws (default 200): how often the 95% interval of alpha covers the planted exponent, how often
the goodness of fit rejects at p <= 0.1 true power laws (should be about 10%) and log-normals (its power), how the Hill
estimate of pure noise depends on the shape with and without fixed-aspect windows, and how long 200 re-fits take.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import numpy as np

from spectral.hill import alpha_farms, alpha_hill
from spectral.power_law import PowerLawFit, fit_power_law
from spectral.tail_uncertainty import AlphaUncertainty, GoodnessOfFit, bootstrap_alpha, goodness_of_fit
from spectral.truncated_power_law import fit_truncated_power_law

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

Draw = "Callable[[np.random.Generator], NDArray[np.float64]]"

ALPHA = 3.0


def pareto(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    return (1.0 - rng.random(n)) ** (-1.0 / (ALPHA - 1.0))


def with_body(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """A Pareto tail from 1 on, over as many values between 1/2 and 1."""
    return np.concatenate([pareto(rng, n), 0.5 + 0.5 * rng.random(n)])


def fitted(evals: NDArray[np.float64]) -> PowerLawFit:
    fit = fit_power_law(evals)
    assert isinstance(fit, PowerLawFit)
    return fit


def coverage(draw: Draw, n_draws: int) -> str:
    below = above = 0
    widths = []
    for index in range(n_draws):
        evals = np.sort(draw(np.random.default_rng([1, index])))
        interval = bootstrap_alpha(evals, fitted(evals), seed=index)
        assert isinstance(interval, AlphaUncertainty)
        below += interval.high < ALPHA
        above += interval.low > ALPHA
        widths.append(interval.high - interval.low)
    covered = 1.0 - (below + above) / n_draws
    return (
        f"{covered:6.1%} (too low {below / n_draws:.1%}, too high {above / n_draws:.1%}), width {np.median(widths):.2f}"
    )


def rejections(draw: Draw, n_draws: int) -> str:
    p_values = []
    for index in range(n_draws):
        evals = np.sort(draw(np.random.default_rng([2, index])))
        result = goodness_of_fit(evals, fitted(evals), n_replicas=100, seed=index)
        assert isinstance(result, GoodnessOfFit)
        p_values.append(result.p_value)
    return f"{np.mean(np.array(p_values) <= 0.1):6.1%}"


def seconds(work: Callable[[], object]) -> float:
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


def cost(evals: NDArray[np.float64]) -> str:
    fit = fitted(evals)
    return (
        f"fit {1e3 * seconds(lambda: fit_power_law(evals)):6.1f} ms, "
        f"200 re-fits {seconds(lambda: bootstrap_alpha(evals, fit, seed=1)):5.2f} s, "
        f"goodness of fit (200) {seconds(lambda: goodness_of_fit(evals, fit, seed=1)):5.2f} s, "
        f"truncated power law {seconds(lambda: fit_truncated_power_law(evals)):5.2f} s"
    )


def main() -> None:
    n_draws = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    print(f"95% interval of alpha covers the planted exponent, {n_draws} draws:")
    for n in (100, 500, 2000):
        print(f"  {n:5} Pareto values             {coverage(lambda rng, n=n: pareto(rng, n), n_draws)}")
    print(f"    500 Pareto values over 500  {coverage(lambda rng: with_body(rng, 500), n_draws)}")
    print(f"goodness of fit rejects at p <= 0.1, {n_draws} draws of 100 replicas:")
    print(f"  power law, 500 values         {rejections(lambda rng: pareto(rng, 500), n_draws)}")
    print(f"  power law, 500 over 500       {rejections(lambda rng: with_body(rng, 500), n_draws)}")
    for n in (500, 2000):
        print(f"  log-normal(0, 1), {n:5} values {rejections(lambda rng, n=n: rng.lognormal(0.0, 1.0, n), n_draws)}")
    print("Hill estimate of Gaussian noise, n/2 in the tail; whole matrix and windows:")
    for shape in ((256, 256), (512, 256), (1024, 256), (4096, 256)):
        noise = np.random.default_rng(0).standard_normal(shape)
        whole = alpha_hill(np.linalg.svd(noise, compute_uv=False)[::-1] ** 2)
        print(f"  {shape[0]:5} x {shape[1]}: {whole:5.2f}  {alpha_farms(noise[None]):5.2f}")
    print("cost, 4,096 values, one core:")
    rng = np.random.default_rng(0)
    print(f"  Pareto      {cost(np.sort(pareto(rng, 4096)))}")
    print(f"  squared t3  {cost(np.sort(rng.standard_t(3, 4096) ** 2))}")
    print(f"  log-normal  {cost(np.sort(rng.lognormal(0.0, 1.0, 4096)))}")


if __name__ == "__main__":
    main()
