"""Teachers from segmentation-models-pytorch, with local weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from stillroom.stages.models.smp_network import (
    CLASSIFIER,
    Architecture,
    SmpDesign,
    build_smp,
    forward_smp,
    pad_multiple,
)
from stillroom.stages.models.teacher_settings import TeacherSettings
from stillroom.stages.models.weights import (
    check_classes,
    demand_finite,
    fit_state,
    load_state,
    weights_sha256,
)

if TYPE_CHECKING:
    from stillroom.stages.models.dense_network import TeacherNetwork


class SmpTeacherConfig(TeacherSettings):
    """An SMP network. Layers: "penultimate", and "stage1" to "stage5" of its encoder.

    weights: state_dict of the whole network, .safetensors or .pth; without it the network keeps the
        random weights of a fixed seed: of use in tests only
    options: further arguments of the architecture, such as encoder_depth or decoder_channels
    """

    kind: Literal["smp"]
    architecture: Architecture
    encoder: str
    weights: Path | None = None
    options: dict[str, Any] = Field(default_factory=dict)

    def content(self) -> dict[str, Any]:
        """The sha256 of the weights."""
        return {"weights_sha256": weights_sha256(self.weights)}


def load_smp(config: SmpTeacherConfig) -> TeacherNetwork:
    """Build the network and load its weights.

    Raises:
        ConfigError: there is no such network.
        WeightsError: the weights are unreadable, not finite, or belong to another network.
    """
    from stillroom.stages.models.dense_network import TeacherNetwork

    classes = config.num_classes()
    state = None if config.weights is None else load_state(config.weights)
    network = build_smp(SmpDesign(config.architecture, config.encoder, classes, config.options))
    if state is not None and config.weights is not None:
        check_classes(state, CLASSIFIER, classes, config.weights)
        fit_state(network, state, config.weights)
        demand_finite(state, config.weights)
    return TeacherNetwork(
        module=network,
        forward=lambda images: forward_smp(network, images),
        multiple=pad_multiple(network),
        channels_last=True,
        own_logits=network,
    )
