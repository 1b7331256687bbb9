"""CIRKD in the batch: how pixels relate to the pixels of other frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import PositiveInt

from stillroom.stages.across_ranks import gathered, mean_of_all
from stillroom.stages.train.loss_parts.similarities import (
    Others,
    draw_pixels,
    summed_kl,
    unit_pixels,
)
from stillroom.stages.train.terms.feature_term import FeatureTerm
from stillroom.stages.train.terms.term import Positive

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.stages.train.terms.term import TermInput


def cross_image_pixel(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 0.1,
    chosen: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Compare the similarities of a pixel to all pixels of a frame, over all pairs of frames.

    loss = mean_(b, d) mean_i KL(p_bdi || q_bdi)
    q_bdi = softmax over j of s_bi . s_dj / T,  p_bdi likewise of t;  |s_bi| = |t_bi| = 1
    b, d: frames of the batch of all ranks, d = b among them;  i: pixels of b;  j: pixels of d

    Memory: a few times B n^2 floats (n = H W without `chosen`), beside B n A: frame by frame, with
    the intermediate results of one computed again for its gradient. The work is B^2 n^2 A

    Yang et al., "Cross-Image Relational Knowledge Distillation for Semantic Segmentation", CVPR
    2022, the mini-batch pixel-to-pixel loss; arXiv:2204.06986. What differs:
    docs/losses/cross_image.md.

    Args:
        student: (B, A, H, W) features
        teacher: (B, A', H, W) features; A' may be another number, only similarities are compared
        temperature: T above 0
        chosen: (B, n) int64 positions in H W that stand for the frame, -1 = none, as `draw_pixels`
            makes them; None: all of them
        mask: (B, 1, H, W) bool, True where a pixel counts

    Returns:
        () mean over the counted rows (b, i, d), in nats
    """
    student, teacher, counted = unit_pixels(student, teacher, chosen, mask)
    shown = gathered(counted.int()).bool()
    others = Others(gathered(student), gathered(teacher), shown, temperature)
    rows = counted.sum() * shown.any(dim=1).sum()
    return mean_of_all(summed_kl(student, teacher, counted, others), rows)


class CrossImagePixelTerm(FeatureTerm):
    """`cross_image_pixel`: pixels of the batch's frames with each other.

    Attributes:
        pixels: drawn of each frame at every step. Memory is a few times B pixels^2 floats, the work
            (B pixels)^2 A: the default is for CPUs, a GPU takes 1,024 and more
    """

    name: Literal["cross_image_pixel"]
    temperature: Positive = 0.1
    pixels: PositiveInt = 256

    def value(self, given: TermInput) -> Tensor:
        return cross_image_pixel(
            given.features,
            self.target(given),
            temperature=self.temperature,
            chosen=draw_pixels(given.mask, self.pixels, given.batch.rows),
            mask=given.mask,
        )
