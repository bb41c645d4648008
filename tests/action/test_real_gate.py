"""The Action with the real plugin on small checkpoints: what a workflow would see."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.action.conftest import Project, become_pull_request, pull_request
from tests.action.harness import Harness, Outcome
from tests.action.rest_server import Rest
from tests.gate.conftest import flat, healthy_tensors, noise

LOOSE = "version: 1\nregression: {spectrum: false, weights: false, alpha: false, noise: false, effective_rank: false}\n"
HOSTILE = (
    "::error::pwned",
    '"><img src=x onerror=alert(1)>',
    "<script>alert(1)</script>",
    "a|b`c",
    "n" * 10_000,
    "\u202e🔥",
)


def run_gate(harness: Harness, **inputs: str) -> Outcome:
    return harness.run(python=sys.executable, install="false", comment="off", **inputs)


def write_model(path: Path, **changes: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(healthy_tensors() | {f"{name}.weight": values for name, values in changes.items()}, path)


def record(folder: Path, model: str, baseline: str) -> None:
    """Record a baseline as somebody does on their own machine."""
    arguments = [f"--ww-model={model}", f"--ww-baseline={baseline}", "--ww-update-baseline"]
    subprocess.run(
        [sys.executable, "-I", "-m", "pytest", "-q", *arguments], cwd=folder, check=True, capture_output=True
    )


@pytest.fixture
def recorded(harness: Harness) -> Harness:
    write_model(harness.workspace / "good.safetensors")
    record(harness.workspace, "good.safetensors", "good.ww.json")
    return harness


def test_a_good_checkpoint_passes(recorded: Harness) -> None:
    write_model(recorded.workspace / "out" / "new model.safetensors")
    outcome = run_gate(recorded, model="out/*.safetensors", baseline="good.ww.json")
    assert not outcome.is_failed
    assert outcome.outputs["outcome"] == "pass"
    assert "Compared with <code>good.ww.json</code>" in outcome.summary.replace("&#46;", ".")
    result = json.loads(Path(outcome.outputs["report-json"]).read_text(encoding="utf-8"))
    assert result["outcome"] == "pass"


def test_a_warning_passes_unless_warnings_shall_fail(harness: Harness) -> None:
    write_model(harness.workspace / "model.safetensors", head=flat())
    outcome = run_gate(harness, model="model.safetensors")
    assert not outcome.is_failed
    assert (outcome.outputs["outcome"], outcome.outputs["failed"]) == ("warn", "0")
    assert outcome.of("warning")
    outcome = run_gate(harness, model="model.safetensors", fail_on="warn")
    assert outcome.is_failed


def test_a_regression_fails_and_names_the_layer(recorded: Harness) -> None:
    write_model(recorded.workspace / "bad.safetensors", **{"encoder.0.key": noise()})
    outcome = run_gate(recorded, model="bad.safetensors", baseline="good.ww.json")
    assert outcome.is_failed
    assert outcome.outputs["outcome"] == "fail"
    assert int(outcome.outputs["failed"]) >= 3
    assert "encoder.0.key" in outcome.of("error")[0].message
    assert "encoder.0.key" in outcome.summary


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({"model": "good.safetensors", "baseline": "missing.ww.json"}, "missing.ww.json"),
        ({"model": "missing.safetensors"}, "missing.safetensors: no such file"),
        ({"model": "evil.pt"}, "evil.pt"),
        ({"model": "good.safetensors", "config": "bad.yaml"}, "bad.yaml"),
        ({}, "ww.yaml: no such file"),
    ],
    ids=["missing baseline", "missing model", "unsafe checkpoint", "bad ww.yaml", "no model"],
)
def test_unusable_input_is_an_error_in_one_sentence(harness: Harness, inputs: dict[str, str], expected: str) -> None:
    write_model(harness.workspace / "good.safetensors")
    (harness.workspace / "bad.yaml").write_text("version: 1\nchekcs: {}\n", encoding="utf-8")
    (harness.workspace / "evil.pt").write_bytes(pickle.dumps(_Touch()))
    outcome = run_gate(harness, **inputs)
    assert outcome.is_failed
    assert outcome.outputs["outcome"] == "error"
    assert expected in outcome.of("error")[0].message
    assert not (harness.workspace / "pwned").exists()


class _Touch:
    """What a hostile checkpoint would run when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (_touch, ("pwned",))


def _touch(name: str) -> None:
    Path(name).touch()


