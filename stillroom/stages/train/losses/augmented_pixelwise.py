"""FAKD, pixel-wise: distillation of a student whose features are augmented without end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F

from stillroom.stages.train.loss_parts.augmentation import matched_with_labels
from stillroom.stages.train.loss_parts.log_matmul_exp import log_matmul_exp
from stillroom.stages.train.loss_parts.masks import masked_mean
from stillroom.stages.train.terms.augmented_term import AugmentedTerm
from stillroom.stages.train.terms.term import Positive
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from stillroom.stages.train.loss_parts.augmentation import Augmentation
    from stillroom.stages.train.terms.term import TermInput

LEAST_TILE = 64  # pixels
CovarianceOf = Literal["label", "target"]


def augmented_pixelwise(
    student: Tensor,
    teacher: Tensor,
    *,
    augmentation: Augmentation,
    temperature: float = 1.0,
    covariance_of: CovarianceOf = "label",
    mask: Tensor | None = None,
) -> Tensor:
    """Bound the pixel-wise KL, averaged over all augmentations of the student's features.

    loss = T^2 * mean_i sum_c p_ic * (log p_ic + log sum_k exp((z_ik - z_ic) / T + h_ick))
    h_ick = strength / (2 T^2) * sum_a (w_ka - w_ca)^2 * variance_ya
    p = softmax over classes of teacher/T,  z = student,  y = label of pixel i

    Memory: a few times B H W C. "label" sorts the pixels by class and makes one (C, C) matrix h a
    class that is there (on a GPU one a class, and copies a tile of at least C pixels), B H W C^2
    and C^2 A multiplications a class. "target" needs one such matrix

    Yuan et al., "FAKD: Feature Augmented Knowledge Distillation for Semantic Segmentation", 2022,
    eq. 8; arXiv:2208.14143. After Wang et al., "Implicit Semantic Data Augmentation for Deep
    Networks", NeurIPS 2019. What differs: docs/losses/augmented.md.

    Args:
        student, teacher: (B, C, H, W) logits; the student's are its classifier's, at plain features
        augmentation: the classifier w, the variances, the labels and the strength lambda
        temperature: T above 0
        covariance_of: "label": of the pixel's own class y, what the paper's theorem assumes.
            "target": of c, as its eq. 8 is printed; labels are then not read
        mask: (B, 1, H, W) bool, True where a pixel counts

    Returns:
        () mean over the counted pixels of the batch, in nats; `pixelwise_kl` at strength 0
    """
    student, teacher, labels = matched_with_labels(
        student, teacher, augmentation, temperature, mask
    )
    classes = student.shape[1]
    with torch.autocast(student.device.type, enabled=False):
        log_p, log_q = (
            F.log_softmax(logits / temperature, dim=1).permute(0, 2, 3, 1).flatten(0, 2)
            for logits in (teacher, student)
        )  # (BHW, C)
        spread = augmentation.strength / (2 * temperature**2)
        if covariance_of == "target":
            excess = log_matmul_exp(log_q, spread * _between_own(augmentation, log_q.dtype))
            surprise = (log_p.exp() * (log_p - log_q + excess)).sum(dim=1)
        elif covariance_of == "label" and labels.is_cuda:
            excess = _by_tiles(log_q, labels.flatten(), augmentation, spread)
            surprise = (log_p.exp() * (log_p - log_q + excess)).sum(dim=1)
        elif covariance_of == "label":
            parts = []
            order = labels.flatten().argsort(stable=True)
            for rows, one in _by_class(order, labels, classes):
                here, target = log_q[rows], log_p[rows]  # (n, C)
                apart = target - here
                if one < classes:  # no label, no augmentation
                    between = spread * _between(augmentation, one, here.dtype)
                    apart = apart + log_matmul_exp(here, between)
                parts.append((target.exp() * apart).sum(dim=1))
            surprise = torch.cat(parts)[order.argsort()]
        else:
            raise ConfigError(f"covariance_of must be 'label' or 'target', got {covariance_of!r}")
    return temperature**2 * masked_mean(surprise.view(labels.shape), mask)


def _by_class(order: Tensor, labels: Tensor, classes: int) -> Iterator[tuple[Tensor, int]]:
    """Pixels of each class that is there, and the class; C: those without one."""
    counts = labels.flatten().bincount(minlength=classes + 1).tolist()
    for one, rows in enumerate(torch.split(order, counts)):
        if len(rows):
            yield rows, one


def _by_tiles(log_q: Tensor, labels: Tensor, augmentation: Augmentation, spread: float) -> Tensor:
    """Each pixel's excess (BHW, C), 0 without a label, for a GPU that is not to be waited for.

    How many pixels a class has is known there alone. So they are laid out by class in tiles of one
    size, of which there are always enough, and each tile is multiplied by its class's matrix.
    """
    pixels, classes = log_q.shape
    side = max(LEAST_TILE, classes)
    tiles = pixels // side + classes + 1  # of which each class leaves less than one empty
    order = labels.argsort(stable=True)
    counts = (labels[:, None] == torch.arange(classes + 1, device=labels.device)).sum(0)
    needed = (counts + side - 1) // side
    ends = needed.cumsum(0)
    rank = torch.arange(pixels, device=labels.device) - (counts.cumsum(0) - counts)[labels[order]]
    place = torch.empty_like(order)
    place[order] = (ends - needed)[labels[order]] * side + rank
    of_tile = torch.searchsorted(ends, torch.arange(tiles, device=labels.device), right=True)
    each = [spread * _between(augmentation, one, log_q.dtype) for one in range(classes)]
    matrices = torch.stack([*each, torch.zeros_like(each[0])])[of_tile.clamp(max=classes)]
    laid_out = log_q.new_zeros(tiles * side, classes).index_copy(0, place, log_q)
    found = log_matmul_exp(laid_out.view(tiles, side, classes), matrices)  # (tiles, side, C)
    return found.flatten(0, 1)[place]


def _between(augmentation: Augmentation, one: int, dtype: torch.dtype) -> Tensor:
    """(C, C): sum_a (w_ka - w_ca)^2 variance_ya, at [c, k], for y = one."""
    weight, variance = augmentation.parameters(dtype)
    weight = weight - weight.mean(dim=0)  # differences stay, what is squared gets smaller
    products = (weight * variance[one]) @ weight.T
    own = products.diagonal()
    return own[:, None] + own[None, :] - 2 * products


def _between_own(augmentation: Augmentation, dtype: torch.dtype) -> Tensor:
    """(C, C): sum_a (w_ka - w_ca)^2 variance_ca, at [c, k]."""
    weight, variance = augmentation.parameters(dtype)
    weight = weight - weight.mean(dim=0)
    squares = variance @ weight.square().T  # [c, k]: sum_a variance_ca w_ka^2
    products = (weight * variance) @ weight.T  # [c, k]: sum_a variance_ca w_ca w_ka
    return squares.diagonal()[:, None] + squares - 2 * products


class AugmentedPixelwiseTerm(AugmentedTerm):
    """`augmented_pixelwise`."""

    name: Literal["augmented_pixelwise"]
    temperature: Positive = 1.0
    covariance_of: CovarianceOf = "label"

    def whole_logits(self) -> bool:
        return self.temperature != 1  # at another the tail's classes are not alike

    def value(self, given: TermInput) -> Tensor:
        return augmented_pixelwise(
            given.features,
            self.target(given),
            augmentation=self.augmentation(given),
            temperature=self.temperature,
            covariance_of=self.covariance_of,
            mask=given.mask,
        )
