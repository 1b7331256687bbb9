"""The plan of an auxiliary module: cells, each of which joins two nodes into a further one.

A node is a layer of the student, by its name, or a cell before, as "cell1". A cell brings both to
the finer of their grids.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from stillroom.stages.settings import Settings
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Adaptor = Literal[
    "conv1x1",
    "conv3x3",
    "separable3x3",
    "separable3x3_dilated3",
    "separable3x3_dilated6",
    "deformable3x3",
    "skip",
]
Aggregator = Literal["sum", "concatenation"]


class Cell(Settings):
    """One cell: two nodes, what adapts each, and how the two become one.

    Attributes:
        inputs: names of nodes: layers, or "cell1" and so on, of cells before this one
        adaptors: of the first and of the second
    """

    inputs: tuple[str, str]
    adaptors: tuple[Adaptor, Adaptor]
    aggregator: Aggregator


def cell_name(place: int) -> str:
    """Name the node that a cell becomes; the first is "cell1"."""
    return f"cell{place + 1}"


def basic_cells(
    layers: Sequence[str], adaptor: Adaptor, aggregator: Aggregator
) -> tuple[Cell, ...]:
    """Return the chain h_l = h_(l-1) (.) A(O_l), l from the second layer on, with h_1 = A(O_1)."""
    cells = [Cell(inputs=(layers[0], layers[1]), adaptors=(adaptor,) * 2, aggregator=aggregator)]
    for place, layer in enumerate(layers[2:]):
        inputs = (cell_name(place), layer)
        cells.append(Cell(inputs=inputs, adaptors=("skip", adaptor), aggregator=aggregator))
    return tuple(cells)


def unknown_inputs(layers: Sequence[str], cells: Sequence[Cell]) -> list[str]:
    """Find what cells name that is neither a layer nor a cell before them."""
    faults = []
    nodes = list(layers)
    for place, cell in enumerate(cells):
        faults += [
            f"cells.{place}.inputs: {name!r} is none of {', '.join(nodes)}"
            for name in cell.inputs
            if name not in nodes
        ]
        nodes.append(cell_name(place))
    return faults


def loose_ends(cells: Sequence[Cell]) -> list[str]:
    """Return the cells that no other reads: together they are what the module's head reads."""
    read = {name for cell in cells for name in cell.inputs}
    return [cell_name(place) for place in range(len(cells)) if cell_name(place) not in read]


def node_strides(layers: Mapping[str, int], cells: Sequence[Cell]) -> dict[str, int]:
    """Return the stride of every node, by name.

    Args:
        layers: strides of the layers

    Raises:
        ConfigError: two that are joined have strides of which neither is a multiple of the other.
    """
    found = dict(layers)
    for place, cell in enumerate(cells):
        fine, coarse = sorted(found[name] for name in cell.inputs)
        _demand_multiple(fine, coarse, " and ".join(cell.inputs))
        found[cell_name(place)] = fine
    return found


def module_stride(layers: Mapping[str, int], cells: Sequence[Cell]) -> int:
    """Return the pixels to one position of the module's logits: those of its finest loose end.

    Raises:
        ConfigError: as `node_strides`.
    """
    strides = node_strides(layers, cells)
    ends = loose_ends(cells)
    finest = min(strides[name] for name in ends)
    for name in ends:
        _demand_multiple(finest, strides[name], " and ".join(ends))
    return finest


def _demand_multiple(fine: int, coarse: int, names: str) -> None:
    if coarse % fine:
        raise ConfigError(
            f"{names} are on grids of stride {fine} and {coarse}, which do not fit into one "
            "another; choose layers whose strides do"
        )
