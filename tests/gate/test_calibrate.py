"""ww-gate calibrate: limits from good checkpoints that a further good one passes, and a bad one does not."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

import spectral
from pytest_weightwatcher.calibration import prediction_bound
from pytest_weightwatcher.config import load_config
from pytest_weightwatcher.good_runs import N_LIMITS, QUANTITIES
from tests.gate.conftest import healthy_tensors, noise
from tests.gate.console import run, run_json, with_element, write_model

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
    assert "Known-good runs: 5; false alarms: at most 0.01 of good runs." in text
    assert "where none of 5 good runs exceeds a limit, its rate of false alarms is below 45.1%" in text
    assert "to show 0.01 takes 299 runs" in text
    text = run(capsys, "calibrate", *good, "--rate=0.3")
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
    left_out = run_json(capsys, "calibrate", *good, trapped, "--exclude=head")
    (traps,) = (each for each in left_out["quantities"] if each["quantity"] == "correlation_traps")
    assert traps["limit"] == 0


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
    before = sorted(folder.iterdir())
    text = run(capsys, "calibrate", *arguments, code=4)
    assert problem in text
    assert text.count("\n") == 1
    assert sorted(folder.iterdir()) == before
