"""Teachers from segmentation-models-pytorch, with local weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from stillroom.stages.models.model_settings import WeightsKey
from stillroom.stages.models.smp_network import (
    Architecture,
    SmpDesign,
    build_smp,
    classifier_of,
    forward_smp,
    freeze_idle_layers,
    load_smp_weights,
    pad_multiple,
)
from stillroom.stages.models.task_heads import HeadsConfig
from stillroom.stages.models.teacher_settings import TeacherSettings
from stillroom.storage_specs.artifacts import DEPTH

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stillroom.stages.models.dense_network import ModelOutput, TeacherNetwork
    from stillroom.stages.models.task_heads import HeadSettings


class SmpTeacherConfig(TeacherSettings):
    """An SMP network. Layers: "penultimate", and "stage1" to "stage5" of its encoder.

    Attributes:
        weights: state_dict of the whole network, .safetensors or .pth; without it the network keeps
            the random weights of a fixed seed: of use in tests only
        weights_key: where in the file they are, if it holds several such networks
        heads: its tasks, as a student of several was trained with; segmentation alone if left out
        options: further arguments of the architecture, such as encoder_depth or decoder_channels;
            output_stride, 8 or 16, dilates any encoder from there on
    """

    kind: Literal["smp"]
    architecture: Architecture
    encoder: str
    weights: Path | None = None
    weights_key: WeightsKey = None
    options: dict[str, Any] = Field(default_factory=dict)
    heads: HeadsConfig | None = None

    added: ClassVar[tuple[str, ...]] = (*TeacherSettings.added, "heads")

    @property
    def may_lack_classes(self) -> bool:
        """A network of other tasks does."""
        return self.heads is not None and self.heads.segmentation is None


def load_smp(config: SmpTeacherConfig) -> TeacherNetwork:
    """Build the network and load its weights.

    Raises:
        ConfigError: there is no such network.
        WeightsError: the weights are unreadable, not finite, or belong to another network.
    """
    from stillroom.stages.models.dense_network import TeacherNetwork
    from stillroom.stages.models.headed_network import add_heads

    heads = None if config.heads is None else config.heads.by_task()
    classes = 0 if config.may_lack_classes else config.num_channels()
    channels = classes if heads is None else next(iter(heads.values())).channels(classes)
    network = build_smp(SmpDesign(config.architecture, config.encoder, channels, config.options))
    if heads is not None:
        add_heads(network, heads, classifier_of(network).in_channels, classes)
    if config.weights is not None:
        load_smp_weights(network, config.weights, config.weights_key, channels)
    freeze_idle_layers(network, depth_stated="encoder_depth" in config.options)
    return TeacherNetwork(
        module=network,
        forward=lambda images: _forward(network, heads, images),
        multiple=pad_multiple(network),
        channels_last=True,
        own_logits=None if config.may_lack_classes else network,
    )


def _forward(
    network: nn.Module, heads: dict[str, HeadSettings] | None, images: Tensor
) -> ModelOutput:
    """Compute what is cached of a network: of depth the metres, and not the bins."""
    from stillroom.stages.models.dense_network import OUTPUTS
    from stillroom.stages.models.headed_network import by_task

    output = forward_smp(network, images)
    if heads is None:
        return output
    found = by_task(network, heads, output)
    if DEPTH in found:
        found[DEPTH] = found[DEPTH].squeeze(1)  # (B, 1, h, w) -> (B, h, w)
    return {name: grid for name, grid in found.items() if name.partition("/")[0] in OUTPUTS}
