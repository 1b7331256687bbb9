"""Boundary IoU: the IoU of what lies along the outlines of each class.

    Boundary IoU of class i = |G_i,d and P_i,d| / |G_i,d or P_i,d|

G_i,d are the pixels of class i in the labels that are at most d from its outline, P_i,d those of
the prediction; d is 2 % of the frame's diagonal. Pixels are counted over all frames before they are
divided, as for mIoU. Distances are of chess (the paper's code erodes with a square), the frame's
edge is an outline (as there), and so is the edge of what is labelled 255, of which nothing counts.

B. Cheng, R. Girshick, P. Dollar, A. C. Berg and A. Kirillov, "Boundary IoU: Improving
Object-Centric Image Segmentation Evaluation", CVPR 2021, eq. 2. arXiv:2103.16562
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

import cv2
import numpy as np

from stillroom.storage_specs.artifacts import IGNORE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stillroom.stages.evaluate.confusion import Scores

SHARE = 0.02  # of the diagonal


@dataclass(frozen=True)
class BoundaryScores:
    """Scores along outlines, in 0..1.

    Attributes:
        miou: mean Boundary IoU of the classes that mIoU is a mean of
        iou: by class, None where the class is absent
    """

    miou: float
    iou: tuple[float | None, ...]


class BoundaryCounts:
    """Counts pixels along outlines, frame after frame.

    Attributes:
        both: int64 (C,), pixels that are in G_i,d and in P_i,d
        either: int64 (C,), that are in one of them or in both
    """

    def __init__(self, num_classes: int) -> None:
        self.both: NDArray[np.int64] = np.zeros(num_classes, np.int64)
        self.either: NDArray[np.int64] = np.zeros(num_classes, np.int64)

    def update(self, prediction: NDArray[np.uint8], label: NDArray[np.uint8]) -> None:
        """Add a frame.

        Args:
            prediction: (H, W) 0..C-1; anything where the label is 255
            label: (H, W) 0..C-1 or 255
        """
        size = len(self.both)
        reach = max(1, round(SHARE * math.hypot(*label.shape)))
        guess = np.where(label == IGNORE, IGNORE, prediction).astype(np.uint8)
        of_label, of_guess = (along_outlines(each, reach) for each in (label, guess))
        both = _count(label[of_label & of_guess & (label == guess)], size)
        self.both += both
        self.either += _count(label[of_label], size) + _count(guess[of_guess], size) - both

    def scores(self, scores: Scores) -> BoundaryScores:
        """Return Boundary IoU of the same pixels and classes.

        Args:
            scores: of the frames that were added, which say what is absent and what is ignored
        """
        iou = (self.both / np.maximum(self.either, 1)).tolist()
        named = zip(scores.classes, iou, strict=True)
        known = {name: one for name, one in named if name not in scores.absent}
        mean = fmean(one for name, one in known.items() if name not in scores.ignored)
        return BoundaryScores(mean, tuple(known.get(name) for name in scores.classes))


def along_outlines(classes: NDArray[np.uint8], reach: int) -> NDArray[np.bool_]:
    """Mark the pixels within `reach` of a pixel of another class, of a 255, or of the outside.

    Args:
        classes: (H, W) uint8

    Returns:
        (H, W) bool; False where it is 255
    """
    window = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    # One class fills the window where its least and its greatest value are the same.
    greatest = cv2.dilate(classes, window, borderType=cv2.BORDER_CONSTANT, borderValue=(IGNORE,))
    least = cv2.erode(classes, window)  # which does not see beyond the edge
    marked: NDArray[np.bool_] = (least != greatest) & (classes != IGNORE)
    return marked


def _count(classes: NDArray[np.uint8], size: int) -> NDArray[np.int64]:
    return np.bincount(classes, minlength=size)
