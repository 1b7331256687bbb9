"""The one reduction: a mean over the pixels that count."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean of the values whose pixel counts.

    loss = sum_i m_i * v_i / max(1, sum_i m_i),  i over all pixels of the batch

    So each counted pixel weighs the same, whichever frame it is in, and nothing counted gives 0
    that can still be differentiated.

    values: (B, H, W)
    mask: (B, H, W) or (B, 1, H, W) bool, True where a pixel counts; None counts all
    returns: ()
    """
    if mask is None:
        return values.mean()
    if mask.ndim == values.ndim + 1:
        mask = mask.squeeze(1)
    if mask.shape != values.shape:
        raise ArtifactError(f"mask is {tuple(mask.shape)} for pixels {tuple(values.shape)}")
    return values.masked_fill(~mask, 0).sum() / mask.sum().clamp(min=1)
