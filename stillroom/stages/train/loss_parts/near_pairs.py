"""Pairs of positions that lie near each other, a shift of the whole map at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def shifts(reach: int) -> list[tuple[int, int]]:
    """Return (rows down, columns right) from a position to half of its neighbours.

    Args:
        reach: the largest Chebyshev distance, at least 1; 1 means the 8 around

    Returns:
        ((2 reach + 1)^2 - 1) / 2 shifts: the other half are their opposites, so that each pair
        is met once
    """
    return [
        (down, right)
        for down in range(reach + 1)
        for right in range(-reach, reach + 1)
        if down > 0 or right > 0
    ]


def pairs(maps: Tensor, down: int, right: int) -> tuple[Tensor, Tensor]:
    """Return the two views of a map that pair each position with the one a shift away.

    Args:
        maps: (..., H, W)
        down: rows, 0 or more; right: columns, of either sign

    Returns:
        twice (..., H - down, W - |right|), empty where the map is not larger than the shift
    """
    height, width = maps.shape[-2:]
    rows, columns = max(0, height - down), max(0, width - abs(right))
    here_left, there_left = max(0, -right), max(0, right)
    here = maps[..., :rows, here_left : here_left + columns]
    there = maps[..., down : down + rows, there_left : there_left + columns]
    return here, there


def near_pairs(
    student: Tensor, teacher: Tensor, counted: Tensor | None, reach: int
) -> tuple[Tensor, Tensor]:
    """Sum the squared differences of the similarities of all positions within reach of each other.

    Args:
        student, teacher: (B, C, H, W), (B, C', H, W); similarities are dot products along channels
        counted: (B, 1, H, W) bool or None; positions that do not count must be 0 in both
        reach: Chebyshev distance; none is compared with itself

    Returns:
        () sum over ordered pairs, () int64 number of those that count
    """
    if counted is None:
        counted = torch.ones_like(student[:, :1], dtype=torch.bool)
    total = student.new_zeros(())
    count = torch.zeros((), dtype=torch.int64, device=student.device)
    for down, right in shifts(reach):
        here, there = pairs(student, down, right)
        difference = (here * there).sum(dim=1)  # (B, H - down, W - |right|)
        here, there = pairs(teacher, down, right)
        difference = difference - (here * there).sum(dim=1)
        total = total + 2 * difference.square().sum()
        here, there = pairs(counted, down, right)
        count = count + 2 * (here & there).sum()
    return total, count
