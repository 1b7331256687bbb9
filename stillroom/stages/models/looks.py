"""A model that looks at a frame several times: mirrored, at several sizes, through a window.

Class probabilities are averaged: of windows where they overlap and of both mirror images at each
size, then of the sizes, each resized to the frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from stillroom.stages.models.inference import as_frames
from stillroom.stages.models.resized_input import resize_frames
from stillroom.stages.upsample import upsample_logits
from stillroom.storage_specs.errors import ConfigError, StillroomError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from stillroom.stages.models.looks_settings import LooksSettings

    # (B, H, W, 3) uint8 RGB to logits (B, C, ceil(H / stride), ceil(W / stride)) and the stride
    Predict = Callable[[Tensor], tuple[Tensor, int]]


LEAST = 1e-8
"""Of a probability in logits that are kept: less would widen their range, and no term sees it."""


@dataclass(frozen=True)
class Looks:
    """A model of many looks; it is called as the model of one is.

    Attributes:
        predict: the model
        settings: the looks
        batch: windows and mirror images of one frame that the model gets at once
    """

    predict: Predict
    settings: LooksSettings
    batch: int = 4

    def __call__(self, frames: NDArray[np.uint8] | Tensor) -> tuple[Tensor, int]:
        """Return the logarithm of the mean probabilities, (B, C, H, W) float32, and a stride of 1.

        Args:
            frames: (B, H, W, 3) uint8 RGB

        Raises: as `probabilities`.
        """
        found = [self.probabilities(frame) for frame in as_frames(frames)]
        return torch.stack(found).clamp_(min=torch.finfo(torch.float32).tiny).log_(), 1

    def log_cells(self, frame: Tensor, stride: int) -> Tensor:
        """Return the logarithm of the mean probabilities on a grid, as a network's own logits are.

        They are taken at the centres of cells: means over cells would be smoothed twice.

        Args:
            frame: (H, W, 3) uint8 RGB
            stride: pixels of the frame to one cell

        Returns:
            (C, ceil(H / stride), ceil(W / stride)) float32

        Raises: as `probabilities`.
        """
        found = self.probabilities(frame)[None]
        height, width = found.shape[2:]
        below, right = -height % stride, -width % stride
        whole = F.pad(found, (0, right, 0, below), mode="replicate")
        size = (height + below) // stride, (width + right) // stride
        cells = F.interpolate(whole, size, mode="bilinear", align_corners=False)[0]
        return cells.clamp(min=LEAST).log()

    def probabilities(self, frame: Tensor) -> Tensor:
        """Return the mean class probabilities of a frame, (C, H, W) float32, where the model is.

        Args:
            frame: (H, W, 3) uint8 RGB

        Raises:
            ConfigError: the model takes no frame of the size of a look.
        """
        scales = self.settings.scales
        total = self._at_scale(frame, scales[0])
        for scale in scales[1:]:
            total += self._at_scale(frame, scale)  # one after the other, for memory's sake
        return total / len(scales)

    def _at_scale(self, frame: Tensor, scale: float) -> Tensor:
        """Look at a frame (H, W, 3) at another size, and bring what is said back: (C, H, W)."""
        height, width = frame.shape[:2]
        size = max(1, round(height * scale)), max(1, round(width * scale))
        seen = resize_frames(frame.permute(2, 0, 1)[None], size, "bilinear")[0].to(torch.uint8)
        sums, counts = torch.zeros(()), torch.zeros(size)
        for (rows, columns), one in self._said(seen):
            sums = sums if sums.ndim else one.new_zeros(len(one), *size)
            sums[:, rows, columns] += one
            counts[rows, columns] += 1
        found = sums / counts.to(sums.device)
        return F.interpolate(found[None], (height, width), mode="bilinear", align_corners=False)[0]

    def _said(self, frame: Tensor) -> Iterator[tuple[tuple[slice, slice], Tensor]]:
        """Yield each window of a frame (3, H, W) and its probabilities, (C, h, w), mirrored too."""
        looks = list(
            product(
                windows(frame.shape[1:], self.settings), (False, True)[: 1 + self.settings.flip]
            )
        )
        for start in range(0, len(looks), self.batch):
            some = looks[start : start + self.batch]
            cuts = [frame[:, rows, columns] for (rows, columns), _ in some]
            turned = [
                cut.flip(2) if flip else cut for cut, (_, flip) in zip(cuts, some, strict=True)
            ]
            for one, (window, flip) in zip(
                self._probabilities(torch.stack(turned)), some, strict=True
            ):
                yield window, one.flip(2) if flip else one

    def _probabilities(self, images: Tensor) -> Iterator[Tensor]:
        """Yield what the model says of each of a batch (B, 3, h, w): (C, h, w) probabilities."""
        size = images.shape[2], images.shape[3]
        try:
            logits, stride = self.predict(images.permute(0, 2, 3, 1).contiguous())
        except StillroomError:
            raise
        except Exception as error:  # of a foreign network
            raise ConfigError(
                f"the model fails on a look of {size[0]}x{size[1]}: {type(error).__name__}: "
                f"{error}\n  a model that was made for one size takes `tile` of that size, and no "
                "other scales"
            ) from error
        for one in logits:
            yield upsample_logits(one[None], stride, size)[0].softmax(0)


def windows(size: tuple[int, ...], settings: LooksSettings) -> Iterator[tuple[slice, slice]]:
    """Yield rows and columns of the windows that cover a frame; the last ones end at its edge.

    Args:
        size: (height, width); a window is no larger
    """
    if settings.tile is None:
        yield slice(0, size[0]), slice(0, size[1])
        return
    rows, columns = (
        _starts(length, min(length, side), settings.overlap)
        for length, side in zip(size, settings.tile, strict=True)
    )
    height, width = (min(pair) for pair in zip(size, settings.tile, strict=True))
    for top, left in product(rows, columns):
        yield slice(top, top + height), slice(left, left + width)


def _starts(length: int, side: int, overlap: float) -> list[int]:
    step = max(1, int(side * (1 - overlap)))
    return [min(start, length - side) for start in range(0, length - side + step, step)]
