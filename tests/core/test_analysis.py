"""The front door: options, records, tables, and trouble in single layers."""

from __future__ import annotations

import math
import pickle
import pkgutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import spectral
from spectral.analysis import AnalysisOptions, LayerAnalysis, analyze, describe
from spectral.description import EXCLUDED_BY_OPTION
from spectral.errors import ModelError, OptionError, SpectralError
from spectral.fits import FitFailure
from spectral.metrics import LAYER_METRICS
from spectral.power_law import PowerLawFit
from spectral.spectrum import Spectrum, SpectrumFailure
from tests.core.builders import analyze_one, heavy_tailed, write_safetensors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray


def troubled() -> dict[str, NDArray[Any]]:
    """One good layer, and one of every kind of trouble."""
    nan, inf = heavy_tailed(60, 50, seed=1), heavy_tailed(60, 50, seed=2)
    nan[3, 4] = np.nan
    inf[5, 6] = -np.inf
    return {
        "good.weight": heavy_tailed(80, 60),
        "nan.weight": nan,
        "inf.weight": inf,
        "zero.weight": np.zeros((60, 50)),
        "constant.weight": np.full((60, 50), 0.25),
        "few.weight": heavy_tailed(60, 49),
        "huge.weight": np.full((60, 50), 1e200),
        "tiny.weight": np.full((60, 50), 1e-200),
        "small.weight": heavy_tailed(60, 50) * 1e-9,
        "equal.weight": np.eye(60),
        "empty.weight": np.ones((0, 50)),
        "vector.bias": np.ones(60),
        "scalar": np.array(3.0),
    }


