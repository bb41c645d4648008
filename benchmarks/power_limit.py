"""What the best of all tests could find of a rank-one signal at 1.2 times the limit of detectability.

By the lemma of Neyman and Pearson no test of a level that does not depend on the directions has more power than
the likelihood ratio of signal and noise, given the strength of the signal and the noise level. It is the spherical
integral E exp(c·vᵀXv) over unit vectors v (Onatski, Moreira and Hallin, Annals of Statistics 41, 2013, 1204, for the
spiked Wishart law), taken here along a vertical line through its saddle point. Beside it, on the same draws: the share
whose largest eigenvalue exceeds the Tracy-Widom quantile, and the share above its own 95% quantile in noise.

    python benchmarks/power_limit.py --draws 600
"""

from __future__ import annotations

import argparse
import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from spectral.execution import single_threaded_blas
from spectral.tracy_widom import largest_share_scale, tracy_widom_quantile

STRENGTH = 1.2
LEVEL = 0.05
SHAPES = ((128, 128), (256, 128), (512, 128), (256, 256))


def log_likelihood_ratio(evals: NDArray[np.float64], shape: tuple[int, int]) -> float:
    """Return log E exp(c·vᵀXv) up to a constant, for a spike of population variance 1 + h."""
    h = STRENGTH**2 * math.sqrt(shape[1] / shape[0])
    poles = h / (2.0 * (1.0 + h)) * evals
    top = float(poles.max())
    saddle = float(brentq(lambda s: 1.0 - 0.5 * np.sum(1.0 / (s - poles)), top + 1e-9, top + len(poles)))
    width = 1.0 / math.sqrt(0.5 * np.sum(1.0 / (saddle - poles) ** 2))
    line = saddle + 1j * np.linspace(0.0, 40.0 * width, 8001)
    exponents = line - 0.5 * np.sum(np.log(line[:, None] - poles), axis=1)
    values = np.exp(exponents - exponents[0].real).real
    integral = (values.sum() - (values[0] + values[-1]) / 2.0) * 40.0 * width / 8000
    return float(exponents[0].real + math.log(integral))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=600)
    n_draws = parser.parse_args().draws
    print("       N     M   best test   largest eigenvalue: at the Tracy-Widom quantile, at its own")
    for shape in SHAPES:
        rng = np.random.default_rng(1)
        centre, width = largest_share_scale(*shape)
        ratios, largest = np.empty((2, n_draws)), np.empty((2, n_draws))
        for draw in range(n_draws):
            noise = rng.standard_normal(shape)
            left, right = rng.standard_normal(shape[0]), rng.standard_normal(shape[1])
            size = STRENGTH * noise.size**0.25 / np.linalg.norm(left) / np.linalg.norm(right)
            for row, matrix in enumerate((noise, noise + size * np.outer(left, right))):
                evals = np.linalg.eigvalsh(matrix.T @ matrix)
                ratios[row, draw] = log_likelihood_ratio(evals, shape)
                largest[row, draw] = (evals[-1] * noise.size / evals.sum() - centre) / width
        found = [
            np.mean(ratios[1] > np.quantile(ratios[0], 1.0 - LEVEL)),
            np.mean(largest[1] > tracy_widom_quantile(LEVEL)),
            np.mean(largest[1] > np.quantile(largest[0], 1.0 - LEVEL)),
        ]
        print(f"{shape[0]:8}{shape[1]:6}" + "".join(f"{100 * share:12.1f}" for share in found), flush=True)


if __name__ == "__main__":
    with single_threaded_blas():
        main()
