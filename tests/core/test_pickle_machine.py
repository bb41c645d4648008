"""Pickles read as data: what Python reads of plain data, and nothing that Python would run."""

from __future__ import annotations

import collections
import contextlib
import io
import math
import pickle
import pickletools
import time
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from spectral.loaders import pickle_machine
from spectral.loaders.pickle_machine import ForbiddenPickleError, MalformedPickleError, Name, Opaque, read_pickle


class Nothing:
    """Knows one name, and remembers what it was asked."""

    def knows(self, name: Name) -> bool:
        return name == Name("collections", "OrderedDict")

    def call(self, name: Name, arguments: tuple[Any, ...]) -> Any:
        return ("called", str(name), arguments)

    def persistent(self, reference: Any) -> Any:
        return ("reference", reference)

    def set_state(self, value: Any, state: Any) -> None:
        raise ForbiddenPickleError(f"a state {state!r} for {value!r}")


def read(data: bytes) -> Any:
    return read_pickle(data, Nothing())


KEYS = st.text() | st.binary() | st.integers(-(1 << 60), 1 << 60) | st.booleans() | st.none() | st.floats()
PLAIN = st.recursive(
    KEYS | st.integers(-(1 << 500), 1 << 500),
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner) | st.tuples(inner, inner) | st.lists(inner).map(tuple),
    max_leaves=20,
)


def same(found: Any, expected: Any) -> bool:
    """Equality that takes NaN for itself, and tells True from 1."""
    return repr(found) == repr(expected)


@given(value=PLAIN, protocol=st.sampled_from(range(pickle.HIGHEST_PROTOCOL + 1)))
def test_plain_data_is_what_python_reads(value: Any, protocol: int) -> None:
    text = pickle.dumps(value, protocol)
    # The first protocols write bytes as a call, and the very first one lines, which have bounds.
    assume(protocol >= 3 or not any(call in text for call in (b"_codecs", b"bytes")))
    assume(protocol > 0 or all(len(line) < 60 for line in text.splitlines()))
    assert same(read(text), value)


def test_containers_that_hold_themselves() -> None:
    value: list[Any] = []
    value.append(value)
    found = read(pickle.dumps(value))
    assert found[0] is found


def test_what_the_caller_knows_is_asked_and_never_looked_up() -> None:
    data = pickle.dumps(collections.OrderedDict(a=1), protocol=4)
    with pytest.raises(MalformedPickleError, match="fills a dict where there is none"):
        read(data)  # it sets items of what the caller returned, which is a tuple here
    assert read(b"ccollections\nOrderedDict\n)R.") == ("called", "collections.OrderedDict", ())
    assert read(b"ccollections\nOrderedDict\n.") == Name("collections", "OrderedDict")
    assert read(b"K\x05Q.") == ("reference", 5)
    assert read(b"\x8f(K\x01K\x02\x90.") == Opaque("set")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"cos\nsystem\n.", r"it asks for os\.system"),
        (b"\x8c\x02os\x8c\x06system\x93.", r"it asks for os\.system"),
        (b"(S'echo'\nios\nsystem\n.", "the instruction INST"),
        (b"(cos\nsystem\nS'echo'\no.", r"it asks for os\.system"),
        (b"(ccollections\nOrderedDict\no.", "the instruction OBJ"),
        (b"\x82\x01.", "the instruction EXT1"),
        (b"\x83\x01\x00.", "the instruction EXT2"),
        (b"\x84\x01\x00\x00\x00.", "the instruction EXT4"),
        (b"Pname\n.", "the instruction PERSID"),
        (b"\x97.", "the instruction NEXT_BUFFER"),
        (b"}(K\x01K\x02u\x98.", "the instruction READONLY_BUFFER"),
        (b"K\x01)R.", "a call of what is no name"),
        (b"ccollections\nOrderedDict\n)R)R.", "a call of what is no name"),
        (b"ccollections\nOrderedDict\n)}(U\x01aK\x01u\x92.", "a call by keywords"),
        (b"]}b.", "a state {} for "),
    ],
)
def test_what_is_forbidden(data: bytes, match: str) -> None:
    with pytest.raises(ForbiddenPickleError, match=match):
        read(data)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "ends before its end mark"),
        (b"N", "ends before its end mark"),
        (b".", "0 values are left"),
        (b"NN.", "2 values are left"),
        (b"N.N.", "2 bytes follow"),
        (b"\xff.", "no instruction has the code 255"),
        (b"a.", "takes a value|needs a value"),
        (b"(a.", "needs a value"),
        (b"NNa.", "fills a list"),
        (b"}(Nu.", "a key without a value"),
        (b"}]Ns.", "a list as a key"),
        (b"}}Ns.", "a dict as a key"),
        (b"})\x85\x85Ns.", "a tuple as a key"),
        (b"}\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7fNs.", "a int as a key"),
        (b"t.", "a group ends that did not begin"),
        (b"h\x00.", "nothing was remembered under 0"),
        (b"q\x00.", "needs a value"),
        (b"(q\x00.", "needs a value"),
        (b"X\xff\xff\xff\xffabc.", "4294967295 bytes are announced where 4 are left"),
        (b"\x8d" + b"\xff" * 8 + b"abc.", "18446744073709551615 bytes are announced"),
        (b"\x8e" + b"\xff" * 7 + b"\x0fabc.", "bytes are announced"),
        (b"\x8b\xff\xff\xff\x7f.", "a whole number of 2147483647 bytes"),
        (b"\x8b\xff\xff\xff\xff.", "a whole number of -1 bytes"),
        (b"\x8a\xff" + b"\x01" * 255 + b".", "a whole number of 255 bytes"),
        (b"I" + b"9" * 5000 + b"\n.", "a line of more than 64 bytes"),
        (b"Inumber\n.", "a number that is none"),
        (b"Fnumber\n.", "a number that is none"),
        (b"gone\n.", "a place that is no number"),
        (b"X\x01\x00\x00\x00\xff.", "a text that is not UTF-8"),
        (b"S'a\\x41'\n.", "has escapes"),
        (b"Sa\n.", "quoted text"),
        (b"K\x01K\x02\x93.", "a name that is no text"),
        (b"c" + b"a" * 300 + b"\nb\n.", "a line of more than 200 bytes"),
        (b"ccollections\nOrderedDict\n]R.", "a call without arguments"),
    ],
)
def test_what_is_malformed(data: bytes, match: str) -> None:
    with pytest.raises(MalformedPickleError, match=match):
        read(data)


