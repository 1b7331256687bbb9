"""How many CPUs a worker may keep busy, and what its threads are."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stillroom.pipeline.run_file.sections import CacheConfig

SHARDS_IN_FLIGHT = 3  # of a worker: one with the model, one that is decoded, one that is written
MOST_ENCODERS = 8  # of a worker whose run file does not say
FEWEST_DECODERS = 2  # one may wait for a disk


def cores_here() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def most_cores(cache: CacheConfig) -> int:
    """Return how many CPUs a worker can keep busy."""
    return max(cache.encoders or MOST_ENCODERS, cache.threads)


def thread_counts(cache: CacheConfig, cores: int) -> tuple[int, int]:
    """Return the numbers of decoders and encoders of a worker that has so many CPUs."""
    encoders = cache.encoders or min(cores, MOST_ENCODERS)
    return cache.decoders or max(encoders, FEWEST_DECODERS), encoders
