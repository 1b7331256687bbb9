"""FlowNet2 from NVIDIA's checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from stillroom.stages.models.flow.flow_settings import LearntFlowSettings
from stillroom.stages.models.teacher_settings import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.stages.models.flow.flow_network import FlowNetwork


class FlowNet2Config(LearntFlowSettings):
    """FlowNet2 in pure PyTorch: no compiled operator, on any device.

    weights: NVIDIA's `FlowNet2_checkpoint.pth.tar` (state_dict, epoch, best_EPE), or its tensors
        alone
    input_mode: "rgb" is what the weights were trained on, RGB 0..255. "etc_legacy" gives frames
        normalised by ImageNet's mean and standard deviation and divides them by 255 all the same,
        as the code of Liu et al., ECCV 2020, does: only to compare with temporal consistency that
        was measured so
    sides: how frames come to multiples of 64, see `Sides`
    """

    kind: Literal["flownet2"] = "flownet2"
    input_mode: Literal["rgb", "etc_legacy"] = "rgb"
    sides: Literal["resize", "pad"] = "resize"


def load_flownet2(config: FlowNet2Config) -> FlowNetwork:
    """Build the network and load its weights, every tensor by name.

    Raises:
        WeightsError: the weights are unreadable or belong to another network.
    """
    import torch

    from stillroom.stages.models.flow.flow_network import (
        FlowNetwork,
        Sides,
        without_weights,
    )
    from stillroom.stages.models.flow.flownet2.cascade import MULTIPLE, FlowNet2
    from stillroom.stages.models.weights import load_weights

    network = without_weights(FlowNet2)
    load_weights(network, config.weights, key=config.weights_key)
    # A third less time on a CPU; torch's own annotations lack this form of the call.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    sides = Sides(MULTIPLE, least=MULTIPLE, how=config.sides)

    def estimate(first: Tensor, second: Tensor) -> Tensor:
        a, b = (as_input(frames, config.input_mode) for frames in (first, second))
        return sides.around(network, a, b)

    return FlowNetwork(network, estimate)


def as_input(frames: Tensor, input_mode: str) -> Tensor:
    """Turn frames (B, H, W, 3) uint8 into the network's input, (B, 3, H, W) float32."""
    from stillroom.stages.models.flow.flow_network import as_images

    images = as_images(frames)
    if input_mode == "rgb":
        return images
    mean, std = (images.new_tensor(each).view(1, 3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std