class TestTroubleStaysInItsLayer:
    @pytest.mark.parametrize(
        ("name", "status", "reason"),
        [
            ("good", "success", None),
            ("nan", "failed", "1 of 3000 values are NaN or infinite, the first at nan.weight[3, 4]"),
            ("inf", "failed", "1 of 3000 values are NaN or infinite, the first at inf.weight[5, 6]"),
            ("zero", "failed", "all 3000 values are zero"),
            ("constant", "skipped", "1 eigenvalues above 1e-05, at least 8 are needed for a fit"),
            ("few", "skipped", "49 eigenvalues, at least 50 are needed for a fit"),
            ("huge", "failed", "the squares of the values exceed the range of float64"),
            ("tiny", "failed", "the squares of the values vanish in the range of float64"),
            ("small", "skipped", "0 eigenvalues above 1e-05, at least 8 are needed for a fit"),
            ("equal", "failed", "all eigenvalues in the tail are equal"),
        ],
    )
    def test_status_and_reason(self, name: str, status: str, reason: str | None) -> None:
        layers = {layer.name: layer for layer in analyze(troubled(), min_evals=50).layers}
        layer = layers[name]
        assert (layer.status, layer.reason) == (status, reason)
        assert isinstance(layer.fit, PowerLawFit if reason is None else FitFailure)
        assert not any(math.isnan(value) or math.isinf(value) for value in layer.metrics.values())
        assert ("alpha" in layer.metrics) is (reason is None)
        has_spectrum = name not in ("nan", "inf", "zero", "huge", "tiny")
        assert isinstance(layer.spectrum, Spectrum if has_spectrum else SpectrumFailure)
        assert bool(layer.metrics) is has_spectrum
        if reason is not None:
            assert layer.warning == ""

    def test_the_good_layer_is_as_if_alone(self) -> None:
        (alone,) = analyze({"good.weight": troubled()["good.weight"]}, min_evals=50).layers
        together = analyze(troubled(), min_evals=50).layers[0]
        assert together.metrics == alone.metrics
        assert together.content_hash == alone.content_hash

    def test_coverage_adds_up(self) -> None:
        analysis = analyze(troubled(), min_evals=50)
        n_values = {name: values.size for name, values in troubled().items()}
        n_analysed = sum(n_values[layer.spec.tensor] for layer in analysis.layers)
        assert analysis.coverage == n_analysed / sum(n_values.values())
        assert n_analysed == sum(n_values.values()) - 60 - 1
        assert [(item.name, item.reason) for item in analysis.unanalysed] == [("empty.weight", "an empty tensor")]
        assert {layer.spec.tensor for layer in analysis.layers} | {"empty.weight", "vector.bias", "scalar"} == {
            *troubled()
        }

    def test_table(self) -> None:
        details = analyze(troubled(), min_evals=50).details.set_index("longname")
        assert len(details) == 10
        assert details.loc["nan", ["alpha", "norm"]].isna().all()
        assert str(details.loc["nan", "reason"]).startswith("1 of 3000")
        assert (details.loc["good", "reason"], details.loc["good", "status"]) == ("", "success")
        assert set(LAYER_METRICS) < set(details.columns)
        assert details.columns.is_unique

    def test_summary_leaves_out_what_is_not_there(self) -> None:
        analysis = analyze(troubled(), min_evals=50)
        (good,) = [layer for layer in analysis.layers if layer.status == "success"]
        assert analysis.summary["alpha"] == good.metrics["alpha"]
        norms = [
            layer.metrics["log_norm"]
            for layer in analysis.layers
            if "log_norm" in layer.metrics and layer.spec.n_evals >= 50
        ]
        assert len(norms) == 4
        assert analysis.summary["log_norm"] == pytest.approx(np.mean(norms))

    def test_nothing_but_trouble(self) -> None:
        analysis = analyze({"zero.weight": np.zeros((60, 50))})
        assert analysis.summary == {}
        assert len(analysis.details) == 1

    def test_no_matrix_at_all(self) -> None:
        analysis = analyze({"b": np.ones(5)})
        assert (analysis.layers, analysis.summary, analysis.coverage, len(analysis.details)) == ((), {}, 0.0, 0)
        assert "alpha" in analysis.details.columns

    def test_in_a_file_too(self, tmp_path: Path) -> None:
        tensors = {
            name: values.astype(np.float32) for name, values in troubled().items() if name[:4] not in ("huge", "tiny")
        }
        layers = {layer.name: layer for layer in analyze(write_safetensors(tmp_path / "m.safetensors", tensors)).layers}
        assert layers["nan"].reason == "1 of 3000 values are NaN or infinite, the first at nan.weight[3, 4]"
        assert layers["good"].status == "success"

    @pytest.mark.parametrize(
        ("values", "is_constant"),
        [
            (np.full((9, 9), 0.5), True),
            (np.zeros((9, 9)), True),
            (np.full((9, 9), np.nan), False),
            (np.append(np.full(80, 0.5), 0.6).reshape(9, 9), False),
            (np.arange(81.0).reshape(9, 9), False),
        ],
        ids=["constant", "zero", "nan", "last differs", "ramp"],
    )
    def test_constant(self, values: NDArray[np.float64], is_constant: bool) -> None:
        assert analyze_one(values).is_constant is is_constant


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"fit": "XPL"}, r"^fit must be one of 'PL', .*, got 'XPL'$"),
            ({"min_eval": 5}, r"^no option 'min_eval'; did you mean 'min_evals'\?$"),
            ({"min_evals": 1}, r"^min_evals must be an integer of at least 2, got 1$"),
            ({"min_evals": 50.0}, r"^min_evals must be an integer of at least 2, got 50\.0$"),
            ({"min_evals": True}, r"^min_evals must be an integer of at least 2, got True$"),
            ({"exclude": "fc*"}, r"^exclude must be a sequence of patterns, got the string 'fc\*'$"),
            ({"exclude": [3]}, r"^exclude must hold patterns as text, got \(3,\)$"),
        ],
    )
    @pytest.mark.parametrize("function", [analyze, describe])
    def test_impossible(self, function: Callable[..., object], options: dict[str, Any], match: str) -> None:
        with pytest.raises(OptionError, match=match):
            function({"w": np.ones((4, 4))}, **options)

    @pytest.mark.parametrize("n_workers", [0, -1])
    def test_impossible_workers(self, n_workers: int) -> None:
        with pytest.raises(OptionError, match=rf"^n_workers must be an integer of at least 1, got {n_workers}$"):
            analyze({"w": np.ones((4, 4))}, n_workers=n_workers)

    def test_exclude(self) -> None:
        model = {"a.fc.weight": heavy_tailed(60, 50), "b.fc.weight": heavy_tailed(60, 50), "b.fc.bias": np.ones(60)}
        analysis = analyze(model, exclude=(pattern for pattern in ("a.*", "c")))
        assert [layer.name for layer in analysis.layers] == ["b.fc"]
        assert [(item.name, item.reason) for item in analysis.unanalysed] == [("a.fc.weight", EXCLUDED_BY_OPTION)]
        # What was left out on purpose is neither covered nor missing.
        assert analysis.coverage == 3000 / 3060
        assert analyze(model, exclude=["*"]).coverage == 0.0

    def test_min_evals_holds_for_fit_and_summary(self) -> None:
        model = {"small.weight": heavy_tailed(60, 40), "large.weight": heavy_tailed(60, 50)}
        small, large = analyze(model, min_evals=50).layers
        assert (small.status, large.status) == ("skipped", "success")
        assert analyze(model, min_evals=50).summary["log_norm"] == large.metrics["log_norm"]
        assert {layer.status for layer in analyze(model, min_evals=40).layers} == {"success"}

    def test_a_description_keeps_its_options(self) -> None:
        description = describe({"w": heavy_tailed(60, 40)}, min_evals=50)
        assert analyze(description).layers[0].status == "skipped"
        assert analyze(description, min_evals=50).description is description
        with pytest.raises(OptionError, match=r"^a Description has its options already: give them to describe\(\)"):
            analyze(description, min_evals=20)

    def test_frozen(self) -> None:
        with pytest.raises(AttributeError, match=r"cannot assign to field 'min_evals'"):
            AnalysisOptions().min_evals = 3  # type: ignore[misc]


