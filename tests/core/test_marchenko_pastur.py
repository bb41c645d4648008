"""The parity fit: the incumbent's numbers, run live; the laws a fit obeys; what is refused."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file

from spectral.execution import single_threaded_blas
from spectral.fits import FitFailure, FitFailureReason
from spectral.marchenko_pastur import (
    MARCHENKO_PASTUR_METRICS,
    RANDOM_MARCHENKO_PASTUR_METRICS,
    MarchenkoPasturFit,
    fit_marchenko_pastur,
    marchenko_pastur_metrics,
    random_marchenko_pastur_metrics,
)
from tests.core.builders import heavy_tailed, spectrum_of

SIGMA_TOLERANCE = 1e-4
CLOSED_FORM = 1e-6


class Case(NamedTuple):
    """A spectrum and the shape it comes from."""

    evals: NDArray[np.float64]
    N: int
    M: int


def case_of(*slices: NDArray[Any]) -> Case:
    """Pool the eigenvalues of slices of one shape."""
    evals = np.concatenate([np.linalg.svd(W.astype(np.float64), compute_uv=False) ** 2 for W in slices])
    return Case(np.sort(evals), max(slices[0].shape), min(slices[0].shape))


def noise(N: int, M: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal((N, M))


def spiked(N: int, M: int, n_spikes: int, seed: int = 0) -> NDArray[np.float64]:
    W = noise(N, M, seed)
    W[:, :n_spikes] *= 8.0
    return W


def giant(n: int) -> NDArray[np.float64]:
    """One eigenvalue is nearly all of the spectrum, so that the whole grid of σ lies above the best one."""
    return np.sort(np.append(1e-6 * np.random.default_rng(2).chisquare(3, n - 1), 1.0))


def theirs(case: Case) -> dict[str, float]:
    """Return what the incumbent's mp_fit says."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from weightwatcher import WeightWatcher

        # It uses nothing of the object. What follows M are names, options of plots, and rescale=True.
        found = WeightWatcher.mp_fit(
            None, case.evals, case.N, case.M, 1, "", 0, 0, False, False, "", "", 0.5, True, case.evals
        )
    names = ("num_spikes", "sigma_mp", "mp_softrank", "bulk_min", "bulk_max", "W_scale")
    return {name: float(value) for name, value in zip(names, found, strict=True)}


def fitted(case: Case) -> MarchenkoPasturFit:
    fit = fit_marchenko_pastur(case.evals, N=case.N, M=case.M)
    assert isinstance(fit, MarchenkoPasturFit), fit
    return fit


def check_parity(case: Case) -> None:
    ours, expected = marchenko_pastur_metrics(fitted(case)), theirs(case)
    assert ours["num_spikes"] == expected["num_spikes"]
    assert ours["W_scale"] == pytest.approx(expected["W_scale"], rel=CLOSED_FORM)
    for name in ("sigma_mp", "mp_softrank", "bulk_max", "bulk_min"):
        assert ours[name] == pytest.approx(expected[name], rel=SIGMA_TOLERANCE, abs=0.0), name


CASES = {
    "noise, square": case_of(noise(150, 150)),
    "noise, Q = 1.3": case_of(noise(130, 100)),
    "noise, Q = 4": case_of(noise(400, 100)),
    "noise, Q = 80": case_of(noise(4000, 50)),
    "heavy tail, square": case_of(heavy_tailed(150, 150)),
    "heavy tail, Q = 1.3": case_of(heavy_tailed(156, 120, degrees=3.5)),
    "heavy tail, Q = 4": case_of(heavy_tailed(400, 100)),
    "heavy tail, Q = 80": case_of(heavy_tailed(4000, 50)),
    "spikes, square": case_of(spiked(100, 100, 3)),
    "spikes, Q = 1.3": case_of(spiked(130, 100, 3)),
    "spikes, Q = 4": case_of(spiked(400, 100, 5)),
    "half the rank, square": case_of(noise(100, 100) * (np.arange(100) < 50)),
    "pooled convolution": case_of(*heavy_tailed(9, 64, 32, seed=4, degrees=3.0)),
    "pooled square convolution": case_of(*heavy_tailed(9, 32, 32, seed=5, degrees=3.0)),
    "pooled replicas": case_of(*(noise(90, 60, seed) for seed in range(5))),
    "tiny": case_of(noise(8, 4)),
    "tiny, square": case_of(noise(3, 3)),
    "a giant above a square bulk": Case(giant(6000), 6000, 6000),
}


