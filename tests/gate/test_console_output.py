"""Formats, terminals, pipes and files of ww-gate; names that try to act in each of them."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pytest_weightwatcher.console.cells import (
    display_width,
    format_csv,
    format_value,
    shorten,
    shorten_name,
)
from pytest_weightwatcher.console.document import Document, Section, Table, Value
from pytest_weightwatcher.console.progress import ProgressLine, progress_line
from pytest_weightwatcher.console.rendering import render_csv, render_markdown
from pytest_weightwatcher.console.text import render_text
from tests.gate.conftest import healthy_tensors
from tests.gate.console import ROOT, run, run_json, write_model, write_named

Capture = pytest.CaptureFixture[str]

HOSTILE = (
    "=cmd|' /C calc'!A0",
    "+1+cmd",
    "-2+3",
    "@SUM(A1)",
    "\uff1d1+1",
    "a\nb::error::c",
    "\x1b[31mred\x1b[0m",
    "pipe|`code`<script>",
    "\u202eright to left",
    "\x9b2J",
    "bell\x07\x7f",
    'quote",comma',
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model.safetensors")


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    values = np.asarray(next(iter(healthy_tensors().values())))
    return write_named(tmp_path / "hostile.safetensors", dict.fromkeys(HOSTILE, values))


# names from files


@pytest.mark.parametrize("kind", ["table", "csv", "json", "md"])
@pytest.mark.parametrize("command", ["describe", "analyze", "compare"])
def test_no_name_can_act(hostile: Path, capsys: Capture, command: str, kind: str) -> None:
    models = (hostile, hostile) if command == "compare" else (hostile,)
    text = run(capsys, command, *models, f"--format={kind}")
    assert all(character.isprintable() or character == "\n" for character in text)
    assert not any(line.startswith(("::", "b::")) for line in text.splitlines())


def test_json_gives_names_back_as_they_are(hostile: Path, capsys: Capture) -> None:
    (payload,) = run_json(capsys, "describe", hostile)["models"]
    assert sorted(layer["name"] for layer in payload["layers"]) == sorted(HOSTILE)


def test_no_cell_of_csv_is_a_formula(hostile: Path, capsys: Capture) -> None:
    for row in csv.DictReader(io.StringIO(run(capsys, "analyze", hostile, "--format=csv"))):
        for value in row.values():
            assert not value.startswith(("=", "+", "@", "\uff1d"))
            if value.startswith("-"):
                float(value)


def test_markdown_keeps_names_in_their_cells(hostile: Path, capsys: Capture) -> None:
    text = run(capsys, "describe", hostile, "--format=md")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "<code>" in line]
    assert len(rows) == len(HOSTILE)
    assert len({line.count("|") for line in rows}) == 1
    assert "<script>" not in text
    assert "`" not in text


def test_hostile_paths(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "a\n::error::\x1b[31m.safetensors"
    line = run(capsys, "describe", path, code=4)
    assert line.count("\n") == 1
    assert "\\n::error::\\x1b[31m.safetensors: no such file or folder" in line
    write_model(path)
    assert "\x1b" not in run(capsys, "describe", path)


# values


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0"),
        (-0.0, "0"),
        (3.14159, "3.142"),
        (2.0, "2.000"),
        (1234.5678, "1235"),
        (123456.7, "1.235e+05"),
        (1e-12, "1.000e-12"),
        (-0.00012345, "-0.0001234"),
        (123456, "123456"),
        (True, "yes"),
        ((384, 1536), "384x1536"),
        ("a\tb", "a\\tb"),
    ],
)
def test_values_for_people(value: object, text: str) -> None:
    assert format_value(value) == text  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (0.1 + 0.2, "0.30000000000000004"), (-1.5, "-1.5"), (7, "7"), ((2, 3), "2x3"), (" =1", "' =1")],
)
def test_values_for_programs(value: object, text: str) -> None:
    assert format_csv(value) == text  # type: ignore[arg-type]


def test_a_long_text_is_cut() -> None:
    assert len(format_value("x" * 1000)) == 300


@pytest.mark.parametrize(
    ("name", "width", "text"),
    [
        ("encoder.layer.11.attention.self.key", 40, "encoder.layer.11.attention.self.key"),
        ("encoder.layer.11.attention.self.key", 30, "e.layer.11.attention.self.key"),
        ("encoder.layer.11.attention.self.key", 18, "e.l.11.a.self.key"),
        ("encoder.layer.11.attention.self.key", 10, "e.l.…s.key"),
        ("a" * 50, 11, "aaaaa…aaaaa"),
    ],
)
def test_names_are_abbreviated_from_the_left(name: str, width: int, text: str) -> None:
    assert shorten_name(name, width) == text
    assert display_width(text) <= width


@pytest.mark.parametrize("width", range(12))
def test_no_text_is_wider_than_it_may_be(width: int) -> None:
    for text in ("層" * 20, "e\u0301" * 20, "plain text that is long"):
        assert display_width(shorten(text, width)) <= width


# terminals


def document(n_columns: int = 5) -> Document:
    names = tuple(f"metric_{number}" for number in range(n_columns))
    rows: tuple[dict[str, Value], ...] = tuple(
        {"layer_id": place, "longname": name, **dict.fromkeys(names, 1.0 + place)}
        for place, name in enumerate(["encoder.layer.0.attention.self.query", "層.重み"])
    )
    table = Table(columns=("layer_id", "longname", *names), rows=rows, shown=("layer_id", "longname", *names[::-1]))
    return Document(payload={}, sections=(Section(model="m", layers=table),))


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_lines_fit_and_what_does_not_is_named(width: int) -> None:
    lines = render_text(document(12), width=width).splitlines()
    assert all(display_width(line) <= width for line in lines)
    shown = [name for name in lines[2].split() if name.startswith("metric")]
    hidden = " ".join(lines).partition("No room for ")[2].partition(":")[0].replace(",", "").split()
    # The most telling columns (here the last) are kept, and shown in the order of the table.
    assert [*shown[::-1], *hidden] == [f"metric_{number}" for number in range(11, -1, -1)]
    assert shown


def test_columns_stand_in_line_beside_wide_characters() -> None:
    lines = render_text(document(2), width=None).splitlines()
    assert len({display_width(line) for line in lines[2:5]}) == 1


def test_no_width_shows_everything() -> None:
    assert "No room" not in render_text(document(40), width=None)


def test_an_empty_table() -> None:
    empty = Document(payload={}, sections=(Section(model="m", layers=Table(columns=("a",), rows=())),))
    assert "(none)" in render_text(empty, width=20)
    assert "(none)" in render_markdown(empty)
    assert render_csv(empty) == "model,a\n"


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals")
@pytest.mark.parametrize("colour", [True, False], ids=["colour", "NO_COLOR"])
def test_on_a_real_terminal(model: Path, colour: bool) -> None:
    import pty

    write_model(model, head__weight=np.zeros((96, 64), np.float32))
    master, slave = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS")}
    environment |= {"TERM": "xterm"} | ({} if colour else {"NO_COLOR": "1"})
    command = [sys.executable, "-m", "pytest_weightwatcher", "analyze", str(model)]
    with subprocess.Popen(command, stdout=slave, stderr=slave, cwd=ROOT, env=environment) as process:
        os.close(slave)
        chunks = []
        while True:
            try:
                chunks.append(os.read(master, 65536))
            except OSError:  # the other end is closed
                break
            if not chunks[-1]:
                break
        assert process.wait() == 0
    os.close(master)
    text = b"".join(chunks).decode()
    assert "\r\x1b[K[" in text
    assert "[....................] 0/4 model.safetensors" in text
    # The line of the progress is taken away before the result begins.
    progress, _, result = text.rpartition("\x1b[K")
    assert "4/4" in progress
    assert result.startswith("\x1b[1m" if colour else str(model))
    assert ("\x1b[31mfailed" in result) == colour
    assert ("\x1b" in result) == colour


def test_piped_output_is_plain(model: Path) -> None:
    command = [sys.executable, "-m", "pytest_weightwatcher", "analyze", str(model)]
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    done = subprocess.run(command, capture_output=True, check=True, cwd=ROOT, env=environment)
    assert done.stderr == b""
    assert b"\x1b" not in done.stdout
    assert b"No room" not in done.stdout


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_progress_shows_counts_and_is_no_wider_than_the_line() -> None:
    stream, now = Terminal(), iter(np.arange(0.0, 10.0, 0.06).tolist())
    line = ProgressLine(stream, width=50, clock=lambda: next(now))
    line.begin("model", 4)
    for n_done in range(1, 5):
        line(n_done, 4, f"layer\x1b[31m.{n_done}" * 10)
    states = stream.getvalue().split("\r\x1b[K")[1:]
    # 0.06 s apart, every second one is shown, and the last in any case.
    assert [state.split()[1] for state in states] == ["0/4", "2/4", "4/4"]
    assert states[-1].startswith("[####################] 4/4 model l")
    assert all(len(state) <= 49 and state.isprintable() for state in states)


def test_progress_is_silent_beside_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, term in ((io.StringIO(), "xterm"), (Terminal(), "dumb")):
        monkeypatch.setenv("TERM", term)
        with progress_line(stream) as line:
            line.begin("model", 2)
            line(1, 2, "layer")
        assert stream.getvalue() == ""


def test_progress_is_taken_away_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()

    def fail() -> None:
        with progress_line(stream) as line:
            line.begin("model", 2)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert stream.getvalue().endswith("\r\x1b[K")


# pipes and files


def test_a_pipe_that_nobody_reads(model: Path) -> None:
    command = [sys.executable, "-m", "pytest_weightwatcher", "describe", str(model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(model: Path) -> None:
    command = [sys.executable, "-m", "pytest_weightwatcher", "describe", str(model)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False, cwd=ROOT, text=True)
    assert done.returncode == 4
    assert done.stderr == "ww-gate: error: the standard output cannot be written: No space left on device\n"


def test_an_ascii_terminal(tmp_path: Path) -> None:
    values = np.asarray(next(iter(healthy_tensors().values())))
    path = write_named(tmp_path / "m.safetensors", {"層": values})
    for kind in ("table", "csv", "json", "md"):
        command = [sys.executable, "-m", "pytest_weightwatcher", "describe", str(path), f"--format={kind}"]
        environment = os.environ | {"PYTHONIOENCODING": "ascii"}
        done = subprocess.run(command, capture_output=True, check=True, cwd=ROOT, env=environment)
        text = done.stdout.decode("ascii")
        assert kind == "md" or "\\u5c64" in text
        if kind == "json":
            assert json.loads(text)["models"][0]["layers"][0]["name"] == "層"


@pytest.mark.parametrize(
    ("name", "begin"), [("o.csv", "model,layer_id"), ("o.JSON", "{"), ("o.md", "### <code>"), ("o.txt", "/")]
)
def test_output_takes_its_format_from_the_suffix(
    model: Path, tmp_path: Path, capsys: Capture, name: str, begin: str
) -> None:
    target = tmp_path / "new" / name
    for _ in range(2):  # a result is written over
        assert run(capsys, "describe", model, "--output", target) == ""
        assert target.read_text(encoding="utf-8").startswith(begin)
    assert [path.name for path in target.parent.iterdir()] == [name]
    run(capsys, "describe", model, "--output", target, "--format=csv")
    assert target.read_text(encoding="utf-8").startswith("model,layer_id")


def test_a_file_and_the_terminal_get_the_same(model: Path, tmp_path: Path, capsys: Capture) -> None:
    for kind in ("table", "csv", "json", "md"):
        run(capsys, "analyze", model, f"--format={kind}", "--output", tmp_path / "out")
        assert run(capsys, "analyze", model, f"--format={kind}") == (tmp_path / "out").read_text(encoding="utf-8")


def test_csv_says_on_stderr_what_it_cannot_hold(tmp_path: Path, capsys: Capture) -> None:
    from pytest_weightwatcher.console.main import main

    path = write_model(tmp_path / "m.safetensors", ids=np.ones((1, 512), np.int64))
    for arguments, count in ((["analyze", path], "1 tensor not analysed"), (["compare", path, path], "1 tensor")):
        assert main([*map(str, arguments), "--format=csv"]) == 0
        captured = capsys.readouterr()
        assert count in captured.err
        assert captured.out.count("\n") == 5


# columns and rows


def test_columns_by_name_or_by_heading(model: Path, capsys: Capture) -> None:
    text = run(capsys, "analyze", model, "--columns=stable_rank,evals,alpha", "--format=csv")
    assert text.splitlines()[0] == "model,layer_id,longname,stable_rank,num_evals,alpha"
    header = run(capsys, "analyze", model, "--columns=xmin,type").splitlines()[3]
    assert header.split() == ["id", "layer", "xmin", "type"]
    everything = run(capsys, "describe", model, "--columns=all").splitlines()[3].split()
    assert {"rf", "slice_id", "tensor", "reason"} <= set(everything)


def test_asked_columns_are_never_hidden(model: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert "No room" in run(capsys, "analyze", model)
    text = run(capsys, "analyze", model, "--columns=log_spectral_norm,alpha_weighted,effective_rank")
    assert "No room" not in text
    assert "effective_rank" in text


def test_sort_and_top(tmp_path: Path, capsys: Capture) -> None:
    path = write_model(tmp_path / "m.safetensors", zero__weight=np.zeros((60, 50), np.float32))

    def alphas(*arguments: str) -> list[float | None]:
        (payload,) = run_json(capsys, "analyze", path, *arguments)["models"]
        return [layer["metrics"].get("alpha") for layer in payload["layers"]]

    everything = [alpha for alpha in alphas() if alpha is not None]
    assert alphas("--sort=alpha") == [*sorted(everything), None]
    assert alphas("--sort=alpha:desc") == [*sorted(everything, reverse=True), None]
    assert alphas("--sort=alpha", "--top=2") == sorted(everything)[:2]
    text = run(capsys, "analyze", path, "--sort=layer", "--top=2")
    assert "Shown: 2 of 5 layers by layer." in text
    # The means are those of the model, whatever is shown.
    assert "Means over 5 layers (4 with a fit)" in text
