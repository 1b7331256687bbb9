"""One frame of one epoch, alone or with its neighbours in a clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """One frame of one epoch: the entries of `Batch` without their first axis."""

    frame_id: str
    image: Tensor
    label: Tensor | None
    mask: Tensor
    artifacts: dict[str, Tensor]
    masks: dict[int, Tensor]


@dataclass(frozen=True)
class Triplet:
    """A frame and its neighbours in one epoch, on one view.

    Attributes:
        samples: three: the frame itself, the one before it, the one after it
        flow: (2, 2, H, W) float32, from the frame to the one before and to the one after
        visible: (2, 1, H, W) bool, where these show its pixels too
    """

    samples: tuple[Sample, ...]
    flow: Tensor
    visible: Tensor