@pytest.mark.parametrize("name", CASES)
def test_parity(name: str) -> None:
    check_parity(CASES[name])


@pytest.mark.parametrize(
    "tensor",
    [
        "embeddings.word_embeddings",  # 30522 x 384
        "encoder.layer.0.attention.self.query",  # square
        "encoder.layer.1.intermediate.dense",  # 1536 x 384
        "encoder.layer.4.output.dense",  # 384 x 1536
        "pooler.dense",  # square, nearly noise
    ],
)
def test_parity_on_a_real_model(tensor: str, minilm: Path) -> None:
    spectrum = spectrum_of(load_file(minilm)[f"{tensor}.weight"])
    check_parity(Case(spectrum.evals, spectrum.N, spectrum.M))


class TestTheSearch:
    """The fast search against every σ of a fine grid."""

    @pytest.mark.parametrize("name", [name for name in CASES if "tiny" not in name])
    def test_no_sigma_is_better(self, name: str) -> None:
        evals, N, M = CASES[name]
        fit = fitted(CASES[name])
        x = evals * fit.W_scale**2
        points = np.sqrt(x) if N == M else x
        grid = np.linspace(0.0, points[-1] + 0.5, 1000)
        density = np.maximum(0.0, 1.0 - np.abs(grid[:, None] - points) / 0.1).sum(axis=1) / (0.1 * len(x))
        grid, density = grid[density > 0.01], density[density > 0.01]
        mode = grid[np.argmax(density)]

        def error(sigma: float) -> float:
            low, high = (sigma * (1 - (M / N) ** 0.5)) ** 2, (sigma * (1 + (M / N) ** 0.5)) ** 2
            if N == M:
                law = np.sqrt(np.maximum(4 - grid**2, 0)) / (np.pi * sigma**2)
            elif low <= mode <= high <= grid[-1]:
                inside = (low < grid) & (grid < high)
                law = np.zeros(len(grid))
                root = np.sqrt((high - grid[inside]) * (grid[inside] - low))
                law[inside] = N / M * root / (2 * np.pi * sigma**2 * grid[inside])
            else:
                return np.inf
            return float(np.sum((law - density) ** 2))

        best = min(error(sigma) for sigma in fit.sigma * np.linspace(0.6, 1.4, 161))
        assert error(fit.sigma) <= best + 1e-2 * (1.0 + best)

    @pytest.mark.parametrize("name", CASES)
    def test_last_bits_of_the_eigenvalues_do_not_matter(self, name: str) -> None:
        """Gram matrix, SVD and other machines give other last bits."""
        evals, N, M = CASES[name]
        shaken = np.sort(evals * (1.0 + 1e-10 * np.random.default_rng(1).standard_normal(len(evals))))
        fit, other = fitted(CASES[name]), fitted(Case(shaken, N, M))
        assert other.n_spikes == fit.n_spikes
        assert other.sigma == pytest.approx(fit.sigma, rel=1e-6)


