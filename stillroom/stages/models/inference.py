"""Running a network for what it says, and not to train it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def inference(device: str, precision: str) -> Iterator[None]:
    """Compute without gradients, in a precision.

    precision: "float32", or "float16" or "bfloat16" by autocast
    """
    import torch

    dtype = getattr(torch, precision)
    reduced = dtype != torch.float32
    with (
        torch.inference_mode(),
        torch.autocast(device, dtype=dtype if reduced else None, enabled=reduced),
    ):
        yield
