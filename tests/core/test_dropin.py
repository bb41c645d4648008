"""The drop-in class where it does more, or better, than the one it stands in for."""

from __future__ import annotations

import inspect
import json
import logging
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import spectral as ww
from tests.core.builders import heavy_tailed
from tests.core.dropin_oracle import Incumbent, assert_same, zoo
from tests.core.zoo import every_layer_model

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = """
import json, logging, os, sys
os.environ["MPLBACKEND"] = "Agg"
import warnings
warnings.simplefilter("ignore")
import torch
import {package} as ww

logging.getLogger("weightwatcher").setLevel(logging.ERROR)
torch.manual_seed(0)
model = torch.nn.Sequential(
    torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64, 48), torch.nn.Linear(48, 20)
)
watcher = ww.WeightWatcher(model=model)
details = watcher.analyze(plot=False, min_evals=10, layers=[ww.LAYER_TYPE.DENSE], detX=True, fit=ww.PL)
summary = watcher.get_summary(details)
well_trained = details[(details.alpha > 2) & (details.alpha < 6)]
esd = watcher.get_ESD(layer=int(details.layer_id.iloc[0]))
described = watcher.describe(pool=False)
smoothed = watcher.SVDSmoothing(layers=[4], method=ww.DETX)
after = watcher.analyze(layers=[4])
distance = watcher.distances(model, smoothed, method=ww.EUCLIDEAN)[0]
print("RESULT" + json.dumps([details.to_dict("records"), summary, len(well_trained), sum(esd), described.shape,
    float(after.stable_rank.iloc[0]), float(distance), smoothed is model], default=float))
"""


def test_a_script_with_one_changed_import() -> None:
    theirs, ours = (json.loads(_run(SCRIPT.format(package=package))) for package in ("weightwatcher", "spectral"))
    assert [row.pop("warning") for row in ours[0]] == [row.pop("warning") for row in theirs[0]]
    for left, right in zip(theirs[0], ours[0], strict=True):
        assert list(right) == list(left)
        texts = ("name", "longname", "layer_type", "status")
        assert all(right.pop(name) == left.pop(name) for name in texts)
        assert right == pytest.approx(left, rel=1e-6)
    assert ours[1] == pytest.approx(theirs[1], rel=1e-6)
    assert ours[3] == pytest.approx(theirs[3], rel=1e-6)
    assert ours[5] == pytest.approx(theirs[5], rel=1e-3)
    assert [ours[place] for place in (2, 4, 6, 7)] == [theirs[place] for place in (2, 4, 6, 7)]


