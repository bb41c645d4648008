"""The columns of mp_fit, randomize and detX as the incumbent's own analyze() prints them, beside ours, layer by layer.

The incumbent shuffles without a seed; here its shuffled spectra are given to it, so that the columns can be compared
and not only their distributions.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from spectral.det_x import DetX, det_x_metrics, find_det_x
from spectral.marchenko_pastur import (
    MarchenkoPasturFit,
    fit_marchenko_pastur,
    marchenko_pastur_metrics,
    random_marchenko_pastur_metrics,
)
from spectral.power_law import PowerLawFit, fit_power_law
from spectral.random_twin import compare_with_twin, twin_metrics
from tests.core.builders import heavy_tailed, spectrum_of
from tests.core.oracle import OracleResult, run_oracle, with_weights

Weights = dict[str, NDArray[np.float64]]

WEIGHTS: Weights = {
    "square": heavy_tailed(120, 120, seed=1).astype(np.float32),
    "wide": heavy_tailed(110, 330, seed=2).astype(np.float32),
    "few": heavy_tailed(60, 200, seed=3).astype(np.float32),  # below 100 eigenvalues: five replicas
    "pooled": heavy_tailed(48, 24, 3, 3, seed=4, degrees=4.0).astype(np.float32),
}


def replicas(name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return pooled spectra of as many shuffles as the incumbent makes, and that of one more."""
    rng = np.random.default_rng(11)
    weights = WEIGHTS[name]
    spectra = [
        spectrum_of(rng.permutation(weights.ravel()).reshape(weights.shape)).evals
        for _ in range(6 if len(spectrum_of(weights).evals) < 100 else 2)
    ]
    return np.sort(np.concatenate(spectra[:-1])), spectra[-1]


@pytest.fixture(scope="module")
def theirs() -> Iterator[OracleResult]:
    import weightwatcher

    prescribed = iter([spectrum for name in WEIGHTS for spectrum in replicas(name)])
    asked: list[int] = []

    def given(_self: Any, _matrices: Any, _n_comp: int, num_replicas: int = 1, _params: Any = None) -> Any:
        asked.append(num_replicas)
        return next(prescribed).copy()

    modules = {
        name: torch.nn.Linear(weights.shape[1], weights.shape[0], bias=False)
        if weights.ndim == 2
        else torch.nn.Conv2d(weights.shape[1], weights.shape[0], 3, bias=False)
        for name, weights in WEIGHTS.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weightwatcher.WeightWatcher, "random_eigenvalues", given)
        model = with_weights({name: (modules[name], WEIGHTS[name]) for name in WEIGHTS})
        yield run_oracle(model, mp_fit=True, randomize=True, detX=True)
    assert asked == [1, 1, 1, 1, 5, 1, 1, 1]


@pytest.mark.parametrize("name", WEIGHTS)
def test_columns(name: str, theirs: OracleResult) -> None:
    spectrum = spectrum_of(WEIGHTS[name])
    evals, N, M = spectrum.evals, spectrum.N, spectrum.M
    pooled, single = replicas(name)
    fit = fit_marchenko_pastur(evals, N=N, M=M)
    random_fit = fit_marchenko_pastur(pooled, N=N, M=M)
    det_x, power_law = find_det_x(evals), fit_power_law(evals)
    assert isinstance(fit, MarchenkoPasturFit)
    assert isinstance(random_fit, MarchenkoPasturFit)
    assert isinstance(det_x, DetX)
    assert isinstance(power_law, PowerLawFit)
    for record in (fit, det_x):
        assert pickle.loads(pickle.dumps(record)) == record
    ours = {
        **marchenko_pastur_metrics(fit),
        **random_marchenko_pastur_metrics(random_fit),
        **det_x_metrics(det_x, N=N, M=M, n_evals=len(evals), n_pl_spikes=power_law.n_tail),
        **twin_metrics(compare_with_twin(evals, pooled_rand_evals=pooled, rand_evals=single)),
    }
    del ours["detX_num_null"]  # only ours
    assert len(ours) == 22
    for column, value in ours.items():
        # An integer is a count. Where the tolerance is wider than that of the spectra, σ was searched for.
        expected = theirs.value(name, column)
        if isinstance(value, int):
            assert value == expected, column
        else:
            assert value == pytest.approx(expected, rel=1e-4 if "mp" in column or "bulk" in column else 1e-6), column
