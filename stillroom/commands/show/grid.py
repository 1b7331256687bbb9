"""Plain tables, and the names of arrays in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Column, Table

from stillroom.storage_specs.artifacts import FRAMES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

PADDING = 2  # rich gives it to each column, and those at the edges


def grid(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, left: Collection[int] = (0,)
) -> Table:
    """Return a table without lines: words at the left, numbers at the right.

    Where it is wider than the terminal, headings wrap, and `fitted` cuts between columns.

    Args:
        left: positions of the columns of words
    """
    cells = [[str(cell) for cell in row] for row in rows]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for position, column in enumerate(columns):
        values = [row[position] for row in cells if position < len(row)]
        table.add_column(
            column,
            justify="left" if position in left else "right",
            vertical="bottom",
            min_width=max(map(len, [*column.split(), *values]), default=0),
        )
    for row in cells:
        table.add_row(*row)
    return table


def fitted(table: Table, width: int) -> list[Table]:
    """Cut a table into tables that fit the width, each with the columns of words.

    A single column may still be too wide.
    """
    words = [column for column in table.columns if column.justify == "left"]
    numbers = [column for column in table.columns if column.justify != "left"]
    room = width - _width(words)
    pieces: list[list[Column]] = [[]]
    for column in numbers:
        if pieces[-1] and _width([*pieces[-1], column]) > room:
            pieces.append([])
        pieces[-1].append(column)
    if len(pieces) == 1:
        return [table]
    return [_of_columns([*words, *piece]) for piece in pieces]


def _width(columns: Sequence[Column]) -> int:
    return sum((column.min_width or 0) + PADDING for column in columns)


def _of_columns(columns: Sequence[Column]) -> Table:
    table = Table(*(column.copy() for column in columns), box=None, pad_edge=False)
    table.header_style = "bold"
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*row)
    return table


def array_name(source: str, set_name: str, artifact: str) -> str:
    """Return where an array lies below the cache's folder."""
    return f"{source}/{artifact}" if set_name == FRAMES else f"{source}/{set_name}/{artifact}"
