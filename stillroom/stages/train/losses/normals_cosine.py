"""Surface normals: how far a direction is from the right one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch.nn.functional as F

from stillroom.stages.train.loss_parts.masks import masked_mean, matched
from stillroom.stages.train.terms.target_term import TargetTerm
from stillroom.storage_specs.artifacts import NORMALS

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.stages.train.terms.term import TermInput


def normals_cosine(student: Tensor, normals: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Take 1 less the cosine between two directions.

    loss = mean_i 1 - (s_i . n_i) / (|s_i| |n_i|),  i: pixels whose normal is not the zero vector

    Eigen and Fergus, "Predicting Depth, Surface Normals and Semantic Labels with a Common
    Multi-Scale Convolutional Architecture", ICCV 2015, eq. 3, shifted so that it is 0 where they
    agree; arXiv:1411.4734.

    Args:
        student, normals: (B, 3, H, W), of any length; the zero vector: none
        mask: (B, 1, H, W) bool, True where a pixel counts

    Returns:
        () mean over the counted pixels of the batch that have a normal, between 0 and 2
    """
    student, normals = matched(student, normals, mask)
    length = normals.square().sum(1, keepdim=True)
    known = (length > 0) & length.isfinite()
    known = known if mask is None else known & mask
    cosine = F.cosine_similarity(
        student.masked_fill(~known, 1), normals.masked_fill(~known, 1), dim=1
    )
    return masked_mean(1 - cosine, known)


class NormalsCosineTerm(TargetTerm):
    """`normals_cosine`."""

    name: Literal["normals_cosine"]
    target = NORMALS

    @property
    def grid(self) -> str:
        return NORMALS

    def value(self, given: TermInput) -> Tensor:
        normals = self.known(given)
        return normals_cosine(self.brought(given, normals), normals, mask=self.counted(given))