def test_every_instruction_of_python_is_read_or_forbidden() -> None:
    codes = {ord(opcode.code) for opcode in pickletools.opcodes}
    known = {code for code, action in enumerate(pickle_machine._INSTRUCTIONS) if action is not None}
    assert codes == known | set(pickle_machine._FORBIDDEN) | {pickle_machine._STOP}
    assert not known & set(pickle_machine._FORBIDDEN)


@settings(max_examples=500)
@given(
    data=st.binary(max_size=200)
    | st.lists(st.sampled_from([*b"(.0123NIJKM]})tlsuaeqhRbQ\x85\x86\x87\x93\x94"])).map(bytes)
)
def test_any_bytes_end_in_one_of_two_errors(data: bytes) -> None:
    with contextlib.suppress(MalformedPickleError, ForbiddenPickleError):
        read(data)


@pytest.mark.parametrize(
    "data",
    [
        b"N0" * 3_000_000 + b"N.",
        b"]0" * 2_000_000 + b"N.",
        b"(" * 5_000_000 + b".",
        b"]" * 2_000_000 + b".",
        b"]" + b"]a" * 900_000 + b".",
        b")" + b"\x85" * 900_000 + b".",
        b"]q\x00" + b"h\x00a" * 1_300_000 + b".",
        b"N" + b"".join(b"r" + (index * 5003).to_bytes(4, "little") for index in range(700_000)) + b".",
    ],
    ids=["steps", "lists", "marks", "stack", "nested lists", "nested tuples", "itself", "memo"],
)
def test_what_takes_long_ends(data: bytes) -> None:
    begin = time.perf_counter()
    with contextlib.suppress(MalformedPickleError):
        read(data)
    assert time.perf_counter() - begin < 30.0, "on a slow machine; a few seconds on others"


def test_values_of_old_python() -> None:
    assert read(b"I01\n.") is True
    assert read(b"I00\n.") is False
    assert read(b"L5L\n.") == 5
    assert read(b"F1.5\n.") == 1.5
    assert math.isnan(read(b"Fnan\n."))
    assert read(b"S'text'\n.") == "text"
    assert read(b"U\x02\xe4b.") == "\xe4b"
    assert read(io.BytesIO(b"N.").read()) is None
