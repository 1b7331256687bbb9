"""The process group of a training run: that of Ray Train, that of `torchrun`, or none."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import distributed

from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

ON_CPU = "gloo"
ON_GPU = "cpu:gloo,cuda:nccl"  # hosts agree with each other without waiting for their GPUs


def launched() -> bool:
    """Whether `torchrun`, or what sets the same variables, started this process among others."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1 and "RANK" in os.environ


def is_first() -> bool:
    """Whether this process speaks for those that were launched with it."""
    return not launched() or os.environ["RANK"] == "0"


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Join the other processes that this one was started with; alone, do nothing.

    Args:
        device: `train.device`; each process of a machine takes a GPU of its own

    Raises:
        ConfigError: the machine has fewer GPUs than processes.
    """
    if distributed.is_initialized() or not launched():
        yield
        return
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(_own_gpu(int(os.environ.get("LOCAL_RANK", 0))))
    if not is_first():  # what all find the first says
        logging.getLogger("stillroom").setLevel(logging.ERROR)
    store, rank, count = next(distributed.rendezvous("env://"))  # type: ignore[attr-defined]
    # torchrun may keep its store over a restart, with the addresses of processes that are gone.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    distributed.init_process_group(
        ON_GPU if on_gpu else ON_CPU,
        store=distributed.PrefixStore(f"stillroom/{attempt}", store),  # type: ignore[attr-defined]
        rank=rank,
        world_size=count,
    )
    try:
        yield
    finally:
        distributed.destroy_process_group()


def leave() -> None:
    """Leave the others, who may be waiting for this process in the middle of a step."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _own_gpu(local_rank: int) -> int:
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise ConfigError(
            f"process {local_rank} of this machine has no GPU: torch sees {count}; start fewer "
            'processes, or set train.device = "cpu"'
        )
    return local_rank
