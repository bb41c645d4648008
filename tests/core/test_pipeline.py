"""Every option through the front door: its columns, its reasons, and the same bits in any order."""

from __future__ import annotations

import pickle
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from spectral.analysis import Analysis, analyze, describe
from spectral.columns import METRICS_BY_OPTION
from spectral.errors import OptionError
from spectral.forms import FormOptions, compute_formed_spectrum
from spectral.layer_analysis import LayerAnalysis
from spectral.loaders.memory import open_mapping
from spectral.marchenko_pastur import MarchenkoPasturFit
from spectral.options import AnalysisOptions
from spectral.power_law import PowerLawFit
from spectral.spectrum import Spectrum, SpectrumFailure
from spectral.truncated_power_law import TruncatedPowerLawFit
from spectral.weights import as_weight_matrix
from tests.core.builders import heavy_tailed, spec_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

EVERYTHING: dict[str, Any] = {
    "mp_fit": True,
    "vectors": True,
    "randomize": True,
    "detX": True,
    "noise_test": True,
    "traps": True,
    "farms": True,
    "bootstrap": 20,
    "goodness_of_fit": 20,
    "compare_tails": True,
}

RUN_WIDE = {"noise_test": ["noise_p_value_run"], "traps": ["trap_p_value_run", "num_tw_traps"]}


def model(seed: int = 0) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    return {
        "embed.weight": rng.standard_normal((120, 40)).astype(np.float32),
        "fc.weight": heavy_tailed(90, 60, seed=seed).astype(np.float32),
        "wide.weight": heavy_tailed(50, 150, seed=seed + 1),
        "conv.weight": rng.standard_normal((40, 34, 3, 3)).astype(np.float32),
        "half.weight": rng.standard_normal((64, 64)).astype(np.float16),
    }


def trapped() -> dict[str, NDArray[Any]]:
    tensors = model()
    tensors["fc.weight"] = np.random.default_rng(1).standard_normal((90, 60)).astype(np.float32)
    tensors["fc.weight"][7, 11] = 60.0
    return tensors


def numbers(analysis: Analysis) -> dict[str, dict[str, float]]:
    return {layer.name: dict(layer.metrics) for layer in analysis.layers}


class TestColumns:
    @pytest.mark.parametrize("option", EVERYTHING)
    def test_an_option_adds_its_columns_and_no_others(self, option: str) -> None:
        plain = analyze(model()).details
        with_option = analyze(model(), **{option: EVERYTHING[option]}).details
        expected = [*METRICS_BY_OPTION[option], *RUN_WIDE.get(option, ())]
        added = [name for name in with_option.columns if name not in set(plain.columns)]
        assert sorted(added) == sorted(expected)
        assert with_option[list(expected)].notna().any(axis=None)
        common = [name for name in plain.columns if name != "reason"]
        assert with_option[common].equals(plain[common])

    def test_every_number_is_there_or_has_a_reason(self) -> None:
        analysis = analyze(model(), **EVERYTHING)
        for layer in analysis.layers:
            for option in EVERYTHING:
                missing = [name for name in METRICS_BY_OPTION[option] if name not in layer.metrics]
                assert not missing or option in layer.reasons or option == "vectors", (layer.name, option, missing)
        assert all(np.isfinite(value) for metrics in numbers(analysis).values() for value in metrics.values())

    @pytest.mark.parametrize("option", EVERYTHING)
    def test_no_spectrum_no_numbers_but_a_reason(self, option: str) -> None:
        tensors = {"bad.weight": np.full((30, 30), np.nan), "good.weight": heavy_tailed(60, 50)}
        analysis = analyze(tensors, **{option: EVERYTHING[option]})
        bad = analysis.layers[0]
        assert dict(bad.metrics) == {}
        assert set(bad.reasons.values()) == {bad.reason}
        assert analysis.details["reason"][0] == bad.reason

    def test_truncated_law(self) -> None:
        analysis = analyze(model(), fit="TPL")
        fits = [layer.fit for layer in analysis.layers if isinstance(layer.fit, TruncatedPowerLawFit)]
        assert fits
        assert analysis.details["Lambda"].notna().sum() == len(fits)
        assert "Lambda" not in analyze(model()).details

    def test_fingers(self) -> None:
        details = analyze(model(), fix_fingers="clip_xmax").details
        assert details["num_fingers"].notna().any()
        assert (details["raw_alpha"].dropna() >= details["alpha"][details["raw_alpha"].notna()]).all()

    def test_slices(self) -> None:
        analysis = analyze(model(), pool=False)
        slices = analysis.details[analysis.details["longname"] == "conv"]
        assert slices["slice_id"].tolist() == list(range(9))
        assert slices["num_evals"].tolist() == [34] * 9
        assert analysis.coverage == 1.0
        assert "slice_id" not in analyze(model()).details


