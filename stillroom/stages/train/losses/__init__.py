"""Every loss by its name in a run file; each is a pure function of two tensors and a mask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillroom.stages.train.losses.adaptation import adaptation
from stillroom.stages.train.losses.affinity import affinity
from stillroom.stages.train.losses.consistency_l2 import consistency_l2
from stillroom.stages.train.losses.cross_entropy import cross_entropy
from stillroom.stages.train.losses.pixelwise_kl import pixelwise_kl
from stillroom.stages.train.losses.probability_l2 import probability_l2

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

LOSSES: dict[str, Callable[..., Tensor]] = {
    "adaptation": adaptation,
    "affinity": affinity,
    "consistency_l2": consistency_l2,
    "cross_entropy": cross_entropy,
    "pixelwise_kl": pixelwise_kl,
    "probability_l2": probability_l2,
}

__all__ = [
    "LOSSES",
    "adaptation",
    "affinity",
    "consistency_l2",
    "cross_entropy",
    "pixelwise_kl",
    "probability_l2",
]
