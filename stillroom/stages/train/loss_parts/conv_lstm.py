"""The ConvLSTM that reads a short sequence of maps into one embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence


class ConvLstm(nn.Module):
    """One layer of a convolutional LSTM; the embedding is its hidden state after the last map.

    i, f, o, g = sigmoid, sigmoid, sigmoid, tanh of W * [x_t, h_t-1] + b
    c_t = f c_t-1 + i g,  h_t = o tanh(c_t),  c_0 = h_0 = 0;  W: a k x k convolution, zeros around

    channels: of a map
    hidden: of the embedding
    kernel: k, odd
    clip: W and b are kept within -clip..clip, by `clip_weights` after each step and from the start;
        above 0
    maps: T of (B, channels, H, W) -> (B, hidden, H, W), each number within -1..1
    memory: about 9 T B hidden H W numbers

    Shi et al., "Convolutional LSTM Network: A Machine Learning Approach for Precipitation
    Nowcasting", NeurIPS 2015, eq. 3, without its peepholes; arXiv:1506.04214. One channel in, four
    hidden and k = 3 are those of the released code of Liu et al. (util/crit.py of
    irfanICMLL/ETC), which clips nothing.
    """

    def __init__(
        self, channels: int = 1, *, hidden: int = 4, kernel: int = 3, clip: float = 0.1
    ) -> None:
        """Draw the weights from torch's generator (ConfigError where an option is none)."""
        super().__init__()
        if min(channels, hidden) < 1:
            raise ConfigError(
                f"a ConvLSTM needs 1 or more channels, got {channels} in and {hidden} hidden"
            )
        if kernel < 1 or kernel % 2 == 0:
            raise ConfigError(f"kernel must be odd, for a centre, got {kernel}")
        if not clip > 0:
            raise ConfigError(
                f"clip must be above 0, got {clip}: weights of 0 embed everything alike"
            )
        self.channels, self.hidden, self.clip = channels, hidden, clip
        self.gates = nn.Conv2d(channels + hidden, 4 * hidden, kernel, padding=kernel // 2)
        self.clip_weights()

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Embed a sequence.

        Raises:
            ArtifactError: where there is no map, or one has another shape
        """
        if not maps:
            raise ArtifactError("a ConvLSTM embeds a sequence of at least 1 map, got none")
        shape = (maps[0].shape[0], self.channels, *maps[0].shape[2:])
        for each in maps:
            if tuple(each.shape) != shape or each.ndim != 4:
                raise ArtifactError(
                    f"the ConvLSTM takes maps (B, {self.channels}, H, W) of one shape, got "
                    f"{[tuple(one.shape) for one in maps]}"
                )
        with torch.autocast(maps[0].device.type, enabled=False):
            cell = hidden = self.gates.weight.new_zeros(shape[0], self.hidden, *shape[2:])
            for each in maps:
                both = torch.cat([each.to(hidden.dtype), hidden], dim=1)
                i, f, o, g = self.gates(both).chunk(4, dim=1)
                cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
                hidden = o.sigmoid() * cell.tanh()
        return hidden

    @torch.no_grad()
    def clip_weights(self) -> None:
        """Bring every weight and bias back into -clip..clip."""
        for parameter in self.parameters():
            parameter.clamp_(-self.clip, self.clip)