class TestForms:
    def test_stacked(self) -> None:
        analysis = analyze(model(), stacked=True)
        assert [layer.spec.layer_type.value for layer in analysis.layers] == ["stacked"]
        assert isinstance(analysis.layers[0].spectrum, Spectrum)

    def test_intra(self) -> None:
        tensors = {"a.weight": heavy_tailed(40, 60), "b.weight": heavy_tailed(60, 50), "c.weight": heavy_tailed(50, 30)}
        analysis = analyze(tensors, intra=True, sparsify=False)
        assert [layer.name for layer in analysis.layers] == ["0 X 1", "1 X 2"]

    def test_inverse(self) -> None:
        plain, inverse = (analyze(model(), inverse=flag).layers[1].spectrum for flag in (False, True))
        assert isinstance(plain, Spectrum)
        assert isinstance(inverse, Spectrum)
        assert inverse.evals == pytest.approx(1.0 / plain.evals[::-1], rel=1e-12)

    def test_limits_are_listed(self) -> None:
        analysis = analyze(model(), max_N=100, max_evals=200)
        assert [layer.name for layer in analysis.layers] == ["fc", "half"]
        reasons = {tensor.name: tensor.reason for tensor in analysis.unanalysed}
        assert reasons["embed.weight"] == "N = 120 is above max_N = 100"
        assert reasons["conv.weight"] == "306 eigenvalues, more than max_evals = 200"
        assert 0.0 < analysis.coverage < 1.0

    def test_layers(self) -> None:
        analysis = analyze(model(), layers=["dense", "-half"])
        assert [layer.name for layer in analysis.layers] == ["fc", "wide"]
        assert analysis.coverage == 1.0
        with pytest.raises(OptionError, match=r"^layers: 'wid' matches no layer; close to it: wide"):
            describe(model(), layers=["wid"])


class TestTwoModels:
    def test_deltas(self) -> None:
        tensors, base = model(), model()
        base["fc.weight"] = base["fc.weight"] + np.float32(1.0)
        base["wide.weight"] = base["wide.weight"] * 1.5
        analysis = analyze(tensors, base_model=base, traps=True)
        by_name = {layer.name: layer for layer in analysis.layers}
        assert by_name["embed"].reason == "all 4800 values are zero"
        assert by_name["fc"].metrics["norm"] == pytest.approx(90 * 60, rel=1e-6)
        alone = analyze({"wide.weight": -0.5 * tensors["wide.weight"]}).layers[0]
        assert by_name["wide"].metrics["alpha"] == pytest.approx(alone.metrics["alpha"], rel=1e-9)

    def test_adapter(self) -> None:
        rng = np.random.default_rng(0)
        a, b = rng.standard_normal((16, 80)), rng.standard_normal((60, 16))
        adapter = {"q.lora_A.weight": a, "q.lora_B.weight": b}
        (layer,) = analyze(adapter_of(adapter), randomize=True, mp_fit=True).layers
        assert isinstance(layer.spectrum, Spectrum)
        expected = np.linalg.svd(0.5 * b @ a, compute_uv=False)[:16][::-1] ** 2
        assert layer.spectrum.evals == pytest.approx(expected, rel=1e-9)
        assert layer.metrics["rank_loss"] == 0
        (dense,) = analyze({"q.weight": 0.5 * b @ a}).layers
        assert layer.metrics["norm"] == pytest.approx(dense.metrics["norm"], rel=1e-9)

    @pytest.mark.parametrize("value", [np.nan, 0.0])
    def test_adapter_in_trouble(self, value: float) -> None:
        adapter = {"q.lora_A.weight": np.full((16, 80), value), "q.lora_B.weight": np.ones((60, 16))}
        (layer,) = analyze(adapter_of(adapter)).layers
        assert layer.reason == (
            "all 4800 values are zero"
            if value == 0.0
            else "4800 of 4800 values are NaN or infinite, the first at q.lora_BA.weight[0, 0]"
        )


