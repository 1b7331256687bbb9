"""Every loss by its name in a run file; each is a pure function of tensors and masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillroom.stages.train.losses.adaptation import adaptation
from stillroom.stages.train.losses.affinity import affinity
from stillroom.stages.train.losses.attention_transfer import attention_transfer
from stillroom.stages.train.losses.augmented import augmented_channelwise, augmented_pixelwise
from stillroom.stages.train.losses.channelwise_kl import channelwise_kl
from stillroom.stages.train.losses.consistency_l2 import consistency_l2
from stillroom.stages.train.losses.cross_entropy import cross_entropy
from stillroom.stages.train.losses.cross_image import cross_image_memory, cross_image_pixel
from stillroom.stages.train.losses.dist import dist
from stillroom.stages.train.losses.fitnet import fitnet
from stillroom.stages.train.losses.ifvd import ifvd
from stillroom.stages.train.losses.local_affinity import local_affinity
from stillroom.stages.train.losses.masked_generative import masked_generative
from stillroom.stages.train.losses.multi_frame import multi_frame
from stillroom.stages.train.losses.pairwise_affinity import pairwise_affinity
from stillroom.stages.train.losses.pairwise_frame import pairwise_frame
from stillroom.stages.train.losses.pixelwise_kl import pixelwise_kl
from stillroom.stages.train.losses.probability_l2 import probability_l2
from stillroom.stages.train.losses.temporal import temporal

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

LOSSES: dict[str, Callable[..., Tensor]] = {
    "adaptation": adaptation,
    "affinity": affinity,
    "attention_transfer": attention_transfer,
    "augmented_channelwise": augmented_channelwise,
    "augmented_pixelwise": augmented_pixelwise,
    "channelwise_kl": channelwise_kl,
    "consistency_l2": consistency_l2,
    "cross_entropy": cross_entropy,
    "cross_image_memory": cross_image_memory,
    "cross_image_pixel": cross_image_pixel,
    "dist": dist,
    "fitnet": fitnet,
    "ifvd": ifvd,
    "local_affinity": local_affinity,
    "masked_generative": masked_generative,
    "multi_frame": multi_frame,
    "pairwise_affinity": pairwise_affinity,
    "pairwise_frame": pairwise_frame,
    "pixelwise_kl": pixelwise_kl,
    "probability_l2": probability_l2,
    "temporal": temporal,
}

__all__ = [
    "LOSSES",
    "adaptation",
    "affinity",
    "attention_transfer",
    "augmented_channelwise",
    "augmented_pixelwise",
    "channelwise_kl",
    "consistency_l2",
    "cross_entropy",
    "cross_image_memory",
    "cross_image_pixel",
    "dist",
    "fitnet",
    "ifvd",
    "local_affinity",
    "masked_generative",
    "multi_frame",
    "pairwise_affinity",
    "pairwise_frame",
    "pixelwise_kl",
    "probability_l2",
    "temporal",
]