class TestDescription:
    def test_agrees_with_the_analysis(self) -> None:
        model = {"fc.weight": heavy_tailed(60, 50), "conv.weight": heavy_tailed(20, 30, 3, 3), "b": np.ones(3)}
        description, analysis = describe(model), analyze(model)
        columns = list(description.details.columns)
        assert columns == ["layer_id", "name", "longname", "layer_type", "N", "M", "rf", "Q", "num_evals"]
        assert description.details.equals(analysis.details[columns])
        assert description.coverage == analysis.coverage
        assert (description.matrices, description.unanalysed) == (tuple(x.spec for x in analysis.layers), ())

    def test_reads_no_values(self) -> None:
        class Headers:
            label = "headers"

            def tensors(self) -> tuple[spectral.loaders.TensorInfo, ...]:
                return (spectral.loaders.TensorInfo(name="w.weight", shape=(10**6, 10**6), dtype="float32"),)

            def load(self, name: str) -> NDArray[Any]:
                raise AssertionError(f"the values of {name} were read")

        assert describe(Headers()).details["num_evals"].tolist() == [10**6]


class TestRecord:
    def test_hash_tells_values_types_and_shapes_apart(self) -> None:
        values = heavy_tailed(6, 4).astype(np.float32)
        variants: list[NDArray[Any]] = [
            values,
            values.reshape(4, 6),
            values.astype(np.float64),
            values + np.float32(1e-3),
            np.where(np.arange(24).reshape(6, 4) == 3, -values, values),
        ]
        assert len({analyze_one(variant).content_hash for variant in variants}) == len(variants)
        assert analyze_one(values).content_hash == analyze_one(values.copy(), name="other").content_hash

    def test_negative_zero_differs(self) -> None:
        one, two = np.eye(4), np.where(np.eye(4) == 0, -0.0, 1.0)
        assert analyze_one(one).content_hash != analyze_one(two).content_hash

    def test_metrics_are_read_only_before_and_after_pickling(self) -> None:
        layer = analyze_one(heavy_tailed(60, 50))
        copy: LayerAnalysis = pickle.loads(pickle.dumps(layer))
        assert dict(copy.metrics) == dict(layer.metrics)
        assert (copy.spec, copy.fit, copy.content_hash) == (layer.spec, layer.fit, layer.content_hash)
        for record in (layer, copy):
            with pytest.raises(TypeError, match=r"does not support item assignment"):
                record.metrics["alpha"] = 3.0  # type: ignore[index]

    @pytest.mark.parametrize(("degrees", "warning"), [(1.0, "over-trained"), (100.0, "under-trained")])
    def test_warning(self, degrees: float, warning: str) -> None:
        assert analyze_one(heavy_tailed(200, 200, degrees=degrees)).warning == warning


class TestPackage:
    def test_every_public_name_loads(self) -> None:
        assert sorted(spectral.__all__) == list(spectral.__all__)
        assert {*spectral.__all__} == {*spectral._HOMES}
        for name in spectral.__all__:
            assert getattr(spectral, name) is not None
        assert {*spectral.__all__} <= {*dir(spectral)}

    def test_no_public_name_is_that_of_a_module(self) -> None:
        """Once such a module is imported, the package has it under that name, and the function is gone."""
        modules = {module.name for module in pkgutil.iter_modules(spectral.__path__)}
        assert not modules & {*spectral.__all__}

    def test_no_other_name(self) -> None:
        with pytest.raises(AttributeError, match=r"^module 'spectral' has no attribute 'nothing'$"):
            spectral.nothing  # noqa: B018

    def test_errors_have_one_base(self) -> None:
        assert issubclass(ModelError, SpectralError)
        assert issubclass(OptionError, (SpectralError, ValueError))

    @pytest.mark.parametrize(
        ("statement", "forbidden"),
        [
            ("import spectral", "numpy pandas torch scipy matplotlib threadpoolctl ml_dtypes"),
            ("import spectral; dir(spectral); spectral.__version__", "numpy pandas torch scipy"),
            (
                (
                    "import pkgutil, importlib, spectral; [importlib.import_module(m.name) for m in "
                    "pkgutil.walk_packages(spectral.__path__, 'spectral.')]; assert 'spectral.loaders.torch_tensor' in "
                    "__import__('sys').modules"
                ),
                "torch tensorflow keras matplotlib scipy pandas weightwatcher",
            ),
            (
                "import spectral, numpy; spectral.analyze({'w': numpy.random.default_rng(0).random((60, 50))}).summary",
                "torch tensorflow keras matplotlib pandas weightwatcher",
            ),
        ],
        ids=["package", "names", "all modules", "analysis"],
    )
    def test_imports(self, statement: str, forbidden: str) -> None:
        code = f"{statement}\nimport sys\nprint(*sorted(set({forbidden.split()!r}) & set(sys.modules)))"
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert ran.stdout.strip() == ""


def test_torch_is_not_needed_for_the_real_model(minilm: Path) -> None:
    assert "torch" in sys.modules  # by this test module
    assert torch is not None
    code = f"import sys, spectral; a = spectral.analyze({str(minilm)!r}); print(len(a.layers), 'torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["40", "False"]
