"""Every input that fuzzing found worth keeping is read, or refused, as it was found."""

from __future__ import annotations

import time

import pytest

from tests.fuzz.reading import CORPUS, SUFFIXES, read_all

LONGEST_SECONDS = 5.0


@pytest.mark.parametrize("name", SUFFIXES)
def test_the_corpus_is_read_or_refused(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    files = sorted((CORPUS / name).iterdir())
    path = tmp_path_factory.mktemp("fuzz") / f"model{SUFFIXES[name]}"
    accepted = 0
    for file in files:
        path.write_bytes(file.read_bytes())
        begin = time.perf_counter()
        accepted += read_all(path)
        assert time.perf_counter() - begin < LONGEST_SECONDS, file.name
    # Both ends of the road are in it.
    assert 0 < accepted <= len(files)
