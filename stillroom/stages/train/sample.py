"""One frame of one epoch, alone or with its neighbours in a clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from stillroom.stages.view import View


@dataclass(frozen=True)
class Neighbour:
    """A frame that another one of its clip is compared with.

    Attributes:
        index: in the source
        flow_to, flow_back: rows of the flow to it and, if that is cached, back
    """

    index: int
    flow_to: int
    flow_back: int | None


@dataclass(frozen=True)
class Shown:
    """What is shown of a frame of the source in one epoch.

    Attributes:
        index: in the source
        valid: (height, width) of the canvas that the frame covers
        light: factors (3,) of its jitter; the frames of a triplet have the same
        neighbour: what it is to the frame that it accompanies; None of that frame itself
    """

    frame_id: str
    index: int
    view: View
    valid: tuple[int, int]
    light: NDArray[np.float32]
    neighbour: Neighbour | None


@dataclass(frozen=True)
class Sample:
    """One frame of one epoch: the entries of `Batch` without their first axis."""

    frame_id: str
    image: Tensor
    label: Tensor | None
    targets: dict[str, Tensor]
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


def places(frame_ids: Sequence[str], place: int, shown: Sequence[Shown]) -> range:
    """Return where the frames of a sample lie in a batch of these frames."""
    return range(place, len(frame_ids), len(frame_ids) // len(shown))
