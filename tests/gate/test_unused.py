"""Installed but unused, the plugin costs nothing and shows nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("numpy", "pandas", "scipy", "torch", "pydantic", "jinja2", "yaml", "ml_dtypes", "threadpoolctl", "spectral")


def test_imports_nothing_heavy(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        f"""
        import sys

        def test_mine():
            assert not [name for name in {HEAVY!r} if name in sys.modules]
        """
    )
    # pytest-html, where it is installed, imports jinja2 on its own.
    pytester.runpytest_subprocess("-p", "no:html").assert_outcomes(passed=1)


def test_shows_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_mine(): pass")
    result = pytester.runpytest()
    result.stdout.no_fnmatch_line("ww*")
    result.stdout.no_fnmatch_line("*= weightwatcher =*")


def test_empty_folder(pytester: pytest.Pytester) -> None:
    assert pytester.runpytest().ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_help_and_markers(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest("--help")
    result.stdout.fnmatch_lines(
        ["quality of neural-network checkpoints*", "*--ww-model=PATH*", "*ww_model (linelist)*"]
    )
    pytester.runpytest("--markers").stdout.fnmatch_lines(["@pytest.mark.ww: checks of neural-network checkpoints*"])


def test_collecting_reads_headers_only(pytester: pytest.Pytester) -> None:
    """A model whose 8 GB of values are a hole in the file: reading them would take seconds and memory."""
    import json
    import struct

    size = 8 * 2**30
    header = json.dumps({"w": {"dtype": "F32", "shape": [32768, 65536], "data_offsets": [0, size]}}).encode()
    path = pytester.path / "model.safetensors"
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(header)) + header)
        stream.truncate(8 + len(header) + size)
    result = pytester.runpytest("--ww-model=model.safetensors", "--collect-only", "-q")
    assert result.ret == pytest.ExitCode.OK
    assert result.duration < 2
    result.stdout.fnmatch_lines(["ww.yaml::model.safetensors::w::alpha"])


def test_the_package_imports_light() -> None:
    code = (
        "import sys; before = set(sys.modules); import pytest_weightwatcher, spectral; "
        f"sys.exit(str([name for name in {HEAVY[:-1]!r} if name in set(sys.modules) - before] or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