class TestLaws:
    @settings(max_examples=30, deadline=None)
    @given(name=st.sampled_from(sorted(CASES)), decades=st.floats(-100.0, 100.0))
    def test_scale(self, name: str, decades: float) -> None:
        """W·√c multiplies λ by c: σ, soft rank and spikes stay, the bulk is c times as wide."""
        evals, N, M = CASES[name]
        factor = 10.0**decades
        fit, scaled = fitted(CASES[name]), fitted(Case(evals * factor, N, M))
        assert (scaled.n_spikes, scaled.Q) == (fit.n_spikes, fit.Q)
        assert scaled.sigma == pytest.approx(fit.sigma, rel=1e-6)
        assert scaled.softrank == pytest.approx(fit.softrank, rel=1e-6)
        assert scaled.bulk_max == pytest.approx(fit.bulk_max * factor, rel=1e-6, abs=0.0)
        assert scaled.bulk_min == pytest.approx(fit.bulk_min * factor, rel=1e-6, abs=0.0)
        assert scaled.spike_threshold == pytest.approx(fit.spike_threshold * factor, rel=1e-6, abs=0.0)
        assert scaled.W_scale == pytest.approx(fit.W_scale * factor**-0.5, rel=1e-6, abs=0.0)

    @pytest.mark.parametrize("Q", [1.0, 1.3, 4.0, 80.0])
    @pytest.mark.parametrize("seed", range(3))
    def test_noise_is_recovered(self, Q: float, seed: int) -> None:
        M = 200 if Q < 80.0 else 60
        N = int(Q * M)
        with single_threaded_blas():
            fit = fitted(case_of(3.0 * noise(N, M, seed)))
        assert fit.sigma == pytest.approx(1.0, abs=0.02)
        assert fit.n_spikes == 0
        assert fit.bulk_max == pytest.approx(9.0 * N * (1.0 + Q**-0.5) ** 2, rel=0.05)
        assert fit.softrank == pytest.approx(1.0, abs=0.08)

    @pytest.mark.parametrize("n_spikes", [1, 2, 7])
    def test_planted_spikes_are_counted(self, n_spikes: int) -> None:
        case = case_of(spiked(400, 200, n_spikes))
        fit = fitted(case)
        assert fit.n_spikes == n_spikes
        assert case.evals[-n_spikes - 1] < fit.spike_threshold < case.evals[-n_spikes]
        assert fit.bulk_max < fit.spike_threshold

    def test_the_search_may_end_on_the_other_side_of_zero(self) -> None:
        """With the best σ far below its grid the search steps to -σ, which is as good: last bits say where it ends."""
        n = 20_000
        evals = np.sort(np.append(1e-9 * np.random.default_rng(2).chisquare(3, n - 1), 1.0))
        case = Case(evals, n, n)
        expected, fit = theirs(case), fitted(case)
        assert fit.sigma == pytest.approx(abs(expected["sigma_mp"]), rel=SIGMA_TOLERANCE)
        assert fit.bulk_max == pytest.approx(expected["bulk_max"], rel=SIGMA_TOLERANCE)

    def test_same_input_same_bits_and_input_untouched(self) -> None:
        case = CASES["heavy tail, Q = 4"]
        before = case.evals.copy()
        assert fitted(case) == fitted(case)
        np.testing.assert_array_equal(case.evals, before)


