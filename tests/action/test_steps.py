"""Steps on their own, where the harness would hide which of them refused."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from action.inputs import ActionError
from action.install import requirement
from action.verdict import give_verdict


@pytest.mark.parametrize(
    ("said", "code"),
    [({"WW_CONCLUSION": "success"}, 0), ({"WW_CONCLUSION": "failure"}, 1), ({"WW_CONCLUSION": ""}, 1), ({}, 1)],
)
def test_only_a_success_in_so_many_words_passes(said: dict[str, str], code: int) -> None:
    stream = io.StringIO()
    assert give_verdict(said, stream) == code
    assert ("::error" in stream.getvalue()) == (code == 1)


def test_extras_are_names() -> None:
    assert requirement(Path("/here"), " torch, plots ") == "/here[torch,plots]"
    assert requirement(Path("/here"), "") == "/here"


@pytest.mark.parametrize("extras", ["torch]; touch pwned", "a,,b", "--index-url=x", "[torch]"])
def test_other_extras_are_refused(extras: str) -> None:
    with pytest.raises(ActionError, match="extras: expected names with commas between"):
        requirement(Path("/here"), extras)
