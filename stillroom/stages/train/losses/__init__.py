"""Every loss by its name in a run file; each is a pure function of two tensors and a mask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillroom.stages.train.losses.augmented import augmented_channelwise, augmented_pixelwise
from stillroom.stages.train.losses.consistency_l2 import consistency_l2
from stillroom.stages.train.losses.cross_entropy import cross_entropy
from stillroom.stages.train.losses.cross_image import cross_image_memory, cross_image_pixel
from stillroom.stages.train.losses.dist import dist
from stillroom.stages.train.losses.masked_generative import masked_generative
from stillroom.stages.train.losses.pixelwise_kl import pixelwise_kl
from stillroom.stages.train.losses.probability_l2 import probability_l2

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

LOSSES: dict[str, Callable[..., Tensor]] = {
    "augmented_channelwise": augmented_channelwise,
    "augmented_pixelwise": augmented_pixelwise,
    "consistency_l2": consistency_l2,
    "cross_entropy": cross_entropy,
    "cross_image_memory": cross_image_memory,
    "cross_image_pixel": cross_image_pixel,
    "dist": dist,
    "masked_generative": masked_generative,
    "pixelwise_kl": pixelwise_kl,
    "probability_l2": probability_l2,
}

__all__ = [
    "LOSSES",
    "augmented_channelwise",
    "augmented_pixelwise",
    "consistency_l2",
    "cross_entropy",
    "cross_image_memory",
    "cross_image_pixel",
    "dist",
    "masked_generative",
    "pixelwise_kl",
    "probability_l2",
]
