"""What a loader of a flow model returns, and how frames are brought to a network's sides."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    Estimate = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class FlowNetwork:
    """A flow model as its loader returns it.

    Attributes:
        module: what is moved to a device and set to eval; None where nothing is learnt
        estimate: frames a and b, (B, H, W, 3) uint8 on the device, to the flow a -> b, (B, 2, H, W)
    """

    module: nn.Module | None
    estimate: Estimate


@dataclass(frozen=True)
class Sides:
    """The sides that a network takes, and how frames of others are brought to them.

    Attributes:
        multiple: both sides are whole multiples of it
        least: neither side is shorter
        how: "resize" enlarges bilinearly, to the next multiple; the flow is brought back to the
            frame's size, u and v by the ratio of the widths and of the heights. "pad" repeats the
            last row and column; the flow is cut.
    """

    multiple: int
    least: int
    how: Literal["resize", "pad"]

    def of(self, height: int, width: int) -> tuple[int, int]:
        """Return the sides that frames of this size are brought to."""
        return self._side(height), self._side(width)

    def around(self, estimate: Estimate, first: Tensor, second: Tensor) -> Tensor:
        """Estimate the flow between images of any size.

        Args:
            first, second: (B, C, H, W) floating

        Returns:
            (B, 2, H, W) in pixels of H by W
        """
        height, width = first.shape[-2:]
        size = self.of(height, width)
        if size == (height, width):
            return estimate(first, second)
        if self.how == "pad":
            edges = (0, size[1] - width, 0, size[0] - height)
            first, second = (F.pad(image, edges, mode="replicate") for image in (first, second))
            return estimate(first, second)[..., :height, :width]
        first, second = (
            F.interpolate(image, size=size, mode="bilinear", align_corners=False)
            for image in (first, second)
        )
        return resize_flow(estimate(first, second), (height, width))

    def _side(self, length: int) -> int:
        return self.multiple * math.ceil(max(length, self.least) / self.multiple)


def resize_flow(flow: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring a flow to another size: sampled bilinearly, and its vectors in the new pixels.

    Args:
        flow: (B, 2, h, w)
        size: (H, W)

    Returns:
        (B, 2, H, W), u times W / w and v times H / h
    """
    height, width = flow.shape[-2:]
    scale = flow.new_tensor([size[1] / width, size[0] / height]).view(1, 2, 1, 1)
    return F.interpolate(flow, size=size, mode="bilinear", align_corners=False) * scale


def as_images(frames: Tensor) -> Tensor:
    """Turn frames (B, H, W, 3) uint8 into images (B, 3, H, W) float32, 0 to 255."""
    return frames.permute(0, 3, 1, 2).float().contiguous()


def without_weights(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a network with uninitialised tensors: drawing 162 million numbers takes seconds.

    Only for networks whose every tensor is then loaded from a file.
    """
    with torch.device("meta"):
        network = build()
    return network.to_empty(device="cpu")
