"""Parameters that nothing is learned from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn


def freeze_idle(network: nn.Module, grids: Iterable[Tensor]) -> int:
    """Take parameters that no grid depends on out of training; return how many.

    They would be counted as trainable, and data-parallel training would wait for their gradients.

    Args:
        grids: what the network gives, with their graph
    """
    total = torch.stack([grid.sum() for grid in grids]).sum()
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    idle = [p for p, gradient in zip(parameters, gradients, strict=True) if gradient is None]
    for parameter in idle:
        parameter.requires_grad_(False)
    return sum(parameter.numel() for parameter in idle)
