"""network_slimming against its formula, and as a term of weights alone in steps of training."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from stillroom.stages.train.losses.network_slimming import NetworkSlimmingTerm, network_slimming
from stillroom.storage_specs.errors import ConfigError

TERM = NetworkSlimmingTerm(name="network_slimming", weight=0.5)


def test_it_is_the_formula_and_its_gradient_is_the_sign():
    scales = [torch.tensor([0.5, -2.0, 0.0]), torch.tensor([3.0])]
    for scale in scales:
        scale.requires_grad_()
    value = network_slimming(scales)
    value.backward()
    assert value.item() == 5.5
    assert [scale.grad.tolist() for scale in scales] == [[1, -1, 0], [1]]


def test_scales_that_train_count_and_a_network_without_any_is_refused():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d(2)
    )
    nn.init.constant_(network[1].weight, -0.25)
    network[3].weight.requires_grad_(False)
    assert TERM.penalty(network).item() == 1.0
    with pytest.raises(ConfigError, match="Sequential has no batch normalisation whose scales"):
        TERM.penalty(network[3:])
    with pytest.raises(ValidationError, match="reads no teacher"):
        NetworkSlimmingTerm(name="network_slimming", teacher="fpn")
