"""Plain text in columns and paragraphs, and large numbers in words."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

READABLE = 100  # columns that prose takes at most
UNBROKEN = "\N{NO-BREAK SPACE}"

Row = tuple[str, ...]


def rounded(number: int) -> str:
    """A large number as people say it.

    >>> [rounded(number) for number in (840, 60_000, 25_557_032, 4_089_184_256)]
    ['840', '60.0 k', '25.6 M', '4.1 G']
    """
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.99995 * size:  # what rounds to 1000.0 k is 1.0 M
            return f"{number / size:.1f} {unit}"
    return str(number)


def aligned(rows: Sequence[Row], right: Collection[int]) -> list[str]:
    """Rows as lines of equally wide columns; the columns numbered in ``right`` hold figures.

    >>> aligned([("conv1", "1,792"), ("fc6", "8")], right=[1])
    ['conv1  1,792', 'fc6        8']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def fitting(
    rows: Sequence[Row], right: Collection[int], drop: Sequence[str], width: int
) -> tuple[list[str], list[str]]:
    """`aligned` lines of a table with its heading, without the columns that there is no room for; and their names.

    Columns go in the order of ``drop``, until the others fit; no word is cut.

    >>> fitting([("network", "MACs", "paper"), ("vgg16", "15.5 G", "Simonyan")], [1], ["paper", "MACs"], 18)
    (['network    MACs', 'vgg16    15.5 G'], ['paper'])
    """
    kept, dropped = list(range(len(rows[0]))), list[str]()
    waiting = [place for name in drop for place in kept if rows[0][place] == name]
    while True:
        own = [tuple(row[place] for place in kept) for row in rows]
        lines = aligned(own, right=[new for new, place in enumerate(kept) if place in right])
        if not waiting or max(map(len, lines)) <= width:
            return lines, dropped
        dropped.append(rows[0][waiting[0]])
        kept.remove(waiting.pop(0))


def no_room_for(dropped: Sequence[str], width: int) -> list[str]:
    """A line on the columns that a table had no room for; none where all are there."""
    text = f"no room here for {', '.join(dropped)}: widen the terminal, or take --json"
    return [textwrap.fill(text, width)] if dropped else []


def labelled(label: str, text: str, width: int, margin: int = 12) -> str:
    """A paragraph with a word before it."""
    return textwrap.fill(
        text,
        width,
        initial_indent=label.ljust(margin),
        subsequent_indent=" " * margin,
        break_long_words=False,
        break_on_hyphens=False,
    ).replace(UNBROKEN, " ")


def print_lines(console: Console, *lines: str, style: str | None = None) -> None:
    """Lines as they are."""
    for line in lines:
        console.print(line, style=style, markup=False, emoji=False, soft_wrap=True)
