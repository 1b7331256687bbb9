"""A network with heads of several tasks: its own classifier, and convolutions beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from stillroom.stages.models.dense_network import PENULTIMATE
from stillroom.storage_specs.artifacts import FEATURES, LOGITS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stillroom.stages.models.dense_network import ModelOutput
    from stillroom.stages.models.task_heads import HeadSettings

HEADS = "task_heads"  # what holds the heads beside the network's own, in its state_dict
HIDDEN = f"{FEATURES}/{PENULTIMATE}"


def add_heads(
    network: nn.Module, heads: Mapping[str, HeadSettings], channels: int, classes: int
) -> None:
    """Give every head but the first a 3x3 convolution of its own.

    Args:
        heads: by task; the first is the network's own classifier
        channels: of the penultimate features
        classes: of the labels
    """
    _, *others = heads.items()
    if others:
        layers = {
            task: nn.Conv2d(channels, head.channels(classes), 3, padding=1) for task, head in others
        }
        network.add_module(HEADS, nn.ModuleDict(layers))


def by_task(
    network: nn.Module, heads: Mapping[str, HeadSettings], output: ModelOutput
) -> ModelOutput:
    """Put what the heads give in the place of the network's own logits.

    Args:
        output: the network's: logits, and features, the penultimate ones where there are two heads
    """
    (_, first), *others = heads.items()
    found = first.outputs(output[LOGITS])
    for task, head in others:
        layer = network.get_submodule(f"{HEADS}.{task}")
        found |= head.outputs(layer(output[HIDDEN]))
    return found | {name: grid for name, grid in output.items() if name != LOGITS}
