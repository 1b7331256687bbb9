"""Batch normalisation over the batches of all ranks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stillroom.stages.across_ranks import summed
from stillroom.storage_specs.errors import ConfigError

KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class SyncBatchNorm(nn.SyncBatchNorm):
    """torch's, and on a CPU, for which torch has none, the same of plain operators.

    Ranks may have unequally many frames: each value counts the same.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B, C, ...)."""
        if input.is_cuda or not self.training:
            return super().forward(input)
        dims = [0, *range(2, input.ndim)]
        shape = [1, -1, *[1] * (input.ndim - 2)]
        number = summed(torch.tensor(input.numel() // input.shape[1]))
        if number < 2:
            raise ValueError("Expected more than 1 value per channel when training")
        mean = summed(input.sum(dims)) / number
        apart = input - mean.view(shape)
        variance = summed(apart.square().sum(dims)) / number
        self._follow(mean.detach(), variance.detach() * number / (number - 1))
        out = apart * (variance + self.eps).rsqrt().view(shape)
        return out if self.weight is None else out * self.weight.view(shape) + self.bias.view(shape)

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Take a batch into the running statistics."""
        if self.running_mean is None or self.running_var is None:
            return
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        rate = self.momentum
        if rate is None:
            rate = 1 / int(self.num_batches_tracked or 1)
        self.running_mean.lerp_(mean, rate)
        self.running_var.lerp_(variance, rate)


class SyncBatchNormAct(SyncBatchNorm):
    """The same of a normalisation that ends with dropout and an activation, as timm's does."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B, C, ...)."""
        activated: Tensor = self.act(self.drop(super().forward(input)))
        return activated


def synchronise(network: nn.Module) -> None:
    """Let every batch normalisation of a network take the statistics of all ranks' batches.

    The modules stay, with their weights, hooks and names; they become others in kind.

    Raises:
        ConfigError: one is of a kind that cannot be changed.
    """
    for name, module in network.named_modules():
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            continue
        ends = all(isinstance(getattr(module, part, None), nn.Module) for part in ("drop", "act"))
        if type(module) in KINDS or (ends and isinstance(module, KINDS)):
            module.process_group = None  # type: ignore[assignment]
            module.__class__ = SyncBatchNormAct if ends else SyncBatchNorm
        elif not isinstance(module, nn.SyncBatchNorm):
            raise ConfigError(
                f"{name} is a {type(module).__name__}, a batch normalisation of its own kind: it "
                "cannot be made to normalise over all workers' batches; set "
                "train.sync_batch_norm = false, and each worker normalises over its own"
            )
