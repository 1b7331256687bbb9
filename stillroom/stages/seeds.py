"""Random numbers that depend on names and counts alone, never on the state of a run."""

from __future__ import annotations

import hashlib

import numpy as np


def stable_seed(*parts: int | str) -> int:
    """Return 63 bits that depend on the parts and their order, the same on every machine."""
    # The length goes before each part, so that ("a", "bc") and ("ab", "c") differ.
    text = "".join(f"{len(str(part))}:{part}" for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*parts: int | str) -> np.random.Generator:
    """Return a generator of its own for the parts, say (seed, stream, epoch, frame id, "view")."""
    return np.random.Generator(np.random.PCG64(stable_seed(*parts)))
