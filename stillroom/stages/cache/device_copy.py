"""A batch's tensors from the device, by one copy that runs beside the next batch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Arrays = dict[str, NDArray[np.generic]]
    Tensors = dict[str, Tensor]


class Underway(Sequence["Arrays"]):
    """A batch's arrays, which a GPU may still be computing; to look at one waits for them all.

    Args:
        frames: tensors by artifact, on the GPU
        began: recorded before the batch was given to the GPU
    """

    def __init__(self, frames: Sequence[Tensors], began: torch.cuda.Event) -> None:
        self._began, self._count = began, len(frames)
        content = packed([each for frame in frames for each in frame.values()])
        self._ended = _event(timed=True)
        self._ended.record()
        stream = _copying(content.device)
        stream.wait_event(self._ended)
        with torch.cuda.stream(stream):
            host = torch.empty(len(content), dtype=torch.uint8, pin_memory=True)
            host.copy_(content, non_blocking=True)
            self._copied = _event()
            self._copied.record()
        # The GPU's memory is kept until the copy is done, and no longer.
        self._on_device: tuple[Tensor, Sequence[Tensors]] | None = content, frames
        self._arrays = unpacked(host, frames)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if self._on_device is not None:
            self._copied.synchronize()
            self._on_device = None
        return self._arrays[index]

    @property
    def seconds(self) -> float:
        """How long the GPU worked on the batch; waits for it."""
        self._ended.synchronize()
        return float(self._began.elapsed_time(self._ended)) / 1e3


@lru_cache
def _copying(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _event(*, timed: bool = False) -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=timed)  # type: ignore[no-untyped-call]


def packed(tensors: Sequence[Tensor]) -> Tensor:
    """Return the bytes of all tensors in one: those with large items first, so that all align."""
    return torch.cat(
        [each.contiguous().reshape(-1).view(torch.uint8) for each in _by_item(tensors)]
    )


def unpacked(content: Tensor, frames: Sequence[Tensors]) -> list[Arrays]:
    """Take arrays like these tensors out of the bytes that `packed` made of them, uncopied."""
    made: dict[int, Any] = {}
    start = 0
    for like in _by_item([each for frame in frames for each in frame.values()]):
        stop = start + like.numel() * like.element_size()
        made[id(like)] = content[start:stop].view(like.dtype).reshape(like.shape).numpy()
        start = stop
    return [{name: made[id(each)] for name, each in frame.items()} for frame in frames]


def _by_item(tensors: Sequence[Tensor]) -> list[Tensor]:
    return sorted(tensors, key=lambda each: -each.element_size())


def to_host(frames: Sequence[Tensors], began: torch.cuda.Event | None) -> Sequence[Arrays]:
    """Return tensors by artifact as arrays: at once, or `Underway` where they are on a GPU.

    Args:
        began: see `start_of`
    """
    if began is not None and frames:
        return Underway(frames, began)
    return [{name: each.cpu().numpy() for name, each in frame.items()} for frame in frames]


def start_of(device: str) -> torch.cuda.Event | None:
    """Mark the moment at which a GPU comes to what it is given from here on; None on a CPU."""
    if not device.startswith("cuda"):
        return None
    event = _event(timed=True)
    event.record()
    return event


def stacked(images: Sequence[NDArray[np.uint8]], device: str) -> Tensor:
    """Stack images of one shape into memory that a GPU can read by itself."""
    shape = (len(images), *images[0].shape)
    batch = torch.empty(shape, dtype=torch.uint8, pin_memory=device.startswith("cuda"))
    np.stack(images, out=batch.numpy())
    return batch
