"""Students of transformers: any semantic segmentation model of its Auto classes."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import PositiveInt

from stillroom.stages.models.student_settings import StudentSettings
from stillroom.stages.models.weights import demand_finite, load_weights
from stillroom.storage_specs.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stillroom.stages.models.student import Student

LOG = logging.getLogger(__name__)


class HfStudentConfig(StudentSettings):
    """A model that AutoModelForSemanticSegmentation builds. Layers: "penultimate" where found.

    Attributes:
        path: local folder with a config.json; the weights beside it are what it begins with, but
            for tensors of other sizes, as those of a classifier of other classes
        pretrained: False begins at random, and needs no weights there
        pad: both sides are filled up with zeros (after normalising) to a multiple of it
        options: fields of its config to change, as decoder_hidden_size
    """

    kind: Literal["hf"]
    path: Path
    pretrained: bool = True
    pad: PositiveInt = 32


def build_hf_student(config: HfStudentConfig, num_classes: int) -> Student:
    """Build the network; nothing is downloaded, and no code that comes with it is run.

    Raises:
        ConfigError: transformers is not installed, or knows no such field of the config.
        WeightsError: there is no such model, or weights are unreadable or belong to another.
    """
    import torch

    from stillroom.stages.models.dense_network import Normalise
    from stillroom.stages.models.hf_network import find_classifier, run_hf
    from stillroom.stages.models.student import Student
    from stillroom.stages.models.widths import resize

    network = _build(config, num_classes).eval()
    resize(network, config.widths)
    if config.weights is not None:
        load_weights(network, config.weights, key=config.weights_key)
    side = config.pad * -(-128 // config.pad)
    name = find_classifier(network, num_classes, torch.zeros(1, 3, side, side))
    normalise = Normalise(config.mean, config.std, config.pad, channels_last=False)
    run, weight = partial(run_hf, classifier=name), partial(_classifier_weight, classifier=name)
    return Student(network, normalise, num_classes, run, weight)


def _build(config: HfStudentConfig, num_classes: int) -> Any:
    from stillroom.stages.models.hf_network import as_weights_error, import_transformers, quiet

    transformers = import_transformers("students")
    auto, what = transformers.AutoModelForSemanticSegmentation, f"student {config.path}"
    place = {"local_files_only": True, "trust_remote_code": False}
    with as_weights_error(what):
        settings = transformers.AutoConfig.from_pretrained(str(config.path), **place)
    _change(settings, {**config.options, "num_labels": num_classes})
    with quiet(transformers), as_weights_error(what):
        if not config.pretrained:
            return auto.from_config(settings)
        network, report = auto.from_pretrained(
            str(config.path),
            config=settings,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **place,
        )
    _tell(what, network, report)
    return network


def _change(settings: Any, options: dict[str, Any]) -> None:
    """Change fields of a model's config.

    Raises:
        ConfigError: it has no such field.
    """
    for name, value in options.items():
        if not hasattr(settings, name):
            raise ConfigError(f"student.options: {type(settings).__name__} has no field {name!r}")
        setattr(settings, name, value)


def _tell(what: str, network: nn.Module, report: dict[str, Any]) -> None:
    """Say which tensors begin at random.

    Raises:
        WeightsError: all of them do, or one that was loaded is not finite.
    """
    other = (name if isinstance(name, str) else name[0] for name in report["mismatched_keys"])
    random = sorted({*report["missing_keys"], *other})
    tensors = dict(network.named_parameters())
    if len(random) >= len(tensors):
        raise WeightsError(
            f"{what}: none of its weights fits; set pretrained = false to begin at random"
        )
    demand_finite(network.state_dict(), Path(what))
    if random:
        LOG.warning(
            "%s: %d of %d tensors begin at random, since the weights there have none of their "
            "sizes: %s%s",
            what,
            len(random),
            len(tensors),
            ", ".join(random[:4]),
            ", ..." if len(random) > 4 else "",
        )


def _classifier_weight(network: Any, classifier: str | None) -> Tensor:
    if classifier is None:
        raise ConfigError(
            f"student {type(network).__name__}: a term asks for its classifier, and no convolution "
            "of it gives its logits; take another student, or leave the term out"
        )
    weight: Tensor = network.get_submodule(classifier).weight.sum(dim=(2, 3))
    return weight
