"""Escaped names are safe, readable and different for different tensors."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_weightwatcher.nodeids import MAX_LENGTH, escape_name

NAMES = st.text(st.characters(), max_size=30) | st.text("ab:[]%@\\\0\n\x1b\u202e", max_size=12)


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        ("encoder.layer.0.attention.self.query", "encoder.layer.0.attention.self.query"),
        ("x[alpha]", "x%5Balpha%5D"),
        ("a::b", "a%3A%3Ab"),
        ("dense/kernel:0", "dense/kernel:0"),
        ("50%", "50%25"),
        ("\x1b[31mred", "%1B%5B31mred"),
        ("line\nbreak", "line%0Abreak"),
        ("\u202ereversed", "%E2%80%AEreversed"),
        ("слой", "слой"),
        ("\ud800", "%ED%A0%80"),
        ("", "%"),
    ],
)
def test_examples(name: str, escaped: str) -> None:
    assert escape_name(name) == escaped


@given(NAMES)
def test_escaped_names_are_safe(name: str) -> None:
    escaped = escape_name(name)
    assert "::" not in escaped
    assert not re.search(r"[\[\]@\\]", escaped)
    assert escaped.isprintable()
    assert 0 < len(escaped) <= MAX_LENGTH


@given(NAMES, NAMES)
def test_different_names_stay_different(first: str, second: str) -> None:
    assert (escape_name(first) == escape_name(second)) == (first == second)


def test_long_names_are_cut_and_stay_different() -> None:
    first, second = "x" * 10_000, "x" * 10_001
    assert len(escape_name(first)) == MAX_LENGTH
    assert escape_name(first) != escape_name(second)
