"""ww-gate calibrate: limits from good checkpoints that a further good one passes, and a bad one does not."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

import spectral
from pytest_weightwatcher.calibration import prediction_bound
from pytest_weightwatcher.config import load_config
from pytest_weightwatcher.console.main import main
from pytest_weightwatcher.good_runs import N_LIMITS, QUANTITIES
from tests.gate.conftest import healthy_tensors, noise
from tests.gate.console import run, run_json, with_element, write_model
from tests.gate.test_schema import is_valid

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder; COLUMNS=80, which pytest-xdist sets, is an order to fit tables into 80 columns."""
    monkeypatch.delenv("COLUMNS", raising=False)
    return pytester.path


def write_good(path: Path, seed: int, **changes: Any) -> Path:
    """Write the healthy model with noise of about 1%, as much as the seed says."""
    rng = np.random.default_rng(seed)
    tensors = healthy_tensors()
    size = 0.01 * math.exp(0.2 * rng.normal())
    for name, values in tensors.items():
        if values.ndim == 2:
            tensors[name] = (values + size * rng.normal(size=values.shape)).astype(np.float32)
    tensors |= {f"{name}.weight": values for name, values in changes.items()}
    save_file(tensors, path)
    return path


@pytest.fixture
def good(folder: Path) -> list[Path]:
    return [write_good(folder / f"g{seed}.safetensors", seed) for seed in range(6)]


def snippet_of(text: str) -> str:
    """Return what stands below the table, to be pasted."""
    return text[text.index("# ww-gate calibrate") :]


def test_a_table_and_a_snippet(good: list[Path], capsys: Capture) -> None:
    text = run(capsys, "calibrate", *good)
    for quantity in QUANTITIES:
        assert f"\n{quantity} " in text
    assert "The reference. 5 good runs, expected false alarms 0.01 of runs by 4 of 10 limits, 6 without a rate." in text
    assert "where none of 5 good runs exceeds a limit, its rate of false alarms is below 45.1%" in text
    assert "to show 0.01 takes 299 runs" in text
    text = run(capsys, "calibrate", *good, "--rate=0.3")
    assert "# ww-gate calibrate: 5 good runs, expected false alarms 0.3 of runs by 10 of 10 limits\n" in text
    found = yaml.safe_load(snippet_of(text))
    assert set(found) == {"checks", "regression"}
    assert found["regression"]["profile"] == "compression"
    assert set(found["regression"]) == {"profile", "correlation_traps", *QUANTITIES}


def test_json_has_the_numbers(good: list[Path], capsys: Capture) -> None:
    found = run_json(capsys, "calibrate", *good, "--rate=0.3")
    by_name = {each["quantity"]: each for each in found["quantities"]}
    analyses = [spectral.analyze(path).layers for path in good]
    norms = [[layer.metrics["norm"] for layer in layers] for layers in analyses]
    worst = [max(abs(math.log(new / old)) for new, old in zip(each, norms[0], strict=True)) for each in norms[1:]]
    assert by_name["norm"]["values"] == pytest.approx([math.expm1(value) for value in worst], rel=1e-5)
    bound = prediction_bound(np.log(worst), rate=0.3 / N_LIMITS)
    assert by_name["norm"]["limit"] == pytest.approx(math.expm1(math.exp(bound)), rel=1e-4)
    alphas = [[layer.metrics["alpha"] for layer in layers] for layers in analyses]
    assert by_name["alpha (largest)"]["values"] == pytest.approx([max(each) for each in alphas], rel=1e-6)
    assert by_name["alpha (smallest)"]["values"] == pytest.approx([min(each) for each in alphas], rel=1e-6)
    assert by_name["alpha (smallest)"]["limit"] < min(by_name["alpha (smallest)"]["values"])
    assert [model["is_reference"] for model in found["models"]] == [True, False, False, False, False, False]
    assert (found["rate_of_each_limit"], found["options"]["rate"]) == (0.3 / N_LIMITS, 0.3)
    # What is pasted accepts what was proposed, and is not wider than two digits need.
    pasted = yaml.safe_load(found["snippet"])
    rise = by_name["norm"]["limit"]
    fall = rise / (1 + rise)
    assert rise <= pasted["regression"]["norm"]["max_relative_increase"] <= 1.1 * rise
    assert fall <= pasted["regression"]["norm"]["max_relative_decrease"] <= min(1.1 * fall, rise)
    low, high = by_name["alpha (smallest)"]["limit"], by_name["alpha (largest)"]["limit"]
    assert low - 0.1 <= pasted["checks"]["alpha"]["min"] <= low
    assert high <= pasted["checks"]["alpha"]["max"] <= high + 0.1


