"""Read a pickle as data: its instructions are interpreted here, and nothing that it names is imported or called.

A pickle is a program for a stack machine (its instructions are listed in Python's ``pickletools``). Python's own
machine looks up any function by name and calls it; this one knows only what builds lists, dictionaries, texts and
numbers, and asks the caller about everything else. What the caller does not know ends the reading.

The work is bounded by the number of instructions, and the memory by the size of the pickle and the number of
containers, whatever the pickle claims of itself.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_INSTRUCTIONS = 4_000_000
"""A tensor takes about forty: enough for a hundred thousand of them, and a hostile file ends after some seconds."""

MAX_CONTAINERS = 1_000_000
"""A container takes one byte in the file and up to two hundred in memory."""

MAX_DIGITS = 64
"""Bytes of one whole number, and characters of one written out."""

MAX_LINE = 1 << 16
"""Characters of a text on a line of its own."""

MAX_NAME = 200
"""Characters of a module or of a name in it."""


class MalformedPickleError(ValueError):
    """The bytes are no complete pickle, or one that breaks its own rules."""


class LongPickleError(MalformedPickleError):
    """It has more instructions than are followed."""


class ForbiddenPickleError(ValueError):
    """The pickle wants to do more than build data.

    Attributes
    ----------
    name : str or None
        What it asks for by name, where it does.
    """

    def __init__(self, what: str, name: str | None = None) -> None:
        super().__init__(what)
        self.name = name


@dataclass(frozen=True, slots=True)
class Name:
    """Something that a pickle refers to by module and name; it is nothing but these two."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"[:MAX_NAME]


@dataclass(slots=True)
class Opaque:
    """A value that is of no interest, and of which nothing is known but its kind."""

    kind: str
    state: Any = field(default=None, repr=False)


@dataclass(slots=True, eq=False)
class Record:
    """An object of a class that the caller knows: what it was made of, and nothing that it could do.

    Attributes
    ----------
    name : Name
        Its class, or the function that would have made it.
    arguments : tuple
        Of that call.
    state : object
        What its attributes would have been set from; None where the pickle gives it none.
    """

    name: Name
    arguments: tuple[Any, ...] = field(default=(), repr=False)
    state: Any = field(default=None, repr=False)

    def __str__(self) -> str:
        return str(self.name)

    @property
    def attributes(self) -> dict[Any, Any]:
        """Its state where that is a dictionary, otherwise an empty one."""
        return self.state if type(self.state) is dict else {}


class Vocabulary(Protocol):
    """What the caller knows."""

    def knows(self, name: Name) -> bool:
        """Tell whether a name may be in the pickle."""

    def call(self, name: Name, arguments: tuple[Any, ...]) -> Any:
        """Return what a call of a known name stands for.

        Raises
        ------
        ForbiddenPickleError
            It is not known as something to call.
        MalformedPickleError
            It is, but not with these arguments.
        """

    def persistent(self, reference: Any) -> Any:
        """Return what lies outside the pickle under a reference."""

    def set_state(self, value: Any, state: Any) -> None:
        """Give a value that :meth:`call` returned its state."""


class _Mark:
    """Where a group begins on the stack."""


_MARK = _Mark()


def read_pickle(data: bytes, vocabulary: Vocabulary) -> Any:
    """Return what a pickle holds.

    Parameters
    ----------
    data : bytes
        One pickle, of any protocol, and nothing behind it.
    vocabulary : Vocabulary
        Answers for names, calls and references.

    Returns
    -------
    object
        Made of dict, list, tuple, str, bytes, int, float, bool, None, :class:`Name`, :class:`Opaque`, :class:`Record`
        and what else the vocabulary returned. A container may hold itself.

    Raises
    ------
    MalformedPickleError, ForbiddenPickleError
        See there. Nothing else is raised but what the vocabulary raises.
    """
    value, end = read_next_pickle(data, vocabulary, 0)
    if end != len(data):
        raise MalformedPickleError(f"{len(data) - end} bytes follow its end mark")
    return value


def read_next_pickle(data: bytes, vocabulary: Vocabulary, begin: int) -> tuple[Any, int]:
    """Return what the pickle holds that begins at a byte, and the byte behind it; as :func:`read_pickle`."""
    return _Machine(data, vocabulary, begin).run()


