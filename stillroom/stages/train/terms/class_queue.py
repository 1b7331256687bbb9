"""A memory of vectors by class, the oldest of which make room for new ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from stillroom.stages.across_ranks import ALL
from stillroom.stages.train.loss_parts.unit_vectors import unit_vectors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from stillroom.stages.across_ranks import Rows


class ClassQueue(nn.Module):
    """Up to `size` vectors of each class, in a ring.

    Attributes:
        vectors: (C, size, A) float32; filled: (C,) how many there are; place: (C,) where the next
            goes; all in checkpoints
    """

    vectors: Tensor
    filled: Tensor
    place: Tensor

    def __init__(self, classes: int, size: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(classes, size, channels))
        self.register_buffer("filled", torch.zeros(classes, dtype=torch.int64))
        self.register_buffer("place", torch.zeros(classes, dtype=torch.int64))

    @torch.no_grad()
    def put(self, vectors: Tensor, of: Tensor) -> None:
        """Add vectors; of more than fit of a class, the last ones stay.

        Args:
            vectors: (M, A)
            of: (M,) int64, their classes; C: none, and the vector is left out
        """
        classes, size = self.vectors.shape[:2]
        if len(of) == 0:
            return
        order = of.argsort(stable=True)
        vectors, of = vectors[order], of[order]
        added = _counts(of, classes + 1)
        rank = _ranks(of, added)
        stay = (of < classes) & (rank >= (added - size)[of])
        of, added = of.clamp(max=classes - 1), added[:classes]
        columns = (self.place[of] + rank) % size
        # How many stay is not known without waiting for a GPU. The others repeat one that does.
        repeat = torch.where(stay, torch.arange(len(of), device=of.device), stay.int().argmax())
        rows, columns = of[repeat], columns[repeat]
        written = vectors[repeat].to(self.vectors.dtype)
        self.vectors[rows, columns] = torch.where(stay.any(), written, self.vectors[rows, columns])
        self.place.copy_((self.place + added) % size)
        self.filled.copy_((self.filled + added).clamp(max=size))

    def drawn(self, number: int) -> tuple[Tensor, Tensor]:
        """Draw vectors of all classes, equally many of each where there are enough.

        Args:
            number: in all, about: ceil(number / C) a class

        Returns:
            (K, A), by torch's generator, and (K,) bool, which of them there are. On a CPU those
            alone; a GPU would have to be waited for to know their number
        """
        classes, size = self.vectors.shape[:2]
        there = torch.arange(size, device=self.filled.device) < self.filled[:, None]  # (C, size)
        draws = torch.rand(classes, size, device=self.filled.device).masked_fill(~there, -1)
        found = draws.topk(min(-(-number // classes), size), dim=1)
        rows = torch.arange(classes, device=self.filled.device)[:, None].expand_as(found.indices)
        there = (found.values >= 0).flatten()
        vectors = self.vectors[rows, found.indices].flatten(0, 1)
        if not there.is_cuda:
            vectors, there = vectors[there], there[there]
        return vectors, there


@torch.no_grad()
def some_of_each_class(
    features: Tensor, labels: Tensor, classes: int, most: int, rows: Rows = ALL
) -> tuple[Tensor, Tensor]:
    """Draw positions of each class that a frame shows, by torch's generator.

    Args:
        features: (B, A, h, w)
        labels: (B, h, w) int64, 0..classes-1; any other number is left out
        most: positions of a class and frame
        rows: which frames of the batch of all ranks these are

    Returns:
        (M, A) vectors of length 1, float32, and (M,) their classes, `classes` for places that a
        class does not fill: M = B * classes * most
    """
    of = labels.flatten(1)  # (B, hw)
    of = of.masked_fill((of < 0) | (of >= classes), classes)
    # In order of class, and of chance within a class.
    draws = of + rows.rand(of.shape, device=of.device, dtype=torch.float64)
    order = draws.argsort(dim=1)
    counts = _counts(of, classes + 1)[:, :classes, None]  # (B, C, 1)
    taken = torch.arange(most, device=of.device).expand(len(of), classes, most)  # (B, C, most)
    place = (counts.cumsum(1) - counts + taken).clamp(max=of.shape[1] - 1).flatten(1)
    there = (taken < counts).flatten(1)  # (B, C most)
    vectors = [
        unit_vectors(frame[:, order_of[at]].T.float(), dim=1)
        for frame, order_of, at in zip(features.flatten(2), order, place, strict=True)
    ]
    named = torch.arange(classes, device=of.device).repeat_interleave(most)
    return torch.cat(vectors), torch.where(there, named, classes).flatten()


@torch.no_grad()
def regions(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Average the positions of each class that a frame shows, and bring the means to length 1.

    Args:
        features: (B, A, h, w), each vector brought to length 1 before it counts
        labels: (B, h, w) int64, 0..classes-1; any other number is left out

    Returns:
        (M, A) vectors of length 1, float32, and (M,) their classes, `classes` for those that a
        frame does not show: M = B * classes
    """
    rows = torch.arange(classes, device=labels.device)
    vectors, found = [], []
    for total, there in _class_sums(features, labels, classes):
        vectors.append(unit_vectors(total, dim=1))
        found.append(torch.where(there, rows, classes))
    return torch.cat(vectors), torch.cat(found)


def _class_sums(features: Tensor, labels: Tensor, classes: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Sum by class (C, A) of each frame, whose direction is the mean's, and which are there."""
    rows = torch.arange(classes, device=labels.device)[:, None]
    for frame, of in zip(features.flatten(2), labels.flatten(1), strict=True):
        member = of == rows  # (C, hw)
        labelled = member.any(dim=0)[:, None]
        units = unit_vectors(frame.T.float().masked_fill(~labelled, 0), dim=1)  # (hw, A)
        yield member.to(units.dtype) @ units, member.any(dim=1)


def _counts(of: Tensor, classes: int) -> Tensor:
    """How many there are of each class, (..., classes); `bincount` would wait for a GPU."""
    counts = torch.zeros(*of.shape[:-1], classes, dtype=torch.int64, device=of.device)
    return counts.scatter_add_(-1, of, torch.ones_like(of))


def _ranks(of: Tensor, counts: Tensor) -> Tensor:
    """Place of each member within its class, for classes in ascending order."""
    begins = counts.cumsum(0) - counts
    return torch.arange(len(of), device=of.device) - begins[of]
