"""Fuzz one parser, guided by its coverage, for some time: ``python -m tests.fuzz FORMAT SECONDS``.

Needs ``atheris`` (``pip install atheris``), which is no dependency of the suite. Inputs that cover something new go
to ``fuzz-FORMAT`` in the temporary folder; a hundred of them, short ones, belong into tests/fuzz/corpus/FORMAT, which
tests/fuzz/test_corpus.py reads. One that ends in anything but a ModelError, takes more than 5 seconds or too much
memory ends the run and is kept as ``crash-*``.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["spectral.loaders"]):
    from spectral.loaders import opening  # noqa: F401 (loaded here so that all its loaders are instrumented)
    from tests.fuzz.reading import CORPUS, SUFFIXES, read_all

MEMORY_MB = 2000
"""Of the process as a whole, libFuzzer and its tables among it."""

MAX_BYTES = 1 << 14


def main() -> None:
    """Fuzz the format of the command line."""
    name, seconds = sys.argv[1], int(sys.argv[2])
    corpus = CORPUS / name
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        file = Path(folder) / f"model{SUFFIXES[name]}"

        def one_input(data: bytes) -> None:
            file.write_bytes(data)
            read_all(file)

        found = Path(tempfile.gettempdir()) / f"fuzz-{name}"
        shutil.copytree(corpus, found, dirs_exist_ok=True)
        options = [
            f"-max_total_time={seconds}",
            "-timeout=5",
            f"-rss_limit_mb={MEMORY_MB}",
            f"-max_len={MAX_BYTES}",
            "-print_final_stats=1",
            "-verbosity=1",
            f"-artifact_prefix={found}/../crash-{name}-",
        ]
        atheris.Setup([sys.argv[0], *options, str(found)], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