class _Machine:
    """The stack, the memo and the place in the pickle."""

    def __init__(self, data: bytes, vocabulary: Vocabulary, begin: int) -> None:
        self._data = data
        self._at = begin
        self._stack: list[Any] = []
        # A dict: a list would be as long as the highest number that the pickle names.
        self._memo: dict[int, Any] = {}
        self._n_containers = 0
        self._vocabulary = vocabulary

    def run(self) -> tuple[Any, int]:
        """Follow the instructions to the end mark; return the one value that is left, and where the mark ends."""
        data, table = self._data, _INSTRUCTIONS
        for _ in range(MAX_INSTRUCTIONS):
            if self._at >= len(data):
                raise MalformedPickleError("it ends before its end mark")
            code = data[self._at]
            self._at += 1
            if code == _STOP:
                if len(self._stack) != 1:
                    raise MalformedPickleError(f"{len(self._stack)} values are left at its end")
                return self.pop(), self._at
            instruction = table[code]
            if instruction is None:
                if code in _FORBIDDEN:
                    raise ForbiddenPickleError(f"the instruction {_FORBIDDEN[code]}")
                raise MalformedPickleError(f"no instruction has the code {code}")
            instruction(self)
        raise LongPickleError(f"more than {MAX_INSTRUCTIONS} instructions")

    def take(self, n_bytes: int) -> bytes:
        """Return the next bytes of the pickle."""
        begin = self._at
        taken = self._data[begin : begin + n_bytes]
        if len(taken) != n_bytes:
            raise MalformedPickleError(f"{n_bytes} bytes are announced where {len(self._data) - begin} are left")
        self._at = begin + n_bytes
        return taken

    def number(self, n_bytes: int, *, signed: bool = False) -> int:
        """Return a whole number of the next bytes."""
        return int.from_bytes(self.take(n_bytes), "little", signed=signed)

    def line(self, longest: int = MAX_DIGITS) -> str:
        """Return the rest of the line as text."""
        return _decoded(self.raw_line(longest))

    def raw_line(self, longest: int) -> bytes:
        """Return the rest of the line."""
        end = self._data.find(b"\n", self._at, self._at + longest + 1)
        if end < 0:
            raise MalformedPickleError(f"a line of more than {longest} bytes, or without an end")
        line = self._data[self._at : end]
        self._at = end + 1
        return line

    @property
    def top(self) -> Any:
        """The value on top of the stack, or the mark where there is none."""
        return self._stack[-1] if self._stack else _MARK

    def required_top(self) -> Any:
        """Return the value on top of the stack."""
        stack = self._stack
        if not stack or stack[-1] is _MARK:
            raise MalformedPickleError("an instruction needs a value where there is none")
        return stack[-1]

    def top_as(self, kind: type) -> Any:
        """Return the value on top of the stack, which must be of a kind."""
        if type(self.top) is not kind:
            raise MalformedPickleError(f"an instruction fills a {kind.__name__} where there is none")
        return self.top

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self._stack.append(value)

    def push_container(self, value: Any) -> None:
        """Put a new container on the stack; there are not too many of them."""
        self._n_containers += 1
        if self._n_containers > MAX_CONTAINERS:
            raise MalformedPickleError(f"more than {MAX_CONTAINERS} containers")
        self._stack.append(value)

    def pop(self) -> Any:
        """Take the value on top from the stack."""
        stack = self._stack
        if not stack or stack[-1] is _MARK:
            raise MalformedPickleError("an instruction needs a value where there is none")
        return stack.pop()

    def pop_group(self) -> list[Any]:
        """Take everything above the last mark from the stack, and the mark."""
        stack = self._stack
        for index in range(len(stack) - 1, -1, -1):
            if stack[index] is _MARK:
                group = stack[index + 1 :]
                del stack[index:]
                return group
        raise MalformedPickleError("a group ends that did not begin")

    def remember(self, index: int | None) -> None:
        """Keep the value on top under a number, the next free one for None."""
        self._memo[len(self._memo) if index is None else index] = self.required_top()

    def remembered(self, index: int) -> Any:
        """Return what was kept under a number."""
        if index not in self._memo:
            raise MalformedPickleError(f"nothing was remembered under {index}")
        return self._memo[index]

    def push_name(self, module: object, name: object) -> None:
        """Put a name on the stack that the caller knows."""
        if type(module) is not str or type(name) is not str:
            raise MalformedPickleError("a name that is no text")
        found = Name(module, name)
        if not self._vocabulary.knows(found):
            raise ForbiddenPickleError(f"it asks for {found}", name=str(found))
        self.push_container(found)

    def call(self, *, has_keywords: bool = False) -> None:
        """Replace a name and arguments by what the caller says that the call stands for."""
        if has_keywords and self.pop():
            raise ForbiddenPickleError("a call by keywords")
        arguments, function = self.pop(), self.pop()
        if type(function) is not Name:
            raise ForbiddenPickleError("a call of what is no name")
        if type(arguments) is not tuple:
            raise MalformedPickleError("a call without arguments")
        self.push_container(self._vocabulary.call(function, arguments))

    def build(self) -> None:
        """Give a value its state, as the caller says."""
        state = self.pop()
        self._vocabulary.set_state(self.required_top(), state)

    def refer(self) -> None:
        """Replace a reference by what the caller says that it stands for."""
        self.push_container(self._vocabulary.persistent(self.pop()))


