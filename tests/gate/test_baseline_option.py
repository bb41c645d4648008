"""--ww-baseline and --ww-update-baseline, end to end."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from pytest_weightwatcher.baseline import SEAL, _seal_of_file, sealed
from pytest_weightwatcher.report.result import tool_payload
from spectral.projections import N_PROJECTIONS
from tests.gate.conftest import LAYERS, MakeModel, Tensors, healthy_tensors, noise

RECORD = ("--ww-model=model.safetensors", "--ww-baseline=b.ww.json", "--ww-update-baseline")
COMPARE = ("--ww-model=model.safetensors", "--ww-baseline=b.ww.json")

N_REGRESSIONS = 7
"""alpha, spectrum, weights, effective_rank, largest_weight, correlation_traps and noise, of each layer."""

N_CHECKS = 5 + len(LAYERS) * (2 + N_REGRESSIONS)
"""Coverage, integrity, layers, weights and tensors of the model; integrity, alpha and regressions of each layer."""


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


def failing_layers(result: pytest.RunResult) -> set[str]:
    return {name.partition("::")[0] for name in failing_ids(result)}


def payload_of(path: Path) -> dict[str, Any]:
    payload: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return payload


def result_of(pytester: pytest.Pytester, *arguments: str) -> dict[str, Any]:
    """Run, and return what the JSON report says of the one model."""
    pytester.runpytest(*arguments, "--ww-report=json:out.json")
    (model,) = payload_of(pytester.path / "out.json")["models"]
    assert isinstance(model, dict)
    return model


def resealed(payload: dict[str, Any]) -> dict[str, Any]:
    """Return a baseline with the seals that a recording of this very content would have."""
    matrices = {
        name: sealed({key: value for key, value in entry.items() if key != SEAL})
        for name, entry in payload["matrices"].items()
    }
    changed = {**payload, "matrices": matrices}
    return {**changed, SEAL: _seal_of_file(changed)}


def save(pytester: pytest.Pytester, tensors: Tensors, name: str = "model.safetensors") -> Path:
    path = pytester.path / name
    save_file(tensors, path)
    return path


def test_the_same_model_passes_with_displacement_zero(pytester: pytest.Pytester, recorded: Path) -> None:
    result = pytester.runpytest(*COMPARE, "--ww-report=json:out.json")
    assert result.parseoutcomes() == {"passed": N_CHECKS}
    checks = payload_of(pytester.path / "out.json")["models"][0]["checks"]
    for name in ("regression.spectrum", "regression.weights"):
        assert {check["value"] for check in checks if check["check"] == name} == {0.0}


def test_recording_twice_gives_the_same_bytes(pytester: pytest.Pytester, recorded: Path) -> None:
    before = recorded.read_bytes()
    pytester.runpytest(*RECORD, "-p", "xdist", "-n", "0")
    assert recorded.read_bytes() == before


def test_baseline_is_small_text(recorded: Path) -> None:
    text = recorded.read_text(encoding="utf-8")
    payload = json.loads(text)
    assert payload["format"] == 2
    assert payload["checkpoints"] == ["model.safetensors"]
    assert list(payload["matrices"]) == ["encoder.0.key", "encoder.0.query", "encoder.1.query", "head"]
    assert max(len(line) for line in text.splitlines()) < 2000
    assert len(text) < 2500 * 4
    assert resealed(payload) == payload


def test_harmless_changes_pass(pytester: pytest.Pytester, make_model: MakeModel, recorded: Path) -> None:
    values = head()
    step = np.abs(values).max(axis=1, keepdims=True) / 127
    rounded = np.round(values / step) * step
    make_model(
        head=rounded.astype(np.float32), encoder__0__key=healthy_tensors()["encoder.0.key.weight"].astype(np.float16)
    )
    assert pytester.runpytest(*COMPARE).parseoutcomes() == {"passed": N_CHECKS}


def with_one_weight(value: float) -> NDArray[Any]:
    values = head()
    values[3, 7] = value
    return values


def test_what_is_not_compared_is_not_checked_without_a_baseline_instead(
    pytester: pytest.Pytester, make_model: MakeModel, recorded: Path
) -> None:
    make_model(head=noise())
    (pytester.path / "ww.yaml").write_text("version: 1\nregression: {noise: false}\n", encoding="utf-8")
    checks = {check["check"] for check in result_of(pytester, *COMPARE)["checks"]}
    assert not checks & {"noise", "regression.noise"}


@pytest.mark.parametrize(("profile", "is_said"), [("compression", True), ("finetune", False)])
def test_finetune_is_not_advised_where_it_is_chosen(
    pytester: pytest.Pytester, make_model: MakeModel, recorded: Path, profile: str, is_said: bool
) -> None:
    make_model(head=5.0 * head())
    checks = result_of(pytester, *COMPARE, f"--ww-profile={profile}")["checks"]
    (found,) = [check for check in checks if check["check"] == "regression.spectrum" and check["layer"] == "head"]
    assert found["verdict"] == "fail"
    assert ("choose the profile finetune" in found["action"]) == is_said
    assert ("rounding to bf16" in found["detail"]) == is_said


def test_the_largest_weight_is_named_with_its_place(
    pytester: pytest.Pytester, make_model: MakeModel, recorded: Path
) -> None:
    make_model(head=with_one_weight(-2.0))
    result = pytester.runpytest(*COMPARE, "-k", "largest_weight and head")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*largest_weight went from 0.* to 2 (*", "*[[]3, 7] = -2*", "*flipped bit*"])


@pytest.mark.parametrize(("limit", "outcome"), [(1.9, "failed"), (2.0, "passed")])
def test_a_limit_on_the_largest_weight_needs_no_baseline(
    pytester: pytest.Pytester, make_model: MakeModel, limit: float, outcome: str
) -> None:
    make_model(head=with_one_weight(-2.0))
    (pytester.path / "ww.yaml").write_text(f"version: 1\nchecks: {{largest_weight: {{max: {limit}}}}}\n")
    result = pytester.runpytest("--ww-model=model.safetensors", "-k", "largest_weight and head")
    result.assert_outcomes(**{outcome: 1})


def without_directions(n: int) -> NDArray[Any]:
    left, sizes, right = np.linalg.svd(head(), full_matrices=False)
    product: NDArray[Any] = left * np.where(np.arange(64) < n, sizes, 0) @ right
    return product


@pytest.mark.parametrize(
    ("damaged", "checks"),
    [
        (noise(), {"alpha", "spectrum", "weights", "noise"}),
        (2.0 * head(), {"spectrum", "weights", "largest_weight"}),
        (np.where(np.abs(head()) < np.quantile(np.abs(head()), 0.8), 0, head()), {"spectrum", "weights"}),
        (head()[::-1], {"weights"}),
        (with_one_weight(2.0), {"spectrum", "correlation_traps", "largest_weight"}),
        (with_one_weight(-1.3 * float(np.abs(head()).max())), {"largest_weight"}),
        (without_directions(32), {"spectrum", "weights", "effective_rank"}),
    ],
    ids=[
        "re-initialised",
        "scaled",
        "pruned",
        "other weights of the same spectrum",
        "one weight",
        "a small one",
        "half the rank",
    ],
)
def test_harmful_changes_fail_in_their_layer(
    pytester: pytest.Pytester, make_model: MakeModel, recorded: Path, damaged: NDArray[Any], checks: set[str]
) -> None:
    make_model(head=np.ascontiguousarray(damaged, dtype=np.float32))
    result = pytester.runpytest(*COMPARE)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert failing_ids(result) >= {f"head::regression.{check}" for check in checks}
    assert failing_layers(result) == {"head"}


def test_layers_missing_new_and_reshaped_are_named(
    pytester: pytest.Pytester, make_model: MakeModel, recorded: Path
) -> None:
    tensors = healthy_tensors()
    del tensors["encoder.0.key.weight"]
    tensors["other.weight"] = noise()
    tensors["head.weight"] = tensors["head.weight"][:90].copy()
    save(pytester, tensors)
    result = pytester.runpytest(*COMPARE)
    assert failing_ids(result) == {"baseline.layers"}
    result.stdout.fnmatch_lines(["*1 missing: encoder.0.key; 1 reshaped: head; 1 new: other*"])


def test_a_baseline_of_another_model(pytester: pytest.Pytester, recorded: Path) -> None:
    save(pytester, {f"block.{index}.weight": noise((80, 60), seed=index) for index in range(3)})
    result = pytester.runpytest(*COMPARE)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert failing_ids(result) == {"baseline.layers"}
    result.stdout.fnmatch_lines(["*4 missing: *3 new: block.0, block.1, block.2; no layer is compared*"])


def renamed_tensors(names: dict[str, str]) -> Tensors:
    return {
        f"{names[name]}.{part}": healthy_tensors()[f"{name}.{part}"] for name in LAYERS for part in ("weight", "bias")
    }


@pytest.mark.parametrize(
    "names",
    [
        {name: f"model.{name}" for name in LAYERS},
        {name: name.replace("encoder", "layers") for name in LAYERS},
        dict(zip(LAYERS, ("d", "c", "b", "a"), strict=True)),
    ],
    ids=["a prefix", "a part", "any"],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=["same bytes", "rounded"])
def test_renamed_layers_are_compared_with_themselves(
    pytester: pytest.Pytester, recorded: Path, names: dict[str, str], dtype: Any
) -> None:
    save(pytester, {name: values.astype(dtype) for name, values in renamed_tensors(names).items()})
    model = result_of(pytester, *COMPARE)
    assert {check["verdict"] for check in model["checks"]} == {"pass"}
    assert len(model["checks"]) == N_CHECKS
    assert {layer["name"]: layer["baseline_name"] for layer in model["layers"]} == {
        now: before for before, now in names.items()
    }
    (detail,) = [check["detail"] for check in model["checks"] if check["check"] == "baseline.layers"]
    changed = {f"{before} -> {now}" for before, now in names.items() if before != now}
    assert detail.startswith(f"{len(changed)} renamed: ")
    assert set(detail.partition(": ")[2].split(", ")) == changed


def test_a_damaged_layer_is_found_under_another_name(pytester: pytest.Pytester, recorded: Path) -> None:
    tensors = renamed_tensors({name: f"model.{name}" for name in LAYERS})
    save(pytester, {**tensors, "model.head.weight": noise()})
    result = pytester.runpytest(*COMPARE)
    assert failing_layers(result) == {"model.head"}
    assert "model.head::regression.weights" in failing_ids(result)
    result.stdout.fnmatch_lines(["*(in the baseline it is head)*"])


@pytest.mark.parametrize("profile", ["compression", "finetune"])
def test_layers_that_changed_places_fail_both(pytester: pytest.Pytester, recorded: Path, profile: str) -> None:
    """Their spectra are the same here: only the weights tell."""
    tensors = healthy_tensors()
    first, second = "encoder.0.query", "encoder.1.query"
    tensors[f"{first}.weight"], tensors[f"{second}.weight"] = tensors[f"{second}.weight"], tensors[f"{first}.weight"]
    save(pytester, tensors)
    result = pytester.runpytest(*COMPARE, f"--ww-profile={profile}")
    quantity = {"compression": "weights", "finetune": "drift"}[profile]
    assert failing_ids(result) == {f"{name}::regression.{quantity}" for name in (first, second)}


def test_baseline_may_be_a_checkpoint(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model("good.safetensors")
    make_model(head=noise())
    result = pytester.runpytest("--ww-model=model.safetensors", "--ww-baseline=good.safetensors")
    assert failing_ids(result) >= {f"head::regression.{name}" for name in ("alpha", "spectrum", "weights", "noise")}
    assert failing_layers(result) == {"head"}


def test_file_and_checkpoint_give_the_same_verdicts(
    pytester: pytest.Pytester, make_model: MakeModel, recorded: Path
) -> None:
    (pytester.path / "model.safetensors").rename(pytester.path / "good.safetensors")
    make_model(head=noise())
    results = [
        result_of(pytester, "--ww-model=model.safetensors", f"--ww-baseline={baseline}")
        for baseline in ("b.ww.json", "good.safetensors")
    ]
    assert results[0]["checks"] == results[1]["checks"]


def test_only_a_checkpoint_says_how_directions_moved(
    pytester: pytest.Pytester, make_model: MakeModel, recorded: Path
) -> None:
    (pytester.path / "model.safetensors").rename(pytester.path / "good.safetensors")
    make_model(head=noise())
    found = {}
    for baseline in ("b.ww.json", "good.safetensors"):
        model = result_of(
            pytester, "--ww-model=model.safetensors", f"--ww-baseline={baseline}", "--ww-profile=finetune"
        )
        assert (model["profile"], model["question"]) == ("finetune", "has any layer's health become worse?")
        found[baseline] = {
            check["layer"]: check for check in model["checks"] if check["check"] == "regression.intruders"
        }
    assert found["b.ww.json"] == {}
    verdicts = {layer: check["verdict"] for layer, check in found["good.safetensors"].items()}
    assert verdicts == {**dict.fromkeys(LAYERS, "pass"), "head": "warn"}


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
    assert failing_layers(pytester.runpytest(*COMPARE)) == {"encoder.0.key"}


def test_a_whole_recording_drops_layers_that_are_gone(pytester: pytest.Pytester, recorded: Path) -> None:
    tensors = healthy_tensors()
    del tensors["head.weight"]
    save(pytester, tensors)
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


def refusal(pytester: pytest.Pytester, path: Path) -> str:
    """Compare with a baseline, demand that it is refused and left as it is, and return the one line that says why."""
    before = path.read_bytes()
    result = pytester.runpytest(*COMPARE)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert path.read_bytes() == before
    (line,) = [line for line in result.errlines if line.startswith("ERROR: ")]
    assert "b.ww.json: " in line
    return line


EDITED = "edited since it was recorded (its seal does not fit); record it anew with --ww-update-baseline"


def test_an_edited_hash_hides_nothing(pytester: pytest.Pytester, make_model: MakeModel, recorded: Path) -> None:
    from spectral import analyze

    make_model(head=noise())
    payload = payload_of(recorded)
    hashes = {layer.name: layer.content_hash for layer in analyze(pytester.path / "model.safetensors").layers}
    payload["matrices"]["head"]["hash"] = hashes["head"]
    recorded.write_text(json.dumps(payload), encoding="utf-8")
    assert f"matrix 'head': {EDITED}" in refusal(pytester, recorded)


@pytest.mark.parametrize(
    "key", ["dtype", "metrics", "tail", "traps", "noise", "projections", "singular_values", "seal"]
)
def test_one_digit_of_an_entry_edited(pytester: pytest.Pytester, recorded: Path, key: str) -> None:
    text = recorded.read_text(encoding="utf-8")
    value = text.index(f'"{key}":', text.index('"encoder.1.query"')) + len(key) + 3
    # The last digit of the first number: no rule of plausibility finds so small a change.
    pattern = r"\d" if key in ("dtype", "seal") else r"\d\.\d*?(?=\d(?!\d))\d"
    found = re.compile(pattern).search(text, value)
    assert found is not None
    place = found.end() - 1
    digit = int(text[place])
    recorded.write_text(f"{text[:place]}{digit + 1 if digit < 9 else 8}{text[place + 1 :]}", encoding="utf-8")
    assert f"matrix 'encoder.1.query': {EDITED}" in refusal(pytester, recorded)


def test_a_spread_added_by_hand(pytester: pytest.Pytester, recorded: Path) -> None:
    payload = payload_of(recorded)
    payload["matrices"]["head"]["spread"] = {"spectrum": 1e6}
    recorded.write_text(json.dumps(payload), encoding="utf-8")
    assert f"matrix 'head': {EDITED}" in refusal(pytester, recorded)


def test_layout_is_no_edit(pytester: pytest.Pytester, recorded: Path) -> None:
    """A formatter of JSON in a pre-commit hook changes no fact."""
    recorded.write_text(json.dumps(payload_of(recorded), indent=4, sort_keys=True) + "\r\n", encoding="utf-8")
    assert pytester.runpytest(*COMPARE).parseoutcomes() == {"passed": N_CHECKS}


def edit_header(payload: dict[str, Any]) -> None:
    payload["options"]["min_evals"] = 51


def edit_version(payload: dict[str, Any]) -> None:
    payload["tool"]["version"] = "99"


def edit_environment(payload: dict[str, Any]) -> None:
    payload["environment"]["numpy"] = "1"


def edit_checkpoints(payload: dict[str, Any]) -> None:
    payload["checkpoints"].append("other.safetensors")


def remove_entry(payload: dict[str, Any]) -> None:
    del payload["matrices"]["head"]


def rename_entry(payload: dict[str, Any]) -> None:
    payload["matrices"]["tail"] = payload["matrices"].pop("head")


def swap_entries(payload: dict[str, Any]) -> None:
    matrices = payload["matrices"]
    matrices["head"], matrices["encoder.0.key"] = matrices["encoder.0.key"], matrices["head"]


def remove_seal(payload: dict[str, Any]) -> None:
    del payload[SEAL]


def add_key(payload: dict[str, Any]) -> None:
    payload["comment"] = "all fine"


@pytest.mark.parametrize(
    "edit",
    [
        edit_header,
        edit_version,
        edit_environment,
        edit_checkpoints,
        remove_entry,
        rename_entry,
        swap_entries,
        remove_seal,
        add_key,
    ],
)
def test_a_file_edited_between_its_entries(pytester: pytest.Pytester, recorded: Path, edit: Any) -> None:
    payload = payload_of(recorded)
    edit(payload)
    recorded.write_text(json.dumps(payload), encoding="utf-8")
    assert "edited or merged since it was recorded (its seal does not fit)" in refusal(pytester, recorded)
    assert pytester.runpytest(*RECORD).ret == pytest.ExitCode.USAGE_ERROR


def test_an_entry_taken_from_another_recording(
    pytester: pytest.Pytester, make_model: MakeModel, recorded: Path
) -> None:
    """As a merge of two branches does it: every entry is whole, and the file is one that nobody recorded."""
    payload = payload_of(recorded)
    make_model(head=noise())
    pytester.runpytest("--ww-model=model.safetensors", "--ww-baseline=c.ww.json", "--ww-update-baseline")
    payload["matrices"]["head"] = payload_of(pytester.path / "c.ww.json")["matrices"]["head"]
    recorded.write_text(json.dumps(payload), encoding="utf-8")
    assert "edited or merged since it was recorded" in refusal(pytester, recorded)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_baseline(pytester: pytest.Pytester, recorded: Path, share: float) -> None:
    content = recorded.read_bytes()
    recorded.write_bytes(content[: int(share * len(content))])
    assert "not a baseline, its JSON is damaged" in refusal(pytester, recorded)


def test_merge_conflict_markers(pytester: pytest.Pytester, recorded: Path) -> None:
    lines = recorded.read_text(encoding="utf-8").splitlines()
    ours = [*lines[:8], "<<<<<<< HEAD", lines[8], "=======", lines[8], ">>>>>>> other", *lines[9:]]
    recorded.write_text("\n".join(ours), encoding="utf-8")
    assert "not a baseline, its JSON is damaged" in refusal(pytester, recorded)


def test_a_baseline_for_another_number_of_eigenvalues(pytester: pytest.Pytester, recorded: Path) -> None:
    payload = payload_of(recorded)
    entry = payload["matrices"]["head"]
    entry["num_evals"] = 63
    entry["singular_values"] = entry["singular_values"][:63]
    del entry["tail"]
    recorded.write_text(json.dumps(resealed(payload)), encoding="utf-8")
    assert "matrix 'head': 63 eigenvalues, a matrix of its shape has 64" in refusal(pytester, recorded)


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
    make_model("b.safetensors", more=noise())
    models = ("--ww-model=a.safetensors", "--ww-model=b.safetensors", "--ww-update-baseline")
    result = pytester.runpytest(*models, "--ww-baseline=x.ww.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            (
                "*several models would be recorded to *x.ww.json, and b.safetensors has other layers than "
                "a.safetensors; use {stem} in the baseline's path"
            )
        ]
    )
    assert not (pytester.path / "x.ww.json").exists()
    assert pytester.runpytest(*models, "--ww-baseline={stem}.ww.json").ret == pytest.ExitCode.OK
    assert {path.name for path in pytester.path.glob("*.ww.json")} == {"a.ww.json", "b.ww.json"}


def test_baseline_of_the_config(pytester: pytest.Pytester, make_model: MakeModel, recorded: Path) -> None:
    make_model(head=noise())
    pytester.makefile(".yaml", ww="version: 1\nmodels: [{path: '*.safetensors', baseline: b.ww.json}]\n")
    for arguments in ((), ("--ww-model=model.safetensors",)):
        result = pytester.runpytest(*arguments)
        assert failing_ids(result) >= {"head::regression.alpha", "head::regression.spectrum"}
        assert failing_layers(result) == {"head"}


def test_regression_limits_of_the_config(pytester: pytest.Pytester, make_model: MakeModel, recorded: Path) -> None:
    make_model(head=noise())
    off = "version: 1\nregression:\n  alpha: false\n  weights: false\n  effective_rank: false\n  noise: false\n"
    pytester.makefile(".yaml", ww=f"{off}  spectrum: {{max_displacement: 5, severity: fail}}\n")
    assert pytester.runpytest(*COMPARE).ret == pytest.ExitCode.OK
    pytester.makefile(".yaml", ww=f"{off}  spectrum: {{severity: warn}}\n")
    result = pytester.runpytest(*COMPARE, "-v")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["*::head::regression.spectrum WARN*"])
    pytester.makefile(".yaml", ww=off)
    assert failing_ids(pytester.runpytest(*COMPARE)) == {"head::regression.spectrum"}


def test_a_quantity_that_only_the_config_names(
    pytester: pytest.Pytester, make_model: MakeModel, recorded: Path
) -> None:
    make_model(head=0.99 * head())
    assert pytester.runpytest(*COMPARE).ret == pytest.ExitCode.OK
    pytester.makefile(".yaml", ww="version: 1\nregression:\n  norm: {max_relative_decrease: 0.01}\n")
    result = pytester.runpytest(*COMPARE)
    assert failing_ids(result) == {"head::regression.norm"}
    result.stdout.fnmatch_lines(["*head*regression.norm (rule: ww.yaml:3)"])


TAIL: dict[str, object] = {"tail": [2, 3.0]}
ENTRY: dict[str, object] = {
    "shape": [2, 2],
    "dtype": "float32",
    "hash": "0",
    "num_evals": 2,
    "metrics": {"norm": 1.25, "spectral_norm": 1.0},
    "projections": [0.5] * N_PROJECTIONS,
    "singular_values": [1.0, 0.5],
}
HEADER: dict[str, object] = {
    "format": 2,
    "tool": tool_payload(),
    "environment": {},
    "options": {"fit": "PL"},
    "checkpoints": ["model.safetensors"],
}


def file_with(entry: dict[str, object], **header: object) -> str:
    return json.dumps(resealed({**HEADER, **header, "matrices": {"head": entry}}))


def entry_changed(**changes: object) -> str:
    return file_with({**ENTRY, **changes})


def entry_without(key: str) -> str:
    return file_with({name: value for name, value in ENTRY.items() if name != key})


def header_changed(**changes: object) -> str:
    """Return a file whose seal cannot be had: what is wrong is found before."""
    return json.dumps({**HEADER, "matrices": {}, **changes})


NO_OBJECT = "not a baseline: {} must be an object"
CONTRADICTION = "the singular_values do not descend, or contradict the norm"
RANGES = "p-values and levels of traps must lie in their ranges"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a baseline, its JSON is damaged"),
        ("{", "not a baseline, its JSON is damaged"),
        ("[]", "not a baseline: no format"),
        ('{"format": 2}', "not a baseline: no format and matrices in it"),
        ('{"format": 1, "matrices": {}}', "baseline format '1', this version reads 2; record it anew"),
        ('{"format": 99, "matrices": {}}', "baseline format '99', this version reads 2; record it anew"),
        ('{"format": "2", "matrices": {}}', "baseline format '2', this version reads 2"),
        (header_changed(format=True), "baseline format 'True', this version reads 2"),
        (header_changed(matrices=[]), NO_OBJECT.format("matrices")),
        (header_changed(tool="x"), NO_OBJECT.format("tool")),
        (header_changed(options=None), NO_OBJECT.format("options")),
        (header_changed(environment=[]), NO_OBJECT.format("environment")),
        (header_changed(environment={"numpy": 2}), "environment must be names and versions"),
        (header_changed(checkpoints="m"), "checkpoints must be a list of names"),
        (header_changed(checkpoints=[1]), "checkpoints must be a list of names"),
        (header_changed(matrices={"head": []}), "matrix 'head': incomplete entry (not an object)"),
        (json.dumps(resealed({**HEADER, "matrices": {}})), "the baseline holds no matrices"),
        (file_with({}), "matrix 'head': incomplete entry"),
        *((entry_without(key), f"matrix 'head': incomplete entry ('{key}')") for key in ENTRY),
        (entry_changed(shape=[2, -2]), "the shape must be a list of positive integers"),
        (entry_changed(shape=4), "the shape must be a list of positive integers"),
        (entry_changed(dtype=32), "dtype and hash must be text"),
        (entry_changed(hash="\ud800"), "names must be text that can be written as UTF-8"),
        (entry_changed(num_evals=10**30), "num_evals must be a positive integer that fits the shape"),
        (entry_changed(num_evals=5), "num_evals must be a positive integer that fits the shape"),
        (entry_changed(num_evals=True), "num_evals must be a positive integer that fits the shape"),
        (entry_changed(shape=[2**40, 2**40]), "num_evals must be a positive integer that fits the shape"),
        (entry_changed(num_evals=3), "2 singular_values, expected 3 for 3 eigenvalues"),
        (entry_changed(singular_values=[1, "x"]), "singular_values must be a list of non-negative numbers"),
        (entry_changed(singular_values=[1, -1]), "singular_values must be a list of non-negative numbers"),
        (entry_changed().replace("1.0, 0.5", "1e999, 0.5"), "list of non-negative numbers"),
        (entry_changed().replace("1.0, 0.5", "NaN, 0.5"), "NaN is not JSON"),
        (entry_changed(singular_values=[0.5, 1.0]), CONTRADICTION),
        (entry_changed(metrics={"norm": 9.0, "spectral_norm": 1.0}), CONTRADICTION),
        (entry_changed(metrics={"norm": 1.0, "spectral_norm": 1.0}), CONTRADICTION),
        (entry_changed(projections=[]), f"projections must be {N_PROJECTIONS} numbers"),
        (entry_changed(projections=["x"] * N_PROJECTIONS), f"projections must be {N_PROJECTIONS} numbers"),
        (entry_changed(metrics=[]), "metrics must be names and numbers"),
        (entry_changed(metrics={"norm": True}), "metrics must be names and numbers"),
        (entry_changed(metrics={"norm": 10**400}), "metrics must be names and numbers"),
        (entry_changed(metrics={"norm": 0, "spectral_norm": 1.0}), "a norm and a spectral_norm above zero"),
        (entry_changed(metrics={"norm": 1.25}), "a norm and a spectral_norm above zero"),
        (entry_changed(tail=[5, 3.0]), "the tail must have between 2 and 2 eigenvalues"),
        (entry_changed(tail={"n": 2, "alpha": 3.0}), "the tail must have between 2 and 2 eigenvalues"),
        (entry_changed(tail=[2.0, 3.0]), "the tail must have between 2 and 2 eigenvalues"),
        (entry_changed(tail=[2, 1.0]), "the tail must have an alpha above 1"),
        (entry_changed(no_fit=["nope", "x"]), "no_fit must be a known reason and a sentence"),
        (entry_changed(no_fit=["no_spread"]), "no_fit must be a known reason and a sentence"),
        (entry_changed(reasons=["x"]), "reasons must be names and sentences"),
        (entry_changed(reasons={"traps": 1}), "reasons must be names and sentences"),
        (
            entry_changed(traps=[0.5, 1.0, []]),
            "traps must be a p-value, a limit, a list of levels and a list of eigenvalues",
        ),
        (entry_changed(traps=[1.5, 1.0, [], [1.0]]), RANGES),
        (entry_changed(traps=[0.5, 1.0, [0.02, 0.01], [1.0]]), RANGES),
        (entry_changed(traps=[0.5, 1.0, [0.9], [1.0]]), RANGES),
        (entry_changed(traps=[0.5, 1.0, [], []]), "the eigenvalues of traps must descend and not be negative"),
        (entry_changed(traps=[0.5, 1.0, [], [1.0, 2.0]]), "the eigenvalues of traps must descend and not be negative"),
        (entry_changed(noise=-0.1), "noise must be a p-value"),
        (entry_changed(noise=[0.5]), "noise must be a p-value"),
        (entry_changed(spread=[1.0]), "spread must be names and numbers"),
        (entry_changed(spread={"alpha": "x"}), "spread must be names and numbers"),
        (entry_changed(spread={"alpha": -1.0}), "a spread must not be negative"),
        (entry_changed().replace('"head": {', '"head": {}, "head": {'), "the name 'head' appears twice"),
        (file_with(ENTRY, options={"fit": "TPL"}), "recorded with fit 'TPL', this run has 'PL'"),
        (file_with(ENTRY, options={}), "recorded with fit 'None', this run has 'PL'"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_bad_baselines(pytester: pytest.Pytester, make_model: MakeModel, content: str, message: str) -> None:
    make_model()
    path = pytester.path / "b.ww.json"
    path.write_text(content, encoding="utf-8")
    assert message in refusal(pytester, path)


def test_the_good_one_among_the_bad(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    """What the bad ones are changed from is read without complaint."""
    make_model()
    (pytester.path / "b.ww.json").write_text(entry_changed(**TAIL), encoding="utf-8")
    assert failing_ids(pytester.runpytest(*COMPARE)) == {"baseline.layers"}


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


LIMIT_FILES = """
    import pytest
    import resource

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(session):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
        try:
            return (yield)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    """


@pytest.mark.parametrize("has_file", [True, False], ids=["over a file", "first"])
def test_a_full_disk_leaves_the_old_file(
    pytester: pytest.Pytester, recorded: Path, make_model: MakeModel, has_file: bool
) -> None:
    before = recorded.read_bytes()
    if not has_file:
        recorded.unlink()
    make_model(head=noise())
    pytester.makeconftest(LIMIT_FILES)
    result = pytester.runpytest_subprocess(*RECORD, "-q")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(["problem: *b.ww.json: the baseline cannot be written: File too large"])
    assert (recorded.read_bytes() == before) if has_file else not recorded.exists()
    assert not list(pytester.path.glob(".b.ww.json*"))


def test_an_unwritable_folder(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model()
    folder = pytester.mkdir("locked")
    folder.chmod(0o555)
    try:
        (folder / "probe").touch()
    except OSError:
        pass
    else:
        folder.chmod(0o755)
        pytest.skip("the permissions of a folder do not hold here (root)")
    result = pytester.runpytest(*RECORD[::2], "--ww-baseline=locked/b.ww.json")
    folder.chmod(0o755)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(["problem: *b.ww.json: the baseline cannot be written: Permission denied"])
    assert not list(folder.iterdir())


def test_a_folder_that_is_a_file(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model()
    (pytester.path / "blocked").write_text("mine", encoding="utf-8")
    result = pytester.runpytest(*RECORD[::2], "--ww-baseline=blocked/b.ww.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(["problem: *b.ww.json: the baseline cannot be written: *"])
    assert (pytester.path / "blocked").read_text(encoding="utf-8") == "mine"


HOLD = """
import fcntl, sys, time
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(
    sys.platform == "win32", reason="there the lock is the file itself, and stays when its writer is killed"
)
def test_a_lock_of_another_run(pytester: pytest.Pytester, make_model: MakeModel, recorded: Path) -> None:
    before = recorded.read_bytes()
    lock, left = pytester.path / ".b.ww.json.lock", pytester.path / ".b.ww.json.x1y2.tmp"
    left.write_text("half of a bas", encoding="utf-8")
    make_model(head=noise())
    with subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            result = pytester.runpytest(*RECORD)
        finally:
            other.kill()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines([f"problem: *b.ww.json: another run is recording this baseline (it holds {lock})"])
    assert recorded.read_bytes() == before
    # The other one was killed in the act: what it left behind is in nobody's way.
    assert lock.exists()
    assert pytester.runpytest(*RECORD).ret == pytest.ExitCode.OK
    assert recorded.read_bytes() != before
    assert not lock.exists()
    assert not left.exists()