def adapter_of(tensors: dict[str, NDArray[Any]]) -> Any:
    from spectral.adapters import adapter_source

    return adapter_source(tensors, scaling=0.5)


class TestDeterminism:
    def test_same_bits_on_any_number_of_workers_and_twice(self) -> None:
        first = numbers(analyze(model(), n_workers=1, **EVERYTHING))
        assert numbers(analyze(model(), n_workers=2, **EVERYTHING)) == first
        assert numbers(analyze(model(), n_workers=1, **EVERYTHING)) == first

    def test_same_bits_in_any_order_of_layers(self) -> None:
        tensors = model()
        turned = dict(reversed(tensors.items()))
        assert numbers(analyze(turned, **EVERYTHING)) == numbers(analyze(tensors, **EVERYTHING))

    def test_same_bits_whatever_else_is_analysed(self) -> None:
        alone = numbers(analyze(model(), layers=["fc"], **EVERYTHING))["fc"]
        assert numbers(analyze(model(), **EVERYTHING))["fc"] == alone

    def test_same_bits_in_another_process(self) -> None:
        here = numbers(analyze(model(), traps=True, randomize=True))
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
            assert numbers(analyze(model(), traps=True, randomize=True, executor=executor)) == here

    def test_the_seed_decides(self) -> None:
        first, other = (analyze(model(), randomize=True, traps=True, seed=seed) for seed in (0, 1))
        for one, two in zip(first.layers, other.layers, strict=True):
            assert one.metrics["max_rand_eval"] != two.metrics["max_rand_eval"]
            assert one.metrics["trap_statistic"] != two.metrics["trap_statistic"]
            assert one.metrics["alpha"] == two.metrics["alpha"]


class TestRunWide:
    def test_traps_are_counted_at_the_rate_of_the_run(self) -> None:
        analysis = analyze(trapped(), traps=True)
        assert analysis.n_traps == (0, 1, 0, 0, 0)
        details = analysis.details.set_index("longname")
        assert details["num_tw_traps"].to_dict() == {"embed": 0, "fc": 1, "wide": 0, "conv": 0, "half": 0}
        assert details["trap_p_value_run"]["fc"] < 0.01
        assert (details["trap_p_value_run"] >= details["trap_p_value"]).all()

    def test_too_small_layers_do_not_count(self) -> None:
        tensors = {**trapped(), "small.weight": np.random.default_rng(2).standard_normal((10, 9))}
        analysis = analyze(tensors, traps=True, noise_test=True)
        assert analysis.n_traps[-1] is None
        assert np.isnan(analysis.details["num_tw_traps"].iloc[-1])
        assert "traps: M = 9" in analysis.details["reason"].iloc[-1]
        others = analyze(trapped(), traps=True).trap_p_values.adjusted
        assert analysis.trap_p_values.adjusted == others

    def test_structure_is_told_from_noise(self) -> None:
        rng = np.random.default_rng(5)
        spike = np.outer(rng.standard_normal(100), rng.standard_normal(80)) * 0.5
        noise = rng.standard_normal((100, 80))
        analysis = analyze({"noise.weight": noise, "spike.weight": noise + spike}, noise_test=True)
        assert not analysis.noise_p_values.is_alarm(0)
        assert analysis.noise_p_values.is_alarm(1)
        spiked = analysis.layers[1]
        assert spiked.noise is not None
        assert spiked.noise.n_spikes == 1
        assert spiked.metrics["noise_sigma"] == pytest.approx(1.0, abs=0.02)

    def test_convolutions_are_tested_in_the_scale_of_their_spectrum(self) -> None:
        kernel = np.random.default_rng(0).standard_normal((64, 48, 3, 3))
        conv, dense = (
            analyze({"x.weight": values}, noise_test=True, traps=True).layers[0]
            for values in (kernel, np.ascontiguousarray(kernel[:, :, 0, 0]))
        )
        for name in ("noise_sigma", "detectability_limit", "trap_limit"):
            ratio = conv.metrics[name] / dense.metrics[name]
            assert ratio == pytest.approx(np.sqrt(0.5), rel=0.05)
        assert conv.metrics["noise_p_value"] > 0.001


