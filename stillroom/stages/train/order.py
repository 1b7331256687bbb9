"""Which frame comes when: pure functions of seeds, names and counts, never of run state.

A stream is one endless line of positions; pass e over its frames is a permutation that depends on
(seed, stream, e) alone. So training resumes at any step by asking for that step's positions.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from stillroom.storage_specs.errors import ConfigError

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
def epoch_order(
    count: int, seed: int, stream: str, epoch: int, rank: int = 0, world_size: int = 1
) -> NDArray[np.int64]:
    """Return one rank's share of one pass over `count` frames.

    Ranks share no frame within a pass and get equally many, `count // world_size`; the few left
    over are others in every pass.

    Returns:
        read-only permutation of range(count) where world_size is 1, else a part of one

    Raises:
        ConfigError: where there are fewer frames than ranks, or no such rank
    """
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank {rank} is not in 0..{world_size - 1}")
    if count < world_size:
        raise ConfigError(f"stream {stream!r} has {count} frames for {world_size} ranks")
    order = generator(seed, stream, epoch, "order").permutation(count)
    share = order[rank::world_size][: count // world_size].astype(np.int64)
    share.setflags(write=False)
    return share


def draws(
    count: int,
    seed: int,
    stream: str,
    positions: range,
    rank: int = 0,
    world_size: int = 1,
) -> list[tuple[int, int]]:
    """Return (epoch, frame) at each position of a stream; a batch may reach into the next pass."""
    drawn = []
    for position in positions:
        epoch, place = divmod(position, count // world_size or 1)
        order = epoch_order(count, seed, stream, epoch, rank, world_size)
        drawn.append((epoch, int(order[place])))
    return drawn


def steps_of(count: int, batch: int, epochs: int) -> int:
    """Return the steps that show each of `count` frames `epochs` times; the last may show more."""
    return math.ceil(epochs * count / batch)
