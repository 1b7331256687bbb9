"""Tensors of all processes of a training run together; of one process alone, its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import distributed

if TYPE_CHECKING:
    from torch import Tensor


def summed(values: Tensor) -> Tensor:
    """Add up the tensors of all ranks; every rank must call, with the same shape.

    Returns:
        the same on every rank, without gradient
    """
    values = values.detach()
    if _alone():
        return values
    total = values.clone()
    distributed.all_reduce(total)
    return total


def gathered(rows: Tensor) -> Tensor:
    """Put the rows of all ranks below each other, in the order of ranks; every rank must call.

    Args:
        rows: (n, ...), n may be another number on each rank

    Returns:
        (sum of n, ...), the same on every rank, without gradient
    """
    rows = rows.detach()
    if _alone():
        return rows
    ranks = distributed.get_world_size()
    own = torch.tensor([len(rows)], device=rows.device)
    numbers = [torch.empty_like(own) for _ in range(ranks)]
    distributed.all_gather(numbers, own)
    counts = [int(number) for number in numbers]
    # Collectives take tensors of one shape.
    padded = rows.new_zeros((max(counts), *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in range(ranks)]
    distributed.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def _alone() -> bool:
    return not (distributed.is_available() and distributed.is_initialized())
