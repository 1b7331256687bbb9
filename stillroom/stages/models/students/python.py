"""Students that a user's own function builds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import PositiveInt

from stillroom.stages.models.python_target import Target, call_target
from stillroom.stages.models.student_settings import StudentSettings
from stillroom.stages.models.weights import load_weights
from stillroom.storage_specs.artifacts import LOGITS
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stillroom.stages.models.dense_network import ModelOutput
    from stillroom.stages.models.student import Student


class PythonStudentConfig(StudentSettings):
    """What "module:function" returns: a torch module from normalised images to logits.

    It gives logits (B, C, h, w), or a dict of "logits" and "features" (a dict of (B, A, h', w') by
    layer). Terms that read the classifier need an attribute `classifier_weight` (C, A).

    Attributes:
        target: "module:function", called with num_classes and `options`
        pad: both sides are filled up with zeros (after normalising) to a multiple of it
    """

    kind: Literal["python"]
    target: Target
    pad: PositiveInt = 32


def build_python(config: PythonStudentConfig, num_classes: int) -> Student:
    """Call the user's function, and load the weights into the module that it returns.

    Raises:
        ConfigError: no such function, or it does not return a torch module.
        WeightsError: weights are unreadable or belong to another network.
    """
    from torch import nn

    from stillroom.stages.models.dense_network import Normalise
    from stillroom.stages.models.student import Student
    from stillroom.stages.models.widths import resize

    network = call_target(config.target, {"num_classes": num_classes, **config.options})
    if not isinstance(network, nn.Module):
        raise ConfigError(
            f"target {config.target!r}: expected a torch module, got {type(network).__name__}"
        )
    resize(network, config.widths)
    if config.weights is not None:
        load_weights(network, config.weights, key=config.weights_key)
    normalise = Normalise(config.mean, config.std, config.pad, channels_last=False)
    return Student(network, normalise, num_classes, _run, _classifier_weight)


def _run(network: nn.Module, images: Tensor) -> ModelOutput:
    from stillroom.stages.models.dense_network import as_model_output

    output = as_model_output(network(images))
    if LOGITS not in output:
        raise ConfigError(f"a student must return logits, and gives {', '.join(output)}")
    return output


def _classifier_weight(network: nn.Module) -> Tensor:
    from torch import Tensor

    weight = getattr(network, "classifier_weight", None)
    if not isinstance(weight, Tensor):
        raise ConfigError(
            f"student {type(network).__name__}: a term asks for its classifier; give the module an "
            "attribute `classifier_weight` of shape (C, A)"
        )
    return weight
