"""Which frame comes when: pure functions of seeds, names and counts, never of run state.

A stream is one endless line of positions; pass e over its frames is a permutation that depends on
(seed, stream, e) alone. So training resumes at any step by asking for that step's positions. Ranks
take a share each of the positions of a step: together they see the frames of one process, and any
number of them resumes what another has begun.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from stillroom.stages.seeds import generator

if TYPE_CHECKING:
    from numpy.typing import NDArray


@lru_cache(maxsize=16)
def epoch_order(count: int, seed: int, stream: str, epoch: int) -> NDArray[np.int64]:
    """Return one pass over `count` frames: a read-only permutation of range(count)."""
    order = generator(seed, stream, epoch, "order").permutation(count).astype(np.int64)
    order.setflags(write=False)
    return order


def draws(count: int, seed: int, stream: str, positions: range) -> list[tuple[int, int]]:
    """Return (epoch, frame) at each position of a stream; a batch may reach into the next pass."""
    drawn = []
    for position in positions:
        epoch, place = divmod(position, count)
        drawn.append((epoch, int(epoch_order(count, seed, stream, epoch)[place])))
    return drawn


def steps_of(count: int, batch: int, epochs: int) -> int:
    """Return the steps that show each of `count` frames `epochs` times; the last may show more."""
    return math.ceil(epochs * count / batch)
