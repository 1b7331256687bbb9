"""Teachers from torchvision's segmentation models, with local weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stillroom.stages.models.model_settings import WeightsKey
from stillroom.stages.models.teacher_settings import TeacherSettings
from stillroom.stages.models.torchvision_network import (
    AUXILIARY,
    Architecture,
    build_torchvision,
    classifier_name,
    forward_torchvision,
)
from stillroom.stages.models.weights import load_weights

if TYPE_CHECKING:
    from stillroom.stages.models.dense_network import TeacherNetwork


class TorchvisionTeacherConfig(TeacherSettings):
    """A torchvision segmentation model. Layers: "penultimate".

    Attributes:
        weights: state_dict of the network, .safetensors or .pth, with or without the auxiliary
            head; without it the network keeps the random weights of a fixed seed: of use in tests
            only
        weights_key: where in the file they are, if it holds several such networks
    """

    kind: Literal["torchvision"]
    architecture: Architecture
    weights: Path | None = None
    weights_key: WeightsKey = None


def load_torchvision(config: TorchvisionTeacherConfig) -> TeacherNetwork:
    """Build the network and load its weights.

    Raises:
        WeightsError: the weights are unreadable, not finite, or belong to another network.
    """
    from stillroom.stages.models.dense_network import TeacherNetwork

    network = build_torchvision(config.architecture, config.num_channels())
    if config.weights is not None:
        classifier = (classifier_name(config.architecture), config.num_channels())
        load_weights(
            network,
            config.weights,
            key=config.weights_key,
            classifier=classifier,
            skip=(AUXILIARY,),
        )
    return TeacherNetwork(
        module=network,
        forward=lambda images: forward_torchvision(network, images),
        multiple=1,
        channels_last=True,
        own_logits=lambda images: network(images)["out"],
    )