def checked_key(key: Any) -> Any:
    """Return a key of a dictionary where it is a plain one.

    Raises
    ------
    MalformedPickleError
        It is none, or a number so large that many of them could be made to hash alike.
    """
    kind = type(key)
    if kind is str or kind is bytes or key is None or kind is bool or kind is float:
        return key
    if kind is Name or kind is Record:  # Two texts; and itself, so that no two records are one key.
        return key
    if kind is int and abs(key) < 1 << 61:
        return key
    if kind is tuple and all(type(part) in (str, int, float, bool, bytes) for part in key):
        return key
    raise MalformedPickleError(f"a {kind.__name__} as a key")


def _decoded(data: bytes) -> str:
    try:
        # Half a surrogate pair is told later, by the name of its tensor.
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise MalformedPickleError("a text that is not UTF-8") from error


_INSTRUCTIONS: list[Callable[[_Machine], object] | None] = [None] * 256
"""Code -> what to do; the codes are those of Python's ``pickletools``."""

_STOP = ord(".")

_FORBIDDEN = {
    ord("i"): "INST",
    ord("o"): "OBJ",
    ord("P"): "PERSID",
    0x82: "EXT1",
    0x83: "EXT2",
    0x84: "EXT4",
    0x97: "NEXT_BUFFER",
    0x98: "READONLY_BUFFER",
}
"""Instructions that call, look up or take from elsewhere in ways that no checkpoint needs."""


def _on(code: int | str, action: Callable[[_Machine], object]) -> None:
    _INSTRUCTIONS[ord(code) if isinstance(code, str) else code] = action


def _written(machine: _Machine, kind: Callable[[str], object]) -> None:
    line = machine.line()
    try:
        machine.push(kind(line))
    except ValueError as error:
        raise MalformedPickleError("a number that is none") from error


def _integer_line(line: str) -> object:
    # How the first protocols write truth.
    return line == "01" if line in ("00", "01") else int(line)


def _long(machine: _Machine, n_bytes: int) -> None:
    if not 0 <= n_bytes <= MAX_DIGITS:
        raise MalformedPickleError(f"a whole number of {n_bytes} bytes")
    machine.push(machine.number(n_bytes, signed=True))


def _quoted(line: str) -> str:
    if len(line) < 2 or line[0] != line[-1] or line[0] not in "'\"" or "\\" in line:
        raise MalformedPickleError("a quoted text that is none, or has escapes")
    return line[1:-1]


def _index(line: str) -> int:
    try:
        return int(line)
    except ValueError as error:
        raise MalformedPickleError("a place that is no number") from error


def _escaped(line: bytes) -> str:
    try:
        return line.decode("raw-unicode-escape")
    except UnicodeDecodeError as error:
        raise MalformedPickleError("a text with a broken escape") from error


def _drop(machine: _Machine) -> None:
    if machine.top is _MARK:
        machine.pop_group()
    else:
        machine.pop()


def _append(machine: _Machine, values: list[Any]) -> None:
    machine.top_as(list).extend(values)


def _set_items(machine: _Machine, flat: list[Any]) -> None:
    if len(flat) % 2:
        raise MalformedPickleError("a key without a value")
    target = machine.top_as(dict)
    for key, value in zip(flat[::2], flat[1::2], strict=True):
        target[checked_key(key)] = value


def _dict_of_group(machine: _Machine) -> None:
    flat = machine.pop_group()
    machine.push_container({})
    _set_items(machine, flat)


