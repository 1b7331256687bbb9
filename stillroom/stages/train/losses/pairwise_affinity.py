"""Pair-wise distillation: how alike the places of a frame are to each other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from pydantic import PositiveInt, model_validator
from torch.utils.checkpoint import checkpoint

from stillroom.stages.across_ranks import mean_of_all
from stillroom.stages.train.loss_parts.masks import matched_grids
from stillroom.stages.train.loss_parts.near_pairs import near_pairs
from stillroom.stages.train.loss_parts.patches import counted_patches, patch_sums, whole_patches
from stillroom.stages.train.loss_parts.unit_vectors import unit_vectors
from stillroom.stages.train.terms.feature_term import MapTerm
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from stillroom.stages.train.terms.term import TermInput

_AT_ONCE = 2**23  # similarities of one network held at a time: 32 MB of float32


@dataclass(frozen=True)
class AffinityGraph:
    """The nodes that a frame is made of, and which of them are compared.

    Attributes:
        patch: positions a side of a node, 1 or more; beta = patch^2. At the right and the bottom
            nodes are cut off with the map
        reach: Chebyshev distance in nodes of the furthest node that one is compared with, 1 or
            more; alpha = (2 reach + 1)^2, itself included. None compares all with all
        pool: how a patch becomes one node: the mean of its counted positions, or their largest
            values
    """

    patch: int = 2
    reach: int | None = None
    pool: Literal["average", "max"] = "average"

    def __post_init__(self) -> None:
        if self.patch < 1:
            raise ConfigError(f"patch must be 1 or more cells a side, got {self.patch}")
        if self.reach is not None and self.reach < 1:
            raise ConfigError(
                f"reach must be 1 or more nodes, got {self.reach}; leave it out to compare all"
            )
        if self.pool not in ("average", "max"):
            raise ConfigError(f"pool must be 'average' or 'max', got {self.pool!r}")


def pairwise_affinity(
    student: Tensor,
    teacher: Tensor,
    *,
    graphs: Sequence[AffinityGraph] = (AffinityGraph(),),
    mask: Tensor | None = None,
) -> Tensor:
    """Compare the cosines between the nodes of a frame.

    loss = mean over graphs of mean_ij (a_s,ij - a_t,ij)^2,  a_ij = f_i . f_j / (|f_i| |f_j|)
    f_i: pooled features of node i;  j: nodes within reach of i, i among them

    Memory: features of N = H W / patch^2 nodes, O(B N (C + C')). With a reach, O(B N alpha) more: a
    shift of the map at a time. Without one, B rows N similarities, by blocks of rows of 32 MB;
    where there are several, they are computed again on the way back, and N^2 is never held

    Liu et al., "Structured Knowledge Distillation for Dense Prediction", TPAMI 2020, the pair-wise
    term; arXiv:1903.04197. Y. Liu, "Efficient Fully Convolutional Networks for Dense Prediction
    Tasks", thesis, Adelaide 2021, eq. 3.2, weight 10. What differs: docs/losses/features.md.

    Args:
        student: (B, C, H, W) features or logits
        teacher: (B, C', H, W), likewise; C' may be another number
        graphs: nodes and reach; more than one are compared one by one and weigh the same
        mask: (B, 1, H, W) bool, True where a position counts; a node counts where one of its
            positions does

    Returns:
        () mean over the counted ordered pairs of the batch, between 0 and 4
    """
    if not graphs:
        raise ConfigError("pairwise_affinity needs at least one graph, got none")
    student, teacher = matched_grids(student, teacher, mask)
    return torch.stack([_of_graph(student, teacher, mask, graph) for graph in graphs]).mean()


def _of_graph(
    student: Tensor, teacher: Tensor, mask: Tensor | None, graph: AffinityGraph
) -> Tensor:
    counted = None if mask is None else counted_patches(mask, graph.patch)
    one, other = (
        unit_vectors(_nodes(part, mask, graph), dim=1) for part in (student, teacher)
    )  # (B, C, h, w)
    height, width = one.shape[2:]
    if graph.reach is None or graph.reach >= max(height, width) - 1:
        total, count = _all_pairs(one, other, counted)
    else:
        total, count = near_pairs(one, other, counted, graph.reach)
        nodes = one[:, :1].numel() if counted is None else counted.sum()
        total, count = total + _selves(one, other), count + nodes
    return mean_of_all(total, count)


def _nodes(features: Tensor, mask: Tensor | None, graph: AffinityGraph) -> Tensor:
    """Pool the counted positions of each patch, to (B, C, h, w); 0 where none counts."""
    if graph.patch == 1:
        return features  # masked positions are 0 already
    if graph.pool == "max":
        lowest = torch.finfo(features.dtype).min
        if mask is not None:
            features = features.masked_fill(~mask, lowest)
        pooled = F.max_pool2d(whole_patches(features, graph.patch, lowest), graph.patch)
        return (
            pooled if mask is None else pooled.masked_fill(~counted_patches(mask, graph.patch), 0)
        )
    return patch_sums(features, graph.patch)


def _selves(student: Tensor, teacher: Tensor) -> Tensor:
    """() sum over nodes of the squared difference of their cosines to themselves.

    These are 1, but 0 for a node that is 0 throughout.
    """
    difference = student.square().sum(dim=1) - teacher.square().sum(dim=1)
    return difference.square().sum()


def _all_pairs(student: Tensor, teacher: Tensor, counted: Tensor | None) -> tuple[Tensor, Tensor]:
    """As `near_pairs`, over all ordered pairs of nodes of a frame, each with itself too."""
    student, teacher = (part.flatten(2) for part in (student, teacher))  # (B, C, N)
    batch, _, nodes = student.shape
    if counted is None:
        count = torch.full((), batch * nodes**2, device=student.device)
    else:
        count = counted.flatten(1).sum(dim=1).square().sum()
    rows = max(1, _AT_ONCE // (batch * nodes))
    if rows >= nodes:
        return _rows_against_all(student, teacher, 0, nodes), count
    total = student.new_zeros(())
    for block in range(math.ceil(nodes / rows)):
        start, stop = block * rows, min(nodes, (block + 1) * rows)
        total = total + checkpoint(
            _rows_against_all,
            student,
            teacher,
            start,
            stop,
            use_reentrant=False,
            preserve_rng_state=False,
        )
    return total, count


def _rows_against_all(student: Tensor, teacher: Tensor, start: int, stop: int) -> Tensor:
    with torch.autocast(student.device.type, enabled=False):
        similarity = student[:, :, start:stop].transpose(1, 2) @ student  # (B, rows, N)
        target = teacher[:, :, start:stop].transpose(1, 2) @ teacher
        return F.mse_loss(similarity, target, reduction="sum")


class PairwiseAffinityTerm(MapTerm):
    """`pairwise_affinity`.

    Attributes:
        patch: positions a side of a node; several make several graphs, whose mean is taken
        reach: of how many nodes around each is compared with; left out: with all; several as of
            patch
        pool: "average" or "max" of a patch
    """

    name: Literal["pairwise_affinity"]
    patch: PositiveInt | tuple[PositiveInt, ...] = 2
    reach: PositiveInt | tuple[PositiveInt, ...] | None = None
    pool: Literal["average", "max"] = "average"

    @model_validator(mode="after")
    def _patch_and_reach_go_together(self) -> PairwiseAffinityTerm:
        lengths = [len(each) for each in (self.patch, self.reach) if isinstance(each, tuple)]
        if 0 in lengths:
            raise ValueError("patch and reach are a number each, or lists of one and more")
        if len(set(lengths)) > 1:
            raise ValueError(
                "patch and reach make a graph from each pair of their entries: expected lists of "
                f"one length, got {lengths[0]} and {lengths[1]}"
            )
        return self

    @property
    def graphs(self) -> tuple[AffinityGraph, ...]:
        """One for each pair of entries; a number goes with every entry of the other's list."""
        several = [each for each in (self.patch, self.reach) if isinstance(each, tuple)]
        count = len(several[0]) if several else 1
        patches = self.patch if isinstance(self.patch, tuple) else (self.patch,) * count
        reaches = self.reach if isinstance(self.reach, tuple) else (self.reach,) * count
        pairs = zip(patches, reaches, strict=True)
        return tuple(AffinityGraph(patch, reach, self.pool) for patch, reach in pairs)

    def value(self, given: TermInput) -> Tensor:
        teacher = self.target(given)
        return pairwise_affinity(given.features, teacher, graphs=self.graphs, mask=given.mask)
