"""Mean and variance of features by class, kept up to date while the student changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from stillroom.stages.across_ranks import summed
from stillroom.stages.train.terms.term import TermState
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from stillroom.stages.train.terms.class_moments import ClassMoments


class ClassCovariance(TermState):
    """Diagonal covariance of features by class, over all positions so far.

    n, mean_b, variance_b: of one batch's positions of a class;  N, mean, variance: of those before
    w = n / (n + N)
    variance <- (1 - w) variance + w variance_b + w (1 - w) (mean - mean_b)^2
    mean <- (1 - w) mean + w mean_b,  N <- N + n

    With torch.distributed the batch is that of all ranks: each ends with what one process would
    have that sees everything, and every rank must call `update` equally often.

    Wang et al., "Implicit Semantic Data Augmentation for Deep Networks", NeurIPS 2019, the online
    estimation of covariances; arXiv:1909.12220. They write full matrices; C of A x A do not fit
    where A is in the hundreds, and a bound by diagonal ones is what is used in practice.

    Attributes:
        count: (C,) float64 positions; mean, variance: (C, A) float64; all in checkpoints
    """

    count: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, classes: int, channels: int, start: ClassMoments | None = None) -> None:
        """Begin with nothing, or with moments from a file.

        Raises:
            ConfigError: where these are of other classes or channels
        """
        super().__init__()
        if start is not None and start.mean.shape != (classes, channels):
            raise ConfigError(
                f"{start.origin}: moments of {start.mean.shape[0]} classes and "
                f"{start.mean.shape[1]} channels; this student has {classes} classes and "
                f"{channels} channels before its classifier. A teacher's moments can only stand "
                "for those of a student with as many channels: leave `start` out"
            )
        shape = (classes, channels)
        held = [torch.zeros(shape[:1]), torch.zeros(shape), torch.zeros(shape)]
        if start is not None:
            held = [start.count, start.mean, start.variance]
        # float64: counts pass what float32 can count, and buffers are not cast by autocast
        for name, values in zip(("count", "mean", "variance"), held, strict=True):
            self.register_buffer(name, values.to(torch.float64, copy=True))

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Take in a batch.

        Args:
            features: (B, A, h, w)
            labels: (B, h, w) int64, 0..C-1; any other number (255: none, or masked) is left out,
                whatever the features are there

        Raises:
            ArtifactError: where the features are not on the labels' grid
        """
        if labels.shape != (len(features), *features.shape[2:]):
            raise ArtifactError(
                f"features are {tuple(features.shape)} and labels {tuple(labels.shape)}; class "
                "statistics take features on the grid of the labels"
            )
        with torch.autocast(features.device.type, enabled=False):
            count, mean, variance = self._of(features, labels)
        share = (count / (count + self.count).clamp(min=1))[:, None]  # w
        apart = (self.mean - mean).square()
        self.variance.copy_(
            (1 - share) * self.variance + share * variance + share * (1 - share) * apart
        )
        self.mean.copy_((1 - share) * self.mean + share * mean)
        self.count.add_(count)

    def _of(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Count, mean and variance by class of the batch of all ranks.

        Frame by frame: what is made on the way is of one frame's size, and sums of float32 stay
        short; they are added up in float64.
        """
        sums = torch.zeros_like(self.mean)
        count = torch.zeros_like(self.count)
        for vectors, member in self._frames(features, labels):
            sums += member @ vectors.T
            count += member.sum(dim=1)
        together = summed(torch.cat([count[:, None], sums], dim=1))  # (C, 1 + A)
        count = together[:, 0]
        mean = together[:, 1:] / count.clamp(min=1)[:, None]
        squares = torch.zeros_like(mean)
        for vectors, member in self._frames(features, labels):
            # Centred first: no difference of two large sums.
            squares += member @ vectors.sub_(mean.to(vectors.dtype).T @ member).square_().T
        return count, mean, summed(squares) / count.clamp(min=1)[:, None]

    def _frames(self, features: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Features of each frame, (A, N), and which class they are of, (C, N) of 0 and 1."""
        classes = torch.arange(len(self.count), device=labels.device)[:, None]
        for frame, of in zip(features.detach(), labels.flatten(1), strict=True):
            member = of == classes
            wide = torch.promote_types(frame.dtype, torch.float32)
            vectors = frame.flatten(1).to(wide, copy=True)
            yield vectors.masked_fill_(~member.any(dim=0), 0), member.to(wide)
