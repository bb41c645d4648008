"""--ww-baseline, end to end: what is found beside a baseline, and what is not computed again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.gate.baseline_files import (
    N_CHECKS,
    failing_ids,
    failing_layers,
    head,
    payload_of,
    resealed,
    result_of,
    save,
    with_one_weight,
)
from tests.gate.conftest import COMPARE, LAYERS, RECORD, MakeModel, Tensors, healthy_tensors, noise


def test_the_same_model_passes_with_displacement_zero(pytester: pytest.Pytester, recorded: Path) -> None:
    result = pytester.runpytest(*COMPARE, "--ww-report=json:out.json")
    assert result.parseoutcomes() == {"passed": N_CHECKS}
    checks = payload_of(pytester.path / "out.json")["models"][0]["checks"]
    for name in ("regression.spectrum", "regression.weights"):
        assert {check["value"] for check in checks if check["check"] == name} == {0.0}


def test_harmless_changes_pass(pytester: pytest.Pytester, make_model: MakeModel, recorded: Path) -> None:
    values = head()
    step = np.abs(values).max(axis=1, keepdims=True) / 127
    rounded = np.round(values / step) * step
    make_model(
        head=rounded.astype(np.float32), encoder__0__key=healthy_tensors()["encoder.0.key.weight"].astype(np.float16)
    )
    assert pytester.runpytest(*COMPARE).parseoutcomes() == {"passed": N_CHECKS}


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


def test_the_model_is_no_baseline_of_itself(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model()
    result = pytester.runpytest("--ww-model=model.safetensors", "--ww-baseline={stem}.safetensors")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*the baseline is the model itself*"])


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


def test_ci_compares(pytester: pytest.Pytester, recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    assert pytester.runpytest(*COMPARE).parseoutcomes() == {"passed": N_CHECKS}


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