@pytest.mark.parametrize("change", ["write_bytes(path.read_bytes() + b' ')", "unlink()"], ids=["changed", "removed"])
def test_a_file_that_changes_during_the_run(
    pytester: pytest.Pytester, make_model: MakeModel, recorded: Path, change: str
) -> None:
    make_model(head=noise())
    pytester.makeconftest(
        f"""
        from pathlib import Path

        path = Path("b.ww.json")

        def pytest_collection_finish(session):
            path.{change}
        """
    )
    result = pytester.runpytest(*RECORD)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(
        ["problem: *b.ww.json: not recorded: another run has changed this baseline meanwhile; run again to record *"]
    )
    if recorded.exists():
        assert recorded.read_bytes().endswith(b"}\n ")


WAIT_FOR_THE_OTHER = """
    import os
    import time
    from pathlib import Path

    def pytest_collection_finish(session):
        Path(f"ready.{os.getpid()}").touch()
        until = time.monotonic() + 60
        while len(list(Path().glob("ready.*"))) < 2 and time.monotonic() < until:
            time.sleep(0.01)
    """


@pytest.mark.parametrize("has_file", [True, False], ids=["over a file", "first"])
def test_two_recordings_at_once(
    pytester: pytest.Pytester, make_model: MakeModel, recorded: Path, has_file: bool
) -> None:
    """Both have read the same state; one of them wins, and the other says that it did not."""
    if not has_file:
        recorded.unlink()
    make_model("one.safetensors", head=noise(seed=5))
    make_model("two.safetensors", head=noise(seed=6))
    pytester.makeconftest(WAIT_FOR_THE_OTHER)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *RECORD[1:]]
    runs = {
        name: subprocess.Popen(
            [*command, f"--ww-model={name}.safetensors"], cwd=pytester.path, stdout=subprocess.PIPE, text=True
        )
        for name in ("one", "two")
    }
    outputs = {name: run.communicate(timeout=120)[0] for name, run in runs.items()}
    codes = {run.returncode: name for name, run in runs.items()}
    assert set(codes) == {pytest.ExitCode.OK, pytest.ExitCode.USAGE_ERROR}
    problem = next(line for line in outputs[codes[4]].splitlines() if line.startswith("problem: "))
    assert "another run" in problem
    assert payload_of(recorded)["checkpoints"] == [f"{codes[0]}.safetensors"]
    assert not list(pytester.path.glob(".b.ww.json*"))
    result = pytester.runpytest(f"--ww-model={codes[0]}.safetensors", "--ww-baseline=b.ww.json", "-p", "no:conftest")
    assert failing_ids(result) == set()


