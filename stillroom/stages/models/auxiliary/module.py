"""The auxiliary module: a network beside the student that reads its layers, in training alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from stillroom.stages.models.auxiliary.adaptors import build_adaptor
from stillroom.stages.models.auxiliary.cells import (
    Cell,
    cell_name,
    loose_ends,
    node_strides,
)
from stillroom.stages.upsample import upsample_logits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class AuxiliaryModule(nn.Module):
    """Cells over a student's layers, and a 1x1 convolution from their loose ends to classes."""

    def __init__(
        self,
        cells: Sequence[Cell],
        layers: Mapping[str, int],
        strides: Mapping[str, int],
        channels: int,
        classes: int,
    ) -> None:
        """Build it.

        Args:
            layers, strides: channels and strides of the student's layers, by name
            channels: of each node as it is adapted

        Raises:
            ConfigError: grids that are joined do not fit into one another.
        """
        super().__init__()
        self._strides = node_strides(strides, cells)
        self._ends = loose_ends(cells)
        self.cells = nn.ModuleDict()
        widths = dict(layers)
        for place, cell in enumerate(cells):
            name = cell_name(place)
            made = _CellNetwork(cell, [widths[each] for each in cell.inputs], channels)
            self.cells[name] = made
            widths[name] = made.channels
        self.head = nn.Conv2d(sum(widths[name] for name in self._ends), classes, 1)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Compute logits (B, C, h, w) in float32 from features (B, A, h', w') by layer."""
        nodes = {name: grid.to(self.head.weight.dtype) for name, grid in features.items()}
        for name, cell in self.cells.items():
            nodes[name] = cell(nodes, self._strides)
        ends = [nodes[name] for name in self._ends]
        ends = _on_finest(ends, [self._strides[name] for name in self._ends])
        logits: Tensor = self.head(torch.cat(ends, dim=1))
        return logits


class _CellNetwork(nn.Module):
    """Two adaptors and an aggregator."""

    def __init__(self, cell: Cell, inputs: Sequence[int], channels: int) -> None:
        super().__init__()
        self.cell = cell
        keeps = cell.aggregator == "concatenation"
        self.adaptors = nn.ModuleList(
            build_adaptor(kind, width, channels, keeps=keeps)
            for kind, width in zip(cell.adaptors, inputs, strict=True)
        )
        kept = [
            width if keeps and kind == "skip" else channels
            for kind, width in zip(cell.adaptors, inputs, strict=True)
        ]
        self.channels = sum(kept) if keeps else channels

    def forward(self, nodes: Mapping[str, Tensor], strides: Mapping[str, int]) -> Tensor:
        """Adapt each node on its own grid, and join them on the finer one."""
        pairs = zip(self.cell.inputs, self.adaptors, strict=True)
        adapted = [adaptor(nodes[name]) for name, adaptor in pairs]
        first, second = _on_finest(adapted, [strides[name] for name in self.cell.inputs])
        if self.cell.aggregator == "sum":
            return first + second
        return torch.cat([first, second], dim=1)


def _on_finest(grids: Sequence[Tensor], strides: Sequence[int]) -> list[Tensor]:
    """Bring grids to the finest of theirs: bilinear, as logits are brought to pixels."""
    finest, grid = min(zip(strides, grids, strict=True), key=lambda pair: pair[0])
    size = (grid.shape[2], grid.shape[3])
    pairs = zip(grids, strides, strict=True)
    return [upsample_logits(each, stride // finest, size) for each, stride in pairs]
