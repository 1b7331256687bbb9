"""The critic of holistic distillation: one score for a whole segmentation map."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from stillroom.stages.moments import moments
from stillroom.storage_specs.errors import ArtifactError, ConfigError

Design = Literal["paper", "released"]

SHRINKS = 16  # four convolutions of stride 2
NARROWEST = 2  # of the first convolution, for an attention of at least one channel
SLOWEST = 0.1  # share of a new batch in the running statistics, once there have been ten


class Critic(nn.Module):
    """Scores how well a map of logits goes with its image: high for a teacher's.

    normalise -> [conv 4x4, stride 2, activation] x 3 -> attention -> the same once more
        -> attention -> conv 3x3 to one channel -> mean over positions

    Maps of any size fit: after the normalisation they are filled up with zeros to multiples of 16,
    so that every convolution halves them exactly. Masked positions are 0 there as well.

    Y. Liu, "Efficient Fully Convolutional Networks for Dense Prediction Tasks", PhD thesis,
    Adelaide 2021, sections 3.3.1 and 3.4.1; Liu et al., "Structured Knowledge Distillation for
    Dense Prediction", TPAMI 2020, arXiv:1903.04197. Two choices are ours. The normalisation of the
    input is a BatchNorm that always uses its running statistics: with those of the batch a frame's
    score would depend on the other frames, and a gradient penalty, which is one of each frame's
    own, would punish that (Gulrajani et al., "Improved Training of Wasserstein GANs", NeurIPS 2017,
    section 4; arXiv:1704.00028). For the same reason the convolutions have none, where the thesis
    has one after each. The kernel sizes are the released code's; its last convolution has no room
    in a small map, ours has a padding of 1.

    Args:
        design: "paper": logits and RGB image, ReLU; "released": the authors' code, logits only,
            LeakyReLU(0.1), every convolution but the attention's spectrally normalised
        width: channels of the first convolution; the next three have 2, 4 and 8 times as many
    """

    def __init__(self, classes: int, *, design: Design = "paper", width: int = 64) -> None:
        """Draw the weights from torch's generator (ConfigError where an option is none)."""
        super().__init__()
        if design not in ("paper", "released"):
            raise ConfigError(f"design must be 'paper' or 'released', got {design!r}")
        if width < NARROWEST:
            raise ConfigError(f"width must be at least {NARROWEST}, got {width}")
        self.classes = classes
        self.conditional = design == "paper"
        wrap = _unchanged if design == "paper" else spectral_norm
        widths = [classes + 3 * self.conditional, width, 2 * width, 4 * width, 8 * width]
        self.normalise = RunningNorm(widths[0])
        self.convolutions = nn.ModuleList(
            wrap(nn.Conv2d(before, after, 4, stride=2, padding=1))
            for before, after in pairwise(widths)
        )
        self.activation = nn.ReLU() if design == "paper" else nn.LeakyReLU(0.1)
        self.attentions = nn.ModuleList([SelfAttention(4 * width), SelfAttention(8 * width)])
        self.last = wrap(nn.Conv2d(8 * width, 1, 3, padding=1))

    def forward(self, logits: Tensor, images: Tensor, mask: Tensor | None = None) -> Tensor:
        """Score each map.

        Args:
            logits: (B, classes, h, w)
            images: (B, 3, h, w) on the same grid
            mask: (B, 1, h, w) bool, True where a position counts; the others are 0

        Returns:
            (B,)

        Raises:
            ArtifactError: where a shape is another
        """
        normalised = self.normalise(self._input(logits, images, mask))
        if mask is not None:
            normalised = normalised.masked_fill(~mask, 0)
        height, width = normalised.shape[2:]
        x = F.pad(normalised, (0, -width % SHRINKS, 0, -height % SHRINKS))
        first, second, third, fourth = self.convolutions
        for convolution in (first, second, third):
            x = self.activation(convolution(x))
        x = self.attentions[0](x)
        x = self.attentions[1](self.activation(fourth(x)))
        score: Tensor = self.last(x).mean((1, 2, 3))
        return score

    @torch.no_grad()
    def observe(self, logits: Tensor, images: Tensor, mask: Tensor | None = None) -> None:
        """Take maps into the running statistics of the normalisation; arguments as `forward`."""
        self.normalise.observe(self._input(logits, images, mask), mask)

    def _input(self, logits: Tensor, images: Tensor, mask: Tensor | None) -> Tensor:
        """Check and stack the critic's input, 0 where it is masked out."""
        batch, channels, *size = logits.shape
        if channels != self.classes or tuple(images.shape) != (batch, 3, *size):
            raise ArtifactError(
                f"the critic takes logits (B, {self.classes}, h, w) and images (B, 3, h, w), got "
                f"{tuple(logits.shape)} and {tuple(images.shape)}"
            )
        x = torch.cat([logits, images.to(logits.dtype)], 1) if self.conditional else logits
        return x if mask is None else x.masked_fill(~mask, 0)


class SelfAttention(nn.Module):
    """Attention of every position to every other one.

    out_i = x_i + gain * sum_j a_ij V x_j,  a_ij = softmax over j of (Q x_i) . (K x_j)

    Q, K: 1x1 convolutions to an eighth of the channels, V to all of them; gain begins at 0.

    Zhang et al., "Self-Attention Generative Adversarial Networks", ICML 2019, eq. 1 to 3;
    arXiv:1805.08318. Memory: N^2 numbers a map of N positions.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, max(1, channels // 8), 1)
        self.key = nn.Conv2d(channels, max(1, channels // 8), 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Attend; (B, C, h, w) in and out."""
        query, key, value = (part(x).flatten(2) for part in (self.query, self.key, self.value))
        attention = (query.transpose(1, 2) @ key).softmax(2)  # (B, N, N): i, j
        attended = (value @ attention.transpose(1, 2)).view_as(x)  # (B, C, N) -> (B, C, h, w)
        out: Tensor = x + self.gain * attended
        return out


class RunningNorm(nn.Module):
    """Batch normalisation by running statistics, which the first batch begins.

    out = (x - mean) / sqrt(variance + 1e-5) * weight + bias, by channel

    Each frame goes through by itself: no batch's own statistics are ever used.
    """

    mean: Tensor
    variance: Tensor
    observed: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))
        self.register_buffer("observed", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; (B, C, h, w) in and out."""
        return F.batch_norm(x, self.mean, self.variance, self.weight, self.bias, training=False)

    @torch.no_grad()
    def observe(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Take a batch into the statistics, by a tenth; the first ones by more.

        Args:
            x: (B, C, h, w)
            mask: (B, 1, h, w) bool, True where a position counts; where none does nothing changes
        """
        columns = x.transpose(0, 1).flatten(1)  # (C, B h w)
        found = moments(columns, None if mask is None else mask.flatten())
        rate = (1 / (self.observed.double() + 1)).clamp(min=SLOWEST).to(self.mean.dtype)
        # New tensors: scores whose backward pass is still to come hold on to the old ones.
        mean = self.mean.lerp(found.mean.to(self.mean.dtype), rate)
        variance = self.variance.lerp(found.variance.to(self.variance.dtype), rate)
        self.mean = torch.where(found.there, mean, self.mean)
        self.variance = torch.where(found.there, variance, self.variance)
        self.observed = self.observed + found.there


def _unchanged(layer: nn.Module) -> nn.Module:
    return layer
