"""Plain tables, and the names of arrays in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from stillroom.storage_specs.artifacts import FRAMES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence


def grid(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, left: Collection[int] = (0,)
) -> Table:
    """Return a table without lines: words at the left, numbers at the right.

    Where it is wider than the terminal, headings wrap; nothing is ever cut.

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


def array_name(source: str, set_name: str, artifact: str) -> str:
    """Return where an array lies below the cache's folder."""
    return f"{source}/{artifact}" if set_name == FRAMES else f"{source}/{set_name}/{artifact}"