def _run(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.rpartition("RESULT")[2]


class TestNames:
    def test_constants(self) -> None:
        import weightwatcher

        missing = [
            name
            for name, value in vars(weightwatcher).items()
            if name.isupper() and isinstance(value, (str, int, float, bool, list)) and not hasattr(ww, name)
        ]
        assert missing == ["MBEDDING"]  # A slip of the pen for EMBEDDING.
        for name in vars(weightwatcher):
            if name.isupper() and hasattr(ww, name) and isinstance(getattr(ww, name), (str, int, float, list)):
                assert getattr(ww, name) == getattr(weightwatcher, name), name

    @pytest.mark.parametrize("name", ["LAYER_TYPE", "FRAMEWORK", "CHANNELS", "METRICS", "MODEL_FILE_FORMATS"])
    def test_classes_of_constants(self, name: str) -> None:
        import weightwatcher

        theirs = {key: value for key, value in vars(getattr(weightwatcher, name)).items() if key.isupper()}
        assert {key: getattr(getattr(ww, name), key) for key in theirs} == theirs

    def test_unknown_names(self) -> None:
        with pytest.raises(AttributeError, match="no attribute 'NO_SUCH_NAME'"):
            _ = ww.NO_SUCH_NAME

    @pytest.mark.parametrize("name", ["analyze", "describe", "distances", "get_ESD", "get_Weights", "SVDSharpness"])
    def test_parameters(self, name: str) -> None:
        import weightwatcher

        theirs = inspect.signature(getattr(weightwatcher.WeightWatcher, name)).parameters
        ours = inspect.signature(getattr(ww.WeightWatcher, name)).parameters
        assert list(ours) == list(theirs)
        for parameter in theirs:
            if parameter not in ("layers", "plot"):
                assert ours[parameter].default == theirs[parameter].default, parameter

    def test_constants_load_nothing(self) -> None:
        script = "import sys, spectral as ww; ww.TPL, ww.LAYER_TYPE.DENSE; print('RESULT', 'numpy' in sys.modules)"
        assert _run(script).strip() == "False"


class TestFits:
    def test_a_failed_fit_has_no_numbers(self) -> None:
        good = heavy_tailed(60, 40, seed=1).astype(np.float32)
        watcher = ww.WeightWatcher(model={"flat.weight": np.eye(30, dtype=np.float32), "good.weight": good})
        details = watcher.analyze(detX=True)
        assert details["status"].tolist() == ["failed", "success"]
        assert details["warning"].tolist()[0] == ""
        assert details.loc[0, ["alpha", "xmin", "D", "sigma", "num_pl_spikes", "alpha_weighted"]].isna().all()
        assert watcher.get_summary()["alpha"] == details.loc[1, "alpha"]
        assert details.loc[0, "norm"] == 30.0

    @pytest.mark.parametrize("fit", [ww.TPL, ww.E_TPL, ww.TRUNCATED_POWER_LAW])
    def test_truncated_power_laws(self, fit: str) -> None:
        found = ww.WeightWatcher(model=zoo()).analyze(layers=["conv2d"], fit=fit, pl_package=ww.POWERLAW_PACKAGE)
        expected = ww.analyze(zoo(), layers=["conv2d"], fit=fit, min_evals=8).details.set_index("longname")
        assert found["Lambda"].tolist()[0] == expected["Lambda"].to_dict()["conv2d"]
        assert found["Lambda"].notna().all()

    def test_fit_of_numbers_that_have_no_tail(self) -> None:
        found = ww.WeightWatcher().fit_powerlaw(np.ones(50))
        assert found[-2:] == ("failed", "")
        assert np.isnan(found[0])

    def test_same_bits_twice(self) -> None:
        first, second = (ww.WeightWatcher(model=zoo()).analyze(randomize=True, mp_fit=True, vectors=True) for _ in "ab")
        pd.testing.assert_frame_equal(first, second, check_exact=True)
        other = ww.WeightWatcher(model=zoo(), seed=1).analyze(randomize=True)
        assert (other["max_rand_eval"] != first["max_rand_eval"]).all()


class TestLayers:
    def test_every_layer(self) -> None:
        watcher = ww.WeightWatcher(model=every_layer_model(3), extra_layers=True)
        details = watcher.analyze()
        names = details["longname"].tolist()
        assert {
            "lstm.weight_ih_l0.i",
            "attention.in_proj_weight.q",
            "c_attn.k",
            "conv3d",
            "experts.down_proj.2",
        } <= set(names)
        assert "tied" not in names
        ids = details.set_index("longname")["layer_id"].to_dict()
        numbers = {name: number for number, (name, _) in enumerate(every_layer_model(3).named_modules())}
        assert ids["lstm.weight_hh_l1.o"] == numbers["lstm"]
        assert ids["attention.out_proj"] == numbers["attention.out_proj"]
        assert ids["weight_norm"] == numbers["weight_norm"]

    def test_rows_and_the_rest(self) -> None:
        watcher = ww.WeightWatcher(model=every_layer_model(3))
        details = watcher.analyze()
        assert set(details["longname"]) >= {"linear", "qkv", "tied", "weight_norm", "pruned"}
        reasons = {entry.name: entry.reason for entry in watcher.unanalysed}
        assert "extra_layers=True" in reasons["lstm.weight_ih_l0"]
        assert "vectors" in reasons["conv2d_depthwise.weight"]
        assert reasons["conv1d.weight"] == reasons["conv3d.weight"] == reasons["attention.in_proj_weight"]

    def test_extra_layers_of_a_state_dict_have_numbers_of_their_own(self) -> None:
        watcher = ww.WeightWatcher(model=dict(torch.nn.LSTM(24, 20).state_dict()), extra_layers=True)
        assert watcher.describe()["layer_id"].tolist() == [0] * 4 + [1] * 4

    def test_a_shape_without_a_row(self) -> None:
        watcher = ww.WeightWatcher(model={"a.weight": np.ones((3, 20, 20), np.float32), "b.weight": np.eye(20, 30)})
        assert watcher.describe()["layer_id"].tolist() == [2]


class TestFiles:
    def test_folders(self, tmp_path: Path) -> None:
        tensors = {f"layer.{number}.weight": torch.randn(20 + number, 20) for number in (10, 9, 1)}
        tensors["layer.9.bias"] = torch.zeros(3)
        save_file(tensors, tmp_path / "model-00002-of-00002.safetensors")
        save_file({"last.weight": torch.randn(30, 20)}, tmp_path / "model-00001-of-00002.safetensors")
        theirs = Incumbent(model=str(tmp_path)).analyze()
        ours = ww.WeightWatcher(model=str(tmp_path)).analyze()
        assert_same(theirs, ours)
        assert ours["layer_id"].tolist() == [0, 1, 2, 3]
        assert ours["name"].tolist() == ["last", "layer.1", "layer.10", "layer.9"]
        pd.testing.assert_frame_equal(
            ww.WeightWatcher(model=tmp_path).describe(), ww.WeightWatcher(str(tmp_path)).describe()
        )

    def test_figures(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        watcher = ww.WeightWatcher(model=zoo())
        watcher.analyze(layers=["linear"])
        watcher.analyze(layers=["linear"], plot=True, savefig=False)
        watcher.analyze(layers=["linear"], plot=True, savefig="")
        assert list(tmp_path.iterdir()) == []
        watcher.analyze(layers=["linear"], plot=True)
        watcher.analyze(layers=["linear"], plot=True, savefig="figures", mp_fit=True, detX=True, deltas=True)
        default = {path.name for path in (tmp_path / "ww-img").iterdir()}
        assert default == {f"ww.layer1.{name}.png" for name in ("esd", "esd2", "esd3", "esd4")}
        asked = {path.name for path in (tmp_path / "figures").iterdir()}
        assert asked == default | {f"ww.layer1.{name}.png" for name in ("mpfit2", "detX", "deltaEs")}

    def test_figures_of_slices(self, tmp_path: Path) -> None:
        folder = tmp_path / "new" / "folder"
        ww.WeightWatcher(model={"c.weight": torch.randn(20, 12, 1, 2)}).analyze(
            pool=False, plot=True, savefig=str(folder)
        )
        assert (folder / "ww.layer1:1.esd.png").read_bytes().startswith(b"\x89PNG")


class TestAdapters:
    def adapted(self) -> Any:
        torch.manual_seed(1)
        layer = torch.nn.ModuleDict(
            {
                "base_layer": torch.nn.Linear(40, 30),
                "lora_A": torch.nn.ModuleDict({"default": torch.nn.Linear(40, 12, bias=False)}),
                "lora_B": torch.nn.ModuleDict({"default": torch.nn.Linear(12, 30, bias=False)}),
            }
        )
        return torch.nn.ModuleDict({"query": layer})

    def test_products_alone(self) -> None:
        theirs = Incumbent(model=self.adapted()).analyze(peft=True)
        ours = ww.WeightWatcher(model=self.adapted()).analyze(peft=True)
        assert_same(theirs, ours)
        assert ours["longname"].tolist() == ["query.lora_BA.default"]
        assert ours["peft"].tolist() == [True]

    def test_with_base(self) -> None:
        theirs = Incumbent(model=self.adapted()).analyze(peft=ww.PEFT_WITH_BASE)
        ours = ww.WeightWatcher(model=self.adapted()).analyze(peft=ww.PEFT_WITH_BASE)
        assert ours["longname"].tolist() == theirs["longname"].tolist()
        assert ours["layer_id"].tolist() == theirs["layer_id"].tolist()
        assert_same(theirs.iloc[[0, 2]].reset_index(drop=True), ours.iloc[[0, 2]].reset_index(drop=True))
        # There W + BA has as many eigenvalues as BA has.
        assert (theirs["num_evals"].to_list()[1], ours["num_evals"].to_list()[1]) == (12, 30)

    def test_scaling(self) -> None:
        scaled = ww.WeightWatcher(model=self.adapted(), lora_scaling=2.0).analyze(peft=True)
        plain = ww.WeightWatcher(model=self.adapted()).analyze(peft=True)
        assert scaled["norm"].to_list() == pytest.approx([4.0 * plain["norm"].to_list()[0]])

    def test_no_adapter(self) -> None:
        with pytest.raises(ww.SpectralError, match="lora_A"):
            ww.WeightWatcher(model=zoo()).analyze(peft=True)


class TestTransforms:
    def trapped(self) -> Any:
        """Two layers of noise; one element of the first is far too large."""
        generator = torch.Generator().manual_seed(0)
        model = torch.nn.Sequential(*(torch.nn.Linear(60, 120, bias=False) for _ in "ab"))
        with torch.no_grad():
            for layer in model:
                layer.weight.copy_(torch.randn(120, 60, generator=generator))
            model[0].weight[3, 4] = 60.0
        return model

    @pytest.mark.parametrize("method", ["SVDSmoothing", "SVDSharpness"])
    def test_in_place_and_only_what_is_asked(self, method: str) -> None:
        model, before = self.trapped(), self.trapped().state_dict()
        assert getattr(ww.WeightWatcher(model=model), method)(layers=[1]) is model
        changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
        assert changed == ["0.weight"]

    def test_trap_goes(self) -> None:
        model, before = self.trapped(), self.trapped().state_dict()["0.weight"]
        ww.WeightWatcher(model=model).SVDSharpness()
        after = model.state_dict()["0.weight"]
        assert float(after[3, 4]) < 30.0
        # The others stay what they were, but for the row and the column that the trap had in its permutation.
        assert float((after - before).abs().median()) < 0.01

    def test_state_dicts(self) -> None:
        tensors = {"a.weight": torch.randn(40, 30), "b.weight": torch.randn(40, 30)}
        ww.WeightWatcher(model=tensors).SVDSmoothing(layers=[2], method=ww.SVD, percent=0.5)
        assert [int(torch.linalg.matrix_rank(tensors[name])) for name in tensors] == [30, 15]

    @pytest.mark.parametrize("method", ["SVDSmoothing", "SVDSharpness"])
    def test_slices_of_their_own(self, method: str) -> None:
        with pytest.raises(ww.OptionError, match="needs pool=True"):
            getattr(ww.WeightWatcher(model=zoo()), method)(pool=False)


class TestTwoModels:
    def test_other_architecture(self) -> None:
        with pytest.raises(ww.ModelError, match="not of one architecture"):
            ww.WeightWatcher().distances(zoo(), torch.nn.Linear(30, 30))

    def test_a_layer_of_one_model(self, caplog: pytest.LogCaptureFixture) -> None:
        first = {f"{name}.weight": torch.randn(20, 20) for name in "abc"}
        second = {**first, "d.weight": torch.randn(20, 20), "b.weight": torch.randn(20, 21)}
        mean_w, mean_b, rows = ww.WeightWatcher().distances(first, second)
        assert (mean_w, mean_b) == (0.0, 0.0)
        assert rows["longname"].tolist() == ["a", "b", "c", "d"]
        assert rows["delta_W"].isna().tolist() == [False, True, False, True]
        assert "its shape is (20, 20) here and (20, 21)" in caplog.text
        assert "d is only in the second model" in caplog.text

    def test_biases_that_do_not_fit(self) -> None:
        first = {"a.weight": torch.randn(20, 20), "a.bias": torch.zeros(20)}
        rows = ww.WeightWatcher().distances(first, {"a.weight": first["a.weight"]})[2]
        assert rows["delta_b"].isna().tolist() == [True]
        rows = ww.WeightWatcher().distances(first, first)[2]
        assert rows["delta_b"].tolist() == [0.0]
        assert rows["b_shape"].tolist() == [20]

    def test_same_models(self) -> None:
        watcher = ww.WeightWatcher()
        assert watcher.same_models(zoo(), zoo(5))
        assert not watcher.same_models(zoo(), torch.nn.Linear(3, 4))

    def test_matrix_distance(self) -> None:
        watcher, left, right = ww.WeightWatcher(), np.eye(4), 3.0 * np.eye(4)
        assert watcher.matrix_distance(left, right) == 4.0
        assert watcher.matrix_distance(left, right, ww.CKA) == pytest.approx(1.0)
        with pytest.raises(ww.OptionError, match="of one shape"):
            watcher.matrix_distance(left, np.eye(3))
        with pytest.raises(ww.OptionError, match="method must be"):
            watcher.matrix_distance(left, right, "cosine")


class TestClass:
    def test_the_model_may_come_later(self) -> None:
        watcher = ww.WeightWatcher()
        assert watcher.get_details() is None
        assert watcher.get_summary() == {}
        assert watcher.unanalysed == ()
        assert repr(watcher).endswith("Analysis done: False")
        details = watcher.analyze(model=zoo())
        assert watcher.get_details() is details
        assert repr(watcher).endswith("Analysis done: True")
        assert watcher.framework == ww.FRAMEWORK.PYTORCH
        assert len(watcher.describe()) == len(details)
        assert "numpy" in watcher.banner()

    @pytest.mark.parametrize(
        ("make", "framework"),
        [
            (zoo, ww.PYTORCH),
            (dict, ww.PYSTATEDICT),
            (lambda: "folder", ww.FRAMEWORK.PYSTATEDICT_DIR),
            (object, ww.UNKNOWN),
        ],
    )
    def test_frameworks(self, make: Any, framework: str) -> None:
        assert ww.WeightWatcher.infer_framework(make()) == framework
        assert ww.WeightWatcher.valid_framework(framework) == (framework != ww.UNKNOWN)

    def test_eigenvectors(self) -> None:
        found = ww.WeightWatcher(model=zoo()).analyze_vectors(layers=["linear"])
        expected = ww.WeightWatcher(model=zoo()).analyze(layers=["linear"], vectors=True)
        pd.testing.assert_frame_equal(found, expected, check_exact=True)

    def test_old_words(self, caplog: pytest.LogCaptureFixture) -> None:
        frame = ww.WeightWatcher(model=zoo()).describe(min_size=3, ww2x=True, layers=["conv2d"])
        assert len(frame) == 18
        assert "min_evals" in caplog.text
        assert "pool=False" in caplog.text

    def test_log_level(self) -> None:
        logger = logging.getLogger("spectral.weightwatcher")
        level = logger.level
        try:
            ww.WeightWatcher(log_level=logging.ERROR)
            assert logger.level == logging.ERROR
        finally:
            logger.setLevel(level)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown id": ({"layers": [999]}, "neither number, name nor type"),
    "unknown name": ({"layers": ["lnear"]}, "neither number, name nor type"),
    "ids of both signs": ({"layers": [1, -2]}, "all kept .* or all dropped"),
    "unknown fit": ({"fit": "LPL"}, "fit must be one of"),
    "limits": ({"min_evals": 50, "max_evals": 50}, r"min_evals \(50\) must be below"),
    "max_N": ({"max_N": 100}, r"max_N \(100\) must not be below max_evals"),
    "min_evals": ({"min_evals": -1}, "min_evals must be an integer"),
    "max_evals": ({"max_evals": 1.5}, "max_evals must be an integer"),
    "svd_method": ({"svd_method": "truncated"}, "svd_method must be one of"),
    "pl_package": ({"pl_package": "scipy"}, "pl_package must be"),
    "fft of slices": ({"conv2d_fft": True, "pool": False}, "conv2d_fft"),
    "intra and conv2d_fft": ({"intra": True, "conv2d_fft": True}, "intra"),
    "intra and randomize": ({"intra": True, "randomize": True}, "randomize"),
    "intra and vectors": ({"intra": True, "vectors": True}, "vectors"),
    "inverse and vectors": ({"inverse": True, "vectors": True}, "vectors"),
    "E_TPL and clip_xmax": ({"fit": "E_TPL", "fix_fingers": "clip_xmax"}, "choose one"),
    "fingers and xmax": ({"fix_fingers": "xmin_peak", "xmax": -1}, "choose one"),
    "unknown fingers": ({"fix_fingers": "thumbs"}, "fix_fingers must be"),
    "xmax 0": ({"xmax": 0}, "xmax must be"),
    "xmax True": ({"xmax": True}, "xmax must be"),
    "channels": ({"channels": "middle"}, "channels must be"),
    "start_ids": ({"start_ids": -1}, "start_ids must be"),
    "savefig": ({"savefig": 3}, "savefig must be"),
    "savefig None": ({"savefig": None}, "savefig must be"),
    "peft": ({"peft": "lora"}, "peft must be"),
    "unhashable peft": ({"peft": []}, "peft must be"),
}


class TestRefusals:
    @pytest.mark.parametrize(("options", "match"), REFUSED.values(), ids=REFUSED)
    def test_analyze(self, options: dict[str, Any], match: str) -> None:
        with pytest.raises(ww.OptionError, match=match):
            ww.WeightWatcher(model=zoo()).analyze(**options)

    def test_no_model(self) -> None:
        with pytest.raises(ww.OptionError, match="no model"):
            ww.WeightWatcher().analyze()
        with pytest.raises(ww.OptionError, match="base_model needs a model"):
            ww.WeightWatcher(base_model=zoo())

    def test_unknown_framework(self) -> None:
        with pytest.raises(ww.OptionError, match="framework must be one of"):
            ww.WeightWatcher(framework="jax")

    @pytest.mark.parametrize("method", ["get_ESD", "get_Weights", "get_framework_layer"])
    def test_no_such_layer(self, method: str) -> None:
        call = getattr(ww.WeightWatcher(model=zoo()), method)
        with pytest.raises(ww.OptionError, match="neither number, name nor type"):
            call(layer="nothing")
        with pytest.raises(ww.OptionError, match="has no row"):
            call(layer="norm")
        with pytest.raises(ww.OptionError, match="got None"):
            call()

    def test_no_spectrum(self) -> None:
        watcher = ww.WeightWatcher(model={"zero.weight": np.zeros((30, 20), np.float32)})
        with pytest.raises(ww.ModelError, match="zero"):
            watcher.get_ESD(layer=1)

    def test_other_methods(self) -> None:
        watcher = ww.WeightWatcher(model=zoo())
        with pytest.raises(ww.OptionError, match="method must be one of raw"):
            watcher.distances(zoo(), zoo(), method="cosine")
        with pytest.raises(ww.OptionError, match="method must be one of svd"):
            watcher.SVDSmoothing(method="magic")
        with pytest.raises(ww.OptionError, match="with a power law"):
            watcher.SVDSmoothing(fit=ww.TPL)
        with pytest.raises(ww.OptionError, match="got None"):
            watcher.vector_metrics()
        with pytest.raises(ww.OptionError, match="xmin is found"):
            watcher.fit_powerlaw(np.arange(30.0), sample=True)
        with pytest.raises(ww.OptionError, match="must be finite"):
            watcher.fit_powerlaw([1.0, np.nan])
        with pytest.raises(ww.OptionError, match=r"thresh must be at least that, got 0\.0"):
            watcher.fit_powerlaw(np.arange(30.0), thresh=0.0)