class TestRecords:
    def test_what_was_asked_for(self) -> None:
        layer = analyze(model(), **EVERYTHING).layers[1]
        assert isinstance(layer.fit, PowerLawFit)
        assert isinstance(layer.marchenko_pastur, MarchenkoPasturFit)
        assert isinstance(layer.twin_marchenko_pastur, MarchenkoPasturFit)
        assert layer.twin_evals is not None
        assert layer.twin_evals.shape == (5 * 60,)
        assert not layer.twin_evals.flags.writeable
        assert layer.noise is not None
        assert layer.traps is not None
        assert layer.metrics["alpha_low"] <= layer.metrics["alpha"] <= layer.metrics["alpha_high"]

    def test_what_was_not(self) -> None:
        layer = analyze(model()).layers[1]
        assert layer.marchenko_pastur is None
        assert layer.twin_evals is None
        assert layer.noise is None
        assert layer.traps is None

    def test_pickling(self) -> None:
        layer = analyze(model(), **EVERYTHING).layers[3]
        copy = pickle.loads(pickle.dumps(layer))
        assert isinstance(copy, LayerAnalysis)
        assert dict(copy.metrics) == dict(layer.metrics)
        assert dict(copy.reasons) == dict(layer.reasons)
        assert copy.traps == layer.traps
        assert copy.twin_evals is not None
        assert not copy.twin_evals.flags.writeable
        with pytest.raises(TypeError):
            copy.reasons["x"] = "y"  # type: ignore[index]

    def test_arguments_are_left_alone(self) -> None:
        tensors = model()
        copies = {name: values.copy() for name, values in tensors.items()}
        analyze(open_mapping(tensors, "model"), **EVERYTHING)
        assert all(np.array_equal(tensors[name], values) for name, values in copies.items())


