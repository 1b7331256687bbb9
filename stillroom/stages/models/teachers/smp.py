"""Teachers from segmentation-models-pytorch, with local weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from stillroom.stages.models.model_settings import WeightsKey
from stillroom.stages.models.smp_network import (
    Architecture,
    SmpDesign,
    build_smp,
    forward_smp,
    freeze_idle_layers,
    load_smp_weights,
    pad_multiple,
)
from stillroom.stages.models.teacher_settings import TeacherSettings

if TYPE_CHECKING:
    from stillroom.stages.models.dense_network import TeacherNetwork


class SmpTeacherConfig(TeacherSettings):
    """An SMP network. Layers: "penultimate", and "stage1" to "stage5" of its encoder.

    Attributes:
        weights: state_dict of the whole network, .safetensors or .pth; without it the network keeps
            the random weights of a fixed seed: of use in tests only
        weights_key: where in the file they are, if it holds several such networks
        options: further arguments of the architecture, such as encoder_depth or decoder_channels;
            output_stride, 8 or 16, dilates any encoder from there on
    """

    kind: Literal["smp"]
    architecture: Architecture
    encoder: str
    weights: Path | None = None
    weights_key: WeightsKey = None
    options: dict[str, Any] = Field(default_factory=dict)


def load_smp(config: SmpTeacherConfig) -> TeacherNetwork:
    """Build the network and load its weights.

    Raises:
        ConfigError: there is no such network.
        WeightsError: the weights are unreadable, not finite, or belong to another network.
    """
    from stillroom.stages.models.dense_network import TeacherNetwork

    channels = config.num_channels()
    network = build_smp(SmpDesign(config.architecture, config.encoder, channels, config.options))
    if config.weights is not None:
        load_smp_weights(network, config.weights, config.weights_key, channels)
    freeze_idle_layers(network, depth_stated="encoder_depth" in config.options)
    return TeacherNetwork(
        module=network,
        forward=lambda images: forward_smp(network, images),
        multiple=pad_multiple(network),
        channels_last=True,
        own_logits=network,
    )