@pytest.mark.parametrize("option", ["--ww-update-baseline", "--ww-update-new-only"])
def test_nothing_is_recorded_in_ci(
    pytester: pytest.Pytester, make_model: MakeModel, recorded: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    before = recorded.read_bytes()
    make_model(head=healthy_tensors(1)["head.weight"], more=noise())
    for value in ("true", "1", "yes"):
        monkeypatch.setenv("CI", value)
        result = pytester.runpytest(*COMPARE, option)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["ERROR: a baseline is not recorded where the environment variable CI is set: *"])
        assert recorded.read_bytes() == before
    pytester.runpytest(*COMPARE, option, "--ww-update-in-ci")
    assert recorded.read_bytes() != before


@pytest.mark.parametrize("value", ["", "false", "0"])
def test_outside_ci_baselines_are_recorded(
    pytester: pytest.Pytester, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    make_model()
    monkeypatch.setenv("CI", value)
    assert pytester.runpytest(*RECORD).ret == pytest.ExitCode.OK


def test_ci_compares(pytester: pytest.Pytester, recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    assert pytester.runpytest(*COMPARE).parseoutcomes() == {"passed": N_CHECKS}


def test_new_only_adds_layers_and_leaves_the_rest(
    pytester: pytest.Pytester, make_model: MakeModel, recorded: Path
) -> None:
    before = recorded.read_text(encoding="utf-8")
    make_model(head=noise(), more=healthy_tensors(1)["head.weight"])
    result = pytester.runpytest(*COMPARE, "--ww-update-new-only")
    assert failing_layers(result) == {"head"}
    result.stdout.fnmatch_lines(["*1 of 5 matrices recorded*"])
    after = recorded.read_text(encoding="utf-8")
    payload = payload_of(recorded)
    assert set(payload["matrices"]) == {*LAYERS, "more"}
    assert matrix_lines(before) <= matrix_lines(after)
    assert {name: payload["matrices"][name] for name in LAYERS} == json.loads(before)["matrices"]
    assert failing_layers(pytester.runpytest(*COMPARE)) == {"head"}
    again = pytester.runpytest(*COMPARE, "--ww-update-new-only")
    again.stdout.fnmatch_lines(["*0 of 5 matrices recorded, nothing changed*"])
    assert recorded.read_text(encoding="utf-8") == after


def matrix_lines(text: str) -> set[str]:
    """The lines of the entries, without the comma that stands between them."""
    return {line.removesuffix(",") for line in text.partition('"matrices"')[2].splitlines()}


def test_new_only_and_all_exclude_each_other(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model()
    result = pytester.runpytest(*RECORD, "--ww-update-new-only")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --ww-update-baseline records every layer, --ww-update-new-only *"])


def test_new_only_makes_a_first_recording(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model()
    assert pytester.runpytest(*COMPARE, "--ww-update-new-only").ret == pytest.ExitCode.OK
    assert set(payload_of(pytester.path / "b.ww.json")["matrices"]) == set(LAYERS)


def test_ratchet_records_what_is_no_worse(pytester: pytest.Pytester, make_model: MakeModel, recorded: Path) -> None:
    before = payload_of(recorded)["matrices"]
    better = healthy_tensors()["encoder.0.key.weight"].astype(np.float16)
    make_model(head=noise(), encoder__0__key=better)
    pytester.makefile(".yaml", ww="version: 1\nregression: {ratchet: true}\n")
    result = pytester.runpytest(*RECORD)
    assert failing_layers(result) == {"head"}
    result.stdout.fnmatch_lines(
        ["*ratchet: layers that are worse than before, or moved as far as they may, keep their*"]
    )
    after = payload_of(recorded)["matrices"]
    assert after["head"] == before["head"]
    assert after["encoder.0.key"]["dtype"] == "float16"
    assert {name: after[name] for name in LAYERS if name not in ("head", "encoder.0.key")} == {
        name: before[name] for name in LAYERS if name not in ("head", "encoder.0.key")
    }
    assert failing_layers(pytester.runpytest(*COMPARE)) == {"head"}


def steps_away(profile: str) -> list[NDArray[np.float32]]:
    """Return the head after ever more steps, each of which passes beside the one before."""
    rng, values, steps = np.random.default_rng(0), head(), []
    for _ in range(6):
        values = (
            0.82 * values if profile == "finetune" else values + 0.06 * values.std() * rng.normal(size=values.shape)
        )
        steps.append(values.astype(np.float32))
    return steps


@pytest.mark.parametrize("profile", ["compression", "finetune"])
def test_small_steps_do_not_add_up(
    pytester: pytest.Pytester, make_model: MakeModel, recorded: Path, profile: str
) -> None:
    original = recorded.read_bytes()
    pytester.makefile(".yaml", ww=f"version: 1\nregression: {{ratchet: true, profile: {profile}}}\n")
    for values in steps_away(profile):
        make_model(head=values)
        pytester.runpytest(*RECORD)
    taken = payload_of(recorded)["matrices"]
    assert 0.0 < max(map(abs, taken["head"]["moved"].values())) <= 1.0
    assert not {"moved", "origin"} & taken["encoder.0.key"].keys()
    # What the ratchet took last has no finding beside what was recorded first; later steps have.
    recorded.write_bytes(original)
    findings = {}
    for values in steps_away(profile):
        make_model(head=values)
        model = result_of(pytester, *COMPARE)
        (layer,) = (layer for layer in model["layers"] if layer["name"] == "head")
        findings[layer["hash"]] = [check for check in model["checks"] if check["verdict"] in ("warn", "fail")]
    assert findings[taken["head"]["hash"]] == []
    assert findings[layer["hash"]]


@pytest.mark.parametrize(
    ("profile", "growth", "check"),
    [("compression", 1.02, "regression.largest_weight"), ("finetune", 1.35, "regression.correlation_traps")],
)
def test_one_weight_does_not_grow_step_by_step(
    pytester: pytest.Pytester, make_model: MakeModel, profile: str, growth: float, check: str
) -> None:
    """Relative allowances would compound, and a trap may double in one step."""
    size = 1.5 * float(np.abs(head()).max())
    make_model(head=with_one_weight(size))
    pytester.makefile(".yaml", ww=f"version: 1\nregression: {{ratchet: true, profile: {profile}}}\n")
    recorded = pytester.path / "b.ww.json"
    pytester.runpytest(*RECORD)
    original = recorded.read_bytes()
    sizes = [size * growth**step for step in range(1, 16 if profile == "compression" else 5)]
    for value in sizes:
        make_model(head=with_one_weight(value))
        pytester.runpytest(*RECORD)
    last = payload_of(recorded)["matrices"]["head"]["hash"]
    recorded.write_bytes(original)
    findings: dict[str, set[str]] = {}
    for value in sizes:
        make_model(head=with_one_weight(value))
        model = result_of(pytester, *COMPARE)
        (layer,) = (layer for layer in model["layers"] if layer["name"] == "head")
        findings[layer["hash"]] = {each["check"] for each in model["checks"] if each["verdict"] in ("warn", "fail")}
    assert findings[last] == set()
    assert check in findings[layer["hash"]]


def test_ratchet_does_not_take_what_is_waived(pytester: pytest.Pytester, make_model: MakeModel, recorded: Path) -> None:
    before = payload_of(recorded)["matrices"]
    make_model(head=noise())
    pytester.makefile(
        ".yaml",
        ww="version: 1\nregression: {ratchet: true}\n"
        "waivers: [{match: head, check: '*', reason: later, expires: 2999-01-01}]\n",
    )
    assert pytester.runpytest(*RECORD).ret == pytest.ExitCode.OK
    assert payload_of(recorded)["matrices"]["head"] == before["head"]


@pytest.mark.parametrize("choice", [("-k", "alpha"), ("-m", "ww"), ("--ww-explain=*alpha",), ("--deselect=zzz",)])
def test_a_filtered_run_never_prunes(
    pytester: pytest.Pytester, make_model: MakeModel, recorded: Path, choice: tuple[str, ...]
) -> None:
    """Also where it reaches every layer that is left."""
    before = payload_of(recorded)["matrices"]
    tensors = healthy_tensors()
    del tensors["encoder.0.key.weight"]
    save(pytester, tensors)
    pytester.runpytest(*RECORD, *choice)
    assert payload_of(recorded)["matrices"] == before
    pytester.runpytest(*RECORD)
    assert payload_of(recorded)["matrices"].keys() == before.keys() - {"encoder.0.key"}


def test_a_partial_recording_keeps_spreads_and_names_every_checkpoint(pytester: pytest.Pytester) -> None:
    models = [scaled(pytester, factor, f"{factor}.safetensors") for factor in (1.0, 0.95, 1.05)]
    pytester.runpytest(*models, "--ww-baseline=b.ww.json", "--ww-update-baseline")
    before = payload_of(pytester.path / "b.ww.json")
    scaled(pytester, 1.001, "model.safetensors")
    pytester.makefile(".yaml", ww="version: 1\nregression: {ratchet: true}\n")
    pytester.runpytest(*RECORD)
    after = payload_of(pytester.path / "b.ww.json")
    assert after["checkpoints"] == [*before["checkpoints"], "model.safetensors"]
    for name, entry in after["matrices"].items():
        assert entry["hash"] != before["matrices"][name]["hash"]
        assert entry["spread"] == before["matrices"][name]["spread"]
    pytester.makefile(".yaml", ww="version: 1\n")
    whole = pytester.runpytest(*RECORD)
    whole.stdout.fnmatch_lines(["*the spread of 4 matrices, learned from several checkpoints, is gone*"])
    assert payload_of(pytester.path / "b.ww.json")["checkpoints"] == ["model.safetensors"]


def test_one_name_in_two_folders(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model("one/model.safetensors")
    make_model("two/model.safetensors", head=noise())
    models = ("--ww-model=one/model.safetensors", "--ww-model=two/model.safetensors", "--ww-update-baseline")
    refused = pytester.runpytest(*models, "--ww-baseline={stem}.ww.json")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(["*would both be recorded to *model.ww.json; {folder} in the baseline's path stands*"])
    assert pytester.runpytest(*models, "--ww-baseline={folder}.ww.json").ret == pytest.ExitCode.OK
    assert {path.name for path in pytester.path.glob("*.ww.json")} == {"one.ww.json", "two.ww.json"}


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("regression: {norm: {sigmas: 3}}", "line 2 of ww.yaml: regression: norm gives no limit, and the profile"),
        (
            "overrides: [{match: head, regression: {norm: {severity: warn}}}]",
            "line 2 of ww.yaml: regression: norm gives",
        ),
        (
            "regression: {norm: {max_increase: 1}}\noverrides: [{match: head, regression: {norm: {sigmas: 3}}}]",
            "",
        ),
        ("regression: {profile: finetune, norm: {sigmas: 3}}", ""),
        ("model: {regression: {weights: {severity: fail}}}", ""),
    ],
)
def test_a_rule_without_a_limit_in_this_profile_is_named(
    pytester: pytest.Pytester, recorded: Path, text: str, note: str
) -> None:
    pytester.makefile(".yaml", ww=f"version: 1\n{text}\n")
    output = str(pytester.runpytest(*COMPARE).stdout)
    assert output.count("gives no limit") == bool(note)
    assert note in output


def scaled(pytester: pytest.Pytester, factor: float, name: str) -> str:
    save(pytester, {key: np.float32(factor) * values for key, values in healthy_tensors().items()}, name)
    return f"--ww-model={name}"


def test_accepted_checkpoints_teach_a_spread(pytester: pytest.Pytester) -> None:
    models = [scaled(pytester, factor, f"{factor}.safetensors") for factor in (1.0, 0.95, 1.05)]
    accepted = ("--ww-baseline=b.ww.json", "--ww-update-baseline")
    result = pytester.runpytest(*models, *accepted)
    result.stdout.fnmatch_lines(
        ["*4 of 4 matrices recorded from 1.0.safetensors, their spread learned from 3 checkpoints*"]
    )
    payload = payload_of(pytester.path / "b.ww.json")
    assert payload["checkpoints"] == ["1.0.safetensors", "0.95.safetensors", "1.05.safetensors"]
    for entry in payload["matrices"].values():
        assert entry["spread"]["spectrum"] == pytest.approx(0.05, rel=0.01)
        assert entry["spread"]["norm"] == pytest.approx(2 * 0.05, rel=0.05)
        assert entry["spread"]["alpha"] == pytest.approx(0.0, abs=1e-3)
    scaled(pytester, 1.06, "model.safetensors")
    assert failing_ids(pytester.runpytest(*COMPARE)) == set()
    scaled(pytester, 1.16, "model.safetensors")
    assert failing_layers(pytester.runpytest(*COMPARE)) == set(LAYERS)
    pytester.runpytest(models[0], *accepted)
    assert not any("spread" in entry for entry in payload_of(pytester.path / "b.ww.json")["matrices"].values())
    scaled(pytester, 1.06, "model.safetensors")
    assert failing_ids(pytester.runpytest(*COMPARE)) == {f"{name}::regression.spectrum" for name in LAYERS}


def test_new_only_learns_from_no_several_checkpoints(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model("a.safetensors")
    make_model("b.safetensors")
    models = ("--ww-model=a.safetensors", "--ww-model=b.safetensors", "--ww-baseline=x.ww.json")
    result = pytester.runpytest(*models, "--ww-update-new-only")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*x.ww.json: only a whole recording can learn from several checkpoints"])


ONLY_OF_REUSE = ("n_reused", "notes")


def without_reuse(model: dict[str, Any]) -> str:
    """Everything that a result says but what was reused, in its order."""
    kept = {key: value for key, value in model.items() if key not in ONLY_OF_REUSE}
    kept["layers"] = [{key: value for key, value in layer.items() if key != "reused"} for layer in model["layers"]]
    return json.dumps(kept, indent=1)


@pytest.mark.parametrize(
    "config",
    [
        "",
        "checks: {alpha: {max: 2.9}}\n",
        "checks: {alpha: {min: 2, max: 2.5}, stable_rank: {min: 1000, severity: warn}, log_norm: {max: 1}}\n",
        "analysis: {mp_fit: true, randomize: true, detX: true, vectors: true}\n",
    ],
    ids=["defaults", "borderline alpha", "limits", "all metrics"],
)
def test_what_the_baseline_knows_is_not_computed_and_judged_the_same(
    pytester: pytest.Pytester, make_model: MakeModel, config: str
) -> None:
    pytester.makefile(".yaml", ww=f"version: 1\n{config}")
    make_model(encoder__1__query=with_one_weight(2.0))
    pytester.runpytest(*RECORD)
    make_model(encoder__1__query=with_one_weight(2.0), head=noise())
    reused = result_of(pytester, *COMPARE)
    assert {layer["name"]: layer["reused"] for layer in reused["layers"]} == {
        **dict.fromkeys(LAYERS, True),
        "head": False,
    }
    assert reused["n_reused"] == 3
    assert reused["notes"] == []
    path = pytester.path / "b.ww.json"
    payload = payload_of(path)
    payload["tool"]["version"] = "0.0.0"
    path.write_text(json.dumps(resealed(payload)), encoding="utf-8")
    fresh = result_of(pytester, *COMPARE)
    assert fresh["n_reused"] == 0
    (note,) = fresh["notes"]
    assert "version 0.0.0" in note
    assert "nothing is reused" in note
    assert without_reuse(fresh) == without_reuse(reused)


def test_nothing_is_reused_under_other_options(pytester: pytest.Pytester, recorded: Path) -> None:
    assert result_of(pytester, *COMPARE)["n_reused"] == len(LAYERS)
    seeded = result_of(pytester, *COMPARE, "--ww-seed=1")
    assert seeded["n_reused"] == 0
    assert "seed 0 (now 1)" in seeded["notes"][0]
    assert {check["verdict"] for check in seeded["checks"]} == {"pass"}
