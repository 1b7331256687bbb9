"""FlowNetC's correlation of each position of a map with those around it in another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor

REACH = 20  # grid positions, up, down, left and right
STEP = 2


def correlation(first: Tensor, second: Tensor, reach: int = REACH, step: int = STEP) -> Tensor:
    """Mean product over channels, for every displacement on a square lattice; zeros outside.

    out[(i_y * n + i_x), y, x] = 1 / C * sum_c first[c, y, x] * second[c, y + dy, x + dx],
    dy = step * (i_y - n // 2), dx = step * (i_x - n // 2), n = 2 * reach / step + 1

    With the defaults n = 21, and the channel of (dy, dx) in steps is (dy + 10) * 21 + dx + 10.

    One row of `first` times one row of `second` is a matrix product, of which a band is wanted;
    columns of one parity meet only their own, so they are multiplied apart, at half the cost. Held
    at once: one displaced row's products, B * H * W * (W + 2 * reach) / step numbers, beside the
    result.

    Args:
        first, second: (B, C, H, W)
        reach, step: in grid positions; reach is a whole number of steps

    Returns:
        (B, n * n, H, W) float32 (float64 stays), whatever autocast says: sums over 256
        channels overflow float16
    """
    kept = torch.promote_types(first.dtype, torch.float32)
    with torch.autocast(first.device.type, enabled=False):
        return _correlation(first.to(kept), second.to(kept), reach, step)


def _correlation(first: Tensor, second: Tensor, reach: int, step: int) -> Tensor:
    batch, channels, height, width = first.shape
    steps = 2 * reach // step + 1
    extra = -width % step
    columns = (width + extra) // step  # of one phase
    first = F.pad(first / channels, (0, extra)).permute(0, 2, 3, 1)  # (B, H, W', C)
    first = first.reshape(batch, height, columns, step, channels)
    first = first.transpose(2, 3).contiguous()  # (B, H, step, columns, C)
    second = F.pad(second, (reach, reach + extra, reach, reach)).permute(0, 2, 1, 3)
    second = second.reshape(batch, height + 2 * reach, channels, -1, step)
    second = second.permute(0, 1, 4, 2, 3).contiguous()  # (B, H + 2R, step, C, padded)
    rows = [
        _band(first @ second[:, top : top + height], steps) for top in range(0, 2 * reach + 1, step)
    ]  # n of (B, H, step, columns, n)
    out = torch.stack(rows, dim=1).permute(0, 1, 5, 2, 4, 3)  # (B, n, n, H, columns, step)
    return out.reshape(batch, steps * steps, height, -1)[..., :width].contiguous()


def _band(products: Tensor, steps: int) -> Tensor:
    """Entries [x, x] to [x, x + steps - 1] of each matrix (columns, padded), as (columns, steps).

    Read with rows one longer than they are, row x begins x entries later: the band stands upright.
    """
    columns, padded = products.shape[-2:]
    skewed = F.pad(products.flatten(-2), (0, columns))
    return skewed.reshape(*products.shape[:-2], columns, padded + 1)[..., :steps]
