"""As much of a text as a budget of bytes allows, the most important parts first, and what was left out is counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

NOTICE_BYTES = 240
"""Kept free at first for what a block says of the rows that it does not show."""

ENDING_BYTES = 900
"""Kept free at first for the end of the text, which says what blocks were left out."""


def _no_row(item: Any) -> str:
    raise NotImplementedError(item)


def _no_notice(shown: Sequence[Any], hidden: Sequence[Any]) -> str:
    raise NotImplementedError((shown, hidden))


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A piece of a text: an opening, rows of which some may stay away, and a closing.

    Attributes
    ----------
    rank : int
        Blocks of a lower rank are served first.
    title : str
        What is counted where it is left out as a whole.
    is_one : bool
        The title is that of the block, which counts as one; else it is that of its items.
    opening, closing : str
        What stands around the rows.
    items : sequence
        What the rows are about, the most important first.
    row : callable
        Item -> its row.
    notice : callable
        (Items shown, items not shown) -> what to say of the latter, in at most :data:`NOTICE_BYTES`; no longer when
        more are shown.
    most : int, optional
        Rows shown at most, however large the budget.
    group : int, optional
        Within a rank, lower groups are served first.
    is_head : bool
        The other blocks of its group are shown only beside it.
    """

    rank: int
    title: str
    is_one: bool = False
    opening: str
    closing: str = ""
    items: Sequence[Any] = ()
    row: Callable[[Any], str] = _no_row
    notice: Callable[[Sequence[Any], Sequence[Any]], str] = _no_notice
    most: int | None = None
    group: int = -1
    is_head: bool = False


@dataclass(slots=True, kw_only=True)
class _Filling:
    """A block while rows are added to it."""

    block: Block
    rows: list[str] = field(default_factory=list)
    is_open: bool = False
    n_kept: int = 0
    """Bytes kept free for its notice."""

    @property
    def n_wanted(self) -> int:
        n_items = len(self.block.items)
        return n_items if self.block.most is None else min(n_items, self.block.most)

    @property
    def text(self) -> str:
        """The block as it stands."""
        parts = [self.block.opening, *self.rows, self.block.closing]
        return "".join([*parts, self.notice])

    @property
    def notice(self) -> str:
        """What it says of the rows that it does not show; empty where it shows all."""
        hidden = self.block.items[len(self.rows) :]
        return f"\n{self.block.notice(self.block.items[: len(self.rows)], hidden)}\n" if hidden else ""


class _Purse:
    """Bytes that are left to spend."""

    def __init__(self, n_bytes: int) -> None:
        self.n_left = n_bytes

    def pay(self, n_bytes: int, *, floor: int) -> bool:
        """Spend bytes where as many as the floor stay."""
        if self.n_left - n_bytes < floor:
            return False
        self.n_left -= n_bytes
        return True


def fit_blocks(
    blocks: Sequence[Block],
    budget: int,
    *,
    shares: Mapping[int, float],
    ending: Callable[[Mapping[str, int]], str],
) -> str:
    """Return the text of as many blocks and rows as a budget allows, in the order of the blocks.

    Parameters
    ----------
    blocks : sequence of Block
        In the order in which they are to be read.
    budget : int
        Bytes of UTF-8; as no character has less than one, also characters.
    shares : mapping of int to float
        Rank -> share of the budget that it and all lower ranks may use before the others had their turn.
    ending : callable
        (Title -> how many of these the blocks that are left out have) -> the end of the text, in at most
        :data:`ENDING_BYTES`; no longer when fewer are left out.
    """
    fillings = [_Filling(block=block) for block in blocks]
    ranks = sorted({block.rank for block in blocks})
    purse = _Purse(budget - ENDING_BYTES)

    def serve(shares: Mapping[int, float]) -> None:
        for rank in ranks:
            floor = int(budget * (1.0 - shares.get(rank, 1.0)))
            _serve(_served(fillings, rank), purse, floor)

    def end() -> str:
        left_out: Counter[str] = Counter()
        for block in (each.block for each in fillings if not each.is_open):
            left_out[block.title] += 1 if block.is_one else max(1, len(block.items))
        return ending(left_out)

    serve(shares)
    serve({})
    # What was kept for the notices and the end is more than they take.
    purse.n_left += ENDING_BYTES - _size(end()) + sum(map(_release, fillings))
    serve({})
    return "".join([each.text for each in fillings if each.is_open] + [end()])


def _served(fillings: Sequence[_Filling], rank: int) -> list[_Filling]:
    """Return the blocks of a rank, but for those whose head is not shown."""
    headed = {each.block.group for each in fillings if each.block.is_head}
    headless = headed - {each.block.group for each in fillings if each.block.is_head and each.is_open}
    chosen = [each for each in fillings if each.block.rank == rank]
    chosen = [each for each in chosen if each.block.is_head or each.block.group not in headless]
    return sorted(chosen, key=lambda each: each.block.group)


def _release(filling: _Filling) -> int:
    """Keep no more for the notice of a block than it takes, and return what is free now."""
    if not filling.n_kept:
        return 0
    n_needed = _size(filling.notice)
    n_free, filling.n_kept = filling.n_kept - n_needed, n_needed
    return n_free


def _serve(chosen: Sequence[_Filling], purse: _Purse, floor: int) -> None:
    """Open blocks of one rank, and give each a row in turn until nothing fits any more."""
    for each in chosen:
        if not each.is_open:
            n_kept = NOTICE_BYTES if each.block.items else 0
            each.is_open = purse.pay(_size(each.block.opening) + _size(each.block.closing) + n_kept, floor=floor)
            each.n_kept = n_kept if each.is_open else 0
    waiting = [each for each in chosen if each.is_open]
    while waiting:
        waiting = [each for each in waiting if _add_row(each, purse, floor)]


def _add_row(filling: _Filling, purse: _Purse, floor: int) -> bool:
    """Add the next row of a block where there is one and it fits."""
    if len(filling.rows) >= filling.n_wanted:
        return False
    row = filling.block.row(filling.block.items[len(filling.rows)])
    if not purse.pay(_size(row), floor=floor):
        return False
    filling.rows.append(row)
    if len(filling.rows) == len(filling.block.items):
        purse.n_left += filling.n_kept
        filling.n_kept = 0
    return True


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
