"""Teachers from torchvision's segmentation models, with local weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stillroom.stages.models.model_settings import WeightsKey
from stillroom.stages.models.teacher_settings import TeacherSettings
from stillroom.stages.models.torchvision_import import import_torchvision
from stillroom.stages.models.weights import load_weights

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stillroom.stages.models.dense_network import ModelOutput, TeacherNetwork

AUXILIARY = "aux_classifier."  # a head for training only; its tensors in a file are passed over
CLASSIFIERS = {  # architecture family -> the weight whose rows are the classes
    "fcn": "classifier.4.weight",
    "deeplabv3": "classifier.4.weight",
    "lraspp": "classifier.low_classifier.weight",
}


class TorchvisionTeacherConfig(TeacherSettings):
    """A torchvision segmentation model. Layers: "penultimate".

    Attributes:
        weights: state_dict of the network, .safetensors or .pth, with or without the auxiliary
            head; without it the network keeps the random weights of a fixed seed: of use in tests
            only
        weights_key: where in the file they are, if it holds several such networks
    """

    kind: Literal["torchvision"]
    architecture: Literal[
        "deeplabv3_mobilenet_v3_large",
        "deeplabv3_resnet101",
        "deeplabv3_resnet50",
        "fcn_resnet101",
        "fcn_resnet50",
        "lraspp_mobilenet_v3_large",
    ]
    weights: Path | None = None
    weights_key: WeightsKey = None


def load_torchvision(config: TorchvisionTeacherConfig) -> TeacherNetwork:
    """Build the network and load its weights.

    Raises:
        WeightsError: the weights are unreadable, not finite, or belong to another network.
    """
    from stillroom.stages.models.dense_network import TeacherNetwork

    import_torchvision()
    from torchvision.models import segmentation

    network: nn.Module = getattr(segmentation, config.architecture)(
        weights=None, weights_backbone=None, num_classes=config.num_channels(), aux_loss=False
    )
    family = config.architecture.partition("_")[0]
    if config.weights is not None:
        classifier = (CLASSIFIERS[family], config.num_channels())
        load_weights(
            network,
            config.weights,
            key=config.weights_key,
            classifier=classifier,
            skip=(AUXILIARY,),
        )
    forward = _forward_lraspp if family == "lraspp" else _forward_sequential
    return TeacherNetwork(
        module=network,
        forward=lambda images: forward(network, images),
        multiple=1,
        channels_last=True,
        own_logits=lambda images: network(images)["out"],
    )


def _forward_sequential(network: Any, images: Tensor) -> ModelOutput:
    """FCN and DeepLabV3: the last layer of `classifier` is the convolution to classes."""
    from stillroom.stages.models.dense_network import PENULTIMATE, with_layers

    *layers, last = network.classifier
    penultimate = network.backbone(images)["out"]
    for layer in layers:
        penultimate = layer(penultimate)
    return with_layers({PENULTIMATE: penultimate}, logits=last(penultimate))


def _forward_lraspp(network: Any, images: Tensor) -> ModelOutput:
    """LR-ASPP adds up two 1x1 classifiers: one, if their inputs are put one behind the other."""
    import torch

    from stillroom.stages.models.dense_network import PENULTIMATE, with_layers

    levels, head = network.backbone(images), network.classifier
    low, high = levels["low"], levels["high"]
    high = head.cbr(high) * head.scale(high)
    high = torch.nn.functional.interpolate(
        high, size=low.shape[-2:], mode="bilinear", align_corners=False
    )
    logits = head.low_classifier(low) + head.high_classifier(high)
    return with_layers({PENULTIMATE: torch.cat([low, high], dim=1)}, logits=logits)
