"""Progress on a terminal, and none elsewhere."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pytest_weightwatcher import live_progress
from pytest_weightwatcher.live_progress import describe, format_duration, watch
from spectral.analysis import describe as describe_model
from spectral.weights import MatrixSpec


def spec(name: str, n: int, m: int) -> MatrixSpec:
    (found,) = describe_model({f"{name}.weight": np.zeros((n, m), dtype=np.float32) + 1.0}).matrices
    return found


def future(*, is_done: bool = False, is_running: bool = False) -> Future[object]:
    made: Future[object] = Future()
    if is_running or is_done:
        made.set_running_or_notify_cancel()
    if is_done:
        made.set_result(None)
    return made


def test_what_the_line_says() -> None:
    analyses = [
        (spec("a", 400, 200), future(is_done=True)),
        (spec("q_proj", 800, 200), future(is_running=True)),
        (spec("c", 400, 200), future()),
    ]
    assert describe(analyses, 10.0) == "analysed 1 of 3, q_proj 800 x 200, 29 s left"
    assert describe(analyses[1:], 10.0) == "analysed 0 of 2, q_proj 800 x 200"


def test_a_name_cannot_steer_the_terminal() -> None:
    assert "\x1b" not in describe([(spec("a\x1b[2J", 60, 50), future(is_running=True))], 1.0)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (40.4, "40 s"), (90.0, "2 min"), (3000.0, "50 min"), (9000.0, "2.5 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_the_line_is_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_progress, "DELAY", 0.0)
    running = future(is_running=True)
    written: list[str] = []

    def write(text: str) -> None:
        written.append(text)
        if len(written) == 1:
            running.set_result(None)

    watch([(spec("layer", 60, 50), running)], write, width=20)
    assert written == ["\r\x1b[Kanalysed 0 of 1, la", "\r\x1b[K"]


def test_short_runs_show_nothing() -> None:
    written: list[str] = []
    watch([(spec("layer", 60, 50), future(is_done=True))], written.append, width=80)
    assert written == []


def on_a_terminal(folder: Path, *options: str) -> str:
    """Run the gate with a terminal as its output, and return what it wrote there."""
    code = "import pytest_weightwatcher.live_progress as p, pytest; p.DELAY = 0.0; p.INTERVAL = 0.001; pytest.main()"
    script = folder / "run.py"
    script.write_text(code.replace("pytest.main()", f"pytest.main({[*options, '--ww-model=m.safetensors']!r})"))
    import pty

    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=theirs, stderr=theirs, cwd=folder, env=environment
    ) as run:
        os.close(theirs)
        written = b""
        while run.poll() is None or select.select([ours], [], [], 0.1)[0]:
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    chunk = os.read(ours, 4096)
                except OSError:  # The other end was closed.
                    break
                written += chunk
    os.close(ours)
    return written.decode("utf-8", "replace")


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals there")
def test_on_a_terminal_and_not_in_a_log(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    save_file(
        {f"l{n}.weight": rng.normal(size=(400, 300)).astype(np.float32) for n in range(6)}, tmp_path / "m.safetensors"
    )
    assert "analysed 0 of 6, l0 400 x 300" in on_a_terminal(tmp_path)
    assert "analysed" not in on_a_terminal(tmp_path, "-q")
    assert "analysed" not in on_a_terminal(tmp_path, "-x")
    log = subprocess.run(
        [sys.executable, str(tmp_path / "run.py")], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "analysed" not in log.stdout + log.stderr
