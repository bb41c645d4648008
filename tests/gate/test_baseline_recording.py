"""--ww-update-baseline and --ww-update-new-only, end to end: what is recorded, when, and what is left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.gate.baseline_files import (
    failing_ids,
    failing_layers,
    head,
    payload_of,
    resealed,
    result_of,
    save,
    with_one_weight,
)
from tests.gate.conftest import COMPARE, LAYERS, RECORD, MakeModel, healthy_tensors, noise


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
