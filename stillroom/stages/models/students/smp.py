"""Students of segmentation-models-pytorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

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
from stillroom.stages.models.student_settings import StudentSettings
from stillroom.stages.models.tensor_file import read_tensors
from stillroom.stages.models.weights import fit_encoder

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stillroom.stages.models.student import Student


class SmpStudentConfig(StudentSettings):
    """An SMP network. Layers: "penultimate", and "stage1" to "stage5" of its encoder.

    encoder_depth: stages of the encoder; the architecture's own default if left out
    encoder_weights: local file of pretrained weights of the encoder alone
    encoder_weights_key: where in that file they are, if it holds several such encoders
    options: further arguments of the architecture, such as decoder_channels
    """

    kind: Literal["smp"]
    architecture: Architecture
    encoder: str
    encoder_depth: int | None = Field(default=None, ge=1, le=5)
    encoder_weights: Path | None = None
    encoder_weights_key: WeightsKey = None


def build_smp_student(config: SmpStudentConfig, num_classes: int) -> Student:
    """Build the network, and load the weights of its encoder or of the whole of it.

    Raises:
        ConfigError: there is no such network.
        WeightsError: weights are unreadable or belong to another network.
    """
    from stillroom.stages.models.dense_network import Normalise
    from stillroom.stages.models.encoder_names import from_timm
    from stillroom.stages.models.student import Student
    from stillroom.stages.models.widths import resize

    options = dict(config.options)
    if config.encoder_depth is not None:
        options["encoder_depth"] = config.encoder_depth
    network = build_smp(SmpDesign(config.architecture, config.encoder, num_classes, options))
    resize(network, config.widths)
    fit = None
    if config.encoder_weights is not None:
        file, key = config.encoder_weights, config.encoder_weights_key
        encoder = network.get_submodule("encoder")
        found = from_timm(read_tensors(file), encoder, config.encoder)
        fit = fit_encoder(encoder, found, file, key)
    if config.weights is not None:
        load_smp_weights(network, config.weights, config.weights_key, num_classes)
    normalise = Normalise(config.mean, config.std, pad_multiple(network), channels_last=True)
    student = Student(network, normalise, num_classes, forward_smp, _classifier_weight)
    student.encoder_fit = fit
    student.idle_parameters = freeze_idle_layers(network, depth_stated="encoder_depth" in options)
    return student


def _classifier_weight(network: nn.Module) -> Tensor:
    return classifier_of(network).weight.sum(dim=(2, 3))  # (C, A, k, k) -> (C, A)