class TestOptions:
    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            ({"randomise": True}, r"^no option 'randomise'; did you mean 'randomize'\?$"),
            ({"traps": 1}, r"^traps must be True or False, got 1$"),
            ({"seed": -1}, r"^seed must be an integer of at least 0, got -1$"),
            ({"bootstrap": 200.0}, r"^bootstrap must be an integer of at least 0, got 200\.0$"),
            ({"bootstrap": 7}, r"^bootstrap must be 0 or at least 20, got 7$"),
            ({"tolerance": float("nan")}, r"^tolerance must be a number of at least 0, got nan$"),
            ({"false_alarm_rate": 0.0}, r"^false_alarm_rate must lie between 0 and 1, got 0\.0$"),
            ({"bootstrap": 50, "fit": "TPL"}, r"^bootstrap judges a power law: it needs fit='PL', got fit='TPL'$"),
            ({"compare_tails": True, "xmax": -1}, r"^compare_tails judges the plain power law: "),
            ({"intra": True, "randomize": True}, r"^randomize permutes the elements of one layer, intra analyses"),
            ({"intra": True, "vectors": True}, r"^vectors is about the elements of a weight matrix, intra changes"),
            ({"inverse": True, "traps": True}, r"^traps is about the elements of a weight matrix, inverse changes"),
            ({"pool": False, "stacked": True}, r"^stacked and pool=False contradict each other$"),
            ({"layers": [1, -2]}, r"^layer ids must be all kept"),
            ({"max_evals": 0.5}, r"^max_evals must be an integer of at least 0 or None, got 0\.5$"),
            ({"exclude": [3]}, r"^exclude must hold patterns as text, got \(3,\)$"),
        ],
    )
    def test_impossible(self, changes: dict[str, Any], match: str) -> None:
        with pytest.raises(OptionError, match=match):
            analyze(model(), **changes)

    def test_a_record_and_changes(self) -> None:
        options = AnalysisOptions(randomize=True, seed=3)
        description = describe(model(), options, mp_fit=True)
        assert description.options == AnalysisOptions(randomize=True, seed=3, mp_fit=True)
        assert analyze(description).description.options.seed == 3
        with pytest.raises(OptionError, match=r"^a Description has its options already"):
            analyze(description, seed=4)

    def test_spellings_are_one(self) -> None:
        assert AnalysisOptions(fit="power_law") == AnalysisOptions()
        assert AnalysisOptions(layers=["a"]) == AnalysisOptions(layers=("a",))  # type: ignore[arg-type]
        assert hash(AnalysisOptions(layers=[np.int64(1)])) == hash(AnalysisOptions(layers=(1,)))  # type: ignore[arg-type]


def test_an_orthogonal_layer_has_no_tail_but_rounding() -> None:
    orthogonal, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((64, 64)))
    for dtype in (np.float32, np.float64):
        (layer,) = analyze({"x.weight": orthogonal.astype(dtype)}).layers
        assert layer.reason == "all eigenvalues in the tail are equal"
        assert "alpha" not in layer.metrics


