"""Ours beside the incumbent's, run live: the same numbers where it is right, better ones where it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from spectral.analysis import Analysis, analyze
from spectral.fits import FitFailure, FitFailureReason
from tests.core.builders import heavy_tailed, with_singular_values
from tests.core.oracle import OracleResult, module_tree, oracle_rows, run_oracle, with_weights

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

FLOATS = (
    "alpha",
    "xmin",
    "xmax",
    "D",
    "sigma",
    "norm",
    "log_norm",
    "spectral_norm",
    "log_spectral_norm",
    "stable_rank",
    "entropy",
    "alpha_weighted",
    "log_alpha_norm",
    "lambda_max",
    "sv_max",
    "sv_min",
    "Q",
)
INTEGERS = ("num_pl_spikes", "matrix_rank", "rank_loss", "weak_rank_loss", "num_evals", "N", "M", "rf")
TEXTS = ("name", "longname", "layer_type", "warning")
TOLERANCE = 1e-6


def rows_of(analysis: Analysis, names: list[str]) -> pd.DataFrame:
    return analysis.details.set_index("longname", drop=False).loc[names]


def check_floats(ours: pd.DataFrame, theirs: pd.DataFrame, column: str) -> None:
    np.testing.assert_allclose(
        ours[column].to_numpy(dtype=np.float64), theirs[column].to_numpy(dtype=np.float64), rtol=TOLERANCE, atol=0.0
    )


@pytest.fixture(scope="module")
def real_theirs(minilm: Path) -> OracleResult:
    return run_oracle(module_tree(load_file(minilm)))


@pytest.fixture(scope="module")
def real_ours(minilm: Path) -> Analysis:
    return analyze(minilm)


class TestRealModel:
    """all-MiniLM-L6-v2."""

    def test_rows(self, real_ours: Analysis, real_theirs: OracleResult) -> None:
        assert len(real_theirs.details) == 39
        # Two eigenvalues only: below the incumbent's least, so that it drops the row; here it says why.
        (extra,) = set(real_ours.details["longname"]) - set(real_theirs.details["longname"])
        assert extra == "embeddings.token_type_embeddings"
        (layer,) = [layer for layer in real_ours.layers if layer.name == extra]
        assert layer.reason == "2 eigenvalues, at least 8 are needed for a fit"

    @pytest.mark.parametrize("column", FLOATS)
    def test_float(self, column: str, real_ours: Analysis, real_theirs: OracleResult) -> None:
        check_floats(rows_of(real_ours, list(real_theirs.details.index)), real_theirs.details, column)

    @pytest.mark.parametrize("column", [*INTEGERS, *TEXTS])
    def test_exact(self, column: str, real_ours: Analysis, real_theirs: OracleResult) -> None:
        ours = rows_of(real_ours, list(real_theirs.details.index))
        assert ours[column].tolist() == real_theirs.details[column].tolist()

    def test_summary(self, real_ours: Analysis, real_theirs: OracleResult) -> None:
        assert list(real_ours.summary) == list(real_theirs.summary)
        assert real_ours.summary == pytest.approx(real_theirs.summary, rel=TOLERANCE, abs=0.0)


def _linear(out: int, into: int, seed: int) -> tuple[Any, Any]:
    return torch.nn.Linear(into, out), heavy_tailed(out, into, seed=seed) / np.sqrt(into)


def _conv2d(out: int, into: int, kernel: int | tuple[int, int], seed: int) -> tuple[Any, Any]:
    layer = torch.nn.Conv2d(into, out, kernel)
    return layer, heavy_tailed(*layer.weight.shape, seed=seed) / np.sqrt(into)


def _conv1d(out: int, into: int, kernel: int, seed: int) -> tuple[Any, Any]:
    return torch.nn.Conv1d(into, out, kernel), heavy_tailed(out, into, kernel, seed=seed) / np.sqrt(into)


CONV1D = {
    "narrow": (_conv1d, (40, 24, 5)),
    "wide": (_conv1d, (24, 40, 3)),
    "square": (_conv1d, (30, 30, 7)),
    "pointwise": (_conv1d, (64, 32, 1)),
    "few": (_conv1d, (12, 3, 3)),
}


def cnn() -> Any:
    """Convolutions, linear layers and an embedding, large and small, wide, tall and square."""
    return with_weights(
        {
            "stem": _conv2d(32, 3, 3, 1),
            "tall": _conv2d(64, 24, 3, 2),
            "wide": _conv2d(24, 64, 3, 3),
            "pointwise": _conv2d(48, 96, 1, 4),
            "oblong": _conv2d(20, 20, (1, 5), 5),
            "tiny": _conv2d(8, 4, 2, 6),
            "fc_square": _linear(128, 128, 7),
            "fc_wide": _linear(100, 300, 8),
            "fc_tall": _linear(300, 100, 9),
            "fc_19": _linear(19, 40, 10),
            "fc_20": _linear(20, 40, 11),
            "fc_12": _linear(64, 12, 12),
            "fc_9": _linear(9, 9, 13),
            "fc_8": _linear(8, 30, 14),
            "table": (torch.nn.Embedding(300, 60), heavy_tailed(300, 60, seed=15)),
        }
    )


@pytest.fixture(scope="module")
def cnn_theirs() -> OracleResult:
    return run_oracle(cnn())


@pytest.fixture(scope="module")
def cnn_ours() -> Analysis:
    return analyze(cnn())


class TestConvolutionalNetwork:
    """A torch network with heavy-tailed weights."""

    def test_rows(self, cnn_ours: Analysis, cnn_theirs: OracleResult) -> None:
        assert set(cnn_theirs.details.index) == set(cnn_ours.details["longname"])
        assert len(cnn_ours.layers) == 15

    @pytest.mark.parametrize("column", FLOATS)
    def test_float(self, column: str, cnn_ours: Analysis, cnn_theirs: OracleResult) -> None:
        check_floats(rows_of(cnn_ours, list(cnn_theirs.details.index)), cnn_theirs.details, column)

    @pytest.mark.parametrize("column", [*INTEGERS, *TEXTS])
    def test_exact(self, column: str, cnn_ours: Analysis, cnn_theirs: OracleResult) -> None:
        ours = rows_of(cnn_ours, list(cnn_theirs.details.index))
        assert ours[column].tolist() == cnn_theirs.details[column].tolist()

    def test_summary(self, cnn_ours: Analysis, cnn_theirs: OracleResult) -> None:
        assert cnn_ours.summary == pytest.approx(cnn_theirs.summary, rel=TOLERANCE, abs=0.0)


class TestConv1d:
    """The incumbent cannot do kernels of three dimensions; the same values as a (k, 1) kernel are its word on them."""

    @pytest.mark.parametrize(("kernel", "n_rows"), [(5, 0), (9, 1)], ids=["passed over", "wrong matrix"])
    def test_the_incumbent_cannot(self, kernel: int, n_rows: int) -> None:
        """It takes the shortest axis, the kernel, for M: too short and there is no row, else one of another matrix."""
        model = with_weights({"conv": _conv1d(40, 24, kernel, 0)})
        rows = oracle_rows(model)
        assert len(rows) == n_rows
        assert [row["num_evals"] for row in rows] == [kernel] * n_rows
        (layer,) = analyze(model).layers
        assert layer.status == "success"
        assert layer.metrics["num_evals"] == 24 * kernel

    @pytest.mark.parametrize("case", CONV1D)
    def test_equals_the_flat_kernel(self, case: str) -> None:
        build, (out, into, kernel) = CONV1D[case]
        layer, values = build(out, into, kernel, 21)
        flat = with_weights({"conv": (torch.nn.Conv2d(into, out, (kernel, 1)), values[..., None])})
        theirs = run_oracle(flat, conv2d_norm=False).details
        analysis = analyze(with_weights({"conv": (layer, values)}))
        assert analysis.details["layer_type"].tolist() == ["conv1d"]
        ours = rows_of(analysis, ["conv"])
        for column in FLOATS:
            check_floats(ours, theirs, column)
        for column in (*INTEGERS, "name", "longname", "warning"):
            assert ours[column].tolist() == theirs[column].tolist(), column


class TestWhereTheIncumbentIsWrong:
    """Ours right, beside its wrong."""

    @pytest.mark.parametrize(
        ("broken", "reason", "their_alpha", "their_warning"),
        [
            (np.eye(64), FitFailureReason.NO_SPREAD, np.inf, "under-trained"),
            (heavy_tailed(64, 64, seed=3) * 1e-8, FitFailureReason.TOO_FEW_EIGENVALUES, -1.0, "over-trained"),
        ],
        ids=["equal eigenvalues", "all eigenvalues below the threshold"],
    )
    def test_failed_fit_is_a_reason_and_enters_no_mean(
        self, broken: Any, reason: FitFailureReason, their_alpha: float, their_warning: str
    ) -> None:
        model = with_weights({"good": _linear(128, 100, 1), "broken": (torch.nn.Linear(64, 64), broken)})
        theirs = run_oracle(model)
        ours = analyze(model)
        assert theirs.value("broken", "alpha") == their_alpha
        assert theirs.details.loc["broken", "warning"] == their_warning
        alpha = theirs.value("good", "alpha")
        assert theirs.summary["alpha"] == pytest.approx((alpha + their_alpha) / 2)
        good, failed = ours.layers
        assert isinstance(failed.fit, FitFailure)
        assert failed.fit.reason is reason
        assert (failed.warning, "alpha" in failed.metrics) == ("", False)
        assert good.metrics["alpha"] == pytest.approx(alpha, rel=TOLERANCE)
        assert ours.summary["alpha"] == pytest.approx(alpha, rel=TOLERANCE)

    def test_one_nan_does_not_end_the_run(self) -> None:
        weights = heavy_tailed(64, 64, seed=3)
        weights[5, 7] = np.nan
        model = with_weights({"good": _linear(128, 100, 1), "broken": (torch.nn.Linear(64, 64), weights)})
        with pytest.raises(Exception, match=r"(?i)nan|inf"):
            run_oracle(model)
        good, broken = analyze(model).layers
        assert good.status == "success"
        assert broken.reason == "1 of 4096 values are NaN or infinite, the first at broken.weight[5, 7]"

    def test_rounding_noise_around_one_value_is_no_tail(self) -> None:
        weights = with_singular_values(np.ones(100), 200, 100)
        (layer,) = analyze({"layer.weight": weights}).layers
        theirs = run_oracle(with_weights({"layer": (torch.nn.Linear(100, 200), weights)})).value("layer", "alpha")
        assert theirs > 1e5
        assert isinstance(layer.fit, FitFailure)
        assert layer.fit.reason is FitFailureReason.NO_SPREAD
