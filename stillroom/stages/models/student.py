"""Students: the small networks that stage two trains."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from stillroom.stages.models.dense_network import (
    Normalise,
    as_model_output,
    check_images,
    crop,
    measure_grids,
)
from stillroom.stages.models.python_target import Target, call_target
from stillroom.stages.models.smp import (
    CLASSIFIER,
    Architecture,
    SmpDesign,
    build_smp,
    classifier_of,
    forward_smp,
    freeze_idle_layers,
    pad_multiple,
)
from stillroom.stages.models.teacher_settings import IMAGENET_MEAN, IMAGENET_STD, Std
from stillroom.stages.models.weights import check_classes, fit_encoder, fit_state, load_state
from stillroom.stages.settings import Settings
from stillroom.storage_specs.artifacts import FEATURES, LOGITS
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stillroom.stages.models.dense_network import ModelOutput
    from stillroom.stages.models.weights import EncoderFit


class StudentSettings(Settings):
    """What the sections of all students have in common.

    weights: state_dict of the whole network to start from, as `stillroom train` exports it
    mean, std: of RGB in 0..255; the network sees (x - mean) / std
    """

    weights: Path | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: Std = IMAGENET_STD
    options: dict[str, Any] = Field(default_factory=dict)


class SmpStudentConfig(StudentSettings):
    """An SMP network. Layers: "penultimate", and "stage1" to "stage5" of its encoder.

    encoder_depth: stages of the encoder; the architecture's own default if left out
    encoder_weights: local file of pretrained weights of the encoder alone
    options: further arguments of the architecture, such as decoder_channels
    """

    kind: Literal["smp"]
    architecture: Architecture
    encoder: str
    encoder_depth: int | None = Field(default=None, ge=1, le=5)
    encoder_weights: Path | None = None


class PythonStudentConfig(StudentSettings):
    """What "module:function" returns: a torch module from normalised images to logits.

    It gives logits (B, C, h, w), or a dict of "logits" and "features" (a dict of (B, A, h', w') by
    layer). Terms that look at the classifier want an attribute `classifier_weight` (C, A).

    target: "module:function", called with num_classes and `options`
    pad: both sides are filled up with zeros (after normalising) to a multiple of it
    """

    kind: Literal["python"]
    target: Target
    pad: PositiveInt = 32


StudentConfig = Annotated[SmpStudentConfig | PythonStudentConfig, Field(discriminator="kind")]


@dataclass
class StudentOutput:
    """What a student says about a batch.

    logits: (B, C, h, w), h = ceil(H / stride)
    features: by layer, (B, A, h', w')
    """

    logits: Tensor
    features: dict[str, Tensor]


class Student(nn.Module):
    """A network with the preparation of its input.

    network: the bare network; its state_dict is what is exported, and what a teacher of the same
        architecture loads
    num_classes: C
    strides, channels: pixels of an image to one cell and channels of a cell, for "logits" and each
        "features/<layer>"
    stride: of the logits
    encoder_fit: what became of the pretrained encoder weights, if there were any
    idle_parameters: how many are there for their names alone; they are frozen, and an honest count
        leaves them out
    """

    def __init__(
        self,
        network: nn.Module,
        normalise: Normalise,
        num_classes: int,
        run: Callable[[nn.Module, Tensor], ModelOutput],
        classifier_weight: Callable[[nn.Module], Tensor],
    ) -> None:
        super().__init__()
        self.network = network
        self.normalise = normalise
        self.num_classes = num_classes
        self.encoder_fit: EncoderFit | None = None
        self.idle_parameters = 0
        # Functions of the network, not bound to it: a deep copy then runs its own weights.
        self._run = run
        self._classifier_weight = classifier_weight
        network.eval()
        grids = measure_grids(lambda images: run(network, images), normalise.pad, num_classes)
        self.strides = {name: grid.stride for name, grid in grids.items()}
        self.channels = {name: grid.channels for name, grid in grids.items()}
        network.train()

    @property
    def stride(self) -> int:
        """Pixels of an image to one cell of the logits."""
        return self.strides[LOGITS]

    @property
    def classifier_weight(self) -> Tensor:
        """(C, A): what the classifier makes of the penultimate features.

        A classifier that looks at k x k cells counts as the sum over them: its response to features
        that are alike in the whole window.

        Raises:
            ConfigError: a user's own network that does not tell.
        """
        return self._classifier_weight(self.network)

    def forward(self, images: Tensor) -> StudentOutput:
        """Logits and features of a batch.

        images: (B, 3, H, W) RGB, 0..255

        Raises:
            ArtifactError: images of another shape.
            ConfigError: the network's grids do not follow the size of the images.
        """
        check_images(images)
        padded = self.normalise(images)
        output = self._run(self.network, padded)
        output = crop(output, self.strides, padded, images.shape[-2], images.shape[-1])
        logits = output.pop(LOGITS)
        return StudentOutput(
            logits, {name.removeprefix(f"{FEATURES}/"): grid for name, grid in output.items()}
        )


def build_student(config: StudentConfig, num_classes: int) -> Student:
    """Build a student, and load what weights the config names. Random ones follow torch's seed.

    Raises:
        ConfigError: there is no such network.
        WeightsError: weights are unreadable or belong to another network.
    """
    return STUDENTS[config.kind](config, num_classes)


def _build_smp(config: SmpStudentConfig, num_classes: int) -> Student:
    options = dict(config.options)
    if config.encoder_depth is not None:
        options["encoder_depth"] = config.encoder_depth
    network = build_smp(SmpDesign(config.architecture, config.encoder, num_classes, options))
    fit = None
    if config.encoder_weights is not None:
        state = load_state(config.encoder_weights)
        fit = fit_encoder(network.get_submodule("encoder"), state, config.encoder_weights)
    if config.weights is not None:
        state = load_state(config.weights)
        check_classes(state, CLASSIFIER, num_classes, config.weights)
        fit_state(network, state, config.weights)
    normalise = Normalise(config.mean, config.std, pad_multiple(network), channels_last=True)
    student = Student(network, normalise, num_classes, forward_smp, _smp_classifier_weight)
    student.encoder_fit = fit
    student.idle_parameters = freeze_idle_layers(network)
    return student


def _build_python(config: PythonStudentConfig, num_classes: int) -> Student:
    network = call_target(config.target, {"num_classes": num_classes, **config.options})
    if not isinstance(network, nn.Module):
        raise ConfigError(
            f"target {config.target!r}: expected a torch module, got {type(network).__name__}"
        )
    if config.weights is not None:
        fit_state(network, load_state(config.weights), config.weights)
    normalise = Normalise(config.mean, config.std, config.pad, channels_last=False)
    return Student(network, normalise, num_classes, _run_python, _python_classifier_weight)


def _run_python(network: nn.Module, images: Tensor) -> ModelOutput:
    output = as_model_output(network(images))
    if LOGITS not in output:
        raise ConfigError(f"a student must return logits, and gives {', '.join(output)}")
    return output


def _smp_classifier_weight(network: nn.Module) -> Tensor:
    return classifier_of(network).weight.sum(dim=(2, 3))  # (C, A, k, k) -> (C, A)


def _python_classifier_weight(network: nn.Module) -> Tensor:
    weight = getattr(network, "classifier_weight", None)
    if not isinstance(weight, torch.Tensor):
        raise ConfigError(
            f"student {type(network).__name__}: a term asks for its classifier; give the module an "
            "attribute `classifier_weight` of shape (C, A)"
        )
    return weight


STUDENTS: dict[str, Callable[[Any, int], Student]] = {"smp": _build_smp, "python": _build_python}
