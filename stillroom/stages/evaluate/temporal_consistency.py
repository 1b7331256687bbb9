"""Temporal consistency: whether what moves along the flow keeps its predicted class.

The prediction at t+1 is looked up where the flow of t points (the nearest pixel, so that no class
is invented), and compared with the prediction at t, over all pairs of a clip together:

    TC = mean_i  n_ii / (r_i + c_i - n_ii),  n_ij: pixels of class i at t and j at t+1,
                                             r_i = sum_j n_ij,  c_i = sum_j n_ji

It needs no labels, and says nothing about whether a prediction is right: one class everywhere has a
TC of 1. A class counts in the mean where it is predicted at all, at t or at t+1.

Y. Liu, "Efficient Fully Convolutional Networks for Dense Prediction Tasks", PhD thesis, Adelaide
2021, section 5.3.4; Liu et al., "Efficient Semantic Video Segmentation with Per-frame Inference",
ECCV 2020, arXiv:2002.11433. The released metric (tool/eval_tc.py of irfanICMLL/ETC) warps class
numbers bilinearly, so that between road (0) and building (2) lies pavement (1), clamps what leaves
the frame to the edge, counts hidden pixels too, and gives a class that is never predicted an IoU of
0. Ours has neither; it is reported over all pixels that stay in the frame and over those that are
visible in both frames. The released one stands beside it, since published numbers compare with it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from stillroom.stages.evaluate.confusion import ConfusionMatrix
from stillroom.stages.evaluate.released_consistency import ReleasedConsistency
from stillroom.stages.warp import warp_labels
from stillroom.storage_specs.artifacts import IGNORE
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Agreement:
    """How well predictions agree with those of the next frame; each in 0..1.

    Attributes:
        miou: TC.
        pixels: share of the counted pixels whose class stays: the warping pixel accuracy.
        counted: share of all pixels that count.
        iou: by class, None where it is predicted nowhere.
    """

    miou: float
    pixels: float
    counted: float
    iou: tuple[float | None, ...]


@dataclass(frozen=True)
class PairAgreement:
    """One pair of a clip, for a curve; None where no pixel counts.

    Attributes:
        miou, pixels: over the pixels whose target is in the frame, to the nearest pixel.
        visible_miou, visible_pixels: over those that the next frame shows.
    """

    miou: float | None
    pixels: float | None
    visible_miou: float | None
    visible_pixels: float | None


@dataclass(frozen=True)
class Consistency:
    """Temporal consistency of a model on the pairs that were added.

    Attributes:
        whole: over all pixels whose target is in the frame.
        visible: over those that the next frame shows; None where no pair came with a mask.
        released: TC as the authors' code computes it: comparable with published numbers alone.
        curve: pair by pair.
    """

    whole: Agreement
    visible: Agreement | None
    released: float
    curve: tuple[PairAgreement, ...]

    def to_dict(self) -> dict[str, Any]:
        """The scores as plain JSON values."""
        return asdict(self)


class TemporalConsistency:
    """Counts which class follows which, pair after pair of successive frames."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._whole = _Counts(num_classes)
        self._visible = _Counts(num_classes)
        self._released = ReleasedConsistency(num_classes)
        self._masked: bool | None = None
        self._curve: list[PairAgreement] = []

    def add(
        self, now: Tensor, later: Tensor, flow: Tensor, *, visible: Tensor | None = None
    ) -> None:
        """Add one or more pairs, in the order of time.

        Args:
            now: (B, H, W) uint8 classes at t; 255 does not count (padding, or a label map's void).
            later: (B, H, W) likewise, at t+1.
            flow: (B, 2, H, W) pixels, t -> t+1.
            visible: (B, 1, H, W) bool, True where t+1 shows the pixel too; for all pairs or none.

        Raises:
            ArtifactError: shapes or dtypes do not fit, or a class is out of range.
            ConfigError: some pairs come with a mask and some without.
        """
        _demand_fit(now, flow, visible)
        if self._masked is not None and self._masked != (visible is not None):
            raise ConfigError(
                "every pair of a clip must come with a mask of what is visible, or none: the score "
                "with it would be over other pairs than the score without"
            )
        warped = warp_labels(later, flow)
        counted = (now != IGNORE) & (warped != IGNORE)
        for index in range(len(now)):
            pair = now[index], warped[index]
            whole = self._whole.add(*pair, counted[index])
            seen: tuple[float | None, float | None] = (None, None)
            if visible is not None:
                seen = self._visible.add(*pair, counted[index] & visible[index, 0])
            self._curve.append(PairAgreement(whole[0], whole[1], seen[0], seen[1]))
        self._released.add(now, later, flow)
        self._masked = visible is not None if len(now) else self._masked

    def join(self, other: TemporalConsistency) -> None:
        """Add the pairs of another clip.

        Raises:
            ConfigError: one came with masks and the other without.
        """
        if self._masked is not None and other._masked not in (self._masked, None):
            raise ConfigError("every clip must come with masks of what is visible, or none")
        self._masked = other._masked if self._masked is None else self._masked
        for mine, theirs in ((self._whole, other._whole), (self._visible, other._visible)):
            mine.matrix.counts += theirs.matrix.counts
            mine.pixels += theirs.pixels
        self._released.counts += other._released.counts
        self._curve += other._curve

    def scores(self) -> Consistency:
        """The scores of all pairs so far.

        Raises:
            ArtifactError: nothing has been counted.
        """
        return Consistency(
            self._whole.agreement(),
            self._visible.agreement() if self._masked else None,
            self._released.miou(),
            tuple(self._curve),
        )


class _Counts:
    """Both directions of every pair, so that t and t+1 weigh the same: the IoU stays what it is."""

    def __init__(self, num_classes: int) -> None:
        self.matrix = ConfusionMatrix(num_classes)
        self.pixels = 0  # of all pairs, counted or not

    def add(
        self, now: Tensor, warped: Tensor, counted: Tensor
    ) -> tuple[float, float] | tuple[None, None]:
        """Count a pair, and return its own mIoU and share of pixels that stay."""
        one, other = (part[counted].cpu().numpy() for part in (now, warped))
        pair = ConfusionMatrix(len(self.matrix.counts))
        pair.update(one, other)
        pair.update(other, one)
        self.matrix.counts += pair.counts
        self.pixels += counted.numel()
        if not one.size:
            return None, None
        scores = pair.scores()
        return scores.miou, scores.pixel_accuracy

    def agreement(self) -> Agreement:
        scores = self.matrix.scores()
        counted = sum(scores.pixels) / 2
        return Agreement(scores.miou, scores.pixel_accuracy, counted / self.pixels, scores.iou)


def _demand_fit(now: Tensor, flow: Tensor, visible: Tensor | None) -> None:
    batch, *size = now.shape if now.ndim == 3 else (0, 0, 0)
    if now.ndim != 3 or tuple(flow.shape) != (batch, 2, *size):
        raise ArtifactError(
            "expected predictions (B, H, W) and a flow (B, 2, H, W), got "
            f"{tuple(now.shape)} and {tuple(flow.shape)}"
        )
    if visible is not None and (
        tuple(visible.shape) != (batch, 1, *size) or visible.dtype != torch.bool
    ):
        raise ArtifactError(
            f"visible must be {(batch, 1, *size)} torch.bool, got {tuple(visible.shape)} "
            f"{visible.dtype}"
        )