def test_the_snippet_gates(pytester: pytest.Pytester, folder: Path, good: list[Path], capsys: Capture) -> None:
    """A further good run passes by the limits; one with more noise, and one with a layer drawn anew, do not."""
    snippet = snippet_of(run(capsys, "calibrate", *good, "--profile=finetune", "--rate=0.05"))
    (folder / "ww.yaml").write_text(f"version: 1\n{snippet}", encoding="utf-8")
    config = load_config(folder / "ww.yaml")
    assert config.regression.profile == "finetune"
    arguments = ("-p", "no:cacheprovider", f"--ww-baseline={good[0]}")
    for path in (*good[1:], write_good(folder / "new.safetensors", 77)):
        assert pytester.runpytest(*arguments, f"--ww-model={path}").ret == 0
    for bad in (
        write_good(folder / "bad.safetensors", 78, head=noise()),
        write_good(folder / "bad.safetensors", 78, head=healthy_tensors(3)["head.weight"]),
    ):
        assert pytester.runpytest(*arguments, f"--ww-model={bad}").ret == 1


def test_more_runs_narrow_the_limits(folder: Path, good: list[Path], capsys: Capture) -> None:
    def limit(paths: list[Path]) -> float:
        found = run_json(capsys, "calibrate", *paths, "--rate=0.2")
        return float({each["quantity"]: each["limit"] for each in found["quantities"]}["weights"])

    more = [write_good(folder / f"more{seed}.safetensors", seed) for seed in range(10, 18)]
    assert limit([*good, *more]) < limit(good[:4])


def test_two_checkpoints_are_too_few_for_a_limit(good: list[Path], capsys: Capture) -> None:
    text = run(capsys, "calibrate", *good[:2])
    assert "one run has no spread. Give more checkpoints" in text
    assert "1 good run, too few for a rate of false alarms: none of 10 limits has one" in text
    assert "expected false alarms" not in text
    assert "The built-in limit stays, without a rate: spectrum, weights, alpha, effective_rank." in text
    assert yaml.safe_load(snippet_of(text))["regression"] == {
        "profile": "compression",
        "correlation_traps": {"max_new": 0},
    }


def test_another_reference(pytester: pytest.Pytester, folder: Path, good: list[Path], capsys: Capture) -> None:
    base = write_model(folder / "base.safetensors")
    recorded = pytester.runpytest(
        "-p", "no:cacheprovider", f"--ww-model={base}", "--ww-baseline=base.ww.json", "--ww-update-baseline"
    )
    assert recorded.ret == 0
    capsys.readouterr()
    direct = run_json(capsys, "calibrate", *good, "--baseline", base)
    from_file = run_json(capsys, "calibrate", *good, "--baseline", "base.ww.json")
    assert direct["quantities"] == from_file["quantities"]
    assert {each["runs"] for each in direct["quantities"]} == {6}
    assert not any(model["is_reference"] for model in direct["models"])
    assert all(each["all_pairs"] is None for each in direct["quantities"])


