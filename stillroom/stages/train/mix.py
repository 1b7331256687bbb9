"""Frames of an unlabelled batch pasted into one another, with all that follows them.

Frames 0 and 1 of a batch are a pair, 2 and 3 the next one; a part of each is pasted over the other,
at the same place. Image, pseudo labels, logits, features and masks get the same part, each on its
own grid: a position belongs to the frame that has the pixel at its centre.

What is pasted is drawn on the host, from the seed, the stream and the batch's number, for the
frames of all ranks; which pixels that is, is found where the batch lies, without waiting for it.

CutMix: Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
Features", ICCV 2019, arXiv:1905.04899; as French et al., "Semi-supervised semantic segmentation
needs strong, varied perturbations", BMVC 2020, section 3.3, have it: a box of half the frame,
arXiv:1906.01916. ClassMix: Olsson et al., "ClassMix: Segmentation-Based Data Augmentation for
Semi-Supervised Learning", WACV 2021, arXiv:2007.07936: the pixels of half the classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from stillroom.stages.seeds import generator
from stillroom.stages.train.reads import grid_of, row_of
from stillroom.storage_specs.artifacts import IGNORE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

AREA = 0.5  # of a box of CutMix, as a share of the frame


@dataclass(frozen=True)
class Mixing:
    """How a stream's frames are mixed.

    Attributes:
        by: the pseudo label of whose classes half are pasted, as "fpn/pseudo_label"; None: a box is
        stride: of the grid of artifacts whose name says none
    """

    by: str | None
    stride: int

    def draw(self, seed: int, stream: str, batch: int, own: range, of: int) -> Mix:
        """Draw what is pasted in a batch.

        Args:
            batch: its number since the run began
            own: this rank's frames, whole pairs, of the `of` that all ranks have
        """
        numbers = generator(seed, stream, batch, "mix").random((of, IGNORE + 1), "float32")
        return Mix(self, torch.from_numpy(numbers[own.start : own.stop]))

    def stride_of(self, read: str) -> int:
        """Return the stride of the grid that an artifact of a batch is on."""
        return grid_of(read, self.stride)[1] if row_of(read).has_stride else 1


@dataclass(frozen=True)
class Mix:
    """What is pasted in one batch of B frames.

    Attributes:
        numbers: (B, 256) float32 on the host, 0 to 1: of each class, the lowest are pasted; the
            first three make the box
    """

    how: Mixing
    numbers: Tensor

    def covered(self, images: Tensor, artifacts: Mapping[str, Tensor]) -> Tensor:
        """Return the pixels of each frame that the other of its pair covers: (B, H, W) bool."""
        if self.how.by is None:
            height, width = images.shape[2:]
            return _other(boxes(self.numbers, (height, width), images.device))
        numbers = self.numbers.to(images.device, non_blocking=True)
        return _other(half_the_classes(numbers, artifacts[self.how.by]))


def pasted(values: Tensor, covered: Tensor, stride: int) -> Tensor:
    """Cover what each frame has, (B, C, h, w) or (B, h, w), with what the other one has.

    Args:
        covered: (B, H, W) bool, in pixels
        stride: pixels to one position
    """
    where = _on_grid(covered, stride)
    return torch.where(where[:, None] if values.ndim == 4 else where, _other(values), values)


def boxes(numbers: Tensor, size: tuple[int, int], device: torch.device) -> Tensor:
    """Return a box of half the frame, of any shape that fits and anywhere: (B, H, W) bool.

    height = H AREA^u0, width = W AREA^(1 - u0), to whole pixels; the corner at u1, u2 of the room
    that is left

    Args:
        numbers: (B, 3 or more) on the host, u0, u1 and u2 of each frame
        size: (H, W)
    """
    shape, *corners = numbers[:, :3].double().T
    inside = []
    for share, corner, length in zip((shape, 1 - shape), corners, size, strict=True):
        long = (length * AREA**share).round()
        first = (corner * (length - long)).round()
        span = torch.stack([first, first + long]).to(device, non_blocking=True)[..., None]
        places = torch.arange(length, device=device)
        inside.append((places >= span[0]) & (places < span[1]))  # (B, length)
    return inside[0][:, :, None] & inside[1][:, None, :]


def half_the_classes(numbers: Tensor, labels: Tensor) -> Tensor:
    """Return the pixels of half the classes that a frame has, rounded down: (B, H, W) bool.

    Args:
        numbers: (B, 256), of each class; the lowest are taken
        labels: (B, H, W) int64, 255 where a pixel is of no class
    """
    flat = labels.flatten(1)
    there = torch.zeros_like(numbers, dtype=torch.bool).scatter(1, flat, True)
    there[:, IGNORE] = False
    place = numbers.masked_fill(~there, 2.0).argsort(1).argsort(1)
    chosen = place < there.sum(1, keepdim=True) // 2
    return chosen.gather(1, flat).view_as(labels)


def _other(values: Tensor) -> Tensor:
    """Give each frame what the other one of its pair has."""
    return values.view(-1, 2, *values.shape[1:]).flip(1).flatten(0, 1)


def _on_grid(pixels: Tensor, stride: int) -> Tensor:
    """Bring (B, H, W) to (B, h, w): the pixel at each position's centre, the last where none is."""
    rows, columns = (
        torch.arange(stride // 2, length + stride // 2, stride, device=pixels.device).clamp(
            max=length - 1
        )
        for length in pixels.shape[1:]
    )
    return pixels[:, rows[:, None], columns]
