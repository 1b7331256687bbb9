"""What torch keeps for the whole process: threads, seed, and which device there is."""

from __future__ import annotations

import torch


def use_threads(count: int) -> None:
    """Let one operation on the CPU use so many threads; part of what decides the last bits."""
    torch.set_num_threads(count)


def use_seed(seed: int) -> None:
    """Seed the weights that are drawn from here on."""
    torch.manual_seed(seed)


def best_device() -> str:
    """Return "cuda" where there is a usable GPU, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"
