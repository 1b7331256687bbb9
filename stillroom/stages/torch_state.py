"""Settings of torch for the whole process: threads, seed and device."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


def use_threads(count: int) -> None:
    """Let one operation on the CPU use so many threads; part of what decides the last bits."""
    torch.set_num_threads(count)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Use so many threads for the length of a with-block."""
    before = torch.get_num_threads()
    use_threads(count)
    try:
        yield
    finally:
        use_threads(before)


def use_seed(seed: int) -> None:
    """Seed the weights that are drawn from here on."""
    torch.manual_seed(seed)


def gpu_count() -> int:
    """Return how many GPUs torch sees."""
    return torch.cuda.device_count()


def best_device() -> str:
    """Return "cuda" where there is a usable GPU, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"
