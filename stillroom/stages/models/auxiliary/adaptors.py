"""What brings a layer into an auxiliary module: a small convolution and batch normalisation."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from stillroom.stages.models.auxiliary.cells import Adaptor

TAPS = tuple(product((-1, 0, 1), repeat=2))  # dy, dx


class DeformableConv(nn.Module):
    """A 3x3 convolution whose nine taps move by offsets that a convolution finds at each position.

    Dai et al., "Deformable Convolutional Networks", ICCV 2017, eq. 2; arXiv:1703.06211. Of plain
    operators, so that it runs where torchvision has no compiled ones. The offsets begin at 0.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.offsets = nn.Conv2d(inputs, 2 * len(TAPS), 3, padding=1)
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.offsets.bias)  # type: ignore[arg-type]
        self.mix = nn.Conv2d(len(TAPS) * inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Bring (B, A, h, w) to (B, A', h, w)."""
        offsets = self.offsets(x).unflatten(1, (len(TAPS), 2))  # (B, 9, dy dx, h, w)
        taps = [_sampled(x, offsets[:, k], *tap) for k, tap in enumerate(TAPS)]
        mixed: Tensor = self.mix(torch.cat(taps, dim=1))
        return mixed


def _sampled(x: Tensor, offset: Tensor, dy: int, dx: int) -> Tensor:
    """The values of x (B, A, h, w) at each position plus (dy, dx) plus `offset` (B, 2, h, w)."""
    height, width = x.shape[2:]
    rows = torch.arange(height, device=x.device)[:, None] + dy + offset[:, 0]  # (B, h, w)
    columns = torch.arange(width, device=x.device) + dx + offset[:, 1]
    grid = torch.stack([(2 * columns + 1) / width, (2 * rows + 1) / height], dim=-1) - 1
    return F.grid_sample(x, grid, padding_mode="zeros", align_corners=False)


def _pointwise(inputs: int, outputs: int) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 1, bias=False)


def _three(inputs: int, outputs: int) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)


def _separable(dilation: int) -> Callable[[int, int], nn.Module]:
    def made(inputs: int, outputs: int) -> nn.Module:
        reach = {"padding": dilation, "dilation": dilation}
        depthwise = nn.Conv2d(inputs, inputs, 3, groups=inputs, bias=False, **reach)  # type: ignore[arg-type]
        return nn.Sequential(depthwise, _pointwise(inputs, outputs))

    return made


CONVOLUTIONS: dict[Adaptor, Callable[[int, int], nn.Module]] = {
    "conv1x1": _pointwise,
    "conv3x3": _three,
    "separable3x3": _separable(1),
    "separable3x3_dilated3": _separable(3),
    "separable3x3_dilated6": _separable(6),
    "deformable3x3": DeformableConv,
}


def build_adaptor(kind: Adaptor, inputs: int, outputs: int, *, keeps: bool) -> nn.Module:
    """Build what brings `inputs` channels to `outputs`: its convolution, then normalisation.

    Args:
        keeps: whether "skip" may leave another number of channels as it is, as where the two
            sides of a cell are concatenated; else it is then a 1x1 convolution
    """
    if kind == "skip":
        same = keeps or inputs == outputs
        return nn.Identity() if same else _pointwise(inputs, outputs)
    return nn.Sequential(CONVOLUTIONS[kind](inputs, outputs), nn.BatchNorm2d(outputs))