@pytest.mark.parametrize("event_name", ["push", "schedule", "workflow_run"])
def test_events_without_a_pull_request(recorded: Harness, event_name: str) -> None:
    recorded.event_name = event_name
    assert not run_gate(recorded, model="good.safetensors").is_failed


def test_code_and_settings_of_the_pull_request_are_not_run(harness: Harness) -> None:
    write_model(harness.workspace / "model.safetensors", head=np.full((96, 64), np.nan, dtype=np.float32))
    trap = "import pathlib; pathlib.Path('pwned').touch(); raise SystemExit(0)\n"
    for name in ("conftest.py", "numpy.py", "pytest.py", "action.py", "sitecustomize.py", "json.py"):
        (harness.workspace / name).write_text(trap, encoding="utf-8")
    (harness.workspace / "pytest.ini").write_text(
        "[pytest]\nww_fail_on = never\naddopts = -p no:ww\n", encoding="utf-8"
    )
    outcome = run_gate(harness, model="model.safetensors")
    assert outcome.outputs["outcome"] == "fail"
    assert not (harness.workspace / "pwned").exists()


def test_a_pull_request_cannot_loosen_its_own_limits(harness: Harness, project: Project) -> None:
    write_model(harness.workspace / "good.safetensors")
    record(harness.workspace, "good.safetensors", "good.ww.json")
    base = project.commit({"ww.yaml": "version: 1\nmodels: [{path: out/*.safetensors, baseline: good.ww.json}]\n"})
    (harness.workspace / ".gitignore").write_text("out\n", encoding="utf-8")
    project.commit({"ww.yaml": f"{LOOSE}models: [{{path: out/*.safetensors, baseline: good.ww.json}}]\n"})
    write_model(harness.workspace / "out" / "new.safetensors", **{"encoder.0.key": noise()})
    harness.event_name, harness.event = "pull_request", pull_request(base)
    outcome = run_gate(harness)
    assert outcome.outputs["outcome"] == "fail"
    assert "by the files of the base branch" in outcome.summary
    assert "**fail**" in outcome.summary
    assert "by the files of the base branch" in outcome.of("error")[0].properties["title"]
    held = {path.name for path in Path(outcome.uses[0][1]["path"]).iterdir()}
    assert {"base-report.json", "base-report.md", "report.json", "comment.md"} <= held


