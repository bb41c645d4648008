"""The command line of ww-gate: its options are the core's, its errors one sentence, its start quick."""

from __future__ import annotations

import json
import re
import signal
import struct
import subprocess
import sys
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

import spectral
from pytest_weightwatcher.console import parser as command_line
from pytest_weightwatcher.console.cells import HEADINGS as COLUMN_HEADINGS
from pytest_weightwatcher.console.compare import COLUMNS as COMPARED
from pytest_weightwatcher.console.describe import COLUMNS as DESCRIBED
from pytest_weightwatcher.console.flags import FLAGS, HEADINGS, chosen_options
from pytest_weightwatcher.console.main import main
from pytest_weightwatcher.console.parser import make_parser
from spectral.adapters import AdapterMode
from spectral.analysis import analyze, describe
from spectral.model_distances import DistanceMethod
from spectral.options import AnalysisOptions
from spectral.subspaces import N_LEADING
from spectral.tail_fit import FIX_FINGERS, LAWS
from tests.gate.console import ROOT, run, write_model
from tests.gate.test_bad_input import snapshot

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model.safetensors")


def options_of(*arguments: str) -> dict[str, Any]:
    return chosen_options(make_parser().parse_args(["analyze", "model", *arguments]))


# the same options as the core


def test_there_is_a_flag_for_each_option_with_its_default() -> None:
    assert {flag.option: flag.default for flag in FLAGS} == {
        # What projections are kept for is baselines: analyze has nothing to show of them.
        option.name: option.default
        for option in fields(AnalysisOptions)
        if option.name != "projections"
    }
    assert len({flag.name for flag in FLAGS}) == len(FLAGS)
    assert {flag.group for flag in FLAGS} == set(HEADINGS)


def test_choices_are_those_of_the_core() -> None:
    choices = {flag.option: flag.choices for flag in FLAGS if flag.choices}
    assert choices == {
        "fit": tuple(LAWS),
        "fix_fingers": tuple(name for name in FIX_FINGERS if name),
        "channels": ("first", "last"),
    }
    assert get_args(DistanceMethod) == command_line.METHODS
    assert get_args(AdapterMode) == command_line.PEFT_MODES
    assert command_line.N_LEADING == N_LEADING


VALUES = {
    "layers": ("dense", ("dense",)),
    "exclude": ("*x*", ("*x*",)),
    "fit": ("TPL", "TPL"),
    "fix_fingers": ("clip_xmax", "clip_xmax"),
    "channels": ("last", "last"),
    "xmax": ("-3", -3),
    "xmin_max": ("2.5", 2.5),
    "finger_thresh": ("0.5", 0.5),
    "tolerance": ("1e-5", 1e-5),
    "false_alarm_rate": ("0.05", 0.05),
}


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.option)
def test_each_flag_sets_its_option(flag: Any) -> None:
    if flag.parse is None:
        assert options_of(flag.name) == {flag.option: not flag.default}
    else:
        text, value = VALUES.get(flag.option, ("77", 77))
        assert options_of(flag.name, text) == {flag.option: value}
        law = "E_TPL" if flag.option == "xmin_max" else "PL"
        AnalysisOptions().changed({"fit": law, flag.option: value})


def test_nothing_given_is_nothing_chosen() -> None:
    assert options_of() == {}


def test_layers_are_ids_or_names() -> None:
    assert options_of("--layers", "-3", "--layers=-emb*", "--layers", "7", "--layers=fc1") == {
        "layers": (-3, "-emb*", 7, "fc1")
    }
    assert options_of("--xmax=force") == {"xmax": "force"}


def test_columns_that_are_named_in_advance_exist(model: Path) -> None:
    known = {*analyze(model).details.columns, *describe(model).details.columns, *COMPARED, *DESCRIBED}
    assert set(COLUMN_HEADINGS) <= known
    from pytest_weightwatcher.console import analyze as console

    everything = AnalysisOptions(traps=True, noise_test=True, mp_fit=True, bootstrap=20)
    assert set(console._shown(everything)) - {console.NOTE} <= set(console._columns(describe(model, everything)))
    assert set(console._shown(everything)) >= {"alpha_low", "num_tw_traps", "sigma_mp", "noise_p_value_run"}


# errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["exlpain"], "invalid choice: 'exlpain'"),
        (["analyze"], "the following arguments are required: MODEL"),
        (["compare", "MODEL"], "the following arguments are required: MODEL"),
        (["analyze", ""], "argument MODEL: the value is empty"),
        (["analyze", "MODEL", "--min-eval=3"], "unknown argument --min-eval=3; did you mean --min-evals?"),
        (["describe", "MODEL", "--traps"], "unknown argument --traps"),
        (["analyze", "MODEL", "--seed=x"], "argument --seed: expected a whole number, got 'x'"),
        (["analyze", "MODEL", "--tolerance=x"], "argument --tolerance: expected a number, got 'x'"),
        (["analyze", "MODEL", "--tolerance=nan"], "tolerance must be a number of at least 0, got nan"),
        (["analyze", "MODEL", "--seed=-1"], "seed must be an integer of at least 0, got -1"),
        (["analyze", "MODEL", "--min-evals=0"], "min_evals must be"),
        (["analyze", "MODEL", "--jobs=0"], "expected a positive number or auto, got '0'"),
        (["analyze", "MODEL", "--top=0"], "expected a number of at least 1, got 0"),
        (["analyze", "MODEL", "--fit=PLL"], "invalid choice: 'PLL'"),
        (["analyze", "MODEL", "--fit=TPL", "--bootstrap=99"], "bootstrap judges a power law"),
        (["analyze", "MODEL", "--no-pool", "--conv2d-fft"], "conv2d_fft and pool=False contradict each other"),
        (["analyze", "MODEL", "--layers=hed"], "'hed' matches no layer; close to it: head"),
        (["analyze", "MODEL", "--layers=9"], "no layer has the id 9; the model has ids from 0 to 3"),
        (["analyze", "MODEL", "--layers=-0"], "layer 0 cannot be dropped by its id"),
        (["analyze", "MODEL", "--columns=alhpa"], "--columns: no column 'alhpa'; did you mean alpha?"),
        (["analyze", "MODEL", "--columns=a,,b"], "expected names with commas between them"),
        (["analyze", "MODEL", "--sort=zzz"], "--sort: no column 'zzz'; there are layer_id, "),
        (["analyze", "MODEL", "--columns=alpha", "--format=json"], "--columns does not go with json"),
        (["analyze", "nope.pt"], "nope.pt: no such file or folder"),
        (["analyze", "MODEL", "nope.pt"], "nope.pt: no such file or folder"),
        (["analyze", "MODEL", "--base-model=nope.pt"], "nope.pt: no such file or folder"),
        (["analyze", "MODEL", "--peft=with_base"], "adapter_config.json"),
        (["compare", "MODEL", "MODEL", "--directions=0"], "k must be an integer of at least 1, got 0"),
        (["compare", "MODEL", "MODEL", "--method=l2"], "invalid choice: 'l2'"),
        (["describe", "MODEL", "--output=."], "is a folder"),
        (["describe", "MODEL", "--output=MODEL"], "is a model"),
        (["describe", "MODEL", "--output=MODEL/x.csv"], "is not a folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_usage_errors(
    model: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(model.parent)
    before = snapshot(model.parent)
    line = run(capsys, *(argument.replace("MODEL", model.name) for argument in arguments), code=4)
    assert message in line
    assert line.startswith("ww-gate")
    assert line.count("\n") == 1
    assert snapshot(model.parent) == before


@pytest.mark.parametrize("command", ["describe", "analyze", "compare"])
@pytest.mark.parametrize(
    ("name", "content_and_message"),
    [
        ("empty.safetensors", (b"", "empty.safetensors: the file is empty")),
        ("cut.safetensors", (b"\x00\x01", "cut.safetensors: ")),
        ("long.safetensors", (struct.pack("<Q", 2**60) + b"{}", "long.safetensors: ")),
        ("evil.pt", (b"cos\nsystem\n(S'touch harm'\ntR.", "evil.pt: ")),
        ("m.xyz", (b"x", "m.xyz: no loader for .xyz")),
    ],
)
def test_bad_files(
    model: Path, capsys: Capture, command: str, name: str, content_and_message: tuple[bytes, str]
) -> None:
    content, message = content_and_message
    (model.parent / name).write_bytes(content)
    before = snapshot(model.parent)
    base = [model] if command == "compare" else []
    line = run(capsys, command, *base, model, model.parent / name, "--output", model.parent / "out.csv", code=4)
    assert line.startswith(f"ww-gate: error: {model.parent}/{message}")
    assert line.count("\n") == 1
    assert snapshot(model.parent) == before


def test_models_of_different_architecture(model: Path, tmp_path: Path, capsys: Capture) -> None:
    from tests.gate.console import write_named

    other = write_named(tmp_path / "other.safetensors", {"conv.weight": np.ones((4, 4, 3, 3)), "fc.weight": np.eye(70)})
    line = run(capsys, "compare", model, other, code=4)
    assert "are not of one architecture: they hold 2 and 4 tensors" in line
    assert "only in the first: conv.weight, fc.weight" in line
    assert "only in the second: encoder.0.key.weight" in line


def test_no_layer_in_common_among_those_chosen(model: Path, tmp_path: Path, capsys: Capture) -> None:
    other = write_model(tmp_path / "o.safetensors", extra__weight=np.ones((60, 50), np.float32))
    assert "no layer among those chosen is in both" in run(capsys, "compare", model, other, "--layers=extra", code=4)


def test_a_model_without_matrices(tmp_path: Path, capsys: Capture) -> None:
    header = json.dumps({"bias": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    assert "holds no weight matrix" in run(capsys, "analyze", path, code=4)
    assert "0 matrices, 0.0% of the parameters analysed" in run(capsys, "describe", path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "link.csv", "shards/1.bin"])
def test_no_part_of_a_model_is_written_over(tmp_path: Path, capsys: Capture, name: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    write_model(folder / "model.safetensors")
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "shards").mkdir()
    (folder / "shards" / "1.bin").write_bytes(b"x")
    (folder / "link.csv").symlink_to(folder / "model.safetensors")
    before = snapshot(folder)
    for arguments in (["describe", folder], ["analyze", folder, "--base-model", folder], ["compare", folder, folder]):
        line = run(capsys, *arguments, "--output", folder / name, "--format=csv", code=4)
        assert "no place for a report" in line
    assert snapshot(folder) == before
    run(capsys, "describe", folder, "--output", folder / "layers.csv")
    assert (folder / "layers.csv").exists()


def test_an_error_on_the_way_leaves_the_old_result(
    model: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.csv"
    target.write_text("old", encoding="utf-8")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pytest_weightwatcher.files.os.fsync", full)
    line = run(capsys, "describe", model, "--output", target, code=4)
    assert line == f"ww-gate: error: {target}: cannot be written: No space left on device\n"
    assert target.read_text(encoding="utf-8") == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "out.csv"]


def test_the_other_package_named_spectral(tmp_path: Path) -> None:
    other = tmp_path / "spectral"
    other.mkdir()
    (other / "__init__.py").write_text("", encoding="utf-8")
    code = (
        "import sys; sys.path[:0] = [sys.argv.pop(1)]; from pytest_weightwatcher.__main__ import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", code, str(tmp_path), "describe", "m"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 4
    assert done.stderr.startswith(f"ww-gate: error: the package 'spectral' at {other}")
    assert done.stderr.count("\n") == 1


def test_interrupted(model: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("pytest_weightwatcher.console.progress.NoProgress.__call__", interrupt)
    # A shell that starts the suite in the background has it ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert run(capsys, "analyze", model, code=130) == "ww-gate: interrupted\n"
    finally:
        signal.signal(signal.SIGINT, before)


# start


@pytest.mark.parametrize("arguments", [["--help"], ["analyze", "--help"], ["compare", "--help"], ["--version"], ["x"]])
def test_a_quick_start(arguments: list[str]) -> None:
    code = (
        "import sys; from pytest_weightwatcher.console.main import main; main(sys.argv[1:]); "
        "print([name for name in ('numpy', 'pandas', 'scipy', 'torch', 'pytest', 'pydantic', 'jinja2') "
        "if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_names_every_flag(capsys: Capture) -> None:
    text = run(capsys, "analyze", "--help")
    for flag in FLAGS:
        assert re.search(rf"^  {re.escape(flag.name)}\b", text, re.MULTILINE)
    assert text.isascii()


def test_docs_name_every_flag_and_column(capsys: Capture) -> None:
    docs = (ROOT / "docs/console.md").read_text(encoding="utf-8")
    for flag in FLAGS:
        assert f"`{flag.name}" in docs
    parser = make_parser()
    for command in ("describe", "analyze", "compare"):
        with pytest.raises(SystemExit):
            parser.parse_args([command, "--help"])
    for name in (
        "--base-model",
        "--peft",
        "--jobs",
        "--format",
        "--output",
        "--columns",
        "--sort",
        "--top",
        "--method",
    ):
        assert f"`{name}" in docs
    for column in COMPARED[7:-1]:
        assert f"`{column}`" in docs


def test_version(capsys: Capture) -> None:
    assert run(capsys, "--version") == f"ww-gate {spectral.__version__}\n"


def test_as_a_module(model: Path) -> None:
    command = [sys.executable, "-m", "pytest_weightwatcher", "describe", str(model), "--format=json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert len(json.loads(done.stdout)["models"][0]["layers"]) == 4
    failed = subprocess.run([*command[:4], "nope"], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (failed.returncode, failed.stdout) == (4, "")
    assert failed.stderr == "ww-gate: error: nope: no such file or folder\n"


def test_the_script_of_the_package_is_main() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^\[project\.scripts\]\nww-gate = "([\w.]+):(\w+)"$', project, re.MULTILINE)
    assert found is not None
    assert getattr(import_module(found[1]), found[2]) is main