class TestRefused:
    @pytest.mark.parametrize(
        "case",
        [
            case_of(noise(130, 100) * (np.arange(100) < 50)),
            case_of(noise(400, 100) * (np.arange(100) < 50)),
            Case(giant(300), 400, 300),
        ],
        ids=["half the rank, Q = 1.3", "half the rank, Q = 4", "a giant above a bulk"],
    )
    def test_the_incumbent_answers_with_the_start_of_its_grid(self, case: Case) -> None:
        """No bulk holds the mode. It says σ = 0.05 times the largest that its grid allows, whatever the data."""
        failure = fit_marchenko_pastur(case.evals, N=case.N, M=case.M)
        assert isinstance(failure, FitFailure)
        assert failure.reason is FitFailureReason.REFUSED
        assert "holds the mode of the eigenvalues" in failure.detail
        assert theirs(case)["mp_softrank"] == pytest.approx(0.05**2, rel=1e-9)

    def test_real_layer_of_deficient_rank(self, minilm: Path) -> None:
        spectrum = spectrum_of(load_file(minilm)["embeddings.position_embeddings.weight"])
        failure = fit_marchenko_pastur(spectrum.evals, N=spectrum.N, M=spectrum.M)
        assert isinstance(failure, FitFailure)
        assert failure.reason is FitFailureReason.REFUSED

    def test_density_that_the_grid_cannot_see(self) -> None:
        """A thousand points up to 1275 are farther apart than the kernel is wide. The incumbent raises and says -1."""
        case = Case(np.sort(np.append(np.full(2998, 0.15), [1275.0, 1275.15])), 6000, 3000)
        failure = fit_marchenko_pastur(case.evals, N=case.N, M=case.M)
        assert isinstance(failure, FitFailure)
        assert failure.reason is FitFailureReason.REFUSED
        assert failure.detail == "the density of the eigenvalues nowhere exceeds 0.01 on its grid"
        with pytest.raises(ValueError, match="empty"):
            theirs(case)

    def test_square_bulk_that_the_grid_cannot_see(self) -> None:
        """Of 50,000 values the grid sees only 520 beyond the quarter circle: no height is better than none."""
        n, n_seen, step = 50_000, 520, 0.2174
        seen, largest = (10 * step) ** 2, (999 * step - 0.5) ** 2
        bulk = (n - n_seen * seen - largest) / (n - n_seen - 1)
        evals = np.concatenate([np.full(n - n_seen - 1, bulk), np.full(n_seen, seen), [largest]])
        failure = fit_marchenko_pastur(evals, N=n, M=n)
        assert isinstance(failure, FitFailure)
        assert failure.reason is FitFailureReason.REFUSED
        assert failure.detail == "no eigenvalue lies where the quarter circle does"

    @pytest.mark.parametrize(
        ("values", "reason"),
        [
            ([], FitFailureReason.TOO_FEW_EIGENVALUES),
            ([2.0], FitFailureReason.TOO_FEW_EIGENVALUES),
            ([0.0, 0.0, 0.0], FitFailureReason.NO_SPECTRUM),
            ([3.0] * 20, FitFailureReason.NO_SPREAD),
        ],
    )
    def test_nothing_to_fit(self, values: list[float], reason: FitFailureReason) -> None:
        failure = fit_marchenko_pastur(np.array(values), N=40, M=20)
        assert isinstance(failure, FitFailure)
        assert failure.reason is reason

    @pytest.mark.parametrize("values", [[2.0, 1.0], [-1.0, 1.0], [1.0, np.inf], [1.0, np.nan]])
    def test_impossible_eigenvalues(self, values: list[float]) -> None:
        with pytest.raises(ValueError, match="evals must be one-dimensional, ascending, finite and non-negative"):
            fit_marchenko_pastur(np.array(values), N=2, M=2)

    @pytest.mark.parametrize(("N", "M"), [(2, 3), (0, 0), (-1, -1), (5, 0)])
    def test_impossible_shape(self, N: int, M: int) -> None:
        with pytest.raises(ValueError, match="N must be the larger and M the smaller dimension"):
            fit_marchenko_pastur(np.array([1.0, 2.0]), N=N, M=M)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.floats(0.0, 10.0), st.floats(-8.0, 8.0).map(lambda d: 10.0**d)), min_size=2, max_size=40),
    st.integers(1, 60),
    st.integers(0, 200),
)
def test_any_spectrum_has_a_fit_of_finite_numbers_or_a_reason(values: list[float], M: int, more: int) -> None:
    fit = fit_marchenko_pastur(np.sort(np.array(values)), N=M + more, M=M)
    if isinstance(fit, FitFailure):
        assert fit.detail
        return
    metrics = marchenko_pastur_metrics(fit)
    assert all(np.isfinite(value) for value in metrics.values())
    assert 0.0 <= fit.bulk_min < fit.bulk_max < fit.spike_threshold
    assert fit.sigma > 0.0


def test_metric_names_and_plain_types() -> None:
    fit = fitted(CASES["spikes, Q = 4"])
    metrics, random_metrics = marchenko_pastur_metrics(fit), random_marchenko_pastur_metrics(fit)
    assert tuple(metrics) == MARCHENKO_PASTUR_METRICS
    assert tuple(random_metrics) == RANDOM_MARCHENKO_PASTUR_METRICS
    assert random_metrics["num_traps"] == random_metrics["rand_num_spikes"] == metrics["num_spikes"] == 5
    assert {type(value) for value in [*metrics.values(), *random_metrics.values()]} == {int, float}
    assert metrics["bulk_max"] == fit.bulk_max == random_metrics["rand_bulk_max"]