def test_new_traps_of_a_good_run_are_accepted(folder: Path, good: list[Path], capsys: Capture) -> None:
    trapped = write_good(folder / "trap.safetensors", 9, head=with_element(5.0))
    found = run_json(capsys, "calibrate", *good, trapped)
    (traps,) = (each for each in found["quantities"] if each["quantity"] == "correlation_traps")
    assert (traps["limit"], traps["layer"]) == (1, "head")
    # The one with the trap may be the run, and another one recorded.
    found = run_json(capsys, "calibrate", trapped, *good)
    (traps,) = (each for each in found["quantities"] if each["quantity"] == "correlation_traps")
    assert (traps["worst"], traps["all_pairs"], traps["limit"]) == (0, 1, 1)
    left_out = run_json(capsys, "calibrate", *good, trapped, "--exclude=head")
    (traps,) = (each for each in left_out["quantities"] if each["quantity"] == "correlation_traps")
    assert traps["limit"] == 0


def write_moved(path: Path, seed: int, size: float) -> Path:
    """Write the healthy model with noise of a share of its weights."""
    rng = np.random.default_rng(seed)
    tensors = {
        name: values + size * np.std(values) * rng.normal(size=values.shape) if values.ndim == 2 else values
        for name, values in healthy_tensors().items()
    }
    save_file({name: values.astype(np.float32) for name, values in tensors.items()}, path)
    return path


def fails_at(capsys: Capture, model: Path, baseline: Path, config: Path) -> set[str]:
    """Return the names of the checks that a model fails at the gate itself."""
    main(["check", str(model), f"--baseline={baseline}", f"--config={config}", "--format=json"])
    result = json.loads(capsys.readouterr().out)
    return {check["check"] for model in result["models"] for check in model["checks"] if check["verdict"] == "fail"}


@pytest.mark.parametrize("profile", ["compression", "finetune"])
@pytest.mark.parametrize(
    ("sizes", "rate"),
    [
        # One run; two that need no built-in limit relaxed; a few that do; strangers; a wide limit; one bad one.
        ((0.3,), 0.01),
        ((0.01, 0.012), 0.01),
        ((0.3, 0.4, 0.35), 0.01),
        ((9.0, 9.0, 9.0), 0.05),
        ((0.2, 0.6, 0.4, 0.3), 0.3),
        ((0.05, 0.06, 9.0), 0.2),
    ],
)
def test_the_runs_given_pass_their_own_proposal(
    folder: Path, capsys: Capture, profile: str, sizes: tuple[float, ...], rate: float
) -> None:
    """The promise of the command, whatever the runs: the gate itself fails none of them, nor any pair of them."""
    paths = [
        write_moved(folder / f"g{place}.safetensors", place, size) for place, size in enumerate((0.0, *sizes), start=1)
    ]
    snippet = snippet_of(run(capsys, "calibrate", *paths, f"--rate={rate}", f"--profile={profile}"))
    text = f"version: 1\n{snippet}"
    assert is_valid(text)
    (folder / "ww.yaml").write_text(text, encoding="utf-8")
    load_config(folder / "ww.yaml")
    for baseline, model in ((paths[0], paths[1]), (paths[0], paths[-1]), (paths[-1], paths[0])):
        assert fails_at(capsys, model, baseline, folder / "ww.yaml") == set()


def test_biases_that_good_runs_move_only_warn(folder: Path, capsys: Capture) -> None:
    paths = []
    for place in range(2):
        tensors = healthy_tensors()
        tensors["head.bias"] = np.full(96, 1.0 + place, dtype=np.float32)
        tensors["head.weight"] = tensors["head.weight"] * np.float32(1.0 + 0.001 * place)
        paths.append(folder / f"g{place}.safetensors")
        save_file(tensors, paths[-1])
    snippet = snippet_of(run(capsys, "calibrate", *paths))
    (folder / "ww.yaml").write_text(f"version: 1\n{snippet}", encoding="utf-8")
    assert is_valid(f"version: 1\n{snippet}")
    assert yaml.safe_load(snippet)["model"] == {"regression": {"tensors": {"severity": "warn"}}}
    assert fails_at(capsys, paths[1], paths[0], folder / "ww.yaml") == set()


