"""Spans as NVTX ranges, which the profilers of a GPU show beside its kernels."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from stillroom.storage_specs.spans import listening

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    import torch


def nvtx_ranges(device: torch.device) -> AbstractContextManager[None]:
    """Open a range for every span of a with-block, where its work is a GPU's."""
    return listening(_range) if device.type == "cuda" else nullcontext()


def _range(name: str) -> Callable[[], None]:
    from torch.cuda import nvtx

    nvtx.range_push(name)  # type: ignore[no-untyped-call]
    return nvtx.range_pop
