"""Students of torchvision's segmentation models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import PositiveInt

from stillroom.stages.models.model_settings import WeightsKey
from stillroom.stages.models.student_settings import StudentSettings
from stillroom.stages.models.tensor_file import read_tensors
from stillroom.stages.models.torchvision_network import (
    AUXILIARY,
    Architecture,
    build_torchvision,
    classifier_name,
    classifier_weight,
    forward_torchvision,
)
from stillroom.stages.models.weights import fit_encoder, load_weights
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from stillroom.stages.models.student import Student


class TorchvisionStudentConfig(StudentSettings):
    """A torchvision segmentation model. Layers: "penultimate".

    Attributes:
        encoder_weights: local file of pretrained weights of its backbone alone, as of a classifier
        encoder_weights_key: where in that file they are, if it holds several such networks
        pad: both sides are filled up with zeros (after normalising) to a multiple of it
    """

    kind: Literal["torchvision"]
    architecture: Architecture
    encoder_weights: Path | None = None
    encoder_weights_key: WeightsKey = None
    pad: PositiveInt = 16


def build_torchvision_student(config: TorchvisionStudentConfig, num_classes: int) -> Student:
    """Build the network, and load the weights of its backbone or of the whole of it.

    Raises:
        ConfigError: there are options, of which these networks have none.
        WeightsError: weights are unreadable or belong to another network.
    """
    from stillroom.stages.models.dense_network import Normalise
    from stillroom.stages.models.student import Student
    from stillroom.stages.models.widths import resize

    if config.options:
        raise ConfigError(
            f"student.options: networks of torchvision have none, got {', '.join(config.options)}"
        )
    network = build_torchvision(config.architecture, num_classes)
    resize(network, config.widths)
    fit = None
    if config.encoder_weights is not None:
        file, key = config.encoder_weights, config.encoder_weights_key
        fit = fit_encoder(network.get_submodule("backbone"), read_tensors(file), file, key)
    if config.weights is not None:
        classifier = classifier_name(config.architecture), num_classes
        load_weights(
            network,
            config.weights,
            key=config.weights_key,
            classifier=classifier,
            skip=(AUXILIARY,),
        )
    normalise = Normalise(config.mean, config.std, config.pad, channels_last=True)
    student = Student(network, normalise, num_classes, forward_torchvision, classifier_weight)
    student.encoder_fit = fit
    return student
