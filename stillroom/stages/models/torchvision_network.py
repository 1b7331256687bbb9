"""torchvision's segmentation networks, for teachers and students; layers: "penultimate"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from stillroom.stages.models.torchvision_import import import_torchvision

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stillroom.stages.models.dense_network import ModelOutput

Architecture = Literal[
    "deeplabv3_mobilenet_v3_large",
    "deeplabv3_resnet101",
    "deeplabv3_resnet50",
    "fcn_resnet101",
    "fcn_resnet50",
    "lraspp_mobilenet_v3_large",
]
AUXILIARY = "aux_classifier."  # a head for training only; its tensors in a file are passed over
CLASSIFIERS = {  # architecture family -> the weight whose rows are the classes
    "fcn": "classifier.4.weight",
    "deeplabv3": "classifier.4.weight",
    "lraspp": "classifier.low_classifier.weight",
}


def build_torchvision(architecture: str, classes: int) -> nn.Module:
    """Build a network with random weights; nothing is downloaded."""
    import_torchvision()
    from torchvision.models import segmentation

    network: nn.Module = getattr(segmentation, architecture)(
        weights=None, weights_backbone=None, num_classes=classes, aux_loss=False
    )
    return network


def classifier_name(architecture: str) -> str:
    """Name the weight whose rows are the classes."""
    return CLASSIFIERS[architecture.partition("_")[0]]


def forward_torchvision(network: Any, images: Tensor) -> ModelOutput:
    """Compute logits before upsampling, and the classifier's input.

    Args:
        images: (B, 3, H, W) normalised
    """
    lraspp = hasattr(network.classifier, "low_classifier")
    return _forward_lraspp(network, images) if lraspp else _forward_sequential(network, images)


def classifier_weight(network: Any) -> Tensor:
    """Return the classifier's weights of the penultimate features, (C, A)."""
    import torch

    head = network.classifier
    if hasattr(head, "low_classifier"):
        layers = head.low_classifier, head.high_classifier
        return torch.cat([layer.weight for layer in layers], 1).flatten(1)
    weight: Tensor = head[-1].weight
    return weight.flatten(1)


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
