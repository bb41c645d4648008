"""Names and numbers in a ww.yaml that is written: whatever they are, YAML reads them back."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from pytest_weightwatcher.yaml_text import comment, number, pattern_of, quote, quote_pattern, round_down, round_up

HOSTILE = [
    "a: b",
    "x\nwaivers: []",
    "# no",
    "'\"\\",
    "{{ }}",
    "*",
    "[a]?",
    "\u2028next",
    "é\x85b",
    "null",
    "- a",
    "\ud800",
    "",
]
writable = st.text(max_size=30)
names = st.text(st.characters(codec=None), max_size=30)


@given(name=names)
def test_a_name_is_read_back(name: str) -> None:
    scalar = quote(name)
    assert "\n" not in scalar
    assert scalar.isascii()
    assert yaml.safe_load(f"- match: {scalar} # {{x}}\n  a: 1") == [{"match": name, "a": 1}]
    assert yaml.safe_load(f"{{match: {scalar}, a: [{scalar}]}}") == {"match": name, "a": [name]}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_read_back(name: str) -> None:
    assert yaml.safe_load(f"- match: {quote(name)}") == [{"match": name}]


@given(name=writable, other=writable)
def test_a_pattern_matches_its_name_and_no_other(name: str, other: str) -> None:
    assert fnmatchcase(name, pattern_of(name))
    assert fnmatchcase(other, pattern_of(name)) == (other == name)


def test_half_a_surrogate_pair_is_a_question_mark() -> None:
    assert pattern_of("a\ud800b?") == "a?b[?]"
    assert fnmatchcase("a\ud800b?", pattern_of("a\ud800b?"))


def test_patterns_of_names_with_marks() -> None:
    for name, other in (("a[0]", "a0"), ("a*", "ab"), ("a?", "ab"), ("[!a]", "b"), ("]", "[")):
        assert fnmatchcase(name, pattern_of(name))
        assert not fnmatchcase(other, pattern_of(name))
        assert yaml.safe_load(quote_pattern(name)) == pattern_of(name)


@given(text=names)
def test_a_comment_stays_one(text: str) -> None:
    assert yaml.safe_load(f"a: 1\n{comment(text)}\nb: 2\n") == {"a": 1, "b": 2}


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_read_back(value: float) -> None:
    found = yaml.safe_load(number(value))
    assert isinstance(found, (int, float))
    assert found == value


@pytest.mark.parametrize(("value", "text"), [(1e20, "1.0e+20"), (7.0, "7"), (0.03, "0.03"), (1e-7, "1.0e-07")])
def test_numbers_as_people_write_them(value: float, text: str) -> None:
    assert number(value) == text


@given(value=st.floats(min_value=-1e200, max_value=1e200))
def test_rounding_outwards_covers_and_stays_near(value: float) -> None:
    assume(value == 0.0 or abs(value) > 1e-200)
    up, down = round_up(value), round_down(value)
    assert down <= value <= up
    assert math.isclose(up, down, rel_tol=0.11)
    assert float(f"{up:.2g}") == up
    assert float(f"{down:.2g}") == down


@pytest.mark.parametrize(("value", "up", "down"), [(7.14, 7.2, 7.1), (0.7, 0.7, 0.7), (99.1, 100, 99), (0, 0, 0)])
def test_rounding_by_example(value: float, up: float, down: float) -> None:
    assert (round_up(value), round_down(value)) == (up, down)
