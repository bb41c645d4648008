"""Read checkpoints in a process that notices what it must not do: run by the test, one process for many cases.

``python -m tests.hostile.guard FOLDER CASE..`` prints a line of JSON for each file: exit code, seconds, what was said,
and every violation. Memory is limited; what Python opens, starts and deletes is watched by an audit hook.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

MEMORY = 500 << 20
"""What reading a file may take beyond what the process had before."""

_STARTS = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "subprocess.Popen",
    "pty.spawn",
    "socket.connect",
)
_CHANGES = (
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.chmod",
    "os.truncate",
    "shutil.",
)
_PLACES_OF_PYTHON = (sys.prefix, sys.base_prefix, "/proc/", "/sys/", "/etc/localtime", "/usr/", "/lib", str(Path.cwd()))


class Watch:
    """What was done while a checkpoint was read."""

    def __init__(self) -> None:
        self.allowed: Path | None = None
        self.violations: list[str] = []
        sys.addaudithook(self._look)

    def _look(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.allowed is None:
            return
        if event.startswith(_STARTS) or event.startswith(_CHANGES):
            self.violations.append(f"{event} {arguments!r:.200}")
        elif event == "open" and isinstance(arguments[0], (str, bytes)):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            writes = bool((arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)) and path != os.devnull
            is_inside = path.startswith(str(self.allowed.resolve()))
            if writes or not (is_inside or path.startswith(_PLACES_OF_PYTHON)):
                self.violations.append(f"open {path} {arguments[1]!r}")


def main() -> None:
    """Read the cases of the command line."""
    from pytest_weightwatcher.console.main import main as gate
    from tests.hostile.files import TRACE, write_case

    folder = Path(sys.argv[1])
    # What is loaded now is no doing of the checkpoints.
    good = write_case("safetensors overlap", folder / "warm")
    _judge(gate, good)
    watch = Watch()
    written = {name: write_case(name, folder) for name in sys.argv[2:]}
    for name, model in written.items():
        files = sorted(model.iterdir()) if name.endswith("boundary") else [model]
        watch.allowed = model if model.is_dir() else model.parent
        for file in files:
            _limit_memory()
            begin = time.perf_counter()
            code, said = _judge(gate, file)
            seconds = time.perf_counter() - begin
            traces = [str(place) for place in (folder / TRACE, Path(TRACE), Path("..") / TRACE) if place.exists()]
            found = {"case": name, "file": file.name, "code": code, "seconds": seconds, "said": said[:3000]}
            sys.stdout.write(json.dumps({**found, "violations": watch.violations + traces}) + "\n")
            watch.violations.clear()
        watch.allowed = None


def _judge(gate: Any, model: Path) -> tuple[int, str]:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = gate(["check", "--jobs=1", str(model)])
        except SystemExit as error:
            code = int(error.code or 0)
        except BaseException as error:
            return -1, f"{type(error).__name__}: {error}"
    return code, said.getvalue()


def _limit_memory() -> None:
    """Allow so much more address space than is in use."""
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main()
