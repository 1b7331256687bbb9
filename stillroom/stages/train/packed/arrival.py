"""Batches on the device that trains, decoded and mixed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillroom.stages.train.packed.packed_batch import PackedBatch
from stillroom.stages.train.step_part import step_part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import torch

    from stillroom.stages.train.batch import Batch


def on_device(
    batches: Iterable[Batch | PackedBatch],
    device: torch.device,
    live: Callable[[Batch], Batch] | None = None,
) -> list[Batch]:
    """Bring batches to a device without waiting for it; there unpack and mix what is to be.

    Args:
        live: adds what teachers make in the step, of frames before they are mixed
    """
    with step_part("copy"):
        there = [batch.to(device, non_blocking=True) for batch in batches]
    arrived: list[Batch] = []
    for batch in there:
        if isinstance(batch, PackedBatch):
            with step_part("unpack"):
                batch = batch.unpacked()
        if live is not None:
            batch = live(batch)
        if batch.mix is not None:
            with step_part("mix"):
                batch = batch.mixed()
        arrived.append(batch)
    return arrived
