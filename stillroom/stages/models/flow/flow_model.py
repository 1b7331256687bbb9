"""Flow models: two uint8 frames in, the flow from one to the other out, for every kind of model.

The flow is in canvas pixels, u to the right and v down, from frame a to frame b: sampling b at
x + flow(x) gives a. See `stillroom.stages.warp`.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from stillroom.stages.models.flow.dis import DisConfig, load_dis
from stillroom.stages.models.flow.flownet2.load import FlowNet2Config, load_flownet2
from stillroom.stages.models.flow.raft_small.load import RaftSmallConfig, load_raft_small
from stillroom.stages.models.flow.torchvision_raft import (
    TorchvisionFlowConfig,
    load_torchvision_flow,
)
from stillroom.stages.models.inference import as_frames, device_of, inference
from stillroom.stages.settings import one_of
from stillroom.storage_specs.errors import ArtifactError

# torch is imported by the functions below: planning a build must not wait for it.
if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from stillroom.stages.models.flow.flow_network import FlowNetwork
    from stillroom.stages.models.flow.flow_settings import FlowSettings

FLOW_MODELS: dict[str, tuple[type[FlowSettings], Callable[[Any], FlowNetwork]]] = {
    "flownet2": (FlowNet2Config, load_flownet2),
    "raft_small": (RaftSmallConfig, load_raft_small),
    "torchvision": (TorchvisionFlowConfig, load_torchvision_flow),
    "dis": (DisConfig, load_dis),
}

if TYPE_CHECKING:
    FlowModelConfig = FlowSettings
else:
    FlowModelConfig = one_of(settings for settings, _ in FLOW_MODELS.values())


class FlowModel:
    """An optical flow model with the preparation of its input.

    Args:
        device: where it runs
    """

    def __init__(
        self,
        config: FlowSettings,
        network: FlowNetwork,
        device: str,
        description: dict[str, Any],
    ) -> None:
        self._config = config
        self._network = network
        self._description = description
        self.device = device
        if network.module is not None:
            network.module.to(device).eval().requires_grad_(False)

    @property
    def module(self) -> nn.Module | None:
        """The network with its parameters; None where nothing is learnt."""
        return self._network.module

    def identity(self) -> dict[str, Any]:
        """Return what decides this model's output: its section's, with the device it runs on.

        It is of the weights as they were loaded, whatever has become of the file since.
        """
        return {**deepcopy(self._description), "device": self.device}

    def flow(
        self, frames_a: NDArray[np.uint8] | Tensor, frames_b: NDArray[np.uint8] | Tensor
    ) -> Tensor:
        """Compute the flow from each frame of a batch to its partner.

        Args:
            frames_a, frames_b: (B, H, W, 3) uint8 RGB, of one size

        Returns:
            (B, 2, H, W) float32 on the model's device, a -> b, in pixels of the frames

        Raises:
            ArtifactError: frames of another shape or dtype, or two batches that differ in shape.
        """
        first, second = as_frames(frames_a, "frames_a"), as_frames(frames_b, "frames_b")
        if first.shape != second.shape:
            raise ArtifactError(
                "frames_a and frames_b: expected one shape, got "
                f"{tuple(first.shape)} and {tuple(second.shape)}; bring both to one canvas"
            )
        if not first.numel():
            raise ArtifactError(f"frames: expected some pixels, got {tuple(first.shape)}")
        with inference(self.device, self._config.precision):
            both = (each.to(self.device, non_blocking=True) for each in (first, second))
            flow = self._network.estimate(*both)
        return flow.float().contiguous()


def build_flow_model(config: FlowModelConfig) -> FlowModel:
    """Build a flow model, load its weights, and move it to its device.

    Raises:
        ConfigError: there is no such device, or a package is missing.
        WeightsError: the weights are unreadable or belong to another network.
    """
    import torch

    device = device_of(config.device, "flow model")
    described = config.identity()  # of the files as they are loaded
    with torch.random.fork_rng(devices=[]):  # networks draw numbers before weights replace them
        _, load = FLOW_MODELS[config.kind]
        network = load(config)
    return FlowModel(config, network, device, described)
