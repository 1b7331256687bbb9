"""Spans as NVTX ranges, which the profilers of a GPU show beside its kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillroom.storage_specs.spans import tell

if TYPE_CHECKING:
    from collections.abc import Callable


def show_ranges(device: str) -> None:
    """Open a range for every span of this process from here on, if its work is a GPU's.

    Args:
        device: where it is done, as torch names it
    """
    if device.startswith("cuda"):
        tell(_range)


def _range(name: str) -> Callable[[], None]:
    from torch.cuda import nvtx

    nvtx.range_push(name)  # type: ignore[no-untyped-call]
    return nvtx.range_pop
