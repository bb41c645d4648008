"""Parse YAML into plain data that remembers its lines, without trusting the file."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from pytest_weightwatcher.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

MAX_BYTES = 1_000_000
MAX_NODES = 20_000
MAX_DEPTH = 20
MAX_INTEGER = 2**63 - 1

_NUMBER_TAGS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_PLAIN_NUMBER = re.compile(r"[-+]?((0|[1-9][0-9_]*)?(\.[0-9_]*)?([eE][-+]?[0-9]+)?|\.(inf|Inf|INF))|\.(nan|NaN|NAN)")

_PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")

Location = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class YamlSource:
    """Plain data, and the line (from 1) of every entry by its location."""

    path: Path
    data: Any
    lines: dict[Location, int] = field(repr=False)

    def line_of(self, location: Location) -> int | None:
        """Return the line of an entry, or of its nearest enclosing entry."""
        for end in range(len(location), -1, -1):
            line = self.lines.get(location[:end])
            if line is not None:
                return line
        return None

    def error(self, location: Location, problem: str) -> ConfigError:
        """Return the error that points at an entry."""
        return ConfigError(path=self.path, line=self.line_of(location), key=format_location(location), problem=problem)


def format_location(location: Location) -> str:
    """Return ``models[0].path`` for ("models", 0, "path")."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text[:200]


def read_yaml(path: Path) -> YamlSource:
    """Read a YAML file.

    Raises
    ------
    ConfigError
        The file cannot be read, is not UTF-8, is no YAML, repeats a key, uses tags or is out of all
        proportion (aliases that multiply, endless nesting).
    """
    text = _read_text(path)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = f"not valid YAML: {error.problem or error.context or 'syntax error'}"
        raise ConfigError(path=path, line=mark.line + 1 if mark else None, key="", problem=problem) from error
    except yaml.YAMLError as error:
        raise ConfigError(path=path, line=None, key="", problem=f"not valid YAML: {_one_line(error)}") from error
    except RecursionError as error:
        raise ConfigError(path=path, line=None, key="", problem="nested too deeply") from error
    lines: dict[Location, int] = {}
    source = YamlSource(path=path, data=None, lines=lines)
    data = None if root is None else _Builder(source).build(root, ())
    return YamlSource(path=path, data=data, lines=lines)


def _read_text(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(path=path, line=None, key="", problem="not a regular file")
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError(path=path, line=None, key="", problem=f"larger than {MAX_BYTES} bytes")
        return content.decode("utf-8")
    except FileNotFoundError as error:
        raise ConfigError(path=path, line=None, key="", problem="no such file") from error
    except OSError as error:
        raise ConfigError(path=path, line=None, key="", problem=f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(path=path, line=None, key="", problem="not UTF-8 text") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


class _Builder:
    """Turns a node graph into plain data, counting as it goes: an alias counts each time it is used."""

    def __init__(self, source: YamlSource) -> None:
        self._source = source
        self._scalars = yaml.SafeLoader("")
        self._n_nodes = 0

    def build(self, node: yaml.Node, location: Location) -> Any:
        self._source.lines.setdefault(location, node.start_mark.line + 1)
        self._n_nodes += 1
        if self._n_nodes > MAX_NODES:
            raise self._source.error(location, f"more than {MAX_NODES} entries (aliases count each time)")
        if len(location) > MAX_DEPTH:
            raise self._source.error(location[:1], f"nested deeper than {MAX_DEPTH} levels")
        if not isinstance(node, yaml.ScalarNode) and node.tag not in _PLAIN_TAGS:
            raise self._source.error(location, f"the tag {node.tag[:80]!r} is not accepted")
        if isinstance(node, yaml.MappingNode):
            return self._build_mapping(node, location)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(child, (*location, index)) for index, child in enumerate(node.value)]
        if node.tag in _NUMBER_TAGS and not _PLAIN_NUMBER.fullmatch(node.value):
            # To YAML 1.1 010 is eight and 1:30 ninety: nobody who writes so means it.
            raise self._source.error(location, f"write {node.value[:40]!r} in plain digits, as 10 or 0.5")
        try:
            value = self._scalars.construct_object(node)
        except yaml.MarkedYAMLError as error:
            raise self._source.error(location, f"cannot be read: {error.problem}") from error
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            raise self._source.error(location, f"cannot be read as {node.tag.rpartition(':')[2]}") from error
        if isinstance(value, int) and abs(value) > MAX_INTEGER:
            raise self._source.error(location, f"larger than {MAX_INTEGER}")
        return value

    def _build_mapping(self, node: yaml.MappingNode, location: Location) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                self._source.lines.setdefault((*location, "?"), key_node.start_mark.line + 1)
                raise self._source.error((*location, "?"), "keys must be plain text")
            place = (*location, key)
            if key in result:
                self._source.lines[place] = key_node.start_mark.line + 1
                raise self._source.error(place, "appears twice")
            self._source.lines[place] = key_node.start_mark.line + 1
            result[key] = self.build(value_node, place)
        return result
