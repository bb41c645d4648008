"""ww-gate describe, analyze and compare: what they find, against the core and against plain numpy."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import spectral
from spectral.analysis import analyze
from spectral.model_distances import distances
from tests.gate.conftest import LAYERS, healthy_tensors
from tests.gate.console import run, run_json, with_element, write_model

Capture = pytest.CaptureFixture[str]

NAMES = sorted(LAYERS)
"""The order of a safetensors file."""


@pytest.fixture(autouse=True)
def _no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the COLUMNS=80 that pytest-xdist sets: it is an order to fit tables into 80 columns."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model.safetensors")


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def matrix_of(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(96, 64)).astype(np.float32)


# describe


def test_describe_reads_headers_only(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_model(tmp_path / "m.safetensors", small__weight=np.ones((6, 5), np.float32))
    monkeypatch.setattr(
        "spectral.loaders.safetensors.SafetensorsFile.load", lambda *_: pytest.fail("weights were read"), raising=True
    )
    (found,) = run_json(capsys, "describe", path, "--min-evals=6")["models"]
    assert [layer["name"] for layer in found["layers"]] == [*NAMES, "small"]
    expected = {
        "type": "dense",
        "shape": [96, 64],
        "N": 96,
        "M": 64,
        "Q": 1.5,
        "num_evals": 64,
        "dtype": "float32",
        "rf": 1,
    }
    assert {name: found["layers"][0][name] for name in expected} == expected
    assert found["layers"][-1]["reason"] == "5 eigenvalues, fewer than min_evals = 6"
    # 96 biases in each of four layers have no spectrum.
    assert found["coverage"] == (4 * 96 * 64 + 30) / (4 * 96 * 64 + 30 + 4 * 96)


def test_describe_lists_what_is_not_analysed(tmp_path: Path, capsys: Capture) -> None:
    path = write_model(tmp_path / "m.safetensors", ids=np.ones((1, 512), np.int64), row=np.ones((1, 9), np.float32))
    text = run(capsys, "describe", path)
    assert "Not analysed: 2 tensors" in text
    assert "only vectors" in text
    rows = read_csv(run(capsys, "describe", path, "--format=csv"))
    assert [row["longname"] for row in rows if row["status"] == "not analysed"] == ["ids", "row"]
    assert len(rows) == 6
    (found,) = run_json(capsys, "describe", path)["models"]
    assert [tensor["name"] for tensor in found["unanalysed"]] == ["ids", "row"]
    assert all(tensor["reason"] for tensor in found["unanalysed"])


def test_describe_shows_slices(tmp_path: Path, capsys: Capture) -> None:
    path = write_model(tmp_path / "m.safetensors", conv__weight=np.ones((16, 8, 3, 3), np.float32))
    (pooled,) = run_json(capsys, "describe", path, "--layers=conv2d")["models"]
    assert [(layer["rf"], layer["num_evals"]) for layer in pooled["layers"]] == [(9, 72)]
    (sliced,) = run_json(capsys, "describe", path, "--layers=conv2d", "--no-pool")["models"]
    assert [layer["slice_id"] for layer in sliced["layers"]] == list(range(9))
    assert "slice_id" in run(capsys, "describe", path, "--no-pool")


# analyze


def test_csv_is_the_details_with_every_digit(model: Path, capsys: Capture) -> None:
    rows = read_csv(run(capsys, "analyze", model, "--format=csv", "--randomize", "--mp-fit", "--detx"))
    details = analyze(model, randomize=True, mp_fit=True, detX=True).details
    assert [name for name in details.columns if name != "name"] == list(rows[0])[1:]
    for row, (_, expected) in zip(rows, details.iterrows(), strict=True):
        assert row["model"] == str(model)
        for name in details.columns.drop("name"):
            value = expected[name]
            if isinstance(value, str):
                assert row[name] == value
            else:
                assert (np.isnan(value) and row[name] == "") or float(row[name]) == value


def test_json_has_the_layers_of_the_gate(model: Path, capsys: Capture) -> None:
    found = run_json(capsys, "analyze", model)
    analysis = analyze(model)
    assert (found["format"], found["tool"]["version"], found["command"]) == (1, spectral.__version__, "analyze")
    assert found["options"]["min_evals"] == analysis.description.options.min_evals
    (payload,) = found["models"]
    assert payload["path"] == str(model)
    assert payload["summary"] == analysis.summary
    for layer, expected in zip(payload["layers"], analysis.layers, strict=True):
        assert layer["hash"] == expected.content_hash
        assert layer["metrics"] == dict(expected.metrics)
        assert (layer["reason"], layer["warning"], layer["status"]) == (None, None, "success")


def test_layer_payload_has_the_keys_of_the_gates_result(model: Path, capsys: Capture) -> None:
    from pytest_weightwatcher.records import record_of
    from pytest_weightwatcher.report.result import ResultBuilder

    (payload,) = run_json(capsys, "analyze", model)["models"]
    layer = analyze(model).layers[0]
    expected = ResultBuilder().layer_payload(record_of(layer), layer.spec, is_reused=False, baseline_name=None)
    # The gate rounds its numbers, and has them in an order of its own; what its runs add is not of a model.
    of_a_run = ("reused", "baseline_name", "unchanged", "index", "spectrum")
    found = payload["layers"][0]
    assert found["id"] == expected.pop("index")
    assert {name: found[name] for name in expected if name not in of_a_run} == {
        **{name: value for name, value in expected.items() if name not in of_a_run},
        "metrics": pytest.approx(expected["metrics"], rel=1e-7, abs=1e-8),
    }


def test_layers_in_trouble_are_named(tmp_path: Path, capsys: Capture) -> None:
    path = write_model(
        tmp_path / "m.safetensors",
        head__weight=with_element(np.nan),
        small__weight=np.ones((9, 5), np.float32),
        zero__weight=np.zeros((60, 50), np.float32),
    )
    text = run(capsys, "analyze", path)
    assert "Incomplete: 3 layers" in text
    assert "1 of 6144 values are NaN or infinite" in text
    assert "5 eigenvalues, at least 8 are needed" in text
    assert "all 3000 values are zero" in text
    assert "Means over 5 layers (3 with a fit)" in text
    (payload,) = run_json(capsys, "analyze", path)["models"]
    statuses = {layer["name"]: layer["status"] for layer in payload["layers"]}
    assert statuses == dict.fromkeys(NAMES[:3], "success") | {"head": "failed", "small": "skipped", "zero": "failed"}
    assert all("alpha" in layer["metrics"] or layer["reason"] for layer in payload["layers"])


def test_whole_numbers_stay_whole_beside_a_layer_without_them(tmp_path: Path, capsys: Capture) -> None:
    path = write_model(tmp_path / "m.safetensors", zero__weight=np.zeros((60, 50), np.float32))
    rows = read_csv(run(capsys, "analyze", path, "--format=csv"))
    assert all(row["num_pl_spikes"].isdecimal() for row in rows[:-1])
    assert rows[-1]["num_pl_spikes"] == ""


def test_several_models(model: Path, tmp_path: Path, capsys: Capture) -> None:
    other = write_model(tmp_path / "other.safetensors", head__weight=matrix_of(3))
    rows = read_csv(run(capsys, "analyze", model, other, "--format=csv"))
    assert [row["model"] for row in rows] == [str(model)] * 4 + [str(other)] * 4
    assert [entry["path"] for entry in run_json(capsys, "analyze", model, other)["models"]] == [str(model), str(other)]
    text = run(capsys, "analyze", model, other)
    assert text.count("Means over 4 layers") == 2
    assert text.index("model.safetensors") < text.index("other.safetensors")


def test_options_reach_the_core(model: Path, capsys: Capture) -> None:
    arguments = ["--fit=TPL", "--min-evals=10", "--layers=enc*", "--layers=-*.key", "--exclude=*1*", "--seed=3"]
    found = run_json(capsys, "analyze", model, *arguments)
    assert found["options"] | {"fit": "TPL", "min_evals": 10, "seed": 3, "exclude": ["*1*"]} == found["options"]
    (payload,) = found["models"]
    assert [layer["name"] for layer in payload["layers"]] == ["encoder.0.query"]
    assert "Lambda" in payload["layers"][0]["metrics"]
    assert [layer["id"] for layer in run_json(capsys, "analyze", model, "--layers=2")["models"][0]["layers"]] == [2]
    assert [layer["id"] for layer in run_json(capsys, "analyze", model, "--layers=-2")["models"][0]["layers"]] == [
        0,
        1,
        3,
    ]


def test_any_number_of_jobs_gives_the_same(model: Path, capsys: Capture) -> None:
    one, two = (run(capsys, "analyze", model, "--traps", "--format=json", f"--jobs={n}") for n in (1, 2))
    assert one == two


def test_traps_and_the_elements_that_carry_them(tmp_path: Path, capsys: Capture) -> None:
    path = write_model(tmp_path / "m.safetensors", head__weight=with_element(30.0))
    text = run(capsys, "analyze", path, "--traps")
    assert "Correlation traps: 1 in 1 layer; 4 layers tested at a run-wide false-alarm rate of 1%" in text
    (line,) = [line for line in text.splitlines() if "30.00" in line]
    assert line.split()[:5] == ["3", "1", "head.weight[5,", "7]", "30.00"]
    elements = text[text.index("Elements that carry them") :].splitlines()[2:]
    (payload,) = run_json(capsys, "analyze", path, "--traps")["models"]
    # Of one large element among small ones only itself has a share worth a line; JSON has ten.
    assert len([line for line in elements if "head.weight[" in line]) == 1
    *others, head = payload["layers"]
    assert [layer["traps"] for layer in others] == [[], [], []]
    (trap,) = head["traps"]
    assert (trap["cause"], trap["elements"][0]["row"], trap["elements"][0]["column"]) == ("elements", 5, 7)
    assert trap["elements"][0]["index"] == [5, 7]
    assert len(trap["elements"]) == 10
    assert head["metrics"]["num_tw_traps"] == 1
    assert head["metrics"]["trap_p_value_run"] < 0.01


def test_no_traps(model: Path, capsys: Capture) -> None:
    text = run(capsys, "analyze", model, "--traps")
    assert "Correlation traps: none; 4 layers tested" in text
    assert "Elements" not in text


def test_difference_to_a_base(model: Path, tmp_path: Path, capsys: Capture) -> None:
    tensors = healthy_tensors()
    delta = 0.01 * matrix_of(5)
    other = write_model(tmp_path / "o.safetensors", head__weight=tensors["head.weight"] + delta)
    (payload,) = run_json(capsys, "analyze", other, "--base-model", model, "--layers=head")["models"]
    assert payload["base_model"] == str(model)
    expected = np.linalg.svd((tensors["head.weight"] + delta) - tensors["head.weight"], compute_uv=False)
    assert payload["layers"][0]["metrics"]["norm"] == pytest.approx(
        float(np.sum(expected.astype(float) ** 2)), rel=1e-5
    )


def test_adapter(tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(4, 64)).astype(np.float32), rng.normal(size=(96, 4)).astype(np.float32)
    name = "base_model.model.head.lora"
    from safetensors.numpy import save_file

    save_file({f"{name}_A.weight": a, f"{name}_B.weight": b}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 8}', encoding="utf-8")
    (payload,) = run_json(capsys, "analyze", folder, "--peft=adapter_only")["models"]
    (layer,) = payload["layers"]
    expected = np.linalg.svd(2.0 * b.astype(float) @ a.astype(float), compute_uv=False)
    assert layer["metrics"]["num_evals"] == 4
    assert layer["metrics"]["sv_max"] == pytest.approx(float(expected[0]), rel=1e-6)
    base = write_model(tmp_path / "base.safetensors")
    (both,) = run_json(capsys, "describe", folder, "--peft=with_base", "--base-model", base)["models"]
    assert {entry["name"] for entry in both["layers"]} == {
        *LAYERS,
        "base_model.model.head.lora_BA",
        "base_model.model.head.lora_W_plus_AB",
    }


# compare


def by_name(payload: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {layer["name"]: layer["metrics"] for layer in payload["layers"]}


def test_compare_with_plain_numpy(model: Path, tmp_path: Path, capsys: Capture) -> None:
    base = healthy_tensors()["head.weight"].astype(float)
    changed = (base + 0.02 * matrix_of(7)).astype(np.float32)
    other = write_model(tmp_path / "o.safetensors", head__weight=changed)
    (payload,) = run_json(capsys, "compare", model, other)["models"]
    found = by_name(payload)["head"]
    before, after = (np.linalg.svd(values, compute_uv=False) for values in (base, changed.astype(float)))
    apart = np.linalg.norm(changed - base)
    n_tail = int(analyze(model).layers[3].metrics["num_pl_spikes"])
    assert found["delta_W"] == pytest.approx(apart, rel=1e-6)
    assert found["relative_change"] == pytest.approx(apart / np.linalg.norm(base), rel=1e-6)
    assert found["displacement"] == pytest.approx(np.linalg.norm(after - before) / np.linalg.norm(before), rel=1e-6)
    assert found["norm_rel"] == pytest.approx(np.sum(after**2) / np.sum(before**2) - 1.0, rel=1e-6)
    assert found["spectral_norm_rel"] == pytest.approx(after[0] ** 2 / before[0] ** 2 - 1.0, rel=1e-6)
    alphas = [1.0 + n_tail / np.sum(np.log(side[:n_tail] ** 2 / side[n_tail - 1] ** 2)) for side in (before, after)]
    assert [found["alpha_base"], found["alpha_paired"]] == pytest.approx(alphas, rel=1e-6)
    shift = (alphas[1] - alphas[0]) / ((alphas[0] - 1.0) / np.sqrt(n_tail))
    assert found["alpha_sigmas"] == pytest.approx(shift, rel=1e-5)
    assert found["num_intruders"] == 0
    untouched = by_name(payload)["encoder.0.key"]
    for name in ("delta_W", "delta_b", "relative_change", "displacement", "alpha_sigmas", "matrix_rank_change"):
        assert untouched[name] == 0
    assert untouched["left_overlap"] == pytest.approx(1.0)
    assert payload["summary"]["delta_W"] == pytest.approx(apart / 4, rel=1e-6)


def test_compare_finds_an_intruder(model: Path, tmp_path: Path, capsys: Capture) -> None:
    rng = np.random.default_rng(0)
    planted = 3.0 * np.outer(
        *(vector / np.linalg.norm(vector) for vector in (rng.normal(size=96), rng.normal(size=64)))
    )
    other = write_model(
        tmp_path / "o.safetensors", head__weight=(healthy_tensors()["head.weight"] + planted).astype(np.float32)
    )
    text = run(capsys, "compare", model, other)
    assert "Intruder dimensions among the 10 leading directions of each layer: 1 in 1 layer" in text
    (payload,) = run_json(capsys, "compare", model, other, "--directions=3", "--layers=head")["models"]
    assert by_name(payload)["head"]["num_intruders"] == 1
    assert by_name(payload)["head"]["k"] == 3
    assert list(by_name(payload)) == ["head"]


@pytest.mark.parametrize("method", ["raw", "euclidean", "cka"])
def test_methods_of_distance(model: Path, tmp_path: Path, capsys: Capture, method: Any) -> None:
    other = write_model(tmp_path / "o.safetensors", head__weight=matrix_of(1))
    found = run_json(capsys, "compare", model, other, f"--method={method}")
    expected = distances(other, model, method=method)
    assert found["options"]["method"] == method
    assert found["models"][0]["summary"]["delta_W"] == expected.mean_delta_W
    assert [layer["metrics"]["delta_W"] for layer in found["models"][0]["layers"]] == [
        layer.delta_W for layer in expected.layers
    ]


def test_compare_several_with_one_base_and_wrapped_names(model: Path, tmp_path: Path, capsys: Capture) -> None:
    from safetensors.numpy import save_file

    wrapped = tmp_path / "wrapped.safetensors"
    save_file({f"module.{name}": values for name, values in healthy_tensors().items()}, wrapped)
    first, second = run_json(capsys, "compare", model, model, wrapped)["models"]
    assert first["layers"][0]["base_tensor"] == "encoder.0.key.weight"
    assert second["layers"][0]["name"] == "module.encoder.0.key"
    assert second["layers"][0]["base_tensor"] == "encoder.0.key.weight"
    assert "base_tensor" in run(capsys, "compare", model, wrapped)
    assert "base_tensor" not in run(capsys, "compare", model, model)
    assert set(by_name(second)) == {f"module.{name}" for name in LAYERS}


def test_compare_names_what_is_in_one_model_only(model: Path, tmp_path: Path, capsys: Capture) -> None:
    other = write_model(tmp_path / "o.safetensors", extra__weight=matrix_of(1))
    for pair, reason in (((model, other), "no tensor of this name"), ((other, model), "only in the second model")):
        (payload,) = run_json(capsys, "compare", *pair)["models"]
        (entry,) = payload["not_compared"]
        assert entry["name"] == "extra"
        assert reason in entry["reason"]
        assert "Not compared: 1 tensor." in run(capsys, "compare", *pair)


def test_compare_tells_layers_without_a_spectrum(model: Path, tmp_path: Path, capsys: Capture) -> None:
    other = write_model(tmp_path / "o.safetensors", head__weight=with_element(np.inf))
    (forth,) = run_json(capsys, "compare", model, other)["models"]
    (back,) = run_json(capsys, "compare", other, model)["models"]
    assert forth["layers"][3]["metrics"] == {"delta_b": 0.0}
    assert "1 of 6144 values are NaN or infinite" in forth["layers"][3]["reason"]
    assert back["layers"][3]["reason"].startswith("in the base: 1 of 6144 values")
    assert "Incomplete: 1 layer" in run(capsys, "compare", model, other)


def test_a_filter_does_not_shift_the_parts_of_a_fused_tensor(tmp_path: Path, capsys: Capture) -> None:
    """The parts of a tensor are told apart by their order: q must not be compared with k."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(192, 64)).astype(np.float32)
    path = write_model(tmp_path / "m.safetensors", attn__in_proj_weight=weight)
    names = [layer["name"] for layer in run_json(capsys, "describe", path)["models"][0]["layers"]]
    (part,) = [name for name in names if name.endswith(".k")]
    (payload,) = run_json(capsys, "compare", path, path, f"--layers={part}")["models"]
    assert by_name(payload)[part]["delta_W"] == 0.0


# a real model


def test_a_real_model(minilm: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = run(capsys, "analyze", minilm, "--sort=alpha:desc", "--top=5")
    lines = text.splitlines()
    assert lines[1] == "40 matrices, 99.8% of the parameters analysed."
    assert all(len(line) <= 80 for line in lines[1 : lines.index("Incomplete: 1 layer")])
    assert [line.split()[0] for line in lines[4:9]] == ["39", "30", "36", "34", "21"]
    assert "Shown: 5 of 40 layers by alpha." in text
    assert "holds positions or a mask, not weights (int64): embeddings.position_ids" in text
