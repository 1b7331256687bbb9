"""Run a network on frames without training it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from stillroom.stages.nvtx import show_ranges
from stillroom.storage_specs.errors import ArtifactError, ConfigError
from stillroom.storage_specs.spans import span

# torch is imported by the functions below: planning a build must not wait for it.
if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


@contextmanager
def inference(device: str, precision: str) -> Iterator[None]:
    """Compute without gradients, in a precision.

    Args:
        precision: "float32", or "float16" or "bfloat16" by autocast
    """
    import torch

    dtype = getattr(torch, precision)
    reduced = dtype != torch.float32
    show_ranges(device)
    with (
        span("model"),
        torch.inference_mode(),
        torch.autocast(device, dtype=dtype if reduced else None, enabled=reduced),
    ):
        yield


def device_of(stated: str, model: str) -> str:
    """Return the device for the `device` of a section: "auto" is the GPU where there is one.

    Args:
        model: what the message calls the model

    Raises:
        ConfigError: there is no such device.
    """
    import torch

    if stated == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"{model}: device = 'cuda', but torch sees no CUDA device")
    if stated != "auto":
        return stated
    return "cuda" if torch.cuda.is_available() else "cpu"


def as_frames(frames: NDArray[np.uint8] | Tensor, name: str = "frames") -> Tensor:
    """Check a batch of frames, and return it as a tensor, without copying where that is possible.

    Returns:
        (B, H, W, 3) uint8, where it was

    Raises:
        ArtifactError: another shape or dtype.
    """
    import torch

    if isinstance(frames, torch.Tensor):
        batch = frames
    else:  # torch would warn of a tensor that shares read-only memory
        batch = torch.as_tensor(frames if frames.flags.writeable else frames.copy())
    if batch.dtype != torch.uint8 or batch.ndim != 4 or batch.shape[-1] != 3:
        raise ArtifactError(
            f"{name}: expected uint8 (B, H, W, 3), got {batch.dtype} {tuple(batch.shape)}"
        )
    return batch
