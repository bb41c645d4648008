"""What a hostile file would do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.hostile.registry import TRACE

if TYPE_CHECKING:
    from collections.abc import Callable

COMMAND = f"touch ../{TRACE}"
PYTHON = f"open('../{TRACE}', 'w').close()"


class Run:
    """Unpickles by calling a function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call
