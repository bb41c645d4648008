"""Option by option: the same call on weightwatcher 0.7.7 and on the class that stands in for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import spectral as ww
from spectral.dropin_frames import MARCHENKO_PASTUR, VECTORS
from spectral.eigenvectors import EigenvectorStatistics, divide_at, eigenvector_statistics
from tests.core.builders import heavy_tailed
from tests.core.dropin_oracle import Incumbent, assert_same, both, zoo

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd

SEARCHED = ("sigma_mp", "mp_softrank", "bulk_max", "bulk_min")
MINILM_LAYERS = (
    "embeddings.position_embeddings.weight",
    "embeddings.token_type_embeddings.weight",
    "encoder.layer.0.attention.self.query.weight",
    "encoder.layer.3.output.dense.weight",
    "encoder.layer.5.output.LayerNorm.weight",
    "pooler.dense.weight",
)


def aspect_ratios() -> dict[str, Any]:
    """Heavy-tailed matrices of Q = 1, 1.3, 4 and 80, as a state dict of arrays."""
    shapes = {"square": (96, 96), "near": (91, 70), "tall": (60, 240), "thin": (2000, 25)}
    return {
        f"{name}.weight": (heavy_tailed(*shape, seed=number) / np.sqrt(shape[1])).astype(np.float32)
        for number, (name, shape) in enumerate(shapes.items())
    }


@pytest.fixture(scope="module")
def real(minilm: Path) -> dict[str, Any]:
    tensors = load_file(minilm)
    return {name: tensors[name] for name in tensors if name in MINILM_LAYERS}


def kernels() -> Any:
    """2-D convolutions and a dense layer, so that slices stay few."""
    model = zoo()
    return torch.nn.ModuleDict({name: model[name] for name in ("conv2d", "linear", "conv2d_grouped", "norm")})


ZOO_OPTIONS: Mapping[str, dict[str, Any]] = {
    "default": {},
    "start_ids": {"start_ids": 1},
    "min_evals": {"min_evals": 25},
    "max_evals": {"max_evals": 30},
    "no limit": {"max_evals": 0},
    "max_N": {"max_N": 60, "max_evals": 50},
    "conv2d_norm": {"conv2d_norm": False},
    "tolerance": {"tolerance": 50.0},
    "detX": {"detX": True},
    "ERG": {"ERG": True},
    "xmax": {"xmax": -2},
    "positive xmax": {"xmax": 2},
    "svd_method": {"svd_method": "accurate"},
    "inverse": {"inverse": True, "layers": [ww.LAYER_TYPE.DENSE]},
    "id": {"layers": 1},
    "ids": {"layers": [1, 2, 7]},
    "ids left out": {"layers": [-1, -2]},
    "name": {"layers": "linear"},
    "names left out": {"layers": ["-linear", "-out_proj"]},
    "type": {"layers": [ww.LAYER_TYPE.CONV2D]},
    "types": {"layers": [ww.LAYER_TYPE.DENSE, ww.LAYER_TYPE.EMBEDDING]},
    # There as many eigenvalues are taken as the first layer has: here as many as there are.
    "stacked": {"stacked": True, "layers": [2, 3]},
}


class TestOptionsOnEveryLayer:
    @pytest.mark.parametrize("options", ZOO_OPTIONS.values(), ids=ZOO_OPTIONS)
    def test_analyze(self, options: dict[str, Any]) -> None:
        assert_same(*both(zoo, **options))

    def test_products_of_layers(self) -> None:
        theirs, ours = both(zoo, intra=True, sparsify=False, layers=[ww.LAYER_TYPE.DENSE])
        assert_same(theirs, ours, but=["sv_min"])
        # There they are formed in float32, which on some processors moves sv_min in its sixth digit.
        assert ours["sv_min"].tolist() == pytest.approx(theirs["sv_min"].tolist(), rel=1e-5)

    @pytest.mark.parametrize("name", ["default", "start_ids", "min_evals", "ids left out", "max_N"])
    def test_describe(self, name: str) -> None:
        options = {key: value for key, value in ZOO_OPTIONS[name].items() if key != "detX"}
        assert_same(*both(zoo, "describe", **options))

    @pytest.mark.parametrize("layers", [[0], ["attention"], ["norm"], ["conv1d"]])
    def test_layers_without_rows(self, layers: list[int | str]) -> None:
        theirs, ours = both(kernels if layers == ["conv1d"] else zoo, layers=layers)
        assert len(theirs) == len(ours) == 0
        assert ww.WeightWatcher().get_summary(ours) == {}

    def test_summary(self) -> None:
        theirs, ours = both(zoo)
        watcher = ww.WeightWatcher()
        expected = Incumbent().get_summary(theirs)
        assert list(watcher.get_summary(ours)) == list(expected)
        assert watcher.get_summary(ours) == pytest.approx(expected, rel=1e-6, abs=0.0)

    def test_differences_to_a_base_model(self) -> None:
        theirs = Incumbent(model=zoo(), base_model=zoo(5)).analyze()
        assert_same(theirs, ww.WeightWatcher(model=zoo(), base_model=zoo(5)).analyze())
        assert_same(theirs, ww.WeightWatcher(model=zoo()).analyze(base_model=zoo(5)))

    def test_fingers(self) -> None:
        # The count differs by design: there it is one less than what was dropped.
        theirs, ours = both(zoo, fix_fingers="clip_xmax", finger_thresh=1e9)
        assert_same(theirs, ours)
        assert ours["num_fingers"].tolist() == [0] * len(ours)

    def test_an_array_of_ids(self) -> None:
        # There an array is ignored, and all layers are analysed.
        theirs, ours = both(zoo, layers=[1, 2])[0], ww.WeightWatcher(model=zoo()).analyze(layers=np.array([1, 2]))
        assert_same(theirs, ours)


class TestKernels:
    @pytest.mark.parametrize("method", ["analyze", "describe"])
    @pytest.mark.parametrize("options", [{"pool": False}, {"pool": False, "conv2d_norm": False}, {"ww2x": True}])
    def test_slices(self, method: str, options: dict[str, Any]) -> None:
        theirs, ours = both(kernels, method, **options)
        assert_same(theirs, ours)
        assert ours["slice_id"].tolist() == [*range(9), 0, *range(9)]

    def test_a_model_that_is_a_layer(self) -> None:
        def layer() -> Any:
            return zoo()["conv2d"]

        theirs, ours = both(layer)
        assert_same(theirs, ours)
        assert ours["name"].tolist() == ours["longname"].tolist() == ["Conv2d"]


class TestStateDicts:
    @pytest.mark.parametrize(
        "options", [{}, {"start_ids": 7}, {"layers": [1, 3]}, {"detX": True}, {"min_evals": 50}], ids=str
    )
    def test_every_layer(self, options: dict[str, Any]) -> None:
        assert_same(*both(lambda: dict(zoo().state_dict()), **options))

    @pytest.mark.parametrize("method", ["analyze", "describe"])
    def test_inside_a_checkpoint(self, method: str) -> None:
        assert_same(*both(lambda: {"epoch": 3, "state_dict": dict(zoo().state_dict())}, method))

    def test_aspect_ratios(self) -> None:
        theirs, ours = both(aspect_ratios, mp_fit=True, detX=True)
        assert_same(theirs, ours, searched=SEARCHED)
        assert ours["Q"].round(3).tolist() == [1.0, 1.3, 4.0, 80.0]
        assert ours["layer_id"].tolist() == [1, 2, 3, 4]

    def test_real_model(self, real: dict[str, Any]) -> None:
        theirs, ours = both(lambda: dict(real), mp_fit=True, detX=True)
        assert_same(theirs, ours, searched=SEARCHED, but=MARCHENKO_PASTUR)
        # Of the positions there is no bulk to speak of: no numbers, where there is a start value there.
        assert ours["sigma_mp"].isna().tolist() == [True, False, False, False]
        with_bulk = [frame.iloc[1:].astype({"num_spikes": int}) for frame in (theirs, ours)]
        assert_same(*with_bulk, searched=SEARCHED)
        assert len(ours) == 4  # Two segments are too few, a norm has no matrix: both have a number.
        assert ours["layer_id"].tolist() == [1, 3, 4, 6]

    def test_eigenvectors(self) -> None:
        theirs, ours = both(aspect_ratios, vectors=True)
        assert_same(theirs, ours, but=VECTORS)
        for values, left, right in zip(aspect_ratios().values(), _rows(theirs), _rows(ours), strict=True):
            statistics = eigenvector_statistics(values[None])
            assert isinstance(statistics, EigenvectorStatistics)
            # There rounding decides on which side of xmin its own vector falls.
            beside = divide_at(statistics, right["xmin"] * (1.0 + 1e-6))
            assert any(
                all(left[name] == pytest.approx(found[name], rel=1e-6) for name in VECTORS) for found in (right, beside)
            )


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


N_DRAWS = 8


@pytest.fixture(scope="module")
def draws() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    def one() -> dict[str, Any]:
        return {"only.weight": (heavy_tailed(120, 100, seed=4) / 10.0).astype(np.float32)}

    watcher = Incumbent(model=one())
    theirs = [_rows(watcher.analyze(randomize=True))[0] for _ in range(N_DRAWS)]
    ours = [_rows(ww.WeightWatcher(model=one(), seed=seed).analyze(randomize=True))[0] for seed in range(N_DRAWS)]
    return theirs, ours


class TestRandomize:
    """There every call draws anew: what a permutation cannot change agrees, the rest does in distribution."""

    def test_columns(self, draws: tuple[list[dict[str, Any]], list[dict[str, Any]]]) -> None:
        theirs, ours = draws
        assert list(ours[0]) == list(theirs[0])
        assert all(row["rand_W_scale"] == pytest.approx(theirs[0]["rand_W_scale"], rel=1e-6) for row in ours)

    @pytest.mark.parametrize(
        "name", ["max_rand_eval", "rand_sigma_mp", "rand_mp_softrank", "rand_bulk_max", "ww_softrank", "ww_maxdist"]
    )
    def test_distribution(self, name: str, draws: tuple[list[dict[str, Any]], list[dict[str, Any]]]) -> None:
        left, right = (np.array([row[name] for row in rows]) for rows in draws)
        error = np.sqrt((left.var(ddof=1) + right.var(ddof=1)) / N_DRAWS)
        assert error > 0.0
        assert abs(left.mean() - right.mean()) < 5.0 * error


class TestTwoModels:
    @pytest.mark.parametrize("method", ["raw", "euclidean", "cka"])
    @pytest.mark.parametrize("pool", [True, False])
    def test_distances(self, method: str, pool: bool) -> None:
        theirs = Incumbent().distances(zoo(), zoo(5), method=method, pool=pool)
        ours = ww.WeightWatcher().distances(zoo(), zoo(5), method=method, pool=pool)
        assert ours[:2] == pytest.approx([float(value) for value in theirs[:2]], rel=1e-6)
        assert_same(theirs[2].reset_index(), ours[2].reset_index())
        assert ours[2].index.name == theirs[2].index.name == "layer_id"

    def test_some_layers(self) -> None:
        theirs = Incumbent().distances(zoo(), zoo(5), layers=[1, 2])
        ours = ww.WeightWatcher().distances(zoo(), zoo(5), layers=[1, 2])
        assert_same(theirs[2].reset_index(), ours[2].reset_index())
        assert len(ours[2]) == 2


class TestOneLayer:
    @pytest.mark.parametrize("layer", [1, "linear", "embedding", "conv2d", "conv2d_grouped", "c_attn", "tied"])
    def test_spectrum_and_weights(self, layer: int | str) -> None:
        theirs, ours = both(zoo, "get_ESD", layer=layer)
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
        theirs, ours = both(zoo, "get_Weights", layer=layer)
        assert len(ours) == len(theirs)
        for left, right in zip(theirs, ours, strict=True):
            np.testing.assert_array_equal(right, left)
            assert right.dtype == left.dtype
        theirs, ours = both(zoo, "get_framework_layer", layer=layer)
        assert str(ours) == str(theirs)

    def test_slices_of_a_wide_kernel(self) -> None:
        theirs, ours = both(
            lambda: {"wide.weight": torch.arange(12.0 * 21 * 9).reshape(12, 21, 3, 3)}, "get_Weights", layer=1
        )
        assert [block.shape for block in ours] == [(21, 12)] * 9
        np.testing.assert_array_equal(ours, theirs)

    @pytest.mark.parametrize("layer", ["linear", "conv2d"])
    def test_random_spectrum(self, layer: str) -> None:
        theirs, ours = both(zoo, "get_ESD", layer=layer, random=True)
        assert len(ours) == len(theirs)
        assert np.all(np.diff(ours) >= 0.0)
        assert float(np.sum(ours)) == pytest.approx(float(np.sum(theirs)), rel=1e-6)  # ‖W‖² of every replica.

    @pytest.mark.parametrize("thresh", [1e-5, 1.5])
    def test_power_law_of_numbers(self, thresh: float) -> None:
        evals = np.sort(1.0 + np.random.default_rng(1).pareto(2.0, 300))
        theirs, ours = both(zoo, "fit_powerlaw", evals=evals, plot=False, thresh=thresh)
        assert len(ours) == len(theirs) == 11
        for place in (0, 2, 3, 4, 5, 6, 7, 9, 10):
            assert ours[place] == (theirs[place] if isinstance(theirs[place], str) else pytest.approx(theirs[place]))

    def test_vectors(self) -> None:
        vectors = np.random.default_rng(2).normal(size=(4, 50))
        theirs, ours = both(zoo, "vector_metrics", vectors=vectors)
        assert list(ours.columns) == list(theirs.columns)
        for name in ("length", "entropy", "discete_entropy", "localization_ratio", "participation_ratio"):
            np.testing.assert_allclose(ours[name].astype(float), theirs[name].astype(float), rtol=1e-9)


class TestSmoothing:
    @pytest.mark.parametrize("method", [ww.SVD, ww.DETX, ww.RMT, ww.LAMBDA_MIN])
    def test_every_layer(self, method: str) -> None:
        theirs, ours = both(zoo, "SVDSmoothing", method=method, percent=0.4)
        changed = 0
        before = zoo().state_dict()
        for name, expected in theirs.state_dict().items():
            # Its truncation is a randomised one, and inexact.
            difference = torch.linalg.vector_norm(ours.state_dict()[name] - expected)
            assert difference <= 0.01 * torch.linalg.vector_norm(expected), name
            changed += not torch.equal(expected, before[name])
        assert changed >= 8
