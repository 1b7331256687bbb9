"""Which frame comes when: pure functions of seeds, names and counts, never of run state.

A stream is one endless line of positions; pass e over its frames is a permutation that depends on
(seed, stream, e) alone. So training resumes at any step by asking for that step's positions. Ranks
take a share each of the positions of a step: together they see the frames of one process, and any
number of them resumes what another has begun.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def stable_seed(*parts: int | str) -> int:
    """Return 63 bits that depend on the parts and their order, the same on every machine."""
    # The length goes before each part, so that ("a", "bc") and ("ab", "c") differ.
    text = "".join(f"{len(str(part))}:{part}" for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*parts: int | str) -> np.random.Generator:
    """Return a generator of its own for the parts, say (seed, stream, epoch, frame id, "view")."""
    return np.random.Generator(np.random.PCG64(stable_seed(*parts)))


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