def test_a_model_in_shards_is_found_in_the_view_of_the_base_too(harness: Harness, project: Project) -> None:
    tensors = healthy_tensors()
    folder = harness.workspace / "out" / "model"
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model-00001-of-00001.safetensors")
    places = dict.fromkeys(tensors, "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}), encoding="utf-8")
    base = project.commit({"ww.yaml": "version: 1\n", ".gitignore": "out\n"})
    project.commit({"ww.yaml": "version: 1\nchecks: {alpha: {max: 7, severity: warn}}\n"})
    harness.event_name, harness.event = "pull_request", pull_request(base)
    outcome = run_gate(harness, model="out/model")
    assert outcome.outputs["config-changed"] == "true"
    assert outcome.outputs["outcome"] == "pass", outcome.log


def test_a_fork_is_judged_and_its_comment_left_in_a_file(harness: Harness, project: Project, rest: Rest) -> None:
    tensors = {f"{name}.weight": noise(seed=seed) for seed, name in enumerate(HOSTILE)}
    tensors["dead.weight"] = np.zeros((96, 64), dtype=np.float32)
    save_file(tensors, harness.workspace / "model.safetensors")
    base = project.commit({"a": "b"})
    harness.event_name, harness.event = "pull_request", pull_request(base, head="mallory/project")
    harness.api_url, rest.refuse = rest.url, {"GET": 403}
    outcome = harness.run(python=sys.executable, install="false", model="model.safetensors")
    assert outcome.outputs["outcome"] == "fail"
    assert any("from a fork" in order.message for order in outcome.of("notice"))
    text = Path(outcome.outputs["comment-file"]).read_text(encoding="utf-8")
    for mark in ("<script", "<img", "a|b", "::error::"):
        assert mark not in text
        assert mark not in outcome.summary
    assert not any(order.message.startswith("pwned") for order in outcome.orders)


def test_the_comment_of_a_regression_of_300_layers_fits(harness: Harness, rest: Rest) -> None:
    rng = np.random.default_rng(0)
    good = {
        f"model.layers.{n}.self_attn.q_proj.weight": rng.normal(size=(64, 64)).astype(np.float32) for n in range(300)
    }
    save_file(good, harness.workspace / "good.safetensors")
    save_file({name: values * np.float32(3) for name, values in good.items()}, harness.workspace / "bad.safetensors")
    harness.api_url = rest.url
    become_pull_request(harness)
    harness.extra = {"GIT_CEILING_DIRECTORIES": str(harness.workspace.parent)}
    outcome = harness.run(python=sys.executable, install="false", model="bad.safetensors", baseline="good.safetensors")
    assert outcome.outputs["outcome"] == "fail"
    assert int(outcome.outputs["failed"]) >= 300
    (comment,) = rest.comments
    assert len(comment["body"].encode()) <= 65_536
    assert "300" in comment["body"]
    assert len(outcome.of("error", "warning", "notice")) <= 10
    assert "comment: created" in outcome.log


def test_tests_of_a_pull_request_are_never_imported(harness: Harness) -> None:
    """Without a model by name pytest would collect the workspace, and a test file could forge the verdict."""
    write_model(harness.workspace / "good.safetensors")
    (harness.workspace / "ww.yaml").write_text("version: 1\nmodels: [{path: good.safetensors}]\n", encoding="utf-8")
    (harness.workspace / "test_x.py").write_text("open('PWNED', 'w'); import os; os._exit(0)\n", encoding="utf-8")
    outcome = harness.run(python=sys.executable, install="false", comment="off")
    assert not (harness.workspace / "PWNED").exists()
    assert outcome.outputs["outcome"] in ("pass", "warn")


def test_a_package_of_a_pull_request_is_never_imported(harness: Harness, project: Project) -> None:
    """pytest makes a package of every folder with an ``__init__.py`` on the way to ww.yaml, and would import it."""
    write_model(harness.workspace / "bad.safetensors", **{"encoder.0.key": np.zeros((96, 64), np.float32)})
    yaml = "version: 1\nmodels: [{path: %sbad.safetensors}]\n"
    base = project.commit({"ww.yaml": yaml % "", "cfg/ww.yaml": yaml % "../"})
    trap = f"open({str(harness.temp / 'pwned')!r}, 'w')\nimport os\nos._exit(0)\n"
    project.commit({"__init__.py": trap, "cfg/__init__.py": trap})
    harness.event_name, harness.event = "pull_request", pull_request(base)
    for inputs in ({}, {"config": "cfg/ww.yaml"}, {"model": "bad.safetensors"}):
        outcome = run_gate(harness, **inputs)
        assert outcome.outputs["outcome"] == "fail"
        assert outcome.is_failed
        assert not (harness.temp / "pwned").exists()


@pytest.mark.parametrize("args", ["-vn2", "-p\nxdist.plugin\n-vn2"])
def test_no_workers_are_started_in_the_workspace(harness: Harness, args: str) -> None:
    """The Python of a worker of pytest-xdist runs without -I, and looks for execnet in the workspace first."""
    pytest.importorskip("xdist")
    write_model(harness.workspace / "good.safetensors")
    trap = harness.workspace / "execnet" / "__init__.py"
    trap.parent.mkdir()
    trap.write_text(f"open({str(harness.temp / 'pwned')!r}, 'w')\n", encoding="utf-8")
    outcome = run_gate(harness, model="good.safetensors", args=args)
    assert outcome.outputs["outcome"] == "error"
    assert not (harness.temp / "pwned").exists()


@pytest.mark.parametrize(
    "baseline", ["merge-base", "merge-base:accepted/model.safetensors", "accepted/model.safetensors"]
)
def test_a_model_is_no_baseline_because_it_has_its_name(harness: Harness, project: Project, baseline: str) -> None:
    for folder in ("accepted", "out"):
        write_model(harness.workspace / folder / "model.safetensors")
    yaml = "version: 1\nmodels: [{path: ../out/model.safetensors, baseline: ../accepted/model.safetensors}]\n"
    base = project.commit({"cfg/ww.yaml": yaml})
    write_model(harness.workspace / "out" / "model.safetensors", **{"encoder.0.key": noise()})
    project.commit({})
    harness.event_name, harness.event = "pull_request", pull_request(base)
    outcome = run_gate(harness, config="cfg/ww.yaml", baseline=baseline)
    assert outcome.outputs["outcome"] == "fail"
    assert outcome.outputs["config-changed"] == "false"