class TestWhatReviewersFound:
    """Each of these went wrong without a word before."""

    def test_layers_without_a_product_are_listed(self) -> None:
        tensors = {
            "a.weight": heavy_tailed(60, 50),
            "b.weight": heavy_tailed(50, 70),
            "c.weight": heavy_tailed(33, 44),
        }
        analysis = analyze(tensors, intra=True, sparsify=False)
        assert [layer.name for layer in analysis.layers] == ["0 X 1"]
        (left_out,) = analysis.unanalysed
        assert left_out.name == "c.weight"
        assert left_out.reason.startswith("in no product of successive layers: no shared dimension")
        assert analysis.coverage == pytest.approx((3000 + 3500) / (3000 + 3500 + 33 * 44))

    def test_no_product_at_all(self) -> None:
        with pytest.raises(OptionError, match=r"no two successive layers have a product: in no product"):
            analyze({"a.weight": heavy_tailed(60, 50), "c.weight": heavy_tailed(33, 44)}, intra=True)

    @pytest.mark.parametrize("test", ["noise_test", "traps"])
    def test_padding_is_no_structure(self, test: str) -> None:
        with pytest.raises(OptionError, match=rf"^{test} is about the elements of a weight matrix, stacked changes"):
            analyze(model(), AnalysisOptions().changed({"stacked": True, test: True}))

    def test_the_real_part_of_a_transform_has_twice_the_rank(self) -> None:
        rng = np.random.default_rng(0)
        a, b = rng.standard_normal((8, 80)), rng.standard_normal((100, 8))
        (layer,) = analyze(adapter_of({"q.lora_A.weight": a, "q.lora_B.weight": b}), fft=True).layers
        expected = np.linalg.norm(np.fft.fft2(0.5 * b @ a).real) ** 2
        assert layer.metrics["norm"] == pytest.approx(expected, rel=1e-6)

    def test_heavy_elements_are_no_spikes(self) -> None:
        matrix = np.random.default_rng(0).standard_normal((80, 80))
        matrix[3, 4] = 30.0
        (layer,) = analyze({"x.weight": matrix}, noise_test=True).layers
        assert layer.noise is not None
        assert layer.noise.p_value > 0.01
        assert layer.noise.n_spikes == 0
        assert layer.noise.noise_sigma == pytest.approx(1.0, abs=0.05)

    def test_a_fit_that_failed_leaves_no_gap(self) -> None:
        few = {"x.weight": np.random.default_rng(0).standard_normal((9, 7))}
        metrics = analyze(few, detX=True, min_evals=20).layers[0].metrics
        assert "detX_num" in metrics
        assert "ERG_gap" not in metrics

    @pytest.mark.parametrize("n_workers", [float("nan"), 1.5, True, "2", 0])
    def test_workers_are_a_whole_number(self, n_workers: Any) -> None:
        with pytest.raises(OptionError, match=r"^n_workers must be an integer of at least 1, got"):
            analyze(model(), n_workers=n_workers)

    @pytest.mark.parametrize(
        "changes",
        [
            {"exclude": None},
            {"fit": []},
            {"tolerance": 10**400},
            {"tolerance": float("inf")},
            {"xmin_max": 10**400, "fix_fingers": "xmin_peak"},
            {"fix_fingers": np.zeros(2)},
            {"xmax": np.zeros(2)},
            {"channels": np.zeros(2)},
        ],
    )
    def test_odd_types(self, changes: dict[str, Any]) -> None:
        with pytest.raises(OptionError):
            analyze(model(), **changes)

    @pytest.mark.parametrize("options", [{}, 5])
    def test_options_of_another_kind(self, options: Any) -> None:
        with pytest.raises(OptionError, match=r"^options must be AnalysisOptions, got"):
            analyze(model(), options)

    def test_values_repeated_by_a_view_are_refused(self) -> None:
        huge = np.broadcast_to(np.float32(1.0), (10**6, 10**6))
        analysis = analyze({"a.weight": huge, "b.weight": heavy_tailed(30, 20)})
        assert [layer.name for layer in analysis.layers] == ["b"]
        assert analysis.unanalysed[0].reason == "an expanded view: it repeats values that are stored once"

    @pytest.mark.parametrize("options", [{"fit": "TPL"}, {"compare_tails": True}])
    def test_values_of_any_range_warn_of_nothing(self, options: dict[str, Any]) -> None:
        # Warnings are errors in these tests.
        matrix = np.random.default_rng(0).standard_normal((100, 80)) * np.logspace(-150, 150, 80)
        analyze({"x.weight": matrix}, **options)

    def test_dead_rows_and_columns_of_a_product(self) -> None:
        rng = np.random.default_rng(0)
        a, b = rng.standard_normal((16, 80)), rng.standard_normal((60, 16))
        b[[3, 7, 9]] = 0.0
        a[:, [1, 2]] = 0.0
        (layer,) = analyze(adapter_of({"q.lora_A.weight": a, "q.lora_B.weight": b})).layers
        (dense,) = analyze({"q.weight": 0.5 * b @ a}).layers
        for name in ("n_dead_rows", "n_dead_columns", "sv_max"):
            assert layer.metrics[name] == pytest.approx(dense.metrics[name], rel=1e-9)
        assert (layer.metrics["n_dead_rows"], layer.metrics["n_dead_columns"]) == (3, 2)

    def test_zeros_by_construction_are_no_loss_of_rank(self) -> None:
        """The product itself, where its factors are not at hand."""
        rng = np.random.default_rng(0)
        values = rng.standard_normal((60, 16)) @ rng.standard_normal((16, 80))
        matrix = as_weight_matrix(replace(spec_of(values), max_rank=16), values)
        spectrum = compute_formed_spectrum(matrix, FormOptions())
        assert isinstance(spectrum, Spectrum)
        assert (len(spectrum.evals), spectrum.rank_loss) == (16, 0)
        inverse = compute_formed_spectrum(
            replace(matrix, spec=replace(matrix.spec, max_rank=17)), FormOptions(inverse=True)
        )
        assert isinstance(inverse, SpectrumFailure)
        assert inverse.detail == "1 of 17 singular values are zero to rounding: no inverse"
