"""--ww-baseline and --ww-update-baseline, end to end."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.gate.conftest import MakeModel, healthy_tensors, noise

RECORD = ("--ww-model=model.safetensors", "--ww-baseline=b.ww.json", "--ww-update-baseline")
COMPARE = ("--ww-model=model.safetensors", "--ww-baseline=b.ww.json")


@pytest.fixture
def recorded(pytester: pytest.Pytester, make_model: MakeModel) -> Path:
    """The baseline of the healthy model."""
    make_model()
    assert pytester.runpytest(*RECORD).ret == pytest.ExitCode.OK
    return pytester.path / "b.ww.json"


def head() -> NDArray[Any]:
    return healthy_tensors()["head.weight"].copy()


def failing_ids(result: pytest.RunResult) -> set[str]:
    return {line.split(" ")[1].partition("safetensors::")[2] for line in result.outlines if line.startswith("FAILED")}


def test_the_same_model_passes_with_displacement_zero(pytester: pytest.Pytester, recorded: Path) -> None:
    result = pytester.runpytest(*COMPARE, "--ww-report=json:out.json")
    assert result.parseoutcomes() == {"passed": 19}
    checks = json.loads((pytester.path / "out.json").read_text(encoding="utf-8"))["models"][0]["checks"]
    assert {check["value"] for check in checks if check["check"] == "regression.spectrum"} == {0.0}


def test_recording_twice_gives_the_same_bytes(pytester: pytest.Pytester, recorded: Path) -> None:
    before = recorded.read_bytes()
    pytester.runpytest(*RECORD, "-p", "xdist", "-n", "0")
    assert recorded.read_bytes() == before


def test_baseline_is_small_text(recorded: Path) -> None:
    text = recorded.read_text(encoding="utf-8")
    payload = json.loads(text)
    assert payload["format"] == 1
    assert list(payload["matrices"]) == ["encoder.0.key", "encoder.0.query", "encoder.1.query", "head"]
    assert max(len(line) for line in text.splitlines()) < 2000
    assert len(text) < 2000 * 4


def test_harmless_changes_pass(pytester: pytest.Pytester, make_model: MakeModel, recorded: Path) -> None:
    values = head()
    step = np.abs(values).max(axis=1, keepdims=True) / 127
    rounded = np.round(values / step) * step
    make_model(
        head=rounded.astype(np.float32), encoder__0__key=healthy_tensors()["encoder.0.key.weight"].astype(np.float16)
    )
    assert pytester.runpytest(*COMPARE).parseoutcomes() == {"passed": 19}


@pytest.mark.parametrize(
    ("damaged", "checks"),
    [
        (noise(), {"regression.alpha", "regression.spectrum"}),
        (2.0 * head(), {"regression.spectrum"}),
        (np.where(np.abs(head()) < np.quantile(np.abs(head()), 0.8), 0, head()), {"regression.spectrum"}),
    ],
    ids=["re-initialised", "scaled", "pruned"],
)
def test_harmful_changes_fail_in_their_layer(
    pytester: pytest.Pytester, make_model: MakeModel, recorded: Path, damaged: NDArray[Any], checks: set[str]
) -> None:
    make_model(head=damaged.astype(np.float32))
    result = pytester.runpytest(*COMPARE)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert failing_ids(result) >= {f"head::{check}" for check in checks}
    assert {name.partition("::")[0] for name in failing_ids(result)} == {"head"}


def test_layers_missing_new_and_reshaped_are_named(
    pytester: pytest.Pytester, make_model: MakeModel, recorded: Path
) -> None:
    from safetensors.numpy import save_file

    tensors = healthy_tensors()
    tensors["renamed.weight"] = tensors.pop("encoder.0.key.weight")
    tensors["head.weight"] = tensors["head.weight"][:90].copy()
    save_file(tensors, pytester.path / "model.safetensors")
    result = pytester.runpytest(*COMPARE)
    assert failing_ids(result) == {"baseline.layers"}
    result.stdout.fnmatch_lines(["*1 missing: encoder.0.key; 1 reshaped: head; 1 new: renamed*"])


def test_baseline_may_be_a_checkpoint(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model("good.safetensors")
    make_model(head=noise())
    result = pytester.runpytest("--ww-model=model.safetensors", "--ww-baseline=good.safetensors")
    assert failing_ids(result) == {"head::regression.alpha", "head::regression.spectrum"}


def test_file_and_checkpoint_give_the_same_verdicts(
    pytester: pytest.Pytester, make_model: MakeModel, recorded: Path
) -> None:
    (pytester.path / "model.safetensors").rename(pytester.path / "good.safetensors")
    make_model(head=noise())
    results = []
    for baseline in ("b.ww.json", "good.safetensors"):
        pytester.runpytest("--ww-model=model.safetensors", f"--ww-baseline={baseline}", "--ww-report=json:out.json")
        results.append(json.loads((pytester.path / "out.json").read_text(encoding="utf-8"))["models"][0]["checks"])
    assert results[0] == results[1]


def test_a_filtered_recording_keeps_the_other_entries(
    pytester: pytest.Pytester, make_model: MakeModel, recorded: Path
) -> None:
    before = json.loads(recorded.read_text(encoding="utf-8"))["matrices"]
    make_model(head=noise(), encoder__0__key=noise(seed=2))
    pytester.runpytest(*RECORD, "-k", "head")
    after = json.loads(recorded.read_text(encoding="utf-8"))["matrices"]
    assert after["head"] != before["head"]
    assert {name: after[name] for name in after if name != "head"} == {
        name: before[name] for name in before if name != "head"
    }


def test_a_whole_recording_drops_layers_that_are_gone(pytester: pytest.Pytester, recorded: Path) -> None:
    from safetensors.numpy import save_file

    tensors = healthy_tensors()
    del tensors["head.weight"]
    save_file(tensors, pytester.path / "model.safetensors")
    pytester.runpytest(*RECORD)
    assert "head" not in json.loads(recorded.read_text(encoding="utf-8"))["matrices"]


@pytest.mark.parametrize("value", [np.nan, 0.0, 0.5])
def test_a_damaged_model_is_not_recorded(
    pytester: pytest.Pytester, make_model: MakeModel, recorded: Path, value: float
) -> None:
    before = recorded.read_bytes()
    make_model(head=np.full((96, 64), value, np.float32))
    result = pytester.runpytest(*RECORD)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["problem: *b.ww.json: not recorded: head of model.safetensors fails its integrity*"])
    assert recorded.read_bytes() == before


def test_a_run_that_ends_early_records_nothing(
    pytester: pytest.Pytester, make_model: MakeModel, recorded: Path
) -> None:
    before = recorded.read_bytes()
    make_model(encoder__0__key=noise())
    pytester.makefile(".yaml", ww="version: 1\nchecks: {alpha: {max: 1.1}}\n")
    result = pytester.runpytest(*RECORD, "-x")
    result.stdout.fnmatch_lines(["problem: *b.ww.json: not recorded: the run ended before * was analysed"])
    assert recorded.read_bytes() == before


def test_a_filtered_run_makes_no_first_recording(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model()
    result = pytester.runpytest(*RECORD, "-k", "head")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(["problem: *not recorded: a filtered run can only change a recording*"])
    assert not (pytester.path / "b.ww.json").exists()


def test_an_edited_hash_hides_nothing(pytester: pytest.Pytester, make_model: MakeModel, recorded: Path) -> None:
    from spectral import analyze

    make_model(head=noise())
    payload = json.loads(recorded.read_text(encoding="utf-8"))
    hashes = {layer.name: layer.content_hash for layer in analyze(pytester.path / "model.safetensors").layers}
    payload["matrices"]["head"]["hash"] = hashes["head"]
    recorded.write_text(json.dumps(payload), encoding="utf-8")
    result = pytester.runpytest(*COMPARE)
    assert failing_ids(result) == {"head::regression.alpha", "head::regression.spectrum"}


def test_a_baseline_for_another_number_of_eigenvalues(pytester: pytest.Pytester, recorded: Path) -> None:
    payload = json.loads(recorded.read_text(encoding="utf-8"))
    entry = payload["matrices"]["head"]
    entry["num_evals"] = 63
    entry["singular_values"] = entry["singular_values"][:63]
    entry["tail"] = None
    recorded.write_text(json.dumps(payload), encoding="utf-8")
    result = pytester.runpytest(*COMPARE)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*matrix 'head': 63 eigenvalues, a matrix of its shape has 64"])


def test_the_model_is_no_baseline_of_itself(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model()
    result = pytester.runpytest("--ww-model=model.safetensors", "--ww-baseline={stem}.safetensors")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*the baseline is the model itself*"])


def test_a_config_cannot_record_outside_its_folder(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model("sub/model.safetensors")
    (pytester.path / "sub/ww.yaml").write_text(
        "version: 1\nmodels: [{path: model.safetensors, baseline: ../b.ww.json}]\n", encoding="utf-8"
    )
    result = pytester.runpytest("--ww-config=sub/ww.yaml", "--ww-update-baseline")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*is outside the folder of ww.yaml"])


def test_recording_without_a_place(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model()
    result = pytester.runpytest("--ww-model=model.safetensors", "--ww-update-baseline")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*nowhere to record its baseline*"])


def test_recording_over_something_else_is_refused(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model()
    (pytester.path / "package.json").write_text('{"name": "precious"}', encoding="utf-8")
    result = pytester.runpytest(*RECORD[::2], "--ww-baseline=package.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*package.json: not a baseline*"])
    result = pytester.runpytest(*RECORD[::2], "--ww-baseline=model.safetensors")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*model.safetensors: a baseline is recorded to a .json file*"])


def test_several_models_need_the_stem(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model("a.safetensors")
    make_model("b.safetensors")
    models = ("--ww-model=a.safetensors", "--ww-model=b.safetensors", "--ww-update-baseline")
    result = pytester.runpytest(*models, "--ww-baseline=x.ww.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*several models would be recorded to *x.ww.json; use {stem}*"])
    assert pytester.runpytest(*models, "--ww-baseline={stem}.ww.json").ret == pytest.ExitCode.OK
    assert {path.name for path in pytester.path.glob("*.ww.json")} == {"a.ww.json", "b.ww.json"}


def test_baseline_of_the_config(pytester: pytest.Pytester, make_model: MakeModel, recorded: Path) -> None:
    make_model(head=noise())
    pytester.makefile(".yaml", ww="version: 1\nmodels: [{path: '*.safetensors', baseline: b.ww.json}]\n")
    for arguments in ((), ("--ww-model=model.safetensors",)):
        assert failing_ids(pytester.runpytest(*arguments)) == {"head::regression.alpha", "head::regression.spectrum"}


def test_regression_limits_of_the_config(pytester: pytest.Pytester, make_model: MakeModel, recorded: Path) -> None:
    make_model(head=noise())
    pytester.makefile(
        ".yaml", ww="version: 1\nregression:\n  alpha: false\n  spectrum: {max_displacement: 5, severity: fail}\n"
    )
    assert pytester.runpytest(*COMPARE).ret == pytest.ExitCode.OK
    pytester.makefile(".yaml", ww="version: 1\nregression:\n  alpha: false\n  spectrum: {severity: warn}\n")
    result = pytester.runpytest(*COMPARE, "-v")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["*::head::regression.spectrum WARN*"])


def entry_changed(**changes: object) -> str:
    entry: dict[str, object] = {
        "shape": [2, 2],
        "dtype": "float32",
        "hash": "0",
        "num_evals": 2,
        "metrics": {"norm": 1.25},
        "tail": None,
        "singular_values": [1.0, 0.5],
    }
    return json.dumps({"format": 1, "options": {"fit": "PL"}, "matrices": {"head": {**entry, **changes}}})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a baseline, its JSON is damaged"),
        ("{", "not a baseline, its JSON is damaged"),
        ("[]", "not a baseline: no format"),
        ('{"format": 2, "matrices": {}}', "baseline format '2', this version reads 1"),
        ('{"format": 1, "matrices": []}', "matrices and options must be objects"),
        ('{"format": 1, "matrices": {}, "options": {"fit": "PL"}}', "the baseline holds no matrices"),
        ('{"format": 1, "matrices": {"head": {}}}', "matrix 'head': incomplete entry"),
        (entry_changed(shape=[2, -2]), "the shape must be a list of positive integers"),
        (entry_changed(metrics={"norm": 9.0}), "the singular_values do not descend, or contradict the norm"),
        (entry_changed(singular_values=[0.5, 1.0]), "the singular_values do not descend, or contradict the norm"),
        (entry_changed(num_evals=10**30), "num_evals must be a positive integer that fits the shape"),
        (entry_changed(hash="\ud800"), "names must be text that can be written as UTF-8"),
        (entry_changed().replace('"head": {', '"head": {}, "head": {'), "the name 'head' appears twice"),
        (entry_changed().replace('"format": 1', '"format": true'), "baseline format 'True', this version reads 1"),
        (entry_changed(num_evals=3), "2 singular_values, expected 3 for 3 eigenvalues"),
        (entry_changed(singular_values=[1, "x"]), "singular_values must be a list of non-negative numbers"),
        (entry_changed(metrics={"norm": 0}), "metrics must give a norm above zero"),
        (entry_changed(tail={"n": 5, "alpha": 3.0}), "the tail must have between 2 and 2 eigenvalues"),
        (entry_changed(tail={"n": 2, "alpha": 1.0}), "the tail must have an alpha above 1"),
        (entry_changed().replace("1.0, 0.5", "1e999, 0.5"), "list of non-negative numbers"),
        (entry_changed().replace("1.0, 0.5", "NaN, 0.5"), "NaN is not JSON"),
        (entry_changed().replace('"PL"', '"TPL"'), "recorded with fit 'TPL', this run has 'PL'"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_bad_baselines(pytester: pytest.Pytester, make_model: MakeModel, content: str, message: str) -> None:
    make_model()
    path = pytester.path / "b.ww.json"
    path.write_text(content, encoding="utf-8")
    result = pytester.runpytest(*COMPARE)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.errlines if line.startswith("ERROR: ")]
    assert "b.ww.json: " in line
    assert message in line
    assert path.read_text(encoding="utf-8") == content


def test_missing_baseline(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model()
    result = pytester.runpytest(*COMPARE)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*b.ww.json: no such baseline; make it with --ww-update-baseline"])


def test_unwritable_target_leaves_the_old_file(
    pytester: pytest.Pytester, recorded: Path, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = recorded.read_bytes()
    make_model(head=noise())

    def full_disk(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full_disk)
    result = pytester.runpytest(*RECORD)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(["problem: *b.ww.json: the baseline cannot be written: No space left on device"])
    assert recorded.read_bytes() == before
    assert not list(pytester.path.glob(".b.ww.json*"))
