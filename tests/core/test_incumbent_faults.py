"""Where weightwatcher 0.7.7 is wrong, and we are not: the right value, from a source of its own, beside the wrong one.

The overflow of detX is in test_det_x.py, what it makes of Conv1d kernels in test_parity.py.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import spectral as ww
from tests.core.builders import heavy_tailed
from tests.core.dropin_oracle import Incumbent


def arrays(**layers: Any) -> dict[str, Any]:
    """Return a state dict of float32 arrays."""
    return {f"{name}.weight": np.asarray(values, dtype=np.float32) for name, values in layers.items()}


class TestFailedFits:
    """A fit that failed is alpha = -1 there, called over-trained, and averaged in."""

    MODEL = arrays(good=heavy_tailed(128, 100, seed=1) / 10.0, tiny=heavy_tailed(64, 64, seed=3) * 1e-8)

    def test_minus_one(self) -> None:
        theirs = Incumbent(model=self.MODEL).analyze()
        assert theirs["alpha"].tolist()[1] == -1
        assert theirs["warning"].tolist()[1] == ww.OVER_TRAINED
        watcher = ww.WeightWatcher(model=self.MODEL)
        ours = watcher.analyze()
        assert ours["alpha"].isna().tolist() == [False, True]
        assert ours["warning"].tolist()[1] == ""
        # The mean of the fits there are is that of the one fit.
        alpha = theirs["alpha"].tolist()[0]
        assert Incumbent().get_summary(theirs)["alpha"] == pytest.approx((alpha - 1.0) / 2.0)
        assert watcher.get_summary()["alpha"] == pytest.approx(alpha, rel=1e-6)


def test_one_nan_ends_the_run() -> None:
    weights = heavy_tailed(64, 64, seed=3)
    weights[5, 7] = np.nan
    model = arrays(good=heavy_tailed(128, 100, seed=1), broken=weights)
    with pytest.raises(Exception, match=r"(?i)nan|inf"):
        Incumbent(model=model).analyze()
    watcher = ww.WeightWatcher(model=model)
    assert watcher.analyze()["status"].tolist() == ["success", "failed"]
    assert watcher.analysis is not None
    assert watcher.analysis.layers[1].reason == "1 of 4096 values are NaN or infinite, the first at broken.weight[5, 7]"


def test_a_parametrized_layer_ends_the_run() -> None:
    def model() -> Any:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(40, 30)))

    with pytest.raises(AttributeError, match="has no attribute 'data'"):
        Incumbent(model=model()).analyze()
    ours = ww.WeightWatcher(model=model()).analyze()
    weight = model()[0].weight.detach().double().numpy()
    assert ours["norm"].tolist() == pytest.approx([float(np.sum(weight**2))], rel=1e-6)


def test_glorot_fix_does_nothing() -> None:
    model = arrays(only=heavy_tailed(60, 40, seed=2))
    theirs = [Incumbent(model=model).analyze(glorot_fix=flag)["lambda_max"].tolist() for flag in (False, True)]
    assert theirs[0] == theirs[1]
    plain, fixed = (ww.WeightWatcher(model=model).analyze(glorot_fix=flag) for flag in (False, True))
    # Glorot and Bengio 2010, equation 12: weights of variance 2 / (60 + 40).
    ratio = np.array(fixed["lambda_max"]) / np.array(plain["lambda_max"])
    assert ratio.tolist() == pytest.approx([50.0])


def test_xmin_peak_compares_a_logarithm_with_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    model = arrays(only=heavy_tailed(200, 150, seed=2))
    ranges: list[tuple[float, float]] = []

    def spy(*_: Any, **options: Any) -> None:
        ranges.append(options["xmin"])

    Incumbent()
    monkeypatch.setattr("weightwatcher.weightwatcher.pl_fit", spy)
    assert Incumbent(model=model).analyze(fix_fingers=ww.XMIN_PEAK, pl_package=ww.POWERLAW_PACKAGE)[
        "alpha"
    ].tolist() == [-1]
    evals = np.linalg.svd(model["only.weight"].astype(float), compute_uv=False) ** 2
    counts, edges = np.histogram(np.log10(evals), bins=100)
    peak = float(10.0 ** edges[np.argmax(counts)])
    # The lower end is log10 λ, the upper one λ.
    assert ranges[0] == pytest.approx((math.log10(0.95 * peak), 1.5 * peak))
    xmin = ww.WeightWatcher(model=model).analyze(fix_fingers=ww.XMIN_PEAK)["xmin"].tolist()[0]
    assert 0.95 * peak <= xmin <= 1.5 * peak


def test_two_equal_calls_differ() -> None:
    model = arrays(only=heavy_tailed(120, 100, seed=2))
    first, second = (Incumbent(model=model).analyze(randomize=True).iloc[0] for _ in "ab")
    differing = [name for name in first.index if first[name] != second[name]]
    assert len(differing) >= 6
    one, two = (ww.WeightWatcher(model=model).analyze(randomize=True).iloc[0] for _ in "ab")
    assert [name for name in one.index if one[name] != two[name]] == []


def test_spikes_just_above_the_limit() -> None:
    """Its threshold passes over spikes that the Tracy-Widom test finds (Baik, Ben Arous and Péché 2005: the limit)."""
    n_rows, n_columns, n_draws = 256, 128, 12
    their_spikes = our_findings = 0
    for seed in range(n_draws):
        generator = np.random.default_rng(seed)
        left, right = (generator.normal(size=size) for size in (n_rows, n_columns))
        spike = (
            1.2 * (n_rows * n_columns) ** 0.25 * np.outer(left, right) / np.linalg.norm(left) / np.linalg.norm(right)
        )
        model = arrays(only=generator.normal(size=(n_rows, n_columns)) + spike)
        their_spikes += Incumbent(model=model).analyze(mp_fit=True)["num_spikes"].tolist()[0] > 0
        (layer,) = ww.analyze(model, noise_test=True).layers
        assert layer.noise is not None
        our_findings += layer.noise.p_value <= 0.05
    assert their_spikes <= n_draws // 4
    assert our_findings >= n_draws // 2


def test_the_misspelt_attribute_of_fft() -> None:
    model = arrays(only=heavy_tailed(40, 30, seed=2))
    with pytest.raises(AttributeError, match="skippe"):
        Incumbent(model=model).analyze(fft=True)
    ours = ww.WeightWatcher(model=model).analyze(fft=True)
    transformed = np.fft.fft2(model["only.weight"].astype(float)).real
    assert ours["sv_max"].tolist() == pytest.approx([float(np.linalg.norm(transformed, 2))])


def test_channels_cannot_be_given() -> None:
    model = arrays(only=heavy_tailed(3, 3, 20, 30, seed=2))
    with pytest.raises(TypeError, match="not callable"):
        Incumbent(model=model).analyze(channels="first")
    ours = ww.WeightWatcher(model=model).analyze(channels="first", conv2d_norm=False)
    assert ours[["N", "M", "rf"]].to_numpy().tolist() == [[30, 20, 9]]
    slices = model["only.weight"].astype(float).reshape(9, 20, 30)
    assert ours["sv_max"].tolist() == pytest.approx([max(float(np.linalg.norm(block, 2)) for block in slices)])


def test_analyze_vectors_cannot_run() -> None:
    model = arrays(only=heavy_tailed(40, 30, seed=2))
    with pytest.raises(AttributeError, match="frameword_layer"):
        Incumbent(model=model).analyze_vectors()
    assert ww.WeightWatcher(model=model).analyze_vectors()["tail_mean_vec_entropy"].notna().all()


def test_a_base_model_without_a_layer_leaves_weights_for_differences() -> None:
    model = arrays(
        old=heavy_tailed(60, 40, seed=1), new=heavy_tailed(50, 30, seed=2), last=heavy_tailed(60, 50, seed=3)
    )
    base = {name: values for name, values in model.items() if not name.startswith("new")}
    base = {name: values * np.float32(0.5) for name, values in base.items()}
    theirs = Incumbent(model=model, base_model=base).analyze()
    evals = np.linalg.svd(model["new.weight"].astype(float), compute_uv=False) ** 2
    assert theirs["norm"].tolist()[1] == pytest.approx(float(evals.sum()), rel=1e-6)  # W itself, not a difference.
    watcher = ww.WeightWatcher(model=model, base_model=base)
    assert watcher.analyze()["name"].tolist() == ["old", "last"]
    (left_out,) = watcher.unanalysed
    assert (left_out.name, left_out.reason) == ("new.weight", "no tensor of this name in the other model")
