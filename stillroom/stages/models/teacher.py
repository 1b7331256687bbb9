"""Teachers: uint8 frames in, named grids out, the same for every kind of network."""

from __future__ import annotations

import logging
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from stillroom.stages.models.inference import as_frames, device_of, inference
from stillroom.stages.models.teachers.families import TEACHERS
from stillroom.storage_specs.artifacts import LOGITS
from stillroom.storage_specs.errors import ConfigError

# torch is imported by the functions below: planning a build must not wait for it.
if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from stillroom.stages.models.dense_network import ModelOutput, TeacherNetwork
    from stillroom.stages.models.teachers.families import TeacherConfig

LOG = logging.getLogger(__name__)
SEED = 0  # of teachers without weights: the same network in every worker


class Teacher:
    """A network with the preparation of its input; call it on frames.

    Attributes:
        classes: names; None where only their number is known, or there are none
        strides: pixels of a frame to one position, for each grid of its output: "logits", which a
            teacher of something else than classes lacks, each "features/<layer>", "depth"
        device: where it runs
    """

    def __init__(
        self,
        config: TeacherConfig,
        network: TeacherNetwork,
        device: str,
        description: dict[str, Any],
    ) -> None:
        from stillroom.stages.models.dense_network import Normalise, measure_grids

        self._config = config
        self._description = description
        self._network = network
        self.device = device
        if config.pad % network.multiple:
            raise ConfigError(
                f"teacher: pad={config.pad}, but this network needs sides that are multiples of "
                f"{network.multiple}"
            )
        self._normalise = Normalise(
            config.mean, config.std, config.pad, channels_last=network.channels_last
        ).to(device)
        if network.module is not None:
            network.module.to(device).eval().requires_grad_(False)
        stated = None if config.classes is None else config.num_classes()
        self._grids = measure_grids(network.forward, config.pad, stated, device)
        self.strides = {name: grid.stride for name, grid in self._grids.items()}
        self.classes = config.class_names() if LOGITS in self._grids else None

    @property
    def num_classes(self) -> int:
        """Number of channels of its logits.

        Raises:
            ConfigError: it gives no logits.
        """
        if LOGITS not in self._grids:
            raise ConfigError(f"teacher: gives {', '.join(self._grids)}, and no logits of classes")
        return self._grids[LOGITS].channels

    @property
    def module(self) -> nn.Module | None:
        """What holds its parameters; None for a bare callable."""
        return self._network.module

    def identity(self) -> dict[str, Any]:
        """Return what decides this teacher's output: its config's identity, with its device.

        It is that of the files as they were loaded, whatever has become of them since.
        """
        return {**deepcopy(self._description), "device": self.device}

    def __call__(self, frames: NDArray[np.uint8] | Tensor) -> ModelOutput:
        """Return the grids of a batch by name: (B, ..., h, w) float32, h = ceil(H / stride).

        Args:
            frames: (B, H, W, 3) uint8 RGB

        Raises:
            ArtifactError: frames of another shape or dtype.
            ConfigError: what the network gives does not follow the number or size of the frames.
        """
        from stillroom.stages.models.dense_network import crop

        with inference(self.device, self._config.precision):
            images = self._images(frames)
            output = self._network.forward(images)
            _demand_batch(output, len(images))
            output = crop(output, self.strides, images, *frames.shape[1:3])
        return {name: grid.float().contiguous() for name, grid in output.items()}

    def own_logits(self, frames: NDArray[np.uint8] | Tensor) -> Tensor:
        """Return logits upsampled as the network itself does it: as its author will score it.

        SMP's heads upsample with aligned corners, up to half a position from where the
        cached ones lie.

        Args:
            frames: (B, H, W, 3) uint8 RGB

        Returns:
            (B, C, H, W) float32

        Raises:
            ArtifactError: frames of another shape or dtype.
            ConfigError: this network has no upsampling of its own.
        """
        if self._network.own_logits is None:
            raise ConfigError("teacher: this network does not upsample its logits by itself")
        with inference(self.device, self._config.precision):
            logits = self._network.own_logits(self._images(frames))
        return logits[..., : frames.shape[1], : frames.shape[2]].float()

    def _images(self, frames: NDArray[np.uint8] | Tensor) -> Tensor:
        """Normalise and pad: (B, 3, H', W')."""
        batch = as_frames(frames)
        images: Tensor = self._normalise(batch.to(self.device).permute(0, 3, 1, 2))
        return images


def _demand_batch(output: ModelOutput, frames: int) -> None:
    for name, grid in output.items():
        if len(grid) != frames:
            raise ConfigError(
                f"{name}: {frames} frames give a grid of shape {tuple(grid.shape)}, expected "
                f"({frames}, ...), a grid for each; mend the network, or set cache.batch = 1 if it "
                "takes one frame at a time"
            )


def build_teacher(config: TeacherConfig) -> Teacher:
    """Build a teacher, load its weights, and move it to its device.

    Raises:
        ConfigError: there is no such network, or its classes are not known.
        WeightsError: the weights are unreadable, not finite, or belong to another network.
    """
    import torch

    described = config.identity()  # of the files as they are loaded
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        _, load = TEACHERS[config.kind]
        network = load(config)
    if getattr(config, "weights", "") is None and config.kind != "python":
        LOG.warning("a teacher of kind %s has no weights: its output is noise", config.kind)
    return Teacher(config, network, device_of(config.device, "teacher"), described)
