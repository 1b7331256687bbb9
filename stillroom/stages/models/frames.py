"""What callers hand to networks: batches of frames, as arrays or tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


def as_frames(frames: NDArray[np.uint8] | Tensor, name: str = "frames") -> Tensor:
    """Check a batch of frames, and hand it out as a tensor without copying where that is possible.

    returns: (B, H, W, 3) uint8, where it was

    Raises:
        ArtifactError: another shape or dtype.
    """
    import torch

    if not isinstance(frames, torch.Tensor) and not frames.flags.writeable:
        frames = frames.copy()  # torch would warn of a tensor that shares read-only memory
    batch = torch.as_tensor(frames)
    if batch.dtype != torch.uint8 or batch.ndim != 4 or batch.shape[-1] != 3:
        raise ArtifactError(
            f"{name}: expected uint8 (B, H, W, 3), got {batch.dtype} {tuple(batch.shape)}"
        )
    return batch
