"""Intra-class feature variation: how far each position is from the centre of its class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F

from stillroom.stages.train.loss_parts.masks import masked_mean, matched_grids
from stillroom.stages.train.loss_parts.unit_vectors import unit_vectors
from stillroom.stages.train.terms.feature_term import MapTerm
from stillroom.storage_specs.artifacts import IGNORE
from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.stages.train.terms.term import TermInput


def ifvd(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    classes: int,
    mask: Tensor | None = None,
) -> Tensor:
    """Compare the cosines between each position and the centre of its class.

    loss = mean_i (m_s,i - m_t,i)^2,  m_i = cos(z_i, mean of z_j over the positions j of i's class)

    Memory: O(B H W (C + C' + classes)); the centres are one product with the one-hot labels

    Wang et al., "Intra-class Feature Variation Distillation for Semantic Segmentation", ECCV 2020,
    the IFV loss. What differs: docs/losses/features.md.

    Args:
        student: (B, C, H, W) features or logits
        teacher: (B, C', H, W), likewise; C' may be another number
        labels: (B, H, W) integer below `classes`, 255 where there is none
        classes: how many there are
        mask: (B, 1, H, W) bool, True where a position counts

    Returns:
        () mean over the labelled, counted positions of the batch, between 0 and 4; a centre is
        that of one frame

    Raises:
        ArtifactError: where sizes differ, or (checked on the CPU only) a label is no class
    """
    student, teacher = matched_grids(student, teacher, mask)
    counted = _counted(labels, (student.shape[0], *student.shape[2:]), classes)
    if mask is not None:
        counted = counted & mask.squeeze(1)
    # one class more than there are takes what does not count, and is cut off
    members = F.one_hot(labels.long().masked_fill(~counted, classes).flatten(1), classes + 1)
    members = members[..., :classes].to(student.dtype)  # (B, HW, K)
    difference = _to_centre(student, members) - _to_centre(teacher, members)
    return masked_mean(difference.square().view(counted.shape), counted)


def _counted(labels: Tensor, shape: tuple[int, ...], classes: int) -> Tensor:
    """(B, H, W) bool: which positions have a label; refuses labels that are no class."""
    if tuple(labels.shape) != shape or labels.is_floating_point():
        raise ArtifactError(
            f"labels must be {shape} of integers on the features' grid, got "
            f"{tuple(labels.shape)} {labels.dtype}"
        )
    counted = labels != IGNORE
    if labels.device.type == "cpu":
        strange = labels[counted & ((labels < 0) | (labels >= classes))]
        if strange.numel():
            raise ArtifactError(
                f"labels must be 0..{classes - 1} or {IGNORE} for {classes} classes, got "
                f"{int(strange.min())}..{int(strange.max())}"
            )
    return counted


def _to_centre(features: Tensor, members: Tensor) -> Tensor:
    """Cosine of each position to the centre of its class, (B, HW); 0 for one of no class.

    A centre is as good as the sum, of which it is a share: a cosine does not depend on the length.

    Args:
        features: (B, C, H, W); members: (B, HW, K) one-hot
    """
    vectors = features.flatten(2).transpose(1, 2)  # (B, HW, C)
    with torch.autocast(vectors.device.type, enabled=False):
        centres = unit_vectors(members.transpose(1, 2) @ vectors, dim=2)  # (B, K, C)
        cosines = unit_vectors(vectors, dim=2) @ centres.transpose(1, 2)  # (B, HW, K)
    return (cosines * members).sum(dim=2)


class IfvdTerm(MapTerm):
    """`ifvd`, by labels; on unlabelled streams by the teacher's pseudo labels.

    Attributes:
        pseudo_labels: false leaves unlabelled streams out, and reads no pseudo labels
    """

    name: Literal["ifvd"]
    pseudo_labels: bool = True

    def reads(self, labelled: bool) -> frozenset[str]:
        if not labelled and not self.pseudo_labels:
            return frozenset()
        return super().reads(labelled) | {self.label_key(labelled)}

    def value(self, given: TermInput) -> Tensor:
        classes, labels = given.output.logits.shape[1], given.labels_on_grid()
        return ifvd(given.features, self.target(given), labels, classes=classes, mask=given.mask)
