"""The auto-encoder of knowledge adaptation: a teacher's features to a small code, and back."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Sequence


class AutoEncoder(nn.Module):
    """Three convolutions to the code, three transposed ones back to the features.

    code = [convolution, batch normalisation, ReLU] x 3 of (features - mean) / scale
    back = mean + scale * [transposed convolution, batch normalisation, ReLU; the last bare] x 3

    He et al., "Knowledge Adaptation for Efficient Semantic Segmentation", CVPR 2019, section 3.1:
    "three strided convolution layers and symmetrical deconvolution layers"; arXiv:1903.04688. The
    paper says no more of it, and no code of its authors is known. Our choices:

    - Kernels of 4 and padding 1 where the stride is 2: each position then lies over the two by two
      that it came from, as on the cache's grids, and a mirrored map has the mirrored extent. (A
      kernel of 3 would move the code by half a position a layer.) Kernels of 3 where it is 1.
    - A side that the strides do not divide is padded at its end with copies of its last positions,
      and the output is cut to the given size. The code of a grid of 45 x 60 at stride 8 is 6 x 8.
    - A ReLU ends the code: the student's adapter ends in one, and could not reach below 0.
    - Features are centred by channel and divided by one number for all, so that one learning rate
      serves every teacher and channels keep their relative weight.

    Args:
        features: channels A of the features
        channels: K of the code, and of the layers between
        strides: of the three convolutions, each 1 or 2; their product is how much coarser the
            code's grid is
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, features: int, channels: int, strides: Sequence[int] = (2, 2, 2)) -> None:
        """Draw the weights from torch's generator."""
        super().__init__()
        self.channels = channels
        self.strides = tuple(strides)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(()))
        down: list[nn.Module] = []
        for place, stride in enumerate(self.strides):
            given = features if place == 0 else channels
            side = 4 if stride == 2 else 3
            down += [nn.Conv2d(given, channels, side, stride, 1, bias=False)]
            down += [nn.BatchNorm2d(channels), nn.ReLU()]
        up: list[nn.Module] = []
        for stride in self.strides[:0:-1]:
            side = 4 if stride == 2 else 3
            up += [nn.ConvTranspose2d(channels, channels, side, stride, 1, bias=False)]
            up += [nn.BatchNorm2d(channels), nn.ReLU()]
        side = 4 if self.strides[0] == 2 else 3
        up += [nn.ConvTranspose2d(channels, features, side, self.strides[0], 1)]
        self.encoder, self.decoder = nn.Sequential(*down), nn.Sequential(*up)

    @property
    def factor(self) -> int:
        """How much coarser the grid of the code is than that of the features."""
        return math.prod(self.strides)

    def encode(self, features: Tensor) -> Tensor:
        """Encode features (B, A, h, w) to (B, K, ceil(h / factor), ceil(w / factor)).

        Raises:
            ArtifactError: features of other channels.
        """
        code: Tensor = self.encoder(self._padded(self.standardised(features)))
        return code

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the code, and the standardised features decoded from it, (B, A, h, w)."""
        code = self.encode(features)
        back: Tensor = self.decoder(code)
        return code, back[:, :, : features.shape[2], : features.shape[3]]

    def standardised(self, features: Tensor) -> Tensor:
        """Return (features - mean) / scale."""
        if features.ndim != 4 or features.shape[1] != len(self.mean):
            raise ArtifactError(
                f"the auto-encoder takes features (B, {len(self.mean)}, h, w), got "
                f"{tuple(features.shape)}"
            )
        return (features - self.mean[:, None, None]) / self.scale

    def _padded(self, features: Tensor) -> Tensor:
        height, width = features.shape[2:]
        missing = (0, -width % self.factor, 0, -height % self.factor)
        return F.pad(features, missing, mode="replicate") if any(missing) else features
