"""Network slimming: the scales of batch normalisation are drawn to 0, so that channels can go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from stillroom.stages.train.terms.term import Positive
from stillroom.stages.train.terms.weight_term import WeightTerm
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn


def network_slimming(scales: Sequence[Tensor]) -> Tensor:
    """Add up how large the scales of batch normalisation are.

    loss = sum over layers and channels of |gamma|

    Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017,
    the sparsity term of eq. 1 with g = L1, there with weight 1e-4 or 1e-5; arXiv:1708.06519.

    Args:
        scales: (A,) of each layer

    Returns:
        () float32 (float64 stays); 0 has the gradient 0
    """
    return torch.stack([scale.abs().sum() for scale in scales]).sum()


class NetworkSlimmingTerm(WeightTerm):
    """`network_slimming` of the scales that train; `stillroom prune` then takes the smallest."""

    name: Literal["network_slimming"]
    weight: Positive = 1e-4

    def penalty(self, network: nn.Module) -> Tensor:
        norms = [one for one in network.modules() if isinstance(one, _BatchNorm) and one.affine]
        scales = [one.weight for one in norms if one.weight.requires_grad]
        if not scales:
            raise ConfigError(
                f"term {self.label}: the student {type(network).__name__} has no batch "
                "normalisation whose scales train; leave the term out"
            )
        return network_slimming(scales)