def _frozen_set(machine: _Machine) -> None:
    machine.pop_group()
    machine.push_container(Opaque("frozenset"))


def _add_to_set(machine: _Machine) -> None:
    machine.pop_group()
    machine.top_as(Opaque)


def _tuple_of(machine: _Machine, length: int) -> None:
    machine.push_container(tuple([machine.pop() for _ in range(length)][::-1]))


# Frames and other things that say how the pickle is written.
_on(0x80, lambda m: m.take(1))
_on(0x95, lambda m: m.take(8))
# The stack.
_on("(", lambda m: m.push(_MARK))
_on("0", _drop)
_on("1", lambda m: m.pop_group())
_on("2", lambda m: m.push(m.required_top()))
# Plain values.
_on("N", lambda m: m.push(None))
_on(0x88, lambda m: m.push(True))
_on(0x89, lambda m: m.push(False))
_on("I", lambda m: _written(m, _integer_line))
_on("L", lambda m: _written(m, lambda line: int(line.removesuffix("L"))))
_on("F", lambda m: _written(m, float))
_on("J", lambda m: m.push(m.number(4, signed=True)))
_on("K", lambda m: m.push(m.number(1)))
_on("M", lambda m: m.push(m.number(2)))
_on(0x8A, lambda m: _long(m, m.number(1)))
_on(0x8B, lambda m: _long(m, m.number(4, signed=True)))
_on("G", lambda m: m.push(struct.unpack(">d", m.take(8))[0]))
# Texts and bytes; those of Python 2 are read as Latin-1, and the first protocol escapes what is not in it.
_on("S", lambda m: m.push(_quoted(m.line(MAX_LINE).strip())))
_on("T", lambda m: m.push(m.take(m.number(4)).decode("latin-1")))
_on("U", lambda m: m.push(m.take(m.number(1)).decode("latin-1")))
_on("V", lambda m: m.push(_escaped(m.raw_line(MAX_LINE))))
_on("X", lambda m: m.push(_decoded(m.take(m.number(4)))))
_on(0x8C, lambda m: m.push(_decoded(m.take(m.number(1)))))
_on(0x8D, lambda m: m.push(_decoded(m.take(m.number(8)))))
_on("B", lambda m: m.push(m.take(m.number(4))))
_on("C", lambda m: m.push(m.take(m.number(1))))
_on(0x8E, lambda m: m.push(m.take(m.number(8))))
_on(0x96, lambda m: m.push(m.take(m.number(8))))
# Containers.
_on("]", lambda m: m.push_container([]))
_on("l", lambda m: m.push_container(m.pop_group()))
_on("a", lambda m: _append(m, [m.pop()]))
_on("e", lambda m: _append(m, m.pop_group()))
_on(")", lambda m: m.push(()))
_on("t", lambda m: m.push_container(tuple(m.pop_group())))
_on(0x85, lambda m: _tuple_of(m, 1))
_on(0x86, lambda m: _tuple_of(m, 2))
_on(0x87, lambda m: _tuple_of(m, 3))
_on("}", lambda m: m.push_container({}))
_on("d", _dict_of_group)
_on("s", lambda m: _set_items(m, [m.pop(), m.pop()][::-1]))
_on("u", lambda m: _set_items(m, m.pop_group()))
_on(0x8F, lambda m: m.push_container(Opaque("set")))
_on(0x90, _add_to_set)
_on(0x91, _frozen_set)
# The memo.
_on("g", lambda m: m.push(m.remembered(_index(m.line()))))
_on("h", lambda m: m.push(m.remembered(m.number(1))))
_on("j", lambda m: m.push(m.remembered(m.number(4))))
_on("p", lambda m: m.remember(_index(m.line())))
_on("q", lambda m: m.remember(m.number(1)))
_on("r", lambda m: m.remember(m.number(4)))
_on(0x94, lambda m: m.remember(None))
# What the caller decides.
_on("c", lambda m: m.push_name(m.line(MAX_NAME), m.line(MAX_NAME)))
_on(0x93, lambda m: m.push_name(*[m.pop(), m.pop()][::-1]))
_on("R", lambda m: m.call())
_on(0x81, lambda m: m.call())
_on(0x92, lambda m: m.call(has_keywords=True))
_on("b", lambda m: m.build())
_on("Q", lambda m: m.refer())