def test_what_a_good_run_exceeds_only_warns(folder: Path, capsys: Capture) -> None:
    """Built-in limits below what was seen: as they are, the gate would fail the run that was called good."""
    paths = [write_moved(folder / f"g{place}.safetensors", place, 0.4 * place) for place in (0, 1)]
    (folder / "built-in.yaml").write_text("version: 1\nregression: {profile: compression}\n", encoding="utf-8")
    failing = fails_at(capsys, paths[1], paths[0], folder / "built-in.yaml")
    assert {"regression.spectrum", "regression.weights"} <= failing
    found = run_json(capsys, "calibrate", *paths)
    # In one order or the other a pair of good ones fails these: no other is relaxed.
    backwards = fails_at(capsys, paths[0], paths[1], folder / "built-in.yaml")
    assert set(found["relaxed"]) == {name.removeprefix("regression.") for name in failing | backwards}
    assert set(found["relaxed"].values()) == {"warn"}
    for name in found["relaxed"]:
        assert yaml.safe_load(found["snippet"])["regression"][name] == {"severity": "warn"}
    assert "spectrum: {severity: warn}  # a good one exceeds the built-in limit (up to 0." in found["snippet"]
    gates = {each["quantity"]: each["gate"] for each in found["quantities"]}
    assert (gates["spectrum"], gates["drift"], gates["correlation_traps"]) == ("warn", "none", "limit")
    assert found["n_limits_with_rate"] == 0
    assert any(line.startswith("The built-in limit is exceeded by good ones") for line in found["statements"])


@pytest.mark.parametrize("profile", ["compression", "finetune"])
def test_strangers_switch_the_weights_off(folder: Path, capsys: Capture, profile: str) -> None:
    """Runs from scratch lie as far apart as damaged ones: a limit on that distance would be blind."""
    paths = []
    for seed in range(5):
        paths.append(folder / f"s{seed}.safetensors")
        save_file(healthy_tensors(seed), paths[-1])
    text = run(capsys, "calibrate", *paths, "--rate=0.05", f"--profile={profile}")
    pasted = yaml.safe_load(snippet_of(text))
    assert pasted["regression"]["weights"] is False
    assert pasted.get("model") == ({"regression": {"weights": False}} if profile == "compression" else None)
    assert "apart, unrelated weights 1.41: it tells nothing" in text
    assert "can tell nothing and is switched off: weights." in text
    assert "Odd one out" not in text


def test_the_odd_one_is_named(folder: Path, good: list[Path], capsys: Capture) -> None:
    bad = write_good(folder / "bad.safetensors", 9, head=healthy_tensors(3)["head.weight"])
    found = run_json(capsys, "calibrate", good[0], good[1], bad)
    assert (found["odd_one"]["path"], found["odd_one"]["quantity"]) == (str(bad), "weights")
    assert found["odd_one"]["gap"] > 1.0
    assert found["odd_one"]["spread"] < 0.2
    text = run(capsys, "calibrate", good[0], good[1], bad)
    assert f"Odd one out: {bad}. By weights it lies 1." in text
    assert "leave it out" in text
    assert f"Odd one out: {bad}" in run(capsys, "calibrate", *good[1:3], bad, "--baseline", good[0])
    text = run(capsys, "calibrate", bad, *good[:2])
    assert f"Odd one out: {bad}" in text
    assert "it is the reference" in text
    assert run_json(capsys, "calibrate", *good)["odd_one"] is None
    assert run_json(capsys, "calibrate", good[0], bad)["odd_one"] is None


def test_layers_left_out_are_left_out_of_the_gate(folder: Path, capsys: Capture) -> None:
    paths = [write_good(folder / "a.safetensors", 0), write_good(folder / "b.safetensors", 1, head=noise())]
    text = run(capsys, "calibrate", *paths, "--exclude=he*")
    assert yaml.safe_load(snippet_of(text))["analysis"] == {"exclude": ["he*"]}
    (folder / "ww.yaml").write_text(f"version: 1\n{snippet_of(text)}", encoding="utf-8")
    assert fails_at(capsys, paths[1], paths[0], folder / "ww.yaml") == set()


