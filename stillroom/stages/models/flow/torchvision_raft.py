"""torchvision's RAFT, small and large, with local weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from stillroom.stages.models.flow.flow_settings import LearntFlowSettings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stillroom.stages.models.flow.flow_network import FlowNetwork


class TorchvisionFlowConfig(LearntFlowSettings):
    """RAFT as torchvision builds it.

    weights: a state_dict of torchvision's, whose names differ from those of the original code
    iterations: of the update; torchvision's own default
    """

    kind: Literal["torchvision"] = "torchvision"
    architecture: Literal["raft_small", "raft_large"]
    iterations: Annotated[int, Field(ge=1, le=64)] = 12


def load_torchvision_flow(config: TorchvisionFlowConfig) -> FlowNetwork:
    """Build the network and load its weights.

    Raises:
        ConfigError: torchvision is not installed.
        WeightsError: the weights are unreadable or belong to another network.
    """
    from stillroom.stages.models.flow.flow_network import (
        FlowNetwork,
        Sides,
        as_images,
    )
    from stillroom.stages.models.torchvision_import import import_torchvision
    from stillroom.stages.models.weights import load_weights

    import_torchvision()
    from torchvision.models import optical_flow

    network: nn.Module = getattr(optical_flow, config.architecture)(weights=None, progress=False)
    load_weights(network, config.weights, key=config.weights_key)
    sides = Sides(multiple=8, least=128, how="pad")  # its coarsest correlations need a side of 16

    def refine(first: Tensor, second: Tensor) -> Tensor:
        flow: Tensor = network(first, second, num_flow_updates=config.iterations)[-1]
        return flow.float()

    def estimate(first: Tensor, second: Tensor) -> Tensor:
        a, b = (as_images(frames) / 127.5 - 1 for frames in (first, second))
        return sides.around(refine, a, b)

    return FlowNetwork(network, estimate)
