"""RAFT-small from a checkpoint of the original code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from stillroom.stages.models.flow.flow_settings import LearntFlowSettings

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.stages.models.flow.flow_network import FlowNetwork


class RaftSmallConfig(LearntFlowSettings):
    """RAFT-small in pure PyTorch.

    weights: a state_dict of the original code, with or without its "module." before every name
    iterations: of the update: 12 as in training, 20 and more to settle large motions
    """

    kind: Literal["raft_small"] = "raft_small"
    iterations: Annotated[int, Field(ge=1, le=64)] = 20


def load_raft_small(config: RaftSmallConfig) -> FlowNetwork:
    """Build the network and load its weights, every tensor by name.

    Raises:
        WeightsError: the weights are unreadable or belong to another network.
    """
    from stillroom.stages.models.flow.flow_network import (
        FlowNetwork,
        Sides,
        as_images,
        without_weights,
    )
    from stillroom.stages.models.flow.raft_small.network import LEAST_SIDE, STRIDE, RaftSmall
    from stillroom.stages.models.weights import load_weights

    network = without_weights(RaftSmall)
    load_weights(network, config.weights, key=config.weights_key)
    sides = Sides(STRIDE, least=LEAST_SIDE, how="pad")

    def refine(first: Tensor, second: Tensor) -> Tensor:
        flow: Tensor = network(first, second, config.iterations)
        return flow

    def estimate(first: Tensor, second: Tensor) -> Tensor:
        a, b = (as_images(frames) / 127.5 - 1 for frames in (first, second))
        return sides.around(refine, a, b)

    return FlowNetwork(network, estimate)