def test_little_coverage_only_warns(folder: Path, capsys: Capture) -> None:
    odd = {"rotation.weight": np.ones((300, 300), dtype=np.int32)}
    paths = [write_moved(folder / f"g{seed}.safetensors", seed, 0.01 * seed) for seed in range(2)]
    for path in paths:
        save_file({**load_file(path), **odd}, path)
    found = run_json(capsys, "calibrate", *paths)
    assert yaml.safe_load(found["snippet"])["checks"]["coverage"] == {"severity": "warn"}
    (folder / "ww.yaml").write_text(f"version: 1\n{found['snippet']}", encoding="utf-8")
    assert fails_at(capsys, paths[1], paths[0], folder / "ww.yaml") == set()


def test_a_recorded_baseline_with_another_layer_is_refused(
    pytester: pytest.Pytester, folder: Path, good: list[Path], capsys: Capture
) -> None:
    """The gate would miss the layer in every run."""
    more = write_good(folder / "more.safetensors", 20, extra=noise())
    recorded = ("-p", "no:cacheprovider", f"--ww-model={more}", "--ww-baseline=m.ww.json", "--ww-update-baseline")
    assert pytester.runpytest(*recorded).ret == 0
    capsys.readouterr()
    text = run(capsys, "calibrate", *good[:3], "--baseline=m.ww.json", code=4)
    assert "'extra' is not the same in both" in text
    assert run(capsys, "calibrate", *good[:3], "--baseline=m.ww.json", "--exclude=extra")


def test_a_file_is_written(folder: Path, good: list[Path], capsys: Capture) -> None:
    assert run(capsys, "calibrate", *good, "--output=c.json") == ""
    found = json.loads((folder / "c.json").read_text(encoding="utf-8"))
    assert found["command"] == "calibrate"
    run(capsys, "calibrate", *good, "--output=c.txt")
    assert snippet_of((folder / "c.txt").read_text(encoding="utf-8")) == found["snippet"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["g0.safetensors"], "at least 2"),
        (["g0.safetensors", "g1.safetensors", "g0.safetensors"], "a copy teaches nothing"),
        (["g0.safetensors", "g1.safetensors", "--baseline=g1.safetensors"], "a copy teaches nothing"),
        (["g0.safetensors", "other.safetensors"], "'extra' is not the same in both"),
        (["g0.safetensors", "g1.safetensors", "--baseline=other.safetensors"], "'extra' is not the same in both"),
        (["g0.safetensors", "damaged.safetensors"], "layer 'head'"),
        (["g0.safetensors", "biased.safetensors"], "NaN or infinite values in head.bias"),
        (["g0.safetensors", "none.safetensors"], "none.safetensors"),
        (["g0.safetensors", "g1.safetensors", "--baseline=none.json"], "none.json"),
        (["g0.safetensors", "g1.safetensors", "--exclude=*"], "no weight matrix"),
        (["g0.safetensors", "g1.safetensors", "--rate=0"], "between 0 and 1"),
        (["g0.safetensors", "g1.safetensors", "--rate=nan"], "between 0 and 1"),
        (["g0.safetensors", "g1.safetensors", "--rate=1%"], "expected a number"),
        (["g0.safetensors", "g1.safetensors", "--profile=lora"], "invalid choice"),
        (["g0.safetensors", "g1.safetensors", "--format=csv"], "invalid choice"),
        (["g0.safetensors", "g1.safetensors", "--output=g1.safetensors"], "no place for a report"),
    ],
)
def test_bad_input(folder: Path, good: list[Path], capsys: Capture, arguments: list[str], problem: str) -> None:
    write_good(folder / "other.safetensors", 20, extra=noise())
    write_good(folder / "damaged.safetensors", 21, head=with_element(np.nan))
    write_model(folder / "biased.safetensors", head__bias=np.full(96, np.nan, dtype=np.float32))
    before = sorted(folder.iterdir())
    text = run(capsys, "calibrate", *arguments, code=4)
    assert problem in text
    assert text.count("\n") == 1
    assert sorted(folder.iterdir()) == before
